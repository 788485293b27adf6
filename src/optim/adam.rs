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
//! With `amsgrad` (S. Reddi et al., "On the Convergence of Adam and Beyond", ICLR 2018, arXiv:1904.09237) the largest v so far
//! takes v's place in u: one more vector.
//!
//! Cautious updates are those of [`super::cautious`]; cautious weight decay (L. Chen et al., "Cautious Weight Decay", 2025,
//! arXiv:2510.12402) leaves out weights that the update enlarges: w = (1 - lr wd [u w >= 0]) w, where u is the masked one.

use super::sgd::decayed;
use super::{
    At, BETAS, EPS, Look, Marker, Memory, Method, Reports, Row, Shape, StateVector, Update,
    Vectors, average_square, cautious, lerp,
};
use crate::config::{Entry, Key, Kind, Values};
use crate::device::gpu::{
    elementwise,
    kernels::{self, AdamStep, LayerPlaces, Layers},
};
use crate::device::{Program, View};
use crate::graph::Tensor;

pub(super) const ADAM: Row = Row {
    entry: Entry {
        name: "adam",
        about: "Adam, weight decay added to the gradient",
        paper: "Kingma and Ba 2015, arXiv:1412.6980",
        keys: &[BETAS, EPS, AMSGRAD],
    },
    look: Look {
        colour: 0xd55e00,
        reference: Some(0xf34213),
        marker: Marker::Filled(Shape::Up),
        dash: 1,
    },
    reports: Reports::NOTHING,
    rest: None,
    build: &|values| Box::new(Adam::new(values, false)),
};

pub(super) const ADAMW: Row = Row {
    entry: Entry {
        name: "adamw",
        about: "Adam with decoupled weight decay",
        paper: "Loshchilov and Hutter 2019, arXiv:1711.05101",
        keys: &[BETAS, EPS, AMSGRAD, cautious::CAUTIOUS, CAUTIOUS_DECAY],
    },
    look: Look {
        colour: 0xd55e00,
        reference: Some(0xf34213),
        marker: Marker::Filled(Shape::Down),
        dash: 6,
    },
    reports: Reports::NOTHING,
    rest: None,
    build: &|values| {
        Box::new(Adam {
            cautious: values.flag("cautious"),
            cautious_decay: values.flag("cautious_weight_decay"),
            ..Adam::new(values, true)
        })
    },
};

const AMSGRAD: Key = Key {
    name: "amsgrad",
    kind: Kind::Flag,
    default: Some("false"),
    about: "the largest running average of the squared gradient so far takes its place (Reddi et al. 2018, arXiv:1904.09237)",
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
    amsgrad: bool,
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
            amsgrad: values.flag("amsgrad"),
            cautious: false,
            cautious_decay: false,
        }
    }

    /// Is the update looked at before it is applied?
    fn in_two_steps(&self) -> bool {
        self.cautious || self.cautious_decay
    }
}

/// Has the update made in the launch that computes the gradient, if one computes all of it: `kernels/layers.cu`. Was there one?
fn in_layers(u: &Update<Adam>, program: &mut Program) -> bool {
    let inside = |of: &View<f32>| of.start >= u.g.start && of.start + of.len <= u.g.end();
    let fits = |layers: &Layers| {
        let Layers {
            dw0, dw1, dw2, dw3, ..
        } = *layers;
        let Layers {
            db0, db1, db2, db3, ..
        } = *layers;
        let all = [dw0, dw1, dw2, dw3, db0, db1, db2, db3];
        let mut trained = all.iter().filter(|gradient| gradient.len > 0);
        let len: usize = trained.clone().map(|gradient| gradient.len).sum();
        trained.all(inside) && len == u.g.len
    };
    let Some((grid, layers)) = program.take_layers(fits) else {
        return false;
    };
    // Of what is not trained it does not matter.
    let place = |of: View<f32>| of.start.saturating_sub(u.w.start) as i32;
    let [adam_d, adam_v] = u.vectors();
    let arguments = Layers {
        now: u.now,
        adam: 1,
        adam_steps: u.coefficients,
        places: LayerPlaces {
            w0: place(layers.w0),
            w1: place(layers.w1),
            w2: place(layers.w2),
            w3: place(layers.w3),
            b0: place(layers.b0),
            b1: place(layers.b1),
            b2: place(layers.b2),
            b3: place(layers.b3),
        },
        adam_d,
        adam_v,
        ..layers
    };
    kernels::layers(program, grid, arguments);
    true
}

impl Method for Adam {
    type Coefficients = AdamStep;
    type Scalars = ();

    fn memory(&self, of: &[Tensor]) -> Memory {
        let in_two_steps = self.in_two_steps();
        let mut vectors = StateVector::zeros(["exp_avg", "exp_avg_sq"]);
        if self.amsgrad {
            vectors.extend(StateVector::zeros(["max_exp_avg_sq"]));
        }
        Memory {
            vectors,
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
        let (grid, n, [d, v]) = (elementwise(u.w.len), u.n(), u.vectors());
        let largest = u.state.part(2 * u.w.len, u.state.len - 2 * u.w.len);
        if self.in_two_steps() {
            let arguments = kernels::AdamDirection {
                now: u.now,
                steps: u.coefficients,
                w: u.w.into(),
                g: u.g.into(),
                d,
                v,
                largest,
                amsgrad: self.amsgrad.into(),
                update: u.work.part(0, u.w.len),
                cautious: self.cautious.into(),
                cautious_decay: self.cautious_decay.into(),
                n,
            };
            kernels::adam_direction(program, grid, arguments);
            cautious::apply(u, self.cautious, program);
        } else if self.amsgrad {
            kernels::amsgrad(
                program,
                grid,
                u.now,
                u.coefficients,
                u.w,
                u.g,
                d,
                v,
                largest,
                n,
            );
        } else if !in_layers(u, program) {
            kernels::adam(program, grid, u.now, u.coefficients, u.w, u.g, d, v, n);
        }
    }

    fn host(&self, u: &Update<Self>, program: &mut Program) {
        if self.in_two_steps() {
            self.direct_on_host(u, program);
            return cautious::apply(u, self.cautious, program);
        }
        let amsgrad = self.amsgrad;
        u.host(program, "adam", move |mut step| {
            let c = Single::new(step.coefficients);
            if amsgrad {
                return step.vectors().for_pieces(
                    move |Vectors {
                              w,
                              g,
                              state: [d, v, largest],
                          }| {
                        let state = d.iter_mut().zip(v).zip(largest);
                        for ((w, &g), ((d, v), largest)) in w.iter_mut().zip(g).zip(state) {
                            c.average(decayed(g, c.weight_decay, *w), d, v);
                            *largest = larger(*largest, *v);
                            *w = c.shrink * *w - c.update(*d, *largest);
                        }
                    },
                );
            }
            step.vectors().for_pieces(
                move |Vectors {
                          w,
                          g,
                          state: [d, v],
                      }| {
                    for (((w, &g), d), v) in w.iter_mut().zip(g).zip(d).zip(v) {
                        c.average(decayed(g, c.weight_decay, *w), d, v);
                        *w = c.shrink * *w - c.update(*d, *v);
                    }
                },
            );
        });
    }
}

impl Adam {
    /// Decays the weights, and leaves the update in the workspace.
    fn direct_on_host(&self, u: &Update<Self>, program: &mut Program) {
        let (cautious, cautious_decay) = (self.cautious, self.cautious_decay);
        let amsgrad = self.amsgrad;
        u.host(program, "adam_direction", move |mut step| {
            let c = Single::new(step.coefficients);
            let decay = move |w: &mut f32, g: f32, update: f32| {
                let left_out = cautious && update * g <= 0.0;
                let decays = !cautious_decay || left_out || update * *w >= 0.0;
                *w *= if decays { c.shrink } else { 1.0 };
            };
            if amsgrad {
                return step.vectors().for_pieces(
                    move |Vectors {
                              w,
                              g,
                              state: [d, v, largest, update],
                          }| {
                        let state = d.iter_mut().zip(v).zip(largest).zip(update);
                        for ((w, &g), (((d, v), largest), update)) in w.iter_mut().zip(g).zip(state)
                        {
                            c.average(g, d, v);
                            *largest = larger(*largest, *v);
                            *update = c.update(*d, *largest);
                            decay(w, g, *update);
                        }
                    },
                );
            }
            step.vectors().for_pieces(
                move |Vectors {
                          w,
                          g,
                          state: [d, v, update],
                      }| {
                    let state = d.iter_mut().zip(v).zip(update);
                    for ((w, &g), ((d, v), update)) in w.iter_mut().zip(g).zip(state) {
                        c.average(g, d, v);
                        *update = c.update(*d, *v);
                        decay(w, g, *update);
                    }
                },
            );
        });
    }
}

/// The coefficients as they meet vectors.
#[derive(Clone, Copy)]
struct Single {
    lr: f32,
    root: f32,
    eps: f32,
    weight_decay: f32,
    shrink: f32,
    weight: f32,
    beta2: f64,
}

impl Single {
    fn new(c: &AdamStep) -> Single {
        Single {
            lr: c.lr as f32,
            root: c.root as f32,
            eps: c.eps as f32,
            weight_decay: c.weight_decay as f32,
            shrink: c.shrink as f32,
            weight: (1.0 - c.beta1) as f32,
            beta2: c.beta2,
        }
    }

    #[inline(always)]
    fn average(self, g: f32, d: &mut f32, v: &mut f32) {
        *d = lerp(*d, g, self.weight);
        *v = average_square(self.beta2, *v, g);
    }

    #[inline(always)]
    fn update(self, d: f32, v: f32) -> f32 {
        self.lr * d / (v.sqrt() / self.root + self.eps)
    }
}

/// A NaN of `x` stays.
#[inline(always)]
fn larger(old: f32, x: f32) -> f32 {
    if x <= old { old } else { x }
}
