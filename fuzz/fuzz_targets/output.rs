//! Any bytes as an output: read or refused, and what is read can be written again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::fs;
use stepback_native::error::Kind;
use stepback_native::results::json::{dumps, parse};
use stepback_native::results::output;
use stepback_native_fuzz::folder;

fuzz_target!(|bytes: &[u8]| {
    let dir = folder();
    let path = dir.path().join("output.json");
    fs::write(&path, bytes).unwrap();
    match output::read(&path) {
        Err(e) => assert_eq!(e.kind, Kind::Corrupt, "{e}"),
        Ok(_) => {
            let text = str::from_utf8(bytes).unwrap();
            let once = dumps(&parse(text).unwrap(), false);
            assert_eq!(dumps(&parse(&once).unwrap(), false), once);
        }
    }
});
