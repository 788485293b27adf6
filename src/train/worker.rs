//! Who computes a run: the CPU, or a device that runs kernels.

use super::Watch;
use super::network::{Network, Plans};
use super::resident::Resident;
use crate::config::RunConfig;
use crate::data::{Pair, Part};
use crate::device::{Device, Target, cpu};
use crate::error::Result;
use crate::graph::Mode;
use crate::optim;

/// What an epoch of training leaves to tell.
pub(super) struct Trained {
    /// The adaptive step size of every step; anything for methods that have none.
    pub step_sizes: Vec<f64>,
    /// l2 norms, the sum of squares being an f32: Infinity beyond its range.
    pub model_norm: f32,
    pub grad_norm: f32,
    pub lower_bound: f64,
    pub h: f64,
}

pub(super) trait Worker {
    /// Trains on the whole batches of `order`. `None` if the watch ended it.
    fn epoch(&mut self, lr: f64, order: &[u32], watch: &dyn Watch) -> Result<Option<Trained>>;

    /// Kernels of a training step.
    fn kernels(&self) -> usize {
        0
    }

    /// Mean loss and score over a half of the data. `None` if the watch ended it.
    fn evaluate(&mut self, part: Part, watch: &dyn Watch) -> Result<Option<(f64, f64)>>;

    /// Shows the watch the weights after the last step.
    fn finish(&mut self, watch: &dyn Watch) -> Result<()>;
}

/// Sets up a run.
pub(super) fn worker<'a>(
    config: &'a RunConfig,
    data: &'a Pair,
    target: Target,
    watch: &dyn Watch,
) -> Result<Box<dyn Worker + 'a>> {
    let Pair { train, val } = data;
    let mut plans = Plans::new(config, train, val, target.device, Mode::Train)?;
    let batches_tracked = watch.built(&mut plans.params)?;
    Ok(match target.device {
        Device::Cpu => Box::new(OnCpu::new(plans, config, data, batches_tracked)?),
        Device::Emulator | Device::Cuda(_) => {
            Box::new(Resident::new(plans, config, data, target, batches_tracked)?)
        }
    })
}

struct OnCpu<'a> {
    data: &'a Pair,
    network: Network,
    optimizer: optim::State,
    batch_size: usize,
}

impl<'a> OnCpu<'a> {
    fn new(
        plans: Plans,
        config: &RunConfig,
        data: &'a Pair,
        batches_tracked: u64,
    ) -> Result<OnCpu<'a>> {
        let longest = data.train.len().max(data.val.len());
        plans.check_memory(config)?;
        Ok(OnCpu {
            data,
            optimizer: optim::State::new(&config.opt, plans.params.values.len())?,
            network: Network::new(plans, config, longest, batches_tracked),
            batch_size: config.batch_size,
        })
    }
}

impl Worker for OnCpu<'_> {
    fn epoch(&mut self, lr: f64, order: &[u32], watch: &dyn Watch) -> Result<Option<Trained>> {
        let mut step_sizes = Vec::with_capacity(order.len() / self.batch_size);
        for indices in order.chunks_exact(self.batch_size) {
            let loss = self.network.train_step(&self.data.train, indices);
            let (w, g) = self.network.memory.update();
            self.optimizer.step(lr, loss, w, g);
            step_sizes.push(self.optimizer.step_size());
            if watch.stop() {
                return Ok(None);
            }
        }
        let norm = |values: &[f32]| (cpu::dot(values, values) as f32).sqrt();
        Ok(Some(Trained {
            step_sizes,
            model_norm: norm(self.network.memory.values()),
            grad_norm: norm(self.network.memory.grads()),
            lower_bound: self.optimizer.lower_bound(),
            h: self.optimizer.h(),
        }))
    }

    fn evaluate(&mut self, part: Part, watch: &dyn Watch) -> Result<Option<(f64, f64)>> {
        let half = match part {
            Part::Train => &self.data.train,
            Part::Val => &self.data.val,
        };
        Ok(self.network.evaluate(half, watch))
    }

    fn finish(&mut self, watch: &dyn Watch) -> Result<()> {
        watch.trained(&self.network.snapshot())
    }
}
