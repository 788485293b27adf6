//! Sum of two tensors of one shape: y = a + b.
//!
//! Gradient: da = db = dy.

use crate::cpu::pool;
use crate::device::Program;
use crate::device::gpu::{elementwise, kernels};
use crate::error::Result;
use crate::graph::{Bwd, BwdSlots, Fwd, FwdSlots, Join, Op, Tail, Var};
use crate::ops::{Case, Row};

struct Add;

impl<'t> Var<'t> {
    /// The sum of two tensors of the same shape.
    pub fn plus(self, other: Var<'t>) -> Var<'t> {
        assert_eq!(self.shape(), other.shape(), "plus: shapes differ");
        self.tape.apply(Add, &[self, other], &self.shape())
    }
}

impl Op for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn bwd_reads_inputs(&self) -> bool {
        false
    }

    fn bwd_passes(&self, _: usize) -> bool {
        true
    }

    fn tail(&self) -> Option<Tail> {
        Some(Tail::Add)
    }

    fn join(&self) -> Option<Join> {
        Some(Join::Add)
    }

    fn cpu_fwd(&self, io: Fwd<'_>) {
        pool::add(io.x[0], io.x[1], io.y);
    }

    fn cpu_bwd(&self, io: Bwd<'_>) {
        for dx in io.dx.into_iter().filter(|dx| !dx.is_empty()) {
            dx.copy_from_slice(io.dy);
        }
    }

    fn cuda_fwd(&self, io: FwdSlots, program: &mut Program) -> Result<()> {
        let n = io.y.len;
        kernels::add_fwd(program, elementwise(n), io.x[0], io.x[1], io.y, n as i64);
        Ok(())
    }

    fn cuda_bwd(&self, io: BwdSlots, program: &mut Program) -> Result<()> {
        let n = io.dy.len;
        for dx in io.dx.into_iter().filter(|dx| dx.len > 0) {
            kernels::add_bwd(program, elementwise(n), io.dy, dx, n as i64);
        }
        Ok(())
    }
}

pub const ROW: Row = Row {
    name: "add",
    cases: &[
        Case::new("3x4 and 3x4", &[&[3, 4], &[3, 4]], |x| x[0].plus(x[1])),
        // Two contributions to one gradient.
        Case::new("a tensor and itself", &[&[2, 3]], |x| x[0].plus(x[0])),
        // What takes the sum's gradient over gets other contributions before and after, or feeds the other term.
        Case::new("a residual stream", &[&[2, 3], &[2, 3]], |x| {
            let first = x[0].gelu().plus(x[1].gelu());
            let second = first.plus(first.gelu().gelu());
            second.plus(second.gelu())
        }),
        Case::new("the first term used before", &[&[2, 3], &[2, 3]], |x| {
            let (a, b) = (x[0].gelu(), x[1].gelu());
            let other = a.gelu();
            a.plus(b).gelu().plus(other.gelu())
        }),
        Case::new("the second term used before", &[&[2, 3], &[2, 3]], |x| {
            let (a, b) = (x[0].gelu(), x[1].gelu());
            let other = b.gelu();
            a.plus(b).gelu().plus(other.gelu())
        }),
    ],
};
