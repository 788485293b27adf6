//! Layer norm and RMS norm over the last axis of (M, D).
//!
//! ```text
//! xhat = (x - mean) / sqrt(var + eps),  y = gamma xhat + beta     (mean, biased var: of the row)
//! dbeta = sum dy,  dgamma = sum dy xhat     (over the rows)
//! dx = (g - mean(g) - xhat mean(g xhat)) / sqrt(var + eps),  g = gamma dy
//! ```
//!
//! RMS norm is the same with 0 for mean, beta and mean(g).

use super::simd::{LANES, Simd, Vector, multiversion};
use rayon::prelude::*;

/// Rows of a chunk, whose parts of `dgamma` and `dbeta` are summed before those of others.
const ROWS: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// M and D.
    pub rows: usize,
    pub width: usize,
    /// Layer norm; if not, RMS norm.
    pub centred: bool,
    pub eps: f32,
}

impl Norm {
    /// Parameters, and numbers kept of each row: the mean, and 1 / sqrt(var + eps). RMS norm has neither beta nor a mean.
    pub fn parameters(&self) -> usize {
        1 + usize::from(self.centred)
    }

    /// Floats that `forward` keeps for `backward`.
    pub fn saved(&self) -> usize {
        self.rows * self.parameters()
    }

    /// Floats of scratch memory that `backward` asks for.
    pub fn workspace(&self) -> usize {
        self.rows.div_ceil(ROWS) * self.parameters() * self.width
    }

    fn check(&self, activations: &[&[f32]], gamma: &[f32], beta: &[f32], saved: &[f32]) {
        let n = self.rows * self.width;
        assert!(activations.iter().all(|x| x.len() == n));
        assert_eq!(gamma.len(), self.width);
        assert_eq!(gamma.len() + beta.len(), self.parameters() * self.width);
        assert_eq!(saved.len(), self.saved());
    }

    /// `beta` is empty for RMS norm.
    pub fn forward(
        &self,
        x: &[f32],
        gamma: &[f32],
        beta: &[f32],
        saved: &mut [f32],
        y: &mut [f32],
    ) {
        self.check(&[x, y], gamma, beta, saved);
        let chunk = ROWS * self.width;
        y.par_chunks_mut(chunk)
            .zip(x.par_chunks(chunk))
            .zip(saved.par_chunks_mut(ROWS * self.parameters()))
            .for_each(|((y, x), saved)| normalise(self, x, gamma, beta, saved, y));
    }

    /// Overwrites `dgamma`, `dbeta` (empty for RMS norm), and `dx` unless it is empty or is to be added to.
    #[allow(clippy::too_many_arguments)]
    pub fn backward(
        &self,
        x: &[f32],
        gamma: &[f32],
        saved: &[f32],
        dy: &[f32],
        add: bool,
        dx: &mut [f32],
        (dgamma, dbeta): (&mut [f32], &mut [f32]),
        ws: &mut [f32],
    ) {
        self.check(&[x, dy], gamma, dbeta, saved);
        assert!(dx.is_empty() || dx.len() == x.len());
        let (chunk, d) = (ROWS * self.width, self.width);
        let partials = &mut ws[..self.workspace()];
        let tasks = x
            .par_chunks(chunk)
            .zip(dy.par_chunks(chunk))
            .zip(saved.par_chunks(ROWS * self.parameters()))
            .zip(partials.par_chunks_exact_mut(self.parameters() * d));
        if dx.is_empty() {
            tasks.for_each(|(((x, dy), saved), partial)| {
                gradient(self, x, gamma, saved, dy, add, &mut [], partial);
            });
        } else {
            tasks
                .zip(dx.par_chunks_mut(chunk))
                .for_each(|((((x, dy), saved), partial), dx)| {
                    gradient(self, x, gamma, saved, dy, add, dx, partial);
                });
        }
        dgamma.fill(0.0);
        dbeta.fill(0.0);
        for partial in partials.chunks_exact(self.parameters() * d) {
            let sums = dgamma.iter_mut().chain(&mut *dbeta);
            sums.zip(partial).for_each(|(sum, part)| *sum += part);
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
    norm: &Norm, x: &[f32], gamma: &[f32], beta: &[f32], saved: &mut [f32], y: &mut [f32]));

#[inline(always)]
fn normalise_body<S: Simd>(
    s: S,
    norm: &Norm,
    x: &[f32],
    gamma: &[f32],
    beta: &[f32],
    saved: &mut [f32],
    y: &mut [f32],
) {
    let (width, centred) = (norm.width, norm.centred);
    let rows = x.chunks_exact(width).zip(y.chunks_exact_mut(width));
    for ((x, y), saved) in rows.zip(saved.chunks_exact_mut(norm.parameters())) {
        let mean = match centred {
            true => sum(s, width, |sum, at| sum + s.load_partial(&x[at])) / width as f32,
            false => 0.0,
        };
        let squares = sum(s, width, |sum, at| {
            let lanes = at.len();
            let off = s.load_partial(&x[at]) - s.splat(mean);
            let squares = off.mul_add(off, sum);
            if lanes == LANES {
                return squares;
            }
            // Lanes beyond the row must not count.
            sum + s.load_partial(&(squares - sum).to_array()[..lanes])
        });
        let rstd = 1.0 / (squares / width as f32 + norm.eps).sqrt();
        saved[0] = mean;
        saved[norm.parameters() - 1] = rstd;
        for at in (0..width).step_by(LANES) {
            let at = at..width.min(at + LANES);
            let hat = (s.load_partial(&x[at.clone()]) - s.splat(mean)) * s.splat(rstd);
            let gamma = s.load_partial(&gamma[at.clone()]);
            let beta = match centred {
                true => s.load_partial(&beta[at.clone()]),
                false => s.zero(),
            };
            hat.mul_add(gamma, beta).store_partial(&mut y[at]);
        }
    }
}

multiversion!(fn gradient = gradient_body(
    norm: &Norm, x: &[f32], gamma: &[f32], saved: &[f32], dy: &[f32], add: bool, dx: &mut [f32], partial: &mut [f32]));

#[allow(clippy::too_many_arguments)]
#[inline(always)]
fn gradient_body<S: Simd>(
    s: S,
    norm: &Norm,
    x: &[f32],
    gamma: &[f32],
    saved: &[f32],
    dy: &[f32],
    add: bool,
    dx: &mut [f32],
    partial: &mut [f32],
) {
    let (width, centred) = (norm.width, norm.centred);
    partial.fill(0.0);
    let (dgamma, dbeta) = partial.split_at_mut(width);
    let rows = x.chunks_exact(width).zip(dy.chunks_exact(width));
    let mut dx_rows = dx.chunks_exact_mut(width);
    for ((x, dy), saved) in rows.zip(saved.chunks_exact(norm.parameters())) {
        let rstd = s.splat(saved[norm.parameters() - 1]);
        let mean = s.splat(if centred { saved[0] } else { 0.0 });
        let hat = |at| (s.load_partial(&x[at]) - mean) * rstd;
        // Lanes beyond the row are zero in gamma, so they do not count.
        let mean_g = match centred {
            true => sum(s, width, |sum, at| {
                s.load_partial(&dy[at.clone()])
                    .mul_add(s.load_partial(&gamma[at]), sum)
            }),
            false => 0.0,
        } / width as f32;
        let mean_gx = sum(s, width, |sum, at| {
            let dy = s.load_partial(&dy[at.clone()]);
            let term = dy * hat(at.clone());
            let add = |to: &mut [f32], x: S::V| (s.load_partial(to) + x).store_partial(to);
            add(&mut dgamma[at.clone()], term);
            if centred {
                add(&mut dbeta[at.clone()], dy);
            }
            term.mul_add(s.load_partial(&gamma[at]), sum)
        }) / width as f32;
        let Some(dx) = dx_rows.next() else { continue };
        for at in (0..width).step_by(LANES) {
            let at = at..width.min(at + LANES);
            let g = s.load_partial(&dy[at.clone()]) * s.load_partial(&gamma[at.clone()]);
            let off = g - s.splat(mean_g) - hat(at.clone()) * s.splat(mean_gx);
            let sum = match add {
                true => s.load_partial(&dx[at.clone()]) + off * rstd,
                false => off * rstd,
            };
            sum.store_partial(&mut dx[at]);
        }
    }
}
