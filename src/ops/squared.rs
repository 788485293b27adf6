//! Mean squared error over all entries: f = mean of (x - y)^2.
//!
//! Gradient: dx = 2 (x - y) df / n.

use crate::device::cpu;
use crate::device::gpu::{Queue, elementwise, kernels};
use crate::error::Result;
use crate::graph::{Bwd, BwdSlots, Fwd, FwdSlots, Op, Var};
use crate::ops::{Case, Data, Row};

struct Squared {
    n: usize,
}

impl<'t> Var<'t> {
    /// Mean squared error of outputs and targets of equal count, both flattened: a scalar.
    pub fn squared(self, target: Var<'t>) -> Var<'t> {
        let n = self.size();
        assert_eq!(target.size(), n, "squared: a target for each output");
        self.tape.apply(Squared { n }, &[self, target], &[1])
    }
}

impl Op for Squared {
    fn name(&self) -> &'static str {
        "squared"
    }

    fn cpu_fwd(&self, io: Fwd<'_>) {
        let [x, target, ..] = io.x;
        let sum = cpu::sum_of(x, target, |x, y| (x - y) * (x - y));
        io.y[0] = cpu::mean(sum, self.n);
    }

    fn cpu_bwd(&self, io: Bwd<'_>) {
        let [x, target, ..] = io.x;
        let [dx, ..] = io.dx;
        let scale = 2.0 * io.dy[0] / self.n as f32;
        cpu::map2(dx, x, target, |x, y| (x - y) * scale);
    }

    fn cuda_fwd(&self, io: FwdSlots, queue: &mut Queue) -> Result<()> {
        kernels::squared_fwd(queue, 1, io.x[0], io.x[1], io.y, self.n as i64);
        Ok(())
    }

    fn cuda_bwd(&self, io: BwdSlots, queue: &mut Queue) -> Result<()> {
        let ([x, target, ..], n) = (io.x, self.n);
        kernels::squared_bwd(queue, elementwise(n), x, target, io.dy, io.dx[0], n as i64);
        Ok(())
    }
}

pub const ROW: Row = Row {
    name: "squared",
    cases: &[
        Case::new("4x3", &[&[4, 3]], |x| x[0].squared(x[1])).with_data(&[4, 3], Data::Normal),
        Case::new("one value", &[&[1, 1]], |x| x[0].squared(x[1])).with_data(&[1, 1], Data::Normal),
    ],
};
