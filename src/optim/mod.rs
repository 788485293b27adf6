//! Optimizers and learning-rate schedules: a table of rows, one file per family of methods.
//!
//! A method works on flat buffers: all parameters end to end, their gradient, and up to
//! [`MAX_STATE`] vectors of its own, each as long as the parameters and zero before the first step. It keeps
//! nothing itself. Vectors, scalars and the step count belong to [`State`], so that a checkpoint is
//! one write and a device can hold them.
//!
//! The numbers follow PyTorch's, roundings included where that costs nothing: hyper-parameters and
//! their combinations are double and become single where they meet a vector, inner products are
//! single once summed, and comparisons with NaN go the way they go in Python.

mod adabelief;
mod adabound;
mod adam;
mod lion;
mod momo;
mod momo_adam;
mod prox_sps;
pub mod schedule;
mod sgd;

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::config::{Entry, Key, Kind, Values};
use crate::device::Slot;
use crate::device::cpu::CHUNK;
use crate::device::gpu::{DeviceScalars, Gpu, Queue, Step, View};
use crate::error::{Error, Result};
use schedule::Schedule;

/// The most state vectors that a method has.
pub const MAX_STATE: usize = 2;

/// All optimizers, in the order in which `list` shows them.
pub const ROWS: &[Row] = &[
    sgd::SGD,
    sgd::HEAVY_BALL,
    sgd::NESTEROV,
    adam::ADAM,
    adam::ADAMW,
    momo::MOMO,
    momo::MOMO_STAR,
    momo_adam::MOMO_ADAM,
    momo_adam::MOMO_ADAM_STAR,
    prox_sps::PROX_SPS,
    adabound::ADABOUND,
    adabelief::ADABELIEF,
    lion::LION,
];

/// The keys that every optimizer has.
pub const COMMON_KEYS: &[Key] = &[
    Key {
        name: "lr",
        kind: Kind::NonNegative,
        default: Some("1e-3"),
        about: "step size; for the adaptive methods its upper limit",
    },
    Key {
        name: "weight_decay",
        kind: Kind::NonNegative,
        default: Some("0"),
        about: "weight decay, in the way of the method",
    },
    Key {
        name: "lr_schedule",
        kind: Kind::Checked(
            "constant, linear, sqrt or exponential_S_G (times G after every S epochs, such as exponential_30_0.7)",
            |value| value.as_str().is_some_and(|s| Schedule::parse(s).is_some()),
        ),
        default: Some("\"constant\""),
        about: "the learning rate's course over the epochs",
    },
];

const BETAS: Key = Key {
    name: "betas",
    kind: Kind::FractionPair,
    default: Some("[0.9, 0.999]"),
    about: "factors of the running averages of the gradient and of its square; inside `opt` a list of lists",
};

const EPS: Key = Key {
    name: "eps",
    kind: Kind::NonNegative,
    default: Some("1e-8"),
    about: "added to the denominator",
};

const LOWER_BOUND: Key = Key {
    name: "lb",
    kind: Kind::Real,
    default: Some("0"),
    about: "a lower bound of the loss",
};

/// A row of the table of optimizers.
pub struct Row {
    pub entry: Entry,
    /// Names of the state vectors, at most [`MAX_STATE`].
    pub state: &'static [&'static str],
    /// No two methods have the same marker.
    pub look: Look,
    pub reports: Reports,
    /// Wants values that were checked against the entry's keys and [`COMMON_KEYS`].
    pub build: fn(&Values) -> Arc<dyn Optimizer>,
}

/// The row of that name.
pub fn row(name: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.entry.name == name)
}

/// How figures show a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// 0xRRGGBB; the reference's where it has one.
    pub colour: u32,
    pub marker: Marker,
}

/// What tells a method's line from the others in black and white.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marker {
    Filled(Shape),
    Hollow(Shape),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Circle,
    Square,
    /// A square on its corner.
    Diamond,
    /// Triangles, by where they point.
    Up,
    Down,
    Left,
    Right,
    /// Of five rays.
    Star,
    /// A star of four rays.
    Spark,
    /// A spark on two of its rays.
    Cross,
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

/// A method with its hyper-parameters.
pub trait Optimizer: Send + Sync {
    /// The scalars before the first step.
    fn initial_scalars(&self) -> Scalars {
        Scalars::default()
    }

    /// What a step needs beside vectors and scalars: hyper-parameters and their combinations, in double, in an
    /// order of the method's own, zeros behind them.
    fn coefficients(&self, at: Moment) -> Coefficients;

    fn cpu_step(&self, step: CpuStep<'_>);

    /// Queues the kernels of a step, which find the coefficients in `update.now`.
    fn queue(&self, update: &Update, queue: &mut Queue);
}

/// See [`Optimizer::coefficients`].
pub type Coefficients = [f64; 8];

/// `first`, with zeros behind.
fn padded<const N: usize>(first: [f64; N]) -> Coefficients {
    std::array::from_fn(|i| first.get(i).copied().unwrap_or(0.0))
}

/// Where an update stands in a run.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// 1, 2, 3, ...
    pub k: u64,
    /// The learning rate in force and the one of the first epoch.
    pub lr: f64,
    pub initial_lr: f64,
}

/// Where the kernels of an update find its operands.
pub struct Update {
    pub w: Slot,
    pub g: Slot,
    /// In the order of [`Row::state`]; those that the method lacks are empty.
    pub state: [View<f32>; MAX_STATE],
    pub loss: Slot,
    pub now: View<Step>,
    pub scalars: View<DeviceScalars>,
    /// Room for [`SUMS`] partial sums of every block.
    pub partial: View<f64>,
    /// The adaptive step size of every step of an epoch.
    pub step_sizes: View<f64>,
}

/// Inner products that a method takes at most.
pub const SUMS: usize = 3;

impl Update {
    /// A method at work on a device: its state as it is before the first step of parameters, gradient and loss
    /// that are there, and room for the step sizes of so many steps.
    pub fn new(
        gpu: &mut Gpu,
        method: &Method,
        [w, g, loss]: [Slot; 3],
        now: View<Step>,
        steps: usize,
    ) -> Result<Update> {
        let scalars = DeviceScalars {
            lower_bound: method.optimizer.initial_scalars().lower_bound,
            ..DeviceScalars::default()
        };
        let zeros = vec![0f32; w.len];
        let mut state = |i: usize| match i < method.vectors {
            true => gpu.alloc_with("the optimizer's state", &zeros),
            false => gpu.alloc("no state", 0),
        };
        let state: [View<f32>; MAX_STATE] = [state(0)?, state(1)?];
        Ok(Update {
            w,
            g,
            state,
            loss,
            now,
            scalars: gpu.alloc_with("scalars", &[scalars])?,
            partial: gpu.alloc("partial sums", SUMS * sum_blocks(w.len))?,
            step_sizes: gpu.alloc_with("step sizes", &vec![0f64; steps])?,
        })
    }

    /// The number of parameters, as kernels take it.
    fn n(&self) -> i64 {
        self.w.len as i64
    }

    /// Blocks of a pass that sums: they depend on the number of parameters alone.
    fn sum_blocks(&self) -> usize {
        sum_blocks(self.w.len)
    }
}

/// Blocks in which kernels sum over `n` elements.
pub fn sum_blocks(n: usize) -> usize {
    const MOST: usize = 256;
    n.div_ceil(1024).clamp(1, MOST)
}

/// The scalars that a method keeps between steps, and what it tells of the last one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scalars {
    /// Running averages of f and <w, g>.
    pub loss_average: f32,
    pub inner_average: f32,
    /// The lower bound in force (fixed except in the star variants).
    pub lower_bound: f64,
    /// F + D - G, from which a star variant draws its lower bound.
    pub h: f64,
    /// The adaptive step size, before the learning rate limits it.
    pub step_size: f64,
}

/// One update on the CPU.
pub struct CpuStep<'a> {
    pub at: Moment,
    /// The loss of this batch.
    pub loss: f32,
    pub vectors: Vectors<'a>,
    pub scalars: &'a mut Scalars,
}

/// Everything of an update that is as long as the parameters, or one piece of it.
pub struct Vectors<'a> {
    pub w: &'a mut [f32],
    pub g: &'a [f32],
    /// In the order of [`Row::state`]; those that the method lacks are empty.
    pub state: [&'a mut [f32]; MAX_STATE],
}

impl Vectors<'_> {
    /// Runs `f` on all pieces, in parallel. With scalars moved into `f` the compiler sees that no store to
    /// a vector changes them, and vectorises.
    fn for_pieces(&mut self, f: impl Fn(Vectors<'_>) + Sync) {
        self.sum_pieces(move |piece| {
            f(piece);
            []
        });
    }

    /// Runs `f` on all pieces, in parallel, and adds up its results. Pieces and order of summation depend
    /// on the length alone. A piece fits into a core's cache: what `f` reads twice comes from memory once.
    fn sum_pieces<const N: usize>(
        &mut self,
        f: impl Fn(Vectors<'_>) -> [f64; N] + Sync,
    ) -> [f64; N] {
        let all = Vectors {
            w: self.w,
            g: self.g,
            state: self.state.each_mut().map(|v| &mut **v),
        };
        all.sum_halves(&f)
    }

    fn sum_halves<const N: usize>(self, f: &(impl Fn(Vectors<'_>) -> [f64; N] + Sync)) -> [f64; N] {
        let chunks = self.w.len().div_ceil(CHUNK);
        if chunks <= 1 {
            return f(self);
        }
        let (left, right) = self.split_at(chunks / 2 * CHUNK);
        let (x, y) = rayon::join(|| left.sum_halves(f), || right.sum_halves(f));
        std::array::from_fn(|i| x[i] + y[i])
    }

    fn split_at(self, at: usize) -> (Self, Self) {
        let (w, w_rest) = self.w.split_at_mut(at);
        let (g, g_rest) = self.g.split_at(at);
        let [a, b] = self.state.map(|v| v.split_at_mut(at.min(v.len())));
        let (state, state_rest) = ([a.0, b.0], [a.1, b.1]);
        (
            Vectors { w, g, state },
            Vectors {
                w: w_rest,
                g: g_rest,
                state: state_rest,
            },
        )
    }
}

/// A method as a run wants it.
#[derive(Clone)]
pub struct Method {
    pub optimizer: Arc<dyn Optimizer>,
    pub reports: Reports,
    /// The number of its state vectors.
    pub vectors: usize,
    pub initial_lr: f64,
}

impl Method {
    /// `opt` is a run's optimizer object, checked against the table.
    pub fn new(opt: &Map<String, Value>) -> Result<Method> {
        let name = opt.get("name").and_then(Value::as_str).unwrap_or_default();
        let Some(row) = row(name) else {
            let known: Vec<_> = ROWS.iter().map(|row| row.entry.name).collect();
            return Err(Error::usage(format!(
                "unknown optimizer {name:?}; there are {}",
                known.join(", ")
            )));
        };
        let values = Values::new(row.entry.keys.iter().chain(COMMON_KEYS), opt);
        Ok(Method {
            optimizer: (row.build)(&values),
            reports: row.reports,
            vectors: row.state.len(),
            initial_lr: values.real("lr"),
        })
    }
}

/// An optimizer at work on the CPU: the method and all that it remembers.
#[derive(Clone)]
pub struct State {
    method: Arc<dyn Optimizer>,
    reports: Reports,
    /// The number of parameters, and the state vectors end to end.
    n: usize,
    vectors: Vec<f32>,
    scalars: Scalars,
    /// Steps done.
    k: u64,
    initial_lr: f64,
}

impl State {
    /// The state before the first step on `n` parameters. `opt` is a run's optimizer object, checked
    /// against the table.
    pub fn new(opt: &Map<String, Value>, n: usize) -> Result<State> {
        let method = Method::new(opt)?;
        Ok(State {
            scalars: method.optimizer.initial_scalars(),
            method: method.optimizer,
            reports: method.reports,
            n,
            vectors: vec![0.0; method.vectors * n],
            k: 0,
            initial_lr: method.initial_lr,
        })
    }

    /// One update of the parameters `w` at learning rate `lr`, from a batch's loss and gradient.
    ///
    /// Allocates nothing where it runs inside a rayon pool (handing work to a pool from outside does).
    ///
    /// # Panics
    /// If `w` or `g` is not as long as the state was made for.
    pub fn step(&mut self, lr: f64, loss: f32, w: &mut [f32], g: &[f32]) {
        assert_eq!((w.len(), g.len()), (self.n, self.n), "lengths of w and g");
        let mut vectors = self.vectors.chunks_exact_mut(self.n.max(1));
        let state = [(); MAX_STATE].map(|()| vectors.next().unwrap_or_default());
        self.k += 1;
        self.method.cpu_step(CpuStep {
            at: Moment {
                k: self.k,
                lr,
                initial_lr: self.initial_lr,
            },
            loss,
            vectors: Vectors { w, g, state },
            scalars: &mut self.scalars,
        });
    }

    pub fn reports(&self) -> Reports {
        self.reports
    }

    /// The adaptive step size of the last step, before the learning rate limited it.
    pub fn step_size(&self) -> f64 {
        self.scalars.step_size
    }

    /// The lower bound after the last step (`fstar` in the history).
    pub fn lower_bound(&self) -> f64 {
        self.scalars.lower_bound
    }

    /// F + D - G of the last step (star variants).
    pub fn h(&self) -> f64 {
        self.scalars.h
    }
}

/// A running average as `mul_` and `add_` make it: beta old + (1 - beta) new.
fn average(beta: f64, old: f32, new: f32) -> f32 {
    ((1.0 - beta) as f32).mul_add(new, beta as f32 * old)
}

/// A running average of squares as `addcmul_` makes it: beta old + (1 - beta) new^2.
fn average_square(beta: f64, old: f32, new: f32) -> f32 {
    ((1.0 - beta) as f32 * new).mul_add(new, beta as f32 * old)
}

/// Python's `max(x, bound)`: a NaN stays.
fn at_least(x: f64, bound: f64) -> f64 {
    if bound > x { bound } else { x }
}

/// Python's `min(limit, x)`: the limit where `x` is NaN.
fn at_most(x: f64, limit: f64) -> f64 {
    if x < limit { x } else { limit }
}
