//! MoMo-Adam: MoMo's step size in the metric of Adam; the star variant estimates the lower bound.
//!
//! Paper: F. Schaipp, R. Ohana, M. Eickenberg, A. Defazio, R. Gower, "MoMo: Momentum Models for Adaptive
//! Learning Rates", ICML 2024, arXiv:2305.07583.
//!
//! State: d and v, and the scalars F, G: running averages of g, g^2, f and <w, g>, all from 0. lb, the
//! lower bound.
//!
//! ```text
//! F = beta1 F + (1 - beta1) f,  d and G likewise,  v = beta2 v + (1 - beta2) g^2
//! S = sqrt(v / (1 - beta2^k)) + eps
//! D = <w, d>,  N = <d, d / S>,  rho = 1 - beta1^k,  c = 1 + lr wd
//! t, tau, lb, h as in MoMo
//! w = (w - tau d / S) / c             divide
//! w = (1 - lr wd) w - tau d / S       otherwise
//! ```
//! The history keeps t.

use super::momo::{Bound, PAPER, Sums};
use super::{
    AnyMethod, At, BETAS, EPS, LOWER_BOUND, Look, Marker, Memory, Method, Reports, Row, Shape,
    StateVector, Update, Vectors, average, average_square,
};
use crate::config::{Entry, Key, Kind, Values};
use crate::cpu::{dot, sum_of};
use crate::device::Program;
use crate::device::gpu::{
    elementwise,
    kernels::{self, ModelScalars, MomoAdamStep},
};
use crate::graph::Tensor;

const KEYS: &[Key] = &[
    BETAS,
    EPS,
    LOWER_BOUND,
    Key {
        name: "divide",
        kind: Kind::Flag,
        default: Some("true"),
        about: "weight decay by division after the step; false: by multiplication before it, as in AdamW",
    },
];

pub(super) const MOMO_ADAM: Row = Row {
    entry: Entry {
        name: "momo-adam",
        about: "Adam with a model-based adaptive step size",
        paper: PAPER,
        keys: KEYS,
    },
    look: Look {
        colour: 0x0072b2,
        reference: Some(0x3f88c5),
        marker: Marker::Hollow(Shape::Circle),
        dash: 4,
    },
    reports: Reports::STEP_SIZE,
    rest: None,
    build: &|values| MomoAdam::build(values, false),
};

pub(super) const MOMO_ADAM_STAR: Row = Row {
    entry: Entry {
        name: "momo-adam-star",
        about: "MoMo-Adam that estimates the lower bound; `lb` limits it from below",
        paper: PAPER,
        keys: KEYS,
    },
    look: Look {
        colour: 0x0072b2,
        reference: Some(0x648381),
        marker: Marker::Hollow(Shape::Star),
        dash: 1,
    },
    reports: Reports::STEP_SIZE_AND_BOUND,
    rest: None,
    build: &|values| MomoAdam::build(values, true),
};

struct MomoAdam {
    betas: (f64, f64),
    eps: f64,
    weight_decay: f64,
    divide: bool,
    bound: Bound,
}

impl MomoAdam {
    fn build(values: &Values, star: bool) -> Box<dyn AnyMethod> {
        Box::new(MomoAdam {
            betas: values.pair("betas"),
            eps: values.real("eps"),
            weight_decay: values.real("weight_decay"),
            divide: values.flag("divide"),
            bound: Bound::new(values, star),
        })
    }
}

impl Method for MomoAdam {
    type Coefficients = MomoAdamStep;
    type Scalars = ModelScalars;

    fn memory(&self, _: &[Tensor]) -> Memory {
        Memory {
            vectors: StateVector::zeros(["grad_avg", "grad_avg_sq"]),
            ..Memory::default()
        }
    }

    fn joins_groups(&self) -> bool {
        true
    }

    fn scalars(&self) -> ModelScalars {
        self.bound.scalars()
    }

    fn coefficients(&mut self, at: At) -> MomoAdamStep {
        let (beta1, beta2) = self.betas;
        let k = at.k as f64;
        MomoAdamStep {
            beta1,
            beta2,
            correction: 1.0 - beta2.powf(k),
            eps: self.eps,
            rho: 1.0 - beta1.powf(k),
            lr: at.lr,
            decay: at.lr * self.weight_decay,
            lower_bound: self.bound.initial,
        }
    }

    fn kernels(&self, u: &Update<Self>, program: &mut Program) {
        for group in u.groups() {
            let (blocks, steps, partial) =
                (group.sum_blocks(), group.coefficients(), group.partial(3));
            let (w, g, [d, v]) = (group.w(), group.g(), group.vectors());
            kernels::momo_adam_sums(
                program,
                blocks,
                u.now,
                steps,
                w,
                g,
                d,
                v,
                partial,
                group.n(),
            );
        }
        let (mut how, divide) = (
            self.bound.model_step(u.sum_blocks()),
            i32::from(self.divide),
        );
        for group in u.groups() {
            let (now, steps, w, [d, v]) = (u.now, group.coefficients(), group.w(), group.vectors());
            let (grid, sizes, n) = (elementwise(w.len), u.series(0), group.n());
            kernels::momo_adam_step_size(
                program, 1, now, steps, u.loss, u.partial, how, u.scalars, sizes,
            );
            kernels::momo_adam_update(program, grid, now, steps, u.scalars, d, v, w, divide, n);
            how.first = 0;
        }
    }

    fn host(&self, u: &Update<Self>, program: &mut Program) {
        let (bound, divide) = (self.bound, self.divide);
        u.host(program, "momo-adam", move |mut step| {
            let scale = |c: MomoAdamStep| {
                let (correction, eps) = (c.correction as f32, c.eps as f32);
                move |v: f32| (v / correction).sqrt() + eps
            };
            let sums = step.sum_groups(|c, group| {
                let scale = scale(c);
                group.sum_pieces(
                    move |Vectors {
                              w,
                              g,
                              state: [d, v],
                          }| {
                        for ((&g, d), v) in g.iter().zip(&mut *d).zip(&mut *v) {
                            *d = average(c.beta1, *d, g);
                            *v = average_square(c.beta2, *v, g);
                        }
                        let norm = sum_of(d, v, |d, v| d * (d / scale(v)));
                        [dot(w, g), dot(w, d), norm]
                    },
                )
            });
            let sums = Sums::new(step.scalars, step.coefficients.beta1, step.loss, sums);
            for i in 0..step.groups() {
                let c = step.coefficients_of(i);
                let t = bound.step_size(step.scalars, &sums, c.lr, 1.0 + c.decay, c.rho);
                step.report(0, t);
                let (tau, scale) = (step.scalars.tau as f32, scale(c));
                let (shrink, c) = match divide {
                    true => (1.0, (1.0 + c.decay) as f32),
                    false => ((1.0 - c.decay) as f32, 1.0),
                };
                step.vectors_of(i).for_pieces(
                    move |Vectors {
                              w, state: [d, v], ..
                          }| {
                        for ((w, &mut d), &mut v) in w.iter_mut().zip(d).zip(v) {
                            *w = (shrink * *w - tau * d / scale(v)) / c;
                        }
                    },
                );
            }
        });
    }

    fn epoch_reports(&self, scalars: &ModelScalars) -> Vec<f64> {
        vec![scalars.lower_bound, scalars.h]
    }
}
