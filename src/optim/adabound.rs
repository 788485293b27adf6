//! AdaBound: Adam whose step sizes are clipped by bounds that close in on those of SGD.
//!
//! Paper: L. Luo, Y. Xiong, Y. Liu, X. Sun, "Adaptive Gradient Methods with Dynamic Bound of Learning
//! Rate", ICLR 2019, arXiv:1902.09843; weight decay apart from the gradient.
//!
//! State: d and v, the running averages of the gradient and of its square.
//!
//! ```text
//! d = beta1 d + (1 - beta1) g
//! v = beta2 v + (1 - beta2) g^2
//! s = lr sqrt(1 - beta2^k) / (1 - beta1^k)
//! F = final_lr lr / initial lr
//! w = w - clamp(s / (sqrt(v) + eps), F (1 - 1 / (gamma k + 1)), F (1 + 1 / (gamma k))) d - wd w
//! ```

use super::{
    At, BETAS, EPS, Look, Marker, Memory, Method, Reports, Row, Shape, StateVector, Update,
    Vectors, average, average_square,
};
use crate::config::{Entry, Key, Kind};
use crate::device::Program;
use crate::device::gpu::{
    elementwise,
    kernels::{self, AdaBoundStep},
};
use crate::graph::Tensor;

/// How fast the bounds close in.
const GAMMA: f64 = 1e-3;

pub(super) const ADABOUND: Row = Row {
    entry: Entry {
        name: "adabound",
        about: "Adam with bounds on its step sizes, decoupled weight decay (not scaled by lr)",
        paper: "Luo et al. 2019, arXiv:1902.09843",
        keys: &[
            BETAS,
            EPS,
            Key {
                name: "final_lr",
                kind: Kind::Positive,
                default: Some("0.1"),
                about: "the step size at which the bounds meet; follows the schedule",
            },
        ],
    },
    look: Look {
        colour: 0x009e73,
        reference: Some(0x4f9d69),
        marker: Marker::Filled(Shape::Right),
        dash: 7,
    },
    reports: Reports::NOTHING,
    rest: None,
    build: &|values| {
        Box::new(AdaBound {
            betas: values.pair("betas"),
            eps: values.real("eps"),
            final_lr: values.real("final_lr"),
            weight_decay: values.real("weight_decay"),
        })
    },
};

struct AdaBound {
    betas: (f64, f64),
    eps: f64,
    final_lr: f64,
    weight_decay: f64,
}

impl Method for AdaBound {
    type Coefficients = AdaBoundStep;
    type Scalars = ();

    fn memory(&self, _: &[Tensor]) -> Memory {
        Memory {
            vectors: StateVector::zeros(["exp_avg", "exp_avg_sq"]),
            ..Memory::default()
        }
    }

    fn coefficients(&mut self, at: At) -> AdaBoundStep {
        let (beta1, beta2) = self.betas;
        let k = at.k as f64;
        let final_lr = match at.initial_lr {
            0.0 => self.final_lr,
            initial => self.final_lr * at.lr / initial,
        };
        AdaBoundStep {
            beta1,
            beta2,
            size: at.lr * (1.0 - beta2.powf(k)).sqrt() / (1.0 - beta1.powf(k)),
            lower: final_lr * (1.0 - 1.0 / (GAMMA * k + 1.0)),
            upper: final_lr * (1.0 + 1.0 / (GAMMA * k)),
            eps: self.eps,
            weight_decay: self.weight_decay,
        }
    }

    fn kernels(&self, u: &Update<Self>, program: &mut Program) {
        let (grid, [d, v]) = (elementwise(u.w.len), u.vectors());
        kernels::adabound(program, grid, u.now, u.coefficients, u.w, u.g, d, v, u.n());
    }

    fn host(&self, u: &Update<Self>, program: &mut Program) {
        u.host(program, "adabound", |mut step| {
            let c = *step.coefficients;
            let [s, lower, upper] = [c.size, c.lower, c.upper].map(|c| c as f32);
            let (eps, wd) = (c.eps as f32, c.weight_decay as f32);
            step.vectors().for_pieces(
                move |Vectors {
                          w,
                          g,
                          state: [d, v],
                      }| {
                    for (((w, &g), d), v) in w.iter_mut().zip(g).zip(d).zip(v) {
                        *d = average(c.beta1, *d, g);
                        *v = average_square(c.beta2, *v, g);
                        let size = clamp(s / (v.sqrt() + eps), lower, upper);
                        *w = *w - size * *d - decay(wd, *w);
                    }
                },
            );
        });
    }
}

/// Between the bounds; a NaN stays. Without `f32::clamp`'s check of the bounds, which keeps the loop scalar.
fn clamp(x: f32, lower: f32, upper: f32) -> f32 {
    let x = if x < lower { lower } else { x };
    if x > upper { upper } else { x }
}

/// wd w, and 0 without decay even where a weight is infinite.
fn decay(weight_decay: f32, w: f32) -> f32 {
    if weight_decay == 0.0 {
        0.0
    } else {
        weight_decay * w
    }
}
