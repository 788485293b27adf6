//! Any bytes as a set in LIBSVM's format: refused as damaged, or shards.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stepback_native_fuzz::convert;

fuzz_target!(|bytes: &[u8]| {
    convert("a1a", &[("a1a", bytes)]);
    convert("dna", &[("dna.scale", bytes)]);
});
