//! Finished runs, read from output files: ours and the reference's.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::BySteps;
use super::file;
use super::identity::Identity;
use super::json::{self, Json};
use super::loose::{self, Loose};
use crate::config;
use crate::error::{Error, Result};
use crate::files;

/// A run of an output file, its history by columns.
#[derive(Clone, Debug)]
pub struct Run {
    pub config: Map<String, Value>,
    /// Non-finite numbers read as null here.
    pub summary: Map<String, Value>,
    /// What it is the result of.
    pub identity: Identity,
    /// Ascending.
    pub epochs: Vec<usize>,
    /// Every number of the history in order of first appearance: name and one value per epoch, NaN where
    /// an epoch lacks it.
    pub metrics: Vec<(String, Vec<f64>)>,
    /// t of every step, one list per epoch; empty for methods without an adaptive step.
    pub step_sizes: Vec<Vec<f64>>,
    /// What was logged of single steps, by name (`loss`): steps, ascending, with their values.
    pub step_logs: Vec<(String, BySteps<f64>)>,
    /// What these steps did to the tensors that the summary's `parameters` names, by name (`update_norm`), likewise.
    pub layer_logs: Vec<(String, BySteps<Vec<f64>>)>,
    /// The file it was read from.
    pub source: PathBuf,
}

impl Run {
    pub fn metric(&self, name: &str) -> Option<&[f64]> {
        let found = self.metrics.iter().find(|m| m.0 == name);
        found.map(|m| m.1.as_slice())
    }

    /// What was logged of steps under a name; nothing where no log was kept.
    pub fn logged(&self, name: &str) -> &[(usize, f64)] {
        let found = self.step_logs.iter().find(|log| log.0 == name);
        found.map_or(&[], |log| &log.1)
    }

    /// The optimizer's keys as stored, `name` first.
    pub fn options(&self) -> Vec<(String, String)> {
        let opt = self.config.get("opt").and_then(Value::as_object);
        let all = opt.into_iter().flatten();
        let (name, rest): (Vec<_>, Vec<_>) = all.partition(|(key, _)| *key == "name");
        let both = name.into_iter().chain(rest);
        both.map(|(k, v)| (k.clone(), python_str(v))).collect()
    }

    /// [`Run::options`], and the groups of a run that has some.
    pub fn pairs(&self) -> Vec<(String, String)> {
        let groups = self.config.get("groups").map(config::groups);
        let groups = groups.filter(|text| !text.is_empty());
        let groups = groups.map(|text| ("groups".to_owned(), text));
        self.options().into_iter().chain(groups).collect()
    }

    /// The reference's name of this setting, `name=sgd:lr=0.1:...`, and the groups of a run that has some.
    pub fn id(&self) -> String {
        let pairs = self.pairs().into_iter();
        let pairs: Vec<String> = pairs.map(|(k, v)| format!("{k}={v}")).collect();
        pairs.join(":")
    }

    pub fn run_id(&self) -> i64 {
        self.config
            .get("run_id")
            .and_then(Value::as_i64)
            .unwrap_or(0)
    }

    /// Epochs that it was to be trained for; one where the config does not say.
    pub fn max_epoch(&self) -> usize {
        let said = self.config.get("max_epoch").and_then(Value::as_u64);
        said.map_or(1, |n| n as usize)
    }

    /// Seconds of training, all epochs; NaN if the file does not say.
    pub fn train_time(&self) -> f64 {
        let times = self.metric("train_epoch_time");
        times.map_or(f64::NAN, |times| times.iter().sum())
    }

    /// Leaves the epochs up to this one. What was logged of steps stays where the summary does not say how many are in an
    /// epoch.
    pub(super) fn cut(&mut self, end: usize) {
        let rows = self.epochs.partition_point(|epoch| *epoch <= end);
        if rows == self.epochs.len() {
            return;
        }
        self.epochs.truncate(rows);
        let metrics = self.metrics.iter_mut();
        metrics.for_each(|(_, values)| values.truncate(rows));
        self.step_sizes.truncate(rows);
        let batches = self.summary.get("num_batches_per_epoch");
        if let Some(batches) = batches.and_then(Value::as_u64) {
            let steps = (end + 1) * batches as usize;
            let logs = self.step_logs.iter_mut();
            logs.for_each(|(_, log)| log.retain(|(step, _)| *step < steps));
            let logs = self.layer_logs.iter_mut();
            logs.for_each(|(_, log)| log.retain(|(step, _)| *step < steps));
        }
    }

    /// The first epoch whose training loss is not finite.
    pub fn diverged_at(&self) -> Option<usize> {
        let losses = self.metric("train_loss")?;
        let row = losses.iter().position(|x| !x.is_finite())?;
        Some(self.epochs[row])
    }

    pub(super) fn from_json(run: &Json, source: &Path) -> std::result::Result<Run, String> {
        let object = |key: &str| match run.get(key).map(Json::to_value) {
            Some(Value::Object(map)) => Ok(map),
            _ => Err(format!("not a run: it has no object {key:?}")),
        };
        let config = object("config")?;
        let opt = config.get("opt").and_then(Value::as_object);
        if !opt.is_some_and(|opt| opt.get("name").is_some_and(Value::is_string)) {
            return Err("not a run: its config has no \"opt\" with a \"name\"".into());
        }
        let Some(Json::List(epochs)) = run.get("history") else {
            return Err("not a run: it has no list \"history\"".into());
        };
        let summary = object("summary").unwrap_or_default();
        let mut read = Run {
            identity: Identity::new(&config, &summary),
            config,
            summary,
            epochs: Vec::with_capacity(epochs.len()),
            metrics: Vec::new(),
            step_sizes: Vec::new(),
            step_logs: Vec::new(),
            layer_logs: Vec::new(),
            source: source.to_owned(),
        };
        for (row, epoch) in epochs.iter().enumerate() {
            read.push_epoch(row, epoch)
                .map_err(|what| format!("epoch {row} of the history: {what}"))?;
        }
        // What Python has merged has them in the order of their digits.
        for (_, steps) in &mut read.step_logs {
            steps.sort_by_key(|step| step.0);
        }
        for (_, steps) in &mut read.layer_logs {
            steps.sort_by_key(|step| step.0);
        }
        Ok(read)
    }

    fn push_epoch(&mut self, row: usize, epoch: &Json) -> std::result::Result<(), String> {
        let Json::Dict(members) = epoch else {
            return Err("not an object".into());
        };
        let mut number = None;
        for (at, (key, value)) in members.iter().enumerate() {
            match (key.as_ref(), value) {
                ("epoch", Json::Int(digits)) => number = digits.parse().ok(),
                ("step_size_list", Json::List(steps)) => {
                    self.step_sizes.resize(row, Vec::new());
                    let steps = steps.iter().filter_map(Json::number).collect();
                    self.step_sizes.push(steps);
                }
                ("step_logs", Json::Dict(logs)) => {
                    for (name, steps) in logs {
                        self.push_steps(name, steps)
                            .ok_or_else(|| format!("step_logs.{name}: not numbers by steps"))?;
                    }
                }
                ("layer_logs", Json::Dict(logs)) => {
                    for (name, steps) in logs {
                        let steps = super::layers(steps).ok_or_else(|| {
                            format!("layer_logs.{name}: not lists of numbers by steps")
                        })?;
                        match self.layer_logs.iter_mut().find(|log| log.0 == *name) {
                            Some((_, all)) => all.extend(steps),
                            None => self.layer_logs.push((name.to_string(), steps)),
                        }
                    }
                }
                (key, value) => {
                    // A list of another name, say: nothing to average.
                    let Some(x) = value.number() else { continue };
                    // Epochs have the same keys in the same order, nearly always.
                    let guess = self.metrics.get(at).is_some_and(|m| m.0 == key);
                    let column = if guess {
                        Some(at)
                    } else {
                        self.metrics.iter().position(|m| m.0 == key)
                    };
                    let column = column.unwrap_or_else(|| {
                        self.metrics.push((key.to_owned(), Vec::new()));
                        self.metrics.len() - 1
                    });
                    let values = &mut self.metrics[column].1;
                    values.resize(row, f64::NAN);
                    values.push(x);
                }
            }
        }
        let number = number.ok_or("no whole number \"epoch\"")?;
        if self.epochs.last().is_some_and(|&last| last >= number) {
            return Err(format!(
                "epoch {number} after epoch {}",
                self.epochs[row - 1]
            ));
        }
        self.epochs.push(number);
        for (_, values) in &mut self.metrics {
            values.resize(row + 1, f64::NAN);
        }
        Ok(())
    }

    fn push_steps(&mut self, name: &str, steps: &Json) -> Option<()> {
        let Json::Dict(steps) = steps else {
            return None;
        };
        let steps = steps
            .iter()
            .map(|(k, v)| Some((k.parse().ok()?, v.number()?)));
        let steps: Vec<(usize, f64)> = steps.collect::<Option<_>>()?;
        match self.step_logs.iter_mut().find(|log| log.0 == name) {
            Some((_, all)) => all.extend(steps),
            None => self.step_logs.push((name.to_owned(), steps)),
        }
        Some(())
    }
}

/// A value as Python's `str` prints it.
pub fn python_str(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        other => python_repr(other),
    }
}

fn python_repr(value: &Value) -> String {
    match value {
        Value::Null => "None".into(),
        Value::Bool(true) => "True".into(),
        Value::Bool(false) => "False".into(),
        Value::Number(n) if n.is_f64() => json::repr(n.as_f64().expect("a float")),
        Value::Number(n) => n.to_string(),
        Value::String(s) => format!("'{s}'"),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(python_repr).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(map) => {
            let pairs = map.iter();
            let pairs: Vec<String> = pairs
                .map(|(k, v)| format!("'{k}': {}", python_repr(v)))
                .collect();
            format!("{{{}}}", pairs.join(", "))
        }
    }
}

/// Reads all runs of one output file.
pub fn read(path: &Path) -> Result<Vec<Run>> {
    let mut runs = Vec::new();
    for_each_run(path, |_, run| {
        runs.push(Run::from_json(&run, path)?);
        Ok(())
    })?;
    Ok(runs)
}

/// Hands over all runs of one output file with their texts: those that it holds, and those that a process that is
/// training, or was killed, has finished since.
pub(super) fn for_each_run(
    path: &Path,
    mut each: impl for<'b> FnMut(&'b str, Json<'b>) -> std::result::Result<(), String>,
) -> Result<()> {
    // Before the file itself: what goes from there in between comes into the file.
    let loose = match file::target(path) {
        Ok(target) => Loose::of(&target).read_all()?,
        // There is no such folder.
        Err(_) => loose::Texts::new(),
    };
    let text = read_text(path)?;
    let mut refused = false;
    loose::all(&text, loose, |text, run| {
        each(text, run).inspect_err(|_| refused = true)
    })
    .map_err(|e| match refused {
        true => Error::corrupt(format!("{}: {e}", path.display())),
        false => not_whole(path, &text, &e),
    })
}

/// How many runs an output has, those of its `loose` ones that do not stand in it yet included.
pub(super) fn count_runs(path: &Path, loose: &Loose) -> Result<usize> {
    let beside = loose.files();
    if !beside.map_err(|e| Error::io("read", path, &e))?.is_empty() {
        let mut count = 0;
        for_each_run(path, |_, _| {
            count += 1;
            Ok(())
        })?;
        return Ok(count);
    }
    let text = read_text(path)?;
    json::count_items(&text).map_err(|e| not_whole(path, &text, &e))
}

fn not_whole(path: &Path, text: &str, cause: &json::SyntaxError) -> Error {
    let hint = match text.trim_start().starts_with('{') {
        true => format!(
            "is it a config? its experiment is called {}",
            file::stem(path)
        ),
        false => "is it a whole output file, and not being written at this moment?".to_owned(),
    };
    Error::corrupt(format!("{}: {cause}; {hint}", path.display()))
}

pub(super) fn read_text(path: &Path) -> Result<String> {
    files::read_to_string(path).map_err(|e| match e.kind() {
        ErrorKind::InvalidData => Error::corrupt(format!("{}: not UTF-8", path.display())),
        ErrorKind::NotFound => Error::usage(format!("{}: no such file", path.display())),
        _ => Error::io("read", path, &e),
    })
}

/// The output files of an experiment: `ID.json`, then `ID-1.json`, `ID-2.json`, ... that exist.
pub fn files(dir: &Path, id: &str) -> Result<Vec<PathBuf>> {
    let mut found: Vec<(u64, String)> = stems(dir, "json")?
        .into_iter()
        .filter_map(|stem| {
            let rest = stem.strip_prefix(id)?;
            let part = match rest.strip_prefix('-') {
                Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                    digits.parse().ok()?
                }
                None if rest.is_empty() => 0,
                _ => return None,
            };
            // `ID-0.json` comes after `ID.json` by its name.
            Some((part, stem))
        })
        .collect();
    found.sort();
    let paths = found.into_iter();
    Ok(paths.map(|(_, s)| dir.join(format!("{s}.json"))).collect())
}

/// The stems of the visible files of a folder that end in `.extension`; none if there is no such folder.
///
/// # Errors
/// [`Kind::Io`](crate::error::Kind::Io) if the folder cannot be read to its end.
pub fn stems(dir: &Path, extension: &str) -> Result<BTreeSet<String>> {
    let failed = |e: io::Error| Error::io("read the folder", dir, &e);
    let entries = match fs::read_dir(dir) {
        Err(e) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&e.kind()) => {
            return Ok(BTreeSet::new());
        }
        entries => entries.map_err(failed)?,
    };
    let mut found = BTreeSet::new();
    for entry in entries {
        let name = PathBuf::from(entry.map_err(failed)?.file_name());
        let stem = name.file_stem().and_then(|stem| stem.to_str());
        if name.extension().is_some_and(|e| e == extension) {
            found.extend(stem.filter(|s| !s.starts_with('.')).map(str::to_owned));
        }
    }
    Ok(found)
}
