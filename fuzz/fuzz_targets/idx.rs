//! Any bytes as one of MNIST's files, the others being sound: refused as damaged, or a shard.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stepback_native_fuzz::{convert, idx};

fuzz_target!(|input: (u8, &[u8])| {
    let (which, bytes) = input;
    let (image, label) = (idx(&[2, 28, 28], &[7; 2 * 784]), idx(&[2], &[3; 2]));
    let mut contents = [
        ("a", image.as_slice()),
        ("b", &label),
        ("c", &image),
        ("d", &label),
    ];
    contents[usize::from(which % 4)].1 = bytes;
    convert("mnist", &contents);
});
