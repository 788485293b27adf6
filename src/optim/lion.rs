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
//!
//! Cautious updates are those of [`super::cautious`].

use super::{
    At, BETAS, Look, Marker, Memory, Method, Reports, Row, Shape, StateVector, Update, Vectors,
    average, cautious, sign,
};
use crate::config::{Entry, Key};
use crate::device::Program;
use crate::device::gpu::{
    elementwise,
    kernels::{self, LionStep},
};
use crate::graph::Tensor;

pub(super) const LION: Row = Row {
    entry: Entry {
        name: "lion",
        about: "sign of a momentum, decoupled weight decay",
        paper: "Chen et al. 2023, arXiv:2302.06675",
        keys: &[
            Key {
                default: Some("[0.9, 0.99]"),
                about: "factors of the average inside the sign and of the one that is kept; inside `opt` a list of lists",
                ..BETAS
            },
            cautious::CAUTIOUS,
        ],
    },
    look: Look {
        colour: 0x56b4e9,
        reference: Some(0xdbabab),
        marker: Marker::Filled(Shape::Cross),
        dash: 2,
    },
    reports: Reports::NOTHING,
    rest: None,
    build: &|values| {
        Box::new(Lion {
            betas: values.pair("betas"),
            weight_decay: values.real("weight_decay"),
            cautious: values.flag("cautious"),
        })
    },
};

struct Lion {
    betas: (f64, f64),
    weight_decay: f64,
    cautious: bool,
}

impl Method for Lion {
    type Coefficients = LionStep;
    type Scalars = ();

    fn memory(&self, of: &[Tensor]) -> Memory {
        Memory {
            vectors: StateVector::zeros(["exp_avg"]),
            workspace: if self.cautious {
                cautious::workspace(of)
            } else {
                0
            },
            ranges: self.cautious,
            ..Memory::default()
        }
    }

    fn coefficients(&mut self, at: At) -> LionStep {
        let (beta1, beta2) = self.betas;
        LionStep {
            beta1,
            beta2,
            lr: at.lr,
            shrink: 1.0 - at.lr * self.weight_decay,
        }
    }

    fn kernels(&self, u: &Update<Self>, program: &mut Program) {
        let (grid, [d], now, steps) = (elementwise(u.w.len), u.vectors(), u.now, u.coefficients);
        if !self.cautious {
            return kernels::lion(program, grid, now, steps, u.w, u.g, d, u.n());
        }
        let update = u.work.part(0, u.w.len);
        kernels::lion_direction(program, grid, now, steps, u.w, u.g, d, update, u.n());
        cautious::apply(u, true, program);
    }

    fn host(&self, u: &Update<Self>, program: &mut Program) {
        if self.cautious {
            u.host(program, "lion_direction", |mut step| {
                let c = *step.coefficients;
                let (lr, shrink) = (c.lr as f32, c.shrink as f32);
                step.vectors().for_pieces(
                    move |Vectors {
                              w,
                              g,
                              state: [d, update],
                          }| {
                        for (((w, &g), d), update) in w.iter_mut().zip(g).zip(d).zip(update) {
                            *update = lr * sign(average(c.beta1, *d, g));
                            *d = average(c.beta2, *d, g);
                            *w *= shrink;
                        }
                    },
                );
            });
            return cautious::apply(u, true, program);
        }
        u.host(program, "lion", |mut step| {
            let c = *step.coefficients;
            let (lr, shrink) = (c.lr as f32, c.shrink as f32);
            step.vectors()
                .for_pieces(move |Vectors { w, g, state: [d] }| {
                    for ((w, &g), d) in w.iter_mut().zip(g).zip(d) {
                        *w = shrink * *w - lr * sign(average(c.beta1, *d, g));
                        *d = average(c.beta2, *d, g);
                    }
                });
        });
    }
}
