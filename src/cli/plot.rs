//! `plot`: figures of experiments.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use clap::builder::PossibleValue;

use super::completions::Names;
use super::print;
use super::sources::{Overwrite, Sources, finite, note_cutoff};
use crate::config;
use crate::error::{self, Error, Result};
use crate::results::file;
use crate::results::plot::canvas::Canvas;
use crate::results::plot::chart::{Colours, Figure, Legend, Style, Theme};
use crate::results::plot::layers::{self, Quantity};
use crate::results::plot::{self, Selection, data};
use crate::results::profile::{self, Clock, Query, Target};
use crate::results::{Record, record::Cutoff};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// A metric over the epochs, of the best settings
    Curves,
    /// Final value over the learning rate, or another key
    Stability,
    /// Adaptive step sizes over the learning rate
    Steps,
    /// Adaptive step sizes over the epochs, a panel for each learning rate
    StepSizes,
    /// Learning rates, losses and norms of gradients that were logged of steps
    Stepwise,
    /// What logged steps did to every tensor, as heat maps over the epochs (--quantity)
    Layers,
    /// A metric over what training had taken by then (--time, seconds if none)
    Time,
    /// Performance profiles of methods over several experiments (--target, --time)
    Profile,
    /// All but layers, time and profile
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    Svg,
    Png,
    Pdf,
}

/// Dots per inch where nobody says.
pub(super) const DPI: u32 = 300;

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

    /// As PNG with this many dots per inch.
    pub fn encode(self, canvas: &Canvas, dpi: u32) -> Vec<u8> {
        match self {
            Format::Svg => canvas.svg().into_bytes(),
            Format::Png => canvas.png(dpi),
            Format::Pdf => canvas.pdf(),
        }
    }
}

/// Draw training curves, learning-rate stability, adaptive step sizes and what was logged of steps
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Experiments, as ids or as paths to .json outputs or .csv records, and after them the kind of figure: curves,
    /// stability, steps, step-sizes, stepwise, layers, time, profile or all [default: all]
    #[arg(value_name = "ID... [KIND]", required = true, value_parser = Names(kinds), hide_possible_values = true)]
    ids: Vec<String>,
    #[command(flatten)]
    sources: Sources,
    /// Quantity to draw; may be repeated [default: train_loss and val_score]
    #[arg(long = "metric", value_name = "METRIC")]
    metrics: Vec<String>,
    /// Curves and stability of all metrics as panels of one figure
    #[arg(long)]
    panels: bool,
    /// Only these methods
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    methods: Vec<String>,
    /// Settings per method in the curves, best first
    #[arg(long, value_name = "K", default_value = "1")]
    top: NonZeroUsize,
    /// The metric that decides which settings are best
    #[arg(long, value_name = "METRIC", default_value = "val_score")]
    rank_by: String,
    /// All settings instead of the best, each with a colour, marker and dash of its own
    #[arg(long, conflicts_with = "top")]
    per_setting: bool,
    /// The key on the x axis of stability, weight_decay or batch_size say
    #[arg(long, value_name = "KEY", default_value = "lr")]
    xaxis: String,
    /// Of settings that differ in this key alone, show the best in stability; may be repeated
    #[arg(long, value_name = "KEY", value_delimiter = ',')]
    ignore: Vec<String>,
    /// Final values are averages over the epochs from A on, or from A to B, instead of the last
    #[arg(long, value_name = "A[:B]")]
    cutoff: Option<Cutoff>,
    /// What methods are to reach in profiles: a score (a fraction) or loss for all experiments, or one for an experiment;
    /// may be repeated
    #[arg(long = "target", value_name = "[ID=]X", allow_hyphen_values = true)]
    targets: Vec<Target>,
    /// What time is counted in [default: seconds for time, epochs for profile]
    #[arg(long = "time", value_enum)]
    clock: Option<Clock>,
    /// What heat maps of layers show
    #[arg(long, value_enum, default_value = "relative-update")]
    quantity: Quantity,
    /// Half the width of bands in standard deviations, 0 for none
    #[arg(long, value_name = "K", default_value_t = 1.0, value_parser = not_negative)]
    sigma: f64,
    /// Logarithmic y axis, `--logy false` for a linear one [default: for losses, and scores that are no accuracies]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    logy: Option<bool>,
    /// Where the y axis begins and ends, in its own unit (per cent for accuracies); either may be left out
    #[arg(long, value_name = "LOW:HIGH", value_parser = limits, allow_hyphen_values = true)]
    ylim: Option<Limits>,
    /// Title instead of data set and model; an empty one for none
    #[arg(long, value_name = "TEXT")]
    title: Option<String>,
    #[arg(long, value_enum, default_value = "below")]
    legend: Legend,
    #[arg(long, value_enum, default_value = "light")]
    theme: Theme,
    #[arg(long, value_enum, default_value = "safe")]
    colours: Colours,
    /// Formats of the files
    #[arg(long, value_enum, value_delimiter = ',', default_value = "svg")]
    format: Vec<Format>,
    /// Width in inches, 2 to 40: 3.3 for a column of a paper with two
    #[arg(long, value_name = "INCHES", default_value_t = 5.0, value_parser = inches::<2>)]
    width: f64,
    /// Height in inches with all that belongs to the figure, 1 to 40; more if axes and legend need it
    #[arg(long, value_name = "INCHES", value_parser = inches::<1>)]
    height: Option<f64>,
    /// Dots per inch of PNG, 50 to 1200
    #[arg(long, value_name = "N", default_value_t = DPI, value_parser = clap::value_parser!(u32).range(50..=1200))]
    dpi: u32,
    /// Write a CSV file with what is drawn beside every figure
    #[arg(long)]
    data: bool,
    /// Write a Python script beside every figure that draws it with matplotlib from its CSV file, and that file
    #[arg(long)]
    script: bool,
    /// Folder for the figures
    #[arg(long, value_name = "DIR", default_value = "plots")]
    out_dir: PathBuf,
    #[command(flatten)]
    overwrite: Overwrite,
}

/// What shells complete.
fn kinds() -> Vec<PossibleValue> {
    let all = Kind::value_variants().iter();
    all.filter_map(Kind::to_possible_value).collect()
}

fn inches<const LEAST: u8>(text: &str) -> std::result::Result<f64, String> {
    let inches = text.parse().ok();
    let inches = inches.filter(|inches| (f64::from(LEAST)..=40.0).contains(inches));
    inches.ok_or_else(|| format!("expected a number from {LEAST} to 40"))
}

fn not_negative(text: &str) -> std::result::Result<f64, String> {
    let number = finite(text).ok().filter(|number| *number >= 0.0);
    number.ok_or_else(|| "expected a finite number, 0 or more".into())
}

/// A figure and the name of its file.
type Named = (String, Figure);

/// A figure as it is written.
struct Drawn {
    /// Of its files.
    name: String,
    canvas: Canvas,
    /// CSV of what is drawn.
    data: String,
    /// A script that draws it from that.
    script: Option<String>,
}

type Limits = [Option<f64>; 2];

fn limits(text: &str) -> std::result::Result<Limits, String> {
    let (low, high) = text
        .split_once(':')
        .ok_or("expected LOW:HIGH, two numbers of which one may be left out")?;
    let number = |text: &str| (!text.is_empty()).then(|| finite(text)).transpose();
    match (number(low)?, number(high)?) {
        (Some(low), Some(high)) if low >= high => {
            Err("expected LOW:HIGH with LOW below HIGH".into())
        }
        (low, high) => Ok([low, high]),
    }
}

impl Args {
    pub fn run(mut self) -> Result<u8> {
        let kind = match &self.ids[..] {
            [_, .., last] => Kind::from_str(last, false).ok(),
            _ => None,
        };
        if kind.is_some() {
            self.ids.pop();
        }
        let kind = kind.unwrap_or(Kind::All);
        let records = self.sources.load(&self.ids);
        let records = records.map_err(|error| self.or_kind(error))?;
        if kind == Kind::Profile {
            let profile = self.profile(&records)?;
            self.write(&self.out_dir, vec![profile])?;
            return Ok(0);
        }
        if !self.targets.is_empty() {
            return Err(Error::usage("--target is for the figure `profile`"));
        }
        note_cutoff(&records, self.cutoff);
        for record in &records {
            // Where the experiment has several problems, each has a folder of its own.
            let problem = record.problem.replace('/', "_");
            let folder = self.out_dir.join(&record.name).join(problem);
            match kind {
                Kind::Layers => self.store(&folder, self.layers(record)?)?,
                _ => self.write(&folder, self.figures(kind, record)?)?,
            }
        }
        Ok(0)
    }

    /// The last word may have been meant as a kind of figure.
    fn or_kind(&self, error: Error) -> Error {
        let last = &self.ids[self.ids.len() - 1];
        let kinds = kinds();
        let near = config::nearest(last, kinds.iter().map(PossibleValue::get_name));
        match near {
            Some(near) if self.ids.len() > 1 && error.message.contains(&format!("{last:?}")) => {
                let text = format!("{error}\nor did you mean the figure {near:?}?");
                Error::new(error.kind, text)
            }
            _ => error,
        }
    }

    fn selection(&self) -> Selection<'_> {
        Selection {
            methods: &self.methods,
            top: self.top.get(),
            rank_by: &self.rank_by,
            per_setting: self.per_setting,
            x: &self.xaxis,
            ignore: &self.ignore,
            cutoff: self.cutoff,
            sigma: self.sigma,
            log_y: self.logy,
            y_limits: self.ylim.unwrap_or_default(),
            title: self.title.as_deref(),
        }
    }

    fn profile(&self, records: &[Record]) -> Result<Named> {
        let score = match &self.metrics[..] {
            [] => "val_score",
            [one] => one,
            _ => return Err(Error::usage("a profile is of one --metric")),
        };
        let query = Query {
            score,
            targets: &self.targets,
            clock: self.clock.unwrap_or_default(),
        };
        let profiles = profile::profiles(records, &query)?;
        profiles.notes.iter().for_each(print::note);
        let accuracy = records.iter().all(|record| record.higher_is_better(score));
        let figure = plot::profile(&profiles, score, accuracy, &self.selection());
        Ok((format!("profile_{score}"), figure))
    }

    fn layers(&self, record: &Record) -> Result<Vec<Drawn>> {
        if self.script {
            return Err(Error::usage(
                "there are no scripts for layers: --data writes their numbers",
            ));
        }
        let maps = layers::layers(record, self.quantity, &self.selection())?.into_iter();
        let drawn = maps.enumerate().map(|(nth, map)| Drawn {
            // Of several settings of a method each has a file.
            name: match self.top.get() > 1 || self.per_setting {
                true => format!("layers_{}_{}_{nth}", self.quantity.name(), map.method),
                false => format!("layers_{}_{}", self.quantity.name(), map.method),
            },
            canvas: map.draw(&self.style()),
            data: map.csv(),
            script: None,
        });
        Ok(drawn.collect())
    }

    /// The figures of one problem.
    fn figures(&self, kind: Kind, record: &Record) -> Result<Vec<Named>> {
        let selection = self.selection();
        let mut metrics = self.metrics.clone();
        if metrics.is_empty() {
            metrics = vec!["train_loss".into(), "val_score".into()];
        }
        let clock = self.clock.unwrap_or(Clock::Seconds);
        let of_metrics =
            |name: &str, draw: &dyn Fn(&str) -> Result<Figure>| -> Result<Vec<Named>> {
                let drawn = metrics.iter().map(|metric| draw(metric));
                let drawn: Vec<Figure> = drawn.collect::<Result<_>>()?;
                if self.panels {
                    let name = format!("{name}_{}", metrics.join("_"));
                    return Ok(vec![(name, Figure::beside(drawn))]);
                }
                let names = metrics.iter().map(|metric| format!("{name}_{metric}"));
                Ok(names.zip(drawn).collect())
            };
        let draw = |kind: Kind| -> Result<Vec<Named>> {
            match kind {
                Kind::Curves => of_metrics("curves", &|m| plot::curves(record, m, &selection)),
                Kind::Stability => {
                    of_metrics("stability", &|m| plot::stability(record, m, &selection))
                }
                Kind::Time => of_metrics("time", &|m| plot::time(record, m, clock, &selection)),
                Kind::Steps => Ok(vec![("steps".into(), plot::steps(record, &selection)?)]),
                Kind::StepSizes => {
                    let methods = plot::adaptive(record, &selection)?.into_iter();
                    let figure = |method| {
                        let figure = plot::step_sizes(record, method, &selection)?;
                        Ok((format!("step_sizes_{method}"), figure))
                    };
                    methods.map(figure).collect()
                }
                Kind::Stepwise => {
                    let figure = |name| {
                        let figure = plot::stepwise(record, name, &selection)?;
                        Ok((format!("stepwise_{name}"), figure))
                    };
                    plot::logged(record)?.into_iter().map(figure).collect()
                }
                Kind::Layers | Kind::Profile | Kind::All => unreachable!("drawn elsewhere"),
            }
        };
        if kind != Kind::All {
            return draw(kind);
        }
        let mut figures = draw(Kind::Curves)?;
        let mut left_out: Vec<String> = Vec::new();
        for kind in [
            Kind::Stability,
            Kind::Steps,
            Kind::StepSizes,
            Kind::Stepwise,
        ] {
            // Logs are there only if somebody asked for them.
            if kind == Kind::Stepwise && record.logged().is_empty() {
                continue;
            }
            match draw(kind) {
                Ok(more) => figures.extend(more),
                // What this experiment cannot have.
                Err(Error {
                    message,
                    kind: error::Kind::Usage,
                }) => {
                    if !left_out.contains(&message) {
                        left_out.push(message);
                    }
                }
                Err(e) => return Err(e),
            }
        }
        for why in left_out {
            print::note(format_args!("left out: {why}"));
        }
        Ok(figures)
    }

    fn style(&self) -> Style {
        Style {
            width: self.width,
            height: self.height,
            legend: self.legend,
            theme: self.theme,
            colours: self.colours,
        }
    }

    fn write(&self, folder: &Path, figures: Vec<Named>) -> Result<()> {
        let drawn = figures.into_iter().map(|(name, figure)| {
            let canvas = figure.draw(&self.style());
            Drawn {
                name,
                data: data::csv(&figure),
                script: Some(data::script(&figure, &canvas, self.colours)),
                canvas,
            }
        });
        self.store(folder, drawn.collect())
    }

    fn store(&self, folder: &Path, figures: Vec<Drawn>) -> Result<()> {
        let mut lacking = BTreeSet::new();
        let mut files = Vec::new();
        for Drawn {
            name,
            canvas,
            data,
            script,
        } in figures
        {
            let mut add = |extension: &str, bytes: Vec<u8>| {
                // A metric's name is part of a file's name.
                let file = format!("{name}.{extension}").replace('/', "_");
                files.push((folder.join(file), bytes));
            };
            for format in &self.format {
                add(format.extension(), format.encode(&canvas, self.dpi));
                if *format != Format::Svg {
                    lacking.append(&mut canvas.lacking());
                }
            }
            if self.data || self.script {
                add("csv", data.into_bytes());
            }
            if let Some(script) = script.filter(|_| self.script) {
                add("py", script.into_bytes());
            }
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
