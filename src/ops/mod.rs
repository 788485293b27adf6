//! Tensor ops: one file each, holding a method on [`Var`], the bodies and the op's row.
//!
//! Everything that says "for each op" (finite differences, benchmarks) walks [`ROWS`].

mod accuracy;
mod add;
mod attention;
mod average_pool;
mod batch_norm;
mod conv2d;
mod cross_entropy;
mod dropout;
mod embed_tokens;
mod embedding;
mod gelu;
mod layer_norm;
mod linear;
mod logistic;
mod max_pool;
mod relu;
mod row_dot;
mod rows;
mod select_token;
mod shortcut;
mod squared;
pub mod window_bias;
mod windows;

use crate::graph::Var;

/// A row of the table of ops.
pub struct Row {
    pub name: &'static str,
    pub cases: &'static [Case],
}

/// Shapes and values on which an op is tested.
pub struct Case {
    pub about: &'static str,
    /// Shapes of the operands that have gradients.
    pub inputs: &'static [&'static [usize]],
    /// A last operand that is data: its shape, and what it holds.
    pub data: Option<(&'static [usize], Data)>,
    /// Draw inputs no closer to 0 than 0.05, where the op has a kink.
    pub avoids_zero: bool,
    /// Draw inputs that are 0.1 or more apart, where the op picks one of them.
    pub apart: bool,
    /// Length of the model's buffers, all of them the op's.
    pub buffers: usize,
    pub apply: for<'t> fn(&[Var<'t>]) -> Var<'t>,
}

/// Data operands.
#[derive(Clone, Copy, Debug)]
pub enum Data {
    Normal,
    /// -1 or 1.
    Signs,
    /// Integers, those of column j below the j-th bound.
    Indices(&'static [usize]),
}

impl Case {
    pub(crate) const fn new(
        about: &'static str,
        inputs: &'static [&'static [usize]],
        apply: for<'t> fn(&[Var<'t>]) -> Var<'t>,
    ) -> Case {
        Case {
            about,
            inputs,
            data: None,
            avoids_zero: false,
            apart: false,
            buffers: 0,
            apply,
        }
    }

    pub(crate) const fn with_data(mut self, shape: &'static [usize], data: Data) -> Case {
        self.data = Some((shape, data));
        self
    }

    const fn avoiding_zero(mut self) -> Case {
        self.avoids_zero = true;
        self
    }

    const fn apart(mut self) -> Case {
        self.apart = true;
        self
    }

    const fn with_buffers(mut self, len: usize) -> Case {
        self.buffers = len;
        self
    }
}

pub const ROWS: &[Row] = &[
    add::ROW,
    attention::ROW,
    average_pool::ROW,
    batch_norm::ROW,
    conv2d::ROW,
    cross_entropy::ROW,
    dropout::ROW,
    embed_tokens::ROW,
    embedding::ROW,
    gelu::ROW,
    layer_norm::ROW,
    linear::ROW,
    logistic::ROW,
    max_pool::ROW,
    relu::ROW,
    row_dot::ROW,
    rows::ROW,
    select_token::ROW,
    shortcut::ROW,
    squared::ROW,
    window_bias::ROW,
    windows::ROW,
];
