//! Sums of columns by kernels, for gradients that several rows contribute to.

use crate::device::gpu::{PROCESSORS, kernels};
use crate::device::{Program, View};

/// Up to this many rows a thread adds them up alone.
const FEW: usize = 32;

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
        let [rows, columns] = [self.rows, self.columns].map(|n| n as i32);
        let (pitch, part) = (self.pitch as i64, self.part as i64);
        // Warps that take rows in turns would have none; blocks of 256 columns are enough of them.
        if self.rows <= FEW && self.columns * self.parts >= 256 * PROCESSORS {
            let grid = (self.columns.div_ceil(256), self.parts);
            kernels::column_sums_few(q, grid, from, to, rows, columns, pitch, part);
        } else {
            let grid = (self.columns.div_ceil(32), self.parts);
            kernels::column_sums(q, grid, from, to, rows, columns, pitch, part);
        }
    }
}
