//! How the kernels cut a convolution into tiles: their geometry, the launches' grids and shared memory.
//! `kernels/conv2d.cu` says what a tile is.

use crate::cpu::conv::Shape;
use crate::device::Slot;
use crate::device::gpu::{Grid, MOST_SHARED, PROCESSORS, counters_of, kernels};

/// Blocks that run at the same time.
const BLOCKS: usize = 2 * PROCESSORS;

/// Shared memory of a block, in bytes: what leaves room for a second one on large GPUs, and is all that there is on small
/// ones (compute capability 8.6). Kernels of many taps need more, up to what large GPUs have.
const GOOD_SHARED: usize = 99 << 10;

/// The forms that kernels come in: 3x3 taps in tiles of this many pixels by this many channels, or any taps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// 128 by 16.
    N16,
    /// 128 by 32.
    N32,
    /// 128 by 64.
    N64,
    /// 64 by 32, where there would be few blocks.
    Few,
    /// 64 by 32, any taps.
    Any,
}

impl Form {
    fn pixels(self) -> usize {
        match self {
            Form::N16 | Form::N32 | Form::N64 => 128,
            Form::Few | Form::Any => 64,
        }
    }

    fn channels(self) -> usize {
        match self {
            Form::N16 => 16,
            Form::N32 | Form::Few | Form::Any => 32,
            Form::N64 => 64,
        }
    }

    /// Input channels in shared memory at a time.
    fn chunk(self) -> usize {
        if self == Form::N64 { 8 } else { 16 }
    }
}

/// Rectangles of pixels, of one image or of several small ones. Everything in powers of two.
struct Tiles {
    log_h: usize,
    log_w: usize,
    log_images: usize,
    count: usize,
}

impl Tiles {
    /// Of `pixels` pixels each, for images of this size. A row has eight, of several images if these are narrow.
    fn new(images: usize, [height, width]: [usize; 2], pixels: usize) -> Tiles {
        let log = |n: usize| n.next_power_of_two().trailing_zeros() as usize;
        let log_w = log(width).clamp(1, 5.min(log(pixels)));
        let log_h = log(height).min(log(pixels) - log_w.max(3));
        let log_images = log(pixels) - log_w - log_h;
        let count = height.div_ceil(1 << log_h)
            * width.div_ceil(1 << log_w)
            * images.div_ceil(1 << log_images);
        Tiles {
            log_h,
            log_w,
            log_images,
            count,
        }
    }

    /// Rows and columns of the input that an image's part of a tile sees, where neighbours are `step` apart and each sees
    /// `span` each way.
    fn patch(&self, (step, span): (usize, usize)) -> [usize; 2] {
        [self.log_h, self.log_w].map(|log| ((1 << log) - 1) * step + span)
    }

    /// Pixels of all of a tile's patches.
    fn patch_pixels(&self, reach: (usize, usize)) -> usize {
        let [height, width] = self.patch(reach);
        (height * width) << self.log_images
    }

    /// Fills in what a launch over these tiles needs to know of them.
    fn describe(
        &self,
        [height, width]: [usize; 2],
        reach: (usize, usize),
        to: kernels::Conv,
    ) -> kernels::Conv {
        let [patch_h, patch_w] = self.patch(reach);
        kernels::Conv {
            grid_h: height as i32,
            grid_w: width as i32,
            log_tile_h: self.log_h as i32,
            log_tile_w: self.log_w as i32,
            log_images: self.log_images as i32,
            patch_h: patch_h as i32,
            patch_w: patch_w as i32,
            ..to
        }
    }
}

/// A launch that computes y or dx.
pub struct Gather {
    pub form: Form,
    pub geometry: kernels::Conv,
    pub grid: Grid,
}

impl Gather {
    pub fn forward(shape: Shape) -> Gather {
        let grid = [shape.out_height(), shape.out_width()];
        let geometry = kernels::Conv {
            in_h: shape.height as i32,
            in_w: shape.width as i32,
            in_c: shape.channels_in as i32,
            out_h: grid[0] as i32,
            out_w: grid[1] as i32,
            out_c: shape.channels_out as i32,
            ..conv(shape)
        };
        let reach = (shape.stride, shape.kernel);
        Gather::new(shape, geometry, grid, 1, reach)
    }

    /// The way back to dx: with stride s, s^2 classes of pixels.
    pub fn back(shape: Shape) -> Gather {
        let grid = [shape.height, shape.width].map(|n| n.div_ceil(shape.stride));
        let geometry = kernels::Conv {
            in_h: shape.out_height() as i32,
            in_w: shape.out_width() as i32,
            in_c: shape.channels_out as i32,
            out_h: shape.height as i32,
            out_w: shape.width as i32,
            out_c: shape.channels_in as i32,
            ..conv(shape)
        };
        let reach = (1, shape.kernel.div_ceil(shape.stride));
        let classes = shape.stride * shape.stride;
        Gather::new(shape, geometry, grid, classes, reach)
    }

    fn new(
        shape: Shape,
        geometry: kernels::Conv,
        grid: [usize; 2],
        classes: usize,
        reach: (usize, usize),
    ) -> Gather {
        let channels = geometry.out_c as usize;
        let blocks = |form: Form| {
            let tiles = Tiles::new(shape.images, grid, form.pixels());
            tiles.count * channels.div_ceil(form.channels()) * classes
        };
        let form = match channels {
            _ if shape.kernel != 3 => Form::Any,
            0..=16 => Form::N16,
            17..=32 if blocks(Form::N32) > BLOCKS / 3 => Form::N32,
            33.. if blocks(Form::N64) > BLOCKS / 3 => Form::N64,
            _ => Form::Few,
        };
        let tiles = Tiles::new(shape.images, grid, form.pixels());
        let patch = tiles.patch_pixels(reach);
        let taps = shape.kernel * shape.kernel;
        // Pixels and weights as they lie in memory, the latter (channels, chunk, taps) or (chunk, channels, taps), with
        // pitches that keep the banks apart.
        let (chunk, wide) = (form.chunk(), form.channels());
        let weights = chunk * wide * taps + (4 * wide).max(8 * chunk);
        let stage = 4 * (patch * (chunk + 4) + weights);
        let places = 4 * patch.next_multiple_of(4);
        let several = geometry.in_c as usize > chunk;
        let stages = if several && 2 * stage + places <= GOOD_SHARED {
            2
        } else {
            1
        };
        // Sums per channel, where they are wanted: two doubles per channel from up to 32 threads.
        let shared = (stages as usize * stage + places).max(32 * wide * 16);
        assert!(
            shared <= MOST_SHARED,
            "conv2d: {shape:?} has too large a kernel"
        );
        let y = channels.div_ceil(form.channels());
        Gather {
            form,
            geometry: kernels::Conv {
                stages,
                ..tiles.describe(grid, reach, geometry)
            },
            grid: Grid {
                blocks: [tiles.count, y, classes].map(|n| n as u32),
                shared: shared as u32,
            },
        }
    }

    /// Is there a kernel that makes dw, too, as [`WeightForm::Tall`]?
    pub fn takes_tall(&self) -> bool {
        matches!(self.form, Form::N64 | Form::Few)
    }

    /// Floats of the sums per channel of all blocks.
    pub fn sums_len(&self) -> usize {
        let [tiles, channels, classes] = self.grid.blocks.map(|n| n as usize);
        tiles * classes * channels * 2 * 2 * self.form.channels()
    }

    /// Counters of the blocks that add them up.
    pub fn counters(&self) -> usize {
        let [tiles, channels, classes] = self.grid.blocks.map(|n| n as usize);
        channels * counters_of(tiles * classes)
    }
}

/// The forms of the weight gradient's kernels: channels of dy by channels of x.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightForm {
    /// 16 by 16.
    Small,
    /// 32 by 32.
    Square,
    /// 64 by 32: on tensor cores, in one launch with dx in tiles of at least 32 channels.
    Tall,
    /// 32 by 32, one tap at a time.
    Any,
}

impl WeightForm {
    fn channels(self) -> (usize, usize) {
        match self {
            WeightForm::Small => (16, 16),
            WeightForm::Square | WeightForm::Any => (32, 32),
            WeightForm::Tall => (64, 32),
        }
    }

    /// Of a tile, if they fit.
    fn pixels(self) -> usize {
        match self {
            WeightForm::Tall => 64,
            _ => 128,
        }
    }
}

/// A launch that computes dw and db.
#[derive(Clone)]
pub struct Weights {
    pub form: WeightForm,
    pub geometry: kernels::Conv,
    pub grid: Grid,
    /// Shared memory with one tile of pixels at a time instead of two.
    shared_of_one: u32,
    /// Tiles of pixels.
    pub tiles: usize,
    /// Floats of the parts; none where there is one, which is all.
    pub parts_len: usize,
    /// Counters of the blocks that add them up.
    pub counters: usize,
}

impl Weights {
    /// `tall`: may it be [`WeightForm::Tall`]?
    pub fn new(shape: Shape, tall: bool) -> Weights {
        let (channels_out, channels_in) = (shape.channels_out, shape.channels_in);
        // Large tiles of channels are read less often, but where they are few, there are many parts to add up: that takes
        // as long as some tiles of pixels.
        const PARTS: usize = 16;
        const TILES: usize = 4;
        let pixels = shape.images * shape.out_height() * shape.out_width();
        let pays = |form: WeightForm| {
            let (out, inn) = form.channels();
            let blocks = channels_out.div_ceil(out) * channels_in.div_ceil(inn);
            let parts = BLOCKS / blocks;
            channels_out.min(channels_in) > 16
                && (parts <= PARTS || pixels >= parts * TILES * form.pixels())
        };
        let form = if shape.kernel != 3 {
            WeightForm::Any
        } else if tall && channels_out > 32 && pays(WeightForm::Tall) {
            WeightForm::Tall
        } else if pays(WeightForm::Square) {
            WeightForm::Square
        } else {
            WeightForm::Small
        };
        let (out, inn) = form.channels();
        let most = form.pixels();
        let (span, taps) = match form {
            WeightForm::Any => (1, 1),
            _ => (shape.kernel, shape.kernel * shape.kernel),
        };
        let reach = (shape.stride, span);
        let Gather { geometry, .. } = Gather::forward(shape);
        let grid = [geometry.out_h, geometry.out_w].map(|n| n as usize);
        // Stages of pixels, at the end the result. At a stride fewer pixels have the same patch.
        let sizes = |pixels: usize, stages: usize| {
            let tiles = Tiles::new(shape.images, grid, pixels);
            let patch = tiles.patch_pixels(reach);
            let places = 2 * (patch + pixels).next_multiple_of(4);
            let len = stages * (patch * (inn + 8) + pixels * (out + 8)) + places;
            (tiles, 4 * len.max(out * inn * taps + out))
        };
        let fits = |pixels: &usize| sizes(*pixels, 2).1 <= GOOD_SHARED;
        let pixels = [most, most / 2, most / 4].into_iter().find(fits);
        let pixels = pixels.unwrap_or(16);
        let (tiles, shared) = sizes(pixels, 2);
        assert!(
            shared <= MOST_SHARED,
            "conv2d: {shape:?} has too large a stride"
        );
        let others = shape.kernel * shape.kernel / taps;
        let blocks = [
            channels_out.div_ceil(out),
            channels_in.div_ceil(inn) * others,
        ];
        let parts = (BLOCKS / (blocks[0] * blocks[1])).clamp(1, tiles.count);
        Weights {
            form,
            geometry: kernels::Conv {
                stages: 2,
                ..tiles.describe(grid, reach, geometry)
            },
            grid: Grid {
                blocks: [parts, blocks[0], blocks[1]].map(|n| n as u32),
                shared: shared as u32,
            },
            shared_of_one: sizes(pixels, 1).1 as u32,
            tiles: tiles.count,
            parts_len: match parts {
                1 => 0,
                _ => parts * blocks[0] * blocks[1] * (out * inn * taps + out),
            },
            counters: blocks[0] * blocks[1] * counters_of(parts),
        }
    }

    /// In one launch with something that takes so much shared memory: two tiles at a time only if that takes no more.
    pub fn beside(mut self, shared: u32) -> Weights {
        if self.grid.shared > shared {
            self.geometry.stages = 1;
            self.grid.shared = self.shared_of_one;
        }
        self
    }
}

/// What all launches have in common.
fn conv(shape: Shape) -> kernels::Conv {
    let largest = shape.input_len().max(shape.output_len());
    assert!(
        largest < 1 << 31,
        "conv2d: {shape:?} is too large for the kernels"
    );
    kernels::Conv {
        images: shape.images as i32,
        kernel: shape.kernel as i32,
        stride: shape.stride as i32,
        pad: shape.pad as i32,
        ..kernels::Conv::default()
    }
}

/// Can rows of this many floats be read four at a time?
pub fn aligned(slot: Slot, row: usize) -> i32 {
    (slot.start.is_multiple_of(4) && row.is_multiple_of(4)).into()
}
