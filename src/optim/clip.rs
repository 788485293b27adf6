//! Gradients of limited length, or of limited numbers, around any method.
//!
//! Paper: R. Pascanu, T. Mikolov, Y. Bengio, "On the difficulty of training recurrent neural networks", ICML 2013,
//! arXiv:1211.5063. As `torch.nn.utils.clip_grad_norm_` and `clip_grad_value_`, in this order, with the norm over all
//! parameters. Before every step of the method:
//!
//! ```text
//! g = g min(1, norm / (|g| + 1e-6))
//! g = min(max(g, -value), value)
//! ```

use super::{AnyMethod, At, Memory, Method, Update};
use crate::config::{Key, Kind, Values};
use crate::cpu;
use crate::device::Program;
use crate::device::gpu::{elementwise, kernels};
use crate::device::program::floats_mut;
use crate::error::Result;
use crate::graph::Tensor;

pub(super) const NORM: Key = Key {
    name: "grad_clip_norm",
    kind: Kind::NonNegative,
    default: Some("0"),
    about: "longer gradients are shortened to this l2 norm; 0: none are (Pascanu et al. 2013, arXiv:1211.5063)",
};

pub(super) const VALUE: Key = Key {
    name: "grad_clip_value",
    kind: Kind::NonNegative,
    default: Some("0"),
    about: "larger numbers in gradients are cut to this size; 0: none are",
};

/// 0 where there is no limit.
struct Clip {
    norm: f32,
    value: f32,
}

/// What a run's optimizer object asks for.
pub(super) fn wrapper(values: &Values) -> Option<Box<dyn AnyMethod>> {
    let [norm, value] = [NORM, VALUE].map(|key| values.real(key.name) as f32);
    (norm > 0.0 || value > 0.0).then(|| Box::new(Clip { norm, value }) as Box<dyn AnyMethod>)
}

impl Method for Clip {
    type Coefficients = ();
    type Scalars = ();

    fn memory(&self, _: &[Tensor]) -> Memory {
        Memory::default()
    }

    fn coefficients(&mut self, _: At) {}

    fn changes_gradient(&self) -> bool {
        true
    }

    fn before(&self, u: &Update<Self>, program: &mut Program) -> Result<()> {
        let Clip { norm, value } = *self;
        if !program.on_host() {
            let blocks = u.sum_blocks();
            if norm > 0.0 {
                kernels::clip_sums(program, blocks, u.g, u.partial, u.n());
            }
            let (grid, sums) = (elementwise(u.g.len), blocks as i32);
            kernels::clip(program, grid, u.g, u.partial, sums, norm, value, u.n());
            return Ok(());
        }
        program.host("clip", [], [u.g.into()], move |[], [g]| {
            let g = floats_mut(g);
            if norm > 0.0 {
                let factor = norm / ((cpu::dot(g, g) as f32).sqrt() + 1e-6);
                // A gradient that is not finite stays so.
                if factor < 1.0 || factor.is_nan() {
                    g.iter_mut().for_each(|g| *g *= factor);
                }
            }
            if value > 0.0 {
                g.iter_mut().for_each(|g| *g = g.clamp(-value, value));
            }
        });
        Ok(())
    }
}
