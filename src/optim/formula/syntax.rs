//! What a file of formulas says, before any key has a value.

use std::fmt;

/// A method as its file defines it: read and checked, so that names are known and kinds fit.
#[derive(Clone, Debug)]
pub struct Definition {
    pub name: String,
    pub about: String,
    pub paper: String,
    /// Keys that a config may set, in the file's order.
    pub keys: Vec<Key>,
    /// State: vectors as long as the parameters, numbers for each tensor, and numbers.
    pub vectors: Vec<State>,
    pub tensors: Vec<State>,
    pub scalars: Vec<State>,
    pub step: Vec<Statement>,
    /// Makes the weights that are evaluated, where these are not the trained ones; empty otherwise.
    pub evaluate: Vec<Statement>,
    /// Numbers of a step that the history keeps.
    pub reports: Vec<String>,
    /// Which method updates what this one leaves out: all but matrices.
    pub rest: Option<String>,
    /// The file as it was read.
    pub text: String,
}

/// A key with its default.
#[derive(Clone, Debug)]
pub struct Key {
    pub name: String,
    pub default: Default,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Default {
    Number(f64),
    Flag(bool),
    List(Vec<f64>),
    /// A formula of other keys.
    Formula(Expr),
}

/// A part of the state and what it holds before the first step, a formula of keys.
#[derive(Clone, Debug)]
pub struct State {
    pub name: String,
    pub initial: Expr,
}

/// `name = value`
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    pub name: String,
    pub value: Expr,
    /// Of the value; what the name holds may be wider.
    pub kind: Kind,
}

/// What a value is. Each is spread where it meets a wider one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// One number.
    Scalar,
    /// One number for each tensor.
    Tensor,
    /// As long as the parameters.
    Vector,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Scalar => "scalar",
            Kind::Tensor => "one per tensor",
            Kind::Vector => "vector",
        })
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    Number(f64),
    Name(String),
    /// An entry of a key that is a list.
    Entry(String, usize),
    Apply(Operator, Vec<Expr>),
    /// `clip(x, low, high)`
    Clip(Box<[Expr; 3]>),
    Sum(Sum, Over, Box<Expr>),
    /// The gradient of the same batch at other weights.
    Gradient(Box<Expr>),
    /// `orthogonalize(x, steps, coefficients)`; the last one is the name of a key that is a list.
    Orthogonalize(Box<[Expr; 3]>),
}

/// What makes a number of numbers, elementwise where they are vectors. Conditions are 1 or 0, and everything but 0 is true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operator {
    Negate,
    Not,
    Sqrt,
    Abs,
    Sign,
    Exp,
    Log,
    Floor,
    Add,
    Subtract,
    Multiply,
    Divide,
    Power,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    Equal,
    NotEqual,
    And,
    Or,
    /// Keep a NaN, as PyTorch's do.
    Min,
    Max,
    /// `where(condition, a, b)`
    Where,
    /// `fma(a, b, c)`: a b + c with one rounding.
    MultiplyAdd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sum {
    Sum,
    Mean,
    Norm,
    /// The largest absolute value.
    AbsMax,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Over {
    All,
    /// Each tensor.
    Tensor,
}
