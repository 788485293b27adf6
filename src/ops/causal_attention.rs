//! Softmax attention of every token to itself and to those before it (Vaswani et al. 2017), of queries and keys that are
//! turned by their positions if asked for (rotary embedding, Su et al. 2021), fused.
//!
//! Gradient: see `cpu::causal_attention`. Forward keeps the logarithm of the sum of the exponentials of each row of scores,
//! of which no more is in memory at once than a few rows or a tile.

use crate::cpu::causal_attention::{CausalAttention as Arithmetic, Turns};
use crate::device::Program;
use crate::device::gpu::kernels::CausalSizes;
use crate::device::gpu::{Grid, Precision, kernels};
use crate::error::{Error, Result};
use crate::graph::{Bwd, BwdSlots, Fwd, FwdSlots, Op, Var};
use crate::ops::{Case, Row};

struct CausalAttention {
    arithmetic: Arithmetic,
    /// Of the angles of the turns.
    base: Option<f32>,
    threads: usize,
}

impl<'t> Var<'t> {
    /// Of queries, keys and values of all heads side by side (N, T, 3 `heads` D): (N, T, `heads` D). With `rotary` = b, the
    /// pair (2j, 2j + 1) of a query or a key at position t is turned by the angle t b^(-2j / D) first.
    pub fn causal_attention(self, heads: usize, rotary: Option<f32>) -> Var<'t> {
        let shape = self.shape();
        let [sequences, tokens, width] = shape[..] else {
            panic!("causal_attention: {shape:?} is not (N, T, 3 H D)");
        };
        assert_eq!(width % (3 * heads), 0, "causal_attention: heads do not fit");
        let head_dim = width / (3 * heads);
        assert!(
            rotary.is_none() || head_dim.is_multiple_of(2),
            "causal_attention: heads of {head_dim} have no pairs to turn"
        );
        let op = CausalAttention {
            arithmetic: Arithmetic {
                sequences,
                tokens,
                heads,
                head_dim,
                turns: rotary.map(|base| Turns::new(tokens, head_dim, base)),
            },
            base: rotary,
            threads: rayon::current_num_threads(),
        };
        self.tape
            .apply(op, &[self], &[sequences, tokens, heads * head_dim])
    }
}

/// Rows and columns of a tile of scores in the kernels.
const ROWS: usize = 64;
const COLUMNS: usize = 32;

/// The kernels for heads of at most this many dimensions: what the others have beyond theirs is zeros.
#[derive(Clone, Copy)]
enum Head {
    Of64,
    Of192,
    Of256,
}

impl Head {
    fn of(dim: usize) -> Result<Head> {
        match dim {
            0..=64 => Ok(Head::Of64),
            65..=192 => Ok(Head::Of192),
            193..=256 => Ok(Head::Of256),
            _ => Err(Error::usage(format!(
                "attention with heads of {dim} dimensions has no CUDA kernels, which take up to 256; use more heads or train \
                 with --device cpu"
            ))),
        }
    }

    /// Most dimensions.
    fn most(self) -> usize {
        match self {
            Head::Of64 => 64,
            Head::Of192 => 192,
            Head::Of256 => 256,
        }
    }

    /// Kinds of blocks of backward: of gradients of queries, and of keys and values, together or apart.
    fn kinds(self) -> usize {
        match self {
            Head::Of64 => 2,
            Head::Of192 | Head::Of256 => 3,
        }
    }
}

impl CausalAttention {
    fn sizes(&self) -> CausalSizes {
        let Arithmetic {
            sequences,
            tokens,
            heads,
            head_dim,
            ..
        } = self.arithmetic;
        let [sequences, heads, tokens, dim] =
            [sequences, heads, tokens, head_dim].map(|n| n as i32);
        CausalSizes {
            sequences,
            heads,
            tokens,
            dim,
            base: self.base.unwrap_or(0.0),
        }
    }

    /// The grid of a kernel with this many blocks for a tile's rows, which have operands of this many tiles' rows and
    /// columns in shared memory.
    fn grid(&self, head: Head, kinds: usize, [by_rows, by_columns]: [usize; 2]) -> Grid {
        let Arithmetic {
            sequences,
            tokens,
            heads,
            ..
        } = self.arithmetic;
        let floats = (by_rows * ROWS + by_columns * COLUMNS) * (head.most() + 4);
        Grid {
            shared: (size_of::<f32>() * floats) as u32,
            ..(kinds * tokens.div_ceil(ROWS) * sequences * heads).into()
        }
    }
}

impl Op for CausalAttention {
    fn name(&self) -> &'static str {
        "causal_attention"
    }

    fn saved(&self) -> usize {
        self.arithmetic.rows()
    }

    fn fwd_work(&self) -> usize {
        self.arithmetic.forward_workspace(self.threads)
    }

    fn bwd_work(&self) -> usize {
        self.arithmetic.backward_workspace(self.threads)
    }

    fn bwd_reads_output(&self) -> bool {
        true
    }

    /// Of the scores that count.
    fn flops(&self) -> usize {
        2 * self.arithmetic.output_len() * (self.arithmetic.tokens + 1)
    }

    fn cpu_fwd(&self, io: Fwd<'_>) {
        self.arithmetic.forward(io.x[0], io.saved, io.y, io.work);
    }

    fn cpu_bwd(&self, io: Bwd<'_>) {
        let ([x, ..], [dx, ..]) = (io.x, io.dx);
        self.arithmetic
            .backward(x, io.saved, io.y, io.dy, dx, io.work);
    }

    fn cuda_fwd(&self, io: FwdSlots, program: &mut Program) -> Result<()> {
        let head = Head::of(self.arithmetic.head_dim)?;
        let launch = match (head, program.linear_precision()) {
            (Head::Of64, Precision::Fp32) => kernels::causal_attention_fwd_64_fp32,
            (Head::Of64, Precision::Tf32) => kernels::causal_attention_fwd_64_tf32,
            (Head::Of192, Precision::Fp32) => kernels::causal_attention_fwd_192_fp32,
            (Head::Of192, Precision::Tf32) => kernels::causal_attention_fwd_192_tf32,
            (Head::Of256, Precision::Fp32) => kernels::causal_attention_fwd_256_fp32,
            (Head::Of256, Precision::Tf32) => kernels::causal_attention_fwd_256_tf32,
        };
        let grid = self.grid(head, 1, [1, 2]);
        launch(program, grid, io.x[0], io.y, io.saved, self.sizes());
        Ok(())
    }

    fn cuda_bwd(&self, io: BwdSlots, program: &mut Program) -> Result<()> {
        let head = Head::of(self.arithmetic.head_dim)?;
        let launch = match (head, program.linear_precision()) {
            (Head::Of64, Precision::Fp32) => kernels::causal_attention_bwd_64_fp32,
            (Head::Of64, Precision::Tf32) => kernels::causal_attention_bwd_64_tf32,
            (Head::Of192, Precision::Fp32) => kernels::causal_attention_bwd_192_fp32,
            (Head::Of192, Precision::Tf32) => kernels::causal_attention_bwd_192_tf32,
            (Head::Of256, Precision::Fp32) => kernels::causal_attention_bwd_256_fp32,
            (Head::Of256, Precision::Tf32) => kernels::causal_attention_bwd_256_tf32,
        };
        let grid = self.grid(head, head.kinds(), [2, 2]);
        let ([x, ..], [dx, ..]) = (io.x, io.dx);
        launch(program, grid, x, io.y, io.saved, io.dy, dx, self.sizes());
        Ok(())
    }
}

pub const ROW: Row = Row {
    name: "causal_attention",
    cases: &[
        Case::new("two sequences of 5, 2 heads of 4", &[&[2, 5, 24]], |x| {
            x[0].causal_attention(2, None)
        }),
        Case::new("turned, 7 tokens, 2 heads of 6", &[&[1, 7, 36]], |x| {
            x[0].causal_attention(2, Some(10_000.0))
        }),
        Case::new("turned, one token", &[&[3, 1, 24]], |x| {
            x[0].causal_attention(1, Some(500_000.0))
        }),
        Case::new("a head of 3", &[&[1, 4, 9]], |x| {
            x[0].causal_attention(1, None)
        }),
        Case::new("turned, 67 tokens, a head of 2", &[&[1, 67, 6]], |x| {
            x[0].causal_attention(1, Some(10.0))
        }),
    ],
};
