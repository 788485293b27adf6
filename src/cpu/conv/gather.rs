//! `y` from `x` and `dx` from `dy`: every output pixel is a sum over taps, each a source pixel (all its
//! channels) times a matrix.
//!
//! Pixels fall into classes that share taps: those at an image's borders leave out what lies beyond (more than half
//! of all taps where images are 2 x 2), and for `dx` with stride s the s x s positions modulo s differ too.
//!
//! A block is a few images, or a few rows of a large one. Its source is copied into scratch memory, where its pixels
//! lie close together; `tiles.rs` does the sums. Where pixels of the border would make poor tiles they stay with
//! the others, and zeros are stored around the image for their taps beyond it.

use super::Shape;
use super::tiles::{RUN, sum_block, tile};
use crate::cpu::par;
use crate::cpu::simd::LANES;
use rayon::prelude::*;
use std::ops::Range;

/// What happens to a sum before it is stored: `max(scale (sum + old) + bias + add, 0)`, each part optional.
#[derive(Clone, Copy, Default)]
pub struct Epilogue<'a> {
    /// One per output channel.
    pub scale: Option<&'a [f32]>,
    /// One per output channel.
    pub bias: Option<&'a [f32]>,
    /// Laid out like the output.
    pub add: Option<&'a [f32]>,
    /// Add the output's old values too.
    pub accumulate: bool,
    pub relu: bool,
}

/// Floats of a block's stored source; it shares the second-level cache with the weights.
const SCRATCH: usize = 1 << 16;
/// Source channels at most, of the kernel for few channels.
pub(super) const NARROW: usize = 16;
/// Output pixels that a block should have, lest weights are loaded for too few.
const PIXELS: usize = 192;

/// Output pixels that share taps: rows times columns.
pub(super) struct Class {
    pub(super) rows: Line,
    pub(super) columns: Line,
    pub(super) taps: Vec<Tap>,
    /// Where the sources and the weights of all taps end.
    pub(super) source_end: usize,
    pub(super) weights_end: usize,
}

/// A kernel position, or several whose sources and weights lie together.
pub(super) struct Tap {
    /// Where its source starts, in floats from that of the first tap.
    pub(super) source: usize,
    /// The first of its rows of packed weights.
    pub(super) weights: usize,
    /// Source channels, all in all.
    pub(super) channels: usize,
}

/// Output rows (or columns, they are alike) `steps * phase_step + phase`, which share taps.
#[derive(Clone)]
pub(super) struct Line {
    pub(super) phase: usize,
    pub(super) steps: Range<usize>,
    /// Kernel row, and source row relative to that of the first tap.
    taps: Vec<(usize, usize)>,
    /// Source row of the first tap at step 0, among those that are stored.
    pub(super) source: isize,
}

impl Line {
    /// The steps among the `count` from `first` on.
    pub(super) fn within(&self, first: usize, count: usize) -> Range<usize> {
        self.steps.start.max(first)..self.steps.end.min(first + count)
    }
}

/// All rows, or all columns.
struct Axis {
    lines: Vec<Line>,
    /// Source rows of a block that are stored, and how many of them come before the block's first.
    stored: usize,
    before: usize,
}

pub(super) struct Gather {
    pub(super) images: usize,
    pub(super) source: Image,
    pub(super) target: Image,
    /// Source pixels between the sources of neighbours in a class.
    pub(super) step: usize,
    /// Target pixels between neighbours in a class.
    pub(super) phase_step: usize,
    pub(super) classes: Vec<Class>,
    kernel: usize,
    /// Rows and columns of a block's source that are stored, and how many of them come before the block's first.
    pub(super) stored: (usize, usize),
    before: (usize, usize),
    /// Floats from one stored pixel to the next.
    pub(super) pitch: usize,
    /// Images per block, and rows of each phase in a block.
    pub(super) block_images: usize,
    pub(super) block_rows: usize,
    /// Are weights read as (source channel, target channel)?
    transposed: bool,
    /// Three kernel columns of stride 1, at most 16 channels on either side, and rows that are long enough?
    pub(super) narrow: bool,
}

#[derive(Clone, Copy)]
pub(super) struct Image {
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) channels: usize,
}

impl Image {
    fn len(&self) -> usize {
        self.height * self.width * self.channels
    }
}

/// A kernel row and what it reads: (phase, kernel row, source row relative to the first).
type KernelRow = (usize, usize, isize);

impl Class {
    /// `tap` makes one of a kernel row and a kernel column; `join` those that continue each other.
    fn new(
        rows: &Line,
        columns: &Line,
        tap: impl Fn((usize, usize), (usize, usize)) -> Tap,
        join: bool,
    ) -> Class {
        let mut taps: Vec<Tap> = Vec::new();
        for &row in &rows.taps {
            for &column in &columns.taps {
                let tap = tap(row, column);
                match taps.last_mut() {
                    Some(last)
                        if join
                            && last.source + last.channels == tap.source
                            && last.weights + last.channels == tap.weights =>
                    {
                        last.channels += tap.channels;
                    }
                    _ => taps.push(tap),
                }
            }
        }
        let end = |start: fn(&Tap) -> usize| {
            let ends = taps.iter().map(|tap| start(tap) + tap.channels);
            ends.max().unwrap_or(0)
        };
        Class {
            rows: rows.clone(),
            columns: columns.clone(),
            source_end: end(|tap| tap.source),
            weights_end: end(|tap| tap.weights),
            taps,
        }
    }
}

impl Axis {
    /// `kernel` is as for [`Gather::new`], `block` the steps of a block. Rows whose taps differ are lines apart if
    /// `split`; if not, or if a block is not the whole, rows beyond the image are stored as well.
    fn new(
        kernel: &[KernelRow],
        (step, phase_step): (usize, usize),
        (source, target): (usize, usize),
        block: usize,
        split: bool,
    ) -> Axis {
        let first = kernel.iter().map(|k| k.2).min().unwrap_or(0);
        let last = kernel.iter().map(|k| k.2).max().unwrap_or(0);
        let whole = block == target.div_ceil(phase_step);
        let (stored, before) = if split && whole {
            (source, 0)
        } else {
            let span = (last - first + 1) as usize;
            ((block - 1) * step + span, first.min(0).unsigned_abs())
        };
        let mut lines: Vec<Line> = Vec::new();
        for phase in 0..phase_step.min(target) {
            for i in 0..(target - phase).div_ceil(phase_step) {
                let inside = |u: isize| (0..source as isize).contains(&((i * step) as isize + u));
                let taps = || {
                    kernel
                        .iter()
                        .filter(|k| k.0 == phase && (!split || inside(k.2)))
                };
                let first = taps().next().map_or(0, |k| k.2);
                let taps: Vec<_> = taps().map(|k| (k.1, (k.2 - first) as usize)).collect();
                match lines.last_mut() {
                    Some(last) if last.phase == phase && last.taps == taps => {
                        last.steps.end = i + 1;
                    }
                    _ => lines.push(Line {
                        phase,
                        steps: i..i + 1,
                        taps,
                        source: first + before as isize,
                    }),
                }
            }
        }
        Axis {
            lines,
            stored,
            before,
        }
    }
}

impl Gather {
    pub(super) fn forward(s: Shape) -> Gather {
        // Target row i reads source rows i * stride + p - pad.
        let taps = (0..s.kernel).map(|p| (0, p, p as isize - s.pad as isize));
        Gather::new(s, false, s.stride, 1, &taps.collect::<Vec<_>>())
    }

    pub(super) fn input_gradient(s: Shape) -> Gather {
        let stride = s.stride as isize;
        let mut taps = Vec::new();
        for phase in 0..stride {
            // Backwards, for offsets that increase.
            for p in (0..s.kernel as isize).rev() {
                let row = phase + s.pad as isize - p;
                if row % stride == 0 {
                    taps.push((phase as usize, p as usize, row / stride));
                }
            }
        }
        Gather::new(s, true, 1, s.stride, &taps)
    }

    /// `kernel` is sorted by phase, and by source row within each.
    fn new(
        s: Shape,
        transposed: bool,
        step: usize,
        phase_step: usize,
        kernel: &[KernelRow],
    ) -> Gather {
        let input = Image {
            height: s.height,
            width: s.width,
            channels: s.channels_in,
        };
        let output = Image {
            height: s.out_height(),
            width: s.out_width(),
            channels: s.channels_out,
        };
        let (source, target) = if transposed {
            (output, input)
        } else {
            (input, output)
        };
        let narrow = s.kernel == 3
            && s.stride == 1
            && source.channels <= NARROW
            && target.channels <= LANES
            && target.width >= RUN;
        // A pitch of 1 KiB or more would map all pixels to a few sets of the first-level cache.
        let pitch = if narrow {
            NARROW
        } else if source.channels % 256 == 0 {
            source.channels + LANES
        } else {
            source.channels
        };
        let steps = (
            target.height.div_ceil(phase_step),
            target.width.div_ceil(phase_step),
        );
        let split = |by_row: bool, by_column: bool| {
            let axis = |source, target, block, split| {
                Axis::new(kernel, (step, phase_step), (source, target), block, split)
            };
            let columns = axis(source.width, target.width, steps.1, by_column);
            let rows = |block| axis(source.height, target.height, block, by_row);
            let row = columns.stored * pitch;
            let whole = rows(steps.0);
            let image = whole.stored * row;
            let (block_images, block_rows, rows) = if image <= 2 * SCRATCH {
                let fit = (SCRATCH / image).max(1);
                let want = PIXELS.div_ceil(steps.0 * steps.1);
                (want.max(fit.min(4)).min(s.images), steps.0, whole)
            } else {
                let halo = rows(1).stored;
                let fit = (SCRATCH / row).saturating_sub(halo) / step;
                let block = fit.max(PIXELS.div_ceil(steps.1)).min(steps.0);
                (1, block, rows(block))
            };
            let tap = |(p, u): (usize, usize), (q, v): (usize, usize)| Tap {
                source: (u * columns.stored + v) * pitch,
                weights: position(s.kernel, transposed, p * s.kernel + q) * source.channels,
                channels: source.channels,
            };
            let classes = (rows.lines.iter())
                .flat_map(|r| columns.lines.iter().map(move |c| (r, c)))
                .map(|(r, c)| Class::new(r, c, tap, !narrow))
                .collect();
            Gather {
                images: s.images,
                source,
                target,
                step,
                phase_step,
                classes,
                kernel: s.kernel,
                stored: (rows.stored, columns.stored),
                before: (rows.before, columns.before),
                pitch,
                block_images,
                block_rows,
                transposed,
                narrow,
            }
        };
        if narrow {
            // Its kernel takes all three columns at once, whether they lie inside or not.
            return split(true, false);
        }
        let ways = [(true, true), (true, false), (false, false)];
        let ways = ways.map(|(by_row, by_column)| split(by_row, by_column));
        let ways = ways.into_iter();
        ways.min_by_key(Gather::work).expect("there are ways")
    }

    /// Products of a tile of pixels and a source channel's weights, for all images.
    fn work(&self) -> usize {
        let steps = self.target.height.div_ceil(self.phase_step);
        let block = |images: usize| {
            let class = |c: &Class| {
                let rows = (0..steps).step_by(self.block_rows);
                let rows = rows.map(|first| c.rows.within(first, self.block_rows).len());
                let pixels = rows.map(|rows| images * rows * c.columns.steps.len());
                let tiles: usize = pixels.map(|pixels| pixels.div_ceil(tile())).sum();
                tiles * c.taps.iter().map(|tap| tap.channels).sum::<usize>()
            };
            self.classes.iter().map(class).sum::<usize>()
        };
        self.images / self.block_images * block(self.block_images)
            + block(self.images % self.block_images)
    }

    fn scratch_len(&self) -> usize {
        let (rows, columns) = self.stored;
        (self.block_images * rows * columns * self.pitch).next_multiple_of(LANES)
    }

    /// Floats of the packed weights of 16 target channels.
    pub(super) fn weight_block(&self) -> usize {
        self.kernel * self.kernel * self.source.channels * LANES
    }

    fn packed_len(&self) -> usize {
        self.target.channels.div_ceil(LANES) * self.weight_block()
    }

    pub(super) fn workspace(&self, threads: usize) -> usize {
        par::ALIGN + self.packed_len() + threads * self.scratch_len()
    }

    pub(super) fn run(
        &self,
        x: &[f32],
        w: &[f32],
        epilogue: Epilogue,
        y: &mut [f32],
        ws: &mut [f32],
    ) {
        assert_eq!(x.len(), self.images * self.source.len());
        assert_eq!(y.len(), self.images * self.target.len());
        assert_eq!(
            w.len(),
            self.kernel * self.kernel * self.source.channels * self.target.channels
        );
        for row in epilogue.scale.iter().chain(&epilogue.bias) {
            assert_eq!(row.len(), self.target.channels);
        }
        if let Some(add) = epilogue.add {
            assert_eq!(add.len(), y.len());
        }
        let (packed, scratch) = par::aligned(ws).split_at_mut(self.packed_len());
        self.pack_weights(w, packed);

        let row_len = self.target.width * self.target.channels;
        let rows = if self.block_images > 1 {
            self.block_images * self.target.height
        } else {
            self.block_rows * self.phase_step
        };
        let blocks = y
            .chunks_mut(self.block_images * self.target.len())
            .enumerate()
            .flat_map(|(i, images)| {
                images
                    .chunks_mut(rows * row_len)
                    .enumerate()
                    .map(move |(j, y)| (i, j, y))
            });
        let (packed, epilogue) = (&*packed, &epilogue);
        par::for_each(blocks, scratch, self.scratch_len(), |(i, j, y), scratch| {
            let first_image = i * self.block_images;
            let block = Block {
                first_image,
                images: self.block_images.min(self.images - first_image),
                first_row: j * self.block_rows,
            };
            self.pack_source(&block, x, scratch);
            sum_block(self, &block, packed, epilogue, y, scratch);
        });
    }

    /// Weights as (target channel / 16, [`position`], source channel, 16).
    fn pack_weights(&self, w: &[f32], packed: &mut [f32]) {
        let taps = self.kernel * self.kernel;
        let (from, to) = (self.source.channels, self.target.channels);
        // Strides of `w` by source and target channel.
        let (by_from, by_to) = if self.transposed {
            (to * taps, taps)
        } else {
            (taps, from * taps)
        };
        packed
            .par_chunks_exact_mut(self.weight_block())
            .enumerate()
            .for_each(|(block, packed)| {
                let lanes = LANES.min(to - block * LANES);
                for c in 0..from {
                    for tap in 0..taps {
                        let at = position(self.kernel, self.transposed, tap);
                        let at = (at * from + c) * LANES;
                        let v = &mut packed[at..at + LANES];
                        let first = c * by_from + block * LANES * by_to + tap;
                        for (lane, v) in v[..lanes].iter_mut().enumerate() {
                            *v = w[first + lane * by_to];
                        }
                        v[lanes..].fill(0.0);
                    }
                }
            });
    }

    /// Copies a block's source into `(image, stored row, stored column, channel)`.
    fn pack_source(&self, block: &Block, x: &[f32], scratch: &mut [f32]) {
        let (h, w, c) = (self.source.height, self.source.width, self.source.channels);
        let (rows, columns) = self.stored;
        let (above, left) = self.before;
        // A strided forward pass may leave columns at the right unread.
        let used = w.min(columns - left);
        for (row, to) in scratch
            .chunks_exact_mut(columns * self.pitch)
            .enumerate()
            .take(block.images * rows)
        {
            let image = block.first_image + row / rows;
            let source_row = block.first_row * self.step + row % rows;
            if !(above..above + h).contains(&source_row) {
                to.fill(0.0);
                continue;
            }
            let from = &x[(image * h + source_row - above) * w * c..][..used * c];
            let (before, to) = to.split_at_mut(left * self.pitch);
            let (to, after) = to.split_at_mut(used * self.pitch);
            before.fill(0.0);
            after.fill(0.0);
            if self.pitch == c {
                to.copy_from_slice(from);
            } else {
                for (to, from) in to.chunks_exact_mut(self.pitch).zip(from.chunks_exact(c)) {
                    to[..c].copy_from_slice(from);
                }
            }
        }
    }
}

/// Where a kernel position's weights are packed: backwards for `dx`, as neighbouring sources meet them.
fn position(kernel: usize, transposed: bool, at: usize) -> usize {
    if transposed {
        kernel * kernel - 1 - at
    } else {
        at
    }
}

pub(super) struct Block {
    pub(super) first_image: usize,
    pub(super) images: usize,
    /// In rows of a class.
    pub(super) first_row: usize,
}
