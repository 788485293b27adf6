//! SiLU: y = x s(x) with s(x) = 1 / (1 + exp(-x)) (Elfwing, Uchibe, Doya 2018, arXiv:1702.03118).
//!
//! Gradient: dx = dy s(x) (1 + x (1 - s(x))).

use crate::cpu::math;
use crate::device::gpu::kernels;
use crate::graph::{Activation, Var};
use crate::ops::elementwise::Elementwise;
use crate::ops::{Case, Row};

const SILU: Elementwise = Elementwise {
    name: "silu",
    activation: Activation::Silu,
    cheap: true,
    forward: math::silu,
    backward: math::silu_backward,
    forward_kernel: kernels::silu_fwd,
    backward_kernel: kernels::silu_bwd,
};

impl<'t> Var<'t> {
    pub fn silu(self) -> Var<'t> {
        self.tape.apply(SILU, &[self], &self.shape())
    }
}

pub const ROW: Row = Row {
    name: "silu",
    cases: &[
        Case::new("5x7", &[&[5, 7]], |x| x[0].silu()),
        Case::new("one value", &[&[1]], |x| x[0].silu()),
        // The second operand lies where vectors do not.
        Case::new("two operands of 11", &[&[11], &[11]], |x| {
            x[0].silu().plus(x[1].silu())
        }),
    ],
};
