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
//! `O` is (B, T, H, D); `L` (B, H, T) is kept for the way back. A task is one sequence and head. Scores are made `BLOCK` rows
//! at a time, up to the diagonal: a block of rows on the way there, whose softmax is taken as it stands, a tile of them on the
//! way back.

use super::gemm::Matrix;
use super::math::{exp, exp_row, scale_row};
use super::par::{self, Parts};
use super::simd::{LANES, Simd, Vector, multiversion};
use std::ops::Range;

/// Rows of a block, and columns of a tile of scores.
const BLOCK: usize = 64;
/// Floats behind each row of scores: without them, the entries of a column would share few of the cache's sets.
const GAP: usize = LANES;
/// A tile of scores.
const TILE_WIDTH: usize = BLOCK + GAP;
const TILE_LEN: usize = BLOCK * TILE_WIDTH;

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

    /// Turns the row of position `t`, or back if `sign` is -1, and multiplies it by `factor`.
    fn turn(&self, t: usize, x: &mut [f32], sign: f32, factor: f32) {
        let row = t * x.len()..(t + 1) * x.len();
        let turns = self.cos[row.clone()].as_chunks::<2>().0.iter();
        let turns = turns.zip(self.sin[row].as_chunks::<2>().0);
        for (x, (cos, sin)) in x.as_chunks_mut::<2>().0.iter_mut().zip(turns) {
            *x = [
                (x[0] * cos[0] + x[1] * (sign * sin[0])) * factor,
                (x[1] * cos[1] + x[0] * (sign * sin[1])) * factor,
            ];
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

    /// Floats of scratch memory that forward needs on `threads` threads.
    pub fn forward_workspace(&self, threads: usize) -> usize {
        threads * (2 * self.block_len() + 2 * self.head_len() + BLOCK * self.scores_width())
    }

    /// Floats of scratch memory that backward needs on `threads` threads.
    pub fn backward_workspace(&self, threads: usize) -> usize {
        threads * (3 * self.block_len() + 5 * self.head_len() + 2 * TILE_LEN + BLOCK)
    }

    fn inner(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Floats of a row of a head's matrix: whole vectors.
    fn width(&self) -> usize {
        self.head_dim.next_multiple_of(LANES)
    }

    fn block_len(&self) -> usize {
        BLOCK * self.width()
    }

    /// Of a head's matrix of whole blocks.
    fn head_len(&self) -> usize {
        self.tokens.div_ceil(BLOCK) * self.block_len()
    }

    fn scores_width(&self) -> usize {
        self.tokens.next_multiple_of(BLOCK) + GAP
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

    /// A block of rows, of which the t-th of all is at `at(t)` in `x`, with zeros beside and below.
    fn load(&self, x: &[f32], block: Range<usize>, at: impl Fn(usize) -> usize, to: &mut [f32]) {
        to.fill(0.0);
        for (t, to) in block.zip(to.chunks_exact_mut(self.width())) {
            to[..self.head_dim].copy_from_slice(&x[at(t)..][..self.head_dim]);
        }
    }

    /// A block of queries (0) or keys (1) of a pair, turned and times `factor`.
    fn load_turned(
        &self,
        qkv: &[f32],
        block: Range<usize>,
        (pair, part): (usize, usize),
        factor: f32,
        to: &mut [f32],
    ) {
        self.load(qkv, block.clone(), |t| self.at(pair, part, t), to);
        for (t, x) in block.zip(to.chunks_exact_mut(self.width())) {
            self.turn(t, &mut x[..self.head_dim], 1.0, factor);
        }
    }

    /// Writes a block of gradients of queries (0), keys (1) or values (2).
    fn store(
        &self,
        block: Range<usize>,
        rows: &mut [f32],
        (pair, part): (usize, usize),
        factor: f32,
        dqkv: &Parts,
    ) {
        for (t, x) in block.zip(rows.chunks_exact_mut(self.width())) {
            let x = &mut x[..self.head_dim];
            if part < 2 {
                self.turn(t, x, -1.0, factor);
            }
            // SAFETY: no other task has this pair.
            unsafe { dqkv.part(self.at(pair, part, t), self.head_dim) }.copy_from_slice(x);
        }
    }

    /// Turns the row of position t, or back if `sign` is -1, and multiplies it by `factor`.
    fn turn(&self, t: usize, x: &mut [f32], sign: f32, factor: f32) {
        match &self.turns {
            Some(turns) => turns.turn(t, x, sign, factor),
            None => x.iter_mut().for_each(|x| *x *= factor),
        }
    }

    /// Tokens by blocks.
    fn blocks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let tokens = self.tokens;
        let first = (0..tokens).step_by(BLOCK);
        first.map(move |first| first..tokens.min(first + BLOCK))
    }

    /// Overwrites `l`, to be saved for the way back, and `o`.
    pub fn forward(&self, qkv: &[f32], l: &mut [f32], o: &mut [f32], ws: &mut [f32]) {
        assert!(qkv.len() == 3 * self.output_len() && o.len() == self.output_len());
        assert_eq!(l.len(), self.rows());
        let (d, width, block_len) = (self.head_dim, self.width(), self.block_len());
        let scores_width = self.scores_width();
        let o = Parts::new(o);
        let tasks = l.chunks_exact_mut(self.tokens).enumerate();
        par::for_each(tasks, ws, self.forward_workspace(1), |(pair, l), ws| {
            let (q, ws) = ws.split_at_mut(block_len);
            let (mixed, ws) = ws.split_at_mut(block_len);
            let (keys_t, ws) = ws.split_at_mut(self.head_len());
            let (values, p) = ws.split_at_mut(self.head_len());
            for (i, block) in self.blocks().enumerate() {
                let of_block = i * block_len..(i + 1) * block_len;
                self.load_turned(qkv, block.clone(), (pair, 1), 1.0, q);
                transpose(q, width, &mut keys_t[of_block.clone()]);
                let of_values = |t| self.at(pair, 2, t);
                self.load(qkv, block.clone(), of_values, &mut values[of_block]);
                self.load_turned(qkv, block.clone(), (pair, 0), self.scale(), q);
                let (m, q) = (block.len(), Matrix::new(q, width));
                for (j, keys_t) in keys_t.chunks_exact(block_len).take(i + 1).enumerate() {
                    let keys_t = Matrix::new(keys_t, BLOCK);
                    let p = &mut p[j * BLOCK..];
                    product([m, d, BLOCK], q, keys_t, false, p, scores_width);
                }
                softmax_rows(p, scores_width, block.start, &mut l[block.clone()]);
                let values = values.chunks_exact(block_len).zip(self.blocks());
                for (j, (values, keys)) in values.take(i + 1).enumerate() {
                    let p = Matrix::new(&p[j * BLOCK..], scores_width);
                    let values = Matrix::new(values, width);
                    product([m, keys.len(), width], p, values, j > 0, mixed, width);
                }
                for (t, x) in block.zip(mixed.chunks_exact(width)) {
                    // SAFETY: no other task has this pair.
                    unsafe { o.part(self.at_output(pair, t), d) }.copy_from_slice(&x[..d]);
                }
            }
        });
    }

    /// Overwrites `dqkv`.
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
        let (d, width, block_len) = (self.head_dim, self.width(), self.block_len());
        let dqkv = Parts::new(dqkv);
        let tasks = l.chunks_exact(self.tokens).enumerate();
        par::for_each(tasks, ws, self.backward_workspace(1), |(pair, l), ws| {
            let (q, ws) = ws.split_at_mut(block_len);
            let (d_out, ws) = ws.split_at_mut(block_len);
            let (dq, ws) = ws.split_at_mut(block_len);
            let (k, ws) = ws.split_at_mut(self.head_len());
            let (keys_t, ws) = ws.split_at_mut(self.head_len());
            let (values_t, ws) = ws.split_at_mut(self.head_len());
            let (dk, ws) = ws.split_at_mut(self.head_len());
            let (dv, ws) = ws.split_at_mut(self.head_len());
            let (p, ws) = ws.split_at_mut(TILE_LEN);
            let (ds, dots) = ws.split_at_mut(TILE_LEN);
            // Keys and values of a block are loaded when its queries are, the first that want them.
            for (i, block) in self.blocks().enumerate() {
                let of_block = i * block_len..(i + 1) * block_len;
                self.load(qkv, block.clone(), |t| self.at(pair, 2, t), q);
                transpose(q, width, &mut values_t[of_block.clone()]);
                let keys = &mut k[of_block.clone()];
                self.load_turned(qkv, block.clone(), (pair, 1), 1.0, keys);
                transpose(keys, width, &mut keys_t[of_block.clone()]);
                dk[of_block.clone()].fill(0.0);
                dv[of_block].fill(0.0);
                self.load_turned(qkv, block.clone(), (pair, 0), self.scale(), q);
                self.load(d_o, block.clone(), |t| self.at_output(pair, t), d_out);
                // The output lies where dQ will be.
                self.load(o, block.clone(), |t| self.at_output(pair, t), dq);
                dot_rows(d_out, dq, width, dots);
                let (q, d_out) = (Matrix::new(q, width), Matrix::new(d_out, width));
                let m = block.len();
                for (j, keys) in self.blocks().take(i + 1).enumerate() {
                    let of_keys = j * block_len..(j + 1) * block_len;
                    let n = keys.len();
                    let keys_t = Matrix::new(&keys_t[of_keys.clone()], BLOCK);
                    product([m, d, BLOCK], q, keys_t, false, p, TILE_WIDTH);
                    let values_t = Matrix::new(&values_t[of_keys.clone()], BLOCK);
                    product([m, d, BLOCK], d_out, values_t, false, ds, TILE_WIDTH);
                    gradient_tile(p, ds, j == i, &l[block.clone()], dots);
                    let (p, ds) = (Matrix::new(p, TILE_WIDTH), Matrix::new(ds, TILE_WIDTH));
                    let k = Matrix::new(&k[of_keys.clone()], width);
                    product([m, n, width], ds, k, j > 0, dq, width);
                    product(
                        [n, m, width],
                        ds.t(),
                        q,
                        true,
                        &mut dk[of_keys.clone()],
                        width,
                    );
                    product([n, m, width], p.t(), d_out, true, &mut dv[of_keys], width);
                }
                self.store(block, dq, (pair, 0), self.scale(), &dqkv);
            }
            let gradients = dk
                .chunks_exact_mut(block_len)
                .zip(dv.chunks_exact_mut(block_len));
            for (block, (dk, dv)) in self.blocks().zip(gradients) {
                self.store(block.clone(), dk, (pair, 1), 1.0, &dqkv);
                self.store(block, dv, (pair, 2), 1.0, &dqkv);
            }
        });
    }
}

/// The transpose (`width`, BLOCK) of a block.
fn transpose(x: &[f32], width: usize, to: &mut [f32]) {
    for (column, to) in to.chunks_exact_mut(BLOCK).enumerate() {
        for (to, row) in to.iter_mut().zip(x.chunks_exact(width)) {
            *to = row[column];
        }
    }
}

multiversion!(
    /// C (m, n) = A (m, k) B (k, n), or added to it, for sizes [m, k, n] of which n is a multiple of LANES. Rows of B are whole,
    /// those of C `width` floats apart. Everything is near: nothing is packed.
    fn product = product_body(
        sizes: [usize; 3], a: Matrix<'_>, b: Matrix<'_>, adds: bool, c: &mut [f32], width: usize)
);

#[inline(always)]
fn product_body<S: Simd>(
    s: S,
    [m, k, n]: [usize; 3],
    a: Matrix,
    b: Matrix,
    adds: bool,
    c: &mut [f32],
    width: usize,
) {
    assert!(m > 0 && k > 0 && n > 0 && n.is_multiple_of(LANES) && n <= width);
    assert!(a.has(m, k) && b.has(k, n) && b.strides.1 == 1 && c.len() >= (m - 1) * width + n);
    // A tile of C is in registers: four rows, as many vectors as there are registers for.
    let mut j = 0;
    while j < n {
        let vectors = if S::WIDE && j + 4 * LANES <= n { 4 } else { 1 };
        let mut i = 0;
        while i < m {
            let rows = if i + 4 <= m { 4 } else { 1 };
            let strips = Strips {
                k,
                a: &a.data[i * a.strides.0..],
                a_strides: a.strides,
                b: &b.data[j..],
                b_width: b.strides.0,
                adds,
            };
            let c = &mut c[i * width + j..];
            // SAFETY: the assertions above.
            unsafe {
                match (rows, vectors) {
                    (4, 4) => strips.multiply::<S, 4, 4>(s, c, width),
                    (4, _) => strips.multiply::<S, 4, 1>(s, c, width),
                    (_, 4) => strips.multiply::<S, 1, 4>(s, c, width),
                    _ => strips.multiply::<S, 1, 1>(s, c, width),
                }
            }
            i += rows;
        }
        j += vectors * LANES;
    }
}

/// Rows of A and columns of B, which make a tile of C.
struct Strips<'a> {
    k: usize,
    a: &'a [f32],
    a_strides: (usize, usize),
    b: &'a [f32],
    b_width: usize,
    adds: bool,
}

impl Strips<'_> {
    /// The tile of M rows and N vectors.
    ///
    /// # Safety
    /// All entries are there.
    // As iterators, these loops kept the sums in memory on AVX2.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    unsafe fn multiply<S: Simd, const M: usize, const N: usize>(
        &self,
        s: S,
        c: &mut [f32],
        width: usize,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut sums = [[s.zero(); N]; M];
            if self.adds {
                for i in 0..M {
                    for j in 0..N {
                        sums[i][j] = s.load_ptr(c.as_ptr().add(i * width + j * LANES));
                    }
                }
            }
            let (mut a, mut b) = (self.a.as_ptr(), self.b.as_ptr());
            for _ in 0..self.k {
                let mut right = [s.zero(); N];
                for j in 0..N {
                    right[j] = s.load_ptr(b.add(j * LANES));
                }
                for i in 0..M {
                    let left = s.splat(*a.add(i * self.a_strides.0));
                    for j in 0..N {
                        sums[i][j] = left.mul_add(right[j], sums[i][j]);
                    }
                }
                a = a.wrapping_add(self.a_strides.1);
                b = b.wrapping_add(self.b_width);
            }
            for i in 0..M {
                for j in 0..N {
                    let to = c.as_mut_ptr().add(i * width + j * LANES);
                    sums[i][j].store(&mut *to.cast::<[f32; LANES]>());
                }
            }
        }
    }
}

multiversion!(
    /// Softmax of rows of scores, which are `width` floats apart, in place: of the first `before` + 1 of the first row, of one more
    /// of each that follows. Behind these, zeros up to the last row's end. `l` becomes the logarithms of the sums.
    fn softmax_rows = softmax_rows_body(p: &mut [f32], width: usize, before: usize, l: &mut [f32])
);

#[inline(always)]
fn softmax_rows_body<S: Simd>(s: S, p: &mut [f32], width: usize, before: usize, l: &mut [f32]) {
    let end = before + l.len();
    for (i, (row, l)) in p.chunks_mut(width).zip(l).enumerate() {
        let (row, behind) = row[..end].split_at_mut(before + i + 1);
        let (most, sum) = exp_row(s, row);
        scale_row(s, row, 1.0 / sum);
        behind.fill(0.0);
        *l = most + sum.ln();
    }
}

multiversion!(
    /// Inner products of the rows of two blocks.
    fn dot_rows = dot_rows_body(x: &[f32], y: &[f32], width: usize, dots: &mut [f32])
);

#[inline(always)]
fn dot_rows_body<S: Simd>(s: S, x: &[f32], y: &[f32], width: usize, dots: &mut [f32]) {
    let rows = x.chunks_exact(width).zip(y.chunks_exact(width));
    for ((x, y), dot) in rows.zip(dots) {
        let mut sum = s.zero();
        for (x, y) in x.as_chunks::<LANES>().0.iter().zip(y.as_chunks().0) {
            sum = s.load(x).mul_add(s.load(y), sum);
        }
        *dot = sum.sum();
    }
}

multiversion!(
    /// A tile of scores becomes that of P, one of dO V^T that of dS. Are they on the diagonal?
    fn gradient_tile = gradient_tile_body(
        p: &mut [f32], ds: &mut [f32], diagonal: bool, l: &[f32], dots: &[f32])
);

#[inline(always)]
fn gradient_tile_body<S: Simd>(
    s: S,
    p: &mut [f32],
    ds: &mut [f32],
    diagonal: bool,
    l: &[f32],
    dots: &[f32],
) {
    let rows = p
        .chunks_exact_mut(TILE_WIDTH)
        .zip(ds.chunks_exact_mut(TILE_WIDTH));
    for (i, ((p, ds), (l, dot))) in rows.zip(l.iter().zip(dots)).enumerate() {
        let count = if diagonal { i + 1 } else { BLOCK };
        let (l, dot) = (s.splat(*l), s.splat(*dot));
        let vectors = p
            .as_chunks_mut::<LANES>()
            .0
            .iter_mut()
            .zip(ds.as_chunks_mut().0);
        for (p, ds) in vectors.take(count.div_ceil(LANES)) {
            let e = exp(s, s.load(p) - l);
            e.store(p);
            (e * (s.load(ds) - dot)).store(ds);
        }
        p[count..].fill(0.0);
        ds[count..].fill(0.0);
    }
}
