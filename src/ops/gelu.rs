//! GELU: y = x Phi(x), Phi being the standard normal distribution function (Hendrycks and Gimpel 2016, the exact
//! form).
//!
//! Gradient: dx = dy (Phi(x) + x Phi'(x)).

use crate::cpu::math;
use crate::device::Program;
use crate::device::Slot;
use crate::device::gpu::{aligned, elementwise, kernels};
use crate::error::Result;
use crate::graph::{Bwd, BwdSlots, Fwd, FwdSlots, Op, Var};
use crate::ops::{Case, Row};

struct Gelu;

impl<'t> Var<'t> {
    pub fn gelu(self) -> Var<'t> {
        self.tape.apply(Gelu, &[self], &self.shape())
    }
}

/// Vectors of four floats, where there are any.
fn vectors(slots: &[Slot]) -> i64 {
    match aligned(slots) {
        true => (slots[0].len / 4) as i64,
        false => 0,
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

    fn cuda_fwd(&self, io: FwdSlots, program: &mut Program) -> Result<()> {
        let (x, y, n) = (io.x[0], io.y, io.y.len);
        let (grid, vectors) = (elementwise(n.div_ceil(4)), vectors(&[x, y]));
        kernels::gelu_fwd(program, grid, x, y, vectors, n as i64);
        Ok(())
    }

    fn cuda_bwd(&self, io: BwdSlots, program: &mut Program) -> Result<()> {
        let (x, dy, dx, n) = (io.x[0], io.dy, io.dx[0], io.dy.len);
        let (grid, vectors) = (elementwise(n.div_ceil(4)), vectors(&[x, dy, dx]));
        kernels::gelu_bwd(program, grid, x, dy, dx, vectors, n as i64);
        Ok(())
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
