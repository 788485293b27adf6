//! Cutting images into square windows, and putting them together again: pixels in another order.
//!
//! Window (u, v) of size s has the pixels (u s + i + shift, v s + j + shift), modulo height and width: with a shift
//! that is torch's `roll` by -shift, then the partition (Swin transformer, Liu et al. 2021). Gradients go the
//! other way.

use rayon::prelude::*;

use crate::device::Program;
use crate::device::Slot;
use crate::device::gpu::kernels;
use crate::error::Result;
use crate::graph::{Bwd, BwdSlots, Fwd, FwdSlots, Op, Var};
use crate::ops::{Case, Row};

/// Rows of a grid; those that there are more of are treated by the same blocks.
const MOST_IMAGES: usize = 512;

/// Order of the numbers of a window.
#[derive(Clone, Copy, PartialEq)]
enum Order {
    /// (row, column, channel).
    Pixels,
    /// (channel, row, column), torch's `Unfold`.
    Channels,
}

#[derive(Clone, Copy)]
struct Windows {
    height: usize,
    width: usize,
    channels: usize,
    size: usize,
    shift: usize,
    order: Order,
    /// From windows to images.
    back: bool,
}

impl<'t> Var<'t> {
    /// Images (N, H, W, C) as sequences of patches (N, H / `size` * W / `size`, `size`² C), the numbers of a patch in
    /// the order (row, column, channel).
    pub fn patches(self, size: usize) -> Var<'t> {
        let (op, [n, windows, channels]) = self.cut(size, 0, Order::Pixels);
        let shape = [n, windows, size * size * channels];
        self.tape.apply(op, &[self], &shape)
    }

    /// Images (N, H, W, C) with `size` x `size` pixels merged into one: (N, H / `size`, W / `size`, C `size`²), its
    /// numbers in the order (channel, row, column).
    pub fn merge_pixels(self, size: usize) -> Var<'t> {
        let (op, [n, _, channels]) = self.cut(size, 0, Order::Channels);
        let shape = [n, op.height / size, op.width / size, channels * size * size];
        self.tape.apply(op, &[self], &shape)
    }

    /// Windows of images (N, H, W, C) as sequences of their pixels: (N H / `size` W / `size`, `size`², C). The first
    /// window starts at pixel (`shift`, `shift`), the last ones wrap around.
    pub fn windows(self, size: usize, shift: usize) -> Var<'t> {
        let (op, [n, windows, channels]) = self.cut(size, shift, Order::Pixels);
        let shape = [n * windows, size * size, channels];
        self.tape.apply(op, &[self], &shape)
    }

    /// The inverse of [`Var::windows`], for images of `height` x `width`.
    pub fn from_windows(self, [height, width]: [usize; 2], shift: usize) -> Var<'t> {
        let [windows, pixels, channels] = self.shape()[..] else {
            panic!("from_windows: {:?} is not (N, P, C)", self.shape());
        };
        let op = Windows {
            height,
            width,
            channels,
            size: pixels.isqrt(),
            shift,
            order: Order::Pixels,
            back: true,
        };
        let images = windows * pixels / (height * width);
        let whole = op.size * op.size == pixels && images * height * width == windows * pixels;
        assert!(whole && op.fits(), "from_windows: sizes do not fit");
        let shape = [images, height, width, channels];
        self.tape.apply(op, &[self], &shape)
    }

    /// The op, and the numbers of images, windows of an image, and channels.
    fn cut(self, size: usize, shift: usize, order: Order) -> (Windows, [usize; 3]) {
        let [n, height, width, channels] = self.shape()[..] else {
            panic!("windows: {:?} is not (N, H, W, C)", self.shape());
        };
        let op = Windows {
            height,
            width,
            channels,
            size,
            shift,
            order,
            back: false,
        };
        assert!(op.fits(), "windows: sizes do not fit");
        (op, [n, height / size * (width / size), channels])
    }
}

impl Windows {
    fn fits(&self) -> bool {
        let whole = |side: usize| side.is_multiple_of(self.size);
        whole(self.height) && whole(self.width) && self.shift < self.size
    }

    /// Calls `f(in_windows, step, in_image)` for every pixel of an image: where its first channel lies in the
    /// windows, the distance to the next channel there, and where its channels start in the image.
    fn each(&self, mut f: impl FnMut(usize, usize, usize)) {
        let (s, c) = (self.size, self.channels);
        let across = self.width / s;
        for window in 0..self.height / s * across {
            for pixel in 0..s * s {
                let row = (window / across * s + pixel / s + self.shift) % self.height;
                let column = (window % across * s + pixel % s + self.shift) % self.width;
                let first = window * s * s * c;
                let (at, step) = match self.order {
                    Order::Pixels => (first + pixel * c, 1),
                    Order::Channels => (first + pixel, s * s),
                };
                f(at, step, (row * self.width + column) * c);
            }
        }
    }

    fn apply(&self, from: &[f32], to: &mut [f32], back: bool) {
        let image = self.height * self.width * self.channels;
        let channels = self.channels;
        to.par_chunks_exact_mut(image)
            .zip(from.par_chunks_exact(image))
            .for_each(|(to, from)| {
                self.each(|at, step, pixel| match (step, back) {
                    (1, false) => to[at..at + channels].copy_from_slice(&from[pixel..][..channels]),
                    (1, true) => {
                        to[pixel..pixel + channels].copy_from_slice(&from[at..][..channels])
                    }
                    (_, false) => (0..channels).for_each(|c| to[at + c * step] = from[pixel + c]),
                    (_, true) => (0..channels).for_each(|c| to[pixel + c] = from[at + c * step]),
                });
            });
    }
}

impl Windows {
    fn emit(&self, from: Slot, to: Slot, back: bool, program: &mut Program) {
        let image = self.height * self.width * self.channels;
        let n = from.len / image;
        let grid = (image.div_ceil(256), n.min(MOST_IMAGES));
        let int = |n: usize| n as i32;
        let arguments = kernels::Windows {
            from: from.into(),
            to: to.into(),
            n: int(n),
            height: int(self.height),
            width: int(self.width),
            channels: int(self.channels),
            size: int(self.size),
            shift: int(self.shift),
            by_channel: i32::from(self.order == Order::Channels),
            back: back.into(),
        };
        kernels::windows(program, grid, arguments);
    }
}

impl Op for Windows {
    fn name(&self) -> &'static str {
        "windows"
    }

    fn bwd_reads_inputs(&self) -> bool {
        false
    }

    fn cpu_fwd(&self, io: Fwd<'_>) {
        self.apply(io.x[0], io.y, self.back);
    }

    fn cpu_bwd(&self, io: Bwd<'_>) {
        let [dx, ..] = io.dx;
        self.apply(io.dy, dx, !self.back);
    }

    fn cuda_fwd(&self, io: FwdSlots, program: &mut Program) -> Result<()> {
        self.emit(io.x[0], io.y, self.back, program);
        Ok(())
    }

    fn cuda_bwd(&self, io: BwdSlots, program: &mut Program) -> Result<()> {
        self.emit(io.dy, io.dx[0], !self.back, program);
        Ok(())
    }
}

pub const ROW: Row = Row {
    name: "windows",
    cases: &[
        Case::new("4x6 in patches of 2", &[&[2, 4, 6, 3]], |x| x[0].patches(2)),
        Case::new("9x3 merged by 3", &[&[1, 9, 3, 2]], |x| {
            x[0].merge_pixels(3)
        }),
        Case::new("4x8 in shifted windows of 4", &[&[2, 4, 8, 1]], |x| {
            x[0].windows(4, 2)
        }),
        Case::new(
            "3x6 in shifted windows of 3, and back",
            &[&[1, 3, 6, 2]],
            |x| x[0].windows(3, 1).from_windows([3, 6], 1),
        ),
        Case::new("5 windows of 2 to a column", &[&[5, 4, 3]], |x| {
            x[0].from_windows([10, 2], 1)
        }),
    ],
};
