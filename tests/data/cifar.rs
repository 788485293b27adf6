//! `cifar10`, `cifar100` and `imagenet32`, on small files made here in each of their formats.

use super::pickle::python2_batch;
use super::{all, corrupt, data_command, gather, load, offline, put, put_later};
use serde_json::json;
use std::fs;
use std::path::Path;
use stepback_native::data::Pair;
use stepback_native::data::augment::Recipe;
use stepback_native::error::{Kind, Result};
use tempfile::TempDir;

/// The byte of image i at channel, row, column.
pub fn byte(i: usize, c: usize, y: usize, x: usize) -> u8 {
    (i * 41 + c * 89 + y * 7 + x * 3 + y * x) as u8
}

/// Image i in channel, row, column order.
fn planes(i: usize) -> Vec<u8> {
    let places = (0..3 * 32 * 32).map(|k| (k / 1024, k / 32 % 32, k % 32));
    places.map(|(c, y, x)| byte(i, c, y, x)).collect()
}

fn many(images: std::ops::Range<usize>) -> Vec<u8> {
    images.flat_map(planes).collect()
}

/// Binary records of these images. Image i has the label 3 i + 1 modulo the classes; CIFAR-100 has a byte for
/// a coarse label before it.
fn records(images: std::ops::Range<usize>, classes: usize) -> Vec<u8> {
    let record = |i: usize| {
        let label = ((3 * i + 1) % classes) as u8;
        let head = if classes == 100 {
            vec![19, label]
        } else {
            vec![label]
        };
        [head, planes(i)].concat()
    };
    images.flat_map(record).collect()
}

fn labels(images: std::ops::Range<usize>, classes: usize) -> Vec<i64> {
    images.map(|i| ((3 * i + 1) % classes) as i64).collect()
}

/// A data folder with a small image set.
pub struct ImageSet {
    pub dir: TempDir,
    name: &'static str,
}

impl ImageSet {
    /// Binary files of this many images each, numbered one after the other.
    pub fn cifar10(batches: &[usize; 5], val: usize) -> ImageSet {
        let dir = TempDir::new().unwrap();
        let mut start = 0;
        for (i, n) in batches.iter().enumerate() {
            let name = format!("cifar-10-batches-bin/data_batch_{}.bin", i + 1);
            put(dir.path(), &name, &records(start..start + n, 10));
            start += n;
        }
        put(
            dir.path(),
            "cifar-10-batches-bin/test_batch.bin",
            &records(start..start + val, 10),
        );
        ImageSet {
            dir,
            name: "cifar10",
        }
    }

    fn cifar100() -> ImageSet {
        let dir = TempDir::new().unwrap();
        put(
            dir.path(),
            "cifar-100-binary/train.bin",
            &records(0..4, 100),
        );
        put(dir.path(), "cifar-100-binary/test.bin", &records(4..6, 100));
        ImageSet {
            dir,
            name: "cifar100",
        }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        put(self.path(), name, bytes);
    }

    fn try_load(&self) -> Result<Pair> {
        load(
            &offline(self.path()),
            self.name,
            json!({}),
            "cross_entropy",
            0,
        )
    }

    pub fn load(&self) -> Pair {
        self.try_load().unwrap()
    }
}

/// These images, normalised, and these labels.
fn assert_holds(pair: &Pair, n: usize, m: usize, classes: usize, mean_and_std: [(f32, f32); 3]) {
    assert_eq!((pair.train.len(), pair.val.len()), (n, m));
    for (split, start) in [(&pair.train, 0), (&pair.val, n)] {
        assert_eq!(split.sample().shape(), [3, 32, 32]);
        assert_eq!(split.classes(), Some(classes));
        let (x, y) = all(split);
        for i in 0..split.len() {
            let image = start + i;
            assert_eq!(y[i] as usize, (3 * image + 1) % classes);
            for (k, found) in x[i * 3072..][..3072].iter().enumerate() {
                let (row, column, c) = (k / 96, k / 3 % 32, k % 3);
                let (mean, std) = mean_and_std[c];
                let value = f32::from(byte(image, c, row, column));
                assert_eq!(
                    *found,
                    (value / 255.0 - mean) / std,
                    "image {image} place {k}"
                );
            }
        }
    }
}

const CIFAR10: [(f32, f32); 3] = [(0.4914, 0.2470), (0.4822, 0.2435), (0.4465, 0.2616)];
const CIFAR100: [(f32, f32); 3] = [(0.5071, 0.2673), (0.4866, 0.2564), (0.4409, 0.2762)];
const IMAGENET: [(f32, f32); 3] = [(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)];

#[test]
fn binary_files_of_any_length_follow_one_another() {
    let set = ImageSet::cifar10(&[3, 1, 4, 1, 5], 6);
    assert_holds(&set.load(), 14, 6, 10, CIFAR10);
    assert_holds(&ImageSet::cifar100().load(), 4, 2, 100, CIFAR100);
}

#[test]
fn pickled_batches_are_the_same_images() {
    for protocol in 0..=2 {
        let set = ImageSet {
            dir: TempDir::new().unwrap(),
            name: "cifar10",
        };
        for i in 0..6 {
            let name = [
                "data_batch_1",
                "data_batch_2",
                "data_batch_3",
                "data_batch_4",
                "data_batch_5",
                "test_batch",
            ][i];
            let (images, data) = (2 * i..2 * i + 2, many(2 * i..2 * i + 2));
            let batch = python2_batch(protocol, "labels", &labels(images, 10), &[2, 3072], &data);
            set.put(&format!("cifar-10-batches-py/{name}"), &batch);
        }
        assert_holds(&set.load(), 10, 2, 10, CIFAR10);

        let set = ImageSet {
            dir: TempDir::new().unwrap(),
            name: "cifar100",
        };
        for (name, images) in [("train", 0..3), ("test", 3..4)] {
            let shape = [images.len(), 3, 32, 32];
            let labels = labels(images.clone(), 100);
            let batch = python2_batch(protocol, "fine_labels", &labels, &shape, &many(images));
            set.put(&format!("cifar-100-python/{name}"), &batch);
        }
        assert_holds(&set.load(), 3, 1, 100, CIFAR100);
    }
}

#[test]
fn one_format_may_stand_in_for_a_file_of_the_other() {
    let set = ImageSet::cifar10(&[2; 5], 2);
    fs::remove_file(set.path().join("cifar-10-batches-bin/data_batch_3.bin")).unwrap();
    let batch = python2_batch(2, "labels", &labels(4..6, 10), &[2, 3072], &many(4..6));
    set.put("cifar-10-batches-py/data_batch_3", &batch);
    assert_holds(&set.load(), 10, 2, 10, CIFAR10);
}

#[test]
fn arrays_in_fortran_order_are_turned() {
    // The first index runs fastest: byte k of image i at i + n k.
    let n = 3;
    let images: Vec<Vec<u8>> = (0..n).map(planes).collect();
    let data: Vec<u8> = (0..3072)
        .flat_map(|k| images.iter().map(move |image| image[k]))
        .collect();
    let four: Vec<u8> = (0..3072)
        .map(|j| (j % 3, j / 3 % 32, j / 96))
        .flat_map(|(c, y, x)| images.iter().map(move |image| image[c * 1024 + y * 32 + x]))
        .collect();
    for (shape, data) in [(vec![n, 3072], data), (vec![n, 3, 32, 32], four)] {
        let batch = python2_batch(2, "fine_labels", &labels(0..n, 100), &shape, &data);
        let at = batch.windows(3).position(|w| w == b"\x89T\x00").unwrap();
        let mut fortran = batch.clone();
        fortran[at] = 0x88;
        let set = ImageSet::cifar100();
        fs::remove_dir_all(set.path().join("cifar-100-binary")).unwrap();
        set.put("cifar-100-python/train", &fortran);
        set.put(
            "cifar-100-python/test",
            &python2_batch(2, "fine_labels", &labels(3..4, 100), &[1, 3072], &planes(3)),
        );
        assert_holds(&set.load(), 3, 1, 100, CIFAR100);
    }
}

fn imagenet32() -> ImageSet {
    let set = ImageSet {
        dir: TempDir::new().unwrap(),
        name: "imagenet32",
    };
    for i in 0..11 {
        let name = match i {
            10 => "val/val_data".to_owned(),
            i => format!("train/train_data_batch_{}", i + 1),
        };
        // Counted from 1.
        let labels: Vec<i64> = labels(i..i + 1, 1000)
            .iter()
            .map(|label| label + 1)
            .collect();
        let batch = python2_batch(2, "labels", &labels, &[1, 3072], &planes(i));
        set.put(&format!("imagenet32/{name}"), &batch);
    }
    set
}

#[test]
fn imagenet32_counts_from_one_and_crops_first() {
    let set = imagenet32();
    let pair = set.load();
    assert_holds(&pair, 10, 1, 1000, IMAGENET);
    assert_eq!(pair.train.augmentation(), Some(Recipe::CropThenFlip));
    for (label, refused) in [
        (0, "the labels start at 0, those of imagenet32 at 1"),
        (1001, "label 0 is 1001 (expected 1 to 1000)"),
    ] {
        let batch = python2_batch(2, "labels", &[label], &[1, 3072], &planes(0));
        put_later(set.path(), "imagenet32/train/train_data_batch_7", &batch);
        corrupt(set.try_load(), &["train_data_batch_7", refused]);
    }
}

#[test]
fn damaged_files_are_named() {
    let batch = |key: &str, labels: &[i64], shape: &[usize], data: &[u8]| {
        python2_batch(2, key, labels, shape, data)
    };
    let good = || records(0..4, 10);
    let binary: Vec<(Vec<u8>, &str)> = vec![
        (Vec::new(), "cut short"),
        (
            good()[..good().len() - 1].to_vec(),
            "record 3 has 3072 bytes",
        ),
        ([good(), vec![1]].concat(), "record 4 has 1 bytes"),
        (records(0..4, 100), "a file of cifar100, not of cifar10"),
        (
            [good(), vec![10], planes(1)].concat(),
            "label 4 is 10 (expected 0 to 9)",
        ),
        (
            batch("labels", &[1], &[1, 3072], &planes(0)),
            "label 0 is 128",
        ),
    ];
    for (bytes, what) in binary {
        let set = ImageSet::cifar10(&[1; 5], 1);
        set.put("cifar-10-batches-bin/data_batch_4.bin", &bytes);
        corrupt(
            set.try_load(),
            &["data_batch_4.bin is damaged", what, "download it again"],
        );
        assert!(!set.path().join("shards/cifar10-train.shard").exists());
    }
    let two = many(0..2);
    let pickled: Vec<(Vec<u8>, &str)> = vec![
        (
            batch("labels", &[1, 2], &[2, 3072], &two)[..5000].to_vec(),
            "cut short",
        ),
        (
            batch("fine_labels", &[1, 2], &[2, 3072], &two),
            "a file of cifar100, not of cifar10",
        ),
        (
            batch("coarse", &[1, 2], &[2, 3072], &two),
            "no list of integers called labels",
        ),
        (batch("labels", &[1, -1], &[2, 3072], &two), "label 1 is -1"),
        (batch("labels", &[10, 0], &[2, 3072], &two), "label 0 is 10"),
        (
            batch("labels", &[1], &[2, 3072], &two),
            "2 images and 1 labels",
        ),
        (
            batch("labels", &[], &[0, 3072], &[]),
            "0 images and 0 labels",
        ),
        (
            batch("labels", &[1, 2], &[6144], &two),
            "no array of bytes called data",
        ),
        (
            batch("labels", &[1, 2], &[2, 1024, 3], &two),
            "no array of bytes called data",
        ),
        (batch("labels", &[1, 2], &[3, 3072], &two), "at byte"),
        (records(0..4, 10), "of the pickle"),
    ];
    for (bytes, what) in pickled {
        let set = ImageSet::cifar10(&[1; 5], 1);
        fs::remove_file(set.path().join("cifar-10-batches-bin/data_batch_2.bin")).unwrap();
        set.put("cifar-10-batches-py/data_batch_2", &bytes);
        corrupt(set.try_load(), &["data_batch_2 is damaged", what]);
    }
    let set = ImageSet::cifar100();
    set.put("cifar-100-binary/test.bin", &records(0..4, 10));
    corrupt(
        set.try_load(),
        &["test.bin", "a file of cifar10, not of cifar100"],
    );
    let batch = python2_batch(2, "labels", &[1], &[1, 3072], &planes(0));
    fs::remove_file(set.path().join("cifar-100-binary/test.bin")).unwrap();
    set.put("cifar-100-python/test", &batch);
    corrupt(
        set.try_load(),
        &[
            "cifar-100-python/test",
            "a file of cifar10, not of cifar100",
        ],
    );
}

#[test]
fn shards_follow_the_files_and_are_checked() {
    let set = ImageSet::cifar10(&[2; 5], 2);
    let (x, _) = gather(&set.load().train, &[3]);
    let changed = records(7..9, 10);
    put_later(
        set.path(),
        "cifar-10-batches-bin/data_batch_2.bin",
        &changed,
    );
    let (changed, _) = gather(&set.load().train, &[3]);
    assert_ne!(x, changed);
    let shard = set.path().join("shards/cifar10-train.shard");
    let mut bytes = fs::read(&shard).unwrap();
    assert_eq!(bytes.len() % 4, 0);
    let middle = 4096 + 5 * 3072;
    bytes[middle] ^= 4;
    fs::remove_file(&shard).unwrap();
    fs::write(&shard, bytes).unwrap();
    corrupt(
        set.try_load(),
        &["cifar10-train.shard", "block 0", "delete it"],
    );
}

#[test]
fn missing_files_are_listed_with_both_formats() {
    let set = ImageSet::cifar10(&[1; 5], 1);
    fs::remove_file(set.path().join("cifar-10-batches-bin/data_batch_5.bin")).unwrap();
    let e = set.try_load().err().unwrap();
    assert_eq!(e.kind, Kind::Io);
    for part in [
        "data_batch_5.bin (or data_batch_5)",
        "cifar-10-binary.tar.gz",
        "data fetch cifar10",
    ] {
        assert!(e.message.contains(part), "{part:?} is not in {e}");
    }
    assert!(!e.message.contains("data_batch_4"), "{e}");
}

/// A packed archive of one of the set's folders.
fn packed(set: &ImageSet, folder: &str) -> Vec<u8> {
    let packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut archive = tar::Builder::new(packer);
    archive
        .append_dir_all(folder, set.path().join(folder))
        .unwrap();
    archive.into_inner().unwrap().finish().unwrap()
}

#[test]
fn archives_are_imported() {
    let import = |dir: &Path, name: &str, from: &Path| {
        data_command(dir, &["import", name, "--from", from.to_str().unwrap()])
    };
    let set = ImageSet::cifar10(&[1, 2, 1, 3, 1], 2);
    let archive = packed(&set, "cifar-10-batches-bin");
    let from = TempDir::new().unwrap();
    let published = put(from.path(), "cifar-10-binary.tar.gz", &archive);
    let other = put(from.path(), "mine.tgz", &archive);
    for path in [published.as_path(), &other, from.path()] {
        let dir = TempDir::new().unwrap();
        let data = dir.path().join("new");
        import(&data, "cifar10", path).unwrap();
        let library = offline(&data);
        let pair = load(&library, "cifar10", json!({}), "cross_entropy", 0).unwrap();
        assert_holds(&pair, 8, 2, 10, CIFAR10);
        let mut left: Vec<_> = fs::read_dir(&data).unwrap().collect();
        left.sort_by_key(|entry| entry.as_ref().unwrap().file_name());
        assert_eq!(left.len(), 2, "raw files and shards: {left:?}");
    }

    let cut = &archive[..archive.len() / 2];
    set.put("cifar-10-batches-bin/data_batch_3.bin", &records(0..1, 100));
    let mixed = packed(&set, "cifar-10-batches-bin");
    fs::remove_file(set.path().join("cifar-10-batches-bin/data_batch_5.bin")).unwrap();
    let short = packed(&set, "cifar-10-batches-bin");
    let of_100 = packed(&ImageSet::cifar100(), "cifar-100-binary");
    for (bytes, parts) in [
        (cut, &["mine.tgz is damaged", "unpacked"] as &[&str]),
        (b"no archive", &["mine.tgz is damaged", "unpacked"]),
        (
            &mixed,
            &["mine.tgz/cifar-10-batches-bin/data_batch_3.bin", "cifar100"],
        ),
        (
            &short,
            &["mine.tgz is damaged", "it has no", "data_batch_5"],
        ),
        (&of_100, &["mine.tgz is not an archive of cifar10"]),
    ] {
        let dir = TempDir::new().unwrap();
        fs::write(&other, bytes).unwrap();
        corrupt(import(dir.path(), "cifar10", &other), parts);
        assert!(!dir.path().join("cifar-10-batches-bin").exists());
    }
    let dir = TempDir::new().unwrap();
    let e = import(dir.path(), "cifar10", &from.path().join("nowhere")).unwrap_err();
    assert!(e.kind == Kind::Io && e.message.contains("nowhere"), "{e}");
    let empty = TempDir::new().unwrap();
    let e = import(dir.path(), "cifar10", empty.path()).unwrap_err();
    assert!(
        e.kind == Kind::Io && e.message.contains("an archive"),
        "{e}"
    );
}
