//! Token embedding: y[t] = w[i[t]], rows of a table picked by tokens.
//!
//! Gradient: dw[v] = sum of dy[t] over the t with i[t] = v, in the order of t.

use crate::cpu::tokens;
use crate::device::gpu::{elementwise, kernels, packs};
use crate::device::{Program, Slot};
use crate::error::Result;
use crate::graph::{Bwd, BwdSlots, Fwd, FwdSlots, Op, Var};
use crate::ops::{Case, Data, Row};

struct TokenEmbedding {
    tokens: usize,
    vocabulary: usize,
    dim: usize,
}

impl<'t> Var<'t> {
    /// Picks rows of `self` (V, D) by `tokens` (N, T), codes below V held as floats: (N, T, D).
    pub fn token_embedding(self, tokens: Var<'t>) -> Var<'t> {
        let (vocabulary, dim) = self.rows_columns();
        let op = TokenEmbedding {
            tokens: tokens.size(),
            vocabulary,
            dim,
        };
        let mut shape = tokens.shape();
        shape.push(dim);
        self.tape.apply(op, &[self, tokens], &shape)
    }
}

/// Tokens of a part at least: a sixth of a text is spaces, whose block then adds up some 64 rows.
const PART: usize = 384;

impl TokenEmbedding {
    /// Tokens of a part whose sums kernels keep apart: so many that the sums are no more numbers than the gradient that they
    /// are of.
    fn part(&self) -> usize {
        self.vocabulary.max(PART)
    }

    fn parts(&self) -> usize {
        self.tokens.div_ceil(self.part())
    }
}

impl Op for TokenEmbedding {
    fn name(&self) -> &'static str {
        "token_embedding"
    }

    fn cpu_fwd(&self, io: Fwd<'_>) {
        let [w, i, ..] = io.x;
        tokens::embed(w, i, io.y);
    }

    fn cpu_bwd(&self, io: Bwd<'_>) {
        let ([_, i, ..], [dw, ..]) = (io.x, io.dx);
        tokens::embed_backward(i, io.dy, dw);
    }

    fn cuda_bwd_work(&self) -> usize {
        match self.parts() {
            1 => 0,
            parts => parts * self.vocabulary * self.dim,
        }
    }

    fn cuda_fwd(&self, io: FwdSlots, program: &mut Program) -> Result<()> {
        let ([w, i, ..], y) = (io.x, io.y);
        let (packed, n) = packs(self.dim, y.len, &[w, y]);
        let (grid, dim) = (elementwise(n), self.dim as i32);
        kernels::token_embedding_fwd(program, grid, w, i, y, packed, n as i64, dim);
        Ok(())
    }

    fn cuda_bwd(&self, io: BwdSlots, program: &mut Program) -> Result<()> {
        let ([_, i, ..], dy, dw) = (io.x, io.dy, io.dx[0]);
        let parts = self.parts();
        let partial: Slot = if parts == 1 { dw } else { io.work };
        let (packed, _) = packs(self.dim, 0, &[dy, partial]);
        let [n, dim, part] = [self.tokens, self.dim, self.part()].map(|n| n as i32);
        let counters = if parts > 1 { self.vocabulary } else { 0 };
        let arguments = kernels::TokenEmbeddingBwd {
            tokens: i.into(),
            dy: dy.into(),
            partial: partial.into(),
            dw: dw.into(),
            counters: program.counters(counters),
            packed,
            n,
            dim,
            part,
        };
        kernels::token_embedding_bwd(program, (self.vocabulary, parts), arguments);
        Ok(())
    }
}

pub const ROW: Row = Row {
    name: "token_embedding",
    cases: &[
        Case::new("2x4 tokens of 3, 5 codes", &[&[5, 3]], |x| {
            x[0].token_embedding(x[1])
        })
        .with_data(&[2, 4], Data::Indices(&[5])),
        Case::new("one code", &[&[1, 1]], |x| x[0].token_embedding(x[1]))
            .with_data(&[1, 1], Data::Indices(&[1])),
        Case::new("300 tokens of 4, 6 of 8 codes", &[&[8, 4]], |x| {
            x[0].token_embedding(x[1])
        })
        .with_data(&[3, 100], Data::Indices(&[6])),
        // In three parts.
        Case::new("900 tokens of 4, 3 of 5 codes", &[&[5, 4]], |x| {
            x[0].token_embedding(x[1])
        })
        .with_data(&[9, 100], Data::Indices(&[3])),
    ],
};
