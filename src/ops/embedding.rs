//! Embedding: y[b, r] = w[r, i[b, column]]: columns of w picked by one column of an index table.
//!
//! Gradient: dw[r, j] = sum of dy[b, r] over the b with i[b, column] = j, in the order of b.

use crate::graph::{Bwd, Fwd, Op, Var};
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
