//! Mean cross entropy of softmax(x) with class indices t: f = mean over rows of (log sum_j exp(x_j)) - x_t.
//!
//! Gradient: dx = (softmax(x) - onehot(t)) df / rows. Forward keeps the softmax.

use rayon::prelude::*;

use crate::device::gpu::{Queue, elementwise, kernels};
use crate::device::{Slot, cpu};
use crate::error::Result;
use crate::graph::{Bwd, BwdSlots, Fwd, FwdSlots, Op, Var};
use crate::ops::{Case, Data, Row};

struct CrossEntropy {
    rows: usize,
    classes: usize,
}

/// Rows that one task treats.
const ROWS: usize = 64;

impl<'t> Var<'t> {
    /// Mean cross entropy of logits (N, C) and class indices (N, 1), held as floats: a scalar.
    pub fn cross_entropy(self, target: Var<'t>) -> Var<'t> {
        let (rows, classes) = self.rows_columns();
        assert_eq!(target.size(), rows, "cross_entropy: a class for each row");
        let op = CrossEntropy { rows, classes };
        self.tape.apply(op, &[self, target], &[1])
    }
}

impl CrossEntropy {
    /// The softmax and the losses in what forward saves.
    fn split(&self, saved: Slot) -> (Slot, Slot) {
        let len = self.rows * self.classes;
        let losses = Slot {
            start: saved.start + len,
            len: self.rows,
        };
        (Slot { len, ..saved }, losses)
    }
}

impl Op for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    /// The softmax, and behind it each row's loss.
    fn saved(&self) -> usize {
        self.rows * (self.classes + 1)
    }

    fn cpu_fwd(&self, io: Fwd<'_>) {
        let [x, target, ..] = io.x;
        let (softmax, losses) = io.saved.split_at_mut(self.rows * self.classes);
        softmax
            .par_chunks_mut(ROWS * self.classes)
            .zip(losses.par_chunks_mut(ROWS))
            .zip(x.par_chunks(ROWS * self.classes))
            .zip(target.par_chunks(ROWS))
            .for_each(|(((p, loss), x), target)| {
                let rows = p.chunks_exact_mut(self.classes).zip(loss);
                let data = x.chunks_exact(self.classes).zip(target);
                for ((p, loss), (x, t)) in rows.zip(data) {
                    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    let mut sum = 0.0;
                    for (p, x) in p.iter_mut().zip(x) {
                        *p = (x - max).exp();
                        sum += *p;
                    }
                    p.iter_mut().for_each(|p| *p /= sum);
                    *loss = sum.ln() - (x[*t as usize] - max);
                }
            });
        let sum: f64 = losses.iter().map(|l| f64::from(*l)).sum();
        io.y[0] = cpu::mean(sum, self.rows);
    }

    fn cpu_bwd(&self, io: Bwd<'_>) {
        let [dx, ..] = io.dx;
        let [_, target, ..] = io.x;
        let softmax = &io.saved[..self.rows * self.classes];
        let scale = io.dy[0] / self.rows as f32;
        dx.par_chunks_mut(ROWS * self.classes)
            .zip(softmax.par_chunks(ROWS * self.classes))
            .zip(target.par_chunks(ROWS))
            .for_each(|((dx, p), target)| {
                let rows = dx.chunks_exact_mut(self.classes);
                for ((dx, p), t) in rows.zip(p.chunks_exact(self.classes)).zip(target) {
                    for (dx, p) in dx.iter_mut().zip(p) {
                        *dx = p * scale;
                    }
                    dx[*t as usize] -= scale;
                }
            });
    }

    fn cuda_fwd(&self, io: FwdSlots, queue: &mut Queue) -> Result<()> {
        let [x, target, ..] = io.x;
        let (softmax, losses) = self.split(io.saved);
        let (rows, classes) = (self.rows as i32, self.classes as i32);
        let grid = elementwise(32 * self.rows);
        kernels::cross_entropy_rows(queue, grid, x, target, softmax, losses, rows, classes);
        kernels::mean_of(queue, 1, losses, io.y, self.rows as i64);
        Ok(())
    }

    fn cuda_bwd(&self, io: BwdSlots, queue: &mut Queue) -> Result<()> {
        let (softmax, _) = self.split(io.saved);
        let (rows, classes) = (self.rows as i32, self.classes as i32);
        let (grid, target, dx) = (elementwise(softmax.len), io.x[1], io.dx[0]);
        kernels::cross_entropy_bwd(queue, grid, softmax, target, io.dy, dx, rows, classes);
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
    ],
};
