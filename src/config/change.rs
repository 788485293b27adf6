//! Changes of a config that are asked for beside it: `lr=0.3`, `model_kwargs.rank=4`, other seeds.

use std::ops::RangeInclusive;
use std::str::FromStr;

use serde_json::{Map, Value};

use super::check::{KEYS, MAX_RUN_ID};
use super::schema::{Vocabulary, opt_keys};
use super::{RunConfig, expand};
use crate::error::{Error, Result};

/// Values that take the place of a config's.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Changes {
    /// Give a key another value in all runs: max_epoch=5, lr=0.3, 'lr=[0.3, 0.1]' (a choice, as in the config),
    /// model_kwargs.rank=4. VALUE is JSON or a word
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<Assignment>,
    /// Train these seeds instead of the config's: 0..9 (ten of them), 3, or 0,2,5..7
    #[arg(long, value_name = "SEEDS")]
    pub seeds: Option<Seeds>,
}

/// `KEY=VALUE`.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    key: String,
    value: Value,
}

impl FromStr for Assignment {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Assignment, String> {
        let (key, value) = text.split_once('=').unwrap_or_default();
        let (key, value) = (key.trim(), value.trim());
        if key.is_empty() || value.is_empty() {
            return Err("expected KEY=VALUE, such as lr=0.1 or max_epoch=5".into());
        }
        Ok(Assignment {
            key: key.to_owned(),
            value: serde_json::from_str(value).unwrap_or_else(|_| value.into()),
        })
    }
}

/// Seeds (`run_id`), ascending.
#[derive(Clone, Debug, PartialEq)]
pub struct Seeds(Vec<RangeInclusive<u64>>);

impl FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Seeds, String> {
        let range = |part: &str| {
            let (first, last) = part.split_once("..").unwrap_or((part, part));
            let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            (first <= last && last <= MAX_RUN_ID).then_some(first..=last)
        };
        let ranges: Option<Vec<_>> = text.split(',').map(range).collect();
        let mut ranges = ranges.ok_or_else(|| {
            format!("expected seeds from 0 to {MAX_RUN_ID}, such as 0..9 or 0,2,5..7")
        })?;
        ranges.sort_by_key(|range| *range.start());
        match ranges.windows(2).find(|r| r[0].end() >= r[1].start()) {
            Some(twice) => Err(format!("seed {} stands there twice", twice[1].start())),
            None => Ok(Seeds(ranges)),
        }
    }
}

impl Seeds {
    fn count(&self) -> u64 {
        let lengths = self.0.iter().map(|range| range.end() - range.start() + 1);
        lengths.sum()
    }

    fn all(&self) -> impl Iterator<Item = u64> {
        self.0.iter().cloned().flatten()
    }
}

impl Changes {
    /// Puts the values into a config that is not checked yet. What is of a wrong form stays as it is: the check tells it.
    ///
    /// # Errors
    /// A usage error if seeds are given for a list of runs, which names a seed for each.
    pub(super) fn apply(
        &self,
        source: &str,
        config: &mut Value,
        vocabulary: &Vocabulary,
    ) -> Result<()> {
        for assignment in &self.set {
            for run in objects(config) {
                assignment.apply(run, vocabulary);
            }
        }
        match (&self.seeds, config) {
            (Some(seeds), Value::Object(config)) => {
                config.insert("n_runs".into(), seeds.count().into());
                Ok(())
            }
            (Some(_), Value::Array(_)) => Err(Error::usage(format!(
                "{source}: --seeds is for configs of choices, and this is a list of runs, each with its run_id (choose \
                 some with --only run_id=0, or give another one with --set run_id=0)"
            ))),
            _ => Ok(()),
        }
    }

    /// Gives the runs of a config the seeds that were asked for: so far they are counted from 0.
    pub(super) fn number(&self, runs: &mut [RunConfig]) {
        if let Some(seeds) = &self.seeds {
            let seeds: Vec<u64> = seeds.all().collect();
            for run in runs {
                run.run_id = seeds[run.run_id as usize];
            }
        }
    }
}

impl Assignment {
    fn apply(&self, run: &mut Map<String, Value>, vocabulary: &Vocabulary) {
        let outer = |key: &str| KEYS.iter().any(|k| k.name == key);
        let (object, key) = match self.key.split_once('.') {
            Some((object, key)) => (object, key),
            None if outer(&self.key) || ["n_runs", "run_id"].contains(&&*self.key) => {
                run.insert(self.key.clone(), self.value.clone());
                return;
            }
            None => ("opt", &*self.key),
        };
        let empty = || Value::Object(Map::new());
        let place = run.entry(object).or_insert_with(empty);
        let knows = |opt: &Map<String, Value>| object != "opt" || knows(opt, key, vocabulary);
        // Where nobody knows the key, the check says so.
        let any = objects(place).any(|map| knows(map));
        for map in objects(place) {
            if !any || knows(map) {
                map.insert(key.to_owned(), self.value.clone());
            }
        }
    }
}

/// Is it a key of this optimizer object, as far as is known?
fn knows(opt: &Map<String, Value>, key: &str, vocabulary: &Vocabulary) -> bool {
    let named = |name: &str| {
        let choices = opt.get(name).into_iter();
        choices.flat_map(|value| expand::choices(String::new(), value, true))
    };
    let schedules = named("lr_schedule").filter_map(|(_, name)| name.as_str());
    let mut schedules = schedules.filter_map(|name| (vocabulary.schedule)(name));
    let of_schedule = schedules.any(|schedule| schedule.has(key));
    let mut methods = named("name").map(|(_, name)| vocabulary.optimizer(name));
    let of_method = methods.any(|entry| {
        entry.is_none_or(|entry| {
            let keys = opt_keys(entry.keys, vocabulary.optimizer_keys, &[]);
            keys.iter().any(|known| known.name == key)
        })
    });
    key == "name" || of_schedule || of_method
}

/// An object, or those of a list.
fn objects(value: &mut Value) -> impl Iterator<Item = &mut Map<String, Value>> {
    let all = match value {
        Value::Array(items) => items.iter_mut().collect(),
        other => vec![other],
    };
    all.into_iter().filter_map(Value::as_object_mut)
}
