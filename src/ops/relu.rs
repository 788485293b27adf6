//! ReLU: y = max(x, 0). NaN stays NaN.
//!
//! Gradient: dx = dy where y > 0, else 0.

use crate::cpu::pool;
use crate::device::Program;
use crate::device::gpu::{elementwise, kernels};
use crate::error::Result;
use crate::graph::{Bwd, BwdSlots, Fwd, FwdSlots, Op, Tail, Var};
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

    fn tail(&self) -> Option<Tail> {
        Some(Tail::Relu)
    }

    fn cpu_fwd(&self, io: Fwd<'_>) {
        pool::relu(io.x[0], io.y);
    }

    fn cpu_bwd(&self, io: Bwd<'_>) {
        let [dx, ..] = io.dx;
        pool::relu_backward(io.y, io.dy, dx);
    }

    fn cuda_fwd(&self, io: FwdSlots, program: &mut Program) -> Result<()> {
        let n = io.y.len;
        kernels::relu_fwd(program, elementwise(n), io.x[0], io.y, n as i64);
        Ok(())
    }

    fn cuda_bwd(&self, io: BwdSlots, program: &mut Program) -> Result<()> {
        let n = io.dy.len;
        kernels::relu_bwd(program, elementwise(n), io.y, io.dy, io.dx[0], n as i64);
        Ok(())
    }
}

pub const ROW: Row = Row {
    name: "relu",
    cases: &[
        Case::new("5x7", &[&[5, 7]], |x| x[0].relu()).avoiding_zero(),
        Case::new("one value", &[&[1]], |x| x[0].relu()).avoiding_zero(),
    ],
};
