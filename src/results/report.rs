//! The report: one HTML file with tables, live figures and the data, which needs no network.

use serde_json::{Value, json};

use super::measure;
use super::plot::COLOURS;
use super::plot::canvas::escape;
use super::record::{Record, Setting};
use super::table::{Cell, Column, Query, Table, format_small};
use crate::error::Result;

const COLUMNS: [Column; 6] = [
    Column::Score,
    Column::Setting,
    Column::Area,
    Column::Robustness,
    Column::Epochs,
    Column::Time,
];

/// The HTML of a report on these experiments. `score` ranks settings; with a `target`, a score as a fraction
/// or a loss, the table says how many epochs and seconds each method takes to it.
pub fn html(records: &[Record], score: &str, target: Option<f64>) -> Result<String> {
    let experiments = records.iter().map(|r| experiment(r, score, target));
    let experiments: Vec<Value> = experiments.collect::<Result<_>>()?;
    let data = json!({"colours": *COLOURS, "experiments": experiments});
    let names: Vec<&str> = records.iter().map(|r| r.name.as_str()).collect();
    // No tag can end or begin inside the script element then.
    let data = data.to_string().replace('<', "\\u003c");
    let title = format!("Report: {}", names.join(", "));
    Ok(include_str!("../../assets/report.html")
        .replace("{{TITLE}}", &escape(&title))
        .replacen("{{DATA}}", &data, 1))
}

fn experiment(record: &Record, score: &str, target: Option<f64>) -> Result<Value> {
    let query = Query {
        score,
        cutoff: None,
        columns: if target.is_some() {
            &COLUMNS
        } else {
            &COLUMNS[..4]
        },
        target,
    };
    let table = Table::new(std::slice::from_ref(record), &query)?;
    // The experiment is the section's heading already.
    let rows = table
        .rows
        .iter()
        .map(|row| row[1..].iter().map(cell).collect());
    let rows: Vec<Value> = rows.collect();
    let first = record.settings.iter().find_map(|s| s.runs.first());
    let settings: Vec<Value> = record.settings.iter().map(|s| setting(record, s)).collect();
    Ok(json!({
        "name": record.name,
        "accuracy": record.accuracy,
        "config": first.map(|run| &run.config),
        "epochs": record.epochs,
        "metrics": record.metrics,
        "settings": settings,
        "table": {"header": table.header[1..], "rows": rows},
        "runs": runs(record),
    }))
}

fn cell(cell: &Cell) -> Value {
    json!({"text": cell.text, "bold": cell.bold})
}

fn setting(record: &Record, setting: &Setting) -> Value {
    let curves = record
        .metrics
        .iter()
        .zip(&setting.curves)
        .map(|(metric, curve)| {
            let [mean, std] = [&curve.mean, &curve.std]
                .map(|list| list.iter().map(|x| short(*x)).collect::<Value>());
            (metric.clone(), json!({"mean": mean, "std": std}))
        });
    let loss = record.metric("train_loss").ok();
    json!({
        "id": setting.id,
        "method": setting.method(),
        "label": setting.label(),
        "lr": setting.lr(),
        "curves": curves.collect::<serde_json::Map<_, _>>(),
        "steps": measure::steps(setting).map(|q| q.map(short)),
        "diverged": loss.is_some_and(|l| !record.last(setting, l, None).mean.is_finite()),
    })
}

/// One row per run; without the columns that say nothing of any.
fn runs(record: &Record) -> Value {
    const HEADER: [&str; 8] = [
        "setting",
        "run_id",
        "train loss",
        "seconds",
        "diverged in epoch",
        "device",
        "precision",
        "start",
    ];
    let runs = || {
        let settings = record.settings.iter();
        settings.flat_map(|setting| setting.runs.iter().map(move |run| (setting, run)))
    };
    let rows = runs().map(|(setting, run)| {
        let said = |key: &str| match run.summary.get(key) {
            None | Some(Value::Null) => String::new(),
            Some(value) => super::output::python_str(value),
        };
        let loss = run.metric("train_loss").and_then(|m| m.last());
        let time = Some(run.train_time()).filter(|t| !t.is_nan());
        [
            format!("{}, {}", setting.method(), setting.label()),
            run.run_id().to_string(),
            loss.map_or(String::new(), |x| format_small(*x)),
            time.map_or(String::new(), format_small),
            run.diverged_at().map_or(String::new(), |e| e.to_string()),
            said("device"),
            said("precision"),
            // Without fractions of a second.
            said("start_time").chars().take(19).collect(),
        ]
    });
    let rows: Vec<[String; 8]> = rows.collect();
    let filled = |column: &usize| rows.iter().any(|row| !row[*column].is_empty());
    let columns: Vec<usize> = (0..HEADER.len()).filter(filled).collect();
    let kept = |row: &[String; 8]| -> Value { columns.iter().map(|&c| row[c].as_str()).collect() };
    let diverged = runs()
        .filter(|(_, run)| run.diverged_at().is_some())
        .count();
    json!({
        "header": columns.iter().map(|&c| HEADER[c]).collect::<Vec<_>>(),
        "rows": rows.iter().map(kept).collect::<Vec<Value>>(),
        "diverged": diverged,
    })
}

/// Six significant digits: more than a screen shows. Null for what JSON cannot say.
fn short(x: f64) -> Value {
    let rounded: f64 = format!("{x:.5e}").parse().expect("a number");
    Value::from(rounded)
}
