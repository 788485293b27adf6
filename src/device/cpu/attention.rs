//! Softmax attention over short sequences.
//!
//! `qkv` (B, T, 3, H, D) is what one linear layer makes of the tokens: queries, keys, values of H heads. For
//! each sequence and head, with `s = 1 / sqrt(D)`:
//!
//! ```text
//! P = softmax(s Q K^T + bias),  O = (P . keep) V
//! dV = (P . keep)^T dO,  dP = (dO V^T) . keep,  dS = P . (dP - rowsum(P . dP)),  dQ = s dS K,  dK = s dS^T Q
//! ```
//!
//! `P`, `keep` and `dS` are (B, H, T, T), `O` is (B, T, H, D). A task is one sequence.

use super::gemm::{Matrix, gemm};
use super::math::softmax_in_place;
use super::par;
use super::simd::{LANES, Simd, Vector, multiversion};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attention {
    pub sequences: usize,
    pub tokens: usize,
    pub heads: usize,
    pub head_dim: usize,
}

impl Attention {
    /// Length of `o`, and of a third of `qkv`.
    pub fn output_len(&self) -> usize {
        self.sequences * self.tokens * self.inner()
    }

    /// Length of `p`.
    pub fn probabilities_len(&self) -> usize {
        self.sequences * self.heads * self.square()
    }

    /// Floats of scratch memory that either way needs on `threads` threads.
    pub fn workspace(&self, threads: usize) -> usize {
        threads * 2 * self.square()
    }

    fn square(&self) -> usize {
        self.tokens * self.tokens
    }

    fn inner(&self) -> usize {
        self.heads * self.head_dim
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    /// Queries (0), keys (1) or values (2) of a head in a sequence's `qkv`.
    fn part<'a>(&self, qkv: &'a [f32], part: usize, head: usize) -> Matrix<'a> {
        Matrix::new(&qkv[self.part_at(part, head)..], 3 * self.inner())
    }

    fn part_at(&self, part: usize, head: usize) -> usize {
        part * self.inner() + head * self.head_dim
    }

    fn check(&self, qkv: &[f32], bias: Option<&[f32]>, keep: Option<&[f32]>, p: &[f32], o: &[f32]) {
        assert!(qkv.len() == 3 * self.output_len() && o.len() == self.output_len());
        assert!(p.len() == self.probabilities_len());
        assert!(keep.is_none_or(|keep| keep.len() == p.len()));
        assert!(bias.is_none_or(|bias| bias.len() % self.square() == 0));
    }

    /// Overwrites `p`, to be saved for the way back, and `o`. `bias` (G, T, T) is shared by the heads; sequence b
    /// uses part b modulo G of it. `keep` is dropout's factor of each probability: 0 or 1 / (1 - rate).
    pub fn forward(
        &self,
        qkv: &[f32],
        bias: Option<&[f32]>,
        keep: Option<&[f32]>,
        p: &mut [f32],
        o: &mut [f32],
        ws: &mut [f32],
    ) {
        self.check(qkv, bias, keep, p, o);
        let (t, d, inner) = (self.tokens, self.head_dim, self.inner());
        let tasks = qkv
            .chunks_exact(3 * t * inner)
            .zip(p.chunks_exact_mut(self.heads * self.square()))
            .zip(o.chunks_exact_mut(t * inner))
            .enumerate();
        par::for_each(tasks, ws, 2 * self.square(), |(i, ((qkv, p), o)), ws| {
            for (head, p) in p.chunks_exact_mut(self.square()).enumerate() {
                let (q, k, v) = (
                    self.part(qkv, 0, head),
                    self.part(qkv, 1, head),
                    self.part(qkv, 2, head),
                );
                let beta = match bias {
                    Some(bias) => {
                        let at = i * self.square() % bias.len();
                        p.copy_from_slice(&bias[at..at + self.square()]);
                        1.0
                    }
                    None => 0.0,
                };
                gemm((t, d, t), self.scale(), q, k.t(), beta, p, t);
                softmax_in_place(p, t);
                let p = self.dropped(p, keep, (i, head), ws);
                let o = &mut o[head * d..];
                gemm((t, t, d), 1.0, Matrix::new(p, t), v, 0.0, o, inner);
            }
        });
    }

    /// `P . keep` in the first part of `ws`, or `P` itself where nothing is dropped.
    fn dropped<'a>(
        &self,
        p: &'a [f32],
        keep: Option<&[f32]>,
        (sequence, head): (usize, usize),
        ws: &'a mut [f32],
    ) -> &'a [f32] {
        let Some(keep) = keep else { return p };
        let keep = &keep[(sequence * self.heads + head) * p.len()..][..p.len()];
        for ((to, p), keep) in ws.iter_mut().zip(p).zip(keep) {
            *to = p * keep;
        }
        &ws[..p.len()]
    }

    /// Overwrites `dqkv`, and `p` by `dS`: the gradient of the scores, hence of the bias.
    #[allow(clippy::too_many_arguments)]
    pub fn backward(
        &self,
        qkv: &[f32],
        keep: Option<&[f32]>,
        d_o: &[f32],
        p: &mut [f32],
        dqkv: &mut [f32],
        ws: &mut [f32],
    ) {
        self.check(qkv, None, keep, p, d_o);
        assert_eq!(dqkv.len(), qkv.len());
        let (t, d, inner) = (self.tokens, self.head_dim, self.inner());
        let tasks = qkv
            .chunks_exact(3 * t * inner)
            .zip(p.chunks_exact_mut(self.heads * self.square()))
            .zip(d_o.chunks_exact(t * inner))
            .zip(dqkv.chunks_exact_mut(3 * t * inner))
            .enumerate();
        let scale = self.scale();
        par::for_each(tasks, ws, 2 * self.square(), |(i, task), ws| {
            let (((qkv, p), d_o), dqkv) = task;
            let (ws, dp) = ws.split_at_mut(self.square());
            for (head, p) in p.chunks_exact_mut(self.square()).enumerate() {
                let d_o = Matrix::new(&d_o[head * d..], inner);
                let (q, k, v) = (
                    self.part(qkv, 0, head),
                    self.part(qkv, 1, head),
                    self.part(qkv, 2, head),
                );
                let kept = Matrix::new(self.dropped(p, keep, (i, head), ws), t);
                let to = &mut dqkv[self.part_at(2, head)..];
                gemm((t, t, d), 1.0, kept.t(), d_o, 0.0, to, 3 * inner);
                gemm((t, d, t), 1.0, d_o, v.t(), 0.0, dp, t);
                if let Some(keep) = keep {
                    let keep = &keep[(i * self.heads + head) * p.len()..][..p.len()];
                    dp.iter_mut().zip(keep).for_each(|(dp, keep)| *dp *= keep);
                }
                softmax_gradient(dp, p, t);
                let ds = Matrix::new(p, t);
                let to = &mut dqkv[self.part_at(0, head)..];
                gemm((t, t, d), scale, ds, k, 0.0, to, 3 * inner);
                let to = &mut dqkv[self.part_at(1, head)..];
                gemm((t, t, d), scale, ds.t(), q, 0.0, to, 3 * inner);
            }
        });
    }
}

multiversion!(
    /// Rows of `p` become `p . (dp - <p, dp>)`.
    fn softmax_gradient = softmax_gradient_body(dp: &[f32], p: &mut [f32], width: usize)
);

#[inline(always)]
fn softmax_gradient_body<S: Simd>(s: S, dp: &[f32], p: &mut [f32], width: usize) {
    for (dp, p) in dp.chunks_exact(width).zip(p.chunks_exact_mut(width)) {
        let mut dot = s.zero();
        for (dp, p) in dp.chunks(LANES).zip(p.chunks(LANES)) {
            dot = s.load_partial(dp).mul_add(s.load_partial(p), dot);
        }
        let dot = s.splat(dot.sum());
        for (dp, p) in dp.chunks(LANES).zip(p.chunks_mut(LANES)) {
            (s.load_partial(p) * (s.load_partial(dp) - dot)).store_partial(p);
        }
    }
}
