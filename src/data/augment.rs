//! Augmentation of training images, as the reference's CIFAR and ImageNet32 loaders have it: a horizontal
//! flip with probability 1/2, and a crop of the image's own size out of the image with a border of
//! [`PADDING`] black pixels.

use bytemuck::{Pod, Zeroable};

use crate::random::torch::Generator;

/// Width of the border, in pixels.
pub const PADDING: usize = 4;

/// In which order a data set's images are flipped and cropped, which is also the order of the draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipe {
    FlipThenCrop,
    CropThenFlip,
}

/// Where a crop starts in the padded image, which may have been flipped before: flipped where bit 0 is set, the
/// crop's first row in bits 8 to 15 and its first column in the next 8, both 0 to 2 [`PADDING`]; at [`PADDING`] the
/// crop is the image itself. `gather_images` in `kernels/train.cu` reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct Placement(u32);

impl Placement {
    pub fn new(flip: bool, top: u8, left: u8) -> Placement {
        Placement(u32::from(flip) | u32::from(top) << 8 | u32::from(left) << 16)
    }

    pub fn flip(self) -> bool {
        self.0 & 1 == 1
    }

    pub fn top(self) -> u8 {
        (self.0 >> 8) as u8
    }

    pub fn left(self) -> u8 {
        (self.0 >> 16) as u8
    }
}

impl Recipe {
    /// Three draws. A crop that is flipped afterwards is told as the same pixels cropped out of the flipped
    /// image, so that a placement means one thing.
    pub fn draw(self, generator: &mut Generator) -> Placement {
        const PLACES: u64 = 2 * PADDING as u64 + 1;
        let flips = |generator: &mut Generator| generator.rand1() < 0.5;
        let corner = |generator: &mut Generator| {
            let top = generator.randint(PLACES) as u8;
            (top, generator.randint(PLACES) as u8)
        };
        match self {
            Recipe::FlipThenCrop => {
                let flip = flips(generator);
                let (top, left) = corner(generator);
                Placement::new(flip, top, left)
            }
            Recipe::CropThenFlip => {
                let (top, left) = corner(generator);
                let flip = flips(generator);
                let mirrored = PLACES as u8 - 1 - left;
                Placement::new(flip, top, if flip { mirrored } else { left })
            }
        }
    }
}

/// Writes the image at a placement. `pixels` and `out` are (side, side, C); `tables` holds the number that
/// stands for a byte, per channel.
pub(super) fn place<const C: usize>(
    pixels: &[[u8; C]],
    tables: &[[f32; 256]; C],
    placement: Placement,
    side: usize,
    out: &mut [[f32; C]],
) {
    let black: [f32; C] = std::array::from_fn(|channel| tables[channel][0]);
    let (top, left) = (usize::from(placement.top()), usize::from(placement.left()));
    // Columns of a row of the crop that lie on the image, and the first of the image's columns that they show.
    let inside = PADDING.saturating_sub(left)..side.min(side + PADDING - left);
    let first = left.saturating_sub(PADDING);
    for (y, row) in out.chunks_exact_mut(side).enumerate() {
        let source = (y + top).checked_sub(PADDING).filter(|y| *y < side);
        let Some(source) = source else {
            row.fill(black);
            continue;
        };
        let source = &pixels[source * side..(source + 1) * side];
        row[..inside.start].fill(black);
        row[inside.end..].fill(black);
        let row = &mut row[inside.clone()];
        let columns = first..first + row.len();
        match placement.flip() {
            false => look_up(source[columns].iter(), tables, row),
            true => look_up(source[..side - first].iter().rev(), tables, row),
        }
    }
}

/// The number of every byte. With the number of channels known to the compiler this runs five times as
/// fast as without.
pub(super) fn look_up<'p, const C: usize>(
    pixels: impl Iterator<Item = &'p [u8; C]>,
    tables: &[[f32; 256]; C],
    out: &mut [[f32; C]],
) {
    for (out, pixel) in out.iter_mut().zip(pixels) {
        for channel in 0..C {
            out[channel] = tables[channel][usize::from(pixel[channel])];
        }
    }
}
