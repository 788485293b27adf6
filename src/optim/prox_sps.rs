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

use super::{
    At, LOWER_BOUND, Look, Marker, Memory, Method, Reports, Row, Shape, Update, Vectors, at_most,
};
use crate::config::Entry;
use crate::cpu::dot;
use crate::device::Program;
use crate::device::gpu::{
    elementwise,
    kernels::{self, ProxSpsStep},
};
use crate::graph::Tensor;

pub(super) const PROX_SPS: Row = Row {
    entry: Entry {
        name: "prox-sps",
        about: "proximal stochastic Polyak step size",
        paper: "Schaipp, Gower and Ulbrich 2023, arXiv:2301.04935",
        keys: &[LOWER_BOUND],
    },
    look: Look {
        colour: 0x5a0a78,
        reference: Some(0x97bf88),
        marker: Marker::Hollow(Shape::Square),
        dash: 6,
    },
    reports: Reports::STEP_SIZE,
    rest: None,
    build: &|values| {
        Box::new(ProxSps {
            lower_bound: values.real("lb"),
            weight_decay: values.real("weight_decay"),
        })
    },
};

struct ProxSps {
    lower_bound: f64,
    weight_decay: f64,
}

impl Method for ProxSps {
    type Coefficients = ProxSpsStep;
    /// tau
    type Scalars = f64;

    fn memory(&self, _: &[Tensor]) -> Memory {
        Memory::default()
    }

    fn joins_groups(&self) -> bool {
        true
    }

    fn coefficients(&mut self, at: At) -> ProxSpsStep {
        ProxSpsStep {
            decay: at.lr * self.weight_decay,
            lr: at.lr,
            lower_bound: self.lower_bound,
        }
    }

    fn kernels(&self, u: &Update<Self>, program: &mut Program) {
        for group in u.groups() {
            let (w, g, blocks) = (group.w(), group.g(), group.sum_blocks());
            kernels::prox_sps_sums(program, blocks, w, g, group.partial(2), group.n());
        }
        let (now, count) = (u.now, u.sum_blocks() as i32);
        for group in u.groups() {
            let (w, g, steps) = (group.w(), group.g(), group.coefficients());
            let (grid, sizes) = (elementwise(w.len), u.series(0));
            kernels::prox_sps_step_size(
                program, 1, now, steps, u.loss, u.partial, count, u.scalars, sizes,
            );
            kernels::prox_sps_update(program, grid, now, steps, u.scalars, w, g, group.n());
        }
    }

    fn host(&self, u: &Update<Self>, program: &mut Program) {
        u.host(program, "prox-sps", |mut step| {
            let sums = step.sum_groups(|_, group| {
                group.sum_pieces(move |Vectors { w, g, state: [] }| [dot(w, g), dot(g, g)])
            });
            let [inner, norm] = sums.map(|sum| sum as f32);
            for i in 0..step.groups() {
                let coefficients = step.coefficients_of(i);
                let c = (1.0 + coefficients.decay) as f32;
                let gap = c * (step.loss - coefficients.lower_bound as f32);
                let ratio = f64::from((gap - coefficients.decay as f32 * inner) / norm);
                // Python's max(0, ratio): 0 where the ratio is NaN.
                let t = if ratio > 0.0 { ratio } else { 0.0 };
                step.report(0, t);
                *step.scalars = at_most(t, coefficients.lr);
                let tau = *step.scalars as f32;
                step.vectors_of(i)
                    .for_pieces(move |Vectors { w, g, state: [] }| {
                        for (w, &g) in w.iter_mut().zip(g) {
                            *w = (-tau).mul_add(g, *w) / c;
                        }
                    });
            }
        });
    }
}
