//! Adam, and AdamW, which decays the weights apart from the gradient.
//!
//! Paper: D. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, arXiv:1412.6980;
//! I. Loshchilov, F. Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, arXiv:1711.05101.
//!
//! State: d and v, the running averages of the gradient and of its square.
//!
//! ```text
//! g = g + wd w                 adam
//! w = (1 - lr wd) w            adamw
//! d = beta1 d + (1 - beta1) g
//! v = beta2 v + (1 - beta2) g^2
//! w = w - lr / (1 - beta1^k) d / (sqrt(v) / sqrt(1 - beta2^k) + eps)
//! ```

use super::sgd::decayed;
use super::{
    AnyMethod, At, BETAS, EPS, Look, Marker, Memory, Method, Reports, Row, Shape, Update, Vectors,
    average_square,
};
use crate::config::{Entry, Values};
use crate::device::Program;
use crate::device::gpu::{
    elementwise,
    kernels::{self, AdamStep},
};
use crate::graph::Tensor;

pub(super) const ADAM: Row = Row {
    entry: Entry {
        name: "adam",
        about: "Adam, weight decay added to the gradient",
        paper: "Kingma and Ba 2015, arXiv:1412.6980",
        keys: &[BETAS, EPS],
    },
    look: Look {
        colour: 0xf34213,
        marker: Marker::Filled(Shape::Up),
    },
    reports: Reports::NOTHING,
    build: |values| Adam::build(values, false),
};

pub(super) const ADAMW: Row = Row {
    entry: Entry {
        name: "adamw",
        about: "Adam with decoupled weight decay",
        paper: "Loshchilov and Hutter 2019, arXiv:1711.05101",
        keys: &[BETAS, EPS],
    },
    look: Look {
        colour: 0xf34213,
        marker: Marker::Filled(Shape::Down),
    },
    reports: Reports::NOTHING,
    build: |values| Adam::build(values, true),
};

struct Adam {
    betas: (f64, f64),
    eps: f64,
    weight_decay: f64,
    decoupled: bool,
}

impl Adam {
    fn build(values: &Values, decoupled: bool) -> Box<dyn AnyMethod> {
        Box::new(Adam {
            betas: values.pair("betas"),
            eps: values.real("eps"),
            weight_decay: values.real("weight_decay"),
            decoupled,
        })
    }
}

impl Method for Adam {
    type Coefficients = AdamStep;
    type Scalars = ();

    fn memory(&self, _: &[Tensor]) -> Memory {
        Memory {
            vectors: &["exp_avg", "exp_avg_sq"],
            ..Memory::default()
        }
    }

    fn coefficients(&mut self, at: At) -> AdamStep {
        let (beta1, beta2) = self.betas;
        let k = at.k as f64;
        let (weight_decay, shrink) = match self.decoupled {
            true => (0.0, 1.0 - at.lr * self.weight_decay),
            false => (self.weight_decay, 1.0),
        };
        AdamStep {
            lr: at.lr / (1.0 - beta1.powf(k)),
            root: (1.0 - beta2.powf(k)).sqrt(),
            eps: self.eps,
            weight_decay,
            shrink,
            beta1,
            beta2,
        }
    }

    fn kernels(&self, u: &Update<Self>, program: &mut Program) {
        let (grid, [d, v]) = (elementwise(u.w.len), u.vectors());
        kernels::adam(program, grid, u.now, u.coefficients, u.w, u.g, d, v, u.n());
    }

    fn host(&self, u: &Update<Self>, program: &mut Program) {
        u.host(program, "adam", |mut step| {
            let c = *step.coefficients;
            let [lr, root, eps] = [c.lr, c.root, c.eps].map(|c| c as f32);
            let [wd, shrink] = [c.weight_decay, c.shrink].map(|c| c as f32);
            let weight = (1.0 - c.beta1) as f32;
            step.vectors().for_pieces(
                move |Vectors {
                          w,
                          g,
                          state: [d, v],
                      }| {
                    for (((w, &g), d), v) in w.iter_mut().zip(g).zip(d).zip(v) {
                        let g = decayed(g, wd, *w);
                        *d = lerp(*d, g, weight);
                        *v = average_square(c.beta2, *v, g);
                        let denominator = v.sqrt() / root + eps;
                        *w = shrink * *w - lr * *d / denominator;
                    }
                },
            );
        });
    }
}

/// (1 - weight) a + weight b, rounded as `torch.lerp` does.
fn lerp(a: f32, b: f32, weight: f32) -> f32 {
    if weight < 0.5 {
        weight.mul_add(b - a, a)
    } else {
        (weight - 1.0).mul_add(b - a, b)
    }
}
