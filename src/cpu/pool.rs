//! Small operations on activations (N, H, W, C): ReLU, sums, pooling, ResNet's shortcut without weights.

use super::CHUNK;
use super::batch_norm::mask;
use super::simd::{LANES, Simd, Vector, multiversion};
use rayon::prelude::*;

/// `y = max(x, 0)`; NaN stays.
pub fn relu(x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len());
    y.par_chunks_mut(CHUNK)
        .zip(x.par_chunks(CHUNK))
        .for_each(|(y, x)| {
            for (y, x) in y.iter_mut().zip(x) {
                *y = if *x <= 0.0 { 0.0 } else { *x };
            }
        });
}

/// `x = max(x, 0)`; NaN stays.
pub fn relu_in_place(x: &mut [f32]) {
    x.par_chunks_mut(CHUNK).for_each(|x| {
        for x in x {
            *x = if *x <= 0.0 { 0.0 } else { *x };
        }
    });
}

/// `dx = dy`, but 0 where `y <= 0`.
pub fn relu_backward(y: &[f32], dy: &[f32], dx: &mut [f32]) {
    assert!(y.len() == dy.len() && y.len() == dx.len());
    dx.par_chunks_mut(CHUNK)
        .zip(y.par_chunks(CHUNK))
        .zip(dy.par_chunks(CHUNK))
        .for_each(|((dx, y), dy)| mask(y, dy, dx));
}

/// `y = a + b`.
pub fn add(a: &[f32], b: &[f32], y: &mut [f32]) {
    assert!(a.len() == b.len() && a.len() == y.len());
    y.par_chunks_mut(CHUNK)
        .zip(a.par_chunks(CHUNK))
        .zip(b.par_chunks(CHUNK))
        .for_each(|((y, a), b)| {
            for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
                *y = a + b;
            }
        });
}

/// `y += x`.
pub fn add_to(x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len());
    y.par_chunks_mut(CHUNK)
        .zip(x.par_chunks(CHUNK))
        .for_each(|(y, x)| {
            for (y, x) in y.iter_mut().zip(x) {
                *y += x;
            }
        });
}

/// Activations (N, H, W, C).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Images {
    pub images: usize,
    pub height: usize,
    pub width: usize,
    pub channels: usize,
}

impl Images {
    pub fn len(&self) -> usize {
        self.images * self.image()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn image(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Length of `y` (N, H / 2, W / 2, C) of the max pool.
    pub fn pooled_len(&self) -> usize {
        self.images * self.pooled_image()
    }

    fn pooled_image(&self) -> usize {
        (self.height / 2) * (self.width / 2) * self.channels
    }

    /// Largest of 2 x 2 pixels, per channel. The last row or column of an odd image is left out; NaN wins.
    pub fn max_pool(&self, x: &[f32], y: &mut [f32]) {
        assert!(x.len() == self.len() && y.len() == self.pooled_len());
        y.par_chunks_exact_mut(self.pooled_image())
            .zip(x.par_chunks_exact(self.image()))
            .for_each(|(y, x)| pool_image(self, x, y));
    }

    /// `dx` has `dy` at the largest of its 2 x 2 pixels (the first of equals; the last NaN, if there is one)
    /// and 0 elsewhere.
    pub fn max_pool_backward(&self, x: &[f32], dy: &[f32], dx: &mut [f32]) {
        assert!(x.len() == self.len() && dx.len() == self.len() && dy.len() == self.pooled_len());
        dx.par_chunks_exact_mut(self.image())
            .zip(x.par_chunks_exact(self.image()))
            .zip(dy.par_chunks_exact(self.pooled_image()))
            .for_each(|((dx, x), dy)| unpool_image(self, x, dy, dx));
    }

    /// Where the 2 x 2 pixels of the windows of an image lie, and the window's pixel.
    fn windows(self) -> impl Iterator<Item = ([usize; 4], usize)> {
        let (c, row) = (self.channels, self.width * self.channels);
        let columns = self.width / 2;
        (0..self.height / 2 * columns).map(move |i| {
            let at = i / columns * 2 * row + i % columns * 2 * c;
            ([at, at + c, at + row, at + row + c], i * c)
        })
    }

    /// Mean over the pixels: `y` (N, C).
    pub fn average(&self, x: &[f32], y: &mut [f32]) {
        assert!(x.len() == self.len() && y.len() == self.images * self.channels);
        let pixels = (self.height * self.width) as f32;
        y.par_chunks_exact_mut(self.channels)
            .zip(x.par_chunks_exact(self.image()))
            .for_each(|(y, x)| {
                y.fill(0.0);
                for pixel in x.chunks_exact(self.channels) {
                    for (y, x) in y.iter_mut().zip(pixel) {
                        *y += x;
                    }
                }
                y.iter_mut().for_each(|y| *y /= pixels);
            });
    }

    /// `dx = dy / (H W)` at every pixel.
    pub fn average_backward(&self, dy: &[f32], dx: &mut [f32]) {
        assert!(dx.len() == self.len() && dy.len() == self.images * self.channels);
        let pixels = (self.height * self.width) as f32;
        dx.par_chunks_exact_mut(self.image())
            .zip(dy.par_chunks_exact(self.channels))
            .for_each(|(dx, dy)| {
                for pixel in dx.chunks_exact_mut(self.channels) {
                    for (dx, dy) in pixel.iter_mut().zip(dy) {
                        *dx = dy / pixels;
                    }
                }
            });
    }

    fn shortcut_image(&self, pad: usize) -> usize {
        self.height.div_ceil(2) * self.width.div_ceil(2) * (self.channels + 2 * pad)
    }

    /// Length of `y` of [`Images::shortcut`].
    pub fn shortcut_len(&self, pad: usize) -> usize {
        self.images * self.shortcut_image(pad)
    }

    /// Every second pixel, with `pad` zero channels before and after: `y` (N, ceil(H / 2), ceil(W / 2), C + 2 pad).
    pub fn shortcut(&self, pad: usize, x: &[f32], y: &mut [f32]) {
        assert!(x.len() == self.len() && y.len() == self.shortcut_len(pad));
        y.par_chunks_exact_mut(self.shortcut_image(pad))
            .zip(x.par_chunks_exact(self.image()))
            .for_each(|(y, x)| {
                let to = y.chunks_exact_mut(self.channels + 2 * pad);
                for (y, from) in to.zip(self.every_second()) {
                    y[..pad].fill(0.0);
                    y[pad..pad + self.channels].copy_from_slice(&x[from..from + self.channels]);
                    y[pad + self.channels..].fill(0.0);
                }
            });
    }

    /// Overwrites `dx`, or adds to it.
    pub fn shortcut_backward(&self, pad: usize, dy: &[f32], accumulate: bool, dx: &mut [f32]) {
        assert!(dx.len() == self.len() && dy.len() == self.shortcut_len(pad));
        dx.par_chunks_exact_mut(self.image())
            .zip(dy.par_chunks_exact(self.shortcut_image(pad)))
            .for_each(|(dx, dy)| {
                if !accumulate {
                    dx.fill(0.0);
                }
                let from = dy.chunks_exact(self.channels + 2 * pad);
                for (dy, to) in from.zip(self.every_second()) {
                    let dx = &mut dx[to..to + self.channels];
                    for (dx, dy) in dx.iter_mut().zip(&dy[pad..]) {
                        *dx += dy;
                    }
                }
            });
    }

    /// Where every second pixel of every second row of an image starts.
    fn every_second(&self) -> impl Iterator<Item = usize> + use<> {
        let (width, channels) = (self.width, self.channels);
        (0..self.height).step_by(2).flat_map(move |row| {
            (0..width)
                .step_by(2)
                .map(move |column| (row * width + column) * channels)
        })
    }
}

multiversion!(fn pool_image = pool_image_body(shape: &Images, x: &[f32], y: &mut [f32]));

#[inline(always)]
fn pool_image_body<S: Simd>(s: S, shape: &Images, x: &[f32], y: &mut [f32]) {
    for (window, to) in shape.windows() {
        for c in (0..shape.channels).step_by(LANES) {
            let lanes = LANES.min(shape.channels - c);
            let (most, _) = winner(s, load_window(s, x, window, c, lanes));
            most.store_partial(&mut y[to + c..][..lanes]);
        }
    }
}

multiversion!(fn unpool_image = unpool_image_body(shape: &Images, x: &[f32], dy: &[f32], dx: &mut [f32]));

#[inline(always)]
fn unpool_image_body<S: Simd>(s: S, shape: &Images, x: &[f32], dy: &[f32], dx: &mut [f32]) {
    if shape.height % 2 + shape.width % 2 > 0 {
        dx.fill(0.0);
    }
    for (window, from) in shape.windows() {
        for c in (0..shape.channels).step_by(LANES) {
            let lanes = LANES.min(shape.channels - c);
            let (_, index) = winner(s, load_window(s, x, window, c, lanes));
            let dy = s.load_partial(&dy[from + c..][..lanes]);
            for (k, at) in window.into_iter().enumerate() {
                let off = (index - s.splat(k as f32)).abs();
                dy.where_le(off, s.zero(), s.zero())
                    .store_partial(&mut dx[at + c..][..lanes]);
            }
        }
    }
}

/// `lanes` channels from `c` of a window's pixels. No closure, which need not be inlined.
#[inline(always)]
fn load_window<S: Simd>(s: S, x: &[f32], at: [usize; 4], c: usize, lanes: usize) -> [S::V; 4] {
    let mut pixels = [s.zero(); 4];
    for (pixel, at) in pixels.iter_mut().zip(at) {
        *pixel = s.load_partial(&x[at + c..][..lanes]);
    }
    pixels
}

/// The largest of four and its index, NaN counting as larger than all before it.
#[inline(always)]
fn winner<S: Simd>(s: S, x: [S::V; 4]) -> (S::V, S::V) {
    let (mut most, mut index) = (x[0], s.zero());
    for (k, x) in x.into_iter().enumerate().skip(1) {
        let k = s.splat(k as f32);
        // Where `x <= most` or either is NaN, and where `x` is NaN.
        let (next, next_index) = (most.where_le(x, most, x), index.where_le(x, most, k));
        let (kept, kept_index) = (most.where_le(x, x, x), index.where_le(x, x, k));
        // A NaN so far gives way to another NaN only.
        index = next_index.where_le(most, most, kept_index);
        most = next.where_le(most, most, kept);
    }
    (most, index)
}
