//! Choosing some of an experiment's runs: `lr=0.1`, `name=momo`, `run_id=0`, `model_kwargs.rank=4`.

use serde_json::{Map, Value};

use super::text::{plain, printable, suggestion};
use super::{Experiment, RunConfig, same};
use crate::error::{Error, Result};

/// At most this many existing values are listed in a message.
const MAX_LISTED: usize = 30;

/// One condition on a run, `KEY=VALUE` or `KEY=VALUE,VALUE`: any of these values.
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

    /// Whether this config of a single run has the value.
    pub fn matches(&self, run: &Map<String, Value>) -> bool {
        self.find(run)
            .is_some_and(|value| self.values().any(|text| reads_as(text, value)))
    }

    /// The whole text, which may be a list in JSON, and its parts between commas.
    fn values(&self) -> impl Iterator<Item = &str> {
        let parts = self.value.split(',').map(str::trim);
        let parts = parts.filter(|_| self.value.contains(','));
        std::iter::once(self.value.as_str()).chain(parts)
    }

    /// A filter for each of the values.
    fn alternatives(&self) -> Vec<Filter> {
        let one = |value: &str| Filter {
            key: self.key.clone(),
            value: value.to_owned(),
        };
        self.values().skip(1).map(one).collect()
    }

    /// Whether this run is among those that filters choose: those on the same key are alternatives, and a run must
    /// match one of them for every key.
    pub fn choose(filters: &[Filter], run: &Map<String, Value>) -> bool {
        filters.iter().all(|filter| {
            let mut alternatives = filters.iter().filter(|other| other.key == filter.key);
            alternatives.any(|other| other.matches(run))
        })
    }

    fn text(&self) -> String {
        printable(&format!("{}={}", self.key, self.value))
    }

    /// The run's value at this filter's key.
    fn find<'r>(&self, run: &'r Map<String, Value>) -> Option<&'r Value> {
        match self.key.split_once('.') {
            Some((object, key)) => run.get(object)?.get(key),
            None => run
                .get(&self.key)
                .or_else(|| run.get("opt")?.get(&self.key)),
        }
    }

    /// Whether any of the runs has the key, and if not, what may have been meant.
    ///
    /// # Errors
    /// A usage error.
    pub fn check_key(&self, runs: &[Map<String, Value>]) -> Result<()> {
        if runs.iter().any(|run| self.find(run).is_some()) {
            return Ok(());
        }
        let keys = keys(runs);
        let known: Vec<&str> = keys.iter().map(String::as_str).collect();
        let (text, hint) = (self.text(), suggestion(&self.key, &known));
        Err(Error::usage(format!("{text}: no run has this key {hint}")))
    }

    /// Whether any of the runs matches, and if not, what would.
    ///
    /// # Errors
    /// A usage error.
    pub fn check(&self, runs: &[Map<String, Value>]) -> Result<()> {
        self.check_key(runs)?;
        let found = |value: &Value| reads_as(&self.value, value);
        if runs.iter().filter_map(|run| self.find(run)).any(found) {
            return Ok(());
        }
        let alternatives = self.alternatives();
        if !alternatives.is_empty() {
            return alternatives.iter().try_for_each(|one| one.check(runs));
        }
        let mut values: Vec<String> = Vec::new();
        for value in runs.iter().filter_map(|run| self.find(run)) {
            let value = plain(value);
            if !values.contains(&value) {
                values.push(value);
            }
            if values.len() > MAX_LISTED {
                values[MAX_LISTED] = "…".into();
                break;
            }
        }
        let (text, values) = (self.text(), values.join(", "));
        Err(Error::usage(format!(
            "{text}: no run has this value (the runs have {values})"
        )))
    }
}

impl std::str::FromStr for Filter {
    type Err = Error;

    fn from_str(text: &str) -> Result<Filter> {
        Filter::parse(text)
    }
}

/// Whether a text stands for this value.
fn reads_as(text: &str, value: &Value) -> bool {
    // Outputs were filtered by Python's words before.
    let word = match text {
        "True" => "true",
        "False" => "false",
        "None" => "null",
        other => other,
    };
    value.as_str() == Some(text)
        || serde_json::from_str(word)
            .is_ok_and(|v: Value| same::canonical(&v) == same::canonical(value))
}

/// Which runs stay.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Choice {
    /// Only runs with this value, such as name=adam,momo or lr=0.1; several keys: all must hold
    #[arg(long, value_name = "KEY=VALUE[,VALUE]")]
    pub keep: Vec<Filter>,
    /// Only runs for which at least one of these holds
    #[arg(long, value_name = "KEY=VALUE[,VALUE]")]
    pub any: Vec<Filter>,
    /// No runs with this value
    #[arg(long, value_name = "KEY=VALUE[,VALUE]")]
    pub drop: Vec<Filter>,
}

impl Choice {
    pub fn stays(&self, run: &Map<String, Value>) -> bool {
        Filter::choose(&self.keep, run)
            && (self.any.is_empty() || self.any.iter().any(|filter| filter.matches(run)))
            && !self.drop.iter().any(|filter| filter.matches(run))
    }

    /// # Errors
    /// A usage error if no run has a key that is named here, or a value that is to be kept, or if none stays.
    pub fn check(&self, runs: &[Map<String, Value>]) -> Result<()> {
        let mut kept = self.keep.iter().chain(&self.any);
        kept.try_for_each(|filter| filter.check(runs))?;
        let mut dropped = self.drop.iter();
        dropped.try_for_each(|filter| filter.check_key(runs))?;
        match runs.is_empty() || runs.iter().any(|run| self.stays(run)) {
            true => Ok(()),
            false => Err(Error::usage("no run would stay (try fewer filters)")),
        }
    }
}

/// Keeps the runs that the filters choose. `source` names the config in messages.
///
/// # Errors
/// A usage error, and the experiment as it was, if a filter names a key or a value that no run has, or
/// if no run is left.
pub fn select(experiment: &mut Experiment, filters: &[Filter], source: &str) -> Result<()> {
    let runs: Vec<_> = experiment.runs.iter().map(RunConfig::to_json).collect();
    let idle = filters
        .iter()
        .filter_map(|filter| filter.check(&runs).err());
    let idle: Vec<String> = idle.map(|e| format!("{source}: {e}")).collect();
    if !idle.is_empty() {
        return Err(Error::usage(idle.join("\n")));
    }
    let chosen: Vec<bool> = runs
        .iter()
        .map(|run| Filter::choose(filters, run))
        .collect();
    if !chosen.contains(&true) {
        let texts: Vec<String> = filters.iter().map(Filter::text).collect();
        return Err(Error::usage(format!(
            "{source}: no run has all of {} together (try fewer filters)",
            texts.join(", ")
        )));
    }
    let mut chosen = chosen.into_iter();
    experiment.runs.retain(|_| chosen.next() == Some(true));
    Ok(())
}

/// The keys that a filter on these runs may name.
fn keys(runs: &[Map<String, Value>]) -> Vec<String> {
    let mut keys: Vec<String> = Vec::new();
    for run in runs {
        let opt = run
            .get("opt")
            .and_then(Value::as_object)
            .into_iter()
            .flatten();
        let opt = opt.map(|(key, _)| key.clone());
        let plain = run.iter().filter(|(_, value)| !value.is_object());
        let kwargs = ["dataset_kwargs", "model_kwargs"]
            .into_iter()
            .flat_map(|object| {
                let inner = run.get(object).and_then(Value::as_object);
                let inner = inner.into_iter().flatten();
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
