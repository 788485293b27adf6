//! The shard reader on any bytes: it refuses or accepts, but never panics, and what it accepts lies inside the
//! file. A second reading with all checksums made right lets the fuzzer past them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stepback_native::data::shard::{HEADER, parse};
use stepback_native_fuzz::reseal;

fn check(bytes: &[u8]) {
    if let Ok((header, layout)) = parse(bytes) {
        assert!(header.samples > 0);
        assert!(layout.features.end <= layout.rows.start);
        assert!(layout.rows.end <= layout.targets.start);
        assert!(layout.targets.end <= layout.table.start);
        assert_eq!(layout.table.end, bytes.len());
    }
}

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    if bytes.len() >= HEADER {
        let mut sealed = bytes.to_vec();
        reseal(&mut sealed);
        check(&sealed);
    }
});
