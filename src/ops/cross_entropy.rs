//! Mean cross entropy of softmax(x) with class indices t: f = mean over a batch of rows of
//! (log sum_j exp(x_j)) - sum_j p_j x_j, where p is 1 at t; with label smoothing s (Szegedy et al. 2016,
//! arXiv:1512.00567) it is 1 - s there, and s / C more in all C classes. Rows whose t is -1 are left out, as PyTorch's
//! `ignore_index` does: they are not counted, and a batch that has no others is NaN.
//!
//! Gradient, of one batch: dx = (softmax(x) - p) df / rows, and 0 in rows that are left out. On the CPU forward, which has
//! the exponentials, keeps it for df = 1; kernels compute it in forward's launch where backward follows, else again.
//!
//! Classes may also be drawn from softmax(x), in the rows that are not left out: the one with the largest
//! x_j - log(-log u_j), with u_j uniform in (0, 1] (Gumbel 1954). As in dropout, u comes from Philox4x32-10, keyed by the
//! run's seed and the op, and counted by step and element.

use rayon::prelude::*;

use crate::cpu::{self, math};
use crate::device::gpu::kernels::Step;
use crate::device::gpu::{PROCESSORS, counters_of, elementwise, kernels};
use crate::device::program::doubles;
use crate::device::{Program, Slot};
use crate::error::Result;
use crate::graph::{Bwd, BwdSlots, Fwd, FwdSlots, Join, Op, Var};
use crate::ops::{Case, Data, Row};
use crate::random::philox;

struct CrossEntropy {
    rows: usize,
    classes: usize,
    /// Rows of a batch.
    batch: usize,
    smoothing: f32,
    /// The place of the draws among those of the network, if classes are drawn.
    draws: Option<u32>,
}

impl<'t> Var<'t> {
    /// Mean cross entropy of logits (N, C) and class indices (N, 1), held as floats, or -1 for rows to be left out: a
    /// scalar.
    pub fn cross_entropy(self, target: Var<'t>) -> Var<'t> {
        self.cross_entropy_by_batch(target, self.rows_columns().0)
    }

    /// Of each batch of this many rows; the last one has what is left.
    pub fn cross_entropy_by_batch(self, target: Var<'t>, batch: usize) -> Var<'t> {
        cross_entropy(self, target, batch, 0.0, None)
    }

    /// With label smoothing in [0, 1).
    pub fn smoothed_cross_entropy(self, target: Var<'t>, smoothing: f32) -> Var<'t> {
        cross_entropy(self, target, self.rows_columns().0, smoothing, None)
    }

    /// With classes that are drawn from softmax(x) again in every step, where the target is not -1.
    pub fn cross_entropy_of_draws(self, target: Var<'t>) -> Var<'t> {
        let stream = self.tape.op_count() as u32;
        cross_entropy(self, target, self.rows_columns().0, 0.0, Some(stream))
    }
}

fn cross_entropy<'t>(
    x: Var<'t>,
    target: Var<'t>,
    batch: usize,
    smoothing: f32,
    draws: Option<u32>,
) -> Var<'t> {
    let (rows, classes) = x.rows_columns();
    assert_eq!(target.size(), rows, "cross_entropy: a class for each row");
    let op = CrossEntropy {
        rows,
        classes,
        batch,
        smoothing,
        draws,
    };
    x.tape.apply(op, &[x, target], &[rows.div_ceil(batch)])
}

impl CrossEntropy {
    /// Blocks of each batch: a row for each warp, as long as they all run at a time.
    fn blocks(&self) -> usize {
        const WARPS: usize = 8;
        self.batch
            .min(self.rows)
            .div_ceil(WARPS)
            .clamp(1, 2 * PROCESSORS)
    }

    /// The launch that computes the means, and the gradient, as far as there are slots for them.
    fn launch(
        &self,
        [x, target]: [Slot; 2],
        f: Slot,
        [df, dx]: [Slot; 2],
        work: Slot,
        program: &mut Program,
    ) {
        let (blocks, batches) = (self.blocks(), self.rows.div_ceil(self.batch));
        assert!(dx.len == 0 || batches == 1, "the gradient is of one batch");
        let [rows, classes, batch] = [self.rows, self.classes, self.batch].map(|n| n as i32);
        let arguments = kernels::CrossEntropy {
            x: x.into(),
            target: target.into(),
            forward: i32::from(f.len > 0),
            backward: i32::from(dx.len > 0),
            smoothing: self.smoothing,
            df: df.into(),
            f: f.into(),
            dx: dx.into(),
            partial: doubles(work),
            counters: program.counters(batches * counters_of(blocks)),
            rows,
            classes,
            batch,
        };
        kernels::cross_entropy(program, (blocks, batches), arguments);
    }

    /// Floats for a double of each block.
    fn partial(&self) -> usize {
        2 * self.blocks() * self.rows.div_ceil(self.batch)
    }

    /// Floats for classes that are drawn.
    fn drawn(&self) -> usize {
        self.draws.map_or(0, |_| self.rows)
    }
}

/// A word of 32 bits times the first, plus the second, is in (0, 1].
const UNIT: (f32, f32) = (1.0 / 4_294_967_296.0, 0.5 / 4_294_967_296.0);

/// Draws a class from softmax(x) for each row whose target is not -1.
fn draw(x: &[f32], target: &[f32], classes: usize, stream: u32, now: Step, to: &mut [f32]) {
    let rows = to.par_iter_mut().zip(target).zip(x.par_chunks(classes));
    rows.enumerate().for_each(|(row, ((to, &target), x))| {
        let (mut best, mut most) = (0, f32::NEG_INFINITY);
        for (j, &x) in x.iter().enumerate() {
            let element = u64::from(stream) << 34 | (row * classes + j) as u64;
            let word = philox::at(now.seed, now.batch, element);
            // -log(-log(1 - u)), which has small u's digits.
            let gumbel = -(-(-(word as f32).mul_add(UNIT.0, UNIT.1)).ln_1p()).ln();
            if x + gumbel > most {
                (best, most) = (j, x + gumbel);
            }
        }
        *to = if target == -1.0 { -1.0 } else { best as f32 };
    });
}

impl Op for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    /// The gradient, and behind it each row's loss.
    fn saved(&self) -> usize {
        self.rows * (self.classes + 1)
    }

    fn join(&self) -> Option<Join> {
        let joins = self.draws.is_none() && self.batch >= self.rows;
        joins.then_some(Join::CrossEntropy {
            smoothing: self.smoothing,
        })
    }

    fn cuda_fwd_joins(&self, further: &[Join]) -> bool {
        matches!(further, [Join::Backward { .. }])
    }

    fn fwd_work(&self) -> usize {
        self.drawn()
    }

    fn cpu_fwd(&self, io: Fwd<'_>) {
        let [x, mut target, ..] = io.x;
        if let Some(stream) = self.draws {
            draw(x, target, self.classes, stream, io.now, io.work);
            target = io.work;
        }
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

    /// The classes that were drawn.
    fn cuda_saved(&self) -> usize {
        self.drawn()
    }

    /// As many as a launch that goes on with this may want.
    fn cuda_fwd_work(&self) -> usize {
        self.partial().max(2 * PROCESSORS)
    }

    fn cuda_fwd(&self, io: FwdSlots, program: &mut Program) -> Result<()> {
        let [x, mut target, ..] = io.x;
        if let Some(stream) = self.draws {
            let [rows, classes] = [self.rows, self.classes].map(|n| n as i32);
            let (drawn, grid) = (io.saved, elementwise(32 * self.rows));
            kernels::draw_classes(
                program, grid, x, target, io.now, stream, drawn, rows, classes,
            );
            target = drawn;
        }
        let gradient = io
            .joined
            .first()
            .map_or_else(Default::default, |backward| [backward.dy, backward.to]);
        let work = Slot {
            len: self.partial(),
            ..io.work
        };
        self.launch([x, target], io.y, gradient, work, program);
        Ok(())
    }

    fn cuda_bwd(&self, io: BwdSlots, program: &mut Program) -> Result<()> {
        let [x, target, ..] = io.x;
        let target = if self.draws.is_some() {
            io.saved
        } else {
            target
        };
        let none = Slot::default();
        self.launch([x, target], none, [io.dy, io.dx[0]], none, program);
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
        // Whose gradients do not come right behind them.
        Case::new("two of 9 rows, 3 classes", &[&[9, 3], &[9, 3]], |x| {
            x[0].cross_entropy(x[2]).plus(x[1].cross_entropy(x[2]))
        })
        .with_data(&[9, 1], Data::Targets(3)),
        // In the layer's launch.
        Case::new(
            "33 outputs of a layer, 19 rows",
            &[&[19, 3], &[33, 3]],
            |x| {
                let logits = x[0].linear(x[1], None);
                logits.smoothed_cross_entropy(x[2], 0.1)
            },
        )
        .with_data(&[19, 1], Data::Targets(33)),
    ],
};

#[cfg(test)]
mod tests {
    use super::*;

    /// Each class as often as softmax says, drawn again in every step, and none where there is none to draw.
    #[test]
    fn classes_are_drawn_from_softmax() {
        const ROWS: usize = 20_000;
        let row = [0.5f32, -1.0, 2.0, f32::NEG_INFINITY, 0.0];
        let x = row.repeat(ROWS);
        let target: Vec<f32> = (0..ROWS).map(|i| (i % 6) as f32 - 1.0).collect();
        let at = |batch| {
            let now = Step {
                batch,
                ..Step::default()
            };
            let mut drawn = vec![0.0; ROWS];
            draw(&x, &target, row.len(), 3, now, &mut drawn);
            drawn
        };
        let drawn = at(7);
        assert!(drawn != at(8) && drawn == at(7));
        assert!(
            drawn
                .iter()
                .zip(&target)
                .all(|(d, t)| (*d == -1.0) == (*t == -1.0))
        );
        let n = math::counted(&target) as f64;
        let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
        for (j, x) in row.iter().enumerate() {
            let p = f64::from(*x).exp() / sum;
            let count = drawn.iter().filter(|d| **d == j as f32).count() as f64;
            let deviation = (n * p * (1.0 - p)).sqrt();
            assert!(
                (count - n * p).abs() <= 4.0 * deviation,
                "{j}: {count} of {n}, p {p}"
            );
        }
    }
}
