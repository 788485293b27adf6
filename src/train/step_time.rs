//! How fast an experiment's steps are.

use std::time::Instant;

use super::network::{Plans, steps_per_epoch};
use super::trainer::Trainer;
use crate::config::RunConfig;
use crate::data::{Loader, Pair};
use crate::device::{Machine, Target};
use crate::error::Result;
use crate::graph::Mode;
use crate::optim::Optimizer;
use crate::optim::schedule::Rate;

pub struct StepTime {
    /// Calls of a training step: launches of kernels, or functions on the CPU.
    pub calls: usize,
    /// Of a step: the median of the epochs, each with its tables' upload and the reading of its reports.
    pub seconds: Option<f64>,
}

/// Sets a run up and trains it for `epochs` epochs after one that warms up, or not at all if that is 0. Nothing is evaluated.
///
/// # Errors
/// As a run.
pub fn step_time(
    config: &RunConfig,
    data: &Pair,
    target: Target,
    epochs: usize,
) -> Result<StepTime> {
    const LR: f64 = 1e-3;
    let plans = Plans::new(config, data, target.device, Mode::Train)?;
    let optimizer = Optimizer::new(&config.opt, &config.groups)?;
    let mut trainer = Trainer::new(plans, optimizer, data, Machine::open(target)?, None)?;
    let mut loader = Loader::new(config.run_id, data.train.len(), config.batch_size);
    let steps = steps_per_epoch(config, data.train.len());
    let rates = vec![Rate::computed(LR, 1.0); steps];
    let mut seconds = Vec::with_capacity(epochs);
    let trained = if epochs > 0 { epochs + 1 } else { 0 };
    for epoch in 0..trained {
        let order = loader.next_epoch();
        let clock = Instant::now();
        trainer.epoch(&rates, order)?;
        if epoch > 0 {
            seconds.push(clock.elapsed().as_secs_f64() / steps as f64);
        }
    }
    seconds.sort_by(f64::total_cmp);
    Ok(StepTime {
        calls: trainer.calls(),
        seconds: seconds.get(epochs / 2).copied(),
    })
}
