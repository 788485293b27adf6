//! Whole runs: the reference's, ours of the same config, and what both say of every epoch.

use std::num::NonZeroUsize;

use serde_json::{Map, Value};

use super::ensemble::{Judge, Number, Numbers};
use super::{Check, Context, Goldens};
use crate::config::RunConfig;
use crate::data::{Library, Pair};
use crate::device::{Machine, Target};
use crate::error::{Error, Kind, Result};
use crate::results::json::{self, Json};
use crate::results::{Epoch, RunResult, TIMES};
use crate::train::{self, LogSteps};

/// A run of the reference.
pub(super) struct GoldenRun {
    pub config: Map<String, Value>,
    /// What the golden file holds of it; nothing if only an ensemble has this run.
    pub history: Numbers,
    pub opt_val: Option<f64>,
    pub summary: Map<String, Value>,
    pub log: Option<LogSteps>,
    /// The same run under other roundings.
    pub members: Vec<Numbers>,
}

/// The runs in a golden file `{"runs": [...]}` or an output file `[...]`, with those of the ensemble of the same name;
/// `None` if there is neither.
pub(super) fn golden_runs(goldens: &Goldens, file: &str) -> Result<Option<Vec<GoldenRun>>> {
    let ensemble = format!("ensemble/{file}");
    let mut found = None;
    for name in [file, &ensemble] {
        if let Some(text) = goldens.text(name)? {
            let json = json::parse(&text).map_err(|e| goldens.damaged(name, &e))?;
            let runs = found.get_or_insert_with(Vec::new);
            add_runs(runs, &json).ok_or_else(|| goldens.damaged(name, &"no runs"))?;
        }
    }
    Ok(found)
}

fn add_runs(all: &mut Vec<GoldenRun>, file: &Json) -> Option<()> {
    let runs = if matches!(file, Json::List(_)) {
        file
    } else {
        file.get("runs")?
    };
    for run in list(runs)? {
        let Value::Object(config) = run.get("config")?.to_value() else {
            return None;
        };
        let (history, members) = match run.get("members") {
            None => (numbers(list(run.get("history")?)?), Vec::new()),
            Some(Json::Dict(members)) => {
                let members = members
                    .iter()
                    .map(|(_, history)| Some(numbers(list(history)?)));
                (Numbers::new(), members.collect::<Option<Vec<_>>>()?)
            }
            Some(_) => return None,
        };
        let opt_val = run.get("summary").and_then(|s| number(s.get("opt_val")?));
        let summary = match run.get("summary").map(Json::to_value) {
            Some(Value::Object(summary)) => summary,
            _ => Map::new(),
        };
        // Of one run, or of all.
        let every = [run, file].map(|json| json.get("log_every_k_steps"));
        let every = every.into_iter().flatten().next().map(Json::to_value);
        let every = every.and_then(|k| NonZeroUsize::new(k.as_u64()? as usize));
        let log = every.map(LogSteps::from);
        match all.iter_mut().find(|run| run.config == config) {
            Some(run) if !members.is_empty() => run.members = members,
            _ => all.push(GoldenRun {
                config,
                history,
                opt_val,
                summary,
                log,
                members,
            }),
        }
    }
    Some(())
}

fn list<'a>(json: &'a Json<'a>) -> Option<&'a [Json<'a>]> {
    match json {
        Json::List(items) => Some(items),
        _ => None,
    }
}

/// A number of a golden file, where those that are not finite may be strings.
fn number(value: &Json) -> Option<f64> {
    match value {
        Json::Str(text) => text.parse().ok(),
        other => other.number(),
    }
}

/// All numbers of all epochs, lists item by item, but the times it took.
fn numbers(history: &[Json]) -> Numbers {
    let mut numbers = Numbers::new();
    for (e, epoch) in history.iter().enumerate() {
        let Json::Dict(members) = epoch else { continue };
        for (key, value) in members
            .iter()
            .filter(|(key, _)| key != "epoch" && !TIMES.contains(&key.as_ref()))
        {
            if let (STEP_LOGS, Json::Dict(logs)) = (key.as_ref(), value) {
                for (name, steps) in logs {
                    numbers.extend(logged(name, steps));
                }
                continue;
            }
            let (items, listed) = match value {
                Json::List(items) => (items.as_slice(), true),
                one => (std::slice::from_ref(one), false),
            };
            for (i, item) in items.iter().enumerate() {
                let value = number(item).unwrap_or(f64::NAN);
                let index = if listed {
                    format!("[{i}]")
                } else {
                    String::new()
                };
                let mut number = Number::new(key, (e, i), value);
                if key == STEP_SIZES && value.is_normal() {
                    // They are written with six digits.
                    number.grain = 10f64.powf(value.abs().log10().floor() - 5.0);
                }
                numbers.insert(format!("epoch {e} {key}{index}"), number);
            }
        }
    }
    numbers
}

/// What a log says of single steps.
fn logged<'j>(name: &'j str, steps: &'j Json) -> impl Iterator<Item = (String, Number)> + 'j {
    let steps = match steps {
        Json::Dict(steps) => steps.as_slice(),
        _ => &[],
    };
    steps.iter().map(move |(step, value)| {
        let time = (step.parse().unwrap_or(usize::MAX), 0);
        let value = number(value).unwrap_or(f64::NAN);
        let number = Number::new(&format!("{name}{OF_STEPS}"), time, value);
        (format!("step {step} {name}"), number)
    })
}

/// How series of logged steps are called.
pub(super) const OF_STEPS: &str = " of steps";
/// The key of logged steps in a history.
const STEP_LOGS: &str = "step_logs";
/// The key of step sizes in a history.
pub(super) const STEP_SIZES: &str = "step_size_list";

impl GoldenRun {
    pub fn text(&self, key: &str) -> String {
        let value = self.config.get(key);
        value.map_or_else(String::new, |v| v.to_string().replace('"', ""))
    }

    pub fn name(&self) -> String {
        let (model, loss, opt) = (self.text("model"), self.text("loss_func"), self.text("opt"));
        format!("{model} {loss} {opt} run {}", self.text("run_id"))
    }

    /// Our run of this config.
    pub fn ours(&self, library: &Library, target: Target) -> Result<Ours> {
        let config = RunConfig::from_json(&self.config).ok_or_else(|| {
            Error::new(
                Kind::Usage,
                format!("{}: not a config of this version", self.name()),
            )
        })?;
        let data = library.load(&config)?;
        let result = train::run(&config, &data, Machine::open(target)?, None, self.log, &())?
            .expect("nobody stops this run");
        let history: Vec<Json> = result.history.iter().map(Epoch::to_json).collect();
        let mut numbers = numbers(&history);
        if config.score_func.ends_with("accuracy") {
            count_samples(&mut numbers, data.train.len(), data.val.len());
        }
        Ok(Ours {
            numbers,
            result,
            data,
        })
    }
}

/// Accuracies differ by one sample or more.
fn count_samples(numbers: &mut Numbers, train: usize, val: usize) {
    for number in numbers.values_mut() {
        match number.series.as_str() {
            "train_score" => number.grain = 1.0 / train as f64,
            "val_score" => number.grain = 1.0 / val as f64,
            _ => {}
        }
    }
}

/// A run of ours.
pub(super) struct Ours {
    pub numbers: Numbers,
    pub result: RunResult,
    /// The data it used.
    pub data: Pair,
}

/// Runs of ours for all of a golden file's that we can run. Those with an ensemble are judged by it, in the first
/// check; the others come back, with theirs, for the suite to compare.
pub(super) fn judged(
    context: &Context,
    library: &Library,
    file: &str,
) -> Result<(Check, Vec<(GoldenRun, Ours)>)> {
    let Some(runs) = golden_runs(&context.goldens, file)? else {
        return Ok((Check::skip(JUDGED, format!("no {file}")), Vec::new()));
    };
    let (mut judge, mut ran) = (Judge::default(), Vec::new());
    let mut left_out = Check::new(JUDGED, 0.0);
    if runs.iter().all(|run| run.members.is_empty()) {
        left_out
            .skipped
            .push(format!("no ensemble/{file}, only tolerances"));
    }
    for theirs in runs {
        match theirs.ours(library, context.target) {
            Ok(ours) => {
                if !theirs.members.is_empty() {
                    judge.add(&theirs.name(), ours.numbers.clone(), &theirs.members);
                }
                ran.push((theirs, ours));
            }
            Err(e) => left_out.skip_for(e)?,
        }
    }
    let check = Check {
        skipped: left_out.skipped,
        ..judge.check(JUDGED)
    };
    Ok((check, ran))
}

/// What is judged by an ensemble of runs.
const JUDGED: &str = "every number, in spreads of the reference";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::Verdict;

    /// Each member of an ensemble, judged by the others, and the golden file's own runs, made on another machine. Who
    /// fails: `golden`, or the member's number.
    fn failures(file: &str, train: usize, val: usize) -> Vec<String> {
        let runs = golden_runs(&Goldens::packed(), file).unwrap().unwrap();
        let runs: Vec<_> = runs.iter().filter(|run| !run.members.is_empty()).collect();
        let members = runs[0].members.len();
        let judged = (0..=members).filter_map(|member| {
            let mut judge = Judge::default();
            for run in &runs {
                let mut all = run.members.clone();
                let mut theirs = match member == members {
                    true => run.history.clone(),
                    false => all.remove(member),
                };
                if run.text("score_func").ends_with("accuracy") {
                    count_samples(&mut theirs, train, val);
                }
                judge.add(&run.name(), theirs, &all);
            }
            let check = judge.check("");
            (check.verdict() == Verdict::Failed).then(|| format!("{member}: {}", check.at))
        });
        judged.collect()
    }

    #[test]
    fn correct_runs_on_small_problems_pass() {
        assert_eq!(failures("runs_small.json", 80, 80), [""; 0]);
    }

    /// In each file one member forks where no other does. Nobody could know from the others that this is possible.
    #[test]
    fn correct_runs_that_fork_pass_unless_they_are_the_only_one() {
        for (file, train, val) in [
            ("runs_mnist.json", 60_000, 10_000),
            ("runs_tiny_cifar.json", 250, 60),
        ] {
            let failed = failures(file, train, val);
            assert!(failed.len() <= 1, "{file}: {failed:?}");
        }
    }
}
