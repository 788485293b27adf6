//! Logistic loss: f = mean over a batch of ln(1 + exp(-y x)) for targets y in {-1, 1}.
//!
//! Gradient, of one batch: dx = -y z / (1 + z) df / n with z = exp(-y x). As in PyTorch's soft margin loss, z is
//! not kept from overflowing: beyond a margin of -88 the loss is Infinity and the gradient NaN.

use crate::cpu;
use crate::device::Program;
use crate::device::gpu::{elementwise, kernels};
use crate::error::Result;
use crate::graph::{Bwd, BwdSlots, Fwd, FwdSlots, Op, Var};
use crate::ops::{Case, Data, Row};

struct Logistic {
    /// Outputs, and those of a batch.
    n: usize,
    batch: usize,
}

impl<'t> Var<'t> {
    /// Mean logistic loss of outputs and targets in {-1, 1} of equal count, both flattened: a scalar.
    pub fn logistic(self, target: Var<'t>) -> Var<'t> {
        self.logistic_by_batch(target, self.rows_columns().0)
    }

    /// Of each batch of this many rows; the last one has what is left.
    pub fn logistic_by_batch(self, target: Var<'t>, batch: usize) -> Var<'t> {
        let (n, (rows, columns)) = (self.size(), self.rows_columns());
        assert_eq!(target.size(), n, "logistic: a target for each output");
        let op = Logistic {
            n,
            batch: batch * columns,
        };
        self.tape
            .apply(op, &[self, target], &[rows.div_ceil(batch)])
    }
}

impl Op for Logistic {
    fn name(&self) -> &'static str {
        "logistic"
    }

    fn cpu_fwd(&self, io: Fwd<'_>) {
        let [x, target, ..] = io.x;
        cpu::means_of(x, target, self.batch, io.y, |x, y| (-y * x).exp().ln_1p());
    }

    fn cpu_bwd(&self, io: Bwd<'_>) {
        let [x, target, ..] = io.x;
        let [dx, ..] = io.dx;
        assert_eq!(io.dy.len(), 1, "the gradient is of one batch");
        let scale = io.dy[0] / self.n as f32;
        cpu::map2(dx, x, target, |x, y| {
            let z = (-y * x).exp();
            -y * z / (1.0 + z) * scale
        });
    }

    fn cuda_fwd(&self, io: FwdSlots, program: &mut Program) -> Result<()> {
        let ([x, target, ..], y) = (io.x, io.y);
        let (n, batch) = (self.n as i64, self.batch as i64);
        kernels::logistic_fwd(program, y.len, x, target, y, n, batch);
        Ok(())
    }

    fn cuda_bwd(&self, io: BwdSlots, program: &mut Program) -> Result<()> {
        assert_eq!(io.dy.len, 1, "the gradient is of one batch");
        let ([x, target, ..], n) = (io.x, self.n);
        kernels::logistic_bwd(
            program,
            elementwise(n),
            x,
            target,
            io.dy,
            io.dx[0],
            n as i64,
        );
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
