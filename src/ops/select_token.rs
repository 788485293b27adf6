//! One token of every sequence: y[b] = x[b, t].
//!
//! Gradient: dx[b, t] = dy[b], and 0 for the other tokens.

use crate::device::Program;
use crate::device::gpu::kernels;
use crate::error::Result;
use crate::graph::{Bwd, BwdSlots, Fwd, FwdSlots, Op, Var};
use crate::ops::{Case, Row};

struct SelectToken {
    /// Floats of a sequence, and the token's place in it.
    sequence: usize,
    at: std::ops::Range<usize>,
}

impl<'t> Var<'t> {
    /// Token `token` of sequences (N, T, D): (N, D).
    pub fn select_token(self, token: usize) -> Var<'t> {
        let [n, tokens, dim] = self.shape()[..] else {
            panic!("select_token: {:?} is not (N, T, D)", self.shape());
        };
        assert!(token < tokens, "select_token: no such token");
        let op = SelectToken {
            sequence: tokens * dim,
            at: token * dim..(token + 1) * dim,
        };
        self.tape.apply(op, &[self], &[n, dim])
    }
}

impl SelectToken {
    /// Blocks, sequences and what the kernels take behind them.
    fn sizes(&self, y: usize) -> (usize, [i32; 4]) {
        let n = y / self.at.len();
        let sizes = [n, self.sequence, self.at.start, self.at.len()];
        (n, sizes.map(|n| n as i32))
    }
}

impl Op for SelectToken {
    fn name(&self) -> &'static str {
        "select_token"
    }

    fn bwd_reads_inputs(&self) -> bool {
        false
    }

    fn cpu_fwd(&self, io: Fwd<'_>) {
        let rows = io.y.chunks_exact_mut(self.at.len());
        for (y, x) in rows.zip(io.x[0].chunks_exact(self.sequence)) {
            y.copy_from_slice(&x[self.at.clone()]);
        }
    }

    fn cpu_bwd(&self, io: Bwd<'_>) {
        let [dx, ..] = io.dx;
        dx.fill(0.0);
        let rows = dx.chunks_exact_mut(self.sequence);
        for (dx, dy) in rows.zip(io.dy.chunks_exact(self.at.len())) {
            dx[self.at.clone()].copy_from_slice(dy);
        }
    }

    fn cuda_fwd(&self, io: FwdSlots, program: &mut Program) -> Result<()> {
        let (grid, [n, sequence, start, dim]) = self.sizes(io.y.len);
        kernels::select_token_fwd(program, grid, io.x[0], io.y, n, sequence, start, dim);
        Ok(())
    }

    fn cuda_bwd(&self, io: BwdSlots, program: &mut Program) -> Result<()> {
        let (grid, [n, sequence, start, dim]) = self.sizes(io.dy.len);
        kernels::select_token_bwd(program, grid, io.dy, io.dx[0], n, sequence, start, dim);
        Ok(())
    }
}

pub const ROW: Row = Row {
    name: "select_token",
    cases: &[
        Case::new("the first of 3", &[&[2, 3, 5]], |x| x[0].select_token(0)),
        Case::new("the last of 4", &[&[1, 4, 3]], |x| x[0].select_token(3)),
        Case::new("more than a block has threads", &[&[2, 3, 90]], |x| {
            x[0].select_token(1)
        }),
    ],
};
