//! Softmax attention with dropout on the probabilities (Vaswani et al. 2017): for every sequence and head
//! O = (softmax(Q K^T / sqrt(D) + bias) m / (1 - p)) V, fused.
//!
//! Gradient: see `cpu::attention`; that of the bias is the sum over heads and the sequences that share it.
//! Forward keeps the probabilities before dropout; the mask is drawn again on the way back, as in `dropout`.

use rayon::prelude::*;

use super::dropout::Mask;
use crate::cpu::attention;
use crate::device::Slot;
use crate::device::gpu::kernels::{AttentionSizes, Step};
use crate::device::gpu::{Grid, MOST_SHARED, Precision, aligned, kernels};
use crate::device::{Program, View};
use crate::error::{Error, Result};
use crate::graph::{Bwd, BwdSlots, Fwd, FwdSlots, Op, Var};
use crate::ops::column_sums::Columns;
use crate::ops::{Case, Row};

struct Attention {
    shape: attention::Attention,
    /// Different biases, 0 for none: sequence b has bias b modulo this.
    biases: usize,
    mask: Option<Mask>,
    threads: usize,
}

impl<'t> Var<'t> {
    /// Of queries, keys and values of all heads side by side (..., T, 3 `heads` D): (..., T, `heads` D). `bias`
    /// (G, T, T) is added to the scores of all heads, sequence b using part b modulo G. `rate` (in [0, 1)) is
    /// dropout's on the probabilities when training.
    pub fn attention(self, heads: usize, bias: Option<Var<'t>>, rate: f64) -> Var<'t> {
        let mut shape = self.shape();
        let [.., tokens, width] = shape[..] else {
            panic!("attention: {shape:?} is not (B, T, 3 H D)");
        };
        assert_eq!(width % (3 * heads), 0, "attention: heads do not fit");
        let head_dim = width / (3 * heads);
        *shape.last_mut().expect("three dimensions") = heads * head_dim;
        let op = Attention {
            shape: attention::Attention {
                sequences: self.size() / (tokens * width),
                tokens,
                heads,
                head_dim,
            },
            biases: bias.map_or(0, |bias| bias.size() / (tokens * tokens)),
            mask: Mask::new(self.tape, rate),
            threads: rayon::current_num_threads(),
        };
        if let Some(bias) = bias {
            assert_eq!(bias.shape(), [op.biases, tokens, tokens], "attention: bias");
            let shared = op.shape.sequences.is_multiple_of(op.biases);
            assert!(shared, "attention: all biases serve as many sequences");
        }
        let operands: Vec<Var> = [self].into_iter().chain(bias).collect();
        self.tape.apply(op, &operands, &shape)
    }
}

impl Attention {
    /// Dropout's factors of the `i`-th T x T probabilities.
    fn keep(&self, now: Step) -> Option<impl Fn(usize, &mut [f32]) + Sync> {
        let mask = self.mask?;
        Some(move |i: usize, to: &mut [f32]| {
            mask.factors(now, i * to.len().div_ceil(Mask::BLOCK), to);
        })
    }
}

/// Tokens that one warp is enough for.
const WARP_TOKENS: usize = 32;
/// Rows of scores that a block of the kernels for any sizes works on side by side.
const ROWS_AT_ONCE: usize = 4;

impl Attention {
    /// What the kernels take beside their operands.
    fn sizes(&self, wants_ds: bool) -> AttentionSizes {
        let (threshold, keep) = self.mask.map_or((0, 1.0), |m| m.threshold_and_scale());
        let shape = &self.shape;
        let sizes = [shape.sequences, shape.heads, shape.tokens, shape.head_dim];
        let [sequences, heads, tokens, dim] = sizes.map(|n| n as i32);
        AttentionSizes {
            sequences,
            heads,
            tokens,
            dim,
            biases: self.biases as i32,
            wants_ds: wants_ds.into(),
            drops: self.mask.is_some().into(),
            threshold,
            keep,
            stream: self.mask.map_or(0, |mask| mask.stream),
        }
    }

    fn pairs(&self) -> usize {
        self.shape.sequences * self.shape.heads
    }

    /// The grid of a kernel that keeps matrices (T, D) and (T, T) of a pair in shared memory; none where they do not
    /// fit there or the operands cannot be read as vectors.
    fn grid(&self, matrices: usize, squares: usize, operands: &[Slot]) -> Option<Grid> {
        // As in the kernels.
        let pitch = |n: usize| n.next_multiple_of(4) | 4;
        let (tokens, dim) = (self.shape.tokens, self.shape.head_dim);
        let floats = tokens * (matrices * pitch(dim) + squares * pitch(tokens));
        let shared = size_of::<f32>() * floats;
        let fits = dim.is_multiple_of(4) && aligned(operands) && shared <= MOST_SHARED;
        fits.then(|| Grid {
            shared: shared as u32,
            ..self.pairs().into()
        })
    }

    /// The grid of a kernel for any sizes, whose warps keep this many rows of scores.
    fn any_grid(&self, rows: usize) -> Result<Grid> {
        let tokens = self.shape.tokens;
        let shared = size_of::<f32>() * ROWS_AT_ONCE * rows * tokens;
        if shared > MOST_SHARED {
            return Err(Error::usage(format!(
                "attention among {tokens} tokens does not fit into a GPU's shared memory; train with --device cpu"
            )));
        }
        let blocks = (self.pairs() * tokens).div_ceil(ROWS_AT_ONCE);
        Ok(Grid {
            shared: shared as u32,
            ..blocks.min(1 << 20).into()
        })
    }

    /// Floats of the gradient of the scores, which that of the bias is summed from.
    fn scores_gradient(&self) -> usize {
        match self.biases {
            0 => 0,
            _ => self.shape.probabilities_len(),
        }
    }

    /// Floats of the sums of that over the sequences that share a bias.
    fn bias_partial(&self) -> usize {
        self.biases * self.shape.heads * self.shape.tokens * self.shape.tokens
    }

    fn emit_bias_gradient(
        &self,
        ds: View<f32>,
        partial: View<f32>,
        to: Slot,
        program: &mut Program,
    ) {
        let (square, heads) = (self.shape.tokens * self.shape.tokens, self.shape.heads);
        let over_sequences = Columns::of(self.shape.sequences / self.biases, partial.len);
        over_sequences.emit_sums(ds, partial, program);
        let over_heads = Columns {
            parts: self.biases,
            part: heads * square,
            ..Columns::of(heads, square)
        };
        over_heads.emit_sums(partial, to, program);
    }
}

impl Op for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn saved(&self) -> usize {
        self.shape.probabilities_len()
    }

    fn fwd_work(&self) -> usize {
        self.shape.workspace(self.threads)
    }

    /// Room for the gradient of the scores too.
    fn bwd_work(&self) -> usize {
        self.shape.probabilities_len() + self.shape.workspace(self.threads)
    }

    fn flops(&self) -> usize {
        4 * self.shape.output_len() * self.shape.tokens
    }

    fn cpu_fwd(&self, io: Fwd<'_>) {
        let [qkv, bias, ..] = io.x;
        let bias = (self.biases > 0).then_some(bias);
        let keep = self.keep(io.now);
        let keep = keep.as_ref().map(|keep| keep as attention::Keep);
        self.shape.forward(qkv, bias, keep, io.saved, io.y, io.work);
    }

    fn cpu_bwd(&self, io: Bwd<'_>) {
        let [qkv, ..] = io.x;
        let [dqkv, dbias, ..] = io.dx;
        let (ds, work) = io.work.split_at_mut(self.shape.probabilities_len());
        let keep = self.keep(io.now);
        let keep = keep.as_ref().map(|keep| keep as attention::Keep);
        self.shape
            .backward(qkv, keep, io.saved, io.dy, ds, dqkv, work);
        if dbias.is_empty() {
            return;
        }
        let square = self.shape.tokens * self.shape.tokens;
        dbias
            .par_chunks_exact_mut(square)
            .enumerate()
            .for_each(|(bias, sum)| {
                sum.fill(0.0);
                let sequences = ds.chunks_exact(self.shape.heads * square);
                for scores in sequences.skip(bias).step_by(self.biases) {
                    for ds in scores.chunks_exact(square) {
                        sum.iter_mut().zip(ds).for_each(|(sum, ds)| *sum += ds);
                    }
                }
            });
    }

    /// Of each row of scores, the maximum and the factor of the exponentials.
    fn cuda_saved(&self) -> usize {
        2 * self.pairs() * self.shape.tokens
    }

    /// The gradient of the scores, its sums over sequences, and a number per row of scores.
    fn cuda_bwd_work(&self) -> usize {
        self.scores_gradient() + self.bias_partial() + self.pairs() * self.shape.tokens
    }

    fn cuda_fwd(&self, io: FwdSlots, program: &mut Program) -> Result<()> {
        let ([x, bias, ..], y, stats, now) = (io.x, io.y, io.saved, io.now);
        let sizes = self.sizes(false);
        let Some(grid) = self.grid(3, 1, &[x, y]) else {
            let grid = self.any_grid(1)?;
            kernels::attention_fwd_any(program, grid, x, bias, y, stats, now, sizes);
            return Ok(());
        };
        let launch = match (self.shape.tokens <= WARP_TOKENS, program.linear_precision()) {
            (true, Precision::Fp32) => kernels::attention_fwd_warp_fp32,
            (true, Precision::Tf32) => kernels::attention_fwd_warp_tf32,
            (false, Precision::Fp32) => kernels::attention_fwd_block_fp32,
            (false, Precision::Tf32) => kernels::attention_fwd_block_tf32,
        };
        launch(program, grid, x, bias, y, stats, now, sizes);
        Ok(())
    }

    fn cuda_bwd(&self, io: BwdSlots, program: &mut Program) -> Result<()> {
        let ([x, bias, ..], stats, now) = (io.x, io.saved, io.now);
        let (dy, [dx, dbias, ..]) = (io.dy, io.dx);
        let work = View::from(io.work);
        let ds = work.part(0, self.scores_gradient());
        let partial = work.part(ds.len, self.bias_partial());
        let dots = work.part(ds.len + partial.len, self.pairs() * self.shape.tokens);
        let sizes = self.sizes(dbias.len > 0);
        if let Some(grid) = self.grid(4, 2, &[x, dy, dx]) {
            let launch = match (self.shape.tokens <= WARP_TOKENS, program.linear_precision()) {
                (true, Precision::Fp32) => kernels::attention_bwd_warp_fp32,
                (true, Precision::Tf32) => kernels::attention_bwd_warp_tf32,
                (false, Precision::Fp32) => kernels::attention_bwd_block_fp32,
                (false, Precision::Tf32) => kernels::attention_bwd_block_tf32,
            };
            launch(program, grid, x, bias, stats, dy, dx, ds, now, sizes);
        } else {
            let grid = self.any_grid(2)?;
            let arguments = kernels::AttentionBwdQ {
                x: x.into(),
                bias: bias.into(),
                stats: stats.into(),
                dy: dy.into(),
                dx: dx.into(),
                ds,
                dots,
                now,
                s: sizes,
            };
            kernels::attention_bwd_q(program, grid, arguments);
            kernels::attention_bwd_kv(program, grid, x, bias, stats, dy, dx, dots, now, sizes);
        }
        if dbias.len > 0 {
            self.emit_bias_gradient(ds, partial, dbias, program);
        }
        Ok(())
    }
}

pub const ROW: Row = Row {
    name: "attention",
    cases: &[
        Case::new("two sequences of 5, 2 heads of 3", &[&[2, 5, 18]], |x| {
            x[0].attention(2, None, 0.0)
        }),
        Case::new("one sequence, dropout", &[&[1, 7, 6]], |x| {
            x[0].attention(1, None, 0.4)
        }),
        Case::new(
            "six sequences share two biases, dropout",
            &[&[3, 2, 3, 12], &[2, 3, 3]],
            |x| x[0].attention(2, Some(x[1]), 0.2),
        ),
        Case::new("one token", &[&[3, 1, 3], &[1, 1, 1]], |x| {
            x[0].attention(1, Some(x[1]), 0.0)
        }),
        Case::new(
            "four sequences of 5 share two biases, 2 heads of 4, dropout",
            &[&[4, 5, 24], &[2, 5, 5]],
            |x| x[0].attention(2, Some(x[1]), 0.3),
        ),
        Case::new(
            "one sequence of 33, a head of 4, dropout",
            &[&[1, 33, 12]],
            |x| x[0].attention(1, None, 0.2),
        ),
    ],
};
