//! What a plan costs: vectors moved, and what is kept from step to step.

use std::collections::BTreeSet;

use super::plan::{Cell, Element, Instruction, Pass, Plan};

const SINGLE: usize = size_of::<f32>();
const DOUBLE: usize = size_of::<f64>();

impl Pass {
    /// How many vectors it reads.
    pub fn reads(&self) -> usize {
        let read = self.code.instructions.iter();
        let cells = read.filter_map(|instruction| match instruction {
            Instruction::Read(Element::Cell(cell)) => Some(*cell),
            _ => None,
        });
        cells.collect::<BTreeSet<_>>().len()
    }

    /// How many vectors it writes.
    pub fn writes(&self) -> usize {
        self.stores.len()
    }

    /// For each parameter.
    pub fn bytes(&self) -> usize {
        SINGLE * (self.reads() + self.writes())
    }
}

/// Bytes that are kept from step to step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateBytes {
    pub per_parameter: usize,
    pub per_tensor: usize,
    /// Numbers that there are once.
    pub others: usize,
}

impl Plan {
    /// The passes of a step.
    pub fn passes(&self) -> impl Iterator<Item = &Pass> {
        self.rounds.iter().filter_map(|round| round.pass.as_ref())
    }

    /// What a step's passes move, for each parameter.
    pub fn bytes(&self) -> usize {
        self.passes().map(Pass::bytes).sum()
    }

    /// Further gradients that a step asks for.
    pub fn gradients(&self) -> usize {
        self.rounds.iter().filter(|round| round.gradient).count()
    }

    /// Newton-Schulz iterations of a step.
    pub fn orthogonalizations(&self) -> usize {
        self.rounds.iter().map(|round| round.orthogonal.len()).sum()
    }

    pub fn state_bytes(&self) -> StateBytes {
        let kept = |cell: &&Cell| matches!(cell, Cell::State(_) | Cell::Start);
        StateBytes {
            per_parameter: SINGLE * self.cells.iter().filter(kept).count(),
            per_tensor: DOUBLE * self.tensors,
            others: DOUBLE * (self.scalars.len() + self.host.initial.len()),
        }
    }
}
