//! Choosing some of an experiment's runs: `lr=0.1`, `name=momo`, `run_id=0`, `model_kwargs.rank=4`.

use serde_json::Value;

use super::text::{plain, printable, suggestion};
use super::{Experiment, RunConfig, same};
use crate::error::{Error, Result};

/// At most this many existing values are listed in a message.
const MAX_LISTED: usize = 30;

/// One condition on a run, `KEY=VALUE`.
///
/// KEY is a key of the run or of its `opt`, or one with a dot: `opt.lr`, `dataset_kwargs.p`. VALUE is
/// compared as JSON, numbers by value, or as plain text. A run that does not have the key does not match, even if
/// the key's default is VALUE.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    key: String,
    value: String,
}

impl Filter {
    /// # Errors
    /// A usage error if the text is not `KEY=VALUE`.
    pub fn parse(text: &str) -> Result<Filter> {
        match text.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => Ok(Filter {
                key: key.trim().to_owned(),
                value: value.trim().to_owned(),
            }),
            _ => Err(Error::usage(format!(
                "wrong filter {:?} (expected KEY=VALUE, such as lr=0.1 or name=momo)",
                printable(text)
            ))),
        }
    }

    pub fn matches(&self, run: &RunConfig) -> bool {
        self.find(run).is_some_and(|value| {
            let parsed = serde_json::from_str(&self.value);
            value.as_str() == Some(&self.value)
                || parsed.is_ok_and(|v: Value| same::canonical(&v) == same::canonical(&value))
        })
    }

    fn text(&self) -> String {
        printable(&format!("{}={}", self.key, self.value))
    }

    /// The run's value at this filter's key.
    fn find(&self, run: &RunConfig) -> Option<Value> {
        let mut map = run.to_json();
        match self.key.split_once('.') {
            Some((object, key)) => map.get_mut(object)?.as_object_mut()?.remove(key),
            None => map
                .remove(&self.key)
                .or_else(|| run.opt.get(&self.key).cloned()),
        }
    }
}

/// Keeps the runs that the filters choose: those on the same key are alternatives, and a run must
/// match one of them for every key. `source` names the config in messages.
///
/// # Errors
/// A usage error, and the experiment as it was, if a filter names a key or a value that no run has, or
/// if no run is left.
pub fn select(experiment: &mut Experiment, filters: &[Filter], source: &str) -> Result<()> {
    let runs = &mut experiment.runs;
    let idle: Vec<String> = filters
        .iter()
        .filter(|filter| !runs.iter().any(|run| filter.matches(run)))
        .map(|filter| format!("{source}: {}", explain(filter, runs)))
        .collect();
    if !idle.is_empty() {
        return Err(Error::usage(idle.join("\n")));
    }
    let chosen = |run: &RunConfig| {
        filters.iter().all(|filter| {
            let mut alternatives = filters.iter().filter(|other| other.key == filter.key);
            alternatives.any(|other| other.matches(run))
        })
    };
    if !runs.iter().any(chosen) {
        let texts: Vec<String> = filters.iter().map(Filter::text).collect();
        return Err(Error::usage(format!(
            "{source}: no run has all of {} together (try fewer filters)",
            texts.join(", ")
        )));
    }
    runs.retain(chosen);
    Ok(())
}

/// Why no run matches, and what would.
fn explain(filter: &Filter, runs: &[RunConfig]) -> String {
    let text = filter.text();
    let mut values: Vec<String> = Vec::new();
    for value in runs.iter().filter_map(|run| filter.find(run)) {
        let value = plain(&value);
        if !values.contains(&value) {
            values.push(value);
        }
        if values.len() > MAX_LISTED {
            values[MAX_LISTED] = "…".into();
            break;
        }
    }
    if values.is_empty() {
        let keys = keys(runs);
        let known: Vec<&str> = keys.iter().map(String::as_str).collect();
        let hint = suggestion(&filter.key, &known);
        return format!("{text}: no run has this key {hint}");
    }
    format!(
        "{text}: no run has this value (there are: {})",
        values.join(", ")
    )
}

/// The keys that a filter on these runs may name.
fn keys(runs: &[RunConfig]) -> Vec<String> {
    let mut keys: Vec<String> = Vec::new();
    for run in runs {
        let opt = run.opt.keys().cloned();
        let whole = run.to_json();
        let plain = whole.iter().filter(|(_, value)| !value.is_object());
        let kwargs = ["dataset_kwargs", "model_kwargs"]
            .into_iter()
            .flat_map(|object| {
                let inner = whole[object].as_object().into_iter().flatten();
                inner.map(move |(key, _)| format!("{object}.{key}"))
            });
        for key in opt.chain(plain.map(|(key, _)| key.clone())).chain(kwargs) {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    keys
}
