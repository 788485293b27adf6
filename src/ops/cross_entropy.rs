//! Mean cross entropy of softmax(x) with class indices t: f = mean over a batch of rows of
//! (log sum_j exp(x_j)) - sum_j p_j x_j, where p is 1 at t; with label smoothing s (Szegedy et al. 2016,
//! arXiv:1512.00567) it is 1 - s there, and s / C more in all C classes. Rows whose t is -1 are left out, as PyTorch's
//! `ignore_index` does: they are not counted, and a batch that has no others is NaN.
//!
//! Gradient, of one batch: dx = (softmax(x) - p) df / rows, and 0 in rows that are left out. Forward, which has the
//! exponentials, keeps it for df = 1 (the kernels: without the rows, which they count meanwhile).

use crate::cpu::{self, math};
use crate::device::Program;
use crate::device::Slot;
use crate::device::gpu::{Grid, elementwise, kernels};
use crate::error::Result;
use crate::graph::{Bwd, BwdSlots, Fwd, FwdSlots, Op, Var};
use crate::ops::{Case, Data, Row};

/// Batches of so many rows are done by one block each: a launch costs more than some rows one after the other.
const ONE_BLOCK: usize = 256;

struct CrossEntropy {
    rows: usize,
    classes: usize,
    /// Rows of a batch.
    batch: usize,
    smoothing: f32,
}

impl<'t> Var<'t> {
    /// Mean cross entropy of logits (N, C) and class indices (N, 1), held as floats, or -1 for rows to be left out: a
    /// scalar.
    pub fn cross_entropy(self, target: Var<'t>) -> Var<'t> {
        self.cross_entropy_by_batch(target, self.rows_columns().0)
    }

    /// Of each batch of so many rows; the last one has what is left.
    pub fn cross_entropy_by_batch(self, target: Var<'t>, batch: usize) -> Var<'t> {
        cross_entropy(self, target, batch, 0.0)
    }

    /// With label smoothing in [0, 1).
    pub fn smoothed_cross_entropy(self, target: Var<'t>, smoothing: f32) -> Var<'t> {
        cross_entropy(self, target, self.rows_columns().0, smoothing)
    }
}

fn cross_entropy<'t>(x: Var<'t>, target: Var<'t>, batch: usize, smoothing: f32) -> Var<'t> {
    let (rows, classes) = x.rows_columns();
    assert_eq!(target.size(), rows, "cross_entropy: a class for each row");
    let op = CrossEntropy {
        rows,
        classes,
        batch,
        smoothing,
    };
    x.tape.apply(op, &[x, target], &[rows.div_ceil(batch)])
}

impl CrossEntropy {
    fn in_one_block(&self) -> bool {
        self.batch <= ONE_BLOCK
    }

    /// Of the kernel that goes through the rows.
    fn grid(&self) -> Grid {
        match self.in_one_block() {
            true => self.rows.div_ceil(self.batch).into(),
            false => elementwise(32 * self.rows),
        }
    }

    /// Gradient, losses, and each block's count of rows in what the kernels of forward save.
    fn split(&self, mut saved: Slot) -> [Slot; 3] {
        let gradient = saved.take(self.rows * self.classes);
        let losses = saved.take(self.rows);
        [gradient, losses, saved]
    }
}

impl Op for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    /// The gradient, and behind it each row's loss.
    fn saved(&self) -> usize {
        self.rows * (self.classes + 1)
    }

    fn bwd_reads_inputs(&self) -> bool {
        false
    }

    fn cpu_fwd(&self, io: Fwd<'_>) {
        let [x, target, ..] = io.x;
        let (gradient, losses) = io.saved.split_at_mut(x.len());
        let (classes, smoothing) = (self.classes, self.smoothing);
        math::cross_entropy(x, target, classes, smoothing, losses, gradient);
        let batches = losses.chunks(self.batch).zip(target.chunks(self.batch));
        for (mean, (losses, target)) in io.y.iter_mut().zip(batches) {
            let sum: f64 = losses.iter().map(|l| f64::from(*l)).sum();
            *mean = cpu::mean(sum, math::counted(target));
        }
    }

    fn cpu_bwd(&self, io: Bwd<'_>) {
        assert_eq!(io.dy.len(), 1, "the gradient is of one batch");
        let [dx, ..] = io.dx;
        let gradient = &io.saved[..dx.len()];
        cpu::map(dx, gradient, |dx| dx * io.dy[0]);
    }

    /// What the CPU saves, and each block's count of rows.
    fn cuda_saved(&self) -> usize {
        self.saved() + self.grid().blocks[0] as usize
    }

    fn cuda_fwd(&self, io: FwdSlots, program: &mut Program) -> Result<()> {
        let ([x, target, ..], y, grid) = (io.x, io.y, self.grid());
        let [gradient, losses, counts] = self.split(io.saved);
        let [rows, classes, batch] = [self.rows, self.classes, self.batch].map(|n| n as i32);
        if self.in_one_block() {
            let arguments = kernels::CrossEntropyBlock {
                x: x.into(),
                target: target.into(),
                g: gradient.into(),
                f: y.into(),
                counts: counts.into(),
                rows,
                classes,
                batch,
                smoothing: self.smoothing,
            };
            kernels::cross_entropy_block(program, grid, arguments);
        } else {
            let (g, smoothing) = (gradient, self.smoothing);
            kernels::cross_entropy_rows(
                program, grid, x, target, g, losses, counts, rows, classes, smoothing,
            );
            kernels::cross_entropy_means(program, y.len, losses, target, y, rows, batch);
        }
        Ok(())
    }

    fn cuda_bwd(&self, io: BwdSlots, program: &mut Program) -> Result<()> {
        assert_eq!(io.dy.len, 1, "the gradient is of one batch");
        let [gradient, _, counts] = self.split(io.saved);
        let (grid, n) = (elementwise(gradient.len), gradient.len as i64);
        let (blocks, dx) = (counts.len as i32, io.dx[0]);
        kernels::cross_entropy_bwd(program, grid, gradient, counts, io.dy, dx, blocks, n);
        Ok(())
    }
}

pub const ROW: Row = Row {
    name: "cross_entropy",
    cases: &[
        Case::new("5 rows, 4 classes", &[&[5, 4]], |x| {
            x[0].cross_entropy(x[1])
        })
        .with_data(&[5, 1], Data::Indices(&[4])),
        Case::new("70 rows, 10 classes", &[&[70, 10]], |x| {
            x[0].cross_entropy(x[1])
        })
        .with_data(&[70, 1], Data::Indices(&[10])),
        Case::new("one row, one class", &[&[1, 1]], |x| {
            x[0].cross_entropy(x[1])
        })
        .with_data(&[1, 1], Data::Indices(&[1])),
        Case::new("257 rows, 3 classes", &[&[257, 3]], |x| {
            x[0].cross_entropy(x[1])
        })
        .with_data(&[257, 1], Data::Indices(&[3])),
        Case::new("9 rows, 35 classes, smoothed", &[&[9, 35]], |x| {
            x[0].smoothed_cross_entropy(x[1], 0.1)
        })
        .with_data(&[9, 1], Data::Indices(&[35])),
        Case::new("257 rows, 3 classes, smoothed", &[&[257, 3]], |x| {
            x[0].smoothed_cross_entropy(x[1], 0.3)
        })
        .with_data(&[257, 1], Data::Indices(&[3])),
        Case::new("40 rows, 3 classes, some left out", &[&[40, 3]], |x| {
            x[0].cross_entropy(x[1])
        })
        .with_data(&[40, 1], Data::Targets(3)),
        Case::new(
            "300 rows, 2 classes, smoothed, some left out",
            &[&[300, 2]],
            |x| x[0].smoothed_cross_entropy(x[1], 0.2),
        )
        .with_data(&[300, 1], Data::Targets(2)),
    ],
};
