//! `y` from `x` and `dx` from `dy`: every output pixel is a sum over taps, each a source pixel (all its
//! channels) times a matrix.
//!
//! For `y` the taps are the K x K kernel positions. For `dx` with stride s the pixels fall into s x s phases by
//! their position modulo s; inside a phase all have the same taps, and consecutive ones read consecutive `dy`.
//!
//! A block is a few images, or a few rows of a large one. Its source is copied into scratch memory with a
//! border of zeros, so that no tap needs a test; `tiles.rs` does the sums.

use super::Shape;
use super::tiles::{RUN, sum_block};
use crate::device::cpu::par;
use crate::device::cpu::simd::LANES;
use rayon::prelude::*;

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

/// Floats of a block's padded source; it shares the second-level cache with the weights.
const SCRATCH: usize = 1 << 16;
/// Source channels at most, of the kernel for few channels.
pub(super) const NARROW: usize = 16;
/// Output pixels that a block should have, lest weights are loaded for too few.
const PIXELS: usize = 192;

/// The output pixels (phases.len() many each way apart) that share taps.
pub(super) struct Phase {
    pub(super) row: usize,
    pub(super) column: usize,
    /// Offsets in the padded source, in floats, in the order of the packed weights.
    pub(super) taps: Vec<usize>,
    /// Taps of the phases before.
    pub(super) first_tap: usize,
}

pub(super) struct Gather {
    pub(super) images: usize,
    pub(super) source: Image,
    pub(super) target: Image,
    /// Source pixels between the sources of neighbours in a phase.
    pub(super) step: usize,
    /// Target pixels between neighbours in a phase.
    pub(super) phase_step: usize,
    pub(super) phases: Vec<Phase>,
    /// Kernel positions (row, column), in the order of the phases' taps.
    pub(super) positions: Vec<(usize, usize)>,
    /// Source row or column (they are alike) of the first padded one, relative to the block's first.
    pub(super) origin: isize,
    /// Padded rows beyond `step` per row, and columns likewise.
    pub(super) span: usize,
    /// Floats from one padded pixel to the next.
    pub(super) pitch: usize,
    /// Images per block, and rows of each phase in a block.
    pub(super) block_images: usize,
    pub(super) block_rows: usize,
    /// Are weights read as (source channel, target channel)?
    pub(super) transposed: bool,
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

    /// `taps`: (phase, kernel position, offset in source pixels) in one dimension, sorted by phase.
    fn new(
        s: Shape,
        transposed: bool,
        step: usize,
        phase_step: usize,
        taps: &[(usize, usize, isize)],
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
        let origin = taps.iter().map(|t| t.2).min().unwrap_or(0);
        let last = taps.iter().map(|t| t.2).max().unwrap_or(0);
        let span = (last - origin + 1) as usize;
        // A pitch of 1 KiB or more would map all pixels to a few sets of the first-level cache.
        let narrow = s.kernel == 3
            && s.stride == 1
            && source.channels <= NARROW
            && target.channels <= LANES
            && target.width >= RUN;
        let pitch = if narrow {
            NARROW
        } else if source.channels % 256 == 0 {
            source.channels + LANES
        } else {
            source.channels
        };

        let rows = target.height.div_ceil(phase_step);
        let columns = target.width.div_ceil(phase_step);
        let padded_width = (columns - 1) * step + span;
        let padded_row = padded_width * pitch;
        let padded_image = ((rows - 1) * step + span) * padded_row;
        let (block_images, block_rows) = if padded_image <= 2 * SCRATCH {
            let fit = (SCRATCH / padded_image).max(1);
            let want = PIXELS.div_ceil(rows * columns);
            (want.max(fit.min(4)).min(s.images), rows)
        } else {
            let fit = (SCRATCH / padded_row).saturating_sub(span) / step;
            (1, fit.max(PIXELS.div_ceil(columns)).min(rows))
        };

        let (mut phases, mut positions) = (Vec::new(), Vec::new());
        for row in 0..phase_step {
            for column in 0..phase_step {
                let first_tap = positions.len();
                let mut offsets = Vec::new();
                for &(_, p, u) in taps.iter().filter(|t| t.0 == row) {
                    for &(_, q, v) in taps.iter().filter(|t| t.0 == column) {
                        positions.push((p, q));
                        offsets.push(
                            ((u - origin) as usize * padded_width + (v - origin) as usize) * pitch,
                        );
                    }
                }
                phases.push(Phase {
                    row,
                    column,
                    taps: offsets,
                    first_tap,
                });
            }
        }
        Gather {
            images: s.images,
            source,
            target,
            step,
            phase_step,
            phases,
            positions,
            origin,
            span,
            pitch,
            block_images,
            block_rows,
            transposed,
            narrow,
        }
    }

    /// Pixels of a phase in a row, counting those of a phase that has fewer.
    fn columns(&self) -> usize {
        self.target.width.div_ceil(self.phase_step)
    }

    pub(super) fn padded_width(&self) -> usize {
        (self.columns() - 1) * self.step + self.span
    }

    pub(super) fn padded_height(&self) -> usize {
        (self.block_rows - 1) * self.step + self.span
    }

    fn scratch_len(&self) -> usize {
        (self.block_images * self.padded_height() * self.padded_width() * self.pitch)
            .next_multiple_of(LANES)
    }

    /// Floats of the packed weights of 16 target channels.
    pub(super) fn weight_block(&self) -> usize {
        self.positions.len() * self.source.channels * LANES
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
            self.positions.len() * self.source.channels * self.target.channels
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

    /// Weights in the order in which they are used: (target channel / 16, tap, source channel, 16).
    fn pack_weights(&self, w: &[f32], packed: &mut [f32]) {
        let (taps, from, to) = (
            self.positions.len(),
            self.source.channels,
            self.target.channels,
        );
        // A kernel position's place in a row of `w`; it is as wide as high.
        let side = taps.isqrt();
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
                    for (t, &(p, q)) in self.positions.iter().enumerate() {
                        let at = (t * from + c) * LANES;
                        let v = &mut packed[at..at + LANES];
                        let first = c * by_from + block * LANES * by_to + p * side + q;
                        for (lane, v) in v[..lanes].iter_mut().enumerate() {
                            *v = w[first + lane * by_to];
                        }
                        v[lanes..].fill(0.0);
                    }
                }
            });
    }

    /// Copies a block's source into `(image, padded row, padded column, channel)`.
    fn pack_source(&self, block: &Block, x: &[f32], scratch: &mut [f32]) {
        let (h, w, c) = (self.source.height, self.source.width, self.source.channels);
        let (ph, pw) = (self.padded_height(), self.padded_width());
        let left = (-self.origin).max(0) as usize;
        // A strided forward pass may leave columns at the right unread.
        let used = w.min(pw - left);
        let skip = self.origin.max(0) as usize;
        let top = (block.first_row * self.step) as isize + self.origin;
        for (row, to) in scratch
            .chunks_exact_mut(pw * self.pitch)
            .enumerate()
            .take(block.images * ph)
        {
            let image = block.first_image + row / ph;
            let source_row = top + (row % ph) as isize;
            if source_row < 0 || source_row >= h as isize {
                to.fill(0.0);
                continue;
            }
            let from =
                &x[((image * h + source_row as usize) * w + skip) * c..][..(used - skip) * c];
            let (before, to) = to.split_at_mut(left * self.pitch);
            let (to, after) = to.split_at_mut((used - skip) * self.pitch);
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

pub(super) struct Block {
    pub(super) first_image: usize,
    pub(super) images: usize,
    /// In rows of a phase.
    pub(super) first_row: usize,
}
