//! AdaBelief: Adam with the variance of the gradient in place of its square, rectified as in RAdam.
//!
//! Paper: J. Zhuang et al., "AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed
//! Gradients", NeurIPS 2020, arXiv:2010.07468; rectification: L. Liu et al., "On the Variance of the
//! Adaptive Learning Rate and Beyond", ICLR 2020, arXiv:1908.03265.
//!
//! State: d and v, the running averages of the gradient and of its squared distance from d.
//!
//! ```text
//! w = (1 - lr wd) w
//! d = beta1 d + (1 - beta1) g
//! v = beta2 v + (1 - beta2) (g - d)^2 + eps
//! M = 2 / (1 - beta2) - 1,  N = M - 2 k beta2^k / (1 - beta2^k)
//! w = w - lr r / (1 - beta1^k) d / (sqrt(v) + eps)      where N >= 5
//! w = w - lr / (1 - beta1^k) d                          elsewhere
//! r^2 = (1 - beta2^k) (N - 4) / (M - 4) (N - 2) / N M / (M - 2)
//! ```
//!
//! Without `rectify` it is Adam's step: w = w - lr / (1 - beta1^k) d / (sqrt(v) / sqrt(1 - beta2^k) + eps).

use super::{
    At, BETAS, EPS, Look, Marker, Memory, Method, Reports, Row, Shape, StateVector, Update,
    Vectors, average, average_square,
};
use crate::config::{Entry, Key, Kind};
use crate::device::Program;
use crate::device::gpu::{
    elementwise,
    kernels::{self, AdaBeliefStep},
};
use crate::graph::Tensor;

pub(super) const ADABELIEF: Row = Row {
    entry: Entry {
        name: "adabelief",
        about: "Adam with the gradient's variance, rectified, decoupled weight decay",
        paper: "Zhuang et al. 2020, arXiv:2010.07468",
        keys: &[
            BETAS,
            Key {
                default: Some("1e-16"),
                about: "added to the variance in every step, and to the denominator",
                ..EPS
            },
            Key {
                name: "rectify",
                kind: Kind::Flag,
                default: Some("true"),
                about: "steps are as long as the variance is certain, as in RAdam (Liu et al. 2020, arXiv:1908.03265)",
            },
        ],
    },
    look: Look {
        colour: 0xe69f00,
        reference: Some(0xffbf46),
        marker: Marker::Filled(Shape::Left),
        dash: 5,
    },
    reports: Reports::NOTHING,
    rest: None,
    build: &|values| {
        Box::new(AdaBelief {
            betas: values.pair("betas"),
            eps: values.real("eps"),
            weight_decay: values.real("weight_decay"),
            rectify: values.flag("rectify"),
        })
    },
};

struct AdaBelief {
    betas: (f64, f64),
    eps: f64,
    weight_decay: f64,
    rectify: bool,
}

impl AdaBelief {
    /// r in the k-th step; `None` as long as the variance rests on too few gradients.
    fn rectification(&self, k: f64) -> Option<f64> {
        let beta2 = self.betas.1;
        let power = beta2.powf(k);
        let longest = 2.0 / (1.0 - beta2) - 1.0;
        let length = longest - 2.0 * k * power / (1.0 - power);
        let ratio =
            (length - 4.0) / (longest - 4.0) * (length - 2.0) / length * longest / (longest - 2.0);
        (length >= 5.0).then(|| ((1.0 - power) * ratio).sqrt())
    }
}

impl Method for AdaBelief {
    type Coefficients = AdaBeliefStep;
    type Scalars = ();

    fn memory(&self, _: &[Tensor]) -> Memory {
        Memory {
            vectors: StateVector::zeros(["exp_avg", "exp_avg_var"]),
            ..Memory::default()
        }
    }

    fn coefficients(&mut self, at: At) -> AdaBeliefStep {
        let (beta1, beta2) = self.betas;
        let k = at.k as f64;
        let (rectification, root) = match self.rectify {
            true => (self.rectification(k), 1.0),
            false => (Some(1.0), (1.0 - beta2.powf(k)).sqrt()),
        };
        AdaBeliefStep {
            root,
            beta1,
            beta2,
            eps: self.eps,
            shrink: 1.0 - at.lr * self.weight_decay,
            lr: at.lr * rectification.unwrap_or(1.0) / (1.0 - beta1.powf(k)),
            adaptive: f64::from(u8::from(rectification.is_some())),
        }
    }

    fn kernels(&self, u: &Update<Self>, program: &mut Program) {
        let (grid, [d, v]) = (elementwise(u.w.len), u.vectors());
        kernels::adabelief(program, grid, u.now, u.coefficients, u.w, u.g, d, v, u.n());
    }

    fn host(&self, u: &Update<Self>, program: &mut Program) {
        u.host(program, "adabelief", |mut step| {
            let c = *step.coefficients;
            let [root, eps, shrink, lr] = [c.root, c.eps, c.shrink, c.lr].map(|c| c as f32);
            let adaptive = c.adaptive != 0.0;
            step.vectors().for_pieces(
                move |Vectors {
                          w,
                          g,
                          state: [d, v],
                      }| {
                    for (((w, &g), d), v) in w.iter_mut().zip(g).zip(d).zip(v) {
                        *d = average(c.beta1, *d, g);
                        *v = average_square(c.beta2, *v, g - *d) + eps;
                        let denominator = if adaptive { v.sqrt() / root + eps } else { 1.0 };
                        *w = shrink * *w - lr * *d / denominator;
                    }
                },
            );
        });
    }
}
