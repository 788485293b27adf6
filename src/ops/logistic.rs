//! Logistic loss: f = mean of ln(1 + exp(-y x)) for targets y in {-1, 1}.
//!
//! Gradient: dx = -y z / (1 + z) df / n with z = exp(-y x). As in PyTorch's soft margin loss, z is
//! not kept from overflowing: beyond a margin of -88 the loss is Infinity and the gradient NaN.

use crate::device::cpu;
use crate::device::gpu::{Queue, elementwise, kernels};
use crate::error::Result;
use crate::graph::{Bwd, BwdSlots, Fwd, FwdSlots, Op, Var};
use crate::ops::{Case, Data, Row};

struct Logistic {
    n: usize,
}

impl<'t> Var<'t> {
    /// Mean logistic loss of outputs and targets in {-1, 1} of equal count, both flattened: a scalar.
    pub fn logistic(self, target: Var<'t>) -> Var<'t> {
        let n = self.size();
        assert_eq!(target.size(), n, "logistic: a target for each output");
        self.tape.apply(Logistic { n }, &[self, target], &[1])
    }
}

impl Op for Logistic {
    fn name(&self) -> &'static str {
        "logistic"
    }

    fn cpu_fwd(&self, io: Fwd<'_>) {
        let [x, target, ..] = io.x;
        let sum = cpu::sum_of(x, target, |x, y| (-y * x).exp().ln_1p());
        io.y[0] = cpu::mean(sum, self.n);
    }

    fn cpu_bwd(&self, io: Bwd<'_>) {
        let [x, target, ..] = io.x;
        let [dx, ..] = io.dx;
        let scale = io.dy[0] / self.n as f32;
        cpu::map2(dx, x, target, |x, y| {
            let z = (-y * x).exp();
            -y * z / (1.0 + z) * scale
        });
    }

    fn cuda_fwd(&self, io: FwdSlots, queue: &mut Queue) -> Result<()> {
        kernels::logistic_fwd(queue, 1, io.x[0], io.x[1], io.y, self.n as i64);
        Ok(())
    }

    fn cuda_bwd(&self, io: BwdSlots, queue: &mut Queue) -> Result<()> {
        let ([x, target, ..], n) = (io.x, self.n);
        kernels::logistic_bwd(queue, elementwise(n), x, target, io.dy, io.dx[0], n as i64);
        Ok(())
    }
}

pub const ROW: Row = Row {
    name: "logistic",
    cases: &[
        Case::new("7 rows", &[&[7, 1]], |x| x[0].logistic(x[1])).with_data(&[7, 1], Data::Signs),
        Case::new("one row", &[&[1, 1]], |x| x[0].logistic(x[1])).with_data(&[1, 1], Data::Signs),
    ],
};
