//! Experiment configs: what a run is, and what may stand in a config file. Imports nothing of ours
//! but the error type; the names and keys that exist come in as a [`Vocabulary`].
//!
//! [`load`] goes from a path to the list of runs: `read` makes the bytes a JSON value, `check`
//! compares it with the vocabulary and collects every mistake, `expand` makes the choices.

mod change;
mod check;
mod expand;
mod filter;
mod methods;
mod parts;
mod read;
mod same;
pub mod schema;
mod text;

pub use change::{Changes, Seeds};
pub use filter::{Choice, Filter, select};
pub use parts::{list, split};
pub use read::Form;
pub use same::{canonical, canonical_object};
pub use schema::{Entry, Key, Kind, Values, Vocabulary, complete, opt_keys};
pub use text::{groups, nearest, position, printable, suggestion};

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use check::Checker;

/// The limit on the number of runs of one file unless the user sets another.
pub const MAX_RUNS: u64 = 100_000;

/// One run: a config file's entry with every choice made and every default filled in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    pub dataset: String,
    #[serde(default)]
    pub dataset_kwargs: Map<String, Value>,
    pub model: String,
    #[serde(default)]
    pub model_kwargs: Map<String, Value>,
    pub loss_func: String,
    pub score_func: String,
    /// The optimizer's keys as the config spells them, `name` among them.
    pub opt: Map<String, Value>,
    /// Groups of parameters, each with what differs from `opt`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Map<String, Value>>,
    #[serde(default = "one")]
    pub batch_size: usize,
    pub max_epoch: usize,
    #[serde(default)]
    pub run_id: u64,
}

fn one() -> usize {
    1
}

impl RunConfig {
    /// Tokens that a model of texts takes at once: the length of the windows that texts are cut into.
    pub fn seq_len(&self) -> Option<usize> {
        let length = self.model_kwargs.get("seq_len")?.as_u64()?;
        usize::try_from(length).ok().filter(|length| *length > 0)
    }

    /// The completed config as the result file stores it.
    pub fn to_json(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(map)) => map,
            other => unreachable!("a struct becomes an object, not {other:?}"),
        }
    }

    /// Reads back what [`RunConfig::to_json`] wrote. `None` if a required key is missing, a value has
    /// another type, or a key is there that no run of ours has.
    pub fn from_json(map: &Map<String, Value>) -> Option<RunConfig> {
        RunConfig::deserialize(map).ok()
    }

    /// A text that two runs share exactly if they are the same run: keys sorted, numbers by value.
    pub fn identity(&self) -> String {
        same::canonical(&Value::Object(self.to_json()))
    }

    /// Whether both describe the same run. The order of keys and the spelling of numbers (`1`
    /// against `1.0`) do not matter.
    pub fn same_run(&self, other: &RunConfig) -> bool {
        self.identity() == other.identity()
    }

    /// The label as part of a file's name: no folder, and not longer than file systems take. Several runs may share it.
    pub fn file_label(&self) -> String {
        let label = self.label();
        let safe = label.chars().map(|c| if c == '/' { '_' } else { c });
        safe.take(180).collect()
    }

    /// Optimizer, groups if there are any, and seed in one word, such as `name=momo:lr=0.1:run_id=0`.
    pub fn label(&self) -> String {
        let name = self.opt.get_key_value("name");
        let rest = self.opt.iter().filter(|(key, _)| *key != "name");
        let mut parts: Vec<String> = name
            .into_iter()
            .chain(rest)
            .map(|(key, value)| format!("{key}={}", text::plain(value)))
            .collect();
        if let Some(groups) = self.to_json().get("groups") {
            parts.push(format!("groups={}", text::groups(groups)));
        }
        parts.push(format!("run_id={}", self.run_id));
        parts.join(":")
    }
}

/// A config file, checked and expanded.
#[derive(Clone, Debug)]
pub struct Experiment {
    /// The file's stem; result files are named after it.
    pub id: String,
    pub runs: Vec<RunConfig>,
    /// All runs of the file, also those that [`select`] leaves out.
    pub all: Vec<RunConfig>,
    /// What is allowed but may not be meant, one line each.
    pub warnings: Vec<String>,
}

impl Experiment {
    /// The places of the `runs` in `all`.
    pub fn selected(&self) -> Vec<usize> {
        let mut all = self.all.iter();
        let place = |run| all.position(|other| other == run);
        let mut before = 0;
        let places = self.runs.iter().map(place).map(|skipped| {
            before += 1 + skipped.expect("they are some of all, in its order");
            before - 1
        });
        places.collect()
    }
}

/// Reads the config at `path`, changes, checks and expands it.
///
/// # Errors
/// All are usage errors. A file that cannot be read, or is not in the form that its extension says, gives one line; otherwise there is
/// one line for every mistake, `file: path in the file: what is wrong (what was expected)`.
pub fn load(
    path: &Path,
    vocabulary: &Vocabulary,
    changes: &Changes,
    max_runs: u64,
) -> Result<Experiment> {
    let source = text::printable(&path.to_string_lossy());
    let stem = path
        .file_stem()
        .ok_or_else(|| Error::usage(format!("{source}: names no file (expected a config file)")))?;
    let id = stem.to_str().ok_or_else(|| {
        Error::usage(format!(
            "{source}: the file name is not UTF-8, and results are named after it: rename the file"
        ))
    })?;
    let mut document = read::document(path, &source)?;
    changes.apply(&source, &mut document.value, vocabulary)?;
    let vocabulary = methods::named(&document.value, path, vocabulary)?;
    let mut experiment = expanded(id, &source, document, &vocabulary, max_runs)?;
    changes.number(&mut experiment.runs);
    changes.number(&mut experiment.all);
    Ok(experiment)
}

/// Checks and expands the text of a config; `source` names it in messages, `id` names its results.
///
/// # Errors
/// As [`load`].
pub fn parse(
    id: &str,
    source: &str,
    bytes: &[u8],
    vocabulary: &Vocabulary,
    max_runs: u64,
) -> Result<Experiment> {
    expanded(id, source, read::json(source, bytes)?, vocabulary, max_runs)
}

fn expanded(
    id: &str,
    source: &str,
    document: read::Document,
    vocabulary: &Vocabulary,
    max_runs: u64,
) -> Result<Experiment> {
    let mut checker = Checker::new(vocabulary, max_runs);
    checker.id(id);
    for path in &document.duplicates {
        checker.report(path, "duplicate key (only one of its values could be used)");
    }
    checker.document(&document.value);
    let mut warnings = document.warnings;
    warnings.extend(checker.finish(source)?);
    let runs = expand::runs(&document.value);
    Ok(Experiment {
        id: id.to_owned(),
        all: runs.clone(),
        runs,
        warnings,
    })
}
