//! GELU: y = x Phi(x), Phi being the standard normal distribution function (Hendrycks and Gimpel 2016, the exact
//! form).
//!
//! Gradient: dx = dy (Phi(x) + x Phi'(x)).

use crate::device::cpu::math;
use crate::graph::{Bwd, Fwd, Op, Var};
use crate::ops::{Case, Row};

struct Gelu;

impl<'t> Var<'t> {
    pub fn gelu(self) -> Var<'t> {
        self.tape.apply(Gelu, &[self], &self.shape())
    }
}

impl Op for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, io: Fwd<'_>) {
        math::gelu(io.x[0], io.y);
    }

    fn cpu_bwd(&self, io: Bwd<'_>) {
        let [dx, ..] = io.dx;
        math::gelu_backward(io.x[0], io.dy, dx);
    }
}

pub const ROW: Row = Row {
    name: "gelu",
    cases: &[
        Case::new("5x7", &[&[5, 7]], |x| x[0].gelu()),
        Case::new("one value", &[&[1]], |x| x[0].gelu()),
    ],
};
