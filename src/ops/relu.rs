//! ReLU: y = max(x, 0). NaN stays NaN.
//!
//! Gradient: dx = dy where y > 0, else 0.

use crate::device::cpu;
use crate::graph::{Bwd, Fwd, Op, Var};
use crate::ops::{Case, Row};

struct Relu;

impl<'t> Var<'t> {
    pub fn relu(self) -> Var<'t> {
        self.tape.apply(Relu, &[self], &self.shape())
    }
}

impl Op for Relu {
    fn name(&self) -> &'static str {
        "relu"
    }

    fn bwd_reads_inputs(&self) -> bool {
        false
    }

    fn bwd_reads_output(&self) -> bool {
        true
    }

    fn cpu_fwd(&self, io: Fwd<'_>) {
        // Written so that NaN passes: it is not below 0.
        cpu::map(io.y, io.x[0], |x| if x < 0.0 { 0.0 } else { x });
    }

    fn cpu_bwd(&self, io: Bwd<'_>) {
        let [dx, ..] = io.dx;
        cpu::map2(dx, io.y, io.dy, |y, dy| if y <= 0.0 { 0.0 } else { dy });
    }
}

pub const ROW: Row = Row {
    name: "relu",
    cases: &[
        Case::new("5x7", &[&[5, 7]], |x| x[0].relu()).avoiding_zero(),
        Case::new("one value", &[&[1]], |x| x[0].relu()).avoiding_zero(),
    ],
};
