//! The kernels, on the emulator and on a GPU if there is one.

#[path = "../common/mod.rs"]
mod common;

mod images;
mod ops_and_runs;
