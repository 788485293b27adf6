//! The tables of losses and scores.

use crate::graph::Var;

/// A loss or a score by name: of a model's output and its targets, a number for each batch of this many samples.
pub struct Row {
    pub name: &'static str,
    pub about: &'static str,
    pub apply: for<'t> fn(Var<'t>, Var<'t>, usize) -> Var<'t>,
    /// The mean with label smoothing, and at labels drawn from the output, where there are such things.
    pub smoothed: Option<Smoothed>,
    pub drawn: Option<Drawn>,
    pub targets: Targets,
}

/// Of a model's output, its targets, and the part of a label that is spread over all classes.
pub type Smoothed = for<'t> fn(Var<'t>, Var<'t>, f32) -> Var<'t>;

/// Of a model's output and its targets, which say where a label is to be drawn.
pub type Drawn = for<'t> fn(Var<'t>, Var<'t>) -> Var<'t>;

/// What the targets must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Targets {
    /// Class indices; the model gives one output per class.
    Classes,
    /// A token, or -1, for each token of a sample; the model gives one output per token of the vocabulary.
    Tokens,
    /// -1 or 1 for each output.
    Signs,
    /// A number for each output.
    Numbers,
}

pub const LOSSES: &[Row] = &[
    Row {
        name: "cross_entropy",
        about: "mean cross entropy of softmax(output) and the class index",
        apply: |output, target, batch| output.cross_entropy_by_batch(target, batch),
        smoothed: Some(|output, target, smoothing| {
            output.smoothed_cross_entropy(target, smoothing)
        }),
        drawn: Some(|output, target| output.cross_entropy_of_draws(target)),
        targets: Targets::Classes,
    },
    Row {
        name: "sequence_cross_entropy",
        about: "mean cross entropy of softmax(output) and the next token, over all tokens whose target is not -1",
        apply: |output, target, batch| {
            output.cross_entropy_by_batch(target, batch * tokens(target))
        },
        smoothed: Some(|output, target, smoothing| {
            output.smoothed_cross_entropy(target, smoothing)
        }),
        drawn: Some(|output, target| output.cross_entropy_of_draws(target)),
        targets: Targets::Tokens,
    },
    Row {
        name: "logistic",
        about: "mean of ln(1 + exp(-y f)) for targets y in {-1, 1}",
        apply: |output, target, batch| output.logistic_by_batch(target, batch),
        smoothed: None,
        drawn: None,
        targets: Targets::Signs,
    },
    Row {
        name: "squared",
        about: "mean squared error over all entries",
        apply: |output, target, batch| output.squared_by_batch(target, batch),
        smoothed: None,
        drawn: None,
        targets: Targets::Numbers,
    },
];

/// Scores beside the losses, each of which can serve as one too.
pub const SCORES: &[Row] = &[
    Row {
        name: "cross_entropy_accuracy",
        about: "share of samples whose largest output is that of their class",
        apply: |output, target, batch| output.class_accuracy(target, batch),
        smoothed: None,
        drawn: None,
        targets: Targets::Classes,
    },
    Row {
        name: "sequence_cross_entropy_accuracy",
        about: "share of tokens whose largest output is that of the next token, among those whose target is not -1",
        apply: |output, target, batch| output.class_accuracy(target, batch * tokens(target)),
        smoothed: None,
        drawn: None,
        targets: Targets::Tokens,
    },
    Row {
        name: "logistic_accuracy",
        about: "share of samples where sigmoid(f) >= 0.5 says +1 and the target agrees",
        apply: |output, target, batch| output.sign_accuracy(target, batch),
        smoothed: None,
        drawn: None,
        targets: Targets::Signs,
    },
];

/// Tokens of a sample, of targets (N, T).
fn tokens(target: Var<'_>) -> usize {
    target.rows_columns().1
}

pub fn loss(name: &str) -> Option<&'static Row> {
    LOSSES.iter().find(|row| row.name == name)
}

pub fn score(name: &str) -> Option<&'static Row> {
    SCORES.iter().chain(LOSSES).find(|row| row.name == name)
}
