//! Softmax attention of every token to itself and to those before it.
//!
//! `qkv` (B, T, 3, H, D) is what one linear layer makes of the tokens: queries, keys, values of H heads. For each
//! sequence and head, with `s = 1 / sqrt(D)`, after queries and keys have been turned by their positions ([`Turns`]):
//!
//! ```text
//! P_ij = exp(s <q_i, k_j> - L_i) for j <= i, else 0,  L_i = log sum_{j <= i} exp(s <q_i, k_j>),  O = P V
//! dV = P^T dO,  dS = P . (dO V^T - rowsum(dO . O)),  dQ = s dS K,  dK = s dS^T Q
//! ```
//!
//! `O` is (B, T, H, D); `L` (B, H, T) is kept for the way back. A task is one sequence and head. It has [`ROWS`] rows of
//! `P` at a time, up to the diagonal.

use super::gemm::{Matrix, gemm};
use super::math::{exp, exp_row, scale_row};
use super::par::{self, Parts};
use super::simd::{LANES, Simd, Vector, multiversion};

/// Rows of scores at a time.
const ROWS: usize = 64;

/// Rotary embedding (Su et al. 2021): the pair (2j, 2j + 1) of a query or a key at position t is turned by the angle
/// t base^(-2j / D).
#[derive(Clone, Debug)]
pub struct Turns {
    /// (T, D): a pair's cosine, twice.
    cos: Vec<f32>,
    /// (T, D): minus its sine, and its sine.
    sin: Vec<f32>,
}

impl Turns {
    pub fn new(tokens: usize, head_dim: usize, base: f32) -> Turns {
        let angles = (0..tokens).flat_map(|t| {
            (0..head_dim / 2).map(move |j| {
                let power = -2.0 * j as f64 / head_dim as f64;
                t as f64 * f64::from(base).powf(power)
            })
        });
        let both = angles.map(f64::sin_cos).collect::<Vec<_>>();
        let both = || both.iter().map(|(sin, cos)| (*sin as f32, *cos as f32));
        Turns {
            cos: both().flat_map(|(_, cos)| [cos, cos]).collect(),
            sin: both().flat_map(|(sin, _)| [-sin, sin]).collect(),
        }
    }

    /// The row of position `t`, times `factor`; `back` is the transpose.
    fn turn(&self, t: usize, x: &[f32], back: bool, factor: f32, to: &mut [f32]) {
        let row = t * x.len()..(t + 1) * x.len();
        let sign = if back { -1.0 } else { 1.0 };
        let (cos, sin) = (&self.cos[row.clone()], &self.sin[row]);
        let turns = cos.as_chunks::<2>().0.iter().zip(sin.as_chunks::<2>().0);
        let pairs = x.as_chunks::<2>().0.iter().zip(to.as_chunks_mut::<2>().0);
        for (([a, b], to), (cos, sin)) in pairs.zip(turns) {
            to[0] = (a * cos[0] + b * (sign * sin[0])) * factor;
            to[1] = (b * cos[1] + a * (sign * sin[1])) * factor;
        }
    }
}

#[derive(Clone, Debug)]
pub struct CausalAttention {
    pub sequences: usize,
    pub tokens: usize,
    pub heads: usize,
    pub head_dim: usize,
    pub turns: Option<Turns>,
}

impl CausalAttention {
    /// Length of `o`, and of a third of `qkv`.
    pub fn output_len(&self) -> usize {
        self.sequences * self.tokens * self.inner()
    }

    /// Length of `l`.
    pub fn rows(&self) -> usize {
        self.sequences * self.heads * self.tokens
    }

    /// Floats of scratch memory of forward on `threads` threads: Q and K of a head, and a block of P and of O.
    pub fn forward_workspace(&self, threads: usize) -> usize {
        threads * (2 * self.head_len() + self.block_len() + ROWS * self.head_dim)
    }

    /// The same of backward, which has gradients of K and V too, and a block of dS.
    pub fn backward_workspace(&self, threads: usize) -> usize {
        threads * (4 * self.head_len() + 2 * self.block_len() + ROWS * self.head_dim)
    }

    fn inner(&self) -> usize {
        self.heads * self.head_dim
    }

    fn head_len(&self) -> usize {
        self.tokens * self.head_dim
    }

    fn block_len(&self) -> usize {
        ROWS * self.tokens
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    /// Where the query (0), key (1) or value (2) of a pair's token is in `qkv`. Pairs are sequences and their heads.
    fn at(&self, pair: usize, part: usize, t: usize) -> usize {
        let (sequence, head) = (pair / self.heads, pair % self.heads);
        ((sequence * self.tokens + t) * 3 + part) * self.inner() + head * self.head_dim
    }

    /// Where a pair's token is in `o`.
    fn at_output(&self, pair: usize, t: usize) -> usize {
        let (sequence, head) = (pair / self.heads, pair % self.heads);
        (sequence * self.tokens + t) * self.inner() + head * self.head_dim
    }

    fn values<'a>(&self, qkv: &'a [f32], pair: usize) -> Matrix<'a> {
        Matrix::new(&qkv[self.at(pair, 2, 0)..], 3 * self.inner())
    }

    /// Queries (0) or keys (1) of a pair, turned.
    fn turned(&self, qkv: &[f32], pair: usize, part: usize, to: &mut [f32]) {
        for (t, to) in to.chunks_exact_mut(self.head_dim).enumerate() {
            let x = &qkv[self.at(pair, part, t)..][..self.head_dim];
            match &self.turns {
                Some(turns) => turns.turn(t, x, false, 1.0, to),
                None => to.copy_from_slice(x),
            }
        }
    }

    /// The gradient of those before they were turned, of `rows` from position t on, times the scale.
    fn turn_back(&self, rows: &[f32], pair: usize, part: usize, first: usize, to: &Parts) {
        for (row, x) in rows.chunks_exact(self.head_dim).enumerate() {
            let t = first + row;
            // SAFETY: no other task has this pair.
            let to = unsafe { to.part(self.at(pair, part, t), self.head_dim) };
            match &self.turns {
                Some(turns) => turns.turn(t, x, true, self.scale(), to),
                None => to
                    .iter_mut()
                    .zip(x)
                    .for_each(|(to, x)| *to = self.scale() * x),
            }
        }
    }

    fn blocks(&self) -> impl Iterator<Item = (usize, usize)> {
        let first = (0..self.tokens).step_by(ROWS);
        first.map(|first| (first, ROWS.min(self.tokens - first)))
    }

    /// Overwrites `l`, to be saved for the way back, and `o`.
    pub fn forward(&self, qkv: &[f32], l: &mut [f32], o: &mut [f32], ws: &mut [f32]) {
        assert!(qkv.len() == 3 * self.output_len() && o.len() == self.output_len());
        assert_eq!(l.len(), self.rows());
        let (d, scale) = (self.head_dim, self.scale());
        let o = Parts::new(o);
        let tasks = l.chunks_exact_mut(self.tokens).enumerate();
        par::for_each(tasks, ws, self.forward_workspace(1), |(pair, l), ws| {
            let (q, ws) = ws.split_at_mut(self.head_len());
            let (k, ws) = ws.split_at_mut(self.head_len());
            let (p, mixed) = ws.split_at_mut(self.block_len());
            self.turned(qkv, pair, 0, q);
            self.turned(qkv, pair, 1, k);
            let values = self.values(qkv, pair);
            for (first, rows) in self.blocks() {
                let keys = first + rows;
                let p = &mut p[..rows * keys];
                let queries = Matrix::new(&q[first * d..], d);
                gemm(
                    (rows, d, keys),
                    scale,
                    queries,
                    Matrix::new(k, d).t(),
                    0.0,
                    p,
                    keys,
                );
                softmax_rows(p, keys, &mut l[first..keys]);
                gemm(
                    (rows, keys, d),
                    1.0,
                    Matrix::new(p, keys),
                    values,
                    0.0,
                    mixed,
                    d,
                );
                for (t, x) in (first..keys).zip(mixed.chunks_exact(d)) {
                    // SAFETY: no other task has this pair.
                    unsafe { o.part(self.at_output(pair, t), d) }.copy_from_slice(x);
                }
            }
        });
    }

    /// Overwrites `dqkv`.
    #[allow(clippy::too_many_arguments)]
    pub fn backward(
        &self,
        qkv: &[f32],
        l: &[f32],
        o: &[f32],
        d_o: &[f32],
        dqkv: &mut [f32],
        ws: &mut [f32],
    ) {
        assert!(qkv.len() == 3 * self.output_len() && dqkv.len() == qkv.len());
        assert!(o.len() == self.output_len() && d_o.len() == o.len() && l.len() == self.rows());
        let (d, scale) = (self.head_dim, self.scale());
        let dqkv = Parts::new(dqkv);
        let tasks = l.chunks_exact(self.tokens).enumerate();
        par::for_each(tasks, ws, self.backward_workspace(1), |(pair, l), ws| {
            let (q, ws) = ws.split_at_mut(self.head_len());
            let (k, ws) = ws.split_at_mut(self.head_len());
            let (dk, ws) = ws.split_at_mut(self.head_len());
            let (dv, ws) = ws.split_at_mut(self.head_len());
            let (p, ws) = ws.split_at_mut(self.block_len());
            let (ds, dq) = ws.split_at_mut(self.block_len());
            self.turned(qkv, pair, 0, q);
            self.turned(qkv, pair, 1, k);
            dk.fill(0.0);
            dv.fill(0.0);
            let values = self.values(qkv, pair);
            for (first, rows) in self.blocks() {
                let keys = first + rows;
                let (p, ds) = (&mut p[..rows * keys], &mut ds[..rows * keys]);
                let queries = Matrix::new(&q[first * d..], d);
                let at = self.at_output(pair, first);
                let (o, d_o) = (&o[at..], Matrix::new(&d_o[at..], self.inner()));
                gemm(
                    (rows, d, keys),
                    scale,
                    queries,
                    Matrix::new(k, d).t(),
                    0.0,
                    p,
                    keys,
                );
                gemm((rows, d, keys), 1.0, d_o, values.t(), 0.0, ds, keys);
                gradient_rows(p, ds, keys, &l[first..keys], o, d_o.data, self.inner(), d);
                let (p, ds) = (Matrix::new(p, keys), Matrix::new(ds, keys));
                gemm((rows, keys, d), 1.0, ds, Matrix::new(k, d), 0.0, dq, d);
                self.turn_back(&dq[..rows * d], pair, 0, first, &dqkv);
                gemm((keys, rows, d), 1.0, ds.t(), queries, 1.0, dk, d);
                gemm((keys, rows, d), 1.0, p.t(), d_o, 1.0, dv, d);
            }
            self.turn_back(dk, pair, 1, 0, &dqkv);
            for (t, x) in dv.chunks_exact(d).enumerate() {
                // SAFETY: no other task has this pair.
                unsafe { dqkv.part(self.at(pair, 2, t), d) }.copy_from_slice(x);
            }
        });
    }
}

multiversion!(
    /// Softmax of rows of scores, of which the last is as long as `width`, each other one shorter by one than the next: zeros
    /// behind. `l` becomes the logarithms of the sums.
    fn softmax_rows = softmax_rows_body(p: &mut [f32], width: usize, l: &mut [f32])
);

#[inline(always)]
fn softmax_rows_body<S: Simd>(s: S, p: &mut [f32], width: usize, l: &mut [f32]) {
    let before = width - l.len();
    for (i, (row, l)) in p.chunks_exact_mut(width).zip(l).enumerate() {
        let (row, behind) = row.split_at_mut(before + i + 1);
        let (most, sum) = exp_row(s, row);
        scale_row(s, row, 1.0 / sum);
        behind.fill(0.0);
        *l = most + sum.ln();
    }
}

multiversion!(
    /// Rows of scores become those of P, rows of dP those of dS. Rows of `o` and `d_o` are `stride` apart.
    fn gradient_rows = gradient_rows_body(
        p: &mut [f32], dp: &mut [f32], width: usize, l: &[f32], o: &[f32], d_o: &[f32], stride: usize, d: usize)
);

#[allow(clippy::too_many_arguments)]
#[inline(always)]
fn gradient_rows_body<S: Simd>(
    s: S,
    p: &mut [f32],
    dp: &mut [f32],
    width: usize,
    l: &[f32],
    o: &[f32],
    d_o: &[f32],
    stride: usize,
    d: usize,
) {
    let before = width - l.len();
    let rows = p.chunks_exact_mut(width).zip(dp.chunks_exact_mut(width));
    for (i, ((p, dp), l)) in rows.zip(l).enumerate() {
        let row = i * stride..i * stride + d;
        let mut dot = s.zero();
        for (o, d_o) in o[row.clone()].chunks(LANES).zip(d_o[row].chunks(LANES)) {
            dot = s.load_partial(o).mul_add(s.load_partial(d_o), dot);
        }
        let (dot, l) = (s.splat(dot.sum()), s.splat(*l));
        let (p, p_behind) = p.split_at_mut(before + i + 1);
        let (dp, dp_behind) = dp.split_at_mut(before + i + 1);
        for (p, dp) in p.chunks_mut(LANES).zip(dp.chunks_mut(LANES)) {
            let e = exp(s, s.load_partial(p) - l);
            e.store_partial(p);
            (e * (s.load_partial(dp) - dot)).store_partial(dp);
        }
        p_behind.fill(0.0);
        dp_behind.fill(0.0);
    }
}
