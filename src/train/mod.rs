//! Training: one run, and a sweep of runs.

pub mod checkpoint;
mod data;
#[cfg(all(test, emulator))]
mod kinds;
mod network;
mod optimum;
mod pace;
mod run;
pub mod sweep;
mod trainer;

pub use network::Plans;
pub use optimum::optimum;
pub use pace::{Pace, pace};
pub use run::{Watch, run};
