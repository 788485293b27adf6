//! Ops that treat every number alone: y = f(x), dx = g(x, dy).

use crate::device::gpu::{Grid, aligned, elementwise};
use crate::device::{Program, Slot};
use crate::error::Result;
use crate::graph::{Activation, Bwd, BwdSlots, Fwd, FwdSlots, Join, Op};

/// Such an op: what it is called, and its bodies. Kernels take the operands, how many vectors of four floats they read and
/// write, and how many numbers there are.
pub(super) struct Elementwise {
    pub name: &'static str,
    pub activation: Activation,
    /// Is it as cheap to compute as to read?
    pub cheap: bool,
    /// Of x and y.
    pub forward: fn(&[f32], &mut [f32]),
    /// Of x, dy and dx.
    pub backward: fn(&[f32], &[f32], &mut [f32]),
    pub forward_kernel: fn(&mut Program, Grid, Slot, Slot, i64, i64),
    pub backward_kernel: fn(&mut Program, Grid, Slot, Slot, Slot, i64, i64),
}

/// How many vectors, if these can be read and written as some; numbers.
fn sizes(slots: &[Slot]) -> (i64, i64) {
    let n = slots[0].len as i64;
    (if aligned(slots) { n / 4 } else { 0 }, n)
}

impl Op for Elementwise {
    fn name(&self) -> &'static str {
        self.name
    }

    fn join(&self) -> Option<Join> {
        Some(Join::Activation(self.activation))
    }

    fn recomputed(&self) -> bool {
        self.cheap
    }

    fn cpu_fwd(&self, io: Fwd<'_>) {
        (self.forward)(io.x[0], io.y);
    }

    fn cpu_bwd(&self, io: Bwd<'_>) {
        let [dx, ..] = io.dx;
        (self.backward)(io.x[0], io.dy, dx);
    }

    fn cuda_fwd(&self, io: FwdSlots, program: &mut Program) -> Result<()> {
        let (x, y) = (io.x[0], io.y);
        let (vectors, n) = sizes(&[x, y]);
        (self.forward_kernel)(program, elementwise(y.len.div_ceil(4)), x, y, vectors, n);
        Ok(())
    }

    fn cuda_bwd(&self, io: BwdSlots, program: &mut Program) -> Result<()> {
        let (x, dy, dx) = (io.x[0], io.dy, io.dx[0]);
        let (vectors, n) = sizes(&[x, dy, dx]);
        (self.backward_kernel)(
            program,
            elementwise(x.len.div_ceil(4)),
            x,
            dy,
            dx,
            vectors,
            n,
        );
        Ok(())
    }
}
