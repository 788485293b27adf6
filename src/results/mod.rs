//! Results of runs: the output file as the reference writes it, its reader, and what is made of it.

pub mod compare;
pub mod edit;
pub mod escape;
pub mod file;
pub mod identity;
pub mod json;
mod loose;
pub mod measure;
pub mod output;
pub mod plot;
pub mod provenance;
pub mod record;
pub mod report;
pub mod store;
pub mod table;
pub mod timestamp;

use serde_json::{Map, Value};

pub use output::Run;
pub use record::Record;
pub use store::{Options, Overwrite, Store};

use json::Json;

/// Keys of a history that hold seconds, which depend on the machine: nothing that compares runs looks at them.
pub const TIMES: [&str; 2] = ["train_epoch_time", "eval_epoch_time"];

/// What is recorded of one epoch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Epoch {
    pub epoch: usize,
    pub learning_rate: Json<'static>,
    /// Seconds, training only.
    pub train_epoch_time: f64,
    /// Seconds of evaluation, both halves.
    pub eval_epoch_time: f64,
    /// l2 norms over all parameters, accumulated in f32.
    pub model_norm: f32,
    pub grad_norm: f32,
    pub train_loss: f64,
    pub train_score: f64,
    pub val_loss: f64,
    pub val_score: f64,
    /// What the optimizer reports of every step, by name (`step_size_list`).
    pub series: Vec<(&'static str, Vec<f64>)>,
    /// What it reports of the epoch (`fstar`, `h`).
    pub values: Vec<(&'static str, Json<'static>)>,
    /// What was logged of its steps, by name (`loss`), each value with the step's number in the run; nothing if no log
    /// was kept.
    pub step_logs: Vec<(&'static str, Vec<(usize, Json<'static>)>)>,
}

impl Epoch {
    pub fn to_json(&self) -> Json<'static> {
        let mut members = vec![
            ("epoch", Json::Int(self.epoch.to_string().into())),
            ("learning_rate", self.learning_rate.clone()),
            ("train_epoch_time", Json::Float(self.train_epoch_time)),
            ("eval_epoch_time", Json::Float(self.eval_epoch_time)),
            ("model_norm", Json::Float(self.model_norm.into())),
            ("grad_norm", Json::Float(self.grad_norm.into())),
            ("train_loss", Json::Float(self.train_loss)),
            ("train_score", Json::Float(self.train_score)),
            ("val_loss", Json::Float(self.val_loss)),
            ("val_score", Json::Float(self.val_score)),
        ];
        members.extend(self.values.iter().cloned());
        members.extend(self.series.iter().map(|(name, list)| {
            let list = list.iter().copied().map(Json::Float).collect();
            (*name, Json::List(list))
        }));
        if !self.step_logs.is_empty() {
            let by_step = |steps: &[(usize, Json<'static>)]| -> Json<'static> {
                let values = steps.iter();
                let values = values.map(|(step, value)| (step.to_string().into(), value.clone()));
                Json::Dict(values.collect())
            };
            let logs = self.step_logs.iter();
            let logs = logs.map(|(name, steps)| ((*name).into(), by_step(steps)));
            members.push(("step_logs", Json::Dict(logs.collect())));
        }
        Json::Dict(members.into_iter().map(|(k, v)| (k.into(), v)).collect())
    }
}

/// A finished run. `config` and `summary` never hold a non-finite number.
#[derive(Clone, Debug, PartialEq)]
pub struct RunResult {
    pub config: Map<String, Value>,
    pub history: Vec<Epoch>,
    pub summary: Map<String, Value>,
}

impl RunResult {
    /// The run as it stands in an output file.
    pub fn to_json(&self) -> Json<'_> {
        Json::Dict(vec![
            ("config".into(), (&self.config).into()),
            (
                "history".into(),
                Json::List(self.history.iter().map(Epoch::to_json).collect()),
            ),
            ("summary".into(), (&self.summary).into()),
        ])
    }
}
