//! A class token before the tokens of a sequence, and position embeddings for all of them (Dosovitskiy et al.
//! 2021): y[b, 0] = c + p[0], y[b, t + 1] = x[b, t] + p[t + 1].
//!
//! Gradient: dx[b, t] = dy[b, t + 1], dc = sum of dy[b, 0] and dp = sum of dy[b], in the order of b.

use rayon::prelude::*;

use crate::device::Program;
use crate::device::gpu::kernels;
use crate::error::Result;
use crate::graph::{Bwd, BwdSlots, Fwd, FwdSlots, Op, Var};
use crate::ops::column_sums::Columns;
use crate::ops::{Case, Row};

struct EmbedTokens {
    /// Floats of a sequence of y, and of a token.
    sequence: usize,
    dim: usize,
}

impl<'t> Var<'t> {
    /// `class` (1, 1, D) followed by `self` (N, T, D), plus `position` (1, T + 1, D): (N, T + 1, D).
    pub fn embed_tokens(self, class: Var<'t>, position: Var<'t>) -> Var<'t> {
        let [n, tokens, dim] = self.shape()[..] else {
            panic!("embed_tokens: {:?} is not (N, T, D)", self.shape());
        };
        assert_eq!(class.shape(), [1, 1, dim], "embed_tokens: class token");
        assert_eq!(
            position.shape(),
            [1, tokens + 1, dim],
            "embed_tokens: positions"
        );
        let op = EmbedTokens {
            sequence: (tokens + 1) * dim,
            dim,
        };
        self.tape
            .apply(op, &[self, class, position], &[n, tokens + 1, dim])
    }
}

impl EmbedTokens {
    fn sizes(&self) -> [i32; 2] {
        [self.sequence, self.dim].map(|n| n as i32)
    }
}

impl Op for EmbedTokens {
    fn name(&self) -> &'static str {
        "embed_tokens"
    }

    fn bwd_reads_inputs(&self) -> bool {
        false
    }

    fn cpu_fwd(&self, io: Fwd<'_>) {
        let [x, class, position, ..] = io.x;
        io.y.par_chunks_exact_mut(self.sequence)
            .zip(x.par_chunks_exact(self.sequence - self.dim))
            .for_each(|(y, x)| {
                let tokens = class.iter().chain(x);
                for (y, (x, p)) in y.iter_mut().zip(tokens.zip(position)) {
                    *y = x + p;
                }
            });
    }

    fn cpu_bwd(&self, io: Bwd<'_>) {
        let [dx, dclass, dposition, ..] = io.dx;
        let sequences = io.dy.chunks_exact(self.sequence);
        if !dx.is_empty() {
            let rows = dx.chunks_exact_mut(self.sequence - self.dim);
            for (dx, dy) in rows.zip(sequences.clone()) {
                dx.copy_from_slice(&dy[self.dim..]);
            }
        }
        dposition
            .par_chunks_mut(self.dim)
            .enumerate()
            .for_each(|(token, sum)| {
                sum.fill(0.0);
                for dy in sequences.clone() {
                    let dy = &dy[token * self.dim..];
                    sum.iter_mut().zip(dy).for_each(|(sum, dy)| *sum += dy);
                }
            });
        dclass.copy_from_slice(&dposition[..self.dim]);
    }

    fn cuda_fwd(&self, io: FwdSlots, program: &mut Program) -> Result<()> {
        let ([x, class, position, ..], [sequence, dim]) = (io.x, self.sizes());
        let n = io.y.len / self.sequence;
        kernels::embed_tokens_fwd(
            program, n, x, class, position, io.y, n as i32, sequence, dim,
        );
        Ok(())
    }

    fn cuda_bwd(&self, io: BwdSlots, program: &mut Program) -> Result<()> {
        let ([dx, dclass, dposition, ..], [sequence, dim]) = (io.dx, self.sizes());
        let n = io.dy.len / self.sequence;
        if dx.len > 0 {
            kernels::embed_tokens_bwd_x(program, n, io.dy, dx, n as i32, sequence, dim);
        }
        for sum in [dclass, dposition].into_iter().filter(|sum| sum.len > 0) {
            let columns = Columns {
                rows: n,
                columns: sum.len,
                pitch: self.sequence,
                parts: 1,
                part: 0,
            };
            columns.emit_sums(io.dy, sum, program);
        }
        Ok(())
    }
}

pub const ROW: Row = Row {
    name: "embed_tokens",
    cases: &[
        Case::new(
            "two sequences of 3",
            &[&[2, 3, 5], &[1, 1, 5], &[1, 4, 5]],
            |x| x[0].embed_tokens(x[1], x[2]),
        ),
        Case::new(
            "one token of one number",
            &[&[1, 1, 1], &[1, 1, 1], &[1, 2, 1]],
            |x| x[0].embed_tokens(x[1], x[2]),
        ),
        Case::new(
            "nine sequences of 4",
            &[&[9, 4, 11], &[1, 1, 11], &[1, 5, 11]],
            |x| x[0].embed_tokens(x[1], x[2]),
        ),
    ],
};
