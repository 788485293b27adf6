//! From a tape to a plan, pass by pass: fusion (`fuse.rs`), forward, backward, and places in the arena. What kernels
//! do of batch norm in the ops around it is in `norm.rs`.

use std::sync::Arc;

use super::fuse::fuse;
use super::layout::Layout;
use super::op::{Bwd, Finish, Fwd, Join, MAX_INPUTS, NormGradient, Op, Statistics};
use super::params::Range;
use super::plan::{Action, Plan, Task, join};
use super::tape::{Node, Source, Tape};
use crate::device::Device;
use crate::device::arena::{Slot, round_up};

/// Freezes a tape: tasks for forward to the `outputs` and, from one tensor, back to all parameters.
pub(super) fn freeze(
    tape: Tape<'_>,
    device: Device,
    outputs: &[usize],
    backward: Option<usize>,
) -> Plan {
    let layout = Layout::new(tape.params);
    let mut nodes = tape.nodes.into_inner();
    let targets: Vec<usize> = outputs.iter().copied().chain(backward).collect();
    fuse(&mut nodes, &targets);
    let needed = needed(&nodes, &targets);
    let mut builder = Builder::new(layout, device, &nodes, &needed, &targets);
    builder.forward(&mut nodes, &needed);
    let outputs: Vec<Operand> = outputs.iter().map(|&id| builder.values[id]).collect();
    outputs.iter().for_each(|output| builder.keep(*output));
    let seed = backward.map(|from| builder.backward(&nodes, from));
    builder.join();
    builder.place(&outputs, seed.unwrap_or_default())
}

/// A buffer before it has a place: alive from task `born` to task `dies`.
pub(super) struct Buffer {
    len: usize,
    born: usize,
    pub(super) dies: usize,
}

/// An operand of a task before it has a slot.
#[derive(Clone, Copy, Default, PartialEq)]
pub(super) enum Operand {
    #[default]
    None,
    Fixed(Slot),
    Buffer(usize),
}

impl Operand {
    pub(super) fn is_none(self) -> bool {
        matches!(self, Operand::None)
    }
}

impl Task<Operand> {
    pub(super) fn new(action: Action, op: usize) -> Self {
        Task {
            action,
            op,
            x: [Operand::None; MAX_INPUTS],
            y: Operand::None,
            saved: Operand::None,
            dy: Operand::None,
            dx: [Operand::None; MAX_INPUTS],
            add: false,
            work: Operand::None,
            state: Operand::None,
            statistics: None,
            has_statistics: false,
            finish_x: None,
            finish_dy: None,
            norm: None,
            dz: Operand::None,
            joins_next: false,
        }
    }

    /// What it gives to the next one.
    fn result(&self) -> Operand {
        match self.action {
            Action::Forward => self.y,
            Action::Backward | Action::Accumulate => self.dx[0],
        }
    }

    fn operands(&self) -> impl Iterator<Item = Operand> {
        let single = [self.y, self.saved, self.dy, self.dz, self.work, self.state];
        let statistics = self.statistics.into_iter().flat_map(Statistics::all);
        let finish = [self.finish_x, self.finish_dy].into_iter().flatten();
        let finish = finish.flat_map(|finish| [finish.lines, finish.other]);
        let norm = self.norm.into_iter().flat_map(NormGradient::all);
        let tensors = self.x.into_iter().chain(self.dx).chain(single);
        tensors.chain(statistics).chain(finish).chain(norm)
    }

    fn placed(self, slot: impl Fn(Operand) -> Slot) -> Task {
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
            statistics: self.statistics.map(|statistics| statistics.map(&slot)),
            has_statistics: self.has_statistics,
            finish_x: self.finish_x.map(|finish| finish.map(&slot)),
            finish_dy: self.finish_dy.map(|finish| finish.map(&slot)),
            norm: self.norm.map(|norm| norm.map(&slot)),
            dz: slot(self.dz),
            joins_next: self.joins_next,
        }
    }
}

impl Finish<Operand> {
    fn map(self, slot: impl Fn(Operand) -> Slot) -> Finish {
        Finish {
            lines: slot(self.lines),
            other: slot(self.other),
            relu: self.relu,
        }
    }
}

impl NormGradient<Operand> {
    fn all(self) -> [Operand; 7] {
        [
            self.x,
            self.y,
            self.saved,
            self.dgamma,
            self.dbeta,
            self.lines,
            self.partial,
        ]
    }

    fn map(self, slot: impl Fn(Operand) -> Slot) -> NormGradient {
        let [x, y, saved, dgamma, dbeta, lines, partial] = self.all().map(slot);
        NormGradient {
            x,
            y,
            saved,
            dgamma,
            dbeta,
            lines,
            partial,
            relu: self.relu,
        }
    }
}

impl Statistics<Operand> {
    fn all(self) -> [Operand; 5] {
        [
            self.gamma,
            self.beta,
            self.saved,
            self.averages,
            self.partial,
        ]
    }

    fn map(self, slot: impl Fn(Operand) -> Slot) -> Statistics {
        let [gamma, beta, saved, averages, partial] = self.all().map(slot);
        Statistics {
            gamma,
            beta,
            saved,
            averages,
            partial,
        }
    }
}

/// Collects tasks and the buffers that they need.
pub(super) struct Builder {
    pub(super) layout: Layout,
    pub(super) device: Device,
    pub(super) ops: Vec<Arc<dyn Op>>,
    pub(super) tasks: Vec<Task<Operand>>,
    pub(super) buffers: Vec<Buffer>,
    inputs: Vec<Operand>,
    /// Of every node: who needs it (`usize::MAX` stands for the caller), its value and how to finish it, the op that gives
    /// it (whose number is that of its forward task), whether its gradient is wanted, that gradient, how to finish it, and,
    /// of a batch norm, what another op has made of its own.
    pub(super) consumers: Vec<Vec<usize>>,
    pub(super) values: Vec<Operand>,
    pub(super) finish: Vec<Option<Finish<Operand>>>,
    pub(super) op_of: Vec<Option<usize>>,
    pub(super) wants_grad: Vec<bool>,
    pub(super) grads: Vec<Operand>,
    pub(super) finish_grads: Vec<Option<Finish<Operand>>>,
    pub(super) norm_grads: Vec<Option<NormGradient<Operand>>>,
}

impl Builder {
    fn new(
        layout: Layout,
        device: Device,
        nodes: &[Node],
        needed: &[bool],
        targets: &[usize],
    ) -> Builder {
        let count = nodes.len();
        let mut consumers = vec![Vec::new(); count];
        targets
            .iter()
            .for_each(|&id| consumers[id].push(usize::MAX));
        for (id, node) in nodes.iter().enumerate().filter(|(id, _)| needed[*id]) {
            if let Source::Op { inputs, .. } = &node.source {
                inputs.iter().for_each(|&i| consumers[i].push(id));
            }
        }
        Builder {
            layout,
            device,
            ops: Vec::new(),
            tasks: Vec::new(),
            buffers: Vec::new(),
            inputs: Vec::new(),
            consumers,
            values: vec![Operand::None; count],
            finish: vec![None; count],
            op_of: vec![None; count],
            wants_grad: vec![false; count],
            grads: vec![Operand::None; count],
            finish_grads: vec![None; count],
            norm_grads: vec![None; count],
        }
    }

    /// A new buffer; where it is used decides how long it lives.
    pub(super) fn buffer(&mut self, len: usize) -> Operand {
        if len == 0 {
            return Operand::None;
        }
        self.buffers.push(Buffer {
            len,
            born: usize::MAX,
            dies: 0,
        });
        Operand::Buffer(self.buffers.len() - 1)
    }

    /// Keeps a buffer to itself for the whole plan.
    fn keep(&mut self, operand: Operand) {
        if let Operand::Buffer(id) = operand {
            self.buffers[id].born = 0;
            self.buffers[id].dies = usize::MAX;
        }
    }

    pub(super) fn push(&mut self, task: Task<Operand>) {
        self.tasks.push(task);
        self.live(self.tasks.len() - 1);
    }

    /// Has the buffers of a task live while it runs.
    pub(super) fn live(&mut self, task: usize) {
        self.live_at(task, task);
    }

    /// The same while another one runs.
    fn live_at(&mut self, task: usize, other: usize) {
        for operand in self.tasks[task].operands() {
            if let Operand::Buffer(id) = operand {
                let buffer = &mut self.buffers[id];
                buffer.born = buffer.born.min(other);
                buffer.dies = buffer.dies.max(other);
            }
        }
    }

    /// Forward tasks of all ops that are needed, whose ops it takes.
    fn forward(&mut self, nodes: &mut [Node], needed: &[bool]) {
        for id in 0..nodes.len() {
            let (before, behind) = nodes.split_at_mut(id + 1);
            let node = &mut before[id];
            let len = node.shape.iter().product();
            match &mut node.source {
                Source::Input => {
                    let input = self.buffer(len);
                    self.keep(input);
                    self.inputs.push(input);
                    self.values[id] = input;
                }
                Source::Param(range) => {
                    self.values[id] = Operand::Fixed(range.of(self.layout.values));
                    self.wants_grad[id] = true;
                }
                Source::Op { op, inputs, state } if needed[id] => {
                    let op = std::mem::replace(op, Box::new(Moved));
                    self.wants_grad[id] = inputs.iter().any(|&i| self.wants_grad[i]);
                    self.forward_of((id, len), op.into(), inputs, *state, behind);
                }
                Source::Op { .. } => {}
            }
        }
    }

    /// `behind` are the nodes behind it.
    fn forward_of(
        &mut self,
        (id, len): (usize, usize),
        op: Arc<dyn Op>,
        inputs: &[usize],
        state: Option<Range>,
        behind: &[Node],
    ) {
        let number = self.ops.len();
        let mut task = self.task_of(Action::Forward, number, id, inputs);
        let needs = needs(op.as_ref(), self.device);
        task.saved = self.buffer(needs.saved);
        task.work = self.buffer(needs.fwd_work);
        if let Some(range) = state {
            task.state = Operand::Fixed(range.of(self.layout.buffers));
        }
        self.op_of[id] = Some(number);
        self.ops.push(op);
        self.statistics(&mut task, inputs);
        if !self.left_to_readers(id, &task, inputs, behind) {
            task.y = self.buffer(len);
            self.values[id] = task.y;
        }
        self.push(task);
    }

    fn task_of(&self, action: Action, op: usize, id: usize, inputs: &[usize]) -> Task<Operand> {
        let mut task = Task::new(action, op);
        for (x, &i) in task.x.iter_mut().zip(inputs) {
            *x = self.values[i];
        }
        task.finish_x = self.finish[inputs[0]];
        task.y = self.values[id];
        task
    }

    /// Backward tasks from a node to all parameters; the gradient that the caller writes.
    fn backward(&mut self, nodes: &[Node], from: usize) -> Operand {
        let seed = self.buffer(nodes[from].shape.iter().product());
        self.keep(seed);
        self.grads[from] = seed;
        for (id, node) in nodes.iter().enumerate().rev() {
            let (Some(op), Source::Op { inputs, .. }) = (self.op_of[id], &node.source) else {
                continue;
            };
            if self.wants_grad[id] && !self.grads[id].is_none() {
                self.backward_of(id, op, inputs, nodes);
            }
        }
        seed
    }

    fn backward_of(&mut self, id: usize, op: usize, inputs: &[usize], nodes: &[Node]) {
        let body = self.ops[op].clone();
        if self.norm_backward(id, inputs, nodes) {
            return;
        }
        if body.bwd_reads_inputs() && self.device == Device::Cpu {
            inputs.iter().for_each(|&i| self.compute_again(i, nodes));
        }
        let mut task = self.task_of(Action::Backward, op, id, inputs);
        if !body.bwd_reads_inputs() {
            task.x = [Operand::None; MAX_INPUTS];
            task.finish_x = None;
        }
        if !body.bwd_reads_output() {
            task.y = Operand::None;
        }
        task.saved = self.tasks[op].saved;
        task.dy = self.grads[id];
        task.finish_dy = self.finish_grads[id];
        task.work = self.buffer(needs(body.as_ref(), self.device).bwd_work);
        let mut further = Vec::new();
        let passes = |place: usize| body.bwd_passes(place) && unique(inputs);
        let passing = (0..inputs.len()).filter(|&place| passes(place));
        let heirs = self.heirs(id, passing.map(|place| inputs[place]), nodes);
        for (place, &i) in inputs.iter().enumerate() {
            if !self.wants_grad[i] {
                continue;
            }
            let first = self.grads[i].is_none();
            if heirs.contains(&i) {
                self.grads[i] = task.dy;
                continue;
            }
            if !first && passes(place) {
                further.push((self.grads[i], task.dy));
                continue;
            }
            if !first && place == 0 && body.bwd_adds() {
                task.dx[0] = self.grads[i];
                task.add = true;
                continue;
            }
            task.dx[place] = self.contribution(i, nodes);
            if first {
                self.grads[i] = task.dx[place];
            } else {
                further.push((self.grads[i], task.dx[place]));
            }
        }
        if further.iter().all(|(sum, _)| *sum != self.grads[inputs[0]]) {
            task.norm = self.norm_before(id, inputs, nodes, &task);
        }
        if task.dx.iter().any(|dx| !dx.is_none()) {
            self.push(task);
        }
        self.accumulate(op, further);
    }

    /// Where to write a contribution to a node's gradient; the first one to a parameter's is the gradient.
    pub(super) fn contribution(&mut self, node: usize, nodes: &[Node]) -> Operand {
        match nodes[node].source {
            Source::Param(range) if self.grads[node].is_none() => {
                Operand::Fixed(range.of(self.layout.grads))
            }
            _ => self.buffer(nodes[node].shape.iter().product()),
        }
    }

    /// Adds further contributions to gradients.
    pub(super) fn accumulate(&mut self, op: usize, further: Vec<(Operand, Operand)>) {
        for (sum, term) in further {
            let mut task = Task::new(Action::Accumulate, op);
            task.dx[0] = sum;
            task.dy = term;
            self.push(task);
        }
    }

    /// Has the value of a node whose op asks for it computed again, so that it need not be kept since forward.
    fn compute_again(&mut self, id: usize, nodes: &[Node]) {
        let (Some(op), Operand::Buffer(buffer)) = (self.op_of[id], self.values[id]) else {
            return;
        };
        let kept = self.buffers[buffer].dies == usize::MAX;
        if kept || self.tasks[op].y != self.values[id] || !self.ops[op].recomputed() {
            return;
        }
        let mut task = Task::new(Action::Forward, op);
        task.x = self.tasks[op].x;
        task.y = self.buffer(nodes[id].shape.iter().product());
        self.values[id] = task.y;
        self.push(task);
    }

    /// Lets kernels do several tasks in one launch, where they can. What these use then lives through all of them, but for what
    /// is only handed on from step to step, which has no place.
    fn join(&mut self) {
        let mut uses = vec![0; self.buffers.len()];
        for operand in self.tasks.iter().flat_map(Task::operands) {
            if let Operand::Buffer(id) = operand {
                uses[id] += 1;
            }
        }
        let mut first = 0;
        while self.device != Device::Cpu && first < self.tasks.len() {
            let further = self.joins(first, &uses);
            let last = first + further.len();
            let steps = further.iter().take_while(|join| join.is_step()).count();
            for task in first..first + steps {
                if let Some(buffer) = self.handed_on(task, &uses) {
                    self.buffers[buffer].len = 0;
                }
            }
            for task in first..=last {
                self.tasks[task].joins_next = task < last;
                self.live_at(task, first);
                self.live_at(task, last);
            }
            first = last + 1;
        }
    }

    /// The buffer that a task writes for the next one and nobody else, given how many operands each buffer is.
    fn handed_on(&self, task: usize, uses: &[usize]) -> Option<usize> {
        match self.tasks[task].result() {
            Operand::Buffer(id) if uses[id] == 2 && self.buffers[id].dies < usize::MAX => Some(id),
            _ => None,
        }
    }

    /// What the kernels of a task can do behind it in the same launch: the most of what follows that they take.
    fn joins(&self, first: usize, uses: &[usize]) -> Vec<Join> {
        let op = &self.ops[self.tasks[first].op];
        let (mut further, mut most) = (Vec::new(), 0);
        while let Some(join) = self.follows(first, &further, uses) {
            further.push(join);
            let joins = match self.tasks[first].action {
                Action::Backward => op.cuda_bwd_joins(&further),
                _ => op.cuda_fwd_joins(&further),
            };
            if joins {
                most = further.len();
            }
        }
        further.truncate(most);
        further
    }

    /// The task behind these, if it takes up what the last of them gives.
    fn follows(&self, first: usize, further: &[Join], uses: &[usize]) -> Option<Join> {
        let last = first + further.len();
        let next = self.tasks.get(last + 1)?;
        let join = join(&self.tasks[first], next, &self.ops)?;
        // Kernels take the other operands for what was there before.
        let written = |x: &Operand| {
            let mut tasks = self.tasks[first..=last].iter();
            !x.is_none() && tasks.any(|task| task.result() == *x)
        };
        let between_steps = join.is_step() && further.last().is_some_and(|last| last.is_step());
        let stored = between_steps && self.handed_on(last, uses).is_none();
        if stored || next.x[1..].iter().any(written) {
            return None;
        }
        let (first, last) = (&self.tasks[first], &self.tasks[last]);
        let follows = match (first.action, last.action, next.action) {
            (Action::Forward, Action::Forward, Action::Forward) => next.x[0] == last.y,
            (Action::Forward, Action::Forward, Action::Backward) => next.op == last.op,
            (_, Action::Backward, Action::Backward) => next.dy == last.dx[0] && !next.add,
            _ => false,
        };
        follows.then_some(join)
    }

    /// Those of some inputs of a node that can take its gradient over, buffer and all. Others may add to it later, so of two
    /// both can only if the later one is through with it before anybody adds to the earlier one's.
    pub(super) fn heirs(
        &self,
        id: usize,
        inputs: impl Iterator<Item = usize>,
        nodes: &[Node],
    ) -> Vec<usize> {
        let Operand::Buffer(buffer) = self.grads[id] else {
            return Vec::new();
        };
        let kept = self.buffers[buffer].dies == usize::MAX;
        let held = |&n: &usize| matches!(self.grads[n], Operand::Buffer(b) if b == buffer);
        if kept || (0..id).any(|n| held(&n)) {
            return Vec::new();
        }
        let takes = |&i: &usize| {
            let of_op = matches!(nodes[i].source, Source::Op { .. });
            of_op && self.wants_grad[i] && self.grads[i].is_none()
        };
        let mut heirs: Vec<usize> = inputs.filter(takes).collect();
        heirs.sort_unstable();
        let Some(&last) = heirs.last() else {
            return heirs;
        };
        let alone = self.pending(last, id).next().is_none();
        heirs.retain(|&i| i == last || (alone && self.pending(i, id).all(|c| c < last)));
        heirs
    }

    /// Who is still to add to a node's gradient, when node `id` goes back.
    pub(super) fn pending(&self, node: usize, id: usize) -> impl Iterator<Item = usize> {
        let consumers = self.consumers[node].iter().copied();
        consumers.filter(move |&consumer| consumer < id)
    }

    /// Gives all buffers their places.
    fn place(self, outputs: &[Operand], seed: Operand) -> Plan {
        let (slots, end) = place(&self.buffers, self.layout.end());
        let slot = |operand| match operand {
            Operand::None => Slot::default(),
            Operand::Fixed(slot) => slot,
            Operand::Buffer(id) => slots[id],
        };
        Plan {
            inputs: self.inputs.into_iter().map(slot).collect(),
            outputs: outputs.iter().map(|&output| slot(output)).collect(),
            seed: slot(seed),
            tasks: self.tasks.into_iter().map(|t| t.placed(slot)).collect(),
            ops: self.ops,
            end,
        }
    }
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
        Device::Emulator | Device::Cuda(_) | Device::Plan => Needs {
            saved: op.cuda_saved(),
            fwd_work: op.cuda_fwd_work(),
            bwd_work: op.cuda_bwd_work(),
        },
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

fn unique(inputs: &[usize]) -> bool {
    (1..inputs.len()).all(|i| !inputs[..i].contains(&inputs[i]))
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
