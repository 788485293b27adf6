//! ResNet's shortcut without weights where the shape changes: every second pixel of every second row, with
//! zero channels before and after (He et al. 2015, option A).
//!
//! Gradient: dx = dy at those pixels and channels, 0 elsewhere.

use crate::cpu::pool;
use crate::device::Program;
use crate::device::Slot;
use crate::device::gpu::{elementwise, kernels, packs};
use crate::error::Result;
use crate::graph::{Bwd, BwdSlots, Fwd, FwdSlots, Op, Var};
use crate::ops::{Case, Row};

struct Shortcut {
    images: pool::Images,
    pad: usize,
}

impl<'t> Var<'t> {
    /// Of images (N, H, W, C), `pad` channels on either side: (N, ceil(H / 2), ceil(W / 2), C + 2 pad).
    pub fn shortcut(self, pad: usize) -> Var<'t> {
        let images = self.images();
        let (height, width) = (images.height.div_ceil(2), images.width.div_ceil(2));
        let shape = [images.images, height, width, images.channels + 2 * pad];
        self.tape.apply(Shortcut { images, pad }, &[self], &shape)
    }
}

impl Shortcut {
    fn sizes(&self) -> [i32; 4] {
        let pool::Images {
            height,
            width,
            channels,
            ..
        } = self.images;
        [height, width, channels, self.pad].map(|n| n as i32)
    }

    fn packs(&self, len: usize, activations: [Slot; 2]) -> (i32, usize) {
        // Four channels must be all padding or none.
        let channels = if self.pad.is_multiple_of(4) {
            self.images.channels
        } else {
            1
        };
        packs(channels, len, &activations)
    }
}

impl Op for Shortcut {
    fn name(&self) -> &'static str {
        "shortcut"
    }

    fn bwd_reads_inputs(&self) -> bool {
        false
    }

    fn bwd_adds(&self) -> bool {
        true
    }

    fn cpu_fwd(&self, io: Fwd<'_>) {
        self.images.shortcut(self.pad, io.x[0], io.y);
    }

    fn cpu_bwd(&self, io: Bwd<'_>) {
        let [dx, ..] = io.dx;
        self.images.shortcut_backward(self.pad, io.dy, io.add, dx);
    }

    fn cuda_fwd(&self, io: FwdSlots, program: &mut Program) -> Result<()> {
        let (pack, n) = self.packs(io.y.len, [io.x[0], io.y]);
        let [height, width, channels, pad] = self.sizes();
        let (grid, n) = (elementwise(n), n as i64);
        kernels::shortcut_fwd(
            program, grid, io.x[0], io.y, pack, n, height, width, channels, pad,
        );
        Ok(())
    }

    fn cuda_bwd(&self, io: BwdSlots, program: &mut Program) -> Result<()> {
        let (dy, dx) = (io.dy, io.dx[0]);
        let (packed, n) = self.packs(dx.len, [dy, dx]);
        let [height, width, channels, pad] = self.sizes();
        let arguments = kernels::ShortcutBwdX {
            dy: dy.into(),
            dx: dx.into(),
            add: io.add.into(),
            packed,
            n: n as i64,
            height,
            width,
            channels,
            pad,
        };
        kernels::shortcut_bwd_x(program, elementwise(n), arguments);
        Ok(())
    }
}

pub const ROW: Row = Row {
    name: "shortcut",
    cases: &[
        Case::new("two images 4x6, 2 on either side", &[&[2, 4, 6, 4]], |x| {
            x[0].shortcut(2)
        }),
        Case::new("one image 5x3, none", &[&[1, 5, 3, 2]], |x| {
            x[0].shortcut(0)
        }),
        Case::new("two of one input", &[&[1, 3, 4, 2]], |x| {
            x[0].shortcut(1).plus(x[0].shortcut(1))
        }),
    ],
};
