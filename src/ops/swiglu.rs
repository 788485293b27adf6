//! SwiGLU: of a row [a, b] of two halves, y = silu(a) b (Shazeer 2020, arXiv:2002.05202).
//!
//! Gradient: da = silu'(a) b dy, db = silu(a) dy.

use crate::cpu::math;
use crate::device::Program;
use crate::device::gpu::{elementwise, kernels, packs};
use crate::error::Result;
use crate::graph::{Bwd, BwdSlots, Fwd, FwdSlots, Op, Var};
use crate::ops::{Case, Row};

struct Swiglu {
    half: usize,
}

impl<'t> Var<'t> {
    /// SiLU of the first half of the last dimension, times the second half: (..., 2H) to (..., H).
    pub fn swiglu(self) -> Var<'t> {
        let mut shape = self.shape();
        let last = shape.last_mut().expect("swiglu: a dimension");
        assert!(last.is_multiple_of(2), "swiglu: two halves");
        *last /= 2;
        let op = Swiglu { half: *last };
        self.tape.apply(op, &[self], &shape)
    }
}

impl Op for Swiglu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn recomputed(&self) -> bool {
        true
    }

    fn cpu_fwd(&self, io: Fwd<'_>) {
        math::swiglu(io.x[0], self.half, io.y);
    }

    fn cpu_bwd(&self, io: Bwd<'_>) {
        let [dx, ..] = io.dx;
        math::swiglu_backward(io.x[0], self.half, io.dy, dx);
    }

    fn cuda_fwd(&self, io: FwdSlots, program: &mut Program) -> Result<()> {
        let (x, y, half) = (io.x[0], io.y, self.half as i32);
        let (packed, n) = packs(self.half, y.len, &[x, y]);
        kernels::swiglu_fwd(program, elementwise(n), x, y, packed, n as i64, half);
        Ok(())
    }

    fn cuda_bwd(&self, io: BwdSlots, program: &mut Program) -> Result<()> {
        let (x, dy, dx, half) = (io.x[0], io.dy, io.dx[0], self.half as i32);
        let (packed, n) = packs(self.half, dy.len, &[x, dy, dx]);
        kernels::swiglu_bwd(program, elementwise(n), x, dy, dx, packed, n as i64, half);
        Ok(())
    }
}

pub const ROW: Row = Row {
    name: "swiglu",
    cases: &[
        Case::new("2x3 tokens of twice 5", &[&[2, 3, 10]], |x| x[0].swiglu()),
        Case::new("one pair", &[&[2]], |x| x[0].swiglu()),
        Case::new("7 rows of twice 20", &[&[7, 40]], |x| x[0].swiglu()),
        // The last operand lies where vectors do not.
        Case::new("two rows of twice 4", &[&[1, 2], &[8, 2], &[1, 8]], |x| {
            x[0].linear(x[1], None).swiglu().plus(x[2].swiglu())
        }),
    ],
};
