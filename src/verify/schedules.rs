//! Suite `schedules`.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Check, Context};
use crate::error::Result;
use crate::optim::schedule::{Schedule, named};

/// Learning rates of epochs.
#[derive(Deserialize)]
struct EpochsFile {
    cases: Vec<EpochsCase>,
}

#[derive(Deserialize)]
struct EpochsCase {
    lr_schedule: String,
    lr: f64,
    per_epoch: Vec<f64>,
}

/// Learning rates of ticks: the reference's, and those of schedules that it does not have.
#[derive(Deserialize)]
struct TicksFile {
    reference: Vec<TicksCase>,
    further: Vec<TicksCase>,
}

#[derive(Deserialize)]
struct TicksCase {
    opt: Map<String, Value>,
    lr: Vec<f64>,
    /// What a schedule that waits for a plateau is told after every tick.
    metric: Option<Vec<f64>>,
}

pub fn schedules(context: &Context) -> Result<Vec<Check>> {
    let mut exact = Check::new("learning rates", 0.0);
    // Cosines, roots and powers come from another library; errors are relative to lr.
    let mut near = Check::new("those with cosines, roots and powers", 1e-16);
    let mut cases = Vec::new();
    const EPOCHS: &str = "schedules.json";
    match context.goldens.read::<EpochsFile>(EPOCHS)? {
        None => exact.skipped.push(format!("no {EPOCHS}")),
        Some(file) => cases.extend(file.cases.into_iter().map(|case| TicksCase {
            opt: Map::from_iter([
                ("lr".to_owned(), json!(case.lr)),
                ("lr_schedule".to_owned(), case.lr_schedule.into()),
            ]),
            lr: case.per_epoch,
            metric: None,
        })),
    }
    const TICKS: &str = "next_schedules.json";
    match context.goldens.read::<TicksFile>(TICKS)? {
        None => near.skipped.push(format!("no {TICKS}")),
        Some(file) => cases.extend(file.reference.into_iter().chain(file.further)),
    }
    for case in cases {
        let text = |key: &str| {
            case.opt
                .get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let (name, fall) = (text("lr_schedule"), text("cooldown_type"));
        if named(name).is_none() {
            exact.skipped.push(format!("there is no schedule {name}"));
            continue;
        }
        let check = match (name, fall) {
            ("cosine" | "polynomial", _) | (_, "1-sqrt" | "cosine") => &mut near,
            _ => &mut exact,
        };
        check.cases += 1;
        let mut schedule = Schedule::new(&case.opt, case.lr.len(), 1)?;
        let initial = case
            .opt
            .get("lr")
            .and_then(Value::as_f64)
            .unwrap_or(f64::NAN);
        for (tick, theirs) in case.lr.iter().enumerate() {
            let ours = schedule.next_epoch()[0].lr;
            let at = || format!("{} tick {tick}", json!(case.opt));
            check.compare(ours, *theirs, initial, at);
            if let Some(metric) = &case.metric {
                schedule.evaluated(metric[tick]);
            }
        }
    }
    Ok(vec![exact, near])
}
