//! `dw` from `x` and `dy`: for every kernel position a matrix product over all pixels.
//!
//! One broadcast value of `x` meets the `dy` of several kernel columns and output channels at once, so a
//! tile in registers is 8 input channels times 3 vectors, a vector being (kernel column, 16 output channels).
//! Kernel columns that are alike modulo the stride read the same pixels of `x`. With AVX2, whose registers hold 4
//! channels times one vector, each column goes by itself and leaves out the pixels that it does not meet.
//!
//! A task is some images, at most 64 input and 64 output channels, and has its own sums. It goes through its
//! images in segments of about 128 pixels, copied into scratch memory 16 channels at a time. In the end the
//! sums of all groups of images are added in order and written in PyTorch's layout.

use super::Shape;
use crate::cpu::par;
use crate::cpu::simd::{LANES, Simd, Vector, multiversion, wide};
use rayon::prelude::*;
use std::ops::Range;

/// Channels of a task, in and out.
const TILE: usize = 64;
/// Pixels of a segment: 16 channels of each kind take half of a first-level cache, those of a task the second level.
const SEGMENT: usize = 128;
/// Floats of partial sums that cost little to add up, and tasks that suffice to keep the threads busy.
const PARTIAL: usize = 1 << 18;
const TASKS: usize = 16;

/// Kernel columns that read the same pixels of `x`.
struct Columns {
    /// Their first pixel of `x`, and how many.
    first: usize,
    count: usize,
    /// (kernel column, column of the padded `dy` that meets the first pixel).
    taps: Vec<(usize, usize)>,
}

pub(super) struct WeightGradient {
    s: Shape,
    /// Images of a task; images and rows of `dy` of a segment.
    task_images: usize,
    segment_images: usize,
    segment_rows: usize,
    columns: Vec<Columns>,
    /// Zero columns of `dy` at the left, and its width with zeros at both sides.
    left: usize,
    padded_width: usize,
}

impl WeightGradient {
    pub(super) fn new(s: Shape) -> WeightGradient {
        let (rows, width) = (s.out_height(), s.out_width());
        let segment_rows = SEGMENT.div_ceil(width).min(rows);
        let segment_images = if segment_rows < rows {
            1
        } else {
            (SEGMENT / (rows * width)).clamp(1, s.images)
        };
        // Kernel columns `phase + shift * stride`, by their shifts, and the columns `u * stride + phase - pad` of `x`, by u,
        // that at least one of them brings to a column of `dy`.
        let mut groups: Vec<(usize, Range<usize>, Range<usize>)> = Vec::new();
        for phase in 0..s.stride.min(s.kernel) {
            let low = s.pad.saturating_sub(phase).div_ceil(s.stride);
            let high = (s.width + s.pad).saturating_sub(phase).div_ceil(s.stride);
            let count = (s.kernel - phase).div_ceil(s.stride);
            let together = if wide() { count } else { 1 };
            for first in (0..count).step_by(together) {
                let shifts = first..first + together;
                let met = low.max(first)..high.min(width + shifts.end - 1);
                if !met.is_empty() {
                    groups.push((phase, shifts, met));
                }
            }
        }
        let left = groups
            .iter()
            .map(|(_, shifts, met)| (shifts.end - 1).saturating_sub(met.start));
        let left = left.max().unwrap_or(0);
        let right = groups.iter().map(|(_, shifts, met)| met.end - shifts.start);
        let right = right.max().unwrap_or(0).max(width);
        let columns = groups.into_iter().map(|(phase, shifts, met)| Columns {
            first: met.start * s.stride + phase - s.pad,
            count: met.len(),
            taps: shifts
                .map(|shift| (phase + shift * s.stride, left + met.start - shift))
                .collect(),
        });
        let columns = columns.collect();
        let tiles = s.channels_in.div_ceil(TILE) * s.channels_out.div_ceil(TILE);
        let groups = (PARTIAL / s.weight_len())
            .max(TASKS / tiles)
            .clamp(1, s.images.div_ceil(segment_images));
        let task_images = s.images.div_ceil(groups).next_multiple_of(segment_images);
        WeightGradient {
            s,
            task_images,
            segment_images,
            segment_rows,
            columns,
            left,
            padded_width: left + right,
        }
    }

    /// Channels of the largest task, in whole vectors.
    fn tile(&self) -> (usize, usize) {
        let round = |channels: usize| channels.min(TILE).next_multiple_of(LANES);
        (round(self.s.channels_in), round(self.s.channels_out))
    }

    /// Tiles of input and of output channels.
    fn tiles(&self) -> (usize, usize) {
        (
            self.s.channels_in.div_ceil(TILE),
            self.s.channels_out.div_ceil(TILE),
        )
    }

    fn groups(&self) -> usize {
        self.s.images.div_ceil(self.task_images)
    }

    /// Sums of one task: (kernel row, kernel column, input channel, output channel).
    fn partial_len(&self) -> usize {
        let (ci, co) = self.tile();
        self.s.kernel * self.s.kernel * ci * co
    }

    fn partials_len(&self) -> usize {
        let (in_tiles, out_tiles) = self.tiles();
        self.groups() * in_tiles * out_tiles * self.partial_len()
    }

    /// Rows of `x` that a segment reads.
    fn x_rows(&self) -> usize {
        ((self.segment_rows - 1) * self.s.stride + self.s.kernel).min(self.s.height)
    }

    /// Floats of a segment's `x` and `dy`, per 16 channels.
    fn block_lens(&self) -> (usize, usize) {
        (
            self.segment_images * self.x_rows() * self.s.width * LANES,
            self.segment_images * self.segment_rows * self.padded_width * LANES,
        )
    }

    fn scratch_len(&self) -> usize {
        let ((ci, co), (x, dy)) = (self.tile(), self.block_lens());
        ci / LANES * x + co / LANES * dy
    }

    pub(super) fn workspace(&self, threads: usize) -> usize {
        par::ALIGN + self.partials_len() + threads * self.scratch_len()
    }

    pub(super) fn run(&self, x: &[f32], dy: &[f32], dw: &mut [f32], ws: &mut [f32]) {
        assert_eq!(x.len(), self.s.input_len());
        assert_eq!(dy.len(), self.s.output_len());
        assert_eq!(dw.len(), self.s.weight_len());
        let (partials, scratch) = par::aligned(ws).split_at_mut(self.partials_len());
        let (in_tiles, out_tiles) = self.tiles();
        let tasks = partials.chunks_exact_mut(self.partial_len()).enumerate();
        par::for_each(tasks, scratch, self.scratch_len(), |(i, sums), scratch| {
            let (group, tile) = (i / (in_tiles * out_tiles), i % (in_tiles * out_tiles));
            sums.fill(0.0);
            self.sum_task(
                x,
                dy,
                group * self.task_images,
                tile / out_tiles * TILE,
                tile % out_tiles * TILE,
                sums,
                scratch,
            );
        });
        self.combine(partials, dw);
    }

    #[allow(clippy::too_many_arguments)]
    fn sum_task(
        &self,
        x: &[f32],
        dy: &[f32],
        first_image: usize,
        first_in: usize,
        first_out: usize,
        sums: &mut [f32],
        scratch: &mut [f32],
    ) {
        let s = &self.s;
        let (out_rows, out_width) = (s.out_height(), s.out_width());
        let (x_block, dy_block) = self.block_lens();
        let ci = TILE.min(s.channels_in - first_in);
        let co = TILE.min(s.channels_out - first_out);
        let (x_scratch, dy_scratch) = scratch.split_at_mut(self.tile().0 / LANES * x_block);
        let last_image = s.images.min(first_image + self.task_images);
        for image in (first_image..last_image).step_by(self.segment_images) {
            let images = self.segment_images.min(last_image - image);
            for row in (0..out_rows).step_by(self.segment_rows) {
                let rows = row..out_rows.min(row + self.segment_rows);
                let x_first = (row * s.stride).saturating_sub(s.pad);
                let x_end = ((rows.end - 1) * s.stride + s.kernel).saturating_sub(s.pad);
                let x_rows = x_first.min(s.height)..x_end.min(s.height);
                let segment = Segment {
                    images,
                    x_rows,
                    dy_rows: rows,
                    vectors_in: ci.div_ceil(LANES),
                    vectors_out: co.div_ceil(LANES),
                    channels_in: ci,
                };
                for i in 0..images {
                    for (r, u) in segment.x_rows.clone().enumerate() {
                        let from = ((image + i) * s.height + u) * s.width * s.channels_in;
                        let from = &x[from..from + s.width * s.channels_in];
                        let at = (i * self.x_rows() + r) * s.width * LANES;
                        copy_row(
                            from,
                            s.channels_in,
                            first_in,
                            ci,
                            &mut x_scratch[at..],
                            x_block,
                        );
                    }
                    for (r, u) in segment.dy_rows.clone().enumerate() {
                        let from = ((image + i) * out_rows + u) * out_width * s.channels_out;
                        let from = &dy[from..from + out_width * s.channels_out];
                        let at = (i * self.segment_rows + r) * self.padded_width * LANES;
                        let end = self.padded_width * LANES;
                        for block in dy_scratch.chunks_exact_mut(dy_block) {
                            block[at..at + self.left * LANES].fill(0.0);
                            block[at + (self.left + out_width) * LANES..at + end].fill(0.0);
                        }
                        let at = at + self.left * LANES;
                        copy_row(
                            from,
                            s.channels_out,
                            first_out,
                            co,
                            &mut dy_scratch[at..],
                            dy_block,
                        );
                    }
                }
                sum_segment(self, &segment, x_scratch, dy_scratch, sums);
            }
        }
    }

    /// Adds up the groups and writes (output channel, input channel, kernel row, kernel column).
    fn combine(&self, partials: &[f32], dw: &mut [f32]) {
        let s = &self.s;
        let (tile_in, tile_out) = self.tile();
        let (in_tiles, out_tiles) = self.tiles();
        let taps = s.kernel * s.kernel;
        let group_len = in_tiles * out_tiles * self.partial_len();
        dw.par_chunks_mut(LANES * s.channels_in * taps)
            .enumerate()
            .for_each(|(block, dw)| {
                let co = block * LANES;
                for c in 0..s.channels_in {
                    for tap in 0..taps {
                        let tile = (c / TILE) * out_tiles + co / TILE;
                        let at = tile * self.partial_len()
                            + (tap * tile_in + c % TILE) * tile_out
                            + co % TILE;
                        let mut sum = [0.0; LANES];
                        for group in partials.chunks_exact(group_len) {
                            for (sum, x) in sum.iter_mut().zip(&group[at..at + LANES]) {
                                *sum += x;
                            }
                        }
                        let rows = dw.chunks_exact_mut(s.channels_in * taps);
                        for (row, sum) in rows.zip(sum) {
                            row[c * taps + tap] = sum;
                        }
                    }
                }
            });
    }
}

/// Copies `count` channels from `first` of all pixels of a row, 16 by 16; `block` floats lie between the
/// copies of one pixel's sixteens.
fn copy_row(
    row: &[f32],
    channels: usize,
    first: usize,
    count: usize,
    to: &mut [f32],
    block: usize,
) {
    let pixels = row.len() / channels;
    if channels == LANES {
        to[..row.len()].copy_from_slice(row);
        return;
    }
    for (b, c) in (first..first + count).step_by(LANES).enumerate() {
        let (to, _) = to[b * block..][..pixels * LANES].as_chunks_mut::<LANES>();
        if c + LANES <= first + count {
            for (pixel, to) in row.chunks_exact(channels).zip(to) {
                to.copy_from_slice(&pixel[c..c + LANES]);
            }
        } else {
            for (pixel, to) in row.chunks_exact(channels).zip(to) {
                let from = &pixel[c..first + count];
                to[..from.len()].copy_from_slice(from);
                to[from.len()..].fill(0.0);
            }
        }
    }
}

/// Some images, some rows of `dy`, and the rows of `x` that they meet.
struct Segment {
    images: usize,
    x_rows: Range<usize>,
    dy_rows: Range<usize>,
    vectors_in: usize,
    vectors_out: usize,
    channels_in: usize,
}

multiversion!(fn sum_segment = sum_segment_body(
    g: &WeightGradient, segment: &Segment, x: &[f32], dy: &[f32], sums: &mut [f32]));

#[inline(always)]
fn sum_segment_body<S: Simd>(
    s: S,
    g: &WeightGradient,
    segment: &Segment,
    x: &[f32],
    dy: &[f32],
    sums: &mut [f32],
) {
    let shape = &g.s;
    let (x_block, dy_block) = g.block_lens();
    let (tile_in, tile_out) = g.tile();
    let most = if S::WIDE { 3 } else { 1 };
    for p in 0..shape.kernel {
        // Rows of dy that meet a row of x at this kernel row.
        let low = shape.pad.saturating_sub(p).div_ceil(shape.stride);
        let high = (shape.height + shape.pad)
            .saturating_sub(p)
            .div_ceil(shape.stride);
        let low = low.max(segment.dy_rows.start);
        let high = high.min(segment.dy_rows.end);
        if low >= high {
            continue;
        }
        let x_row = low * shape.stride + p - shape.pad - segment.x_rows.start;
        for columns in &g.columns {
            let vectors = columns.taps.len() * segment.vectors_out;
            let place = |v: usize| {
                let (tap, block) = (v % columns.taps.len(), v / columns.taps.len());
                let (q, column) = columns.taps[tap];
                Offsets {
                    dy: block * dy_block
                        + ((low - segment.dy_rows.start) * g.padded_width + column) * LANES,
                    sum: (p * shape.kernel + q) * tile_in * tile_out + block * LANES,
                }
            };
            let job = Job {
                images: segment.images,
                rows: high - low,
                columns: columns.count,
                x_image: g.x_rows() * shape.width * LANES,
                x_row: shape.stride * shape.width * LANES,
                x_column: shape.stride * LANES,
                dy_image: g.segment_rows * g.padded_width * LANES,
                dy_row: g.padded_width * LANES,
                sum_row: tile_out,
            };
            let mut v = 0;
            while v < vectors {
                let left = vectors - v;
                // Four are better done as two and two.
                let now = if left == 4 {
                    most.min(2)
                } else {
                    most.min(left)
                };
                // With up to four channels the other half of a tile would be wasted.
                let few = segment.channels_in <= 4;
                for c in (0..segment.channels_in).step_by(8) {
                    let block = c / LANES;
                    let x_at =
                        block * x_block + (x_row * shape.width + columns.first) * LANES + c % LANES;
                    debug_assert!(block < segment.vectors_in);
                    let sums = &mut sums[c * tile_out..];
                    let places = |q: usize| place(v + q);
                    match now {
                        3 if few => {
                            job.run::<S, 4, 3>(s, x, x_at, dy, std::array::from_fn(places), sums)
                        }
                        3 => job.run::<S, 8, 3>(s, x, x_at, dy, std::array::from_fn(places), sums),
                        2 => job.run::<S, 8, 2>(s, x, x_at, dy, std::array::from_fn(places), sums),
                        _ if S::WIDE => {
                            job.run::<S, 8, 1>(s, x, x_at, dy, std::array::from_fn(places), sums)
                        }
                        _ => {
                            for half in [0, 4] {
                                let sums = &mut sums[half * tile_out..];
                                let at = x_at + half;
                                job.run::<S, 4, 1>(s, x, at, dy, std::array::from_fn(places), sums)
                            }
                        }
                    }
                }
                v += now;
            }
        }
    }
}

/// Where a vector's `dy` starts, and where its sums lie.
struct Offsets {
    dy: usize,
    sum: usize,
}

/// Loop bounds and strides, in floats.
struct Job {
    images: usize,
    rows: usize,
    columns: usize,
    x_image: usize,
    x_row: usize,
    x_column: usize,
    dy_image: usize,
    dy_row: usize,
    sum_row: usize,
}

impl Job {
    /// Adds to `P` rows of sums, `Q` vectors of each, the products over all pixels of `P` channels of `x` and
    /// `Q` vectors of `dy`.
    #[inline(always)]
    fn run<S: Simd, const P: usize, const Q: usize>(
        &self,
        s: S,
        x: &[f32],
        x_at: usize,
        dy: &[f32],
        places: [Offsets; Q],
        sums: &mut [f32],
    ) {
        let x_end = (self.images - 1) * self.x_image
            + (self.rows - 1) * self.x_row
            + (self.columns - 1) * self.x_column
            + P;
        let dy_end = (self.images - 1) * self.dy_image
            + (self.rows - 1) * self.dy_row
            + self.columns * LANES;
        assert!(x_at + x_end <= x.len());
        assert!(places.iter().all(|place| place.dy + dy_end <= dy.len()));
        let mut tile = [[s.zero(); Q]; P];
        for image in 0..self.images {
            for row in 0..self.rows {
                // SAFETY: the assertions above.
                unsafe {
                    let mut x = x
                        .as_ptr()
                        .add(x_at + image * self.x_image + row * self.x_row);
                    let first = image * self.dy_image + row * self.dy_row;
                    let mut dy: [*const f32; Q] =
                        std::array::from_fn(|q| dy.as_ptr().add(places[q].dy + first));
                    for _ in 0..self.columns {
                        let vectors: [S::V; Q] = std::array::from_fn(|q| s.load_ptr(dy[q]));
                        for (i, sums) in tile.iter_mut().enumerate() {
                            let x = s.splat(*x.add(i));
                            for (sum, vector) in sums.iter_mut().zip(vectors) {
                                *sum = x.mul_add(vector, *sum);
                            }
                        }
                        x = x.wrapping_add(self.x_column);
                        dy = dy.map(|dy| dy.wrapping_add(LANES));
                    }
                }
            }
        }
        for (i, row) in tile.into_iter().enumerate() {
            for (place, sum) in places.iter().zip(row) {
                let at = place.sum + i * self.sum_row;
                let to: &mut [f32; LANES] = (&mut sums[at..at + LANES]).try_into().unwrap();
                (s.load(to) + sum).store(to);
            }
        }
    }
}
