//! Any bytes as an archive: imported or refused, and a refused one leaves nothing behind.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::fs;
use stepback_native::data::raw::Set;
use stepback_native::error::Kind;
use stepback_native_fuzz::{files, folder};

fuzz_target!(|bytes: &[u8]| {
    let dir = folder();
    let (from, data) = (dir.path().join("archive"), dir.path().join("data"));
    fs::write(&from, bytes).unwrap();
    if let Err(e) = Set::new("mnist", files("mnist"), &data).import(&from) {
        assert_eq!(e.kind, Kind::Corrupt, "{e}");
        assert!(!data.join("MNIST").exists());
        assert_eq!(fs::read_dir(data.join("shards")).unwrap().count(), 1);
    }
});
