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
//! u = lr / (1 - beta1^k) d / (sqrt(v) / sqrt(1 - beta2^k) + eps)
//! w = w - u
//! ```
//!
//! Cautious updates are those of [`super::cautious`]; cautious weight decay (L. Chen et al., "Cautious Weight Decay", 2025,
//! arXiv:2510.12402) leaves out weights that the update enlarges: w = (1 - lr wd [u w >= 0]) w, where u is the masked one.

use super::sgd::decayed;
use super::{
    At, BETAS, EPS, Look, Marker, Memory, Method, Reports, Row, Shape, StateVector, Update,
    Vectors, average_square, cautious, lerp,
};
use crate::config::{Entry, Key, Kind, Values};
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
    build: &|values| Box::new(Adam::new(values, false)),
};

pub(super) const ADAMW: Row = Row {
    entry: Entry {
        name: "adamw",
        about: "Adam with decoupled weight decay",
        paper: "Loshchilov and Hutter 2019, arXiv:1711.05101",
        keys: &[BETAS, EPS, cautious::CAUTIOUS, CAUTIOUS_DECAY],
    },
    look: Look {
        colour: 0xf34213,
        marker: Marker::Filled(Shape::Down),
    },
    reports: Reports::NOTHING,
    build: &|values| {
        Box::new(Adam {
            cautious: values.flag("cautious"),
            cautious_decay: values.flag("cautious_weight_decay"),
            ..Adam::new(values, true)
        })
    },
};

const CAUTIOUS_DECAY: Key = Key {
    name: "cautious_weight_decay",
    kind: Kind::Flag,
    default: Some("false"),
    about: "weights that the update enlarges do not decay (Chen et al. 2025, arXiv:2510.12402)",
};

struct Adam {
    betas: (f64, f64),
    eps: f64,
    weight_decay: f64,
    decoupled: bool,
    cautious: bool,
    cautious_decay: bool,
}

impl Adam {
    fn new(values: &Values, decoupled: bool) -> Adam {
        Adam {
            betas: values.pair("betas"),
            eps: values.real("eps"),
            weight_decay: values.real("weight_decay"),
            decoupled,
            cautious: false,
            cautious_decay: false,
        }
    }

    /// Is the update looked at before it is applied?
    fn in_two_steps(&self) -> bool {
        self.cautious || self.cautious_decay
    }
}

impl Method for Adam {
    type Coefficients = AdamStep;
    type Scalars = ();

    fn memory(&self, of: &[Tensor]) -> Memory {
        let in_two_steps = self.in_two_steps();
        Memory {
            vectors: StateVector::zeros(["exp_avg", "exp_avg_sq"]),
            workspace: if in_two_steps {
                cautious::workspace(of)
            } else {
                0
            },
            ranges: in_two_steps,
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
        if !self.in_two_steps() {
            return kernels::adam(program, grid, u.now, u.coefficients, u.w, u.g, d, v, u.n());
        }
        let arguments = kernels::AdamDirection {
            now: u.now,
            steps: u.coefficients,
            w: u.w.into(),
            g: u.g.into(),
            d,
            v,
            update: u.work.part(0, u.w.len),
            cautious: self.cautious.into(),
            cautious_decay: self.cautious_decay.into(),
            n: u.n(),
        };
        kernels::adam_direction(program, grid, arguments);
        cautious::apply(u, self.cautious, program);
    }

    fn host(&self, u: &Update<Self>, program: &mut Program) {
        if self.in_two_steps() {
            let (cautious, cautious_decay) = (self.cautious, self.cautious_decay);
            u.host(program, "adam_direction", move |mut step| {
                let c = *step.coefficients;
                let [lr, root, eps, shrink] = [c.lr, c.root, c.eps, c.shrink].map(|c| c as f32);
                let weight = (1.0 - c.beta1) as f32;
                step.vectors().for_pieces(
                    move |Vectors {
                              w,
                              g,
                              state: [d, v, update],
                          }| {
                        let state = d.iter_mut().zip(v).zip(update);
                        for ((w, &g), ((d, v), update)) in w.iter_mut().zip(g).zip(state) {
                            *d = lerp(*d, g, weight);
                            *v = average_square(c.beta2, *v, g);
                            *update = lr * *d / (v.sqrt() / root + eps);
                            let left_out = cautious && *update * g <= 0.0;
                            let decays = !cautious_decay || left_out || *update * *w >= 0.0;
                            *w *= if decays { shrink } else { 1.0 };
                        }
                    },
                );
            });
            return cautious::apply(u, self.cautious, program);
        }
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
