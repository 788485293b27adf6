//! Plans on the CPU: an interpreter over pieces that stay in a core's cache, each operator a loop over a block.
//!
//! Pieces and the order of their sums follow from the shapes alone, so that results do not depend on the number of threads.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError};

use super::evaluate::{Context, Values};
use super::places::{Cuts, Piece, Places};
use super::plan::{Adding, Cell, Element, Instruction, Number, Pass, PassSum, Plan};
use super::syntax::Operator;
use crate::cpu::CHUNK;
use crate::device::gpu::kernels::Step;
use crate::device::program::{floats, floats_mut, one};
use crate::device::{Program, View};
use crate::error::Result;
use crate::graph::Range;

/// Elements that an operator treats at once.
const BLOCK: usize = 1024;

/// Vectors that a step may write.
pub const MOST: usize = 64;

/// Adds a step to a program of the host's. `gradient` adds the gradient at whatever the parameters then are.
pub fn step(
    plan: &Arc<Plan>,
    at: &Places,
    program: &mut Program,
    gradient: &dyn Fn(&mut Program) -> Result<()>,
) -> Result<()> {
    let ready: Arc<Vec<Option<Ready>>> = Arc::new(
        (plan.rounds.iter())
            .map(|round| Some(Ready::new(round.pass.as_ref()?, &plan.cells)))
            .collect(),
    );
    // Sums of a pass are there behind another gradient, too.
    let scratch = Scratch::new(plan, at.cuts);
    let mut first = 0;
    for (i, round) in plan.rounds.iter().enumerate() {
        if !round.gradient && i + 1 < plan.rounds.len() {
            continue;
        }
        let (plan, ready, rounds) = (plan.clone(), ready.clone(), first..i + 1);
        host_call(&plan.clone(), at, &scratch, program, move |step| {
            for round in rounds.clone() {
                step.numbers(&plan, round);
                if let Some(pass) = &ready[round] {
                    step.pass(pass);
                }
            }
        });
        if round.gradient {
            gradient(program)?;
        }
        first = i + 1;
    }
    Ok(())
}

/// Adds the pass that computes the weights to be evaluated.
pub fn evaluation(plan: &Arc<Plan>, at: &Places, program: &mut Program) {
    if let Some(pass) = &plan.evaluation {
        let ready = Ready::new(pass, &plan.cells);
        let scratch = Scratch::new(plan, at.cuts);
        host_call(plan, at, &scratch, program, move |step| step.pass(&ready));
    }
}

/// A step's memory on the host.
struct HostStep<'a> {
    groups: &'a [Range],
    cuts: &'a Cuts,
    slot: usize,
    steps: usize,
    coefficients: &'a [f64],
    loss: f32,
    read: [&'a [f32]; 1],
    write: Slices<'a>,
    scalars: &'a mut [f64],
    tensor_state: &'a mut [f64],
    group_slots: &'a mut [f64],
    tensor_slots: &'a mut [f64],
    shapes: &'a [f64],
    partial: &'a mut [f64],
    series: &'a mut [f64],
    scratch: &'a mut Scratch,
}

/// What a step computes with, kept so that none allocates.
struct Scratch {
    values: Values,
    /// Sums of the last pass: over all parameters, and (tensors, sums).
    sums: Vec<f64>,
    tensor_sums: Vec<f64>,
}

impl Scratch {
    fn new(plan: &Plan, cuts: &Cuts) -> Arc<Mutex<Scratch>> {
        let sums = plan.rounds.iter().filter_map(|round| round.pass.as_ref());
        let sums = sums.map(|pass| pass.sums.len()).max().unwrap_or(0);
        Arc::new(Mutex::new(Scratch {
            values: Values::of(plan),
            sums: Vec::with_capacity(sums),
            tensor_sums: Vec::with_capacity(sums * cuts.tensors.len()),
        }))
    }
}

/// The one range that views which lie one behind the other make.
fn joined(mut views: impl Iterator<Item = View<f32>>) -> View<f32> {
    let first = views.next().unwrap_or_default();
    views.last().map_or(first, |last| first.through(last))
}

fn host_call(
    plan: &Arc<Plan>,
    at: &Places,
    scratch: &Arc<Mutex<Scratch>>,
    program: &mut Program,
    body: impl Fn(&mut HostStep) + Send + 'static,
) {
    let of = |wanted: fn(&Cell) -> bool| {
        let cells = plan.cells.iter().zip(&at.cells);
        joined(
            cells
                .filter(|(cell, _)| wanted(cell))
                .map(|(_, view)| *view),
        )
    };
    let state = of(|cell| matches!(cell, Cell::State(_) | Cell::Start));
    let work = of(|cell| *cell == Cell::Work);
    let (w, g) = (at.cells[0], at.cells[1]);
    let reads = [
        at.now.into(),
        at.coefficients.into(),
        at.loss.into(),
        g.into(),
        at.shapes.into(),
    ];
    let writes = [
        w.into(),
        state.into(),
        work.into(),
        at.scalars.into(),
        at.tensor_state.into(),
        at.group_slots.into(),
        at.tensor_slots.into(),
        at.partial.into(),
        at.series.into(),
    ];
    let scratch = Arc::clone(scratch);
    let (groups, cuts, steps) = (at.groups.to_vec(), at.cuts.clone(), at.steps);
    program.host("formulas", reads, writes, move |reads, writes| {
        let [now, coefficients, loss, g, shapes] = reads;
        let [
            w,
            state,
            work,
            scalars,
            tensor_state,
            group_slots,
            tensor_slots,
            partial,
            series,
        ] = writes;
        let n = floats(g).len().max(1);
        let mut write = Slices::default();
        write.push(floats_mut(w));
        let rows = floats_mut(state).chunks_exact_mut(n);
        rows.chain(floats_mut(work).chunks_exact_mut(n))
            .for_each(|row| write.push(row));
        body(&mut HostStep {
            groups: &groups,
            cuts: &cuts,
            slot: one::<Step>(now).slot as usize,
            steps,
            coefficients: bytemuck::cast_slice(coefficients),
            loss: floats(loss)[0],
            read: [floats(g)],
            write,
            scalars: bytemuck::cast_slice_mut(scalars),
            tensor_state: bytemuck::cast_slice_mut(tensor_state),
            group_slots: bytemuck::cast_slice_mut(group_slots),
            tensor_slots: bytemuck::cast_slice_mut(tensor_slots),
            shapes: bytemuck::cast_slice(shapes),
            partial: bytemuck::cast_slice_mut(partial),
            series: bytemuck::cast_slice_mut(series),
            scratch: &mut scratch.lock().unwrap_or_else(PoisonError::into_inner),
        });
    });
}

impl HostStep<'_> {
    /// The numbers of a round.
    fn numbers(&mut self, plan: &Plan, round: usize) {
        let round = &plan.rounds[round];
        let row = |table: usize, of: usize, i: usize| {
            i * (table / of.max(1))..(i + 1) * (table / of.max(1))
        };
        let groups = self.groups.len();
        let wide = plan.host.coefficients.len();
        for g in 0..groups {
            let at = (g * self.steps + self.slot) * wide;
            let slots = row(self.group_slots.len(), groups, g);
            let context = Context {
                coefficients: &self.coefficients[at..at + wide],
                loss: self.loss,
                scalars: self.scalars,
                slots: &self.group_slots[slots.clone()],
                sums: &self.scratch.sums,
                ..Context::default()
            };
            let values = self.scratch.values.run(&round.group.code, &context);
            for (slot, value) in &round.group.slots {
                self.group_slots[slots.start + slot] = values[*value];
            }
            if g + 1 == groups {
                for (i, value) in &round.group.state {
                    self.scalars[*i] = values[*value];
                }
                for (i, value) in &round.group.reports {
                    self.series[i * self.steps + self.slot] = values[*value];
                }
            }
        }
        if round.tensor.code.instructions.is_empty() {
            return;
        }
        let tensors = self.cuts.tensors.len();
        for (t, place) in self.cuts.tensors.iter().enumerate() {
            let g = place.group as usize;
            let at = (g * self.steps + self.slot) * wide;
            let state = row(self.tensor_state.len(), tensors, t);
            let slots = row(self.tensor_slots.len(), tensors, t);
            let context = Context {
                coefficients: &self.coefficients[at..at + wide],
                loss: self.loss,
                scalars: self.scalars,
                slots: &self.group_slots[row(self.group_slots.len(), groups, g)],
                sums: &self.scratch.sums,
                tensor_state: &self.tensor_state[state.clone()],
                tensor_slots: &self.tensor_slots[slots.clone()],
                tensor_sums: &self.scratch.tensor_sums
                    [row(self.scratch.tensor_sums.len(), tensors, t)],
                shape: &self.shapes[row(self.shapes.len(), tensors, t)],
            };
            let values = self.scratch.values.run(&round.tensor.code, &context);
            for (slot, value) in &round.tensor.slots {
                self.tensor_slots[slots.start + slot] = values[*value];
            }
            for (i, value) in &round.tensor.state {
                self.tensor_state[state.start + i] = values[*value];
            }
        }
    }

    /// A pass over all groups, and its sums.
    fn pass(&mut self, pass: &Ready) {
        let (groups, tensors) = (self.groups.len(), self.cuts.tensors.len());
        let table = self.coefficients.len() / (groups * self.steps).max(1);
        let mut first_piece = 0;
        for (g, group) in self.groups.iter().enumerate() {
            let pieces = first_piece..first_piece + self.cuts.group_pieces[g];
            first_piece = pieces.end;
            let at = (g * self.steps + self.slot) * table;
            let slots = self.group_slots.len() / groups;
            let job = Job {
                pass,
                tensors,
                context: Context {
                    coefficients: &self.coefficients[at..at + table],
                    loss: self.loss,
                    scalars: self.scalars,
                    slots: &self.group_slots[g * slots..(g + 1) * slots],
                    tensor_state: self.tensor_state,
                    tensor_slots: self.tensor_slots,
                    shape: self.shapes,
                    ..Context::default()
                },
            };
            let sums = pass.sums.len();
            let end = group.start + group.len;
            let read = self.read.map(|vector| &vector[group.start..end]);
            let write = self.write.part(group.start, end);
            let partial = &mut self.partial[pieces.start * sums..pieces.end * sums];
            job.run(&self.cuts.pieces[pieces], 0, read, write, partial);
        }
        let Scratch {
            sums, tensor_sums, ..
        } = &mut *self.scratch;
        let adding = || pass.sums.iter().map(|(sum, _)| sum.how);
        sums.clear();
        sums.resize(pass.sums.len(), 0.0);
        tensor_sums.clear();
        tensor_sums.resize(tensors * pass.sums.len(), 0.0);
        if pass.sums.is_empty() {
            return;
        }
        let partial = self.partial.chunks_exact(pass.sums.len());
        for (piece, partial) in self.cuts.pieces.iter().zip(partial) {
            let first = piece.tensor as usize * pass.sums.len();
            for (i, (how, x)) in adding().zip(partial).enumerate() {
                sums[i] = how.join(sums[i], *x);
                tensor_sums[first + i] = how.join(tensor_sums[first + i], *x);
            }
        }
    }
}

/// A pass over one group.
struct Job<'a> {
    pass: &'a Ready,
    tensors: usize,
    /// With the tables of all tensors.
    context: Context<'a>,
}

impl Job<'_> {
    /// Runs it on neighbouring pieces, of which the vectors are the parts from `base` on.
    fn run(
        &self,
        pieces: &[Piece],
        base: usize,
        read: [&[f32]; 1],
        mut write: Slices,
        partial: &mut [f64],
    ) {
        let sums = self.pass.sums.len();
        if pieces.len() <= 1 || read[0].len() <= CHUNK {
            for (i, piece) in pieces.iter().enumerate() {
                let start = piece.start as usize - base;
                let end = start + piece.len as usize;
                let own = &mut partial[i * sums..(i + 1) * sums];
                self.piece(
                    piece,
                    read.map(|x| &x[start..end]),
                    write.part(start, end),
                    own,
                );
            }
            return;
        }
        let (left, right) = pieces.split_at(pieces.len() / 2);
        let middle = right[0].start as usize;
        let (partial_left, partial_right) = partial.split_at_mut(left.len() * sums);
        let (write_left, write_right) = write.split_at(middle - base);
        let reads = read.map(|x| x.split_at(middle - base));
        let (read_left, read_right) = (reads.map(|x| x.0), reads.map(|x| x.1));
        rayon::join(
            || self.run(left, base, read_left, write_left, partial_left),
            || self.run(right, middle, read_right, write_right, partial_right),
        );
    }

    fn piece(&self, piece: &Piece, read: [&[f32]; 1], mut write: Slices, sums: &mut [f64]) {
        thread_local! {
            static REGISTERS: RefCell<Registers> = RefCell::default();
        }
        let context = self.context.of_tensor(piece.tensor as usize, self.tensors);
        REGISTERS.with_borrow_mut(|registers| {
            registers.prepare(self.pass, &context);
            sums.fill(0.0);
            for start in (0..read[0].len()).step_by(BLOCK) {
                let end = (start + BLOCK).min(read[0].len());
                registers.block(self.pass, read, &mut write, start..end, sums);
            }
        });
    }
}

/// Vectors that a step writes, or one part of each.
struct Slices<'a> {
    count: usize,
    at: [&'a mut [f32]; MOST],
}

impl Default for Slices<'_> {
    fn default() -> Self {
        let at = [(); MOST].map(|()| Default::default());
        Slices { count: 0, at }
    }
}

impl<'a> Slices<'a> {
    fn push(&mut self, vector: &'a mut [f32]) {
        self.at[self.count] = vector;
        self.count += 1;
    }

    fn part(&mut self, start: usize, end: usize) -> Slices<'_> {
        let mut part = Slices::default();
        let vectors = self.at[..self.count].iter_mut();
        vectors.for_each(|vector| part.push(&mut vector[start..end]));
        part
    }

    fn split_at(&mut self, at: usize) -> (Slices<'_>, Slices<'_>) {
        let (mut left, mut right) = (Slices::default(), Slices::default());
        for vector in &mut self.at[..self.count] {
            let (x, y) = vector.split_at_mut(at);
            left.push(x);
            right.push(y);
        }
        (left, right)
    }
}

/// Where an operand of a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// Of the vectors that are only read, and of those that may be written.
    Read(usize),
    Write(usize),
    Register(usize),
    Uniform(usize),
}

/// An operator with its places; `None` copies its operand.
struct Operation {
    operator: Option<Operator>,
    operands: [Source; 3],
    to: Source,
}

/// A pass made ready: where every value lies. Operators write to vectors directly where nothing reads the old values after
/// them.
struct Ready {
    uniforms: Vec<Number>,
    operations: Vec<Operation>,
    /// Copies from registers when all else is done.
    copies: Vec<(usize, usize)>,
    sums: Vec<(PassSum, Source)>,
    registers: usize,
}

impl Ready {
    fn new(pass: &Pass, cells: &[Cell]) -> Ready {
        // The gradient is read alone; all others lie in the order of cells: parameters, state, work.
        let cell = |i: usize| match cells[i] {
            Cell::Gradient => Source::Read(0),
            _ => {
                let before = |cell: &&Cell| **cell != Cell::Gradient;
                let rank = cells[..i].iter().filter(before).count();
                Source::Write(rank)
            }
        };
        // Values in order, then one copy for each store of what is no operator's fresh result.
        struct Value {
            operator: Option<Operator>,
            operands: Vec<usize>,
            source: Option<Source>,
        }
        let mut values: Vec<Value> = pass
            .code
            .instructions
            .iter()
            .map(|instruction| match instruction {
                Instruction::Read(Element::Cell(i)) => Value {
                    operator: None,
                    operands: Vec::new(),
                    source: Some(cell(*i)),
                },
                Instruction::Read(Element::Uniform(i)) => Value {
                    operator: None,
                    operands: Vec::new(),
                    source: Some(Source::Uniform(*i)),
                },
                Instruction::Apply(operator, operands) => Value {
                    operator: Some(*operator),
                    operands: operands.clone(),
                    source: None,
                },
            })
            .collect();
        let mut stores: Vec<(usize, usize)> = Vec::new();
        for (to, value) in &pass.stores {
            let taken = stores.iter().any(|(_, other)| other == value);
            let value = match values[*value].source.is_some() || taken {
                false => *value,
                true => {
                    values.push(Value {
                        operator: None,
                        operands: vec![*value],
                        source: None,
                    });
                    values.len() - 1
                }
            };
            stores.push((*to, value));
        }
        let is_operation = |value: &Value| value.source.is_none();
        let end = values.len();
        // When each value is read for the last time.
        let mut last = vec![0; end];
        for (i, value) in values.iter().enumerate() {
            value.operands.iter().for_each(|x| last[*x] = i);
        }
        pass.sums.iter().for_each(|sum| last[sum.value] = end);
        // Is what a vector holds before the pass read after an operation?
        let reads = last.clone();
        let read_after = |source: Source, i: usize| {
            let reads = values
                .iter()
                .zip(&reads)
                .filter(|(value, _)| value.source == Some(source));
            let mut reads = reads.map(|(_, last)| *last);
            reads.any(|last| last > i)
        };
        let mut places: Vec<Option<Source>> = values.iter().map(|value| value.source).collect();
        let (mut operations, mut copies) = (Vec::new(), Vec::new());
        let (mut free, mut registers): (Vec<usize>, usize) = (Vec::new(), 0);
        for (i, value) in values
            .iter()
            .enumerate()
            .filter(|(_, value)| is_operation(value))
        {
            let stored = stores.iter().find(|(_, stored)| *stored == i);
            let direct = stored.map(|(to, _)| cell(*to));
            let direct = direct.filter(|to| !read_after(*to, i));
            // An operand's register may take the result.
            for x in &value.operands {
                if let (Some(Source::Register(r)), true) = (places[*x], last[*x] == i)
                    && !free.contains(&r)
                {
                    free.push(r);
                }
            }
            let to = direct.unwrap_or_else(|| {
                let register = free.pop().unwrap_or_else(|| {
                    registers += 1;
                    registers - 1
                });
                if let Some((to, _)) = stored {
                    copies.push((register, *to));
                    last[i] = end;
                }
                Source::Register(register)
            });
            let mut operands = [Source::Uniform(0); 3];
            for (operand, x) in operands.iter_mut().zip(&value.operands) {
                *operand = places[*x].expect("computed before");
            }
            places[i] = Some(to);
            operations.push(Operation {
                operator: value.operator,
                operands,
                to,
            });
            // Never read: its register is free again.
            if let (Source::Register(r), 0) = (to, last[i]) {
                free.push(r);
            }
        }
        let copies = copies.into_iter().map(|(register, to)| match cell(to) {
            Source::Write(to) => (register, to),
            other => unreachable!("a store to {other:?}"),
        });
        let copies = copies.collect();
        let sums = pass.sums.iter();
        let sums = sums.map(|sum| (*sum, places[sum.value].expect("computed")));
        let sums = sums.collect();
        Ready {
            uniforms: pass.uniforms.clone(),
            operations,
            copies,
            sums,
            registers,
        }
    }
}

/// A thread's workspace.
#[derive(Default)]
struct Registers {
    at: Vec<Vec<f32>>,
    uniforms: Vec<f32>,
    /// Operands of operators of three, spread.
    spread: [Vec<f32>; 3],
}

/// An operand of a block.
#[derive(Clone, Copy)]
enum Operand<'a> {
    Block(&'a [f32]),
    Uniform(f32),
    /// What the result replaces.
    Same,
}

impl Registers {
    fn prepare(&mut self, pass: &Ready, context: &Context) {
        let more = pass.registers.saturating_sub(self.at.len());
        self.at.extend((0..more).map(|_| vec![0.0; BLOCK]));
        self.uniforms.clear();
        let uniforms = pass.uniforms.iter();
        self.uniforms
            .extend(uniforms.map(|number| context.number(*number) as f32));
    }

    fn block(
        &mut self,
        pass: &Ready,
        read: [&[f32]; 1],
        write: &mut Slices,
        block: std::ops::Range<usize>,
        sums: &mut [f64],
    ) {
        let len = block.len();
        for operation in &pass.operations {
            let (mut register, mut vector) = (Vec::new(), Default::default());
            let to: &mut [f32] = match operation.to {
                Source::Register(r) => {
                    register = std::mem::take(&mut self.at[r]);
                    &mut register[..len]
                }
                Source::Write(i) => {
                    vector = std::mem::take(&mut write.at[i]);
                    &mut vector[block.clone()]
                }
                other => unreachable!("a result in {other:?}"),
            };
            let operands = operation.operands.map(|source| match source {
                source if source == operation.to => Operand::Same,
                Source::Read(i) => Operand::Block(&read[i][block.clone()]),
                Source::Write(i) => Operand::Block(&write.at[i][block.clone()]),
                Source::Register(r) => Operand::Block(&self.at[r][..len]),
                Source::Uniform(i) => {
                    Operand::Uniform(self.uniforms.get(i).copied().unwrap_or_default())
                }
            });
            apply(operation.operator, operands, to, &mut self.spread);
            match operation.to {
                Source::Register(r) => self.at[r] = register,
                Source::Write(i) => write.at[i] = vector,
                _ => {}
            }
        }
        for (sum, (pass, source)) in sums.iter_mut().zip(&pass.sums) {
            let values = match *source {
                Source::Read(i) => &read[i][block.clone()],
                Source::Write(i) => &write.at[i][block.clone()],
                Source::Register(r) => &self.at[r][..len],
                Source::Uniform(i) => {
                    self.spread[0].clear();
                    self.spread[0].resize(len, self.uniforms[i]);
                    &self.spread[0][..]
                }
            };
            *sum = pass.how.join(*sum, pass.how.of_block(values));
        }
        for (register, to) in &pass.copies {
            write.at[*to][block.clone()].copy_from_slice(&self.at[*register][..len]);
        }
    }
}

impl Adding {
    fn join(self, x: f64, y: f64) -> f64 {
        match self {
            Adding::Values | Adding::Squares => x + y,
            Adding::LargestAbsolute => match x {
                x if x > y || x.is_nan() => x,
                _ => y,
            },
        }
    }

    fn of_block(self, values: &[f32]) -> f64 {
        match self {
            Adding::Values => lanes(values, |sum, x| sum + x),
            Adding::Squares => lanes(values, |sum, x| sum + x * x),
            Adding::LargestAbsolute => {
                let largest = |most: f64, x: &f32| self.join(most, f64::from(x.abs()));
                values.iter().fold(0.0, largest)
            }
        }
    }
}

/// A sum in eight lanes.
#[inline(always)]
fn lanes(values: &[f32], add: impl Fn(f64, f64) -> f64) -> f64 {
    let mut lanes = [0.0; 8];
    let blocks = values.chunks_exact(8);
    let rest = blocks.remainder();
    for block in blocks {
        for (lane, x) in lanes.iter_mut().zip(block) {
            *lane = add(*lane, f64::from(*x));
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane = add(*lane, f64::from(*x));
    }
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + b) + (c + d)) + ((e + f) + (g + h))
}

#[inline(always)]
fn unary(x: Operand, to: &mut [f32], f: impl Fn(f32) -> f32) {
    match x {
        Operand::Block(x) => to.iter_mut().zip(x).for_each(|(to, x)| *to = f(*x)),
        Operand::Uniform(x) => to.fill(f(x)),
        Operand::Same => to.iter_mut().for_each(|to| *to = f(*to)),
    }
}

#[inline(always)]
fn binary([x, y]: [Operand; 2], to: &mut [f32], f: impl Fn(f32, f32) -> f32) {
    use Operand::*;
    match (x, y) {
        (Block(x), Block(y)) => {
            let operands = x.iter().zip(y);
            to.iter_mut()
                .zip(operands)
                .for_each(|(to, (x, y))| *to = f(*x, *y));
        }
        (Block(x), Uniform(y)) => to.iter_mut().zip(x).for_each(|(to, x)| *to = f(*x, y)),
        (Uniform(x), Block(y)) => to.iter_mut().zip(y).for_each(|(to, y)| *to = f(x, *y)),
        (Same, Block(y)) => to.iter_mut().zip(y).for_each(|(to, y)| *to = f(*to, *y)),
        (Block(x), Same) => to.iter_mut().zip(x).for_each(|(to, x)| *to = f(*x, *to)),
        (Same, Uniform(y)) => to.iter_mut().for_each(|to| *to = f(*to, y)),
        (Uniform(x), Same) => to.iter_mut().for_each(|to| *to = f(x, *to)),
        (Same, Same) => to.iter_mut().for_each(|to| *to = f(*to, *to)),
        (Uniform(x), Uniform(y)) => to.fill(f(x, y)),
    }
}

fn apply(
    operator: Option<Operator>,
    operands: [Operand; 3],
    to: &mut [f32],
    spread: &mut [Vec<f32>; 3],
) {
    use Operator::*;
    let [x, y, _] = operands;
    let two = [x, y];
    let truth = |x: bool| if x { 1.0 } else { 0.0 };
    match operator {
        None => unary(x, to, |x| x),
        Some(Negate) => unary(x, to, |x| -x),
        Some(Not) => unary(x, to, |x| truth(x == 0.0)),
        Some(Sqrt) => unary(x, to, f32::sqrt),
        Some(Abs) => unary(x, to, f32::abs),
        Some(Sign) => unary(x, to, |x| match x == 0.0 || x.is_nan() {
            true => x,
            false => 1f32.copysign(x),
        }),
        Some(Exp) => unary(x, to, f32::exp),
        Some(Log) => unary(x, to, f32::ln),
        Some(Floor) => unary(x, to, f32::floor),
        Some(Add) => binary(two, to, |x, y| x + y),
        Some(Subtract) => binary(two, to, |x, y| x - y),
        Some(Multiply) => binary(two, to, |x, y| x * y),
        Some(Divide) => binary(two, to, |x, y| x / y),
        Some(Power) => binary(two, to, f32::powf),
        Some(Less) => binary(two, to, |x, y| truth(x < y)),
        Some(LessEqual) => binary(two, to, |x, y| truth(x <= y)),
        Some(Greater) => binary(two, to, |x, y| truth(x > y)),
        Some(GreaterEqual) => binary(two, to, |x, y| truth(x >= y)),
        Some(Equal) => binary(two, to, |x, y| truth(x == y)),
        Some(NotEqual) => binary(two, to, |x, y| truth(x != y)),
        Some(And) => binary(two, to, |x, y| truth(x != 0.0 && y != 0.0)),
        Some(Or) => binary(two, to, |x, y| truth(x != 0.0 || y != 0.0)),
        Some(Min) => binary(two, to, |x, y| match x < y || x.is_nan() {
            true => x,
            false => y,
        }),
        Some(Max) => binary(two, to, |x, y| match x > y || x.is_nan() {
            true => x,
            false => y,
        }),
        Some(Where) if matches!(x, Operand::Uniform(_)) => {
            let Operand::Uniform(condition) = x else {
                return;
            };
            let [_, a, b] = operands;
            unary(if condition != 0.0 { a } else { b }, to, |x| x);
        }
        Some(Where) => ternary(operands, to, spread, |c, a, b| if c != 0.0 { a } else { b }),
        Some(MultiplyAdd) => ternary(operands, to, spread, f32::mul_add),
    }
}

fn ternary(
    operands: [Operand; 3],
    to: &mut [f32],
    spread: &mut [Vec<f32>; 3],
    f: impl Fn(f32, f32, f32) -> f32,
) {
    let mut spread = spread.iter_mut();
    let [x, y, z] = operands.map(|operand| {
        let spread = spread.next().expect("three");
        match operand {
            Operand::Block(block) => return block,
            Operand::Uniform(x) => {
                spread.clear();
                spread.resize(to.len(), x);
            }
            Operand::Same => {
                spread.clear();
                spread.extend_from_slice(to);
            }
        }
        &spread[..]
    });
    let operands = x.iter().zip(y).zip(z);
    to.iter_mut()
        .zip(operands)
        .for_each(|(to, ((x, y), z))| *to = f(*x, *y, *z));
}
