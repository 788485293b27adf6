//! Softmax attention with dropout on the probabilities (Vaswani et al. 2017): for every sequence and head
//! O = (softmax(Q K^T / sqrt(D) + bias) m / (1 - p)) V, fused.
//!
//! Gradient: see `device::cpu::attention`; that of the bias is the sum over heads and the sequences that share it.
//! Forward keeps the probabilities before dropout; the mask is drawn anew on the way back, as in `dropout`.

use rayon::prelude::*;

use super::dropout::Mask;
use crate::device::cpu::attention;
use crate::graph::{Bwd, Clock, Fwd, Op, Var};
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
        }
        let operands: Vec<Var> = [self].into_iter().chain(bias).collect();
        self.tape.apply(op, &operands, &shape)
    }
}

impl Attention {
    /// Dropout's factors of the `i`-th T x T probabilities.
    fn keep(&self, clock: Clock) -> Option<impl Fn(usize, &mut [f32]) + Sync> {
        let mask = self.mask?;
        Some(move |i: usize, to: &mut [f32]| {
            mask.factors(clock, i * to.len().div_ceil(Mask::BLOCK), to);
        })
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
        let keep = self.keep(io.clock);
        let keep = keep.as_ref().map(|keep| keep as attention::Keep);
        self.shape.forward(qkv, bias, keep, io.saved, io.y, io.work);
    }

    fn cpu_bwd(&self, io: Bwd<'_>) {
        let [qkv, ..] = io.x;
        let [dqkv, dbias, ..] = io.dx;
        let (ds, work) = io.work.split_at_mut(self.shape.probabilities_len());
        let keep = self.keep(io.clock);
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
    ],
};
