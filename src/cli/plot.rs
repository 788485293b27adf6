//! `plot`: figures of an experiment.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::print;
use super::sources::{Overwrite, Sources};
use crate::error::{Error, Result};
use crate::results::Record;
use crate::results::file;
use crate::results::plot::{self, Selection, canvas::Canvas, chart::Chart};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Figure {
    /// Training curves of the best settings
    Curves,
    /// Final value over the learning rate
    Stability,
    /// Adaptive step sizes over the learning rate
    Steps,
    /// Learning rates, losses and norms of gradients that were logged of steps
    Stepwise,
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    Svg,
    Png,
    Pdf,
}

impl Format {
    /// The format that a file's name asks for.
    pub fn of(path: &Path) -> Result<Format> {
        let all = Format::value_variants().iter();
        let mut named = all.filter(|f| path.extension().is_some_and(|e| e == f.extension()));
        named.next().copied().ok_or_else(|| {
            let path = path.display();
            Error::usage(format!(
                "{path}: not the name of a figure (expected .svg, .png or .pdf)"
            ))
        })
    }

    fn extension(self) -> &'static str {
        match self {
            Format::Svg => "svg",
            Format::Png => "png",
            Format::Pdf => "pdf",
        }
    }

    pub fn encode(self, canvas: &Canvas) -> Vec<u8> {
        match self {
            Format::Svg => canvas.svg().into_bytes(),
            Format::Png => canvas.png(300.0),
            Format::Pdf => canvas.pdf(),
        }
    }
}

/// Draw training curves, learning-rate stability, adaptive step sizes and what was logged of steps
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Experiment, as an id or as a path to a .json output or .csv record
    id: String,
    #[arg(value_enum, default_value = "all")]
    figure: Figure,
    #[command(flatten)]
    sources: Sources,
    /// Quantity to draw; may be repeated [default: train_loss and val_score]
    #[arg(long = "metric", value_name = "METRIC")]
    metrics: Vec<String>,
    /// Only these methods
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    methods: Vec<String>,
    /// Settings per method in the curves, best first
    #[arg(long, value_name = "K", default_value = "1")]
    top: NonZeroUsize,
    /// The quantity that tells which settings are best
    #[arg(long, value_name = "METRIC", default_value = "val_score")]
    rank_by: String,
    /// Logarithmic y axis, `--logy false` for a linear one [default: for losses, and scores that are no accuracies]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    logy: Option<bool>,
    #[arg(long, value_enum, default_value = "svg")]
    format: Format,
    /// Width in inches, 2 to 40
    #[arg(long, value_name = "INCHES", default_value_t = 5.0, value_parser = width)]
    width: f64,
    /// Folder for the figures
    #[arg(long, value_name = "DIR", default_value = "plots")]
    out_dir: PathBuf,
    #[command(flatten)]
    overwrite: Overwrite,
}

fn width(text: &str) -> std::result::Result<f64, String> {
    let inches: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (2.0..=40.0).contains(&inches) {
        Ok(inches)
    } else {
        Err("not between 2 and 40".into())
    }
}

impl Args {
    pub fn run(self) -> Result<u8> {
        for record in self.sources.load(std::slice::from_ref(&self.id))? {
            self.draw(&record)?;
        }
        Ok(0)
    }

    /// Draws the figures of one problem. Where the experiment has several, each has a folder of its own.
    fn draw(&self, record: &Record) -> Result<()> {
        let selection = Selection {
            methods: &self.methods,
            top: self.top.get(),
            rank_by: &self.rank_by,
            log_y: self.logy,
        };
        let metrics = if self.metrics.is_empty() {
            vec!["train_loss".to_owned(), "val_score".to_owned()]
        } else {
            self.metrics.clone()
        };
        let wants = |figure| self.figure == figure || self.figure == Figure::All;
        let mut charts: Vec<(String, Chart)> = Vec::new();
        for metric in &metrics {
            if wants(Figure::Curves) {
                let chart = plot::curves(record, metric, &selection)?;
                charts.push((format!("curves_{metric}"), chart));
            }
            if wants(Figure::Stability) {
                let chart = plot::stability(record, metric, &selection)?;
                charts.push((format!("stability_{metric}"), chart));
            }
        }
        if wants(Figure::Steps) {
            match plot::steps(record, &selection) {
                Ok(chart) => charts.push(("steps".into(), chart)),
                Err(e) if self.figure == Figure::Steps => return Err(e),
                Err(Error { message, .. }) => {
                    print::note(format_args!("no figure of steps: {message}"))
                }
            }
        }
        if wants(Figure::Stepwise) {
            let names = record.logged();
            if names.is_empty() && self.figure == Figure::Stepwise {
                return Err(Error::usage(format!(
                    "{} has no logged steps: outputs of train --log-every-k-steps have them, records do not",
                    record.name
                )));
            }
            for name in names {
                let chart = plot::stepwise(record, name, &selection)?;
                charts.push((format!("stepwise_{name}"), chart));
            }
        }
        let mut lacking = BTreeSet::new();
        let mut files = Vec::new();
        for (name, chart) in charts {
            let canvas = chart.draw(self.width);
            let (bytes, extension) = (self.format.encode(&canvas), self.format.extension());
            if self.format != Format::Svg {
                lacking.append(&mut canvas.lacking());
            }
            // A metric's name is part of a file's name.
            let file = format!("{name}.{extension}").replace('/', "_");
            let problem = record.problem.replace('/', "_");
            let path = self.out_dir.join(&record.name).join(problem).join(file);
            files.push((path, bytes));
        }
        file::write_all(&files, self.overwrite.into())?;
        for (path, _) in &files {
            print::println(path.display())?;
        }
        if !lacking.is_empty() {
            let lacking: Vec<String> = lacking.into_iter().map(String::from).collect();
            print::note(format_args!(
                "warning: PNG and PDF show frames for characters that the embedded font lacks: {}; \
                 SVG keeps them as text",
                lacking.join(" ")
            ));
        }
        Ok(())
    }
}
