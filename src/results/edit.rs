//! Output files as files: merged, filtered, flattened. Runs pass through unchanged unless said otherwise.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::escape;
use super::json::{self, Json};
use super::output::{self, python_str};
use crate::error::Result;

/// `key=value`: a key of the config, or of its `opt`; the value as Python prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    pub key: String,
    pub value: String,
}

impl std::str::FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Condition, String> {
        let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
        Ok(Condition {
            key: key.into(),
            value: value.into(),
        })
    }
}

impl Condition {
    /// Numbers are compared as numbers: `lr=1` holds for 1.0. A run without the key does not fulfil it.
    fn holds(&self, run: &Json) -> bool {
        let config = run.get("config");
        let found = config.and_then(|c| c.get(&self.key));
        let found = found.or_else(|| config?.get("opt")?.get(&self.key));
        found.is_some_and(|value| {
            let text = python_str(&value.to_value());
            let numbers = (text.parse::<f64>(), self.value.parse::<f64>());
            text == self.value || matches!(numbers, (Ok(a), Ok(b)) if a == b)
        })
    }
}

/// Which runs stay, and what of them.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// A run stays if it fulfils one of the conditions on each key named here.
    pub keep: Vec<Condition>,
    /// A run that fulfils any of these goes.
    pub drop: Vec<Condition>,
    /// Keys that every epoch loses.
    pub drop_history: Vec<String>,
}

impl Filter {
    fn passes(&self, run: &Json) -> bool {
        let mut keys = self.keep.iter().map(|c| &c.key);
        let kept = keys.all(|key| self.keep.iter().any(|c| c.key == *key && c.holds(run)));
        kept && !self.drop.iter().any(|c| c.holds(run))
    }
}

/// The text of a filtered output file, and how many runs stayed and went.
pub fn filter(path: &Path, filter: &Filter) -> Result<(String, usize, usize)> {
    let mut runs = Runs::default();
    let mut gone = 0;
    output::for_each_run(path, |text, mut run| {
        if !filter.passes(&run) {
            gone += 1;
            return Ok(());
        }
        if filter.drop_history.is_empty() {
            runs.push(text);
        } else {
            drop_history(&mut run, &filter.drop_history);
            let mut text = String::new();
            json::write(&mut text, &run, 1, false);
            runs.push(&text);
        }
        Ok(())
    })?;
    Ok((runs.text(), runs.count, gone))
}

fn drop_history(run: &mut Json, keys: &[String]) {
    let Json::Dict(members) = run else { return };
    let history = members.iter_mut().filter(|m| m.0 == "history");
    for (_, history) in history {
        let Json::List(epochs) = history else { return };
        for epoch in epochs {
            if let Json::Dict(members) = epoch {
                members.retain(|m| !keys.iter().any(|k| *k == m.0));
            }
        }
    }
}

/// The text of one file with the runs of all. Runs of different models or data sets are refused, and a run
/// that two files have is named.
pub fn merge(paths: &[PathBuf]) -> Result<(String, usize)> {
    let mut runs = Runs::default();
    let mut first: Option<(String, PathBuf)> = None;
    let mut seen: HashSet<String> = HashSet::new();
    for path in paths {
        output::for_each_run(path, |text, run| {
            let config = run.get("config").cloned().unwrap_or(Json::Null);
            let parts = [
                "dataset",
                "dataset_kwargs",
                "model",
                "model_kwargs",
                "loss_func",
            ];
            let parts = parts.map(|k| {
                config
                    .get(k)
                    .map_or("none".into(), |v| python_str(&v.to_value()))
            });
            let what = parts.join(", ");
            let (kind, from) = first.get_or_insert_with(|| (what.clone(), path.clone()));
            if *kind != what {
                return Err(format!(
                    "trains ({what}), but {} trains ({kind}): they do not mix",
                    from.display()
                ));
            }
            if !seen.insert(json::dumps(&config, false)) {
                let opt = config
                    .get("opt")
                    .map_or(String::new(), |o| python_str(&o.to_value()));
                let run_id = config
                    .get("run_id")
                    .map_or(String::new(), |o| python_str(&o.to_value()));
                return Err(format!(
                    "run_id {run_id} of {opt} is there already: drop it from one of the files"
                ));
            }
            runs.push(text);
            Ok(())
        })?;
    }
    Ok((runs.text(), runs.count))
}

/// One CSV row per run and epoch: id, run_id, epoch, then the history's numbers, times included.
pub fn export(path: &Path) -> Result<String> {
    let runs = output::read(path)?;
    let mut metrics: Vec<&str> = Vec::new();
    for (name, _) in runs.iter().flat_map(|run| &run.metrics) {
        if !metrics.contains(&name.as_str()) {
            metrics.push(name);
        }
    }
    let mut out = csv::Writer::from_writer(Vec::new());
    let header = ["id", "run_id", "epoch"]
        .into_iter()
        .chain(metrics.iter().copied());
    out.write_record(header.map(escape::csv))
        .expect("writing to memory");
    for run in &runs {
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
            out.write_record(start.into_iter().chain(numbers))
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
