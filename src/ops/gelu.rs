//! GELU: y = x Phi(x), Phi being the standard normal distribution function (Hendrycks and Gimpel 2016, the exact
//! form).
//!
//! Gradient: dx = dy (Phi(x) + x Phi'(x)).

use crate::cpu::math;
use crate::device::gpu::kernels;
use crate::graph::{Activation, Var};
use crate::ops::elementwise::Elementwise;
use crate::ops::{Case, Row};

const GELU: Elementwise = Elementwise {
    name: "gelu",
    activation: Activation::Gelu,
    cheap: false,
    forward: math::gelu,
    backward: math::gelu_backward,
    forward_kernel: kernels::gelu_fwd,
    backward_kernel: kernels::gelu_bwd,
};

impl<'t> Var<'t> {
    pub fn gelu(self) -> Var<'t> {
        self.tape.apply(GELU, &[self], &self.shape())
    }
}

pub const ROW: Row = Row {
    name: "gelu",
    cases: &[
        Case::new("5x7", &[&[5, 7]], |x| x[0].gelu()),
        Case::new("one value", &[&[1]], |x| x[0].gelu()),
        // The second operand lies where vectors do not.
        Case::new("two operands of 11", &[&[11], &[11]], |x| {
            x[0].gelu().plus(x[1].gelu())
        }),
    ],
};
