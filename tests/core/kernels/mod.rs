//! Kernels at sizes that no row of a table names, and whole runs: on the emulator and on a GPU if there is one.

mod images;
mod ops_and_runs;
