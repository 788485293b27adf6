//! The sums of a block of `gather.rs`: for 16 or 32 output channels at a time, tiles of `P` pixels are summed in
//! registers over all taps and channels; per source channel one or two vectors of weights and `P`
//! broadcast values.

use super::gather::{Block, Class, Epilogue, Gather, Line, NARROW};
use crate::cpu::simd::{LANES, Simd, Vector, multiversion, wide};

/// Pixels of a tile, with [`Simd::WIDE`] and without.
const WIDE_TILE: usize = 12;
const TILE: usize = 6;

/// Pixels of a tile on this machine.
pub(super) fn tile() -> usize {
    if wide() { WIDE_TILE } else { TILE }
}

/// Longest run of neighbours that the kernel for few channels sums at once.
pub(super) const RUN: usize = 16;

multiversion!(pub(super) fn sum_block = sum_block_body(
    g: &Gather, block: &Block, packed: &[f32], epilogue: &Epilogue, y: &mut [f32], source: &[f32]));

#[inline(always)]
fn sum_block_body<S: Simd>(
    s: S,
    g: &Gather,
    block: &Block,
    packed: &[f32],
    epilogue: &Epilogue,
    y: &mut [f32],
    source: &[f32],
) {
    let blocks = g.target.channels.div_ceil(LANES);
    let mut first = 0;
    while first < blocks {
        // One or two sixteens for all classes: their weights stay in the cache.
        let two = S::WIDE && first + 1 < blocks;
        for class in &g.classes {
            let part = Part {
                g,
                block,
                class,
                first,
                packed,
                epilogue,
                source,
            };
            if two {
                part.sum::<S, WIDE_TILE, 2>(s, y, false, |from| part.sum_taps(s, from));
            } else if S::WIDE && g.narrow {
                part.sum::<S, RUN, 1>(s, y, true, |from| part.sum_run(s, from[0]));
            } else if g.narrow {
                part.sum::<S, 4, 1>(s, y, true, |from| part.sum_run(s, from[0]));
            } else if S::WIDE {
                part.sum::<S, WIDE_TILE, 1>(s, y, false, |from| part.sum_taps(s, from));
            } else {
                part.sum::<S, TILE, 1>(s, y, false, |from| part.sum_taps(s, from));
            }
        }
        first += if two { 2 } else { 1 };
    }
}

/// All pixels of a class in a block, for the one or two sixteens of target channels from `first`.
struct Part<'a> {
    g: &'a Gather,
    block: &'a Block,
    class: &'a Class,
    first: usize,
    packed: &'a [f32],
    epilogue: &'a Epilogue<'a>,
    source: &'a [f32],
}

impl Part<'_> {
    /// Goes through the pixels `P` by `P`. `sum_tile` takes the offsets of their sources; `runs` asks for tiles of
    /// neighbours in one row.
    #[inline(always)]
    fn sum<S: Simd, const P: usize, const Q: usize>(
        &self,
        s: S,
        y: &mut [f32],
        runs: bool,
        sum_tile: impl Fn([usize; P]) -> [[S::V; Q]; P],
    ) {
        let (g, block, class) = (self.g, self.block, self.class);
        let (width, channels) = (g.target.width, g.target.channels);
        let rows_here = y.len() / (block.images * width * channels);
        let steps = class.rows.within(block.first_row, g.block_rows);
        if steps.is_empty() {
            return;
        }
        // In the block.
        let (first_row, rows) = (steps.start - block.first_row, steps.len());
        let (first_column, columns) = (class.columns.steps.start, class.columns.steps.len());
        let stored = g.stored.0 * g.stored.1 * g.pitch;
        let place = |line: &Line, step: usize| (line.source + (step * g.step) as isize) as usize;
        let first_source = place(&class.columns, first_column);
        // Where this block lies in the whole output, for `epilogue.add`.
        let start = (block.first_image * g.target.height + block.first_row * g.phase_step)
            * width
            * channels;

        // Where a row of the class starts in the source and in `y`.
        let row_at = |image: usize, row: usize| {
            let row = first_row + row;
            let source = place(&class.rows, row) * g.stored.1 + first_source;
            let from = image * stored + source * g.pitch;
            let to_row = image * rows_here + row * g.phase_step + class.rows.phase;
            let to = to_row * width + first_column * g.phase_step + class.columns.phase;
            (from, to * channels + self.first * LANES)
        };
        let (from_step, to_step) = (g.step * g.pitch, g.phase_step * channels);
        let (mut image, mut row, mut column) = (0, 0, 0);
        let (mut from, mut to) = row_at(0, 0);
        while image < block.images {
            let mut done = 0;
            if runs && column + P > columns {
                // The last run of a row repeats pixels of the one before.
                done = column + P - columns;
                column -= done;
                from -= done * from_step;
                to -= done * to_step;
            }
            // A short tile computes its first pixel again.
            let (mut froms, mut tos) = ([from; P], [to; P]);
            let mut tile = P;
            for i in 0..P {
                (froms[i], tos[i]) = (from, to);
                column += 1;
                from += from_step;
                to += to_step;
                if column == columns {
                    (column, row) = (0, row + 1);
                    if row == rows {
                        (row, image) = (0, image + 1);
                    }
                    (from, to) = row_at(image, row);
                    if image == block.images {
                        tile = i + 1;
                        break;
                    }
                }
            }
            let sums = sum_tile(froms);
            // Not an iterator, so that the sums stay in registers.
            #[allow(clippy::needless_range_loop)]
            for i in 0..P {
                if i < done || i >= tile {
                    continue;
                }
                for q in 0..Q {
                    let lanes = LANES.min(channels - (self.first + q) * LANES);
                    let y = &mut y[tos[i] + q * LANES..][..lanes];
                    let mut sum = sums[i][q];
                    if self.epilogue.accumulate {
                        sum = sum + s.load_partial(y);
                    }
                    sum.store_partial(y);
                }
            }
            let Epilogue {
                scale,
                bias,
                add,
                relu,
                ..
            } = self.epilogue;
            if scale.is_some() || bias.is_some() || add.is_some() || *relu {
                for to in &tos[done..tile] {
                    for q in 0..Q {
                        let lanes = LANES.min(channels - (self.first + q) * LANES);
                        let at = to + q * LANES;
                        self.finish(s, q, start + at, &mut y[at..at + lanes]);
                    }
                }
            }
        }
    }

    /// Scale, bias, addend and ReLU for a sum in `y`, which lies at `at` in the whole output.
    #[inline(always)]
    fn finish<S: Simd>(&self, s: S, q: usize, at: usize, y: &mut [f32]) {
        let mut sum = s.load_partial(y);
        let first = (self.first + q) * LANES;
        let channels = first..first + y.len();
        match (self.epilogue.scale, self.epilogue.bias) {
            (Some(scale), Some(bias)) => {
                let scale = s.load_partial(&scale[channels.clone()]);
                sum = sum.mul_add(scale, s.load_partial(&bias[channels]));
            }
            (Some(scale), None) => sum = sum * s.load_partial(&scale[channels]),
            (None, Some(bias)) => sum = sum + s.load_partial(&bias[channels]),
            (None, None) => {}
        }
        if let Some(add) = self.epilogue.add {
            sum = sum + s.load_partial(&add[at..at + y.len()]);
        }
        if self.epilogue.relu {
            sum = s.zero().max(sum);
        }
        sum.store_partial(y);
    }

    /// Weights from this part's first on, and floats from one sixteen of target channels to the next.
    #[inline(always)]
    fn weights(&self) -> (&[f32], usize) {
        let block = self.g.weight_block();
        (&self.packed[self.first * block..], block)
    }

    /// The sums of `P` pixels, whose sources start at `from`, for `16 Q` channels.
    #[inline(always)]
    fn sum_taps<S: Simd, const P: usize, const Q: usize>(
        &self,
        s: S,
        from: [usize; P],
    ) -> [[S::V; Q]; P] {
        let (class, (weights, stride)) = (self.class, self.weights());
        if class.taps.is_empty() {
            return [[s.zero(); Q]; P];
        }
        let fits = |from: &usize| from + class.source_end <= self.source.len();
        assert!(from.iter().all(fits));
        assert!(class.weights_end * LANES <= stride && Q * stride <= weights.len());

        let mut sums = [[s.zero(); Q]; P];
        let from = from.map(|from| self.source.as_ptr().wrapping_add(from));
        for tap in &class.taps {
            let mut w = weights.as_ptr().wrapping_add(tap.weights * LANES);
            for c in tap.source..tap.source + tap.channels {
                // SAFETY: the assertions above.
                unsafe {
                    let weights: [S::V; Q] = std::array::from_fn(|q| s.load_ptr(w.add(q * stride)));
                    for (sums, from) in sums.iter_mut().zip(from) {
                        let x = s.splat(*from.add(c));
                        for (sum, weights) in sums.iter_mut().zip(weights) {
                            *sum = x.mul_add(weights, *sum);
                        }
                    }
                }
                w = w.wrapping_add(LANES);
            }
        }
        sums
    }

    /// The sums of `P` neighbours, the first one's source at `from`, for 16 channels, where
    /// [`Gather::narrow`] holds. With so few channels `sum_taps` would be bound by its loads: here a value is
    /// loaded once for all three kernel columns.
    #[inline(always)]
    fn sum_run<S: Simd, const P: usize>(&self, s: S, from: usize) -> [[S::V; 1]; P] {
        let (class, (weights, stride)) = (self.class, self.weights());
        let (rows, _) = class.taps.as_chunks::<3>();
        let channels = self.g.source.channels;
        let end = rows.iter().map(|row| row[0].source).max().unwrap_or(0);
        let end = end + (P + 1) * NARROW + channels;
        assert!(self.g.pitch == NARROW && from + end <= self.source.len());
        assert!(class.weights_end * LANES <= stride && stride <= weights.len());

        let mut sums = [[s.zero()]; P];
        for row in rows {
            for c in 0..channels {
                // SAFETY: the assertions above.
                unsafe {
                    let x = self.source.as_ptr().add(from + row[0].source + c);
                    let w: [S::V; 3] = std::array::from_fn(|q| {
                        s.load_ptr(weights.as_ptr().add((row[q].weights + c) * LANES))
                    });
                    let value = |j: usize| s.splat(*x.add(j * NARROW));
                    let (mut x0, mut x1) = (value(0), value(1));
                    for (j, [sum]) in sums.iter_mut().enumerate() {
                        let x2 = value(j + 2);
                        *sum = x0.mul_add(w[0], *sum);
                        *sum = x2.mul_add(w[2], x1.mul_add(w[1], *sum));
                        (x0, x1) = (x1, x2);
                    }
                }
            }
        }
        sums
    }
}
