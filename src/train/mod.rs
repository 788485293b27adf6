//! Training: one run, and a sweep of runs.

mod accumulate;
#[cfg(all(test, emulator))]
mod averages;
pub mod checkpoint;
mod costs;
mod data;
mod draws;
mod epoch_plan;
mod generate;
#[cfg(all(test, emulator))]
mod kinds;
mod layer_log;
mod network;
mod optimum;
#[cfg(all(test, emulator))]
mod resumed;
mod run;
mod step_log;
mod step_time;
pub mod sweep;
mod trainer;
pub mod weights;

pub use epoch_plan::EpochPlan;
pub use generate::Author;
pub use network::{Plans, parameters, steps_per_epoch};
pub use optimum::optimum;
pub use run::{Watch, run};
pub use step_log::LogSteps;
pub use step_time::{StepTime, step_time};
