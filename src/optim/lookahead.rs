//! Lookahead around any method: slow weights that follow the trained ones every k steps.
//!
//! Paper: M. Zhang et al., "Lookahead Optimizer: k steps forward, 1 step back", NeurIPS 2019,
//! arXiv:1907.08610.
//!
//! State: slow, the initial weights at first. After every k-th step of the method, whose memory stays as it is:
//!
//! ```text
//! slow = slow + alpha (w - slow)
//! w = slow
//! ```

use super::{AnyMethod, At, Memory, Method, NO_LESS_THAN_0, StateVector, Update, Vectors};
use crate::config::{Key, Kind, Values};
use crate::device::Program;
use crate::device::gpu::{elementwise, kernels};
use crate::graph::Tensor;

pub(super) const K: Key = Key {
    name: "lookahead_k",
    kind: NO_LESS_THAN_0,
    default: Some("0"),
    about: "steps after which Lookahead's slow weights follow (5 is usual); 0: no Lookahead (Zhang et al. 2019, arXiv:1907.08610)",
};

pub(super) const ALPHA: Key = Key {
    name: "lookahead_alpha",
    kind: Kind::Fraction,
    default: Some("0.5"),
    about: "the part of the way to the trained weights that Lookahead's slow weights go",
};

struct Lookahead {
    k: u64,
    alpha: f32,
}

/// What a run's optimizer object asks for.
pub(super) fn wrapper(values: &Values) -> Option<Box<dyn AnyMethod>> {
    let (k, alpha) = (values.count(K.name) as u64, values.real(ALPHA.name) as f32);
    (k > 0).then(|| Box::new(Lookahead { k, alpha }) as Box<dyn AnyMethod>)
}

impl Method for Lookahead {
    type Coefficients = ();
    type Scalars = ();

    fn memory(&self, _: &[Tensor]) -> Memory {
        Memory {
            vectors: vec![StateVector::of_parameters("slow")],
            ..Memory::default()
        }
    }

    fn coefficients(&mut self, _: At) {}

    fn kernels(&self, u: &Update<Self>, program: &mut Program) {
        let (grid, [slow], k) = (elementwise(u.w.len), u.vectors(), self.k as i64);
        kernels::lookahead(program, grid, u.now, u.w, slow, k, self.alpha, u.n());
    }

    fn host(&self, u: &Update<Self>, program: &mut Program) {
        let (k, alpha) = (self.k, self.alpha);
        u.host(program, "lookahead", move |mut step| {
            if !(step.now.done + 1).is_multiple_of(k) {
                return;
            }
            step.vectors().for_pieces(
                move |Vectors {
                          w, state: [slow], ..
                      }| {
                    for (w, slow) in w.iter_mut().zip(slow) {
                        *slow = alpha.mul_add(*w - *slow, *slow);
                        *w = *slow;
                    }
                },
            );
        });
    }
}
