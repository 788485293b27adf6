//! Training: one run, and a sweep of runs.

pub mod checkpoint;
mod network;
mod optimum;
mod run;
pub mod sweep;

pub use network::Network;
pub use optimum::optimum;
pub use run::{Watch, run};
