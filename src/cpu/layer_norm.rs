//! Layer norm over the last axis of (M, D).
//!
//! ```text
//! xhat = (x - mean) / sqrt(var + eps),  y = gamma xhat + beta     (mean, biased var: of the row)
//! dbeta = sum dy,  dgamma = sum dy xhat     (over the rows)
//! dx = (g - mean(g) - xhat mean(g xhat)) / sqrt(var + eps),  g = gamma dy
//! ```

use super::batch_norm::{Affine, Saved};
use super::simd::{LANES, Simd, Vector, multiversion};
use rayon::prelude::*;

pub const EPS: f32 = 1e-5;
/// Rows of a chunk, whose parts of `dgamma` and `dbeta` are summed before those of others.
const ROWS: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerNorm {
    /// M and D.
    pub rows: usize,
    pub width: usize,
}

impl LayerNorm {
    /// Floats of scratch memory that `backward` asks for.
    pub fn workspace(&self) -> usize {
        self.rows.div_ceil(ROWS) * 2 * self.width
    }

    fn check(&self, activations: &[&[f32]], parameters: &[&[f32]], rows: &[&[f32]]) {
        assert!(
            activations
                .iter()
                .all(|x| x.len() == self.rows * self.width)
        );
        assert!(parameters.iter().all(|x| x.len() == self.width));
        assert!(rows.iter().all(|x| x.len() == self.rows));
    }

    /// `saved` has one value per row.
    pub fn forward(&self, x: &[f32], affine: Affine, saved: Saved<&mut [f32]>, y: &mut [f32]) {
        self.check(
            &[x, y],
            &[affine.gamma, affine.beta],
            &[saved.mean, saved.rstd],
        );
        let chunk = ROWS * self.width;
        y.par_chunks_mut(chunk)
            .zip(x.par_chunks(chunk))
            .zip(saved.mean.par_chunks_mut(ROWS))
            .zip(saved.rstd.par_chunks_mut(ROWS))
            .for_each(|(((y, x), mean), rstd)| normalise(x, affine, mean, rstd, y));
    }

    /// Overwrites `dgamma`, `dbeta`, and `dx` unless it is empty.
    #[allow(clippy::too_many_arguments)]
    pub fn backward(
        &self,
        x: &[f32],
        gamma: &[f32],
        saved: Saved<&[f32]>,
        dy: &[f32],
        dx: &mut [f32],
        (dgamma, dbeta): (&mut [f32], &mut [f32]),
        ws: &mut [f32],
    ) {
        let rows = [saved.mean, saved.rstd];
        self.check(&[x, dy], &[gamma, dgamma, dbeta], &rows);
        assert!(dx.is_empty() || dx.len() == x.len());
        let (chunk, d) = (ROWS * self.width, self.width);
        let partials = &mut ws[..self.workspace()];
        let tasks = x
            .par_chunks(chunk)
            .zip(dy.par_chunks(chunk))
            .zip(saved.mean.par_chunks(ROWS).zip(saved.rstd.par_chunks(ROWS)))
            .zip(partials.par_chunks_exact_mut(2 * d));
        if dx.is_empty() {
            tasks.for_each(|(((x, dy), (mean, rstd)), partial)| {
                gradient(x, gamma, mean, rstd, dy, &mut [], partial);
            });
        } else {
            tasks.zip(dx.par_chunks_mut(chunk)).for_each(
                |((((x, dy), (mean, rstd)), partial), dx)| {
                    gradient(x, gamma, mean, rstd, dy, dx, partial);
                },
            );
        }
        dgamma.fill(0.0);
        dbeta.fill(0.0);
        for partial in partials.chunks_exact(2 * d) {
            for i in 0..d {
                dgamma[i] += partial[i];
                dbeta[i] += partial[d + i];
            }
        }
    }
}

/// Sum of `term(range)` over a row, sixteen entries at a time; `term` gets the sum so far.
#[inline(always)]
fn sum<S: Simd>(
    s: S,
    width: usize,
    mut term: impl FnMut(S::V, std::ops::Range<usize>) -> S::V,
) -> f32 {
    let mut sums = [s.zero(); 2];
    for at in (0..width).step_by(LANES) {
        let next = term(sums[0], at..width.min(at + LANES));
        sums = [sums[1], next];
    }
    (sums[0] + sums[1]).sum()
}

multiversion!(fn normalise = normalise_body(
    x: &[f32], affine: Affine, mean: &mut [f32], rstd: &mut [f32], y: &mut [f32]));

#[inline(always)]
fn normalise_body<S: Simd>(
    s: S,
    x: &[f32],
    affine: Affine,
    means: &mut [f32],
    rstds: &mut [f32],
    y: &mut [f32],
) {
    let width = affine.gamma.len();
    let rows = x.chunks_exact(width).zip(y.chunks_exact_mut(width));
    for ((x, y), (mean, rstd)) in rows.zip(means.iter_mut().zip(rstds)) {
        *mean = sum(s, width, |sum, at| sum + s.load_partial(&x[at])) / width as f32;
        let squares = sum(s, width, |sum, at| {
            let lanes = at.len();
            let off = s.load_partial(&x[at]) - s.splat(*mean);
            let squares = off.mul_add(off, sum);
            if lanes == LANES {
                return squares;
            }
            // Lanes beyond the row must not count.
            sum + s.load_partial(&(squares - sum).to_array()[..lanes])
        });
        *rstd = 1.0 / (squares / width as f32 + EPS).sqrt();
        for at in (0..width).step_by(LANES) {
            let at = at..width.min(at + LANES);
            let hat = (s.load_partial(&x[at.clone()]) - s.splat(*mean)) * s.splat(*rstd);
            let gamma = s.load_partial(&affine.gamma[at.clone()]);
            let beta = s.load_partial(&affine.beta[at.clone()]);
            hat.mul_add(gamma, beta).store_partial(&mut y[at]);
        }
    }
}

multiversion!(fn gradient = gradient_body(
    x: &[f32], gamma: &[f32], means: &[f32], rstds: &[f32], dy: &[f32], dx: &mut [f32], partial: &mut [f32]));

#[allow(clippy::too_many_arguments)]
#[inline(always)]
fn gradient_body<S: Simd>(
    s: S,
    x: &[f32],
    gamma: &[f32],
    means: &[f32],
    rstds: &[f32],
    dy: &[f32],
    dx: &mut [f32],
    partial: &mut [f32],
) {
    let width = gamma.len();
    partial.fill(0.0);
    let (dgamma, dbeta) = partial.split_at_mut(width);
    let rows = x.chunks_exact(width).zip(dy.chunks_exact(width));
    let mut dx_rows = dx.chunks_exact_mut(width);
    for ((x, dy), (&mean, &rstd)) in rows.zip(means.iter().zip(rstds)) {
        let (mean, rstd) = (s.splat(mean), s.splat(rstd));
        let hat = |at| (s.load_partial(&x[at]) - mean) * rstd;
        // Lanes beyond the row are zero in gamma, so they do not count.
        let mean_g = sum(s, width, |sum, at| {
            s.load_partial(&dy[at.clone()])
                .mul_add(s.load_partial(&gamma[at]), sum)
        }) / width as f32;
        let mean_gx = sum(s, width, |sum, at| {
            let dy = s.load_partial(&dy[at.clone()]);
            let term = dy * hat(at.clone());
            let add = |to: &mut [f32], x: S::V| (s.load_partial(to) + x).store_partial(to);
            add(&mut dgamma[at.clone()], term);
            add(&mut dbeta[at.clone()], dy);
            term.mul_add(s.load_partial(&gamma[at]), sum)
        }) / width as f32;
        let Some(dx) = dx_rows.next() else { continue };
        for at in (0..width).step_by(LANES) {
            let at = at..width.min(at + LANES);
            let g = s.load_partial(&dy[at.clone()]) * s.load_partial(&gamma[at.clone()]);
            let off = g - s.splat(mean_g) - hat(at.clone()) * s.splat(mean_gx);
            (off * rstd).store_partial(&mut dx[at]);
        }
    }
}
