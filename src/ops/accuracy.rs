//! Scores: the share of right answers. They have no gradient.

use crate::device::gpu::{Queue, kernels};
use crate::error::Result;
use crate::graph::{Bwd, Fwd, FwdSlots, Op, Var};

/// argmax of a row equals the target. Like PyTorch's argmax, NaN counts as the largest and the first
/// of several largest wins.
struct ClassAccuracy {
    rows: usize,
    classes: usize,
}

/// The sign that sigmoid(x) >= 0.5 predicts equals the target.
struct SignAccuracy {
    n: usize,
}

impl<'t> Var<'t> {
    /// Share of the rows of logits (N, C) whose argmax is the class index (N, 1): a scalar.
    pub fn class_accuracy(self, target: Var<'t>) -> Var<'t> {
        let (rows, classes) = self.rows_columns();
        assert_eq!(target.size(), rows, "class_accuracy: a class for each row");
        let op = ClassAccuracy { rows, classes };
        self.tape.apply(op, &[self, target], &[1])
    }

    /// Share of the outputs whose sign is the target's, in {-1, 1}: a scalar.
    pub fn sign_accuracy(self, target: Var<'t>) -> Var<'t> {
        let n = self.size();
        assert_eq!(target.size(), n, "sign_accuracy: a target for each output");
        self.tape.apply(SignAccuracy { n }, &[self, target], &[1])
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
        let rows = io.x[0].chunks_exact(self.classes).zip(io.x[1]);
        let right = rows.filter(|(x, t)| argmax(x) == **t as usize).count();
        io.y[0] = share(right, self.rows);
    }

    fn cuda_fwd(&self, io: FwdSlots, queue: &mut Queue) -> Result<()> {
        let ([x, target, ..], y) = (io.x, io.y);
        let (rows, classes) = (self.rows as i32, self.classes as i32);
        kernels::class_accuracy(queue, 1, x, target, y, rows, classes);
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
        let right = io.x[0]
            .iter()
            .zip(io.x[1])
            .filter(|(x, t)| sign(**x) == **t);
        io.y[0] = share(right.count(), self.n);
    }

    fn cuda_fwd(&self, io: FwdSlots, queue: &mut Queue) -> Result<()> {
        kernels::sign_accuracy(queue, 1, io.x[0], io.x[1], io.y, self.n as i64);
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
