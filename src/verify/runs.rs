//! Suites `runs`, `published` and `mnist`: whole runs, number by number.

use serde_json::{Map, Value};

use super::{Check, Context};
use crate::config::RunConfig;
use crate::data::{Library, Pair};
use crate::device::Device;
use crate::error::Result;
use crate::results::RunResult;
use crate::results::json::{self, Json};
use crate::train::{Watch, optimum, run};

/// A run of the reference.
struct GoldenRun<'a> {
    config: Map<String, Value>,
    history: &'a [Json<'a>],
    summary: Option<&'a Json<'a>>,
}

/// The runs in a golden file `{"runs": [...]}` or an output file `[...]`.
fn golden_runs<'a>(file: &'a Json<'a>) -> Option<Vec<GoldenRun<'a>>> {
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

/// Nobody watches these runs.
struct Unwatched;

impl Watch for Unwatched {}

impl GoldenRun<'_> {
    fn text(&self, key: &str) -> String {
        let value = self.config.get(key);
        value.map_or_else(String::new, |v| v.to_string().replace('"', ""))
    }

    fn name(&self) -> String {
        let (model, loss, opt) = (self.text("model"), self.text("loss_func"), self.text("opt"));
        format!("{model} {loss} {opt} run {}", self.text("run_id"))
    }

    /// Our run of this config and the data it used, or why there is none.
    fn ours(&self, library: &Library) -> Result<(RunResult, std::sync::Arc<Pair>), String> {
        let config = RunConfig::from_json(&self.config)
            .ok_or_else(|| format!("{}: not a config of this version", self.name()))?;
        let data = library.load(&config).map_err(|e| e.message)?;
        let result = run(&config, &data, Device::Cpu, &Unwatched).map_err(|e| e.message)?;
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

/// Compares the first `epochs` epochs; errors are relative to each number, or to `floor` where that is larger.
fn compare(check: &mut Check, theirs: &GoldenRun, ours: &RunResult, epochs: usize, floor: f64) {
    check.cases += 1;
    let name = theirs.name();
    if ours.history.len() != theirs.history.len() {
        let (ours, theirs) = (ours.history.len(), theirs.history.len());
        check.fail(format!("{name}: {ours} epochs for {theirs}"));
    }
    for (e, (ours, theirs)) in ours.history.iter().zip(theirs.history).take(epochs).enumerate() {
        let ours = ours.to_json();
        let mut found = epoch_numbers(&ours).collect::<std::collections::HashMap<_, _>>();
        for (key, value) in epoch_numbers(theirs) {
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

/// Runs on the synthetic problems and the sensor matrix.
pub fn small(context: &Context) -> Result<Vec<Check>> {
    const FILE: &str = "runs_small.json";
    let Some(text) = context.goldens.text(FILE)? else {
        return Ok(vec![Check::skip("runs", format!("no {FILE}"))]);
    };
    let file = json::parse(&text).map_err(|e| context.goldens.damaged(FILE, &e))?;
    let runs = golden_runs(&file).ok_or_else(|| context.goldens.damaged(FILE, &"no runs"))?;
    let library = context.library();
    let mut numbers = Check::new("every number of every epoch", 1e-4);
    let mut prox = Check::new("prox-sps", 1e-4);
    let mut optima = Check::new("optimal values", 1.0);
    for theirs in &runs {
        let (ours, data) = match theirs.ours(&library) {
            Ok(both) => both,
            Err(why) => {
                numbers.skipped.push(why);
                continue;
            }
        };
        let opt = theirs.config.get("opt").and_then(|o| o.get("name"));
        let check = if opt == Some(&"prox-sps".into()) {
            &mut prox
        } else {
            &mut numbers
        };
        compare(check, theirs, &ours, usize::MAX, 0.0);
        if let Some(theirs_value) = theirs.summary.and_then(|s| number(s.get("opt_val")?)) {
            optima.cases += 1;
            let decay = theirs.config["opt"].get("weight_decay");
            let decay = decay.and_then(Value::as_f64).unwrap_or(0.0);
            let bias = ours.config["model_kwargs"].get("bias") == Some(&true.into());
            let ours = optimum(&theirs.text("loss_func"), &data.train, decay, bias);
            let allowed = 1e-6 * theirs_value.abs() + 1e-8;
            optima.compare(ours.unwrap_or(f64::NAN), theirs_value, allowed, || theirs.name());
        }
    }
    Ok(vec![numbers, prox, optima])
}
