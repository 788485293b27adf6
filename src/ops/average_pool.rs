//! Average pool: the mean over all pixels or tokens, per channel.
//!
//! Gradient: dx = dy / P at each of the P pixels.

use crate::device::cpu::pool::Images;
use crate::graph::{Bwd, Fwd, Op, Var};
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
