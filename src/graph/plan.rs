//! The plan: a tape frozen into tasks over fixed slots.

use std::sync::Arc;

use super::freeze::freeze;
use super::op::{
    Bwd, BwdSlots, Finish, Fwd, FwdSlots, Join, Joined, MAX_INPUTS, NormGradient, Op, Statistics,
};
use super::params::Params;
use super::tape::{Mode, Tape, Var};
use crate::cpu::pool;
use crate::device::gpu::kernels::Step;
use crate::device::gpu::{elementwise, kernels};
use crate::device::program::{floats, floats_mut, one};
use crate::device::{Device, Program, Slot, View};
use crate::error::Result;

/// What one task does.
#[derive(Clone, Copy)]
pub(super) enum Action {
    Forward,
    Backward,
    /// `dx[0] += dy`: a further contribution to a gradient.
    Accumulate,
}

/// A task over operands of some kind: slots, once they have their places.
pub(super) struct Task<T = Slot> {
    pub action: Action,
    /// Index into the plan's ops.
    pub op: usize,
    pub x: [T; MAX_INPUTS],
    pub y: T,
    pub saved: T,
    pub dy: T,
    pub dx: [T; MAX_INPUTS],
    pub add: bool,
    pub work: T,
    pub state: T,
    pub statistics: Option<Statistics<T>>,
    pub has_statistics: bool,
    pub finish_x: Option<Finish<T>>,
    pub finish_dy: Option<Finish<T>>,
    pub norm: Option<NormGradient<T>>,
    pub dz: T,
    /// Kernels do the next task in the launch of this one.
    pub joins_next: bool,
}

/// What a plan is to compute: forward to the outputs and, if `backward` names a tensor, back from it to
/// all parameters. Ops that neither depends on are left out.
pub struct Targets<'t> {
    pub outputs: Vec<Var<'t>>,
    pub backward: Option<Var<'t>>,
}

/// What a further task is to the kernels of the first one in a launch, if it can be anything.
pub(super) fn join<T: Copy + Default + PartialEq>(
    first: &Task<T>,
    further: &Task<T>,
    ops: &[Arc<dyn Op>],
) -> Option<Join> {
    match (first.action, further.action) {
        (Action::Forward, Action::Backward) => Some(Join::Backward {
            of_input: further.dx[0] != T::default(),
        }),
        _ => ops[further.op].join(),
    }
}

/// Tasks over fixed slots. Inputs and outputs are in the order of recording.
pub struct Plan {
    pub(super) ops: Vec<Arc<dyn Op>>,
    pub(super) tasks: Vec<Task>,
    pub inputs: Vec<Slot>,
    pub outputs: Vec<Slot>,
    /// The gradient with respect to the tensor that backward starts from; written by the caller
    /// before each run.
    pub seed: Slot,
    pub(super) end: usize,
}

impl Plan {
    /// Records a forward pass and freezes it.
    pub fn record(
        params: &Params,
        mode: Mode,
        device: Device,
        forward: impl for<'t> FnOnce(&'t Tape<'t>) -> Targets<'t>,
    ) -> Plan {
        let tape = Tape::new(params, mode);
        let targets = forward(&tape);
        let outputs: Vec<usize> = targets.outputs.iter().map(|v| v.id).collect();
        let backward = targets.backward.map(|v| v.id);
        freeze(tape, device, &outputs, backward)
    }

    /// The first float behind this plan's slots.
    pub fn end(&self) -> usize {
        self.end
    }

    /// Floating-point operations of one run.
    pub fn flops(&self) -> usize {
        self.flops_of_halves().iter().sum()
    }

    /// Those of forward, and of what follows it.
    pub fn flops_of_halves(&self) -> [usize; 2] {
        let mut halves = [0; 2];
        for task in &self.tasks {
            let flops = self.ops[task.op].flops();
            match task.action {
                Action::Forward => halves[0] += flops,
                // A product for each operand; the first may be data, which need no gradient. What a launch goes on with need
                // not be stored.
                Action::Backward => {
                    let first = task.dx[0].len > 0 || task.joins_next;
                    halves[1] += (1 + usize::from(first)) * flops;
                }
                Action::Accumulate => {}
            }
        }
        halves
    }

    /// Adds the calls of all tasks to a program. The arena is the machine's first buffer.
    ///
    /// # Errors
    /// If an op has no kernel.
    pub fn emit(&self, now: View<Step>, program: &mut Program) -> Result<()> {
        self.emit_tasks(&self.tasks, true, now, program)
    }

    /// As [`Plan::emit`], for a second gradient: running averages stay as they are.
    pub fn emit_again(&self, now: View<Step>, program: &mut Program) -> Result<()> {
        self.emit_tasks(&self.tasks, false, now, program)
    }

    /// As [`Plan::emit`], but forward and what follows it in programs of their own. What kernels do of backward in forward's
    /// last launch is in the first one.
    pub fn emit_halves(
        &self,
        now: View<Step>,
        [forward, backward]: [&mut Program; 2],
    ) -> Result<()> {
        // Forward has a task for each op.
        let mut end = self.ops.len();
        while end > 0 && self.tasks[end - 1].joins_next {
            end += 1;
        }
        let (first, second) = self.tasks.split_at(end);
        self.emit_tasks(first, true, now, forward)?;
        self.emit_tasks(second, true, now, backward)
    }

    /// `moves` says that running averages move on.
    fn emit_tasks(
        &self,
        tasks: &[Task],
        moves: bool,
        now: View<Step>,
        program: &mut Program,
    ) -> Result<()> {
        for tasks in tasks.chunk_by(|task, _| task.joins_next) {
            self.emit_launch(tasks, moves, now, program)?;
        }
        Ok(())
    }

    /// Adds the calls of a task, and of those that kernels do in its launch.
    fn emit_launch(
        &self,
        tasks: &[Task],
        moves: bool,
        now: View<Step>,
        program: &mut Program,
    ) -> Result<()> {
        let (task, joined) = tasks.split_first().expect("a task");
        let op = &self.ops[task.op];
        let averages = |slot| if moves { slot } else { Slot::default() };
        let state = averages(task.state);
        let joined = joined.iter().filter_map(|further| {
            let backward = matches!(further.action, Action::Backward);
            Some(Joined {
                join: join(task, further, &self.ops)?,
                x: further.x,
                to: if backward { further.dx[0] } else { further.y },
                saved: further.saved,
                dy: further.dy,
                dx: further.dx,
                work: further.work,
            })
        });
        let joined = joined.collect();
        match (task.action, program.on_host()) {
            (Action::Forward, true) => host_fwd(op.clone(), task, state, now, program),
            (Action::Backward, true) => host_bwd(op.clone(), task, now, program),
            (Action::Accumulate, true) => {
                let (term, sum) = (task.dy.into(), task.dx[0].into());
                program.host("accumulate", [term], [sum], |[term], [sum]| {
                    pool::add_to(floats(term), floats_mut(sum));
                });
            }
            (Action::Forward, false) => op.cuda_fwd(
                FwdSlots {
                    x: task.x,
                    y: task.y,
                    saved: task.saved,
                    work: task.work,
                    state,
                    statistics: task.statistics.map(|statistics| Statistics {
                        averages: averages(statistics.averages),
                        ..statistics
                    }),
                    has_statistics: task.has_statistics,
                    finish_x: task.finish_x,
                    joined,
                    now,
                },
                program,
            )?,
            (Action::Backward, false) => op.cuda_bwd(
                BwdSlots {
                    x: task.x,
                    y: task.y,
                    saved: task.saved,
                    dy: task.dy,
                    dx: task.dx,
                    add: task.add,
                    work: task.work,
                    finish_x: task.finish_x,
                    finish_dy: task.finish_dy,
                    norm: task.norm,
                    dz: task.dz,
                    joined,
                    now,
                },
                program,
            )?,
            (Action::Accumulate, false) => {
                let n = task.dy.len;
                kernels::add_to(program, elementwise(n), task.dy, task.dx[0], n as i64);
            }
        }
        Ok(())
    }
}

fn host_fwd(op: Arc<dyn Op>, task: &Task, state: Slot, now: View<Step>, program: &mut Program) {
    let [x0, x1, x2, x3, x4, x5] = task.x.map(Into::into);
    let reads = [x0, x1, x2, x3, x4, x5, now.into()];
    let writes = [task.y, task.saved, task.work, state].map(Into::into);
    program.host(op.name(), reads, writes, move |[x @ .., now], writes| {
        let [y, saved, work, state] = writes.map(floats_mut);
        op.cpu_fwd(Fwd {
            x: x.map(floats),
            y,
            saved,
            work,
            state,
            now: *one(now),
        });
    });
}

fn host_bwd(op: Arc<dyn Op>, task: &Task, now: View<Step>, program: &mut Program) {
    let [x0, x1, x2, x3, x4, x5] = task.x.map(Into::into);
    let [d0, d1, d2, d3, d4, d5] = task.dx.map(Into::into);
    let [y, saved, dy] = [task.y, task.saved, task.dy].map(Into::into);
    let reads = [x0, x1, x2, x3, x4, x5, y, saved, dy, now.into()];
    let writes = [d0, d1, d2, d3, d4, d5, task.work.into()];
    let add = task.add;
    program.host(op.name(), reads, writes, move |reads, writes| {
        let [x @ .., y, saved, dy, now] = reads;
        let [dx @ .., work] = writes;
        op.cpu_bwd(Bwd {
            x: x.map(floats),
            y: floats(y),
            saved: floats(saved),
            dy: floats(dy),
            dx: dx.map(floats_mut),
            add,
            work: floats_mut(work),
            now: *one(now),
        });
    });
}
