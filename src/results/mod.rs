//! Results of runs: the output file as the reference writes it, its reader, and what is made of it.

pub mod compare;
pub mod edit;
pub mod escape;
pub mod file;
pub mod identity;
pub mod json;
mod loose;
pub mod measure;
pub mod names;
pub mod output;
pub mod plot;
pub mod profile;
pub mod progress;
pub mod provenance;
pub mod record;
pub mod report;
pub mod significance;
pub mod statistics;
pub mod store;
pub mod table;
pub mod tensorboard;
pub mod timestamp;
pub mod writers;

use std::borrow::Cow;

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
    pub series: Vec<(Name, Vec<f64>)>,
    /// What it reports of the epoch (`fstar`, `h`).
    pub values: Vec<(Name, Json<'static>)>,
    /// What was logged of its steps, by name (`loss`), each value with the step's number in the run; nothing if no log
    /// was kept.
    pub step_logs: Vec<(Name, BySteps<Json<'static>>)>,
    /// What these steps did to the tensors of the parameters, in the order of the summary's `parameters`: norms of weights,
    /// gradients and updates, angles in radians. Nothing if that was not logged.
    pub layer_logs: Vec<(Name, BySteps<Vec<f64>>)>,
}

/// What was logged of steps, by the step's number in the run, ascending.
pub type BySteps<T> = Vec<(usize, T)>;

/// A key of a history.
pub type Name = Cow<'static, str>;

impl Epoch {
    pub fn to_json(&self) -> Json<'static> {
        // In the order of the alphabet, as they will be written.
        let mut members: Vec<(Name, Json)> = vec![
            ("epoch".into(), Json::Int(self.epoch.to_string().into())),
            ("eval_epoch_time".into(), Json::Float(self.eval_epoch_time)),
            ("grad_norm".into(), Json::Float(self.grad_norm.into())),
            ("learning_rate".into(), self.learning_rate.clone()),
            ("model_norm".into(), Json::Float(self.model_norm.into())),
            (
                "train_epoch_time".into(),
                Json::Float(self.train_epoch_time),
            ),
            ("train_loss".into(), Json::Float(self.train_loss)),
            ("train_score".into(), Json::Float(self.train_score)),
            ("val_loss".into(), Json::Float(self.val_loss)),
            ("val_score".into(), Json::Float(self.val_score)),
        ];
        members.extend(self.values.iter().cloned());
        members.extend(self.series.iter().map(|(name, list)| {
            let list = list.iter().copied().map(Json::Float).collect();
            (name.clone(), Json::List(list))
        }));
        if !self.step_logs.is_empty() {
            let by_step = |steps: &[(usize, Json<'static>)]| -> Json<'static> {
                let values = steps.iter();
                let values = values.map(|(step, value)| (step.to_string().into(), value.clone()));
                Json::Dict(values.collect())
            };
            let logs = self.step_logs.iter();
            let logs = logs.map(|(name, steps)| (name.clone(), by_step(steps)));
            members.push(("step_logs".into(), Json::Dict(logs.collect())));
        }
        if !self.layer_logs.is_empty() {
            let by_step = |steps: &[(usize, Vec<f64>)]| -> Json<'static> {
                let floats = |values: &[f64]| values.iter().copied().map(Json::Float).collect();
                let steps = steps.iter();
                let steps = steps
                    .map(|(step, values)| (step.to_string().into(), Json::List(floats(values))));
                Json::Dict(steps.collect())
            };
            let logs = self.layer_logs.iter();
            let logs = logs.map(|(name, steps)| (name.clone(), by_step(steps)));
            members.push(("layer_logs".into(), Json::Dict(logs.collect())));
        }
        Json::Dict(members)
    }

    /// What [`Epoch::to_json`] was given; none if it is something else.
    pub fn from_json(json: &Json) -> Option<Epoch> {
        let name = |name: &str| Name::Owned(name.to_owned());
        let Json::Dict(members) = json else {
            return None;
        };
        let mut read = Epoch::default();
        for (key, value) in members {
            match (key.as_ref(), value) {
                ("epoch", Json::Int(digits)) => read.epoch = digits.parse().ok()?,
                ("learning_rate", rate) => read.learning_rate = rate.to_number()?,
                ("model_norm", norm) => read.model_norm = norm.number()? as f32,
                ("grad_norm", norm) => read.grad_norm = norm.number()? as f32,
                ("train_epoch_time", x) => read.train_epoch_time = x.number()?,
                ("eval_epoch_time", x) => read.eval_epoch_time = x.number()?,
                ("train_loss", x) => read.train_loss = x.number()?,
                ("train_score", x) => read.train_score = x.number()?,
                ("val_loss", x) => read.val_loss = x.number()?,
                ("val_score", x) => read.val_score = x.number()?,
                ("step_logs", Json::Dict(logs)) => {
                    for (log, steps) in logs {
                        let Json::Dict(steps) = steps else {
                            return None;
                        };
                        let steps = steps.iter();
                        let steps =
                            steps.map(|(step, x)| Some((step.parse().ok()?, x.to_number()?)));
                        read.step_logs
                            .push((name(log), steps.collect::<Option<_>>()?));
                    }
                }
                ("layer_logs", Json::Dict(logs)) => {
                    for (log, steps) in logs {
                        read.layer_logs.push((name(log), layers(steps)?));
                    }
                }
                (key, Json::List(list)) => {
                    let list = list.iter().map(Json::number);
                    read.series.push((name(key), list.collect::<Option<_>>()?));
                }
                (key, value) => read.values.push((name(key), value.to_number()?)),
            }
        }
        Some(read)
    }
}

/// Lists of numbers by steps, as `layer_logs` have them.
fn layers(steps: &Json) -> Option<BySteps<Vec<f64>>> {
    let Json::Dict(steps) = steps else {
        return None;
    };
    let list = |list: &Json| match list {
        Json::List(list) => list.iter().map(Json::number).collect(),
        _ => None,
    };
    let steps = steps.iter();
    steps
        .map(|(step, values)| Some((step.parse().ok()?, list(values)?)))
        .collect()
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
