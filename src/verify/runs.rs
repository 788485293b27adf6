//! Suites `runs` and `mnist`: whole runs, number by number.

use std::collections::HashMap;
use std::ops::Range;

use serde_json::{Map, Value};

use super::{Check, Context};
use crate::config::RunConfig;
use crate::data::{Library, Pair};
use crate::device::Target;
use crate::error::Result;
use crate::results::RunResult;
use crate::results::json::{self, Json};
use crate::train::{optimum, run};

/// All epochs.
pub(super) const ALL: Range<usize> = 0..usize::MAX;

/// A run of the reference.
pub(super) struct GoldenRun<'a> {
    pub config: Map<String, Value>,
    history: &'a [Json<'a>],
    summary: Option<&'a Json<'a>>,
}

/// The runs in a golden file `{"runs": [...]}` or an output file `[...]`.
pub(super) fn golden_runs<'a>(file: &'a Json<'a>) -> Option<Vec<GoldenRun<'a>>> {
    let runs = match file {
        Json::List(runs) => runs,
        other => match other.get("runs")? {
            Json::List(runs) => runs,
            _ => return None,
        },
    };
    let one = |run: &'a Json<'a>| {
        let (Value::Object(config), Json::List(history)) =
            (run.get("config")?.to_value(), run.get("history")?)
        else {
            return None;
        };
        Some(GoldenRun {
            config,
            history,
            summary: run.get("summary"),
        })
    };
    runs.iter().map(one).collect()
}

impl GoldenRun<'_> {
    fn text(&self, key: &str) -> String {
        let value = self.config.get(key);
        value.map_or_else(String::new, |v| v.to_string().replace('"', ""))
    }

    pub fn name(&self) -> String {
        let (model, loss, opt) = (self.text("model"), self.text("loss_func"), self.text("opt"));
        format!("{model} {loss} {opt} run {}", self.text("run_id"))
    }

    /// Does the training loss get as small as rounding errors?
    fn vanishes(&self) -> bool {
        let losses = self
            .history
            .iter()
            .filter_map(|e| number(e.get("train_loss")?));
        losses.into_iter().any(|loss| loss < 1e-6)
    }

    /// Our run of this config and the data it used, or why there is none.
    pub fn ours(&self, library: &Library, target: Target) -> Result<(RunResult, Pair), String> {
        let config = RunConfig::from_json(&self.config)
            .ok_or_else(|| format!("{}: not a config of this version", self.name()))?;
        let data = library.load(&config).map_err(|e| e.message)?;
        let result = run(&config, &data, target, &()).map_err(|e| e.message)?;
        Ok((result.expect("nobody stops this run"), data))
    }
}

/// A number of a golden file, where those that are not finite may be strings.
fn number(value: &Json) -> Option<f64> {
    match value {
        Json::Str(text) => text.parse().ok(),
        other => other.number(),
    }
}

/// All numbers of an epoch, lists item by item, but the time it took.
fn epoch_numbers<'a>(epoch: &'a Json<'a>) -> impl Iterator<Item = (String, f64)> {
    let members = match epoch {
        Json::Dict(members) => members.as_slice(),
        _ => &[],
    };
    let members = members.iter().filter(|(key, _)| key != "train_epoch_time");
    members.flat_map(|(key, value)| match value {
        Json::List(items) => {
            let items = items.iter().enumerate();
            let named = items.map(|(i, v)| (format!("{key}[{i}]"), number(v).unwrap_or(f64::NAN)));
            named.collect::<Vec<_>>()
        }
        value => vec![(key.to_string(), number(value).unwrap_or(f64::NAN))],
    })
}

/// Compares those numbers of some epochs whose names are `wanted`; errors are relative to each number, or to
/// `floor` where that is larger.
fn compare(
    check: &mut Check,
    theirs: &GoldenRun,
    ours: &RunResult,
    epochs: Range<usize>,
    floor: f64,
    wanted: impl Fn(&str) -> bool,
) {
    check.cases += 1;
    let name = theirs.name();
    if ours.history.len() != theirs.history.len() {
        let (ours, theirs) = (ours.history.len(), theirs.history.len());
        check.fail(format!("{name}: {ours} epochs for {theirs}"));
    }
    for (e, (ours, theirs)) in ours
        .history
        .iter()
        .zip(theirs.history)
        .enumerate()
        .filter(|(e, _)| epochs.contains(e))
    {
        let ours = ours.to_json();
        let mut found = epoch_numbers(&ours)
            .filter(|(key, _)| wanted(key))
            .collect::<HashMap<_, _>>();
        for (key, value) in epoch_numbers(theirs).filter(|(key, _)| wanted(key)) {
            let at = || format!("{name} epoch {e} {key}");
            match found.remove(&key) {
                None => check.fail(format!("{}: missing", at())),
                Some(ours) => check.compare(ours, value, value.abs().max(floor), at),
            }
        }
        if let Some(key) = found.into_keys().next() {
            check.fail(format!("{name} epoch {e} {key}: not in the reference"));
        }
    }
}

/// As [`compare`], with that of the reference's two runs, on two threads and on one, on whose side of a fork
/// ours is.
pub(super) fn compare_nearer(
    check: &mut Check,
    theirs: &GoldenRun,
    one_thread: &[GoldenRun],
    ours: &RunResult,
    epochs: Range<usize>,
    wanted: fn(&str) -> bool,
) {
    let against = |theirs| {
        let mut check = check.clone();
        compare(&mut check, theirs, ours, epochs.clone(), 0.0, wanted);
        check
    };
    let twin = one_thread.iter().find(|run| run.config == theirs.config);
    let checks = [Some(theirs), twin].into_iter().flatten().map(against);
    let nearer = checks.min_by(|a, b| a.worst.total_cmp(&b.worst));
    *check = nearer.expect("the first of the two");
}

pub fn runs(context: &Context) -> Result<Vec<Check>> {
    let mut checks = small(context)?;
    checks.extend(published(context)?);
    Ok(checks)
}

/// Runs on the synthetic problems and the sensor matrix.
fn small(context: &Context) -> Result<Vec<Check>> {
    const FILE: &str = "runs_small.json";
    let Some(text) = context.goldens.text(FILE)? else {
        return Ok(vec![Check::skip("runs", format!("no {FILE}"))]);
    };
    let file = json::parse(&text).map_err(|e| context.goldens.damaged(FILE, &e))?;
    let runs = golden_runs(&file).ok_or_else(|| context.goldens.damaged(FILE, &"no runs"))?;
    let library = context.library();
    let mut numbers = Check::new("every number of every epoch but step sizes", 1e-4);
    // t is a difference of larger numbers over a square: a small one has lost digits.
    let mut steps = Check::new("step sizes, relative to t or 0.01", 1e-4);
    // The residuals of a loss near 1e-7 are as small as the rounding errors of its predictions.
    let mut vanishing = Check::new("runs whose loss falls below 1e-6", 2e-2);
    let mut optima = Check::new("optimal values, in units of 1e-6 f* + 1e-8", 1.0);
    for theirs in &runs {
        let (ours, data) = match theirs.ours(&library, context.target) {
            Ok(both) => both,
            Err(why) => {
                numbers.skipped.push(why);
                continue;
            }
        };
        let is_step = |key: &str| key.starts_with("step_size_list");
        if theirs.vanishes() {
            compare(&mut vanishing, theirs, &ours, ALL, 0.0, |_| true);
        } else {
            compare(&mut numbers, theirs, &ours, ALL, 0.0, |key| !is_step(key));
            compare(&mut steps, theirs, &ours, ALL, 1e-2, is_step);
        }
        if let Some(theirs_value) = theirs.summary.and_then(|s| number(s.get("opt_val")?)) {
            optima.cases += 1;
            let decay = theirs.config["opt"].get("weight_decay");
            let decay = decay.and_then(Value::as_f64).unwrap_or(0.0);
            let bias = ours.config["model_kwargs"].get("bias") == Some(&true.into());
            let ours = optimum(&theirs.text("loss_func"), &data.train, decay, bias);
            let allowed = 1e-6 * theirs_value.abs() + 1e-8;
            optima.compare(ours.unwrap_or(f64::NAN), theirs_value, allowed, || {
                theirs.name()
            });
        }
    }
    Ok(vec![numbers, steps, vanishing, optima])
}

/// The authors' runs of 2023, as far as the reference itself repeats them today: `published_spread.json` tells,
/// for each run, the first epoch in which it is more than 1e-3 off its own published numbers. From the epoch
/// before that on, where the spread is growing by orders of magnitude per epoch, a run is chaotic and left
/// out. One epoch earlier still, at lr 100, ours is up to 3e-3 off, which sets the tolerance: how far the
/// reference is off there is not known.
fn published(context: &Context) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    for name in ["test", "synthetic_small"] {
        let file_name = format!("{name}.json");
        let (Some(text), Some(spread)) = (
            context.goldens.text(&file_name)?,
            context.goldens.read::<Value>("published_spread.json")?,
        ) else {
            checks.push(Check::skip(
                name,
                format!("no {file_name} or no published_spread.json"),
            ));
            continue;
        };
        let damaged = |why: &dyn std::fmt::Display| context.goldens.damaged(&file_name, why);
        let file = json::parse(&text).map_err(|e| damaged(&e))?;
        let runs = golden_runs(&file).ok_or_else(|| damaged(&"no runs"))?;
        let library = context.library();
        let mut check = Check::new(format!("published {name}, relative to it or 0.01"), 5e-3);
        let (mut left_out, mut cut) = (0, 0);
        for (i, theirs) in runs.iter().enumerate() {
            let first_off = spread[name][i]["first_epoch_over_1e-3"].as_u64();
            match theirs.ours(&library, context.target) {
                Err(why) => check.skipped.push(why),
                Ok((ours, _)) => {
                    let epochs = first_off.map_or(usize::MAX, |e| e.saturating_sub(1) as usize);
                    cut += usize::from(first_off.is_some());
                    left_out += theirs.history.len().saturating_sub(epochs);
                    compare(&mut check, theirs, &ours, 0..epochs, 0.01, |_| true);
                }
            }
        }
        if cut > 0 {
            check.skipped.push(format!(
                "{left_out} chaotic epochs at the end of {cut} runs, which the reference does not repeat either"
            ));
        }
        checks.push(check);
    }
    Ok(checks)
}

/// Two epochs of the MNIST MLP. Runs fork where rounding decides whether a ReLU's input near zero passes:
/// sgd-m does not in two epochs, adam not in the first; the step sizes of the others differ after it. momo
/// at lr 1 forks in step 36 between the reference's own runs on two threads and on one, whose model norms
/// then differ by 2e-3: ours must be near one of them. A fork moves a model norm by up to 4e-3.
pub fn mnist(context: &Context) -> Result<Vec<Check>> {
    const FILE: &str = "runs_mnist.json";
    let Some(text) = context.goldens.text(FILE)? else {
        return Ok(vec![Check::skip("runs", format!("no {FILE}"))]);
    };
    let file = json::parse(&text).map_err(|e| context.goldens.damaged(FILE, &e))?;
    let runs = golden_runs(&file).ok_or_else(|| context.goldens.damaged(FILE, &"no runs"))?;
    let library = context.library();
    let one_thread = context.goldens.text("one_thread/runs_mnist.json")?;
    let one_thread = one_thread.unwrap_or_else(|| "[]".into());
    let other = json::parse(&one_thread).map_err(|e| context.goldens.damaged(FILE, &e))?;
    let other = golden_runs(&other).ok_or_else(|| context.goldens.damaged(FILE, &"no runs"))?;
    let mut sgd = Check::new("sgd-m: every number of both epochs", 1e-5);
    let mut adam = Check::new("adam: every number of the first epoch", 1e-4);
    let mut losses = Check::new("all methods: losses", 5e-2);
    let mut norms = Check::new("all methods: model norms, nearer fork", 5e-3);
    for theirs in &runs {
        let ours = match theirs.ours(&library, context.target) {
            Ok((ours, _)) => ours,
            Err(why) => {
                losses.skipped.push(why);
                break;
            }
        };
        let every = |_: &str| true;
        match theirs.config["opt"]["name"].as_str() {
            Some("sgd-m") => compare(&mut sgd, theirs, &ours, ALL, 0.0, every),
            Some("adam") => compare(&mut adam, theirs, &ours, 0..1, 0.0, every),
            _ => {}
        }
        let is_loss = |key: &str| key.ends_with("_loss");
        compare(&mut losses, theirs, &ours, ALL, 0.0, is_loss);
        let is_norm = |key: &str| key == "model_norm";
        compare_nearer(&mut norms, theirs, &other, &ours, ALL, is_norm);
    }
    Ok(vec![sgd, adam, losses, norms])
}
