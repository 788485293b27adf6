//! Inner products of rows: y[n] = sum over r of a[n, r] b[n, r].
//!
//! Gradient: da = dy b, db = dy a, row by row.

use crate::device::Program;
use crate::device::gpu::{elementwise, kernels};
use crate::error::Result;
use crate::graph::{Bwd, BwdSlots, Fwd, FwdSlots, Op, Var};
use crate::ops::{Case, Row};

struct RowDot {
    columns: usize,
}

impl<'t> Var<'t> {
    /// The inner products of the rows of two tensors (N, R): (N, 1).
    pub fn row_dot(self, other: Var<'t>) -> Var<'t> {
        let (rows, columns) = self.rows_columns();
        assert_eq!(self.shape(), other.shape(), "row_dot: shapes differ");
        let op = RowDot { columns };
        self.tape.apply(op, &[self, other], &[rows, 1])
    }
}

impl Op for RowDot {
    fn name(&self) -> &'static str {
        "row_dot"
    }

    fn cpu_fwd(&self, io: Fwd<'_>) {
        let [a, b, ..] = io.x.map(|x| x.chunks_exact(self.columns));
        for (y, (a, b)) in io.y.iter_mut().zip(a.zip(b)) {
            *y = a.iter().zip(b).map(|(a, b)| a * b).sum();
        }
    }

    fn cpu_bwd(&self, io: Bwd<'_>) {
        let [a, b, ..] = io.x;
        let [da, db, ..] = io.dx;
        for (dx, other) in [(da, b), (db, a)] {
            let rows = dx.chunks_exact_mut(self.columns);
            for ((dx, other), dy) in rows.zip(other.chunks_exact(self.columns)).zip(io.dy) {
                for (dx, other) in dx.iter_mut().zip(other) {
                    *dx = dy * other;
                }
            }
        }
    }

    fn cuda_fwd(&self, io: FwdSlots, program: &mut Program) -> Result<()> {
        let (rows, columns) = (io.y.len, self.columns as i32);
        let grid = elementwise(rows);
        kernels::row_dot_fwd(program, grid, io.x[0], io.x[1], io.y, rows as i32, columns);
        Ok(())
    }

    fn cuda_bwd(&self, io: BwdSlots, program: &mut Program) -> Result<()> {
        let ([a, b, ..], [da, db, ..]) = (io.x, io.dx);
        let (rows, columns) = (io.dy.len as i32, self.columns as i32);
        for (dx, other) in [(da, b), (db, a)].into_iter().filter(|(dx, _)| dx.len > 0) {
            kernels::row_dot_bwd(
                program,
                elementwise(dx.len),
                other,
                io.dy,
                dx,
                rows,
                columns,
            );
        }
        Ok(())
    }
}

pub const ROW: Row = Row {
    name: "row_dot",
    cases: &[
        Case::new("5x3", &[&[5, 3], &[5, 3]], |x| x[0].row_dot(x[1])),
        Case::new("one column", &[&[4, 1], &[4, 1]], |x| x[0].row_dot(x[1])),
    ],
};
