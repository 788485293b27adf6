//! Mean cross entropy of softmax(x) with class indices t: f = mean over a batch of rows of
//! (log sum_j exp(x_j)) - sum_j p_j x_j, where p is 1 at t; with label smoothing s (Szegedy et al. 2016,
//! arXiv:1512.00567) it is 1 - s there, and s / C more in all C classes.
//!
//! Gradient, of one batch: dx = (softmax(x) - p) df / rows. Forward, which has the exponentials, keeps it for df = 1.

use crate::cpu::{self, math};
use crate::device::Program;
use crate::device::Slot;
use crate::device::gpu::{elementwise, kernels};
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
    /// Mean cross entropy of logits (N, C) and class indices (N, 1), held as floats: a scalar.
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
    /// The gradient and the losses in what forward saves.
    fn split(&self, mut saved: Slot) -> (Slot, Slot) {
        let gradient = saved.take(self.rows * self.classes);
        (gradient, saved)
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
        for (mean, losses) in io.y.iter_mut().zip(losses.chunks(self.batch)) {
            let sum: f64 = losses.iter().map(|l| f64::from(*l)).sum();
            *mean = cpu::mean(sum, losses.len());
        }
    }

    fn cpu_bwd(&self, io: Bwd<'_>) {
        assert_eq!(io.dy.len(), 1, "the gradient is of one batch");
        let [dx, ..] = io.dx;
        let gradient = &io.saved[..dx.len()];
        cpu::map(dx, gradient, |dx| dx * io.dy[0]);
    }

    fn cuda_fwd(&self, io: FwdSlots, program: &mut Program) -> Result<()> {
        let [x, target, ..] = io.x;
        let (gradient, losses) = self.split(io.saved);
        let (rows, classes) = (self.rows as i32, self.classes as i32);
        let (batches, batch, smoothing) = (io.y.len, self.batch as i32, self.smoothing);
        if self.batch <= ONE_BLOCK {
            kernels::cross_entropy_block(
                program, batches, x, target, gradient, io.y, rows, classes, batch, smoothing,
            );
        } else {
            let grid = elementwise(32 * self.rows);
            kernels::cross_entropy_rows(
                program, grid, x, target, gradient, losses, rows, classes, smoothing,
            );
            kernels::means_of(program, batches, losses, io.y, rows, batch);
        }
        Ok(())
    }

    fn cuda_bwd(&self, io: BwdSlots, program: &mut Program) -> Result<()> {
        assert_eq!(io.dy.len, 1, "the gradient is of one batch");
        let (gradient, _) = self.split(io.saved);
        let n = gradient.len;
        kernels::cross_entropy_bwd(program, elementwise(n), gradient, io.dy, io.dx[0], n as i64);
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
    ],
};
