//! exp and erf of sixteen lanes, and what is made of them, number by number or row by row: GELU, SiLU, softmax, cross
//! entropy.

use super::CHUNK;
use super::simd::{LANES, Simd, Vector, multiversion};
use rayon::prelude::*;
use std::f32::consts::{FRAC_1_SQRT_2, LOG2_E};

/// e^x within 1.1 ulp of f32 (subnormal results: 1 ulp of theirs); 0 below -104, infinity above 88.73.
#[inline(always)]
pub(super) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    // The order of operands keeps NaN.
    let x = s.splat(-104.0).max(x);
    let x = s.splat(89.0).where_le(s.splat(89.0), x, x);
    // x = n ln 2 + r, with ln 2 in two parts, the first of which times n is exact.
    let n = (x * s.splat(LOG2_E)).round();
    let r = n.mul_add(s.splat(-0.693_359_4), x);
    let r = n.mul_add(s.splat(2.121_944_4e-4), r);
    // 1 + r + r^2 p(r) on |r| < 0.35; p by weighted least squares, 3.4e-9 off.
    let p = s.splat(0.001_395_171_7);
    let p = p.mul_add(r, s.splat(0.008_369_599));
    let p = p.mul_add(r, s.splat(0.041_666_187));
    let p = p.mul_add(r, s.splat(0.166_665_12));
    let p = p.mul_add(r, s.splat(0.5));
    let e = (r * r).mul_add(p, r) + s.splat(1.0);
    e.scale(n)
}

/// erf(x) within 2 ulp of f32.
#[inline(always)]
pub(super) fn erf<S: Simd>(s: S, x: S::V) -> S::V {
    let t = x.abs();
    let one = s.splat(1.0);
    // |x| <= 1: x + x p(x^2), p 1.3e-9 off.
    let square = x * x;
    let p = s.splat(7.854_009e-5);
    let p = p.mul_add(square, s.splat(-8.010_242_4e-4));
    let p = p.mul_add(square, s.splat(0.005_188_334));
    let p = p.mul_add(square, s.splat(-0.026_853_815));
    let p = p.mul_add(square, s.splat(0.112_835_854));
    let p = p.mul_add(square, s.splat(-0.376_126_26));
    let p = p.mul_add(square, s.splat(0.128_379_17));
    let small = p.mul_add(x, x);
    // Beyond: 1 - exp(-t q(t)), q 5.5e-10 off after exp; from 4 on it is 1 in f32.
    let t = s.splat(4.0).where_le(s.splat(4.0), t, t);
    let q = s.splat(1.257_922_5e-5);
    let q = q.mul_add(t, s.splat(-3.363_403e-4));
    let q = q.mul_add(t, s.splat(0.003_697_695_7));
    let q = q.mul_add(t, s.splat(-0.023_879_342));
    let q = q.mul_add(t, s.splat(0.106_373_61));
    let q = q.mul_add(t, s.splat(0.635_068_24));
    let q = q.mul_add(t, s.splat(1.128_669));
    let large = one - exp(s, s.zero() - t * q);
    let large = (s.zero() - large).where_le(x, s.zero(), large);
    small.where_le(x.abs(), one, large)
}

/// `$name` is a function of every number, or the gradient of one: of `x` and the gradient `dy` of its value.
macro_rules! elementwise {
    ($(#[$meta:meta])* $name:ident, $chunk:ident, $body:ident, $s:ident, $x:ident => $value:expr) => {
        $(#[$meta])*
        pub fn $name(x: &[f32], y: &mut [f32]) {
            assert_eq!(x.len(), y.len());
            y.par_chunks_mut(CHUNK)
                .zip(x.par_chunks(CHUNK))
                .for_each(|(y, x)| $chunk(x, y));
        }

        multiversion!(fn $chunk = $body(x: &[f32], y: &mut [f32]));

        #[inline(always)]
        fn $body<S: Simd>($s: S, x: &[f32], y: &mut [f32]) {
            for (x, y) in x.chunks(LANES).zip(y.chunks_mut(LANES)) {
                let $x = $s.load_partial(x);
                $value.store_partial(y);
            }
        }
    };
    ($(#[$meta:meta])* $name:ident, $chunk:ident, $body:ident, $s:ident, $x:ident, $dy:ident => $value:expr) => {
        $(#[$meta])*
        pub fn $name(x: &[f32], dy: &[f32], dx: &mut [f32]) {
            assert!(x.len() == dy.len() && x.len() == dx.len());
            dx.par_chunks_mut(CHUNK)
                .zip(x.par_chunks(CHUNK))
                .zip(dy.par_chunks(CHUNK))
                .for_each(|((dx, x), dy)| $chunk(x, dy, dx));
        }

        multiversion!(fn $chunk = $body(x: &[f32], dy: &[f32], dx: &mut [f32]));

        #[inline(always)]
        fn $body<S: Simd>($s: S, x: &[f32], dy: &[f32], dx: &mut [f32]) {
            let vectors = x.chunks(LANES).zip(dy.chunks(LANES));
            for ((x, dy), dx) in vectors.zip(dx.chunks_mut(LANES)) {
                let ($x, $dy) = ($s.load_partial(x), $s.load_partial(dy));
                $value.store_partial(dx);
            }
        }
    };
}

elementwise!(
    /// `y = e^x`, within 1.1 ulp.
    exp_all, exp_chunk, exp_body, s, x => exp(s, x)
);
elementwise!(
    /// `y = erf(x)`, within 2 ulp.
    erf_all, erf_chunk, erf_body, s, x => erf(s, x)
);
elementwise!(
    /// GELU, `y = x Phi(x)` with `Phi(x) = (1 + erf(x / sqrt 2)) / 2` (the exact form, Hendrycks and Gimpel 2016).
    gelu, gelu_chunk, gelu_body, s, x => {
        let erf = erf(s, x * s.splat(FRAC_1_SQRT_2));
        x * s.splat(0.5) * (erf + s.splat(1.0))
    }
);
elementwise!(
    /// `dx = dy (Phi(x) + x phi(x))` with `phi(x) = exp(-x^2 / 2) / sqrt(2 pi)`.
    gelu_backward, gelu_gradient, gelu_gradient_body, s, x, dy => {
        let half = s.splat(0.5);
        let distribution = erf(s, x * s.splat(FRAC_1_SQRT_2)).mul_add(half, half);
        let density = exp(s, x * x * s.splat(-0.5)) * s.splat(0.398_942_3);
        dy * x.mul_add(density, distribution)
    }
);
elementwise!(
    /// SiLU, `y = x / (1 + e^-x)`.
    silu, silu_chunk, silu_body, s, x => silu_of(s, x)
);
elementwise!(
    /// `dx = dy s (1 + x (1 - s))` with `s = 1 / (1 + e^-x)`.
    silu_backward, silu_gradient, silu_gradient_body, s, x, dy => dy * silu_slope(s, x)
);
elementwise!(
    /// `y = max(x, 0)^2`; NaN stays.
    relu_squared, relu_squared_chunk, relu_squared_body, s, x => {
        let positive = s.zero().where_le(x, s.zero(), x);
        positive * positive
    }
);
elementwise!(
    /// `dx = 2 max(x, 0) dy`.
    relu_squared_backward, relu_squared_gradient, relu_squared_gradient_body, s, x, dy => {
        s.splat(2.0) * s.zero().where_le(x, s.zero(), x) * dy
    }
);

#[inline(always)]
fn silu_of<S: Simd>(s: S, x: S::V) -> S::V {
    x / (s.splat(1.0) + exp(s, s.zero() - x))
}

/// Derivative of SiLU.
#[inline(always)]
fn silu_slope<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    let sigmoid = one / (one + exp(s, s.zero() - x));
    sigmoid * x.mul_add(one - sigmoid, one)
}

/// SwiGLU of rows of two halves `a` and `b`, of `half` numbers each: `y = silu(a) b`.
pub fn swiglu(x: &[f32], half: usize, y: &mut [f32]) {
    assert_eq!(x.len(), 2 * y.len());
    let rows = (CHUNK / half).max(1);
    y.par_chunks_mut(rows * half)
        .zip(x.par_chunks(rows * 2 * half))
        .for_each(|(y, x)| swiglu_rows(x, half, y));
}

multiversion!(fn swiglu_rows = swiglu_body(x: &[f32], half: usize, y: &mut [f32]));

#[inline(always)]
fn swiglu_body<S: Simd>(s: S, x: &[f32], half: usize, y: &mut [f32]) {
    for (x, y) in x.chunks_exact(2 * half).zip(y.chunks_exact_mut(half)) {
        let (a, b) = x.split_at(half);
        let halves = a.chunks(LANES).zip(b.chunks(LANES));
        for ((a, b), y) in halves.zip(y.chunks_mut(LANES)) {
            (silu_of(s, s.load_partial(a)) * s.load_partial(b)).store_partial(y);
        }
    }
}

/// `da = dy b silu'(a)` and `db = dy silu(a)`.
pub fn swiglu_backward(x: &[f32], half: usize, dy: &[f32], dx: &mut [f32]) {
    assert!(x.len() == 2 * dy.len() && x.len() == dx.len());
    let rows = (CHUNK / half).max(1);
    dx.par_chunks_mut(rows * 2 * half)
        .zip(x.par_chunks(rows * 2 * half))
        .zip(dy.par_chunks(rows * half))
        .for_each(|((dx, x), dy)| swiglu_gradient(x, half, dy, dx));
}

multiversion!(fn swiglu_gradient = swiglu_gradient_body(x: &[f32], half: usize, dy: &[f32], dx: &mut [f32]));

#[inline(always)]
fn swiglu_gradient_body<S: Simd>(s: S, x: &[f32], half: usize, dy: &[f32], dx: &mut [f32]) {
    let rows = x.chunks_exact(2 * half).zip(dy.chunks_exact(half));
    for ((x, dy), dx) in rows.zip(dx.chunks_exact_mut(2 * half)) {
        let ((a, b), (da, db)) = (x.split_at(half), dx.split_at_mut(half));
        let halves = a.chunks(LANES).zip(b.chunks(LANES)).zip(dy.chunks(LANES));
        let gradients = da.chunks_mut(LANES).zip(db.chunks_mut(LANES));
        for (((a, b), dy), (da, db)) in halves.zip(gradients) {
            let (a, b, dy) = (s.load_partial(a), s.load_partial(b), s.load_partial(dy));
            (dy * b * silu_slope(s, a)).store_partial(da);
            (dy * silu_of(s, a)).store_partial(db);
        }
    }
}

/// Largest entry of a row, or the least number if all are NaN or -infinity.
#[inline(always)]
fn row_max<S: Simd>(s: S, row: &[f32]) -> f32 {
    let (vectors, rest) = row.as_chunks::<LANES>();
    let mut most = s.splat(f32::MIN);
    for v in vectors {
        most = s.load(v).max(most);
    }
    rest.iter().copied().fold(most.largest(), f32::max)
}

/// Overwrites a row by `e^(x - max)`; returns the maximum and the sum.
#[inline(always)]
pub(super) fn exp_row<S: Simd>(s: S, row: &mut [f32]) -> (f32, f32) {
    let most = row_max(s, row);
    let mut sum = s.zero();
    let (vectors, rest) = row.as_chunks_mut::<LANES>();
    for v in vectors {
        let e = exp(s, s.load(v) - s.splat(most));
        e.store(v);
        sum = sum + e;
    }
    exp(s, s.load_partial(rest) - s.splat(most)).store_partial(rest);
    (most, rest.iter().fold(sum.sum(), |sum, e| sum + e))
}

/// A row times a number.
#[inline(always)]
pub(super) fn scale_row<S: Simd>(s: S, row: &mut [f32], factor: f32) {
    for v in row.chunks_mut(LANES) {
        (s.load_partial(v) * s.splat(factor)).store_partial(v);
    }
}

multiversion!(
    /// Softmax of every row of `width` entries, in place: `e^(x - max) / sum e^(x - max)`.
    pub(super) fn softmax_in_place = softmax_body(x: &mut [f32], width: usize)
);

#[inline(always)]
fn softmax_body<S: Simd>(s: S, x: &mut [f32], width: usize) {
    for row in x.chunks_exact_mut(width) {
        let (_, sum) = exp_row(s, row);
        scale_row(s, row, 1.0 / sum);
    }
}

/// The label of a row that neither losses nor scores count.
pub const IGNORED: f32 = -1.0;

/// Rows whose label is not [`IGNORED`].
pub fn counted(labels: &[f32]) -> usize {
    labels.iter().filter(|label| **label != IGNORED).count()
}

/// Cross entropy of the rows (N, `width`) with labels, integers held as floats: `losses[i]` is `-log softmax(x)` weighted
/// by t, which is 1 - `smoothing` at the label and `smoothing / width` more everywhere. The loss itself is the mean of
/// `losses`; its gradient is `dx = (softmax(x) - t) / N`. Rows that are [`IGNORED`] are not in N, and are 0 in both.
///
/// # Panics
/// If a label is not below `width`.
pub fn cross_entropy(
    x: &[f32],
    labels: &[f32],
    width: usize,
    smoothing: f32,
    losses: &mut [f32],
    dx: &mut [f32],
) {
    assert!(x.len() == labels.len() * width && x.len() == dx.len() && losses.len() == labels.len());
    let rows = (CHUNK / width).max(1);
    let n = counted(labels) as f32;
    dx.par_chunks_mut(rows * width)
        .zip(x.par_chunks(rows * width))
        .zip(labels.par_chunks(rows))
        .zip(losses.par_chunks_mut(rows))
        .for_each(|(((dx, x), labels), losses)| {
            dx.copy_from_slice(x);
            cross_entropy_rows(labels, width, n, smoothing, losses, dx);
        });
}

multiversion!(fn cross_entropy_rows = cross_entropy_body(
    labels: &[f32], width: usize, n: f32, smoothing: f32, losses: &mut [f32], dx: &mut [f32]));

#[inline(always)]
fn cross_entropy_body<S: Simd>(
    s: S,
    labels: &[f32],
    width: usize,
    n: f32,
    smoothing: f32,
    losses: &mut [f32],
    dx: &mut [f32],
) {
    for ((row, label), loss) in dx.chunks_exact_mut(width).zip(labels).zip(losses) {
        if *label == IGNORED {
            *loss = 0.0;
            row.fill(0.0);
            continue;
        }
        let label = *label as usize;
        let x = row[label];
        let mean = match smoothing > 0.0 {
            true => row.iter().sum::<f32>() / width as f32,
            false => x,
        };
        let (most, sum) = exp_row(s, row);
        *loss = sum.ln() - (x - most) - smoothing * (mean - x);
        scale_row(s, row, 1.0 / (sum * n));
        row[label] -= (1.0 - smoothing) / n;
        if smoothing > 0.0 {
            row.iter_mut()
                .for_each(|x| *x -= smoothing / width as f32 / n);
        }
    }
}
