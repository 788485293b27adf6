//! Any bytes as the table of the sensors: refused as damaged, or shards.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stepback_native_fuzz::convert;

fuzz_target!(|bytes: &[u8]| convert("sensor", &[("sensor.csv", bytes)]));
