//! Optimizers and learning-rate schedules: a table of rows, one file per family of methods.
//!
//! A [`Method`] works on flat buffers: all parameters end to end, their gradient, and vectors of its own, each as long
//! as the parameters and zero before the first step. They lie on the device that trains, as do its scalars; what it
//! contributes to a training step is calls in that step's [`Program`].
//!
//! The numbers follow PyTorch's, roundings included where that costs nothing: hyper-parameters and
//! their combinations are double and become single where they meet a vector, inner products are
//! single once summed, and comparisons with NaN go the way they go in Python.

mod adabelief;
mod adabound;
mod adafactor;
mod adam;
mod average;
mod cautious;
mod clip;
pub mod formula;
mod groups;
mod lion;
mod lookahead;
mod momo;
mod momo_adam;
mod muon;
mod newton_schulz;
mod prox_sps;
mod sam;
pub mod schedule;
mod sgd;
mod soap;
mod sophia;
mod stepper;
mod update;

use bytemuck::{Pod, Zeroable};
use serde_json::{Map, Value};

use crate::config::{Entry, Key, Kind, Values, opt_keys};
use crate::device::Program;
use crate::error::Result;
use crate::graph::Tensor;

pub use groups::{AUX, GROUP_KEYS, Match};
pub use stepper::Stepper;
pub use update::{
    AnyMethod, HostStep, Operands, Optimizer, Place, SecondGradient, Tables, Update, Vectors,
    sum_blocks,
};

/// The optimizers that are written in Rust, in the order in which `list` shows them.
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
    muon::MUON,
    adafactor::ADAFACTOR,
    soap::SOAP,
    sophia::SOPHIA_G,
];

/// Batches of a step.
pub const ACCUMULATE: &str = "accumulate_steps";

/// Label smoothing of the training loss.
pub const SMOOTHING: &str = "label_smoothing";

/// The keys that every optimizer has.
pub const COMMON_KEYS: &[Key] = &[
    LR,
    WEIGHT_DECAY,
    Key {
        name: "lr_schedule",
        kind: Kind::Checked(
            "constant, linear, sqrt, wsd, cosine, polynomial, step, plateau or exponential_S_G (times G after every S \
             epochs, such as exponential_30_0.7)",
            |value| value.as_str().is_some_and(|s| schedule::named(s).is_some()),
        ),
        default: Some("\"constant\""),
        about: "the learning rate's course; a schedule has keys of its own",
    },
    Key {
        name: ACCUMULATE,
        kind: Kind::Count,
        default: Some("1"),
        about: "batches of a step, whose mean gradient it takes; the batches that an epoch has over are left out",
    },
    Key {
        name: SMOOTHING,
        kind: Kind::Fraction,
        default: Some("0"),
        about: "label smoothing of the training loss (cross_entropy); the losses of evaluation are without (Szegedy et al. 2016, arXiv:1512.00567)",
    },
    clip::NORM,
    clip::VALUE,
    sam::RHO,
    sam::ADAPTIVE,
    lookahead::K,
    lookahead::ALPHA,
    average::DECAY,
    average::START,
    average::MEAN_START,
];

const LR: Key = Key {
    name: "lr",
    kind: Kind::NonNegative,
    default: Some("1e-3"),
    about: "step size; for the adaptive methods its upper limit",
};

const WEIGHT_DECAY: Key = Key {
    name: "weight_decay",
    kind: Kind::NonNegative,
    default: Some("0"),
    about: "weight decay, in the way of the method",
};

const NO_LESS_THAN_0: Kind = Kind::Checked("an integer of 0 or more", Value::is_u64);

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
    /// No two methods have the same marker.
    pub look: Look,
    pub reports: Reports,
    /// The method of all that is no matrix, where this one is for matrices alone: `groups.rs` says how. The keys that it may be
    /// given in `opt` are among the entry's, with `aux_` before their names.
    pub rest: Option<&'static str>,
    /// Wants values that were checked against the entry's keys and [`COMMON_KEYS`].
    pub build: &'static (dyn Fn(&Values) -> Box<dyn AnyMethod> + Sync),
}

/// All of the table, and the methods that are files.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    ROWS.iter().chain(formula::rows())
}

/// The row of that name.
pub fn row(name: &str) -> Option<&'static Row> {
    let own = ROWS.iter().find(|row| row.entry.name == name);
    own.or_else(|| formula::row(name))
}

/// The files that the methods of a run come from, by the names that the config has for them.
pub fn files(
    opt: &Map<String, Value>,
    groups: &[Map<String, Value>],
) -> Vec<(String, &'static formula::MethodFile)> {
    let names = [opt].into_iter().chain(groups);
    let mut names: Vec<&str> = names.filter_map(|map| map.get("name")?.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let files = names.into_iter();
    files
        .filter_map(|name| Some((name.to_owned(), formula::file(name)?)))
        .collect()
}

/// The keys of a run's optimizer object, those of its method and of its schedule among them.
pub fn keys(opt: &Map<String, Value>) -> Vec<&'static Key> {
    let text = |key: &str| opt.get(key).and_then(Value::as_str);
    let method = text("name").and_then(row);
    let schedule = schedule::named(text("lr_schedule").unwrap_or("constant"));
    opt_keys(
        method.map_or(&[][..], |row| row.entry.keys),
        COMMON_KEYS,
        schedule.map_or(&[][..], |entry| entry.keys),
    )
}

/// How figures show a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// 0xRRGGBB, one of [`Look::COLOURS`].
    pub colour: u32,
    /// The reference's colour, where it has one.
    pub reference: Option<u32>,
    pub marker: Marker,
    /// Which pattern of dashes, below [`Look::DASHES`]; 0 is a solid line. No two methods of one colour share it.
    pub dash: u8,
}

impl Look {
    /// Colours that stay apart for colour-blind eyes: seven of Okabe and Ito's, without the yellow that white paper
    /// swallows, and a dark violet.
    pub const COLOURS: [u32; 8] = [
        0x000000, 0x0072b2, 0xd55e00, 0x009e73, 0xe69f00, 0x56b4e9, 0xcc79a7, 0x5a0a78,
    ];
    /// Patterns of dashes that there are.
    pub const DASHES: u8 = 8;
    /// Looks that [`Look::nth`] has.
    pub const COUNT: usize = 320;

    /// The n-th of [`Look::COUNT`] looks, all different, for lines that no method's look tells apart.
    pub fn nth(n: usize) -> Look {
        const SHAPES: [Shape; 10] = [
            Shape::Circle,
            Shape::Square,
            Shape::Up,
            Shape::Diamond,
            Shape::Down,
            Shape::Star,
            Shape::Left,
            Shape::Right,
            Shape::Spark,
            Shape::Cross,
        ];
        let shape = SHAPES[n / 2 % SHAPES.len()];
        // Colour and marker are the same again after 40, the dash is another one then.
        let dash = (n + n / 40) % usize::from(Look::DASHES);
        Look {
            colour: Look::COLOURS[n % Look::COLOURS.len()],
            reference: None,
            marker: match n % 2 {
                0 => Marker::Filled(shape),
                _ => Marker::Hollow(shape),
            },
            dash: dash as u8,
        }
    }
}

/// What distinguishes a method's line from the others in black and white.
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

/// What a method adds to the history, by the names that it has there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reports {
    /// A number of every step.
    pub steps: &'static [&'static str],
    /// A number at the end of an epoch.
    pub epoch: &'static [EpochReport],
}

/// See [`Reports::epoch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochReport {
    pub name: &'static str,
    /// A key of the method that limits it, and where it does, spells it.
    pub limited_by: Option<&'static str>,
}

impl Reports {
    pub const NOTHING: Reports = Reports {
        steps: &[],
        epoch: &[],
    };
    const STEP_SIZE: Reports = Reports {
        steps: &["step_size_list"],
        epoch: &[],
    };
    const STEP_SIZE_AND_BOUND: Reports = Reports {
        epoch: &[
            EpochReport {
                name: "fstar",
                limited_by: Some("lb"),
            },
            EpochReport {
                name: "h",
                limited_by: None,
            },
        ],
        ..Reports::STEP_SIZE
    };
}

/// A method with its hyper-parameters: what it remembers, what a step must know, and the step itself, written for
/// the CPU and for kernels.
pub trait Method: Send + 'static {
    /// What changes from step to step: hyper-parameters and what is computed from them alone, in double. Declared in
    /// the method's `.cu`.
    type Coefficients: Pod;
    /// What it keeps from step to step beside vectors.
    type Scalars: Pod;

    /// For parameters of these shapes.
    fn memory(&self, of: &[Tensor]) -> Memory;

    /// What it has beside its memory.
    fn tables(&self, _of: &[Tensor]) -> Tables {
        Tables::default()
    }

    /// Has it one update for all groups of parameters, such as one that sums over all of them or asks for another gradient,
    /// and not one for each? It goes through [`Update::groups`] then, whose own keys are the same.
    fn joins_groups(&self) -> bool {
        false
    }

    /// The scalars before the first step.
    fn scalars(&self) -> Self::Scalars {
        Self::Scalars::zeroed()
    }

    /// Asked once for every step, in their order; the method may keep sums of its own.
    fn coefficients(&mut self, at: At) -> Self::Coefficients;

    /// Adds the step to a training step's program, which has computed loss and gradient. Methods that are the same
    /// calls on every device write this, others [`Method::host`] and [`Method::kernels`].
    fn step(&self, update: &Update<Self>, program: &mut Program) -> Result<()> {
        match program.on_host() {
            true => self.host(update, program),
            false => self.kernels(update, program),
        }
        Ok(())
    }

    /// The step as functions on the CPU.
    fn host(&self, _update: &Update<Self>, _program: &mut Program) {}

    /// The step as launches of kernels.
    fn kernels(&self, _update: &Update<Self>, _program: &mut Program) {}

    /// What wraps a method adds here what comes before that method's step.
    fn before(&self, _update: &Update<Self>, _program: &mut Program) -> Result<()> {
        Ok(())
    }

    /// After which steps it has more to do, if after some only.
    fn after(&self) -> Option<After> {
        None
    }

    /// Adds what it has to do after these steps.
    fn further(&self, _update: &Update<Self>, _program: &mut Program) {}

    /// Does a step leave another gradient than the loss's at the weights before it?
    fn changes_gradient(&self) -> bool {
        false
    }

    /// Are other weights evaluated than those that are trained, after this many steps?
    fn evaluates_others(&self, _done: u64) -> bool {
        false
    }

    /// Methods that evaluate other weights than those that they train put these in place of the parameters in `enter`,
    /// and the trained ones back in `leave`.
    fn evaluation(
        &self,
        _update: &Update<Self>,
        _enter: &mut Program,
        _leave: &mut Program,
    ) -> Result<()> {
        Ok(())
    }

    /// The numbers that [`Reports::epoch`] names.
    fn epoch_reports(&self, _scalars: &Self::Scalars) -> Vec<f64> {
        Vec::new()
    }
}

/// What a method remembers on its device.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Vectors as long as the parameters.
    pub vectors: Vec<StateVector>,
    /// Numbers for each of the parameters' tensors, 0 before the first step.
    pub per_tensor: usize,
    /// Further numbers, 0 before the first step, which the method lays out itself.
    pub numbers: usize,
    /// Floats of workspace, which hold anything when a step begins.
    pub workspace: usize,
    /// Do its kernels ask for [`Update::ranges`]?
    pub ranges: bool,
}

/// A vector that a method keeps, and what it holds before the first step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StateVector {
    pub name: &'static str,
    pub initial: Initial,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Initial {
    Number(f32),
    /// The parameters.
    Parameters,
}

impl StateVector {
    pub fn zeros<const K: usize>(names: [&'static str; K]) -> Vec<StateVector> {
        let initial = Initial::Number(0.0);
        names.map(|name| StateVector { name, initial }).to_vec()
    }

    pub fn of_parameters(name: &'static str) -> StateVector {
        let initial = Initial::Parameters;
        StateVector { name, initial }
    }
}

/// Some of a run's steps: from one on, every so manieth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct After {
    /// Counted from 1.
    pub first: u64,
    pub every: u64,
    /// Does what comes after them want, in `update.g`, the gradient of the step's last batch for labels that are drawn from
    /// the model's own probabilities, at the weights after the step?
    pub drawn: bool,
}

impl After {
    /// Is the last of this many steps among them?
    pub fn is_due(self, done: u64) -> bool {
        done >= self.first && (done - self.first).is_multiple_of(self.every)
    }

    /// The number of the next of them behind this many steps.
    pub fn next(self, done: u64) -> u64 {
        match done.checked_sub(self.first) {
            None => self.first,
            Some(since) => self.first + (since / self.every + 1) * self.every,
        }
    }
}

/// Where an update stands in a run.
#[derive(Clone, Copy, Debug)]
pub struct At {
    /// 1, 2, 3, ...
    pub k: u64,
    /// The learning rate in force and the one of the first epoch.
    pub lr: f64,
    pub initial_lr: f64,
    pub run: Course,
    /// How many parameters share the update.
    pub parameters: usize,
}

/// What a run's steps are part of. All of it is 0 for a method alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Course {
    pub epochs: usize,
    pub steps_per_epoch: usize,
    /// Samples of a step.
    pub batch_size: usize,
    /// Labels of a batch: of a text every token is one.
    pub labels: usize,
}

/// A running average as `mul_` and `add_` make it: beta old + (1 - beta) new.
fn average(beta: f64, old: f32, new: f32) -> f32 {
    ((1.0 - beta) as f32).mul_add(new, beta as f32 * old)
}

/// A running average of squares as `addcmul_` makes it: beta old + (1 - beta) new^2.
fn average_square(beta: f64, old: f32, new: f32) -> f32 {
    ((1.0 - beta) as f32 * new).mul_add(new, beta as f32 * old)
}

/// (1 - weight) a + weight b, rounded as `torch.lerp` does.
fn lerp(a: f32, b: f32, weight: f32) -> f32 {
    if weight < 0.5 {
        weight.mul_add(b - a, a)
    } else {
        (weight - 1.0).mul_add(b - a, b)
    }
}

/// -1, 0 or 1; 0 for NaN, as in PyTorch.
fn sign(x: f32) -> f32 {
    f32::from(i8::from(x > 0.0) - i8::from(x < 0.0))
}

/// Python's `max(x, bound)`: a NaN stays.
fn at_least(x: f64, bound: f64) -> f64 {
    if bound > x { bound } else { x }
}

/// Python's `min(limit, x)`: the limit where `x` is NaN.
fn at_most(x: f64, limit: f64) -> f64 {
    if x < limit { x } else { limit }
}
