//! Lion: the sign of an interpolated momentum.
//!
//! Paper: X. Chen et al., "Symbolic Discovery of Optimization Algorithms", NeurIPS 2023,
//! arXiv:2302.06675.
//!
//! State: d, a running average of the gradient.
//!
//! ```text
//! w = (1 - lr wd) w
//! w = w - lr sign(beta1 d + (1 - beta1) g)
//! d = beta2 d + (1 - beta2) g
//! ```

use std::sync::Arc;

use super::{
    BETAS, Coefficients, CpuStep, Look, Marker, Moment, Optimizer, Reports, Row, Shape, Update,
    Vectors, average, padded,
};
use crate::config::{Entry, Key};
use crate::device::gpu::{Queue, elementwise, kernels};

pub(super) const LION: Row = Row {
    entry: Entry {
        name: "lion",
        about: "sign of a momentum, decoupled weight decay",
        paper: "Chen et al. 2023, arXiv:2302.06675",
        keys: &[Key {
            default: Some("[0.9, 0.99]"),
            about: "factors of the average inside the sign and of the one that is kept; inside `opt` a list of lists",
            ..BETAS
        }],
    },
    state: &["exp_avg"],
    look: Look {
        colour: 0xdbabab,
        marker: Marker::Filled(Shape::Cross),
    },
    reports: Reports::Nothing,
    build: |values| {
        Arc::new(Lion {
            betas: values.pair("betas"),
            weight_decay: values.real("weight_decay"),
        })
    },
};

struct Lion {
    betas: (f64, f64),
    weight_decay: f64,
}

impl Optimizer for Lion {
    fn coefficients(&self, at: Moment) -> Coefficients {
        let (beta1, beta2) = self.betas;
        padded([beta1, beta2, at.lr, 1.0 - at.lr * self.weight_decay])
    }

    fn queue(&self, update: &Update, queue: &mut Queue) {
        let &Update {
            now, w, g, state, ..
        } = update;
        kernels::lion(queue, elementwise(w.len), now, w, g, state[0], update.n());
    }

    fn cpu_step(&self, mut step: CpuStep<'_>) {
        let (beta1, beta2) = self.betas;
        let [_, _, lr, shrink, ..] = self.coefficients(step.at).map(|c| c as f32);
        step.vectors.for_pieces(
            move |Vectors {
                      w,
                      g,
                      state: [d, _],
                  }| {
                for ((w, &g), d) in w.iter_mut().zip(g).zip(d) {
                    *w = shrink * *w - lr * sign(average(beta1, *d, g));
                    *d = average(beta2, *d, g);
                }
            },
        );
    }
}

/// -1, 0 or 1; 0 for NaN, as in PyTorch.
fn sign(x: f32) -> f32 {
    f32::from(i8::from(x > 0.0) - i8::from(x < 0.0))
}
