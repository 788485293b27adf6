//! Output files as files: merged, filtered, flattened. Runs pass through unchanged unless said otherwise.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::escape;
use super::identity::{Identity, Index, Varying};
use super::json::{self, Json};
use super::output::{self, Run};
use crate::config::{Choice, suggestion};
use crate::error::{Error, Result};

/// The text of an output file with the runs that stay, without these keys of its epochs, and how many runs stayed and went.
///
/// # Errors
/// A usage error if no run has a key or a value that is to be kept, a key that is to be dropped, or if none stays.
pub fn filter(
    path: &Path,
    choice: &Choice,
    drop_keys: &[String],
) -> Result<(String, usize, usize)> {
    let mut runs = Runs::default();
    let mut configs = Vec::new();
    let mut names = BTreeSet::new();
    output::for_each_run(path, |text, mut run| {
        let config = match run.get("config").map(Json::to_value) {
            Some(Value::Object(config)) => config,
            _ => return Err("a run without \"config\"".into()),
        };
        let stays = choice.stays(&config);
        configs.push(config);
        if !drop_keys.is_empty() {
            drop_history(&mut run, drop_keys, &mut names);
        }
        match (stays, drop_keys.is_empty()) {
            (false, _) => {}
            (true, true) => runs.push(text),
            (true, false) => {
                let mut text = String::new();
                json::write(&mut text, &run, 1, false);
                runs.push(&text);
            }
        }
        Ok(())
    })?;
    let of_file = |e: Error| Error::usage(format!("{}: {e}", path.display()));
    choice.check(&configs).map_err(of_file)?;
    let mut dropped = drop_keys.iter();
    if let Some(key) = dropped.find(|key| !names.contains(*key)) {
        let known: Vec<&str> = names.iter().map(String::as_str).collect();
        let hint = suggestion(key, &known);
        let what = format!("{}: no epoch has the key {key:?} {hint}", path.display());
        return Err(Error::usage(what));
    }
    let gone = configs.len() - runs.count;
    Ok((runs.text(), runs.count, gone))
}

/// Drops keys of every epoch. All keys that were there go to `names`.
fn drop_history(run: &mut Json, keys: &[String], names: &mut BTreeSet<String>) {
    let Json::Dict(members) = run else { return };
    let history = members.iter_mut().filter(|m| m.0 == "history");
    for (_, history) in history {
        let Json::List(epochs) = history else { return };
        for epoch in epochs {
            if let Json::Dict(members) = epoch {
                for (name, _) in members.iter() {
                    if !names.contains(name.as_ref()) {
                        names.insert(name.to_string());
                    }
                }
                members.retain(|m| !keys.iter().any(|k| *k == m.0));
            }
        }
    }
}

/// The text of one file with the runs of all. Runs of different problems are refused, and a run that two files
/// have is named.
pub fn merge(paths: &[PathBuf]) -> Result<(String, usize)> {
    let mut runs = Runs::default();
    let mut first: Option<(Identity, PathBuf)> = None;
    let mut seen = Index::default();
    for path in paths {
        output::for_each_run(path, |text, run| {
            let run = Run::from_json(&run, path)?;
            let (problem, from) = first.get_or_insert_with(|| (run.identity.clone(), path.clone()));
            let keys = run.identity.other_problem(problem).join(", ");
            if !keys.is_empty() {
                return Err(format!(
                    "of another problem than the runs of {}: {keys}; they do not mix",
                    from.display()
                ));
            }
            if seen.get(&run.identity).is_some() {
                return Err(format!(
                    "run_id {} of {} is there already: drop it from one of the files",
                    run.run_id(),
                    run.id()
                ));
            }
            seen.insert(run.identity, ());
            runs.push(text);
            Ok(())
        })?;
    }
    Ok((runs.text(), runs.count))
}

/// One CSV row per run and epoch: id, run_id, epoch, the history's numbers, times included, then the optimizer's keys and
/// what else differs. The id says in one text what the keys say in columns, and is left out without `ids`.
pub fn export(path: &Path, ids: bool) -> Result<String> {
    let runs = output::read(path)?;
    let varying = Varying::among(runs.iter().map(|run| &run.identity));
    let settings: Vec<_> = runs.iter().map(|run| varying.setting_of(run)).collect();
    let (mut metrics, mut keys) = (Vec::new(), Vec::new());
    for (name, _) in runs.iter().flat_map(|run| &run.metrics) {
        if !metrics.contains(&name.as_str()) {
            metrics.push(name);
        }
    }
    for (key, _) in settings.iter().flatten() {
        if !keys.contains(&key.as_str()) {
            keys.push(key);
        }
    }
    let mut out = csv::Writer::from_writer(Vec::new());
    let header = ["id", "run_id", "epoch"].into_iter();
    let header = header.skip(usize::from(!ids));
    let header = header.chain(metrics.iter().copied());
    let header = header.chain(keys.iter().copied());
    out.write_record(header.map(escape::csv))
        .expect("writing to memory");
    for (run, setting) in runs.iter().zip(&settings) {
        let value = |key: &&str| setting.iter().find(|pair| pair.0 == **key);
        let values = keys
            .iter()
            .map(|key| value(key).map_or("none", |pair| &pair.1));
        let values: Vec<String> = values.map(escape::csv).collect();
        for (row, epoch) in run.epochs.iter().enumerate() {
            let numbers = metrics.iter().map(|m| {
                let x = run.metric(m).map_or(f64::NAN, |values| values[row]);
                if x.is_nan() {
                    String::new()
                } else {
                    json::repr(x)
                }
            });
            let start = [
                escape::csv(&run.id()),
                run.run_id().to_string(),
                epoch.to_string(),
            ];
            let start = start.into_iter().skip(usize::from(!ids));
            out.write_record(start.chain(numbers).chain(values.iter().cloned()))
                .expect("writing to memory");
        }
    }
    let bytes = out.into_inner().expect("writing to memory");
    Ok(String::from_utf8(bytes).expect("written from strings"))
}

#[derive(Default)]
struct Runs {
    body: String,
    count: usize,
}

impl Runs {
    fn push(&mut self, run: &str) {
        self.body.push_str(if self.count == 0 {
            "[\n    "
        } else {
            ",\n    "
        });
        self.body.push_str(run);
        self.count += 1;
    }

    fn text(&self) -> String {
        if self.count == 0 {
            "[]".into()
        } else {
            format!("{}\n]", self.body)
        }
    }
}
