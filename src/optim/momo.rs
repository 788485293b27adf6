//! MoMo: momentum with a model-based step size; MoMo* estimates the loss's lower bound on the way.
//!
//! Paper: F. Schaipp, R. Ohana, M. Eickenberg, A. Defazio, R. Gower, "MoMo: Momentum Models for Adaptive
//! Learning Rates", ICML 2024, arXiv:2305.07583.
//!
//! State: d, and the scalars F, G: running averages of g, f and <w, g>. lb, the lower bound.
//!
//! ```text
//! averages start at the first g, f, <w, g>, and rho = 1;
//!     with bias correction they start at 0, and rho = 1 - beta^k
//! F = beta F + (1 - beta) f,  d and G likewise
//! D = <w, d>,  N = |d|^2,  c = 1 + lr wd
//! star: cap = c F + D - c G;  if cap < c rho lb: lb = max(cap / (2 c rho), lb0)
//! t = max(c (F - rho lb) + D - c G, 0) / N
//! tau = min(lr / rho, t)
//! star: h = F + D - G;  lb = max((h - tau N / 2) / rho, lb0)
//! w = (w - tau d) / c
//! ```
//! The history keeps t.

use super::{
    AnyMethod, At, LOWER_BOUND, Look, Marker, Memory, Method, Reports, Row, Shape, StateVector,
    Update, Vectors, at_least, at_most, average,
};
use crate::config::{Entry, Key, Kind, Values};
use crate::cpu::dot;
use crate::device::Program;
use crate::device::gpu::{
    elementwise,
    kernels::{self, ModelScalars, ModelStep, MomoStep},
};
use crate::graph::Tensor;

pub(super) const PAPER: &str = "Schaipp et al. 2024, arXiv:2305.07583";

const KEYS: &[Key] = &[
    Key {
        name: "beta",
        kind: Kind::Checked("a number in [0, 1]", |v| {
            v.as_f64().is_some_and(|beta| (0.0..=1.0).contains(&beta))
        }),
        default: Some("0.9"),
        about: "factor of the running averages",
    },
    LOWER_BOUND,
    Key {
        name: "bias_correction",
        kind: Kind::Flag,
        default: Some("false"),
        about: "start the averages at 0 and correct for it",
    },
];

pub(super) const MOMO: Row = Row {
    entry: Entry {
        name: "momo",
        about: "momentum with a model-based adaptive step size",
        paper: PAPER,
        keys: KEYS,
    },
    look: Look {
        colour: 0x000000,
        reference: Some(0x023047),
        marker: Marker::Filled(Shape::Circle),
        dash: 0,
    },
    reports: Reports::STEP_SIZE,
    rest: None,
    build: &|values| Momo::build(values, false),
};

pub(super) const MOMO_STAR: Row = Row {
    entry: Entry {
        name: "momo-star",
        about: "MoMo that estimates the lower bound; `lb` limits it from below",
        paper: PAPER,
        keys: KEYS,
    },
    look: Look {
        colour: 0x000000,
        reference: Some(0x87b37a),
        marker: Marker::Filled(Shape::Star),
        dash: 3,
    },
    reports: Reports::STEP_SIZE_AND_BOUND,
    rest: None,
    build: &|values| Momo::build(values, true),
};

struct Momo {
    beta: f64,
    bias_correction: bool,
    weight_decay: f64,
    bound: Bound,
}

impl Momo {
    fn build(values: &Values, star: bool) -> Box<dyn AnyMethod> {
        Box::new(Momo {
            beta: values.real("beta"),
            bias_correction: values.flag("bias_correction"),
            weight_decay: values.real("weight_decay"),
            bound: Bound::new(values, star),
        })
    }
}

impl Method for Momo {
    type Coefficients = MomoStep;
    type Scalars = ModelScalars;

    fn memory(&self, _: &[Tensor]) -> Memory {
        Memory {
            vectors: StateVector::zeros(["grad_avg"]),
            ..Memory::default()
        }
    }

    fn joins_groups(&self) -> bool {
        true
    }

    fn scalars(&self) -> ModelScalars {
        self.bound.scalars()
    }

    fn coefficients(&mut self, at: At) -> MomoStep {
        let (beta, rho) = match (self.bias_correction, at.k) {
            (true, k) => (self.beta, 1.0 - self.beta.powf(k as f64)),
            // Averages that start at the first value: take it whole.
            (false, 1) => (0.0, 1.0),
            (false, _) => (self.beta, 1.0),
        };
        MomoStep {
            beta,
            rho,
            c: 1.0 + at.lr * self.weight_decay,
            lr: at.lr,
            lower_bound: self.bound.initial,
        }
    }

    fn kernels(&self, u: &Update<Self>, program: &mut Program) {
        for group in u.groups() {
            let (blocks, steps, partial) =
                (group.sum_blocks(), group.coefficients(), group.partial(3));
            let (w, g, [d]) = (group.w(), group.g(), group.vectors());
            kernels::momo_sums(program, blocks, u.now, steps, w, g, d, partial, group.n());
        }
        let mut how = self.bound.model_step(u.sum_blocks());
        for group in u.groups() {
            let (now, steps, w, [d]) = (u.now, group.coefficients(), group.w(), group.vectors());
            let sizes = u.series(0);
            kernels::momo_step_size(
                program, 1, now, steps, u.loss, u.partial, how, u.scalars, sizes,
            );
            let grid = elementwise(w.len);
            kernels::momo_update(program, grid, now, steps, u.scalars, d, w, group.n());
            how.first = 0;
        }
    }

    fn host(&self, u: &Update<Self>, program: &mut Program) {
        let bound = self.bound;
        u.host(program, "momo", move |mut step| {
            let sums = step.sum_groups(|c, group| {
                group.sum_pieces(move |Vectors { w, g, state: [d] }| {
                    for (d, &g) in d.iter_mut().zip(g) {
                        *d = average(c.beta, *d, g);
                    }
                    [dot(w, g), dot(w, d), dot(d, d)]
                })
            });
            let sums = Sums::new(step.scalars, step.coefficients.beta, step.loss, sums);
            for i in 0..step.groups() {
                let c = step.coefficients_of(i);
                let t = bound.step_size(step.scalars, &sums, c.lr, c.c, c.rho);
                step.report(0, t);
                let (tau, c) = (step.scalars.tau as f32, c.c as f32);
                step.vectors_of(i)
                    .for_pieces(move |Vectors { w, state: [d], .. }| {
                        for (w, &mut d) in w.iter_mut().zip(d) {
                            *w = (-tau).mul_add(d, *w) / c;
                        }
                    });
            }
        });
    }

    fn epoch_reports(&self, scalars: &ModelScalars) -> Vec<f64> {
        vec![scalars.lower_bound, scalars.h]
    }
}

/// The inner products of one step, D and N of the formula.
pub(super) struct Sums {
    inner: f32,
    norm: f32,
}

impl Sums {
    /// From <w, g>, <w, d> and N; moves the averages F and G on.
    pub fn new(scalars: &mut ModelScalars, beta: f64, loss: f32, sums: [f64; 3]) -> Sums {
        let [slope, inner, norm] = sums.map(|sum| sum as f32);
        scalars.loss_average = average(beta, scalars.loss_average, loss);
        scalars.inner_average = average(beta, scalars.inner_average, slope);
        Sums { inner, norm }
    }
}

/// The lower bound of the model and the step size that follows from it.
#[derive(Clone, Copy)]
pub(super) struct Bound {
    pub initial: f64,
    pub star: bool,
}

impl Bound {
    pub fn new(values: &Values, star: bool) -> Bound {
        Bound {
            initial: values.real("lb"),
            star,
        }
    }

    /// How kernels go on behind the sums of this many blocks.
    pub fn model_step(&self, blocks: usize) -> ModelStep {
        ModelStep {
            blocks: blocks as i32,
            star: self.star.into(),
            first: 1,
        }
    }

    pub fn scalars(&self) -> ModelScalars {
        ModelScalars {
            lower_bound: self.initial,
            ..ModelScalars::default()
        }
    }

    /// t; leaves tau, lb and h in the scalars.
    pub fn step_size(
        &self,
        scalars: &mut ModelScalars,
        sums: &Sums,
        lr: f64,
        c: f64,
        rho: f64,
    ) -> f64 {
        let &Sums { inner, norm } = sums;
        let (loss, slope) = (scalars.loss_average, scalars.inner_average);
        let lb = &mut scalars.lower_bound;
        let model = |lb: f64| c as f32 * (loss - (rho * lb) as f32) + inner - c as f32 * slope;
        if self.star {
            let cap = f64::from(model(0.0));
            if cap < c * rho * *lb {
                *lb = at_least(cap / (2.0 * c * rho), self.initial);
            }
        }
        let t = f64::from(at_least(model(*lb).into(), 0.0) as f32 / norm);
        let tau = at_most(t, lr / rho);
        if self.star {
            let h = loss + inner - slope;
            let estimate = (h - (0.5 * tau) as f32 * norm) / rho as f32;
            *lb = at_least(estimate.into(), self.initial);
            scalars.h = h.into();
        }
        scalars.tau = tau;
        t
    }
}
