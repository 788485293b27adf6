//! Layer norm (Ba, Kiros, Hinton 2016): y = w (x - mean) / sqrt(var + 1e-5) + b over the last dimension, var being
//! the biased variance.
//!
//! Gradient: with h the normalised x and g = w dy, dx = (g - mean(g) - h mean(g h)) / sqrt(var + 1e-5),
//! dw = sum of dy h and db = sum of dy over the rows. Forward keeps each row's mean and 1 / sqrt(var + 1e-5).

use crate::device::cpu::batch_norm::{Affine, Saved};
use crate::device::cpu::layer_norm;
use crate::graph::{Bwd, Fwd, Op, Var};
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
    ],
};
