//! A plan as PTX: one entry for each pass, and one for the numbers before it.
//!
//! A pass reads and writes each cell once, four elements at a time where all of its cells are aligned alike. What it sums
//! goes to a row of partial sums for each block, which one block of the next round's numbers adds up, in a fixed order. If
//! it meets tensors, a block takes one [`Piece`](super::places::Piece) of a tensor, else it goes over the whole group.

mod arithmetic;
mod numbers;
mod passes;
mod text;
mod writer;

use std::sync::Arc;

use super::places::Places;
use super::plan::{Cell, Pass, Plan};
use crate::device::gpu::{self, Argument, Grid, Kernel, Parameter, elementwise};
use crate::device::{Program, View};
use crate::error::{Error, Result};
use crate::graph::Range;
use crate::optim::newton_schulz::{Matrices, NewtonSchulz, Polynomial};
use numbers::numbers;
use passes::pass;
use writer::Writer;

/// Threads of every block.
const THREADS: u32 = 256;

const HEADER: &str = ".version 7.8\n.target sm_80\n.address_size 64\n";

/// What an entry is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Given {
    Now,
    Loss,
    Coefficients,
    Scalars,
    ToScalars,
    Slots,
    ToSlots,
    TensorState,
    ToTensorState,
    TensorSlots,
    ToTensorSlots,
    Shapes,
    Pieces,
    Tensors,
    Series,
    Partial,
    ToPartial,
    Cell(usize),
    ToCell(usize),
    /// Of a pass: elements, and how many of them, modulo four, lie between an aligned address and the first one; -1 if
    /// cells differ in that.
    Length,
    Phase,
    /// Of numbers: rows of partial sums, steps of an epoch, groups, tensors.
    Rows,
    Steps,
    Groups,
    TensorCount,
}

impl Given {
    /// `r` and `w`: an address; `i`: a number of 64 bits.
    fn code(self) -> char {
        match self {
            Given::ToScalars
            | Given::ToSlots
            | Given::ToTensorState
            | Given::ToTensorSlots
            | Given::Series
            | Given::ToPartial
            | Given::ToCell(_) => 'w',
            Given::Length
            | Given::Phase
            | Given::Rows
            | Given::Steps
            | Given::Groups
            | Given::TensorCount => 'i',
            _ => 'r',
        }
    }

    fn name(self, plan: &Plan) -> String {
        let cell = |i: usize| match plan.cells[i] {
            Cell::Parameters => "w".to_owned(),
            Cell::Gradient => "g".to_owned(),
            Cell::Start => "w0".to_owned(),
            Cell::State(_) => format!("state{i}"),
            Cell::Work => format!("work{i}"),
        };
        let name = match self {
            Given::Now => "now",
            Given::Loss => "loss",
            Given::Coefficients => "coefficients",
            Given::Scalars => "scalars",
            Given::ToScalars => "to_scalars",
            Given::Slots => "slots",
            Given::ToSlots => "to_slots",
            Given::TensorState => "tensor_state",
            Given::ToTensorState => "to_tensor_state",
            Given::TensorSlots => "tensor_slots",
            Given::ToTensorSlots => "to_tensor_slots",
            Given::Shapes => "shapes",
            Given::Pieces => "pieces",
            Given::Tensors => "tensors",
            Given::Series => "series",
            Given::Partial => "partial",
            Given::ToPartial => "to_partial",
            Given::Cell(i) => return cell(i),
            Given::ToCell(i) => return format!("to_{}", cell(i)),
            Given::Length => "n",
            Given::Phase => "phase",
            Given::Rows => "rows",
            Given::Steps => "steps",
            Given::Groups => "groups",
            Given::TensorCount => "tensor_count",
        };
        name.to_owned()
    }
}

/// An entry and what it wants to be given.
struct Made {
    kernel: Arc<Kernel>,
    given: Vec<Given>,
}

/// The kernels of a plan.
pub struct Kernels {
    text: Arc<str>,
    /// Of each round: numbers and pass.
    rounds: Vec<[Option<Made>; 2]>,
    evaluation: Option<Made>,
}

impl Kernels {
    /// `name` is the method's: entries are called after it.
    pub fn new(plan: &Plan, name: &str) -> Kernels {
        let letter = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        let name = format!("formula_{}", name.chars().map(letter).collect::<String>());
        let mut text = HEADER.to_owned();
        let mut entries: Vec<(String, Vec<Given>)> = Vec::new();
        let mut add = |name: String, entry: Writer| {
            let (entry, given) = entry.finish(&name);
            text.push('\n');
            text.push_str(&entry);
            entries.push((name, given));
            entries.len() - 1
        };
        let mut before = None;
        let mut rounds = Vec::new();
        for (i, round) in plan.rounds.iter().enumerate() {
            let numbers =
                numbers(plan, round, before).map(|entry| add(format!("{name}_numbers{i}"), entry));
            let pass = round.pass.as_ref();
            let written = pass.map(|p| add(format!("{name}_pass{i}"), self::pass(plan, p)));
            rounds.push([numbers, written]);
            before = pass.or(before);
        }
        let evaluation = plan.evaluation.as_ref();
        let evaluation = evaluation.map(|p| add(format!("{name}_evaluation"), self::pass(plan, p)));
        let text: Arc<str> = text.into();
        let made = |i: usize| {
            let (name, given) = &entries[i];
            let parameters = given.iter().map(|given| Parameter {
                name: given.name(plan).into(),
                code: given.code(),
                size: 8,
            });
            Made {
                kernel: Kernel::of_text(&text, name, THREADS, parameters.collect()),
                given: given.clone(),
            }
        };
        Kernels {
            rounds: rounds
                .iter()
                .map(|round| round.map(|i| i.map(made)))
                .collect(),
            evaluation: evaluation.map(made),
            text: Arc::clone(&text),
        }
    }

    /// All entries, as the driver's compiler gets them.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Adds the launches of a step. `gradient` adds those of the gradient at whatever the parameters then are.
    pub fn step(
        &self,
        plan: &Plan,
        at: &Places,
        program: &mut Program,
        gradient: &dyn Fn(&mut Program) -> Result<()>,
    ) -> Result<()> {
        if at.groups.len() > THREADS as usize {
            return Err(Error::usage(format!(
                "groups: {} of one method that sums over all are more than the {THREADS} that its kernels take",
                at.groups.len()
            )));
        }
        let mut before = None;
        for (round, [numbers, written]) in plan.rounds.iter().zip(&self.rounds) {
            if let Some(made) = numbers {
                let rows = before.map_or(0, |pass| at.cuts.blocks(pass).iter().sum());
                gpu::launch(program, &made.kernel, 1, made.of_numbers(plan, at, rows));
            }
            if let (Some(pass), Some(made)) = (&round.pass, written) {
                made.launch_pass(plan, pass, at, program);
                before = Some(pass);
            }
            for iteration in &round.orthogonal {
                let matrices = Matrices {
                    tensors: at.parameters,
                    ranges: at.ranges,
                    vectors: iteration.cells.map(|cell| at.cells[cell]),
                };
                let last = &Polynomial::launch;
                NewtonSchulz::from(iteration).kernels(matrices, program, last);
            }
            if round.gradient {
                gradient(program)?;
            }
        }
        Ok(())
    }

    /// Adds the launches that put the weights to be evaluated in the place of the parameters.
    pub fn evaluation(&self, plan: &Plan, at: &Places, program: &mut Program) {
        if let (Some(pass), Some(made)) = (&plan.evaluation, &self.evaluation) {
            made.launch_pass(plan, pass, at, program);
        }
    }
}

impl Made {
    fn of_numbers(&self, plan: &Plan, at: &Places, rows: usize) -> Vec<Argument> {
        let argument = |given: &Given| match given {
            Given::Coefficients => Argument::read(at.coefficients),
            Given::Slots => Argument::read(at.group_slots),
            Given::ToSlots => Argument::write(at.group_slots),
            Given::Rows => Argument::value(rows as i64),
            Given::Steps => Argument::value(at.steps as i64),
            Given::Groups => Argument::value(at.groups.len() as i64),
            Given::TensorCount => Argument::value(at.cuts.tensors.len() as i64),
            Given::Partial => Argument::read(at.partial),
            given => common(*given, at),
        };
        debug_assert_eq!(plan.cells.len(), at.cells.len());
        self.given.iter().map(argument).collect()
    }

    /// A launch for each group.
    fn launch_pass(&self, plan: &Plan, pass: &Pass, at: &Places, program: &mut Program) {
        let (slots, tables) = (
            plan.group_slots,
            at.coefficients.len / at.groups.len().max(1),
        );
        let blocks = at.cuts.blocks(pass);
        let mut first_block = 0;
        for (i, range) in at.groups.iter().enumerate() {
            if range.len == 0 {
                continue;
            }
            let of_group = |cell: usize| at.cells[cell].part(range.start, range.len);
            let pieces = at.cuts.group_pieces[..i].iter().sum();
            let phase = phase(&self.given, &of_group);
            let argument = |given: &Given| match *given {
                Given::Cell(cell) => Argument::read(of_group(cell)),
                Given::ToCell(cell) => Argument::write(of_group(cell)),
                Given::Coefficients => Argument::read(at.coefficients.part(i * tables, tables)),
                Given::Slots => Argument::read(at.group_slots.part(i * slots, slots)),
                Given::Pieces => Argument::read(at.pieces.part(pieces, at.cuts.group_pieces[i])),
                Given::ToPartial => {
                    let (sums, blocks) = (pass.sums.len(), blocks[i]);
                    Argument::write(at.partial.part(sums * first_block, sums * blocks))
                }
                Given::Length => Argument::value(range.len as i64),
                Given::Phase => Argument::value(phase),
                given => common(given, at),
            };
            let arguments = self.given.iter().map(argument).collect();
            let grid = grid(pass, blocks[i], range, phase);
            gpu::launch(program, &self.kernel, grid, arguments);
            first_block += blocks[i];
        }
    }
}

/// Arguments that are the same for all.
fn common(given: Given, at: &Places) -> Argument {
    match given {
        Given::Now => Argument::read(at.now),
        Given::Loss => Argument::read::<f32>(at.loss),
        Given::Scalars => Argument::read(at.scalars),
        Given::ToScalars => Argument::write(at.scalars),
        Given::TensorState => Argument::read(at.tensor_state),
        Given::ToTensorState => Argument::write(at.tensor_state),
        Given::TensorSlots => Argument::read(at.tensor_slots),
        Given::ToTensorSlots => Argument::write(at.tensor_slots),
        Given::Shapes => Argument::read(at.shapes),
        Given::Tensors => Argument::read(at.tensors),
        Given::Series => Argument::write(at.series),
        given => unreachable!("{given:?} depends on the kernel"),
    }
}

fn grid(pass: &Pass, blocks: usize, range: &Range, phase: i64) -> Grid {
    let elements = if phase < 0 {
        range.len
    } else {
        range.len.div_ceil(4)
    };
    match pass.by_tensor || !pass.sums.is_empty() {
        true => blocks.into(),
        false => elementwise(elements),
    }
}

/// See [`Given::Phase`].
fn phase(given: &[Given], of_group: &dyn Fn(usize) -> View<f32>) -> i64 {
    let mut cells = given.iter().filter_map(|given| match given {
        Given::Cell(cell) | Given::ToCell(cell) => Some(of_group(*cell).start % 4),
        _ => None,
    });
    let first = cells.next().unwrap_or(0);
    match cells.all(|start| start == first) {
        true => first as i64,
        false => -1,
    }
}

#[cfg(test)]
mod tests;
