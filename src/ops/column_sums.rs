//! Sums of columns by kernels, for gradients that several rows contribute to.

use crate::device::gpu::kernels;
use crate::device::{Program, View};

/// Columns to be summed over `rows` rows, `pitch` floats apart, in each of `parts` parts, `part` floats apart.
#[derive(Clone, Copy)]
pub(super) struct Columns {
    pub rows: usize,
    pub columns: usize,
    pub pitch: usize,
    pub parts: usize,
    pub part: usize,
}

impl Columns {
    /// Of one matrix (rows, columns).
    pub fn of(rows: usize, columns: usize) -> Columns {
        Columns {
            rows,
            columns,
            pitch: columns,
            parts: 1,
            part: 0,
        }
    }

    /// Adds the launches of `to` (parts, columns) = the sums.
    pub fn emit_sums(self, from: impl Into<View<f32>>, to: impl Into<View<f32>>, q: &mut Program) {
        let grid = (self.columns.div_ceil(32), self.parts);
        let [rows, columns] = [self.rows, self.columns].map(|n| n as i32);
        let (pitch, part) = (self.pitch as i64, self.part as i64);
        kernels::column_sums(q, grid, from, to, rows, columns, pitch, part);
    }
}
