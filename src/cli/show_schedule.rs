//! `config show-schedule`: the learning rates of a config's runs, before anything is trained.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::config::Source;
use super::plot::{DPI, Format};
use super::print::{self, six_digits};
use super::sources::Overwrite;
use crate::config::RunConfig;
use crate::data::{Library, fetch};
use crate::error::{Error, Result};
use crate::optim::schedule::Schedule;
use crate::optim::{self, Look};
use crate::results::file;
use crate::results::plot::chart::{Axis, Chart, Figure, Mark, Scale, Series, Style};
use crate::train::steps_per_epoch;

/// Rows of a table at most, lines of learning rates beside each other, and points of a line in a figure.
const ROWS: usize = 24;
const COLUMNS: usize = 4;
const POINTS: usize = 2000;
/// Ticks that are shown at most.
const TICKS: u64 = 10_000_000;

#[derive(clap::Args, Debug)]
pub struct ShowSchedule {
    #[command(flatten)]
    source: Source,
    /// Draw the learning rates into FILE.svg, FILE.png or FILE.pdf
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// With a logarithmic axis
    #[arg(long, requires = "out")]
    logy: bool,
    /// Samples of the training set, for schedules by steps; otherwise they are counted
    #[arg(long, value_name = "N")]
    samples: Option<usize>,
    /// Where data sets are
    #[arg(long, value_name = "DIR", default_value = "data")]
    data_dir: PathBuf,
    /// Where their shards are [default: shards in the data folder]
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// One JSON array with an object per schedule, all learning rates in it
    #[arg(long, conflicts_with = "out")]
    json: bool,
    #[command(flatten)]
    overwrite: Overwrite,
}

/// What runs have in common that go by the same learning rates.
struct Line {
    /// `lr=0.1, wsd, cooldown=0.5`.
    label: String,
    epochs: usize,
    /// Of an epoch, where ticks are steps.
    steps: Option<usize>,
    rates: Vec<f64>,
}

impl Line {
    fn new(run: &RunConfig, label: String, steps: Option<usize>) -> Result<Line> {
        let epochs = run.max_epoch;
        let mut schedule = Schedule::new(&run.opt, epochs, steps.unwrap_or(1))?;
        schedule.check()?;
        if schedule.ticks() > TICKS {
            let ticks = schedule.ticks();
            return Err(Error::usage(format!(
                "{label}: {ticks} learning rates (expected at most {TICKS})"
            )));
        }
        let rates = (0..epochs).flat_map(|_| schedule.next_epoch());
        Ok(Line {
            label,
            epochs,
            steps,
            rates: rates.map(|rate| rate.lr).collect(),
        })
    }

    fn unit(&self) -> &'static str {
        match self.steps {
            Some(_) => "step",
            None => "epoch",
        }
    }
}

impl ShowSchedule {
    pub fn run(self) -> Result<u8> {
        let experiment = self.source.load()?;
        let library = Library::new(&self.data_dir, true, fetch::Options::new(Vec::new(), true));
        let library = library.cached_in(self.cache_dir.clone());
        let mut lines: Vec<Line> = Vec::new();
        for run in &experiment.runs {
            let (label, epochs, steps) = (label(run), run.max_epoch, self.steps(run, &library)?);
            let same = |l: &Line| (l.epochs, l.steps) == (epochs, steps) && l.label == label;
            if !lines.iter().any(same) {
                lines.push(Line::new(run, label, steps)?);
            }
        }
        let lengths: BTreeSet<_> = lines.iter().map(|l| (l.unit(), l.rates.len())).collect();
        let units: BTreeSet<_> = lengths.iter().map(|length| length.0).collect();
        if lengths.len() > units.len() {
            for line in &mut lines {
                let length = format!(", {}", print::count(line.rates.len(), line.unit()));
                line.label += &length;
            }
        }
        if self.json {
            let lines: Value = lines.iter().map(json).collect();
            print::println(lines)?;
        } else if let Some(path) = &self.out {
            let format = Format::of(path)?;
            let canvas = self.figure(&experiment.id, &lines).draw(&Style::default());
            file::write(path, &format.encode(&canvas, DPI), self.overwrite.into())?;
            print::println(path.display())?;
        } else {
            print_tables(&lines)?;
        }
        Ok(0)
    }

    /// Steps of an epoch, where ticks are steps. Where they are epochs nobody needs to know the samples.
    fn steps(&self, run: &RunConfig, library: &Library) -> Result<Option<usize>> {
        if !Schedule::new(&run.opt, run.max_epoch, 1)?.stepwise() {
            return Ok(None);
        }
        let samples = match self.samples {
            Some(samples) => samples,
            None => library.load(run).map_err(uncounted)?.train.len(),
        };
        Ok(Some(steps_per_epoch(run, samples)))
    }

    fn figure(&self, id: &str, lines: &[Line]) -> Figure {
        let series = lines.iter().enumerate().map(|(nth, line)| {
            let ticks = line.steps.unwrap_or(1) as f64;
            // The rate of an epoch is that of all its steps.
            let ends: &[usize] = if line.steps.is_none() { &[0, 1] } else { &[0] };
            let points = shown(line.rates.len(), POINTS).flat_map(|t| {
                let point = move |end: &usize| {
                    let x = (t + end) as f64 / ticks;
                    [x, line.rates[t], f64::NAN, f64::NAN]
                };
                ends.iter().map(point)
            });
            Series {
                label: line.label.clone(),
                look: Look::nth(nth),
                nth: 0,
                mark: Mark::LineAndMarkers,
                points: points.collect(),
                diverged: Vec::new(),
            }
        });
        let scale = if self.logy { Scale::Log } else { Scale::Linear };
        Figure {
            title: format!("{id}: learning rates"),
            ..Figure::from(Chart {
                title: String::new(),
                x: Axis::new("Epoch", Scale::Whole),
                y: Axis::new("Learning rate", scale),
                series: series.collect(),
                diverged_on_top: false,
            })
        }
    }
}

/// The keys that a run's learning rates follow from, but those that have their defaults.
fn label(run: &RunConfig) -> String {
    let text = |key: &str| run.opt.get(key).and_then(Value::as_str);
    let method = text("name").and_then(optim::row);
    let own = method.map_or(&[][..], |row| row.entry.keys);
    let keys = optim::keys(&run.opt).into_iter();
    let keys = keys
        .filter(|key| key.name != "weight_decay" && own.iter().all(|other| other.name != key.name));
    let parts = keys.filter_map(|key| {
        let (given, default) = (run.opt.get(key.name), key.default());
        let always = key.name == "lr" || key.name == "lr_schedule";
        let value = given.filter(|value| always || default.as_ref() != Some(value));
        let value = value.cloned().or(default.filter(|_| always))?;
        let value = match value {
            Value::String(text) => text,
            value => value.to_string(),
        };
        Some(match (key.name, value.as_str()) {
            ("lr_schedule", name) => name.to_owned(),
            ("stepwise_schedule", _) => "by steps".to_owned(),
            (key, value) => format!("{key}={value}"),
        })
    });
    let mut label = parts.collect::<Vec<_>>().join(", ");
    if text("lr_schedule") == Some("plateau") {
        label += " (while val_loss falls)";
    }
    label
}

fn uncounted(mut error: Error) -> Error {
    error.message += "; --samples N says how many training samples there are";
    error
}

/// `most` of `all` places, the first and the last among them.
fn shown(all: usize, most: usize) -> impl Iterator<Item = usize> {
    let n = all.min(most);
    (0..n).map(move |i| if n < 2 { i } else { i * (all - 1) / (n - 1) })
}

fn json(line: &Line) -> Value {
    json!({
        "label": line.label,
        "epochs": line.epochs,
        "steps_per_epoch": line.steps,
        "tick": line.unit(),
        "learning_rates": line.rates,
    })
}

/// A table for a few lines of the same length, until all are shown.
fn print_tables(lines: &[Line]) -> Result<()> {
    let alike = |a: &Line, b: &Line| (a.epochs, a.steps) == (b.epochs, b.steps);
    let mut first = true;
    for lines in lines.chunk_by(alike).flat_map(|same| same.chunks(COLUMNS)) {
        let labels = lines.iter().map(|line| line.label.replace(", ", "\n"));
        let labels: Vec<String> = labels.collect();
        let mut header = vec![lines[0].unit()];
        header.extend(labels.iter().map(String::as_str));
        let mut table = print::table(&header);
        for tick in shown(lines[0].rates.len(), ROWS) {
            let rates = lines.iter().map(|line| six_digits(line.rates[tick]));
            table.add_row([tick.to_string()].into_iter().chain(rates));
        }
        if !std::mem::take(&mut first) {
            print::println("")?;
        }
        print::println(table)?;
    }
    Ok(())
}
