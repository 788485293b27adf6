//! What the kernels of layer norm and RMS norm have in common (`kernels/norm.cuh`).

use crate::cpu::norm::Norm;
use crate::device::gpu::{PROCESSORS, aligned};
use crate::device::{Program, Slot, View};
use crate::ops::column_sums::Columns;

/// Rows that a block works on side by side.
const ROWS_AT_ONCE: usize = 8;

/// The kernels that hold a row in registers, by its length, and the one that does not.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kernels {
    UpTo128,
    UpTo512,
    UpTo1024,
    Any,
}

impl Norm {
    /// `rows` are the operands that have rows.
    pub(super) fn kernels(&self, rows: &[Slot]) -> Kernels {
        match aligned(rows) {
            true => self.kernels_of_vectors(),
            false => Kernels::Any,
        }
    }

    /// Where rows begin at whole vectors.
    pub(super) fn kernels_of_vectors(&self) -> Kernels {
        match self.width {
            width if width % 4 > 0 => Kernels::Any,
            0..=128 => Kernels::UpTo128,
            129..=512 => Kernels::UpTo512,
            513..=1024 => Kernels::UpTo1024,
            _ => Kernels::Any,
        }
    }

    /// Rows and width.
    pub(super) fn sizes(&self) -> [i32; 2] {
        [self.rows, self.width].map(|n| n as i32)
    }

    /// Blocks where each takes rows of its own.
    pub(super) fn blocks(&self) -> usize {
        self.rows.div_ceil(ROWS_AT_ONCE).min(1 << 20)
    }

    /// Shares of the rows, each of which has sums of its own: enough to fill a GPU twice.
    pub(super) fn shares(&self) -> usize {
        self.rows.div_ceil(ROWS_AT_ONCE).min(2 * PROCESSORS)
    }

    /// Blocks of the kernel that sums for the parameters alone: by 32 columns, and by shares.
    pub(super) fn blocks_of_columns(&self) -> (usize, usize) {
        (self.width.div_ceil(32), self.shares())
    }

    /// Floats of these sums.
    pub(super) fn partial(&self) -> usize {
        self.shares() * self.parameters() * self.width
    }

    /// Adds the launches of the gradients of the parameters from their shares.
    pub(super) fn emit_sums(&self, partial: Slot, to: &[Slot], program: &mut Program) {
        let columns = Columns {
            pitch: self.parameters() * self.width,
            ..Columns::of(self.shares(), self.width)
        };
        for (i, to) in to.iter().enumerate().filter(|(_, to)| to.len > 0) {
            let (from, skip) = (View::from(partial), i * self.width);
            columns.emit_sums(from.part(skip, from.len - skip), *to, program);
        }
    }
}
