//! An epoch of a run as a GPU would be given it.

use super::network::{Plans, steps_per_epoch};
use super::trainer::Trainer;
use crate::config::RunConfig;
use crate::data::Pair;
use crate::device::gpu::Precision;
use crate::device::{Device, Machine, PlannedLaunches, Target};
use crate::error::Result;
use crate::graph::Mode;
use crate::optim::Optimizer;

pub struct EpochPlan {
    pub steps: usize,
    /// Of a training step.
    pub flops: usize,
    trainer: Trainer,
}

impl EpochPlan {
    /// Sets a run up on the machine that only plans.
    ///
    /// # Errors
    /// As a run on a GPU.
    pub fn new(config: &RunConfig, data: &Pair, precision: Option<Precision>) -> Result<EpochPlan> {
        let device = Device::Plan;
        let machine = Machine::open(Target { device, precision })?;
        EpochPlan::on(machine, config, data)
    }

    /// The same on one that holds nothing yet.
    ///
    /// # Errors
    /// As [`EpochPlan::new`].
    pub fn on(machine: Machine, config: &RunConfig, data: &Pair) -> Result<EpochPlan> {
        let plans = Plans::new(config, data, machine.target().device, Mode::Train)?;
        let flops = plans.train.flops() * plans.accumulated;
        let optimizer = Optimizer::new(&config.opt, &config.groups)?;
        Ok(EpochPlan {
            steps: steps_per_epoch(config, data.train.len()),
            flops,
            trainer: Trainer::new(plans, optimizer, data, machine, None)?,
        })
    }

    /// The calls of a training step.
    pub fn step(&self) -> PlannedLaunches {
        self.trainer.planned().0
    }

    /// The programs of both evaluations, and how often each runs.
    pub fn evaluation(&self) -> Vec<(PlannedLaunches, usize)> {
        self.trainer.planned().1
    }
}
