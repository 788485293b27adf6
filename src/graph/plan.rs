//! The plan: a tape frozen into tasks over fixed slots.

use std::sync::Arc;

use super::fuse::fuse;
use super::layout::{Layout, part};
use super::op::{Bwd, BwdSlots, Fwd, FwdSlots, MAX_INPUTS, Op};
use super::params::Params;
use super::tape::{Mode, Node, Source, Tape, Var};
use crate::cpu::pool;
use crate::device::arena::{Slot, round_up};
use crate::device::gpu::kernels::Step;
use crate::device::gpu::{elementwise, kernels};
use crate::device::program::{floats, floats_mut, one};
use crate::device::{Device, Program, View};
use crate::error::Result;

/// What one task does.
#[derive(Clone, Copy)]
enum Action {
    Forward,
    Backward,
    /// `dx[0] += dy`: a further contribution to a gradient.
    Accumulate,
}

struct Task {
    action: Action,
    /// Index into the plan's ops.
    op: usize,
    x: [Slot; MAX_INPUTS],
    y: Slot,
    saved: Slot,
    dy: Slot,
    dx: [Slot; MAX_INPUTS],
    add: bool,
    work: Slot,
    state: Slot,
    counts: Slot,
}

/// What a plan is to compute: forward to the outputs and, if `backward` names a tensor, back from it to
/// all parameters. Ops that neither depends on are left out.
pub struct Targets<'t> {
    pub outputs: Vec<Var<'t>>,
    pub backward: Option<Var<'t>>,
}

/// Tasks over fixed slots. Inputs and outputs are in the order of recording.
pub struct Plan {
    ops: Vec<Arc<dyn Op>>,
    tasks: Vec<Task>,
    pub inputs: Vec<Slot>,
    pub outputs: Vec<Slot>,
    /// The gradient with respect to the tensor that backward starts from; written by the caller
    /// before each run.
    pub seed: Slot,
    end: usize,
}

/// A buffer before it has a place: alive from task `born` to task `dies`.
struct Buffer {
    len: usize,
    born: usize,
    dies: usize,
}

/// Where a task's operand will be found.
#[derive(Clone, Copy)]
enum Place {
    None,
    Fixed(Slot),
    Buffer(usize),
}

/// A task whose operands have no slots yet.
struct Draft {
    action: Action,
    op: usize,
    x: [Place; MAX_INPUTS],
    y: Place,
    saved: Place,
    dy: Place,
    dx: [Place; MAX_INPUTS],
    add: bool,
    work: Place,
    state: Place,
    counts: Place,
}

impl Draft {
    fn new(action: Action, op: usize) -> Draft {
        Draft {
            action,
            op,
            x: [Place::None; MAX_INPUTS],
            y: Place::None,
            saved: Place::None,
            dy: Place::None,
            dx: [Place::None; MAX_INPUTS],
            add: false,
            work: Place::None,
            state: Place::None,
            counts: Place::None,
        }
    }

    fn places(&self) -> impl Iterator<Item = Place> {
        let single = [
            self.y,
            self.saved,
            self.dy,
            self.work,
            self.state,
            self.counts,
        ];
        self.x.into_iter().chain(self.dx).chain(single)
    }

    fn settle(self, slot: impl Fn(Place) -> Slot) -> Task {
        Task {
            action: self.action,
            op: self.op,
            x: self.x.map(&slot),
            y: slot(self.y),
            saved: slot(self.saved),
            dy: slot(self.dy),
            dx: self.dx.map(&slot),
            add: self.add,
            work: slot(self.work),
            state: slot(self.state),
            counts: slot(self.counts),
        }
    }
}

/// Collects drafts and the buffers they need.
#[derive(Default)]
struct Builder {
    drafts: Vec<Draft>,
    buffers: Vec<Buffer>,
}

impl Builder {
    /// A new buffer; where it is used decides how long it lives.
    fn buffer(&mut self, len: usize) -> Place {
        if len == 0 {
            return Place::None;
        }
        self.buffers.push(Buffer {
            len,
            born: usize::MAX,
            dies: 0,
        });
        Place::Buffer(self.buffers.len() - 1)
    }

    fn push(&mut self, draft: Draft) {
        self.drafts.push(draft);
        self.live(self.drafts.len() - 1);
    }

    /// Has the buffers of a draft live at its step.
    fn live(&mut self, step: usize) {
        for place in self.drafts[step].places() {
            if let Place::Buffer(id) = place {
                let buffer = &mut self.buffers[id];
                buffer.born = buffer.born.min(step);
                buffer.dies = buffer.dies.max(step);
            }
        }
    }

    /// A buffer for the sums that a step in forward leaves for a later one.
    fn counts(&mut self, step: usize, len: usize) -> Place {
        let counts = self.buffer(len);
        self.drafts[step].counts = counts;
        self.live(step);
        counts
    }

    /// Keeps a buffer to itself for the whole plan.
    fn keep(&mut self, place: Place) {
        if let Place::Buffer(id) = place {
            self.buffers[id].born = 0;
            self.buffers[id].dies = usize::MAX;
        }
    }
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
        Plan::freeze(tape, device, &outputs, backward)
    }

    fn freeze(tape: Tape<'_>, device: Device, outputs: &[usize], backward: Option<usize>) -> Plan {
        let layout = Layout::new(tape.params);
        let mut nodes = tape.nodes.into_inner();
        let targets: Vec<usize> = outputs.iter().copied().chain(backward).collect();
        fuse(&mut nodes, &targets);
        let needed = needed(&nodes, &targets);
        let mut ops: Vec<Arc<dyn Op>> = Vec::new();
        let mut builder = Builder::default();
        let mut places = vec![Place::None; nodes.len()];
        let mut forward: Vec<Option<Draft>> = Vec::new();
        let mut wants_grad = vec![false; nodes.len()];
        let mut inputs = Vec::new();
        // An op's number is that of its forward step.
        let mut numbers = vec![None; nodes.len()];

        for (id, node) in nodes.iter_mut().enumerate() {
            forward.push(None);
            let len = node.shape.iter().product();
            match &mut node.source {
                Source::Input => {
                    places[id] = builder.buffer(len);
                    builder.keep(places[id]);
                    inputs.push(places[id]);
                }
                Source::Param(range) => {
                    places[id] = Place::Fixed(part(layout.values, *range));
                    wants_grad[id] = true;
                }
                Source::Op { .. } if !needed[id] => {}
                Source::Op { op, inputs, state } => {
                    wants_grad[id] = inputs.iter().any(|&i| wants_grad[i]);
                    places[id] = builder.buffer(len);
                    let new_draft = |action: Action| {
                        let mut draft = Draft::new(action, ops.len());
                        for (x, &i) in draft.x.iter_mut().zip(inputs.iter()) {
                            *x = places[i];
                        }
                        draft.y = places[id];
                        draft
                    };
                    let mut draft = new_draft(Action::Forward);
                    let mut back = new_draft(Action::Backward);
                    let needs = needs(op.as_ref(), device);
                    draft.saved = builder.buffer(needs.saved);
                    back.saved = draft.saved;
                    draft.work = builder.buffer(needs.fwd_work);
                    if let Some(range) = state {
                        draft.state = Place::Fixed(part(layout.buffers, *range));
                    }
                    if let (true, Some(before)) = (op.reads_counts(), numbers[inputs[0]]) {
                        let before: usize = before;
                        draft.counts = builder.counts(before, counts(ops[before].as_ref(), device));
                    }
                    numbers[id] = Some(ops.len());
                    builder.push(draft);
                    if !op.bwd_reads_inputs() {
                        back.x = [Place::None; MAX_INPUTS];
                    }
                    if !op.bwd_reads_output() {
                        back.y = Place::None;
                    }
                    forward[id] = Some(back);
                    ops.push(std::mem::replace(op, Box::new(Moved)).into());
                }
            }
        }
        for &id in outputs {
            builder.keep(places[id]);
        }

        let mut grads = vec![Place::None; nodes.len()];
        let mut seed = Place::None;
        if let Some(id) = backward {
            seed = builder.buffer(nodes[id].shape.iter().product());
            builder.keep(seed);
            grads[id] = seed;
        }
        for id in (0..nodes.len()).rev() {
            let (Some(mut draft), Source::Op { inputs, .. }) =
                (forward[id].take(), &nodes[id].source)
            else {
                continue;
            };
            if !wants_grad[id] || matches!(grads[id], Place::None) {
                continue;
            }
            draft.dy = grads[id];
            draft.work = builder.buffer(needs(ops[draft.op].as_ref(), device).bwd_work);
            let mut further = Vec::new();
            for (place, &i) in inputs.iter().enumerate() {
                if !wants_grad[i] {
                    continue;
                }
                let first = matches!(grads[i], Place::None);
                if !first && place == 0 && ops[draft.op].bwd_adds() {
                    draft.dx[0] = grads[i];
                    draft.add = true;
                    continue;
                }
                draft.dx[place] = match nodes[i].source {
                    Source::Param(range) if first => Place::Fixed(part(layout.grads, range)),
                    _ => builder.buffer(nodes[i].shape.iter().product()),
                };
                if first {
                    grads[i] = draft.dx[place];
                } else {
                    further.push((grads[i], draft.dx[place]));
                }
            }
            let op = draft.op;
            builder.push(draft);
            for (sum, term) in further {
                let mut draft = Draft::new(Action::Accumulate, op);
                draft.dx[0] = sum;
                draft.dy = term;
                builder.push(draft);
            }
        }

        let (slots, end) = place(&builder.buffers, layout.end());
        let slot = |place| match place {
            Place::None => Slot::default(),
            Place::Fixed(slot) => slot,
            Place::Buffer(id) => slots[id],
        };
        Plan {
            inputs: inputs.into_iter().map(slot).collect(),
            outputs: outputs.iter().map(|&id| slot(places[id])).collect(),
            seed: slot(seed),
            tasks: builder.drafts.into_iter().map(|d| d.settle(slot)).collect(),
            ops,
            end,
        }
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
                // A product for each operand; the first may be data, which need no gradient.
                Action::Backward => halves[1] += (1 + usize::from(task.dx[0].len > 0)) * flops,
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
        let mut tasks = self.tasks.iter();
        tasks.try_for_each(|task| self.emit_task(task, task.state, now, program))
    }

    /// As [`Plan::emit`], for a second gradient: running averages stay as they are.
    pub fn emit_again(&self, now: View<Step>, program: &mut Program) -> Result<()> {
        let mut tasks = self.tasks.iter();
        tasks.try_for_each(|task| self.emit_task(task, Slot::default(), now, program))
    }

    /// As [`Plan::emit`], but forward and what follows it in programs of their own.
    pub fn emit_halves(
        &self,
        now: View<Step>,
        [forward, backward]: [&mut Program; 2],
    ) -> Result<()> {
        let mut tasks = self.tasks.iter();
        tasks.try_for_each(|task| match task.action {
            Action::Forward => self.emit_task(task, task.state, now, forward),
            Action::Backward | Action::Accumulate => {
                self.emit_task(task, task.state, now, backward)
            }
        })
    }

    fn emit_task(
        &self,
        task: &Task,
        state: Slot,
        now: View<Step>,
        program: &mut Program,
    ) -> Result<()> {
        let op = &self.ops[task.op];
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
                    counts: task.counts,
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

/// Floats that an op needs beside its operands.
struct Needs {
    saved: usize,
    fwd_work: usize,
    bwd_work: usize,
}

fn needs(op: &dyn Op, device: Device) -> Needs {
    match device {
        Device::Cpu => Needs {
            saved: op.saved(),
            fwd_work: op.fwd_work(),
            bwd_work: op.bwd_work(),
        },
        Device::Emulator | Device::Cuda(_) => Needs {
            saved: op.cuda_saved(),
            fwd_work: op.cuda_fwd_work(),
            bwd_work: op.cuda_bwd_work(),
        },
    }
}

/// Floats of sums that an op leaves for a batch norm behind it.
fn counts(op: &dyn Op, device: Device) -> usize {
    match device {
        Device::Cpu => 0,
        Device::Emulator | Device::Cuda(_) => op.cuda_counts(),
    }
}

/// Stands where an op was that has been taken.
pub(super) struct Moved;

impl Op for Moved {
    fn name(&self) -> &'static str {
        "moved"
    }
    fn cpu_fwd(&self, _: Fwd<'_>) {
        unreachable!("the plan runs its own ops")
    }
    fn cpu_bwd(&self, _: Bwd<'_>) {
        unreachable!("the plan runs its own ops")
    }
}

/// The nodes that the targets depend on.
pub(super) fn needed(nodes: &[Node], targets: &[usize]) -> Vec<bool> {
    let mut needed = vec![false; nodes.len()];
    targets.iter().for_each(|&id| needed[id] = true);
    for id in (0..nodes.len()).rev() {
        if let (true, Source::Op { inputs, .. }) = (needed[id], &nodes[id].source) {
            inputs.iter().for_each(|&i| needed[i] = true);
        }
    }
    needed
}

/// Gives every buffer a place behind `base` such that buffers alive at the same time do not overlap:
/// larger ones first, each at the lowest free place. Returns the slots and the end.
fn place(buffers: &[Buffer], base: usize) -> (Vec<Slot>, usize) {
    let mut order: Vec<usize> = (0..buffers.len()).collect();
    order.sort_by_key(|&id| std::cmp::Reverse(buffers[id].len));
    let mut slots = vec![Slot::default(); buffers.len()];
    let mut placed: Vec<usize> = Vec::new();
    let mut end = base;
    for id in order {
        let buffer = &buffers[id];
        let alive = |other: &Buffer| buffer.born <= other.dies && other.born <= buffer.dies;
        let mut start = base;
        // `placed` is sorted by start.
        for &other in &placed {
            if !alive(&buffers[other]) {
                continue;
            }
            if start + buffer.len <= slots[other].start {
                break;
            }
            start = start.max(slots[other].start + round_up(slots[other].len));
        }
        slots[id] = Slot {
            start,
            len: buffer.len,
        };
        let at = placed.partition_point(|&other| slots[other].start <= start);
        placed.insert(at, id);
        end = end.max(start + round_up(buffer.len));
    }
    (slots, end)
}
