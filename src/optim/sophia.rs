//! Sophia-G: a momentum over an estimate of the curvature, clipped.
//!
//! Paper: H. Liu et al., "Sophia: A Scalable Stochastic Second-order Optimizer for Language Model Pre-training", ICLR 2024,
//! arXiv:2305.14342. What is computed is what the authors' code computes.
//!
//! State: m, the running average of the gradient, and h, that of the squares of q, the gradient of the mean loss for labels
//! that are drawn from the model's own probabilities (Gauss-Newton-Bartlett: bs q^2 is on average the diagonal of the
//! Gauss-Newton matrix).
//!
//! ```text
//! w = (1 - lr wd) w
//! m = beta1 m + (1 - beta1) g
//! w = w - lr sign(m) min(1, |m| / (rho bs h + 1e-15))
//! h = beta2 h + (1 - beta2) q^2           after every `hessian_interval` steps
//! ```

use super::{
    After, At, BETAS, Look, Marker, Memory, Method, Reports, Row, Shape, StateVector, Update,
    Vectors, average, average_square, sign,
};
use crate::config::{Entry, Key, Kind};
use crate::device::Program;
use crate::device::gpu::{
    elementwise,
    kernels::{self, SophiaStep},
};
use crate::graph::Tensor;

pub(super) const SOPHIA_G: Row = Row {
    entry: Entry {
        name: "sophia-g",
        about: "momentum over an estimate of the curvature, clipped, decoupled weight decay",
        paper: "Liu et al. 2023, arXiv:2305.14342",
        keys: &[
            Key {
                default: Some("[0.965, 0.99]"),
                about: "factors of the running averages of the gradient and of the curvature; inside `opt` a list of lists",
                ..BETAS
            },
            Key {
                name: "rho",
                kind: Kind::Positive,
                default: Some("0.04"),
                about: "the larger, the fewer coordinates move by `lr`",
            },
            Key {
                name: "bs",
                kind: Kind::Checked("an integer of 1 or more, or null", |value| {
                    value.is_null() || Kind::Count.accepts(value)
                }),
                default: Some("null"),
                about: "factor of the curvature (null: the labels of a batch)",
            },
            Key {
                name: "hessian_interval",
                kind: Kind::Count,
                default: Some("10"),
                about: "steps from one look at the curvature, which costs a second gradient, to the next",
            },
        ],
    },
    look: Look {
        colour: 0xe69f00,
        reference: None,
        marker: Marker::Hollow(Shape::Down),
        dash: 1,
    },
    reports: Reports::NOTHING,
    rest: None,
    build: &|values| {
        Box::new(Sophia {
            betas: values.pair("betas"),
            weight_decay: values.real("weight_decay"),
            rho: values.real("rho"),
            bs: values.get("bs").as_f64(),
            interval: values.count("hessian_interval") as u64,
        })
    },
};

struct Sophia {
    betas: (f64, f64),
    weight_decay: f64,
    rho: f64,
    /// `None`: the labels of a batch.
    bs: Option<f64>,
    interval: u64,
}

impl Method for Sophia {
    type Coefficients = SophiaStep;
    type Scalars = ();

    fn memory(&self, _: &[Tensor]) -> Memory {
        Memory {
            vectors: StateVector::zeros(["exp_avg", "hessian"]),
            ..Memory::default()
        }
    }

    /// They look at the curvature together.
    fn joins_groups(&self) -> bool {
        true
    }

    fn coefficients(&mut self, at: At) -> SophiaStep {
        let (beta1, beta2) = self.betas;
        let bs = self.bs.unwrap_or(at.run.labels.max(1) as f64);
        SophiaStep {
            beta1,
            beta2,
            lr: at.lr,
            shrink: 1.0 - at.lr * self.weight_decay,
            scale: self.rho * bs,
        }
    }

    fn kernels(&self, u: &Update<Self>, program: &mut Program) {
        for group in u.groups() {
            let ([m, h], steps) = (group.vectors(), group.coefficients());
            let (grid, w, g) = (elementwise(group.w().len), group.w(), group.g());
            kernels::sophia(program, grid, u.now, steps, w, g, m, h, group.n());
        }
    }

    fn host(&self, u: &Update<Self>, program: &mut Program) {
        u.host(program, "sophia", |mut step| {
            for i in 0..step.groups() {
                let c = step.coefficients_of(i);
                let (lr, shrink, scale) = (c.lr as f32, c.shrink as f32, c.scale as f32);
                step.vectors_of(i).for_pieces(
                    move |Vectors {
                              w,
                              g,
                              state: [m, h],
                          }| {
                        for (((w, &g), m), h) in w.iter_mut().zip(g).zip(m).zip(h) {
                            *m = average(c.beta1, *m, g);
                            let ratio = m.abs() / (scale * *h + 1e-15);
                            // A NaN stays.
                            let part = if ratio > 1.0 { 1.0 } else { ratio };
                            *w = shrink * *w - lr * (sign(*m) * part);
                        }
                    },
                );
            }
        });
    }

    fn changes_gradient(&self) -> bool {
        true
    }

    fn after(&self) -> Option<After> {
        Some(After {
            first: self.interval,
            every: self.interval,
            drawn: true,
        })
    }

    fn further(&self, u: &Update<Self>, program: &mut Program) {
        if !program.on_host() {
            for group in u.groups() {
                let ([_, h], grid) = (group.vectors::<2>(), elementwise(group.w().len));
                let (steps, g) = (group.coefficients(), group.g());
                kernels::sophia_curvature(program, grid, u.now, steps, g, h, group.n());
            }
            return;
        }
        u.host(program, "sophia_curvature", |mut step| {
            let beta2 = step.coefficients.beta2;
            step.vectors().for_pieces(
                move |Vectors {
                          g, state: [_, h], ..
                      }| {
                    for (h, &g) in h.iter_mut().zip(g) {
                        *h = average_square(beta2, *h, g);
                    }
                },
            );
        });
    }
}
