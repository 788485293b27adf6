//! Mean squared error over all entries of a batch: f = mean of (x - y)^2.
//!
//! Gradient, of one batch: dx = 2 (x - y) df / n.

use crate::cpu;
use crate::device::Program;
use crate::device::gpu::{elementwise, kernels};
use crate::error::Result;
use crate::graph::{Bwd, BwdSlots, Fwd, FwdSlots, Op, Var};
use crate::ops::{Case, Data, Row};

struct Squared {
    /// Entries, and those of a batch.
    n: usize,
    batch: usize,
}

impl<'t> Var<'t> {
    /// Mean squared error of outputs and targets of equal count, both flattened: a scalar.
    pub fn squared(self, target: Var<'t>) -> Var<'t> {
        self.squared_by_batch(target, self.rows_columns().0)
    }

    /// Of each batch of this many rows; the last one has what is left.
    pub fn squared_by_batch(self, target: Var<'t>, batch: usize) -> Var<'t> {
        let (n, (rows, columns)) = (self.size(), self.rows_columns());
        assert_eq!(target.size(), n, "squared: a target for each output");
        let op = Squared {
            n,
            batch: batch * columns,
        };
        self.tape
            .apply(op, &[self, target], &[rows.div_ceil(batch)])
    }
}

impl Op for Squared {
    fn name(&self) -> &'static str {
        "squared"
    }

    fn cpu_fwd(&self, io: Fwd<'_>) {
        let [x, target, ..] = io.x;
        cpu::means_of(x, target, self.batch, io.y, |x, y| (x - y) * (x - y));
    }

    fn cpu_bwd(&self, io: Bwd<'_>) {
        let [x, target, ..] = io.x;
        let [dx, ..] = io.dx;
        assert_eq!(io.dy.len(), 1, "the gradient is of one batch");
        let scale = 2.0 * io.dy[0] / self.n as f32;
        cpu::map2(dx, x, target, |x, y| (x - y) * scale);
    }

    fn cuda_fwd(&self, io: FwdSlots, program: &mut Program) -> Result<()> {
        let ([x, target, ..], y) = (io.x, io.y);
        let (n, batch) = (self.n as i64, self.batch as i64);
        kernels::squared_fwd(program, y.len, x, target, y, n, batch);
        Ok(())
    }

    fn cuda_bwd(&self, io: BwdSlots, program: &mut Program) -> Result<()> {
        assert_eq!(io.dy.len, 1, "the gradient is of one batch");
        let ([x, target, ..], n) = (io.x, self.n);
        kernels::squared_bwd(
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
    name: "squared",
    cases: &[
        Case::new("4x3", &[&[4, 3]], |x| x[0].squared(x[1])).with_data(&[4, 3], Data::Normal),
        Case::new("one value", &[&[1, 1]], |x| x[0].squared(x[1])).with_data(&[1, 1], Data::Normal),
    ],
};
