//! ReLU squared: y = max(x, 0)^2 (So et al. 2021, arXiv:2109.08668). NaN stays NaN.
//!
//! Gradient: dx = 2 max(x, 0) dy.

use crate::cpu::math;
use crate::device::gpu::kernels;
use crate::graph::{Activation, Var};
use crate::ops::elementwise::Elementwise;
use crate::ops::{Case, Row};

const RELU_SQUARED: Elementwise = Elementwise {
    name: "relu_squared",
    activation: Activation::ReluSquared,
    cheap: true,
    forward: math::relu_squared,
    backward: math::relu_squared_backward,
    forward_kernel: kernels::relu_squared_fwd,
    backward_kernel: kernels::relu_squared_bwd,
};

impl<'t> Var<'t> {
    pub fn relu_squared(self) -> Var<'t> {
        self.tape.apply(RELU_SQUARED, &[self], &self.shape())
    }
}

pub const ROW: Row = Row {
    name: "relu_squared",
    cases: &[
        Case::new("5x7", &[&[5, 7]], |x| x[0].relu_squared()).avoiding_zero(),
        Case::new("one value", &[&[1]], |x| x[0].relu_squared()).avoiding_zero(),
        // The second operand lies where vectors do not.
        Case::new("two operands of 11", &[&[11], &[11]], |x| {
            x[0].relu_squared().plus(x[1].relu_squared())
        })
        .avoiding_zero(),
    ],
};
