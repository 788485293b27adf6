//! Max pool: the largest of 2 x 2 pixels, per channel. The last row or column of an odd image is left out.
//!
//! Gradient: dx = dy at the largest of the four (the first of equals), 0 elsewhere.

use crate::cpu::pool::Images;
use crate::device::Program;
use crate::device::gpu::{elementwise, kernels, packs};
use crate::error::Result;
use crate::graph::{Bwd, BwdSlots, Fwd, FwdSlots, Op, Var};
use crate::ops::{Case, Row};

struct MaxPool(Images);

impl<'t> Var<'t> {
    /// Of images (N, H, W, C): (N, H / 2, W / 2, C).
    pub fn max_pool(self) -> Var<'t> {
        let images = self.images();
        let (height, width) = (images.height / 2, images.width / 2);
        let shape = [images.images, height, width, images.channels];
        self.tape.apply(MaxPool(images), &[self], &shape)
    }

    /// The shape as that of images, channels last.
    pub(super) fn images(self) -> Images {
        let [images, height, width, channels] = self.shape()[..] else {
            panic!("{:?} is not (N, H, W, C)", self.shape());
        };
        Images {
            images,
            height,
            width,
            channels,
        }
    }
}

impl MaxPool {
    fn sizes(&self) -> [i32; 3] {
        [self.0.height, self.0.width, self.0.channels].map(|n| n as i32)
    }
}

impl Op for MaxPool {
    fn name(&self) -> &'static str {
        "max_pool"
    }

    fn cpu_fwd(&self, io: Fwd<'_>) {
        self.0.max_pool(io.x[0], io.y);
    }

    fn cpu_bwd(&self, io: Bwd<'_>) {
        let [dx, ..] = io.dx;
        self.0.max_pool_backward(io.x[0], io.dy, dx);
    }

    fn cuda_fwd(&self, io: FwdSlots, program: &mut Program) -> Result<()> {
        let (pack, n) = packs(self.0.channels, io.y.len, &[io.x[0], io.y]);
        let [height, width, channels] = self.sizes();
        let (grid, n) = (elementwise(n), n as i64);
        kernels::max_pool_fwd(
            program, grid, io.x[0], io.y, pack, n, height, width, channels,
        );
        Ok(())
    }

    fn cuda_bwd(&self, io: BwdSlots, program: &mut Program) -> Result<()> {
        let (x, dy, dx) = (io.x[0], io.dy, io.dx[0]);
        let windows = self.0.height.div_ceil(2) * self.0.width.div_ceil(2);
        let len = self.0.images * windows * self.0.channels;
        let (pack, n) = packs(self.0.channels, len, &[x, dy, dx]);
        let [height, width, channels] = self.sizes();
        let (grid, n) = (elementwise(n), n as i64);
        kernels::max_pool_bwd_x(program, grid, x, dy, dx, pack, n, height, width, channels);
        Ok(())
    }
}

pub const ROW: Row = Row {
    name: "max_pool",
    cases: &[
        Case::new("two images 4x6", &[&[2, 4, 6, 3]], |x| x[0].max_pool()).apart(),
        Case::new("one image 5x3, 17 channels", &[&[1, 5, 3, 17]], |x| {
            x[0].max_pool()
        })
        .apart(),
    ],
};
