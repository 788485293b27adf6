//! The report: one HTML file with tables, live figures and the data, which needs no network.

use std::time::SystemTime;

use serde_json::{Map, Value, json};

use super::escape;
use super::measure;
use super::names;
use super::plot::{self, chart};
use super::provenance;
use super::record::{Record, Setting};
use super::table::{Cell, Column, Query, Table, format_small};
use super::timestamp::timestamp;
use crate::error::Result;
use crate::optim::Look;

const COLUMNS: [Column; 6] = [
    Column::Score,
    Column::Setting,
    Column::Area,
    Column::Robustness,
    Column::Epochs,
    Column::Time,
];

/// Logged steps of a setting that a report holds at most.
const LOGGED: usize = 1000;

/// The HTML of a report on these experiments. `rank_by` is the metric that tells which settings are best, in tables and figures;
/// with a `target`, a score as a fraction or a loss, the table says how many epochs and seconds each method takes to it.
pub fn html(records: &[Record], rank_by: &str, target: Option<f64>) -> Result<String> {
    let Parts { sections, data } = parts(records, rank_by, target)?;
    let overview = match records.len() {
        0 | 1 => String::new(),
        _ => overview(records, rank_by)?,
    };
    // No tag can end or begin inside the script element then.
    let data = data.to_string().replace('<', "\\u003c");
    let mut names: Vec<&str> = records.iter().map(|r| r.name.as_str()).collect();
    names.dedup();
    let title = escape::xml(&format!("Report: {}", names.join(", ")));
    let made = escape::xml(&made());
    let places = [
        ("TITLE", title.as_str()),
        ("OVERVIEW", &overview),
        ("SECTIONS", &sections),
        ("MADE", &made),
        ("DATA", &data),
    ];
    Ok(page(include_str!("../../assets/report.html"), &places))
}

/// What a page shows of experiments.
pub struct Parts {
    /// HTML that can be read without scripts.
    pub sections: String,
    /// What scripts draw figures from.
    pub data: Value,
}

/// As [`html`], for other pages.
pub fn parts(records: &[Record], rank_by: &str, target: Option<f64>) -> Result<Parts> {
    let tables: Vec<Table> = records
        .iter()
        .map(|record| table(record, rank_by, target))
        .collect::<Result<_>>()?;
    let both = || records.iter().zip(&tables);
    let sections = both()
        .enumerate()
        .map(|(nth, (record, table))| section(nth, record, table));
    let experiments = both().map(|(record, table)| experiment(record, table));
    Ok(Parts {
        sections: sections.collect(),
        data: json!({"rank_by": rank_by, "experiments": experiments.collect::<Vec<_>>()}),
    })
}

/// A page with live figures: a template whose `{{NAME}}` are replaced.
pub fn page(template: &str, places: &[(&str, &str)]) -> String {
    let own = [
        ("STYLE", include_str!("../../assets/figures.css")),
        ("FIGURES", include_str!("../../assets/figures.js")),
    ];
    let find = |name: &str| {
        let mut all = own.iter().chain(places);
        let found = all.find(|place| place.0 == name);
        found.expect("the template has no other places").1
    };
    // In one pass: what is put in is not looked through for places.
    let mut template = template.split("{{");
    let mut html = template.next().unwrap_or_default().to_owned();
    for part in template {
        let (name, rest) = part.split_once("}}").expect("the template is whole");
        html += find(name);
        html += rest;
    }
    html
}

/// When, how and by what the report was made.
fn made() -> String {
    let about = provenance::of_process();
    let said = |key: &str| about.get(key).and_then(Value::as_str).unwrap_or("unknown");
    format!(
        "{}, by {} (stepback-native {}, commit {})",
        timestamp(SystemTime::now()).get(..19).unwrap_or_default(),
        said("command"),
        said("version"),
        said("commit"),
    )
}

/// Contents, and the best of every method in all experiments.
fn overview(records: &[Record], rank_by: &str) -> Result<String> {
    let links = records.iter().enumerate().map(|(nth, record)| {
        let title = escape::xml(&record.title());
        format!("<li><a href=\"#experiment-{nth}\">{title}</a></li>\n")
    });
    let query = Query {
        score: rank_by,
        cutoff: None,
        columns: &[],
        target: None,
        sort: None,
    };
    let table = Table::new(records, &query)?;
    Ok(format!(
        "<nav aria-label=\"Contents\"><ol>\n{}</ol></nav>\n<h2>All experiments</h2>\n{}",
        links.collect::<String>(),
        html_table(&table)
    ))
}

fn table(record: &Record, rank_by: &str, target: Option<f64>) -> Result<Table> {
    let columns = if target.is_some() { 6 } else { 4 };
    let query = Query {
        score: rank_by,
        cutoff: None,
        columns: &COLUMNS[..columns],
        target,
        sort: None,
    };
    let mut table = Table::new(std::slice::from_ref(record), &query)?;
    // The experiment is the section's heading already.
    table.header.remove(0);
    for row in &mut table.rows {
        row.remove(0);
    }
    Ok(table)
}

/// All that can be read without scripts, which add the figures.
fn section(nth: usize, record: &Record, table: &Table) -> String {
    let title = escape::xml(&record.title());
    let mut html = format!("<section id=\"experiment-{nth}\">\n<h2>{title}</h2>\n");
    html += &html_table(table);
    for note in &table.notes {
        html += &format!("<p>{}</p>\n", escape::xml(note));
    }
    html += "<p class=\"noscript\">The figures of this page are drawn by scripts, which do not run here; \
             <code>stepback-native plot</code> writes figures that need none.</p>\n<div class=\"live\"></div>\n";
    let (runs, diverged) = runs(record);
    if !runs.rows.is_empty() {
        let summary = format!("Runs ({}, {diverged} diverged)", runs.rows.len());
        html += &details(&summary, &html_table(&runs));
    }
    if let Some(first) = first_config(record) {
        let config = serde_json::to_string_pretty(first).expect("JSON can be written");
        let config: Vec<String> = config.lines().map(escape::xml).collect();
        html += &details(
            "Config of the first run",
            &format!("<pre>{}</pre>\n", config.join("\n")),
        );
    }
    html + "</section>\n"
}

fn details(summary: &str, content: &str) -> String {
    format!("<details><summary>{summary}</summary>\n{content}</details>\n")
}

fn html_table(table: &Table) -> String {
    let head = table
        .header
        .iter()
        .map(|text| format!("<th scope=\"col\">{}</th>", escape::xml(text)));
    let mut html = format!(
        "<div class=\"wide\"><table>\n<thead><tr>{}</tr></thead>\n<tbody>\n",
        head.collect::<String>()
    );
    for row in &table.rows {
        let cells = row.iter().map(|cell| {
            let text = escape::xml(&cell.text);
            let text = if cell.bold {
                format!("<b>{text}</b>")
            } else {
                text
            };
            let long = cell.text.chars().count() > 40;
            format!(
                "<td{}>{text}</td>",
                if long { " class=\"long\"" } else { "" }
            )
        });
        html += &format!("<tr>{}</tr>\n", cells.collect::<String>());
    }
    html + "</tbody></table></div>\n"
}

fn first_config(record: &Record) -> Option<&Map<String, Value>> {
    let first = record.settings.iter().find_map(|s| s.runs.first());
    first.map(|run| &run.config)
}

fn experiment(record: &Record, table: &Table) -> Value {
    let settings: Vec<Value> = record.settings.iter().map(|s| setting(record, s)).collect();
    let (runs, diverged) = runs(record);
    let mut runs = data(&runs);
    runs["diverged"] = diverged.into();
    json!({
        "name": record.title(),
        "accuracy": record.accuracy,
        "config": first_config(record),
        "metrics": record.metrics.iter().map(|metric| shown(record, metric)).collect::<Vec<_>>(),
        "logged": record.logged(),
        "methods": record.methods().into_iter().map(method).collect::<Vec<_>>(),
        "settings": settings,
        "table": data(table),
        "runs": runs,
    })
}

/// A metric: its name, what axes say, and the factor from what is stored.
fn shown(record: &Record, metric: &str) -> Value {
    let accuracy = record.accuracy && metric.ends_with("score");
    let unit = if accuracy { " (%)" } else { "" };
    json!({
        "name": metric,
        "label": names::metric(metric, record.accuracy) + unit,
        "factor": if accuracy { 100.0 } else { 1.0 },
    })
}

/// A method as the figures show it.
fn method(name: &str) -> Value {
    let Look { colour, marker, .. } = plot::look(name);
    let (shape, hollow) = chart::outline(marker);
    json!({
        "name": name,
        "label": names::method(name),
        "colour": format!("#{colour:06x}"),
        "marker": chart::corners(shape),
        "hollow": if hollow { chart::HOLLOW } else { 0.0 },
    })
}

fn data(table: &Table) -> Value {
    let rows = table.rows.iter();
    let rows = rows.map(|row| {
        row.iter()
            .map(|cell| cell.text.as_str())
            .collect::<Vec<_>>()
    });
    json!({"header": table.header, "rows": rows.collect::<Vec<_>>()})
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
    let logged = record.logged().into_iter().filter_map(|name| {
        let all = measure::logged(setting, name);
        // More than a screen can show, evenly.
        let every = all.len().div_ceil(LOGGED).max(1);
        let rows = all.iter().step_by(every);
        let rows = rows.map(|(step, x)| json!([step, short(x.mean), short(x.std)]));
        (!all.is_empty()).then(|| (name.to_owned(), rows.collect()))
    });
    json!({
        "id": setting.id,
        "epochs": setting.epochs,
        "method": setting.method(),
        "label": setting.label(),
        "line": setting.line,
        "whole": setting.end() == record.end(),
        "lr": setting.lr(),
        "curves": curves.collect::<serde_json::Map<_, _>>(),
        "steps": measure::steps(setting).map(|q| q.map(short)),
        "logged": logged.collect::<serde_json::Map<_, _>>(),
        "diverged": record.diverged(setting, None),
    })
}

/// One row per run, without the columns that say nothing of any; and how many diverged.
fn runs(record: &Record) -> (Table, usize) {
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
            setting.name(),
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
    let kept = |row: &[String; 8]| -> Vec<Cell> {
        let texts = columns.iter().map(|&c| row[c].clone());
        texts.map(Cell::plain).collect()
    };
    let diverged = runs()
        .filter(|(_, run)| run.diverged_at().is_some())
        .count();
    let table = Table {
        header: columns.iter().map(|&c| HEADER[c].to_owned()).collect(),
        rows: rows.iter().map(kept).collect(),
        ..Table::default()
    };
    (table, diverged)
}

/// Six significant digits: more than a screen shows. Null for what JSON cannot say.
fn short(x: f64) -> Value {
    let rounded: f64 = format!("{x:.5e}").parse().expect("a number");
    Value::from(rounded)
}
