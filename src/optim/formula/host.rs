//! Plans on the CPU: an interpreter over pieces that stay in a core's cache, each operator a loop over a block.
//!
//! Pieces and the order of their sums follow from the shapes alone, so that results do not depend on the number of threads.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError};

use super::blocks::{Ready, Workspace, write_place};
use super::evaluate::{Context, Values};
use super::places::{Cuts, Piece, Places};
use super::plan::{Cell, Orthogonalize, Plan};
use crate::cpu::CHUNK;
use crate::cpu::blocks::Slices;
use crate::device::gpu::kernels::Step;
use crate::device::program::{floats, floats_mut, one};
use crate::device::{Program, View};
use crate::error::Result;
use crate::graph::Range;
use crate::optim::Vectors;
use crate::optim::newton_schulz::{Matrix, NewtonSchulz};

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
                for iteration in &plan.rounds[round].orthogonal {
                    step.orthogonalize(&plan, iteration);
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
    /// The tensors as matrices, and their lengths, where some are made orthogonal.
    matrices: &'a [Matrix],
    lengths: &'a [[usize; 2]],
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
    let matrices: Vec<Matrix> = at.parameters.iter().map(Matrix::of).collect();
    let lengths = at.parameters.iter().map(|tensor| [tensor.range.len, 0]);
    let lengths: Vec<[usize; 2]> = lengths.collect();
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
            matrices: &matrices,
            lengths: &lengths,
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

    /// The Newton-Schulz iteration of all matrices.
    fn orthogonalize(&mut self, plan: &Plan, iteration: &Orthogonalize) {
        let places = iteration.cells.map(|cell| write_place(&plan.cells, cell));
        let mut taken = places.map(|place| std::mem::take(&mut self.write.at[place]));
        let [x, y, a, p] = &mut taken;
        let vectors = Vectors {
            w: x,
            g: self.read[0],
            state: [y, a, p],
        };
        let (iteration, matrices) = (NewtonSchulz::from(iteration), self.matrices);
        vectors.for_tensors(&mut [], self.lengths, |i, vectors, _| {
            let [y, a, p] = vectors.state;
            iteration.on_host(matrices[i], [vectors.w, y, a, p]);
        });
        for (place, vector) in places.into_iter().zip(taken) {
            self.write.at[place] = vector;
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
        let adding = || pass.sums.iter().copied();
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

    fn piece(&self, piece: &Piece, read: [&[f32]; 1], write: Slices, sums: &mut [f64]) {
        thread_local! {
            static WORKSPACE: RefCell<Workspace> = RefCell::default();
        }
        let context = self.context.of_tensor(piece.tensor as usize, self.tensors);
        sums.fill(0.0);
        WORKSPACE.with_borrow_mut(|workspace| {
            workspace.run(self.pass, &context, read[0], write, sums);
        });
    }
}
