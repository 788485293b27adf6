//! Any bytes as a pickle: read or refused, never a panic, and what is read can be asked for.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stepback_native::data::pickle::Pickle;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(pickle) = Pickle::parse(bytes) {
        for key in ["data", "labels", "fine_labels"] {
            let item = pickle.get(key);
            let array = item.and_then(|item| item.array());
            if let Some(array) = array {
                let numbers: usize = array.shape.iter().product();
                assert_eq!(array.bytes.len() % numbers.max(1), 0);
            }
            let _ = item.and_then(|item| item.integers());
        }
    }
});
