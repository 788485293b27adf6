//! Any bytes as a file of CIFAR, binary or pickled: refused as damaged, or a shard.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stepback_native_fuzz::convert;

fuzz_target!(|input: (bool, &[u8])| {
    let (binary, bytes) = input;
    let sound = vec![5; 3074];
    let name = if binary { "train.bin" } else { "train" };
    convert("cifar100", &[(name, bytes), ("test.bin", &sound)]);
});
