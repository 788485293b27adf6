//! A method's step made ready for machines: rounds, each some numbers and then a pass over vectors.
//!
//! Keys have their values here, what is constant is folded, and what follows from the step's number and the learning rate
//! alone is left to the host ([`Plan::host`]), which computes it for a whole epoch. Numbers are double, vectors single;
//! every operator rounds.

use super::syntax::Operator;

/// A step of a method.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// On the host, for every step: its outputs are the step's coefficients.
    pub host: Host,
    /// All vectors of the step.
    pub cells: Vec<Cell>,
    /// Numbers that are kept from step to step, before the first one.
    pub scalars: Vec<f64>,
    /// How many numbers of each tensor are kept. They are 0 before the first step.
    pub tensors: usize,
    /// How many numbers rounds leave for later ones, of each group of parameters and of each tensor.
    pub group_slots: usize,
    pub tensor_slots: usize,
    pub rounds: Vec<Round>,
    /// Writes the weights to be evaluated to the parameters.
    pub evaluation: Option<Pass>,
    /// Does it sum over all parameters, or ask for another gradient? Groups of parameters share such a step.
    pub joins_groups: bool,
}

/// A vector as long as the parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cell {
    Parameters,
    Gradient,
    /// The parameters before the first step.
    Start,
    /// Kept from step to step, and what it holds before the first one.
    State(f64),
    /// Holds anything between steps.
    Work,
}

/// Code whose values are numbered in order: an instruction reads values before its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Code<I> {
    pub instructions: Vec<Instruction<I>>,
}

impl<I> Default for Code<I> {
    fn default() -> Self {
        let instructions = Vec::new();
        Code { instructions }
    }
}

impl<I> Code<I> {
    /// The new value's number.
    pub fn push(&mut self, instruction: Instruction<I>) -> usize {
        self.instructions.push(instruction);
        self.instructions.len() - 1
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Instruction<I> {
    Read(I),
    /// As many arguments as the operator takes.
    Apply(Operator, Vec<usize>),
}

/// What the host computes for each step.
#[derive(Clone, Debug, PartialEq)]
pub struct Host {
    pub code: Code<HostInput>,
    /// Which values are the coefficients.
    pub coefficients: Vec<usize>,
    /// Numbers that only the host keeps from step to step: before the first step, and which value is the next.
    pub initial: Vec<f64>,
    pub state: Vec<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum HostInput {
    Constant(f64),
    Given(Given),
    /// What the host keeps.
    State(usize),
}

/// What is known of a step before it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Given {
    /// The learning rate in force, and the configured one.
    Rate,
    InitialRate,
    /// From 1.
    Step,
    Steps,
    /// From 0.
    Epoch,
    BatchSize,
    /// Of the group, where groups of parameters share the step.
    WeightDecay,
    /// The number of parameters that sums go over.
    Parameters,
}

/// Numbers, then a pass over vectors, then perhaps another gradient.
#[derive(Clone, Debug, PartialEq)]
pub struct Round {
    /// From the sums of the pass before: for each group of parameters, and then for each tensor, whose code finds what the
    /// groups' has written.
    pub group: Numbers,
    pub tensor: Numbers,
    /// `None` if nothing is left to do with vectors.
    pub pass: Option<Pass>,
    /// Behind the pass.
    pub orthogonal: Vec<Orthogonalize>,
    /// Is the gradient at the parameters as they now are put into [`Cell::Gradient`] behind the pass?
    pub gradient: bool,
}

/// The Newton-Schulz iteration of every matrix of a vector whose norms are at most 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Orthogonalize {
    /// 0 if a config gives what is no whole number from 1 to [`MOST_STEPS`].
    pub steps: usize,
    /// Of X, of A X and of A A X, where A is X X^T.
    pub coefficients: [f64; 3],
    /// Cells of X, of the next X, and of workspace. The last X is in the first one after an even number of steps, else in
    /// the second.
    pub cells: [usize; 4],
}

/// Steps of an iteration, at most.
pub const MOST_STEPS: usize = 100;

/// Code over numbers. All groups read before one writes; the last one writes what is kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Numbers {
    pub code: Code<Number>,
    /// Slots for later rounds, and the values that go there.
    pub slots: Vec<(usize, usize)>,
    /// What is kept from step to step, likewise.
    pub state: Vec<(usize, usize)>,
    /// Reports of the step, likewise.
    pub reports: Vec<(usize, usize)>,
}

/// What numbers are made of, and, rounded to single, what vectors meet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    Constant(f64),
    /// Of this step and group, from the host.
    Coefficient(usize),
    /// Of the batch, whose gradient is in [`Cell::Gradient`].
    Loss,
    /// Kept from the step before.
    State(usize),
    /// Of this group, from a round before, or from this round's own numbers where a pass reads it.
    Slot(usize),
    /// The i-th sum of the pass before.
    Sum(usize),
    /// Those of a tensor, as above.
    TensorState(usize),
    TensorSlot(usize),
    /// The i-th sum of the pass before, over this tensor.
    TensorSum(usize),
    Shape(Shape),
}

/// What is known of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// Of all entries.
    Size,
    /// As a matrix: the first dimension and the product of the others.
    Rows,
    Columns,
    Dimensions,
    /// 1 for the weight of the layer that gives the outputs, else 0.
    Head,
}

impl Shape {
    /// In the order of the tables.
    pub const ALL: [Shape; 5] = [
        Shape::Size,
        Shape::Rows,
        Shape::Columns,
        Shape::Dimensions,
        Shape::Head,
    ];
}

/// One pass over all elements of vectors.
#[derive(Clone, Debug, PartialEq)]
pub struct Pass {
    /// Numbers that it reads, each rounded to single once.
    pub uniforms: Vec<Number>,
    pub code: Code<Element>,
    /// Cells that are written, after all of an element was read, and the values that go there.
    pub stores: Vec<(usize, usize)>,
    pub sums: Vec<PassSum>,
    /// Does it meet numbers of tensors or sum over each of them?
    pub by_tensor: bool,
}

/// What vectors are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// Of the cell of that number.
    Cell(usize),
    /// Of [`Pass::uniforms`].
    Uniform(usize),
}

/// A sum in double, in a fixed order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassSum {
    pub how: Adding,
    /// Over each tensor, or over all parameters.
    pub by_tensor: bool,
    pub value: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Adding {
    Values,
    /// Squares, made in double.
    Squares,
    /// No sum: the largest absolute value, NaN if there is one.
    LargestAbsolute,
}
