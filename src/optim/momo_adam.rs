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

use std::sync::Arc;

use super::momo::{Bound, PAPER, Sums};
use super::{
    BETAS, Coefficients, CpuStep, EPS, LOWER_BOUND, Look, Marker, Moment, Optimizer, Reports, Row,
    Scalars, Shape, Update, Vectors, average, average_square,
};
use crate::config::{Entry, Key, Kind, Values};
use crate::device::cpu::{dot, sum_of};
use crate::device::gpu::{Queue, elementwise, kernels};

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
    state: &["grad_avg", "grad_avg_sq"],
    look: Look {
        colour: 0x3f88c5,
        marker: Marker::Hollow(Shape::Circle),
    },
    reports: Reports::StepSize,
    build: |values| MomoAdam::build(values, false),
};

pub(super) const MOMO_ADAM_STAR: Row = Row {
    entry: Entry {
        name: "momo-adam-star",
        about: "MoMo-Adam that estimates the lower bound; `lb` limits it from below",
        paper: PAPER,
        keys: KEYS,
    },
    state: &["grad_avg", "grad_avg_sq"],
    look: Look {
        colour: 0x648381,
        marker: Marker::Hollow(Shape::Star),
    },
    reports: Reports::StepSizeAndBound,
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
    fn build(values: &Values, star: bool) -> Arc<dyn Optimizer> {
        Arc::new(MomoAdam {
            betas: values.pair("betas"),
            eps: values.real("eps"),
            weight_decay: values.real("weight_decay"),
            divide: values.flag("divide"),
            bound: Bound::new(values, star),
        })
    }
}

impl Optimizer for MomoAdam {
    fn initial_scalars(&self) -> Scalars {
        self.bound.initial_scalars()
    }

    fn coefficients(&self, at: Moment) -> Coefficients {
        let (beta1, beta2) = self.betas;
        let k = at.k as f64;
        let (rho, correction) = (1.0 - beta1.powf(k), 1.0 - beta2.powf(k));
        let decay = at.lr * self.weight_decay;
        let bound = self.bound.initial;
        [beta1, beta2, correction, self.eps, rho, at.lr, decay, bound]
    }

    fn queue(&self, update: &Update, queue: &mut Queue) {
        let &Update {
            now,
            w,
            g,
            state: [d, v],
            loss,
            scalars,
            partial,
            step_sizes,
        } = update;
        let (blocks, n) = (update.sum_blocks(), update.n());
        kernels::momo_adam_sums(queue, blocks, now, w, g, d, v, partial, n);
        let (count, star) = (blocks as i32, i32::from(self.bound.star));
        kernels::momo_adam_step_size(
            queue, 1, now, loss, partial, count, star, scalars, step_sizes,
        );
        let (grid, divide) = (elementwise(w.len), i32::from(self.divide));
        kernels::momo_adam_update(queue, grid, now, scalars, d, v, w, divide, n);
    }

    fn cpu_step(&self, mut step: CpuStep<'_>) {
        let [beta1, beta2, correction, eps, rho, lr, decay, _] = self.coefficients(step.at);
        let (correction, eps) = (correction as f32, eps as f32);
        let scale = move |v: f32| (v / correction).sqrt() + eps;
        let sums = step.vectors.sum_pieces(
            move |Vectors {
                      w,
                      g,
                      state: [d, v],
                  }| {
                for ((&g, d), v) in g.iter().zip(&mut *d).zip(&mut *v) {
                    *d = average(beta1, *d, g);
                    *v = average_square(beta2, *v, g);
                }
                let norm = sum_of(d, v, |d, v| d * (d / scale(v)));
                [dot(w, g), dot(w, d), norm]
            },
        );
        let sums = Sums::new(step.scalars, beta1, step.loss, sums);
        let tau = self
            .bound
            .step_size(step.scalars, &sums, lr, 1.0 + decay, rho) as f32;
        let (shrink, c) = match self.divide {
            true => (1.0, (1.0 + decay) as f32),
            false => ((1.0 - decay) as f32, 1.0),
        };
        step.vectors.for_pieces(
            move |Vectors {
                      w, state: [d, v], ..
                  }| {
                for ((w, &mut d), &mut v) in w.iter_mut().zip(d).zip(v) {
                    *w = (shrink * *w - tau * d / scale(v)) / c;
                }
            },
        );
    }
}
