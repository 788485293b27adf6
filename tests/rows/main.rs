//! A test for every row of the tables, so that `cargo test gelu` runs what there is on GELU and no failure hides another.

#[path = "../common/mod.rs"]
mod common;

mod models;
mod ops;
mod optimizers;
mod suites;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

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

/// A test that fails where it panics.
fn trial(name: String, test: impl FnOnce() + Send + 'static) -> Trial {
    Trial::test(name, move || {
        test();
        Ok(())
    })
}
