//! Configs: what they expand to, and what is said about those that are wrong.

mod changes;
mod errors;
mod expansion;
mod files;
mod filters;
mod properties;
mod vocabulary;

use serde_json::Value;
use stepback_native::config::{self, Experiment, MAX_RUNS, RunConfig};
use stepback_native::error::{Kind, Result};
use vocabulary::vocabulary;

fn parse(text: &str) -> Result<Experiment> {
    config::parse("e", "e.json", text.as_bytes(), &vocabulary(), MAX_RUNS)
}

fn runs(text: &str) -> Vec<RunConfig> {
    match parse(text) {
        Ok(experiment) => experiment.runs,
        Err(error) => panic!("{error}\n{text}"),
    }
}

/// The message about a text that must be refused.
fn refused(text: &str) -> String {
    let error = parse(text).expect_err(text);
    assert_eq!(error.kind, Kind::Usage, "{error}");
    assert_eq!(error.kind.exit_code(), 2);
    error.message
}

/// A small valid config with some top-level keys changed: a JSON text, or "" to leave the key out.
fn dict(changes: &[(&str, &str)]) -> String {
    let base = [
        ("dataset", r#""synthetic_linear""#),
        ("dataset_kwargs", r#"{"p": 3, "n_samples": 20}"#),
        ("model", r#""linear""#),
        ("loss_func", r#""squared""#),
        ("score_func", r#""squared""#),
        ("opt", r#"[{"name": "sgd", "lr": 0.1}]"#),
        ("batch_size", "5"),
        ("max_epoch", "2"),
        ("n_runs", "1"),
    ];
    let changed = |name: &str| changes.iter().find(|(other, _)| *other == name);
    let kept = base.iter().map(|pair| changed(pair.0).unwrap_or(pair));
    let new = changes
        .iter()
        .filter(|(name, _)| base.iter().all(|(other, _)| other != name));
    let entries: Vec<String> = kept
        .chain(new)
        .filter(|(_, text)| !text.is_empty())
        .map(|(name, text)| format!("{}: {text}", Value::from(*name)))
        .collect();
    format!("{{{}}}", entries.join(", "))
}

/// The small config with this `opt`.
fn opt(text: &str) -> String {
    dict(&[("opt", text)])
}

/// A list of one run: the small config as a single run, with changes.
fn listed(changes: &[(&str, &str)]) -> String {
    let single = [
        ("n_runs", ""),
        ("run_id", "0"),
        ("opt", r#"{"name": "sgd", "lr": 0.1}"#),
    ];
    let all: Vec<(&str, &str)> = changes.iter().chain(&single).copied().collect();
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for pair in all {
        if seen.iter().all(|(name, _)| *name != pair.0) {
            seen.push(pair);
        }
    }
    format!("[{}]", dict(&seen))
}
