//! Training: one run, and a sweep of runs.

pub mod checkpoint;
mod network;
mod optimum;
mod pace;
mod resident;
mod run;
pub mod sweep;
mod worker;

pub use network::Plans;
pub use optimum::optimum;
pub use pace::{Pace, pace};
pub use run::{Watch, run};
