//! The tables of losses and scores.

use crate::graph::Var;

/// A loss or a score by name: a scalar of a model's output and its targets.
pub struct Row {
    pub name: &'static str,
    pub about: &'static str,
    pub apply: for<'t> fn(Var<'t>, Var<'t>) -> Var<'t>,
    pub targets: Targets,
}

/// What the targets must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Targets {
    /// Class indices; the model gives one output per class.
    Classes,
    /// -1 or 1 for each output.
    Signs,
    /// A number for each output.
    Numbers,
}

pub const LOSSES: &[Row] = &[
    Row {
        name: "cross_entropy",
        about: "mean cross entropy of softmax(output) and the class index",
        apply: |output, target| output.cross_entropy(target),
        targets: Targets::Classes,
    },
    Row {
        name: "logistic",
        about: "mean of ln(1 + exp(-y f)) for targets y in {-1, 1}",
        apply: |output, target| output.logistic(target),
        targets: Targets::Signs,
    },
    Row {
        name: "squared",
        about: "mean squared error over all entries",
        apply: |output, target| output.squared(target),
        targets: Targets::Numbers,
    },
];

/// Scores beside the losses, each of which can serve as one too.
pub const SCORES: &[Row] = &[
    Row {
        name: "cross_entropy_accuracy",
        about: "share of samples whose largest output is that of their class",
        apply: |output, target| output.class_accuracy(target),
        targets: Targets::Classes,
    },
    Row {
        name: "logistic_accuracy",
        about: "share of samples where sigmoid(f) >= 0.5 says +1 and the target agrees",
        apply: |output, target| output.sign_accuracy(target),
        targets: Targets::Signs,
    },
];

pub fn loss(name: &str) -> Option<&'static Row> {
    LOSSES.iter().find(|row| row.name == name)
}

pub fn score(name: &str) -> Option<&'static Row> {
    SCORES.iter().chain(LOSSES).find(|row| row.name == name)
}
