//! Dropout: y = x m / (1 - p), m being 0 with probability p and 1 otherwise, in training; the
//! identity in evaluation (Srivastava et al. 2014).
//!
//! Gradient: dx = dy m / (1 - p). The mask comes from Philox4x32-10, keyed by the run's seed and the
//! op, and counted by step and element: nothing is stored, and no other stream of numbers is touched.

use rayon::prelude::*;

use crate::cpu::CHUNK;
use crate::device::Slot;
use crate::device::gpu::kernels::{DropoutMask, Step};
use crate::device::gpu::{elementwise, kernels};
use crate::device::{Program, View};
use crate::error::Result;
use crate::graph::{Bwd, BwdSlots, Fwd, FwdSlots, Join, Mode, Op, Tape, Var};
use crate::ops::{Case, Row};
use crate::random::philox;

/// The masks of one place in a network.
#[derive(Clone, Copy)]
pub(super) struct Mask {
    rate: f64,
    /// Tells the dropouts of a network apart.
    pub stream: u32,
}

impl Mask {
    /// Elements that one call of the generator serves.
    pub const BLOCK: usize = 4;

    /// For the op that is recorded next, dropping with probability `rate` (in [0, 1)); none where nothing
    /// is to be dropped.
    pub fn new(tape: &Tape<'_>, rate: f64) -> Option<Mask> {
        assert!((0.0..1.0).contains(&rate), "dropout: a rate in [0, 1)");
        let stream = tape.op_count() as u32;
        (rate > 0.0 && tape.mode() == Mode::Train).then_some(Mask { rate, stream })
    }

    /// Draws below the first become 0, what is kept is multiplied by the second.
    pub fn threshold_and_scale(&self) -> (u32, f32) {
        let threshold = (self.rate * 2f64.powi(32)) as u32;
        (threshold, (1.0 / (1.0 - self.rate)) as f32)
    }

    /// m / (1 - p) of the elements from `block * BLOCK` on.
    pub fn factors(&self, now: Step, block: usize, to: &mut [f32]) {
        let (threshold, scale) = self.threshold_and_scale();
        let first = u64::from(self.stream) << 32 | block as u64;
        philox::fill(now.seed, now.batch, first, to, |draw| {
            if draw < threshold { 0.0 } else { scale }
        });
    }

    /// to = from m / (1 - p).
    fn apply(&self, to: &mut [f32], from: &[f32], now: Step) {
        to.par_chunks_mut(CHUNK)
            .zip(from.par_chunks(CHUNK))
            .enumerate()
            .for_each(|(chunk, (to, from))| {
                self.factors(now, chunk * (CHUNK / Mask::BLOCK), to);
                to.iter_mut().zip(from).for_each(|(to, from)| *to *= from);
            });
    }

    /// Adds the launches of to = from m / (1 - p).
    fn emit(&self, from: Slot, to: Slot, now: View<Step>, program: &mut Program) {
        let (n, grid) = (from.len as i64, elementwise(from.len.div_ceil(Mask::BLOCK)));
        kernels::dropout(program, grid, from, to, now, self.of_kernels(), n);
    }

    fn of_kernels(&self) -> DropoutMask {
        let (threshold, scale) = self.threshold_and_scale();
        DropoutMask {
            drops: 1,
            threshold,
            scale,
            stream: self.stream,
        }
    }
}

struct Dropout(Mask);

impl<'t> Var<'t> {
    /// Sets elements to 0 with probability `rate` (in [0, 1)) and scales the others up; the identity
    /// when not training.
    pub fn dropout(self, rate: f64) -> Var<'t> {
        match Mask::new(self.tape, rate) {
            Some(mask) => self.tape.apply(Dropout(mask), &[self], &self.shape()),
            None => self,
        }
    }
}

impl Op for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn bwd_reads_inputs(&self) -> bool {
        false
    }

    fn join(&self) -> Option<Join> {
        Some(Join::Dropout(self.0.of_kernels()))
    }

    fn cpu_fwd(&self, io: Fwd<'_>) {
        self.0.apply(io.y, io.x[0], io.now);
    }

    fn cpu_bwd(&self, io: Bwd<'_>) {
        let [dx, ..] = io.dx;
        self.0.apply(dx, io.dy, io.now);
    }

    fn cuda_fwd(&self, io: FwdSlots, program: &mut Program) -> Result<()> {
        self.0.emit(io.x[0], io.y, io.now, program);
        Ok(())
    }

    fn cuda_bwd(&self, io: BwdSlots, program: &mut Program) -> Result<()> {
        self.0.emit(io.dy, io.dx[0], io.now, program);
        Ok(())
    }
}

pub const ROW: Row = Row {
    name: "dropout",
    cases: &[
        Case::new("7x9, half", &[&[7, 9]], |x| x[0].dropout(0.5)),
        Case::new("4x5, a tenth", &[&[4, 5]], |x| x[0].dropout(0.1)),
    ],
};
