//! Any bytes as the decisions of a random method: the CPU and the emulator do the same with it.

#![no_main]

#[path = "../../tests/common/formulas.rs"]
mod formulas;

use libfuzzer_sys::fuzz_target;
use stepback_native::device::{Device, Machine, Target};
use stepback_native::optim::formula::random_program;

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.iter();
    let text = random_program(|n| bytes.next().map_or(0, |byte| usize::from(*byte) % n));
    let target = Target {
        device: Device::Emulator,
        precision: None,
    };
    formulas::compare(&text, || Machine::open(target.device).unwrap(), target);
});
