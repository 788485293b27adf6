//! Tensor ops: one file each, holding a method on [`Var`], the bodies and the op's row.
//!
//! Everything that says "for each op" (finite differences, benchmarks) walks [`ROWS`].

mod accuracy;
mod add;
mod attention;
mod average_pool;
mod cross_entropy;
mod dropout;
mod embed_tokens;
mod embedding;
mod gelu;
mod layer_norm;
mod linear;
mod logistic;
mod relu;
mod row_dot;
mod select_token;
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
    const fn new(
        about: &'static str,
        inputs: &'static [&'static [usize]],
        apply: for<'t> fn(&[Var<'t>]) -> Var<'t>,
    ) -> Case {
        Case {
            about,
            inputs,
            data: None,
            avoids_zero: false,
            apply,
        }
    }

    const fn with_data(mut self, shape: &'static [usize], data: Data) -> Case {
        self.data = Some((shape, data));
        self
    }

    const fn avoiding_zero(mut self) -> Case {
        self.avoids_zero = true;
        self
    }
}

pub const ROWS: &[Row] = &[
    add::ROW,
    attention::ROW,
    average_pool::ROW,
    cross_entropy::ROW,
    dropout::ROW,
    embed_tokens::ROW,
    embedding::ROW,
    gelu::ROW,
    layer_norm::ROW,
    linear::ROW,
    logistic::ROW,
    relu::ROW,
    row_dot::ROW,
    select_token::ROW,
    squared::ROW,
    window_bias::ROW,
    windows::ROW,
];
