//! What is kept of single steps, if somebody wants it: their losses and the norms of their gradients.

use std::num::NonZeroUsize;

use crate::cpu;
use crate::device::gpu::kernels::{self, Step};
use crate::device::program::{floats, one};
use crate::device::{Machine, Program, Slot, View};
use crate::error::Result;
use crate::optim::sum_blocks;

/// Which steps of each epoch are logged, and what of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSteps {
    /// The first one, and every n-th after it.
    pub every: NonZeroUsize,
    /// What they do to each tensor of the parameters, too?
    pub layers: bool,
}

impl From<NonZeroUsize> for LogSteps {
    fn from(every: NonZeroUsize) -> LogSteps {
        LogSteps {
            every,
            layers: false,
        }
    }
}

/// A logged step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Logged {
    /// Within its epoch.
    pub step: usize,
    /// Of its batch, before the update.
    pub loss: f32,
    /// l2 norm of the loss's gradient, the sum of squares being an f32.
    pub grad_norm: f32,
}

/// The table of an epoch's logged steps, on the machine that trains.
#[derive(Clone, Copy)]
pub(super) struct StepLog {
    first: usize,
    every: usize,
    /// Steps `first`, `first` + `every`, ...: loss and square of the gradient's norm.
    pub table: View<f64>,
    partial: View<f64>,
}

impl StepLog {
    /// For epochs of this many steps of a network with this many parameters.
    pub fn new(
        machine: &mut Machine,
        every: NonZeroUsize,
        steps: usize,
        parameters: usize,
    ) -> Result<StepLog> {
        StepLog::from(0, every.get(), machine, steps, parameters)
    }

    /// Of an epoch's last step alone.
    pub fn of_last(machine: &mut Machine, steps: usize, parameters: usize) -> Result<StepLog> {
        StepLog::from(steps - 1, steps, machine, steps, parameters)
    }

    fn from(
        first: usize,
        every: usize,
        machine: &mut Machine,
        steps: usize,
        parameters: usize,
    ) -> Result<StepLog> {
        let rows = (steps - first).div_ceil(every);
        Ok(StepLog {
            first,
            every,
            table: machine.alloc("logged steps", 2 * rows)?,
            partial: machine.alloc("partial sums", sum_blocks(parameters))?,
        })
    }

    /// Adds the calls that log a step whose loss and gradient are there.
    pub fn emit(&self, program: &mut Program, now: View<Step>, loss: Slot, g: Slot) {
        let &StepLog {
            first,
            every,
            table,
            partial,
        } = self;
        if !program.on_host() {
            let (blocks, k, first) = (sum_blocks(g.len), every as i64, first as i64);
            kernels::log_sums(program, blocks, now, first, k, g, partial, g.len as i64);
            let sums = blocks as i32;
            return kernels::log_step(program, 1, now, first, k, loss, partial, sums, table);
        }
        program.host(
            "log_step",
            [now.into(), loss.into(), g.into()],
            [table.into()],
            move |[now, loss, g], [table]| {
                let step = one::<Step>(now).slot as usize;
                if step >= first && (step - first).is_multiple_of(every) {
                    let (loss, g) = (floats(loss)[0], floats(g));
                    let rows: &mut [[f64; 2]] = bytemuck::cast_slice_mut(table);
                    rows[(step - first) / every] = [loss.into(), cpu::dot(g, g)];
                }
            },
        );
    }

    /// What an epoch has left.
    pub fn read(&self, machine: &mut Machine) -> Result<Vec<Logged>> {
        let table = machine.download(self.table)?;
        let rows = table.chunks_exact(2).enumerate();
        let logged = |(i, row): (usize, &[f64])| Logged {
            step: self.first + i * self.every,
            loss: row[0] as f32,
            grad_norm: (row[1] as f32).sqrt(),
        };
        Ok(rows.map(logged).collect())
    }
}
