//! Embedding: y[b, r] = w[r, i[b, column]]: columns of w picked by one column of an index table.
//!
//! Gradient: dw[r, j] = sum of dy[b, r] over the b with i[b, column] = j, in the order of b.

use crate::device::Program;
use crate::device::Slot;
use crate::device::gpu::{elementwise, kernels};
use crate::error::Result;
use crate::graph::{Bwd, BwdSlots, Fwd, FwdSlots, Op, Var};
use crate::ops::{Case, Data, Row};

struct Embedding {
    rank: usize,
    count: usize,
    columns: usize,
    column: usize,
}

impl<'t> Var<'t> {
    /// Picks columns of `self` (R, D), or entries of `self` (D), by column `column` of `indices`
    /// (N, K), held as floats below D: (N, R).
    pub fn embedding(self, indices: Var<'t>, column: usize) -> Var<'t> {
        let (rank, count) = self.rows_columns();
        let (n, columns) = indices.rows_columns();
        assert!(column < columns, "embedding: no such column of indices");
        let op = Embedding {
            rank,
            count,
            columns,
            column,
        };
        self.tape.apply(op, &[self, indices], &[n, rank])
    }
}

impl Embedding {
    fn indices<'a>(&self, table: &'a [f32]) -> impl Iterator<Item = usize> + 'a {
        let column = self.column;
        let rows = table.chunks_exact(self.columns);
        rows.map(move |row| row[column] as usize)
    }
}

impl Embedding {
    /// Rows of the output, and what the kernels take behind it.
    fn sizes(&self, y: Slot) -> [i32; 5] {
        let n = y.len / self.rank;
        [n, self.rank, self.count, self.columns, self.column].map(|n| n as i32)
    }
}

impl Op for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn cpu_fwd(&self, io: Fwd<'_>) {
        let [w, table, ..] = io.x;
        for (y, j) in io.y.chunks_exact_mut(self.rank).zip(self.indices(table)) {
            for (r, y) in y.iter_mut().enumerate() {
                *y = w[r * self.count + j];
            }
        }
    }

    fn cpu_bwd(&self, io: Bwd<'_>) {
        let [_, table, ..] = io.x;
        let [dw, ..] = io.dx;
        dw.fill(0.0);
        for (dy, j) in io.dy.chunks_exact(self.rank).zip(self.indices(table)) {
            for (r, dy) in dy.iter().enumerate() {
                dw[r * self.count + j] += dy;
            }
        }
    }

    fn cuda_fwd(&self, io: FwdSlots, program: &mut Program) -> Result<()> {
        let ([w, table, ..], [n, rank, count, columns, column]) = (io.x, self.sizes(io.y));
        let grid = elementwise(io.y.len);
        kernels::embedding_fwd(
            program, grid, w, table, io.y, n, rank, count, columns, column,
        );
        Ok(())
    }

    fn cuda_bwd(&self, io: BwdSlots, program: &mut Program) -> Result<()> {
        let ([_, table, ..], [n, rank, count, columns, column]) = (io.x, self.sizes(io.dy));
        let (grid, dw) = (elementwise(self.rank * self.count), io.dx[0]);
        kernels::embedding_bwd(
            program, grid, table, io.dy, dw, n, rank, count, columns, column,
        );
        Ok(())
    }
}

pub const ROW: Row = Row {
    name: "embedding",
    cases: &[
        Case::new("second column, rank 3", &[&[3, 4]], |x| {
            x[0].embedding(x[1], 1)
        })
        .with_data(&[6, 2], Data::Indices(&[9, 4])),
        Case::new("a vector", &[&[5]], |x| x[0].embedding(x[1], 0))
            .with_data(&[4, 2], Data::Indices(&[5, 2])),
    ],
};
