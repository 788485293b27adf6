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
//! `P`, `keep` and `dS` are (B, H, T, T), `O` is (B, T, H, D). `keep` is made where it is used. A task is one
//! sequence.

use super::gemm::{Matrix, gemm};
use super::math::softmax_in_place;
use super::par;
use super::simd::{LANES, Simd, Vector, multiversion};

/// Dropout's factors, 0 or 1 / (1 - rate), of the probabilities (T, T) of a sequence b and head h: called with
/// b H + h and the place to write them to.
pub type Keep<'a> = &'a (dyn Fn(usize, &mut [f32]) + Sync);

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

    fn check(&self, qkv: &[f32], p: &[f32], o: &[f32]) {
        assert!(qkv.len() == 3 * self.output_len() && o.len() == self.output_len());
        assert!(p.len() == self.probabilities_len());
    }

    /// Overwrites `p`, to be saved for the way back, and `o`. `bias` (G, T, T) is shared by the heads; sequence b
    /// uses part b modulo G of it.
    pub fn forward(
        &self,
        qkv: &[f32],
        bias: Option<&[f32]>,
        keep: Option<Keep>,
        p: &mut [f32],
        o: &mut [f32],
        ws: &mut [f32],
    ) {
        self.check(qkv, p, o);
        assert!(bias.is_none_or(|bias| bias.len() % self.square() == 0));
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
                let mut kept = &*p;
                if let Some(keep) = keep {
                    let factors = &mut ws[..self.square()];
                    keep(i * self.heads + head, factors);
                    multiply(p, factors);
                    kept = factors;
                }
                let o = &mut o[head * d..];
                gemm((t, t, d), 1.0, Matrix::new(kept, t), v, 0.0, o, inner);
            }
        });
    }

    /// Overwrites `dqkv`, and `ds`: the gradient of the scores, hence of the bias.
    #[allow(clippy::too_many_arguments)]
    pub fn backward(
        &self,
        qkv: &[f32],
        keep: Option<Keep>,
        p: &[f32],
        d_o: &[f32],
        ds: &mut [f32],
        dqkv: &mut [f32],
        ws: &mut [f32],
    ) {
        self.check(qkv, p, d_o);
        assert!(dqkv.len() == qkv.len() && ds.len() == p.len());
        let (t, d, inner) = (self.tokens, self.head_dim, self.inner());
        let tasks = qkv
            .chunks_exact(3 * t * inner)
            .zip(p.chunks_exact(self.heads * self.square()))
            .zip(d_o.chunks_exact(t * inner))
            .zip(ds.chunks_exact_mut(self.heads * self.square()))
            .zip(dqkv.chunks_exact_mut(3 * t * inner))
            .enumerate();
        let scale = self.scale();
        par::for_each(tasks, ws, 2 * self.square(), |(i, task), ws| {
            let ((((qkv, p), d_o), ds), dqkv) = task;
            let (factors, kept) = ws.split_at_mut(self.square());
            let squares = p.chunks_exact(self.square());
            let squares = squares.zip(ds.chunks_exact_mut(self.square()));
            for (head, (p, ds)) in squares.enumerate() {
                let d_o = Matrix::new(&d_o[head * d..], inner);
                let (q, k, v) = (
                    self.part(qkv, 0, head),
                    self.part(qkv, 1, head),
                    self.part(qkv, 2, head),
                );
                gemm((t, d, t), 1.0, d_o, v.t(), 0.0, ds, t);
                let mut p_kept = p;
                if let Some(keep) = keep {
                    keep(i * self.heads + head, factors);
                    multiply(factors, ds);
                    kept.copy_from_slice(p);
                    multiply(factors, kept);
                    p_kept = kept;
                }
                let p_kept = Matrix::new(p_kept, t);
                let to = &mut dqkv[self.part_at(2, head)..];
                gemm((t, t, d), 1.0, p_kept.t(), d_o, 0.0, to, 3 * inner);
                softmax_gradient(p, ds, t);
                let ds = Matrix::new(ds, t);
                let to = &mut dqkv[self.part_at(0, head)..];
                gemm((t, t, d), scale, ds, k, 0.0, to, 3 * inner);
                let to = &mut dqkv[self.part_at(1, head)..];
                gemm((t, t, d), scale, ds.t(), q, 0.0, to, 3 * inner);
            }
        });
    }
}

/// y = x y, element by element.
fn multiply(x: &[f32], y: &mut [f32]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y *= x);
}

multiversion!(
    /// Rows of `dp` become those of `dS`, `p . (dp - <p, dp>)`.
    fn softmax_gradient = softmax_gradient_body(p: &[f32], dp: &mut [f32], width: usize)
);

#[inline(always)]
fn softmax_gradient_body<S: Simd>(s: S, p: &[f32], dp: &mut [f32], width: usize) {
    for (p, dp) in p.chunks_exact(width).zip(dp.chunks_exact_mut(width)) {
        let mut dot = s.zero();
        for (p, dp) in p.chunks(LANES).zip(dp.chunks(LANES)) {
            dot = s.load_partial(dp).mul_add(s.load_partial(p), dot);
        }
        let dot = s.splat(dot.sum());
        for (p, dp) in p.chunks(LANES).zip(dp.chunks_mut(LANES)) {
            (s.load_partial(p) * (s.load_partial(dp) - dot)).store_partial(dp);
        }
    }
}
