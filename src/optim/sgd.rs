//! Stochastic gradient descent: plain, with heavy-ball momentum, with Nesterov's momentum.
//!
//! Paper: H. Robbins, S. Monro, "A Stochastic Approximation Method", 1951; the momentum in the form of
//! I. Sutskever, J. Martens, G. Dahl, G. Hinton, "On the importance of initialization and momentum in
//! deep learning", ICML 2013, as PyTorch has it.
//!
//! State: b, the momentum buffer (not for `sgd`).
//!
//! ```text
//! g = g + wd w
//! b = g                        in the first step, and in all if m = 0
//! b = m b + (1 - damp) g       in the others
//! w = w - lr g                 sgd
//! w = w - lr b                 sgd-m
//! w = w - lr (g + m b)         sgd-nesterov
//! ```

use serde_json::Value;

use super::{At, Look, Marker, Memory, Method, Reports, Row, Shape, StateVector, Update, Vectors};
use crate::config::{Entry, Key, Kind, Values};
use crate::device::Program;
use crate::device::gpu::{
    elementwise,
    kernels::{self, MomentumStep, SgdStep},
};
use crate::graph::Tensor;

const MOMENTUM: Key = Key {
    name: "momentum",
    kind: Kind::NonNegative,
    default: Some("0.9"),
    about: "factor m of the momentum buffer",
};

const DAMPENING: Key = Key {
    name: "dampening",
    kind: Kind::Checked("a finite number or \"momentum\"", |v| {
        v.as_str() == Some("momentum") || v.as_f64().is_some_and(f64::is_finite)
    }),
    default: Some("0"),
    about: "the gradient enters the buffer times 1 - dampening; \"momentum\" makes it a running average",
};

// PyTorch refuses the combinations that these two exclude.
const NESTEROV_MOMENTUM: Key = Key {
    kind: Kind::Positive,
    ..MOMENTUM
};

const NESTEROV_DAMPENING: Key = Key {
    kind: Kind::Checked("0, since Nesterov's momentum goes without dampening", |v| {
        v.as_f64() == Some(0.0)
    }),
    about: "0; here so that the config of sgd-m can be used",
    ..DAMPENING
};

pub(super) const SGD: Row = Row {
    entry: Entry {
        name: "sgd",
        about: "stochastic gradient descent",
        paper: "Robbins and Monro 1951",
        keys: &[],
    },
    look: Look {
        colour: 0x56b4e9,
        reference: Some(0x7fb285),
        marker: Marker::Filled(Shape::Diamond),
        dash: 0,
    },
    reports: Reports::NOTHING,
    rest: None,
    build: &|values| {
        Box::new(Sgd {
            weight_decay: values.real("weight_decay"),
        })
    },
};

pub(super) const HEAVY_BALL: Row = Row {
    entry: Entry {
        name: "sgd-m",
        about: "SGD with heavy-ball momentum",
        paper: "Polyak 1964; Sutskever et al. 2013",
        keys: &[MOMENTUM, DAMPENING],
    },
    look: Look {
        colour: 0xcc79a7,
        reference: Some(0xde9151),
        marker: Marker::Filled(Shape::Square),
        dash: 3,
    },
    reports: Reports::NOTHING,
    rest: None,
    build: &|values| Box::new(Momentum::<false>::new(values)),
};

pub(super) const NESTEROV: Row = Row {
    entry: Entry {
        name: "sgd-nesterov",
        about: "SGD with Nesterov's momentum",
        paper: "Nesterov 1983; Sutskever et al. 2013",
        keys: &[NESTEROV_MOMENTUM, NESTEROV_DAMPENING],
    },
    look: Look {
        colour: 0xcc79a7,
        reference: None,
        marker: Marker::Filled(Shape::Spark),
        dash: 5,
    },
    reports: Reports::NOTHING,
    rest: None,
    build: &|values| Box::new(Momentum::<true>::new(values)),
};

/// g + wd w, untouched where there is no decay: 0 times an infinite weight would make a NaN.
pub(super) fn decayed(g: f32, weight_decay: f32, w: f32) -> f32 {
    if weight_decay == 0.0 {
        g
    } else {
        weight_decay.mul_add(w, g)
    }
}

struct Sgd {
    weight_decay: f64,
}

impl Method for Sgd {
    type Coefficients = SgdStep;
    type Scalars = ();

    fn memory(&self, _: &[Tensor]) -> Memory {
        Memory::default()
    }

    fn coefficients(&mut self, at: At) -> SgdStep {
        SgdStep {
            lr: at.lr,
            weight_decay: self.weight_decay,
        }
    }

    fn kernels(&self, u: &Update<Self>, program: &mut Program) {
        kernels::sgd(
            program,
            elementwise(u.w.len),
            u.now,
            u.coefficients,
            u.w,
            u.g,
            u.n(),
        );
    }

    fn host(&self, u: &Update<Self>, program: &mut Program) {
        u.host(program, "sgd", |mut step| {
            let c = *step.coefficients;
            let (lr, wd) = (c.lr as f32, c.weight_decay as f32);
            step.vectors()
                .for_pieces(move |Vectors { w, g, state: [] }| {
                    for (w, &g) in w.iter_mut().zip(g) {
                        *w = (-lr).mul_add(decayed(g, wd, *w), *w);
                    }
                });
        });
    }
}

struct Momentum<const NESTEROV: bool> {
    momentum: f64,
    dampening: f64,
    weight_decay: f64,
}

impl<const NESTEROV: bool> Momentum<NESTEROV> {
    fn new(values: &Values) -> Self {
        let momentum = values.real("momentum");
        let dampening = match values.get("dampening") {
            Value::String(_) => momentum,
            _ => values.real("dampening"),
        };
        Momentum {
            momentum,
            dampening,
            weight_decay: values.real("weight_decay"),
        }
    }
}

impl<const NESTEROV: bool> Method for Momentum<NESTEROV> {
    type Coefficients = MomentumStep;
    type Scalars = ();

    fn memory(&self, _: &[Tensor]) -> Memory {
        Memory {
            vectors: StateVector::zeros(["momentum_buffer"]),
            ..Memory::default()
        }
    }

    fn coefficients(&mut self, at: At) -> MomentumStep {
        // Without momentum PyTorch keeps no buffer, and there is nothing to dampen.
        let (keep, take) = match at.k {
            1 => (0.0, 1.0),
            _ if self.momentum == 0.0 => (0.0, 1.0),
            _ => (self.momentum, 1.0 - self.dampening),
        };
        MomentumStep {
            lr: at.lr,
            weight_decay: self.weight_decay,
            momentum: self.momentum,
            keep,
            take,
        }
    }

    fn kernels(&self, u: &Update<Self>, program: &mut Program) {
        let (grid, [b], nesterov) = (elementwise(u.w.len), u.vectors(), i32::from(NESTEROV));
        kernels::sgd_momentum(
            program,
            grid,
            u.now,
            u.coefficients,
            u.w,
            u.g,
            b,
            nesterov,
            u.n(),
        );
    }

    fn host(&self, u: &Update<Self>, program: &mut Program) {
        u.host(program, "sgd-m", |mut step| {
            let c = *step.coefficients;
            let [lr, wd, m] = [c.lr, c.weight_decay, c.momentum].map(|c| c as f32);
            let (keep, take) = (c.keep as f32, c.take as f32);
            step.vectors()
                .for_pieces(move |Vectors { w, g, state: [b] }| {
                    for ((w, &g), b) in w.iter_mut().zip(g).zip(b) {
                        let g = decayed(g, wd, *w);
                        *b = take.mul_add(g, keep * *b);
                        let direction = if NESTEROV { m.mul_add(*b, g) } else { *b };
                        *w = (-lr).mul_add(direction, *w);
                    }
                });
        });
    }
}
