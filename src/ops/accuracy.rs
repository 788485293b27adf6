//! Scores: the share of right answers in each batch of this many rows; the last one has what is left. They have no
//! gradient.

use crate::cpu::math;
use crate::device::Program;
use crate::device::gpu::{elementwise, kernels};
use crate::error::Result;
use crate::graph::{Bwd, Fwd, FwdSlots, Op, Var};

/// Batches of this many rows are done by one block each.
const ONE_BLOCK: usize = 1024;

/// argmax of a row equals the target. Like PyTorch's argmax, NaN counts as the largest and the first
/// of several largest wins. Rows whose target is -1 are left out; a batch that has no others is NaN.
struct ClassAccuracy {
    rows: usize,
    classes: usize,
    /// Rows of a batch.
    batch: usize,
}

/// The sign that sigmoid(x) >= 0.5 predicts equals the target.
struct SignAccuracy {
    /// Outputs, and those of a batch.
    n: usize,
    batch: usize,
}

impl<'t> Var<'t> {
    /// Share of the rows of logits (N, C) whose argmax is the class index (N, 1), among those where that is not -1: one for
    /// each batch.
    pub fn class_accuracy(self, target: Var<'t>, batch: usize) -> Var<'t> {
        let (rows, classes) = self.rows_columns();
        assert_eq!(target.size(), rows, "class_accuracy: a class for each row");
        let op = ClassAccuracy {
            rows,
            classes,
            batch,
        };
        self.tape
            .apply(op, &[self, target], &[rows.div_ceil(batch)])
    }

    /// Share of the outputs whose sign is the target's, in {-1, 1}: one for each batch.
    pub fn sign_accuracy(self, target: Var<'t>, batch: usize) -> Var<'t> {
        let (n, (rows, columns)) = (self.size(), self.rows_columns());
        assert_eq!(target.size(), n, "sign_accuracy: a target for each output");
        let op = SignAccuracy {
            n,
            batch: batch * columns,
        };
        self.tape
            .apply(op, &[self, target], &[rows.div_ceil(batch)])
    }
}

fn argmax(x: &[f32]) -> usize {
    let mut best = 0;
    for (i, v) in x.iter().enumerate() {
        if v.is_nan() {
            return i;
        }
        if *v > x[best] {
            best = i;
        }
    }
    best
}

fn share(right: usize, n: usize) -> f32 {
    (right as f64 / n as f64) as f32
}

impl Op for ClassAccuracy {
    fn name(&self) -> &'static str {
        "class_accuracy"
    }

    fn cpu_fwd(&self, io: Fwd<'_>) {
        let batches = (io.x[0].chunks(self.batch * self.classes)).zip(io.x[1].chunks(self.batch));
        for (y, (x, target)) in io.y.iter_mut().zip(batches) {
            let rows = x.chunks_exact(self.classes).zip(target);
            let right = rows.filter(|(x, t)| argmax(x) as f32 == **t).count();
            *y = share(right, math::counted(target));
        }
    }

    fn cuda_fwd_work(&self) -> usize {
        if self.batch <= ONE_BLOCK {
            0
        } else {
            self.rows
        }
    }

    fn cuda_fwd(&self, io: FwdSlots, program: &mut Program) -> Result<()> {
        let ([x, target, ..], y, hits) = (io.x, io.y, io.work);
        let [rows, classes, batch] = [self.rows, self.classes, self.batch].map(|n| n as i32);
        if self.batch <= ONE_BLOCK {
            kernels::class_accuracy(program, y.len, x, target, y, rows, classes, batch);
        } else {
            let grid = elementwise(self.rows);
            kernels::class_hits(program, grid, x, target, hits, rows, classes);
            kernels::class_shares(program, y.len, hits, y, rows, batch);
        }
        Ok(())
    }

    fn cpu_bwd(&self, _: Bwd<'_>) {
        unreachable!("a score has no gradient")
    }
}

impl Op for SignAccuracy {
    fn name(&self) -> &'static str {
        "sign_accuracy"
    }

    fn cpu_fwd(&self, io: Fwd<'_>) {
        // sigmoid(x) >= 0.5 in f32, which is false for NaN.
        let sign = |x: f32| {
            if 1.0 / (1.0 + (-x).exp()) >= 0.5 {
                1.0
            } else {
                -1.0
            }
        };
        let batches = (io.x[0].chunks(self.batch)).zip(io.x[1].chunks(self.batch));
        for (y, (x, target)) in io.y.iter_mut().zip(batches) {
            let right = x.iter().zip(target).filter(|(x, t)| sign(**x) == **t);
            *y = share(right.count(), x.len());
        }
    }

    fn cuda_fwd(&self, io: FwdSlots, program: &mut Program) -> Result<()> {
        let ([x, target, ..], y) = (io.x, io.y);
        let (n, batch) = (self.n as i64, self.batch as i64);
        kernels::sign_accuracy(program, y.len, x, target, y, n, batch);
        Ok(())
    }

    fn cpu_bwd(&self, _: Bwd<'_>) {
        unreachable!("a score has no gradient")
    }
}

#[cfg(test)]
mod tests {
    use super::argmax;

    #[test]
    fn argmax_is_pytorchs() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), 1);
        assert_eq!(argmax(&[1.0, f32::NAN, 9.0, f32::NAN]), 1);
        assert_eq!(argmax(&[f32::NEG_INFINITY]), 0);
        assert_eq!(argmax(&[f32::NEG_INFINITY, f32::INFINITY]), 1);
    }
}
