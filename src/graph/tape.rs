//! The tape: what a forward pass records.

use std::cell::RefCell;

use super::op::{MAX_INPUTS, Op};
use super::params::{Param, Params, Range};

/// Are we training or evaluating? Dropout and batch norm differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Train,
    /// For comparisons with other implementations, whose dropout draws otherwise.
    TrainWithoutDropout,
    Eval,
}

pub(super) enum Source {
    /// Written by the caller before each run.
    Input,
    Param(Range),
    Op {
        op: Box<dyn Op>,
        inputs: Vec<usize>,
        /// Range of the model's buffers that the op reads and writes.
        state: Option<Range>,
    },
}

pub(super) struct Node {
    pub shape: Vec<usize>,
    pub source: Source,
}

pub struct Tape<'t> {
    pub(super) nodes: RefCell<Vec<Node>>,
    pub(super) params: &'t Params,
    mode: Mode,
}

/// A tensor on a tape. Ops are methods on it, each defined in its op's file.
#[derive(Clone, Copy)]
pub struct Var<'t> {
    /// The tape that it is on.
    pub tape: &'t Tape<'t>,
    pub(super) id: usize,
}

impl<'t> Tape<'t> {
    pub(super) fn new(params: &'t Params, mode: Mode) -> Tape<'t> {
        Tape {
            nodes: RefCell::default(),
            params,
            mode,
        }
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    fn push(&'t self, shape: &[usize], source: Source) -> Var<'t> {
        let mut nodes = self.nodes.borrow_mut();
        nodes.push(Node {
            shape: shape.to_vec(),
            source,
        });
        Var {
            tape: self,
            id: nodes.len() - 1,
        }
    }

    pub fn input(&'t self, shape: &[usize]) -> Var<'t> {
        self.push(shape, Source::Input)
    }

    /// A parameter: one tensor, however often it is asked for, so that gradients of all its uses are summed.
    pub fn param(&'t self, param: Param) -> Var<'t> {
        let tensor = self.params.tensor(param);
        let is_it =
            |node: &Node| matches!(node.source, Source::Param(range) if range == tensor.range);
        let there = self.nodes.borrow().iter().position(is_it);
        match there {
            Some(id) => Var { tape: self, id },
            None => self.push(&tensor.shape, Source::Param(tensor.range)),
        }
    }

    /// Records an op.
    pub fn apply(&'t self, op: impl Op + 'static, inputs: &[Var<'t>], shape: &[usize]) -> Var<'t> {
        self.apply_with_state(op, inputs, shape, None)
    }

    /// Records an op that keeps running averages in the model's buffers.
    pub fn apply_with_state(
        &'t self,
        op: impl Op + 'static,
        inputs: &[Var<'t>],
        shape: &[usize],
        state: Option<Range>,
    ) -> Var<'t> {
        assert!(inputs.len() <= MAX_INPUTS);
        let inputs = inputs.iter().map(|v| v.id).collect();
        let op = Box::new(op);
        self.push(shape, Source::Op { op, inputs, state })
    }

    /// Number of ops recorded so far: distinguishes ops that draw random numbers.
    pub fn op_count(&self) -> usize {
        let nodes = self.nodes.borrow();
        let is_op = |n: &&Node| matches!(n.source, Source::Op { .. });
        nodes.iter().filter(is_op).count()
    }
}

impl<'t> Var<'t> {
    pub fn shape(self) -> Vec<usize> {
        self.tape.nodes.borrow()[self.id].shape.clone()
    }

    /// Number of elements.
    pub fn size(self) -> usize {
        self.shape().iter().product()
    }

    /// The shape as (rows, columns), all but the last dimension being rows.
    pub fn rows_columns(self) -> (usize, usize) {
        let shape = self.shape();
        let columns = shape.last().copied().unwrap_or(1);
        (self.size() / columns.max(1), columns)
    }
}
