//! A test for every row of the tables, so that `cargo test gelu` runs what there is on GELU and no failure hides another.

#[path = "../common/mod.rs"]
mod common;

mod models;
mod ops;
mod optimizers;
mod suites;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use serde_json::Value;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let tables = [
        models::trials(),
        ops::trials(),
        optimizers::trials(),
        suites::trials(),
    ];
    libtest_mimic::run(&arguments, tables.into_iter().flatten().collect()).exit_code()
}

/// Keys and values for a test's name, without quotes, which shells would take for theirs: ` (lr=0.01, betas=[0.9,0.99])`.
fn keys(object: &Value) -> String {
    let object = object.as_object().expect("keys and values");
    let pairs = object.iter().map(|(key, value)| format!("{key}={value}"));
    let list = pairs.collect::<Vec<_>>().join(", ").replace('"', "");
    match list.is_empty() {
        true => String::new(),
        false => format!(" ({list})"),
    }
}

/// A test that fails where it panics.
fn trial(name: String, test: impl FnOnce() + Send + 'static) -> Trial {
    Trial::test(name, move || {
        test();
        Ok(())
    })
}
