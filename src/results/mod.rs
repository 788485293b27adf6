//! Results of runs: the output file as the reference writes it, its reader, and what is made of it.

use serde_json::{Map, Value};

/// What is recorded of one epoch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Epoch {
    pub epoch: usize,
    pub learning_rate: f64,
    /// Seconds, training only.
    pub train_epoch_time: f64,
    /// l2 norms over all parameters, accumulated in f32.
    pub model_norm: f32,
    pub grad_norm: f32,
    pub train_loss: f64,
    pub train_score: f64,
    pub val_loss: f64,
    pub val_score: f64,
    /// t of every step of the epoch (methods with an adaptive step).
    pub step_size_list: Option<Vec<f64>>,
    /// Lower bound and its estimate at the end of the epoch (star variants).
    pub fstar: Option<f64>,
    pub h: Option<f64>,
}

/// A finished run. `config` and `summary` never hold a non-finite number.
#[derive(Clone, Debug, PartialEq)]
pub struct RunResult {
    pub config: Map<String, Value>,
    pub history: Vec<Epoch>,
    pub summary: Map<String, Value>,
}
