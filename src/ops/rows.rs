//! Some rows of a tensor: y = x[start .. start + rows], along the first dimension.
//!
//! Gradient: dx is dy in these rows and 0 in all others.

use std::ops::Range;

use crate::device::gpu::{Queue, elementwise, kernels};
use crate::error::Result;
use crate::graph::{Bwd, BwdSlots, Fwd, FwdSlots, Op, Var};
use crate::ops::{Case, Row};

struct Rows {
    /// Elements, not rows.
    range: Range<usize>,
}

impl<'t> Var<'t> {
    /// The rows `range` of `self` (N, ...): (range.len(), ...).
    pub fn rows(self, range: Range<usize>) -> Var<'t> {
        let mut shape = self.shape();
        assert!(range.start < range.end && range.end <= shape[0]);
        if range.len() == shape[0] {
            return self;
        }
        let width = self.size() / shape[0];
        shape[0] = range.len();
        let range = range.start * width..range.end * width;
        self.tape.apply(Rows { range }, &[self], &shape)
    }
}

impl Op for Rows {
    fn name(&self) -> &'static str {
        "rows"
    }

    fn bwd_reads_inputs(&self) -> bool {
        false
    }

    fn cpu_fwd(&self, io: Fwd<'_>) {
        io.y.copy_from_slice(&io.x[0][self.range.clone()]);
    }

    fn cpu_bwd(&self, io: Bwd<'_>) {
        let [dx, ..] = io.dx;
        dx.fill(0.0);
        dx[self.range.clone()].copy_from_slice(io.dy);
    }

    fn cuda_fwd(&self, io: FwdSlots, queue: &mut Queue) -> Result<()> {
        let (start, len) = (self.range.start as i64, self.range.len());
        kernels::rows_fwd(queue, elementwise(len), io.x[0], io.y, start, len as i64);
        Ok(())
    }

    fn cuda_bwd(&self, io: BwdSlots, queue: &mut Queue) -> Result<()> {
        let (start, len) = (self.range.start as i64, self.range.len() as i64);
        let (n, dx) = (io.dx[0].len, io.dx[0]);
        kernels::rows_bwd(queue, elementwise(n), io.dy, dx, start, len, n as i64);
        Ok(())
    }
}

pub const ROW: Row = Row {
    name: "rows",
    cases: &[
        Case::new("2 of 5, 3 wide", &[&[5, 3]], |x| x[0].rows(1..3)),
        Case::new("the last of 3, 2x2 wide", &[&[3, 2, 2]], |x| {
            x[0].rows(2..3)
        }),
    ],
};
