//! ProxSPS: the stochastic Polyak step size with a proximal step for the weight decay.
//!
//! Paper: F. Schaipp, R. Gower, M. Ulbrich, "A Stochastic Proximal Polyak Step Size", TMLR 2023,
//! arXiv:2301.04935.
//!
//! State: none.
//!
//! ```text
//! c = 1 + lr wd
//! t = max((c (f - lb) - lr wd <w, g>) / |g|^2, 0), and 0 where that is NaN
//! w = (w - min(lr, t) g) / c
//! ```
//! The history keeps t.

use std::sync::Arc;

use super::{
    Coefficients, CpuStep, LOWER_BOUND, Look, Marker, Moment, Optimizer, Reports, Row, Scalars,
    Shape, Update, Vectors, at_most, padded,
};
use crate::config::Entry;
use crate::device::cpu::dot;
use crate::device::gpu::{Queue, elementwise, kernels};

pub(super) const PROX_SPS: Row = Row {
    entry: Entry {
        name: "prox-sps",
        about: "proximal stochastic Polyak step size",
        paper: "Schaipp, Gower and Ulbrich 2023, arXiv:2301.04935",
        keys: &[LOWER_BOUND],
    },
    state: &[],
    look: Look {
        colour: 0x97bf88,
        marker: Marker::Hollow(Shape::Square),
    },
    reports: Reports::StepSize,
    build: |values| {
        Arc::new(ProxSps {
            lower_bound: values.real("lb"),
            weight_decay: values.real("weight_decay"),
        })
    },
};

struct ProxSps {
    lower_bound: f64,
    weight_decay: f64,
}

impl Optimizer for ProxSps {
    fn initial_scalars(&self) -> Scalars {
        Scalars {
            lower_bound: self.lower_bound,
            ..Scalars::default()
        }
    }

    fn coefficients(&self, at: Moment) -> Coefficients {
        padded([at.lr * self.weight_decay, at.lr, self.lower_bound])
    }

    fn queue(&self, update: &Update, queue: &mut Queue) {
        let &Update {
            now,
            w,
            g,
            loss,
            scalars,
            partial,
            step_sizes,
            ..
        } = update;
        let (blocks, n) = (update.sum_blocks(), update.n());
        kernels::prox_sps_sums(queue, blocks, w, g, partial, n);
        let count = blocks as i32;
        kernels::prox_sps_step_size(queue, 1, now, loss, partial, count, scalars, step_sizes);
        kernels::prox_sps_update(queue, elementwise(w.len), now, scalars, w, g, n);
    }

    fn cpu_step(&self, mut step: CpuStep<'_>) {
        let [decay, lr, ..] = self.coefficients(step.at);
        let c = (1.0 + decay) as f32;
        let [inner, norm] = step
            .vectors
            .sum_pieces(move |Vectors { w, g, .. }| [dot(w, g), dot(g, g)])
            .map(|sum| sum as f32);
        let numerator = c * (step.loss - self.lower_bound as f32) - decay as f32 * inner;
        let ratio = f64::from(numerator / norm);
        // Python's max(0, ratio): 0 where the ratio is NaN.
        let t = if ratio > 0.0 { ratio } else { 0.0 };
        step.scalars.step_size = t;
        let tau = at_most(t, lr) as f32;
        step.vectors.for_pieces(move |Vectors { w, g, .. }| {
            for (w, &g) in w.iter_mut().zip(g) {
                *w = (-tau).mul_add(g, *w) / c;
            }
        });
    }
}
