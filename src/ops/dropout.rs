//! Dropout: y = x m / (1 - p), m being 0 with probability p and 1 otherwise, in training; the
//! identity in evaluation (Srivastava et al. 2014).
//!
//! Gradient: dx = dy m / (1 - p). The mask comes from Philox4x32-10, keyed by the run's seed and the
//! op, and counted by step and element: nothing is stored, and no other stream of numbers is touched.

use rayon::prelude::*;

use crate::device::Slot;
use crate::device::cpu::CHUNK;
use crate::device::gpu::{Queue, Step, View, elementwise, kernels};
use crate::error::Result;
use crate::graph::{Bwd, BwdSlots, Clock, Fwd, FwdSlots, Mode, Op, Var};
use crate::ops::{Case, Row};
use crate::random::philox;

struct Dropout {
    rate: f64,
    /// Tells the dropouts of a network apart.
    stream: u32,
}

impl<'t> Var<'t> {
    /// Sets elements to 0 with probability `rate` (in [0, 1)) and scales the others up; the identity
    /// when not training.
    pub fn dropout(self, rate: f64) -> Var<'t> {
        if rate == 0.0 || self.tape.mode() != Mode::Train {
            return self;
        }
        let stream = self.tape.op_count() as u32;
        let op = Dropout { rate, stream };
        self.tape.apply(op, &[self], &self.shape())
    }
}

impl Dropout {
    /// Draws below this become 0.
    fn threshold(&self) -> u32 {
        (self.rate * 2f64.powi(32)) as u32
    }

    fn scale(&self) -> f32 {
        (1.0 / (1.0 - self.rate)) as f32
    }

    /// to = from * mask / (1 - p), drawn anew from the clock.
    fn apply(&self, to: &mut [f32], from: &[f32], clock: Clock) {
        let threshold = self.threshold();
        let stream = u64::from(self.stream) << 32;
        let scale = self.scale();
        to.par_chunks_mut(CHUNK)
            .zip(from.par_chunks(CHUNK))
            .enumerate()
            .for_each(|(chunk, (to, from))| {
                for (i, (to, from)) in to.chunks_mut(4).zip(from.chunks(4)).enumerate() {
                    let block = (chunk * CHUNK / 4 + i) as u64;
                    let draws = philox::block(clock.seed, clock.step, stream | block);
                    for ((to, from), draw) in to.iter_mut().zip(from).zip(draws) {
                        *to = if draw < threshold { 0.0 } else { from * scale };
                    }
                }
            });
    }

    fn queue(&self, from: Slot, to: Slot, now: View<Step>, queue: &mut Queue) {
        let (threshold, scale, n) = (self.threshold(), self.scale(), from.len);
        let grid = elementwise(n.div_ceil(4));
        kernels::dropout(
            queue,
            grid,
            from,
            to,
            now,
            threshold,
            scale,
            self.stream,
            n as i64,
        );
    }
}

impl Op for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn bwd_reads_inputs(&self) -> bool {
        false
    }

    fn cpu_fwd(&self, io: Fwd<'_>) {
        self.apply(io.y, io.x[0], io.clock);
    }

    fn cpu_bwd(&self, io: Bwd<'_>) {
        let [dx, ..] = io.dx;
        self.apply(dx, io.dy, io.clock);
    }

    fn cuda_fwd(&self, io: FwdSlots, queue: &mut Queue) -> Result<()> {
        self.queue(io.x[0], io.y, io.now, queue);
        Ok(())
    }

    fn cuda_bwd(&self, io: BwdSlots, queue: &mut Queue) -> Result<()> {
        self.queue(io.dy, io.dx[0], io.now, queue);
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
