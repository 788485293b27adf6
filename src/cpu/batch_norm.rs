//! Batch norm over (M, C), M pixels of C channels, with what usually follows: adding a shortcut, ReLU.
//!
//! ```text
//! xhat = (x - mean) / sqrt(var + eps),  z = gamma xhat + beta + residual,  y = max(z, 0)
//! dz = dy where y > 0,  dbeta = sum dz,  dgamma = sum dz xhat,  dresidual = dz
//! dx = gamma / sqrt(var + eps) (dz - dbeta / M - xhat dgamma / M)
//! ```
//!
//! Training reads `x` twice and writes `y`; the way back reads `x` and `dy` twice and writes `dx`. Without a
//! residual, where `y > 0` is found again from `x`. Sums run over chunks of fixed size in f32,
//! then over the chunks in f64.

use super::CHUNK;
use super::simd::{LANES, Simd, Vector, multiversion};
use rayon::prelude::*;

pub const EPS: f32 = 1e-5;
/// Weight of the newest batch in the running averages.
pub const MOMENTUM: f32 = 0.1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchNorm {
    /// M and C.
    pub pixels: usize,
    pub channels: usize,
}

/// Running averages of a batch's mean and unbiased variance, one value per channel or none, and the weight of the newest
/// batch in them.
pub struct Averages<'a> {
    pub mean: &'a mut [f32],
    pub var: &'a mut [f32],
    pub weight: f32,
}

/// What is learned, one value per channel.
#[derive(Clone, Copy)]
pub struct Affine<'a> {
    pub gamma: &'a [f32],
    pub beta: &'a [f32],
}

/// What training saves for the way back: the batch's mean and 1 / sqrt(var + eps) per channel.
pub struct Saved<T> {
    pub mean: T,
    pub rstd: T,
}

/// What follows z, on the way back.
pub enum Then<'a> {
    Nothing,
    Relu,
    /// A residual was added and ReLU taken, with this `y`; the residual's gradient is overwritten.
    AddRelu {
        y: &'a [f32],
        d_residual: &'a mut [f32],
    },
}

impl BatchNorm {
    /// Pixels of a chunk.
    fn rows(&self) -> usize {
        (CHUNK / self.channels).max(1)
    }

    fn chunk(&self) -> usize {
        self.rows() * self.channels
    }

    fn partials_len(&self) -> usize {
        self.pixels.div_ceil(self.rows()) * 2 * self.channels
    }

    /// Floats of scratch memory that every function here asks for.
    pub fn workspace(&self) -> usize {
        self.partials_len() + 3 * self.channels
    }

    fn check(&self, activations: &[&[f32]], parameters: &[&[f32]]) {
        let len = self.pixels * self.channels;
        assert!(activations.iter().all(|x| x.len() == len));
        assert!(parameters.iter().all(|x| x.len() == self.channels));
    }

    /// `y` with the batch's own mean and variance; updates the running ones (the variance unbiased), if there are any.
    #[allow(clippy::too_many_arguments)]
    pub fn train(
        &self,
        x: &[f32],
        affine: Affine,
        residual: Option<&[f32]>,
        relu: bool,
        running: Averages<'_>,
        saved: Saved<&mut [f32]>,
        y: &mut [f32],
        ws: &mut [f32],
    ) {
        self.check(&[x, y], &[affine.gamma, affine.beta]);
        if !running.mean.is_empty() {
            self.check(&[], &[running.mean, running.var]);
        }
        let c = self.channels;
        let partials = &mut ws[..self.partials_len()];
        partials
            .par_chunks_exact_mut(2 * c)
            .zip(x.par_chunks(self.chunk()))
            .for_each(|(partial, x)| moments(x, partial));

        let pixels = self.pixels as f64;
        for i in 0..c {
            // Mean and sum of squares about it, chunk by chunk (Chan, Golub, LeVeque 1983).
            let (mut count, mut mean, mut squares) = (0.0, 0.0, 0.0);
            for (k, partial) in partials.chunks_exact(2 * c).enumerate() {
                let rows = self.rows().min(self.pixels - k * self.rows()) as f64;
                let off = f64::from(partial[i]) - mean;
                mean += off * rows / (count + rows);
                squares += f64::from(partial[c + i]) + off * off * count * rows / (count + rows);
                count += rows;
            }
            let var = squares / pixels;
            saved.mean[i] = mean as f32;
            saved.rstd[i] = (1.0 / (var + f64::from(EPS)).sqrt()) as f32;
            let unbiased = squares / (pixels - 1.0);
            if !running.mean.is_empty() {
                running.mean[i] += running.weight * (mean as f32 - running.mean[i]);
                running.var[i] += running.weight * (unbiased as f32 - running.var[i]);
            }
        }
        let saved = Saved {
            mean: &*saved.mean,
            rstd: &*saved.rstd,
        };
        self.apply(x, affine, saved, residual, relu, y, ws);
    }

    /// `y` with the running mean and variance.
    #[allow(clippy::too_many_arguments)]
    pub fn eval(
        &self,
        x: &[f32],
        affine: Affine,
        residual: Option<&[f32]>,
        relu: bool,
        (running_mean, running_var): (&[f32], &[f32]),
        y: &mut [f32],
        ws: &mut [f32],
    ) {
        self.check(
            &[x, y],
            &[affine.gamma, affine.beta, running_mean, running_var],
        );
        let (rstd, ws) = ws.split_at_mut(self.channels);
        for (rstd, var) in rstd.iter_mut().zip(running_var) {
            *rstd = 1.0 / (var + EPS).sqrt();
        }
        let saved = Saved {
            mean: running_mean,
            rstd: &*rstd,
        };
        self.apply(x, affine, saved, residual, relu, y, ws);
    }

    #[allow(clippy::too_many_arguments)]
    fn apply(
        &self,
        x: &[f32],
        affine: Affine,
        saved: Saved<&[f32]>,
        residual: Option<&[f32]>,
        relu: bool,
        y: &mut [f32],
        ws: &mut [f32],
    ) {
        if let Some(residual) = residual {
            self.check(&[residual], &[]);
        }
        let lines = Lines::new(affine, saved, ws);
        y.par_chunks_mut(self.chunk())
            .zip(x.par_chunks(self.chunk()))
            .enumerate()
            .for_each(|(k, (y, x))| {
                let residual = residual.map(|r| &r[k * self.chunk()..][..y.len()]);
                normalise(&lines, x, residual, relu, y);
            });
    }

    /// Overwrites `dx`, `dgamma`, `dbeta`, and the residual's gradient if there is one.
    #[allow(clippy::too_many_arguments)]
    pub fn backward(
        &self,
        x: &[f32],
        affine: Affine,
        saved: Saved<&[f32]>,
        dy: &[f32],
        then: Then,
        dx: &mut [f32],
        (dgamma, dbeta): (&mut [f32], &mut [f32]),
        ws: &mut [f32],
    ) {
        self.check(
            &[x, dy, dx],
            &[affine.gamma, saved.mean, saved.rstd, dgamma, dbeta],
        );
        let (c, chunk) = (self.channels, self.chunk());
        let (partials, ws) = ws.split_at_mut(self.partials_len());
        let (mean, rstd) = (saved.mean, saved.rstd);
        let lines = Lines::new(affine, saved, ws);

        // `dz` where it had to be written down, else `dy` and whether ReLU follows.
        let (dz, relu) = match then {
            Then::AddRelu { y, d_residual } => {
                self.check(&[y, d_residual], &[]);
                partials
                    .par_chunks_exact_mut(2 * c)
                    .zip(x.par_chunks(chunk))
                    .zip(dy.par_chunks(chunk))
                    .zip(y.par_chunks(chunk))
                    .zip(d_residual.par_chunks_mut(chunk))
                    .for_each(|((((partial, x), dy), y), dz)| {
                        mask(y, dy, dz);
                        sums(&lines, mean, x, dz, false, partial);
                    });
                (&*d_residual, false)
            }
            Then::Relu | Then::Nothing => {
                let relu = matches!(then, Then::Relu);
                partials
                    .par_chunks_exact_mut(2 * c)
                    .zip(x.par_chunks(chunk))
                    .zip(dy.par_chunks(chunk))
                    .for_each(|((partial, x), dy)| sums(&lines, mean, x, dy, relu, partial));
                (dy, relu)
            }
        };
        for i in 0..c {
            let (mut sum, mut sum_x) = (0.0, 0.0);
            for partial in partials.chunks_exact(2 * c) {
                sum += f64::from(partial[i]);
                sum_x += f64::from(partial[c + i]);
            }
            dbeta[i] = sum as f32;
            dgamma[i] = (sum_x * f64::from(rstd[i])) as f32;
        }
        // dx = scale dz + slope (x - mean) + constant.
        let (slope, constant) = partials.split_at_mut(c);
        for i in 0..c {
            let m = self.pixels as f32;
            slope[i] = -lines.scale[i] * rstd[i] * (dgamma[i] / m);
            constant[i] = -lines.scale[i] * (dbeta[i] / m);
        }
        let (slope, constant) = (&*slope, &constant[..c]);
        dx.par_chunks_mut(chunk)
            .zip(x.par_chunks(chunk))
            .zip(dz.par_chunks(chunk))
            .for_each(|((dx, x), dz)| {
                gradient(&lines, mean, slope, constant, relu, x, dz, dx);
            });
    }

    /// Scale and bias per channel that do to a convolution's sums what its own bias and then this batch norm in
    /// evaluation do.
    pub fn fold(
        affine: Affine,
        (running_mean, running_var): (&[f32], &[f32]),
        own_bias: Option<&[f32]>,
        scale: &mut [f32],
        bias: &mut [f32],
    ) {
        for (i, (scale, bias)) in scale.iter_mut().zip(bias).enumerate() {
            *scale = affine.gamma[i] / (running_var[i] + EPS).sqrt();
            let own_bias = own_bias.map_or(0.0, |bias| bias[i]);
            *bias = affine.beta[i] + *scale * (own_bias - running_mean[i]);
        }
    }
}

/// z = scale x + offset (+ residual), per channel.
struct Lines<'a> {
    scale: &'a [f32],
    offset: &'a [f32],
}

impl Lines<'_> {
    fn new<'a>(affine: Affine, saved: Saved<&[f32]>, ws: &'a mut [f32]) -> Lines<'a> {
        let channels = affine.gamma.len();
        let (scale, offset) = ws[..2 * channels].split_at_mut(channels);
        for i in 0..channels {
            scale[i] = affine.gamma[i] * saved.rstd[i];
            offset[i] = affine.beta[i] - saved.mean[i] * scale[i];
        }
        Lines { scale, offset }
    }
}

/// The channels, sixteen at a time.
#[inline(always)]
fn blocks(channels: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    (0..channels)
        .step_by(LANES)
        .map(move |c| c..channels.min(c + LANES))
}

/// Sums of `term(at)` over the rows, `at` being a row's entries for `block`: four sums, then one.
///
/// `term` has one call, since a closure with several need not be inlined, and outside the function that has
/// the instruction set its vectors would be passed through memory.
#[inline(always)]
fn sum_rows<S: Simd>(
    s: S,
    len: usize,
    channels: usize,
    block: std::ops::Range<usize>,
    mut term: impl FnMut(S::V, std::ops::Range<usize>) -> S::V,
) -> S::V {
    let rows = len / channels;
    let mut sums = [s.zero(); 4];
    for first in (0..rows).step_by(4) {
        for (k, sum) in sums.iter_mut().enumerate() {
            if first + k < rows {
                let row = (first + k) * channels;
                *sum = term(*sum, row + block.start..row + block.end);
            }
        }
    }
    (sums[0] + sums[1]) + (sums[2] + sums[3])
}

multiversion!(
    /// Of each channel of a chunk: mean, and sum of squares about it.
    fn moments = moments_body(x: &[f32], to: &mut [f32])
);

#[inline(always)]
fn moments_body<S: Simd>(s: S, x: &[f32], to: &mut [f32]) {
    let channels = to.len() / 2;
    let (means, squares) = to.split_at_mut(channels);
    let rows = s.splat((x.len() / channels) as f32);
    for block in blocks(channels) {
        let sum = sum_rows(s, x.len(), channels, block.clone(), |sum, at| {
            sum + s.load_partial(&x[at])
        });
        let mean = sum / rows;
        let square = sum_rows(s, x.len(), channels, block.clone(), |sum, at| {
            let off = s.load_partial(&x[at]) - mean;
            off.mul_add(off, sum)
        });
        mean.store_partial(&mut means[block.clone()]);
        square.store_partial(&mut squares[block]);
    }
}

multiversion!(
    fn normalise = normalise_body(
        lines: &Lines, x: &[f32], residual: Option<&[f32]>, relu: bool, y: &mut [f32])
);

#[inline(always)]
fn normalise_body<S: Simd>(
    s: S,
    lines: &Lines,
    x: &[f32],
    residual: Option<&[f32]>,
    relu: bool,
    y: &mut [f32],
) {
    let channels = lines.scale.len();
    for first in (0..x.len()).step_by(channels) {
        for block in blocks(channels) {
            let at = first + block.start..first + block.end;
            let scale = s.load_partial(&lines.scale[block.clone()]);
            let offset = s.load_partial(&lines.offset[block]);
            let mut z = s.load_partial(&x[at.clone()]).mul_add(scale, offset);
            if let Some(residual) = residual {
                z = z + s.load_partial(&residual[at.clone()]);
            }
            if relu {
                z = s.zero().max(z);
            }
            z.store_partial(&mut y[at]);
        }
    }
}

multiversion!(
    /// `dz`: `dy`, but 0 where `y <= 0`.
    pub(super) fn mask = mask_body(y: &[f32], dy: &[f32], dz: &mut [f32])
);

#[inline(always)]
fn mask_body<S: Simd>(s: S, y: &[f32], dy: &[f32], dz: &mut [f32]) {
    for ((y, dy), dz) in y
        .chunks(LANES)
        .zip(dy.chunks(LANES))
        .zip(dz.chunks_mut(LANES))
    {
        let y = s.load_partial(y);
        s.zero()
            .where_le(y, s.zero(), s.load_partial(dy))
            .store_partial(dz);
    }
}

multiversion!(
    /// Of each channel of a chunk: sum of `dz`, and of `dz (x - mean)`.
    fn sums = sums_body(
        lines: &Lines, mean: &[f32], x: &[f32], dz: &[f32], relu: bool, to: &mut [f32])
);

#[inline(always)]
fn sums_body<S: Simd>(
    s: S,
    lines: &Lines,
    mean: &[f32],
    x: &[f32],
    dz: &[f32],
    relu: bool,
    to: &mut [f32],
) {
    let channels = mean.len();
    let (plain, with_x) = to.split_at_mut(channels);
    for block in blocks(channels) {
        let scale = s.load_partial(&lines.scale[block.clone()]);
        let offset = s.load_partial(&lines.offset[block.clone()]);
        let mean = s.load_partial(&mean[block.clone()]);
        let mut sum = [s.zero(); 2];
        let sum_x = sum_rows(s, x.len(), channels, block.clone(), |sum_x, at| {
            let x = s.load_partial(&x[at.clone()]);
            let mut dz = s.load_partial(&dz[at]);
            if relu {
                dz = s.zero().where_le(x.mul_add(scale, offset), s.zero(), dz);
            }
            sum = [sum[1], sum[0] + dz];
            dz.mul_add(x - mean, sum_x)
        });
        (sum[0] + sum[1]).store_partial(&mut plain[block.clone()]);
        sum_x.store_partial(&mut with_x[block]);
    }
}

multiversion!(
    fn gradient = gradient_body(
        lines: &Lines, mean: &[f32], slope: &[f32], constant: &[f32], relu: bool,
        x: &[f32], dz: &[f32], dx: &mut [f32])
);

#[allow(clippy::too_many_arguments)]
#[inline(always)]
fn gradient_body<S: Simd>(
    s: S,
    lines: &Lines,
    mean: &[f32],
    slope: &[f32],
    constant: &[f32],
    relu: bool,
    x: &[f32],
    dz: &[f32],
    dx: &mut [f32],
) {
    let channels = mean.len();
    for first in (0..x.len()).step_by(channels) {
        for block in blocks(channels) {
            let at = first + block.start..first + block.end;
            let channel = |of: &[f32]| s.load_partial(&of[block.clone()]);
            let x = s.load_partial(&x[at.clone()]);
            let mut dz = s.load_partial(&dz[at.clone()]);
            let scale = channel(lines.scale);
            if relu {
                let z = x.mul_add(scale, channel(lines.offset));
                dz = s.zero().where_le(z, s.zero(), dz);
            }
            let off = (x - channel(mean)).mul_add(channel(slope), channel(constant));
            dz.mul_add(scale, off).store_partial(&mut dx[at]);
        }
    }
}
