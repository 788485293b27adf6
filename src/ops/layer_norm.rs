//! Layer norm (Ba, Kiros, Hinton 2016): y = w (x - mean) / sqrt(var + 1e-5) + b over the last dimension, var being
//! the biased variance.
//!
//! Gradient: with h the normalised x and g = w dy, dx = (g - mean(g) - h mean(g h)) / sqrt(var + 1e-5),
//! dw = sum of dy h and db = sum of dy over the rows. Forward keeps each row's mean and 1 / sqrt(var + 1e-5).

use crate::cpu::batch_norm::{Affine, Saved};
use crate::cpu::layer_norm;
use crate::device::Slot;
use crate::device::gpu::{PROCESSORS, aligned, kernels};
use crate::device::{Program, View};
use crate::error::Result;
use crate::graph::{Bwd, BwdSlots, Fwd, FwdSlots, Op, Var};
use crate::ops::column_sums::Columns;
use crate::ops::{Case, Row};

struct LayerNorm(layer_norm::LayerNorm);

impl<'t> Var<'t> {
    /// `self` (..., D) normalised over D, times `w` (D), plus `b` (D).
    pub fn layer_norm(self, w: Var<'t>, b: Var<'t>) -> Var<'t> {
        let (rows, width) = self.rows_columns();
        let fits = w.shape() == [width] && b.shape() == [width];
        assert!(fits, "layer_norm: input and weights do not fit");
        let op = LayerNorm(layer_norm::LayerNorm { rows, width });
        self.tape.apply(op, &[self, w, b], &self.shape())
    }
}

/// The kernels that hold a row in registers, by its length, and the one that does not.
#[derive(Clone, Copy, PartialEq)]
enum Kernels {
    UpTo128,
    UpTo512,
    UpTo1024,
    Any,
}

impl LayerNorm {
    /// `rows` are the operands that have rows.
    fn kernels(&self, rows: &[Slot]) -> Kernels {
        match self.0.width {
            width if width % 4 > 0 || !aligned(rows) => Kernels::Any,
            0..=128 => Kernels::UpTo128,
            129..=512 => Kernels::UpTo512,
            513..=1024 => Kernels::UpTo1024,
            _ => Kernels::Any,
        }
    }

    /// Shares of the rows, each of which has sums of its own: enough to fill a GPU twice.
    fn shares(&self) -> usize {
        self.0.rows.div_ceil(ROWS_AT_ONCE).min(2 * PROCESSORS)
    }

    /// Adds the launches of the gradients of weight and bias from their shares.
    fn emit_sums(&self, partial: Slot, to: [Slot; 2], program: &mut Program) {
        let columns = Columns {
            pitch: 2 * self.0.width,
            ..Columns::of(self.shares(), self.0.width)
        };
        for (i, to) in to.into_iter().enumerate().filter(|(_, to)| to.len > 0) {
            let (from, skip) = (View::from(partial), i * self.0.width);
            columns.emit_sums(from.part(skip, from.len - skip), to, program);
        }
    }
}

/// Rows that a block works on side by side.
const ROWS_AT_ONCE: usize = 8;

impl Op for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn saved(&self) -> usize {
        2 * self.0.rows
    }

    fn bwd_work(&self) -> usize {
        self.0.workspace()
    }

    fn cpu_fwd(&self, io: Fwd<'_>) {
        let [x, gamma, beta, ..] = io.x;
        let (mean, rstd) = io.saved.split_at_mut(self.0.rows);
        self.0
            .forward(x, Affine { gamma, beta }, Saved { mean, rstd }, io.y);
    }

    fn cpu_bwd(&self, io: Bwd<'_>) {
        let [x, gamma, ..] = io.x;
        let [dx, dgamma, dbeta, ..] = io.dx;
        let (mean, rstd) = io.saved.split_at(self.0.rows);
        let saved = Saved { mean, rstd };
        self.0
            .backward(x, gamma, saved, io.dy, dx, (dgamma, dbeta), io.work);
    }

    fn cuda_bwd_work(&self) -> usize {
        self.shares() * 2 * self.0.width
    }

    fn cuda_fwd(&self, io: FwdSlots, program: &mut Program) -> Result<()> {
        let ([x, w, b, ..], y, stats) = (io.x, io.y, io.saved);
        let [rows, width] = [self.0.rows, self.0.width].map(|n| n as i32);
        let grid = self.0.rows.div_ceil(ROWS_AT_ONCE).min(1 << 20);
        let vectors = i32::from(aligned(&[w, b]));
        let launch = match self.kernels(&[x, y]) {
            Kernels::UpTo128 => kernels::layer_norm_fwd_128,
            Kernels::UpTo512 => kernels::layer_norm_fwd_512,
            Kernels::UpTo1024 => kernels::layer_norm_fwd_1024,
            Kernels::Any => {
                kernels::layer_norm_fwd(program, grid, x, w, b, y, stats, rows, width);
                return Ok(());
            }
        };
        launch(program, grid, x, w, b, vectors, y, stats, rows, width);
        Ok(())
    }

    fn cuda_bwd(&self, io: BwdSlots, program: &mut Program) -> Result<()> {
        let ([x, w, ..], [dx, dw, db, ..]) = (io.x, io.dx);
        let (stats, dy, partial) = (io.saved, io.dy, io.work);
        let [rows, width] = [self.0.rows, self.0.width].map(|n| n as i32);
        let (vectors, wants_dx) = (i32::from(aligned(&[w])), i32::from(dx.len > 0));
        let shares = self.shares();
        let launch = match self.kernels(&[x, dy, dx]) {
            Kernels::UpTo128 => kernels::layer_norm_bwd_128,
            Kernels::UpTo512 => kernels::layer_norm_bwd_512,
            Kernels::UpTo1024 => kernels::layer_norm_bwd_1024,
            Kernels::Any => {
                let grid = self.0.rows.div_ceil(ROWS_AT_ONCE).min(1 << 20);
                if dx.len > 0 {
                    kernels::layer_norm_bwd_x(program, grid, x, w, stats, dy, dx, rows, width);
                }
                let grid = (self.0.width.div_ceil(32), shares);
                kernels::layer_norm_bwd_w(program, grid, x, stats, dy, partial, rows, width);
                self.emit_sums(partial, [dw, db], program);
                return Ok(());
            }
        };
        let arguments = kernels::LayerNormBwd {
            x: x.into(),
            w: w.into(),
            aligned: vectors,
            stats: stats.into(),
            dy: dy.into(),
            dx: dx.into(),
            wants_dx,
            partial: partial.into(),
            rows,
            width,
        };
        launch(program, shares, arguments);
        self.emit_sums(partial, [dw, db], program);
        Ok(())
    }
}

pub const ROW: Row = Row {
    name: "layer_norm",
    cases: &[
        Case::new("2x3 tokens of 7", &[&[2, 3, 7], &[7], &[7]], |x| {
            x[0].layer_norm(x[1], x[2])
        }),
        Case::new("40 rows of 17", &[&[40, 17], &[17], &[17]], |x| {
            x[0].layer_norm(x[1], x[2])
        }),
        Case::new("one row", &[&[1, 5], &[5], &[5]], |x| {
            x[0].layer_norm(x[1], x[2])
        }),
        Case::new("18 rows of 8", &[&[18, 8], &[8], &[8]], |x| {
            x[0].layer_norm(x[1], x[2])
        }),
        // Weights that cannot be read as vectors.
        Case::new(
            "3 rows of 132",
            &[&[3, 2], &[132, 2], &[132], &[132]],
            |x| x[0].linear(x[1], None).layer_norm(x[2], x[3]),
        ),
        Case::new("a row of 516", &[&[1, 516], &[516], &[516]], |x| {
            x[0].layer_norm(x[1], x[2])
        }),
    ],
};
