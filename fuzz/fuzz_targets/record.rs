//! Any bytes as a record: read or refused, and what is read can be written and read again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::fs;
use stepback_native::error::Kind;
use stepback_native::results::record::{read_csv, to_csv};
use stepback_native_fuzz::folder;

fuzz_target!(|bytes: &[u8]| {
    let dir = folder();
    let path = dir.path().join("record.csv");
    fs::write(&path, bytes).unwrap();
    match read_csv(&path) {
        Err(e) => assert_eq!(e.kind, Kind::Corrupt, "{e}"),
        Ok(records) => {
            fs::write(&path, to_csv(&records, true)).unwrap();
            read_csv(&path).unwrap();
        }
    }
});
