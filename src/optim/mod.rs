//! Optimizers and learning-rate schedules: a table of rows, one file per method.
//!
//! An optimizer works on flat buffers. It declares the state vectors it needs, each as long as the
//! parameters and zero before the first step, and keeps nothing itself: state and scalars belong to
//! [`State`], so that a checkpoint is one write and a device can hold them.

use crate::config::{Entry, Values};

/// One update, on the CPU.
pub struct CpuStep<'a> {
    /// 1, 2, 3, ...
    pub k: u64,
    /// The learning rate in force, and the one at the start.
    pub lr: f64,
    pub initial_lr: f64,
    /// The loss of this batch.
    pub loss: f32,
    /// Parameters and their gradient, flat.
    pub w: &'a mut [f32],
    pub g: &'a [f32],
    /// The state vectors in the order of [`Optimizer::state`].
    pub state: [&'a mut [f32]; MAX_STATE],
    pub scalars: &'a mut Scalars,
}

pub const MAX_STATE: usize = 3;

/// The scalars that a method keeps between steps, and what it reports of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scalars {
    /// Running averages of f and <w, g>.
    pub loss_average: f64,
    pub inner_average: f64,
    /// The lower bound in force and the estimate h before the clamp (star variants).
    pub lower_bound: f64,
    pub h: f64,
    /// t, the adaptive step size of the last step.
    pub step_size: f64,
}

/// What a method adds to the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reports {
    Nothing,
    /// `step_size_list`
    StepSize,
    /// `step_size_list`, `fstar` and `h`
    StepSizeAndBound,
}

pub trait Optimizer: Send + Sync {
    /// Names of the state vectors.
    fn state(&self) -> &'static [&'static str];

    fn reports(&self) -> Reports {
        Reports::Nothing
    }

    /// Scalars before the first step.
    fn initial_scalars(&self) -> Scalars {
        Scalars::default()
    }

    fn cpu_step(&self, s: CpuStep<'_>);
}

/// A row of the table of optimizers.
pub struct Row {
    pub entry: Entry,
    /// The values are checked against the entry's keys and [`COMMON_KEYS`].
    pub build: fn(&Values) -> Box<dyn Optimizer>,
}
