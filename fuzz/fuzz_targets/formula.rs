//! Any bytes as the file of a method: read or refused, never a panic, and what is read is written so that it reads the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stepback_native::optim::formula::read;

fuzz_target!(|bytes: &[u8]| {
    match read(bytes, "f") {
        Ok(method) => {
            for statement in method.step.iter().chain(&method.evaluate) {
                let file = format!(
                    "name = 'x'\n[state]\nscalars = ['s']\n[step]\ncode = 's = 1 + 0*({}); w = s'",
                    statement.value
                );
                // The names are not known there, and nothing else is wrong.
                if let Err(error) = read(file.as_bytes(), "f") {
                    let mut lines = error.message.lines();
                    assert!(lines.all(|line| !line.contains("unexpected")), "{error}");
                }
            }
        }
        Err(error) => {
            assert_eq!(error.kind.exit_code(), 2);
            assert!(error.message.lines().all(|line| line.starts_with("f:")));
            assert!(error.message.len() < 100_000);
        }
    }
});
