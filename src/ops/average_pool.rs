//! Average pool: the mean over all pixels or tokens, per channel.
//!
//! Gradient: dx = dy / P at each of the P pixels.

use crate::cpu::pool::Images;
use crate::device::Program;
use crate::device::gpu::{elementwise, kernels, packs};
use crate::error::Result;
use crate::graph::{Bwd, BwdSlots, Fwd, FwdSlots, Op, Var};
use crate::ops::{Case, Row};

struct AveragePool(Images);

impl<'t> Var<'t> {
    /// Of images (N, H, W, C) or sequences (N, T, C): (N, C).
    pub fn average_pool(self) -> Var<'t> {
        let shape = self.shape();
        let [images, .., channels] = shape[..] else {
            panic!("average_pool: {shape:?} is not (N, ..., C)");
        };
        let op = AveragePool(Images {
            images,
            height: 1,
            width: self.size() / (images * channels),
            channels,
        });
        self.tape.apply(op, &[self], &[images, channels])
    }
}

impl Op for AveragePool {
    fn name(&self) -> &'static str {
        "average_pool"
    }

    fn bwd_reads_inputs(&self) -> bool {
        false
    }

    fn cpu_fwd(&self, io: Fwd<'_>) {
        self.0.average(io.x[0], io.y);
    }

    fn cpu_bwd(&self, io: Bwd<'_>) {
        let [dx, ..] = io.dx;
        self.0.average_backward(io.dy, dx);
    }

    fn cuda_fwd(&self, io: FwdSlots, program: &mut Program) -> Result<()> {
        let Images {
            images,
            channels,
            width: pixels,
            ..
        } = self.0;
        let (pack, packs) = packs(channels, channels, &[io.x[0], io.y]);
        let grid = (images, packs.div_ceil(256));
        let (pixels, channels) = (pixels as i32, channels as i32);
        kernels::average_pool_fwd(program, grid, io.x[0], io.y, pack, pixels, channels);
        Ok(())
    }

    fn cuda_bwd(&self, io: BwdSlots, program: &mut Program) -> Result<()> {
        let (dy, dx) = (io.dy, io.dx[0]);
        let (pack, n) = packs(self.0.channels, dx.len, &[dy, dx]);
        let (pixels, channels) = (self.0.width as i32, self.0.channels as i32);
        let (grid, n) = (elementwise(n), n as i64);
        kernels::average_pool_bwd_x(program, grid, dy, dx, pack, n, pixels, channels);
        Ok(())
    }
}

pub const ROW: Row = Row {
    name: "average_pool",
    cases: &[
        Case::new("two images 3x5", &[&[2, 3, 5, 4]], |x| x[0].average_pool()),
        Case::new("three sequences of 5", &[&[3, 5, 2]], |x| {
            x[0].average_pool()
        }),
        Case::new("one pixel", &[&[1, 1, 1, 3]], |x| x[0].average_pool()),
    ],
};
