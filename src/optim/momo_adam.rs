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
    Update, Vectors, average, average_square,
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
        colour: 0x3f88c5,
        marker: Marker::Hollow(Shape::Circle),
    },
    reports: Reports::STEP_SIZE,
    build: |values| MomoAdam::build(values, false),
};

pub(super) const MOMO_ADAM_STAR: Row = Row {
    entry: Entry {
        name: "momo-adam-star",
        about: "MoMo-Adam that estimates the lower bound; `lb` limits it from below",
        paper: PAPER,
        keys: KEYS,
    },
    look: Look {
        colour: 0x648381,
        marker: Marker::Hollow(Shape::Star),
    },
    reports: Reports::STEP_SIZE_AND_BOUND,
    build: |values| MomoAdam::build(values, true),
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
            vectors: &["grad_avg", "grad_avg_sq"],
            ..Memory::default()
        }
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
        let (now, steps, [d, v]) = (u.now, u.coefficients, u.vectors());
        let (blocks, grid) = (u.sum_blocks(), elementwise(u.w.len));
        let (count, star, sizes) = (blocks as i32, i32::from(self.bound.star), u.series(0));
        kernels::momo_adam_sums(
            program,
            blocks,
            now,
            steps,
            u.w,
            u.g,
            d,
            v,
            u.partial,
            u.n(),
        );
        kernels::momo_adam_step_size(
            program, 1, now, steps, u.loss, u.partial, count, star, u.scalars, sizes,
        );
        let divide = i32::from(self.divide);
        kernels::momo_adam_update(
            program,
            grid,
            now,
            steps,
            u.scalars,
            d,
            v,
            u.w,
            divide,
            u.n(),
        );
    }

    fn host(&self, u: &Update<Self>, program: &mut Program) {
        let (bound, divide) = (self.bound, self.divide);
        u.host(program, "momo-adam", move |mut step| {
            let (c, loss) = (*step.coefficients, step.loss);
            let (correction, eps) = (c.correction as f32, c.eps as f32);
            let scale = move |v: f32| (v / correction).sqrt() + eps;
            let sums = step.vectors().sum_pieces(
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
            );
            let sums = Sums::new(step.scalars, c.beta1, loss, sums);
            let t = bound.step_size(step.scalars, &sums, c.lr, 1.0 + c.decay, c.rho);
            step.report(0, t);
            let tau = step.scalars.tau as f32;
            let (shrink, c) = match divide {
                true => (1.0, (1.0 + c.decay) as f32),
                false => ((1.0 - c.decay) as f32, 1.0),
            };
            step.vectors().for_pieces(
                move |Vectors {
                          w, state: [d, v], ..
                      }| {
                    for ((w, &mut d), &mut v) in w.iter_mut().zip(d).zip(v) {
                        *w = (shrink * *w - tau * d / scale(v)) / c;
                    }
                },
            );
        });
    }

    fn epoch_reports(&self, scalars: &ModelScalars) -> Vec<f64> {
        vec![scalars.lower_bound, scalars.h]
    }
}
