//! Small image sets in the formats of CIFAR-10 and CIFAR-100.

use std::fs;
use std::ops::Range;
use std::path::Path;

/// Image i in channel, row, column order: noise, brighter in rows that depend on the label.
pub fn planes(i: usize, label: usize) -> Vec<u8> {
    let pixel = |k: usize| {
        let noise = (i * 7919 + k * 104_729) % 61;
        let bright = if k / 32 % 32 / 3 == label % 10 {
            150
        } else {
            0
        };
        (noise + bright) as u8
    };
    (0..3 * 32 * 32).map(pixel).collect()
}

/// Records of these images, whose labels follow `head` bytes.
fn records(images: Range<usize>, head: usize) -> Vec<u8> {
    let record = |i: usize| {
        let label = i * 7 % 10;
        let mut record = vec![0; head];
        record.push(label as u8);
        record.extend(planes(i, label));
        record
    };
    images.flat_map(record).collect()
}

/// So many images, a multiple of five, for training, and for validation, where data sets are looked for in `data`.
pub fn write_cifar(data: &Path, train: usize, val: usize) {
    let write = |name: &str, images: Range<usize>, head: usize| {
        let path = data.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, records(images, head)).unwrap();
    };
    let (part, all) = (train / 5, train + val);
    for file in 0..5 {
        let name = format!("cifar-10-batches-bin/data_batch_{}.bin", file + 1);
        write(&name, part * file..part * (file + 1), 0);
    }
    write("cifar-10-batches-bin/test_batch.bin", train..all, 0);
    write("cifar-100-binary/train.bin", 0..train, 1);
    write("cifar-100-binary/test.bin", train..all, 1);
}
