//! Tensor ops: one file each, holding a method on [`Var`](crate::graph::Var), the bodies and the op's row.
//!
//! Everything that says "for each op" (finite differences, benchmarks) walks [`ROWS`].

mod accuracy;
mod add;
mod attention;
mod average_pool;
mod batch_norm;
mod case;
mod causal_attention;
mod column_sums;
mod conv2d;
mod cross_entropy;
mod dropout;
mod elementwise;
mod embed_tokens;
mod embedding;
mod gelu;
mod layer_norm;
mod linear;
mod logistic;
mod max_pool;
mod norm;
mod relu;
mod relu_squared;
mod rms_norm;
mod row_dot;
mod select_token;
mod shortcut;
mod silu;
mod squared;
mod swiglu;
mod token_embedding;
pub mod window_bias;
mod windows;

pub use case::{Case, Data, Example, Loaded, LoadedHalf, distance};

/// A row of the table of ops.
pub struct Row {
    pub name: &'static str,
    pub cases: &'static [Case],
}

pub const ROWS: &[Row] = &[
    add::ROW,
    attention::ROW,
    average_pool::ROW,
    batch_norm::ROW,
    causal_attention::ROW,
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
    relu_squared::ROW,
    rms_norm::ROW,
    row_dot::ROW,
    select_token::ROW,
    shortcut::ROW,
    silu::ROW,
    squared::ROW,
    swiglu::ROW,
    token_embedding::ROW,
    window_bias::ROW,
    windows::ROW,
];
