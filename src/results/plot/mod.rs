//! The figures of an experiment.

pub mod canvas;
pub mod chart;
mod clip;
pub mod data;
mod draw;
pub mod font;
pub mod layers;
mod pdf;
mod ruler;

use chart::{Axis, Chart, Figure, Mark, Scale, Series};

use super::profile::{Clock, Profiles, R_MAX};
use super::record::{Cutoff, Record, Setting, Stat};
use super::statistics::median;
use super::{measure, names};
use crate::error::{Error, Result};
use crate::optim::{self, Look, Marker, Shape};

/// Lines that a figure has at most: nobody distinguishes more of them.
pub const MOST_LINES: usize = 40;

/// What to draw of a record.
#[derive(Clone, Debug)]
pub struct Selection<'a> {
    /// Empty for all.
    pub methods: &'a [String],
    /// Settings per method in the curves, best first.
    pub top: usize,
    /// The metric that ranks settings.
    pub rank_by: &'a str,
    /// Every setting instead of the best ones, each with a look of its own instead of its method's.
    pub per_setting: bool,
    /// The key that is the x axis of final values.
    pub x: &'a str,
    /// Keys that make no line of their own: of settings that differ in them alone the best is shown.
    pub ignore: &'a [String],
    /// Epochs over which final values are averaged.
    pub cutoff: Option<Cutoff>,
    /// Half the width of bands in standard deviations; 0 for none.
    pub sigma: f64,
    /// A logarithmic y axis; losses, and scores that are not accuracies, have one unless this says otherwise.
    pub log_y: Option<bool>,
    /// Where the y axis begins and ends.
    pub y_limits: [Option<f64>; 2],
    /// Instead of the experiment's name.
    pub title: Option<&'a str>,
}

impl Selection<'_> {
    /// How a figure comes to have fewer lines.
    fn fewer(&self) -> &'static str {
        if self.per_setting {
            "leave out --per-setting, or take some of the settings with --keep KEY=VALUE"
        } else if self.top > 1 {
            "take a smaller --top, or some of the methods with --methods"
        } else {
            "take some of the methods with --methods, or some of the settings with --keep KEY=VALUE; of settings that \
             differ in a key alone, stability shows the best with --ignore KEY"
        }
    }
}

impl Default for Selection<'_> {
    fn default() -> Self {
        Selection {
            methods: &[],
            top: 1,
            rank_by: "val_score",
            per_setting: false,
            x: "lr",
            ignore: &[],
            cutoff: None,
            sigma: 1.0,
            log_y: None,
            y_limits: [None; 2],
            title: None,
        }
    }
}

/// Methods that the table of optimizers does not know share this.
const UNKNOWN: Look = Look {
    colour: 0x80_8080,
    reference: None,
    marker: Marker::Hollow(Shape::Diamond),
    dash: 0,
};

/// What is no method: a bound, say.
const GUIDE: Look = Look { dash: 1, ..UNKNOWN };

/// A method's look. Files that configs name by a path need not be there any more.
pub fn look(method: &str) -> Look {
    match optim::row(method) {
        Some(row) => row.look,
        None if method.ends_with(".toml") => optim::formula::look(method),
        None => UNKNOWN,
    }
}

impl Figure {
    /// Figures as the panels of one, under the title of the first.
    ///
    /// # Panics
    /// If there are none.
    pub fn beside(figures: Vec<Figure>) -> Figure {
        // Of two captions, the longer one says how bands on log axes are made.
        let captions = figures.iter().map(|figure| figure.caption.clone());
        let caption = captions.max_by_key(String::len).unwrap_or_default();
        let title = figures[0].title.clone();
        let panels = figures.into_iter().flat_map(|figure| figure.panels);
        Figure {
            title,
            caption,
            panels: panels.collect(),
            shared: false,
        }
    }
}

/// A quantity on an axis.
struct Quantity {
    title: String,
    /// Accuracies are shown in per cent.
    factor: f64,
    scale: Scale,
    /// What it can be, as shown.
    possible: [f64; 2],
    accuracy: bool,
}

impl Quantity {
    fn new(record: &Record, name: &str, selection: &Selection) -> Quantity {
        let accuracy = record.higher_is_better(name);
        let ends = |end: &str| name.ends_with(end);
        let log = selection
            .log_y
            .unwrap_or((ends("loss") || ends("score")) && !accuracy);
        let title = names::metric(name, accuracy);
        let positive = ["loss", "score", "norm", "lr", "learning_rate", "time"];
        Quantity {
            title: if accuracy { title + " (%)" } else { title },
            factor: if accuracy { 100.0 } else { 1.0 },
            scale: if log { Scale::Log } else { Scale::Linear },
            possible: match accuracy {
                true => [0.0, 100.0],
                false if positive.into_iter().any(ends) => [0.0, f64::INFINITY],
                false => [f64::NEG_INFINITY, f64::INFINITY],
            },
            accuracy,
        }
    }

    /// A mean with its band. On a log axis the band is that of a lognormal variable with this mean and this standard
    /// deviation: as wide upwards as downwards, and never at zero.
    fn point(&self, x: f64, stat: Stat, sigma: f64) -> [f64; 4] {
        let (mean, std) = (self.factor * stat.mean, self.factor * stat.std);
        if sigma == 0.0 {
            return [x, mean, f64::NAN, f64::NAN];
        }
        if self.scale == Scale::Log && mean > 0.0 {
            let width = sigma * (std / mean).powi(2).ln_1p().sqrt();
            return [x, mean, mean * (-width).exp(), mean * width.exp()];
        }
        let [least, most] = self.possible;
        // A bound that the mean is beyond is none.
        let low = (mean - sigma * std).max(least.min(mean));
        let high = (mean + sigma * std).min(most.max(mean));
        match std.is_nan() {
            true => [x, mean, f64::NAN, f64::NAN],
            false => [x, mean, low, high],
        }
    }

    /// The axis of these lines.
    fn axis(&self, series: &[Series], selection: &Selection) -> Result<Axis> {
        let mut limits = selection.y_limits;
        let wrong = limits
            .into_iter()
            .flatten()
            .find(|y| self.scale == Scale::Log && *y <= 0.0);
        if let Some(wrong) = wrong {
            return Err(Error::usage(format!(
                "--ylim {wrong}: not on a logarithmic axis; --logy false makes it a linear one"
            )));
        }
        if self.accuracy && self.scale == Scale::Linear && limits[0].is_none() {
            limits[0] = robust_low(series);
        }
        Ok(Axis {
            title: self.title.clone(),
            scale: self.scale,
            limits,
        })
    }
}

/// Where an axis of accuracies begins, if a few low values would squeeze all others: one and a half times the distance
/// of the quartiles below the lower one.
fn robust_low(series: &[Series]) -> Option<f64> {
    let points = series.iter().flat_map(|s| &s.points).map(|p| p[1]);
    let mut all: Vec<f64> = points.filter(|y| y.is_finite()).collect();
    all.sort_by(f64::total_cmp);
    let (&least, &most) = (all.first()?, all.last()?);
    let quartile = |q: usize| all[(all.len() - 1) * q / 4];
    let fence = quartile(1) - 1.5 * (quartile(3) - quartile(1));
    // Not for a little.
    (fence - least > 0.25 * (most - least)).then_some(fence)
}

/// What the lines and bands of these settings are.
fn caption<'a>(
    settings: impl Iterator<Item = &'a Setting> + Clone,
    series: &[Series],
    scale: Scale,
    sigma: f64,
) -> String {
    let points = series.iter().flat_map(|s| &s.points);
    let banded = points.clone().any(|p| p[2] < p[3]);
    let counts = settings.map(|s| s.runs.len());
    let (least, most) = (counts.clone().min().unwrap_or(0), counts.max().unwrap_or(0));
    let seeds = match (least, most) {
        (_, 1) => return "one seed".into(),
        // A record does not say how many it averages, but leaves out the deviation of one.
        (_, 0) if !banded && sigma > 0.0 => return "one seed".into(),
        (_, 0) => " over the seeds".into(),
        (a, b) if a == b => format!(", n = {a}"),
        (a, b) => format!(", n = {a} to {b}"),
    };
    let width = if sigma == 1.0 {
        String::new()
    } else {
        format!("{sigma} ")
    };
    match (sigma == 0.0 || !banded, scale) {
        (true, _) => format!("mean{seeds}"),
        (false, Scale::Log) => format!("mean ± {width}std (log axes: of the logarithm){seeds}"),
        (false, _) => format!("mean ± {width}std{seeds}"),
    }
}

fn methods<'a>(record: &'a Record, selection: &Selection) -> Result<Vec<&'a str>> {
    let all = record.methods();
    let wanted = selection.methods;
    if let Some(unknown) = wanted.iter().find(|m| !all.contains(&m.as_str())) {
        return Err(Error::usage(format!(
            "{} has no method {unknown:?}: it has {}",
            record.name,
            all.join(", ")
        )));
    }
    let keep = |m: &&str| wanted.is_empty() || wanted.iter().any(|w| w == m);
    Ok(all.into_iter().filter(keep).collect())
}

/// A key's value as a label has it.
fn pair((key, value): &(String, String)) -> String {
    format!("{} = {value}", names::key(key))
}

/// A line's name in a legend: the method, and by what else the line differs from others.
fn label(record: &Record, settings: &[&Setting], without: &[&str]) -> String {
    let method = names::method(settings[0].method()).to_owned();
    // The learning rate comes first, and whether it differs or not.
    let with_lr: Vec<&str> = without.iter().copied().chain(["lr"]).collect();
    let differing = record.differing(settings[0], &with_lr);
    let lr = settings[0].options.iter().find(|option| option.0 == "lr");
    let lr = lr.filter(|_| !without.contains(&"lr"));
    let parts = lr.into_iter().chain(&differing).map(pair);
    let parts = std::iter::once(method).chain(parts);
    parts
        .chain(record.seeds(settings))
        .collect::<Vec<_>>()
        .join(", ")
}

/// A figure of one panel with at most [`MOST_LINES`] lines.
fn figure(
    record: &Record,
    selection: &Selection,
    settings: &[&Setting],
    sigma: f64,
    chart: Chart,
) -> Result<Figure> {
    if chart.series.len() > MOST_LINES {
        return Err(Error::usage(format!(
            "{}: {} lines are too many to tell apart in a figure ({MOST_LINES} at most): {}",
            record.title(),
            chart.series.len(),
            selection.fewer()
        )));
    }
    Ok(Figure {
        title: title(record, selection),
        caption: caption(
            settings.iter().copied(),
            &chart.series,
            chart.y.scale,
            sigma,
        ),
        panels: vec![chart],
        shared: false,
    })
}

fn title(record: &Record, selection: &Selection) -> String {
    let own = || names::experiment(record);
    selection.title.map_or_else(own, str::to_owned)
}

/// The settings that curves show of every method, each with its rank in it.
fn best<'a>(record: &'a Record, selection: &Selection) -> Result<Vec<(usize, &'a Setting)>> {
    let rank = record.metric(selection.rank_by)?;
    let top = match selection.per_setting {
        true => usize::MAX,
        false => selection.top.max(1),
    };
    let mut all = Vec::new();
    for method in methods(record, selection)? {
        let ranking = record.ranking(method, rank, selection.cutoff);
        all.extend(ranking.into_iter().take(top).enumerate());
    }
    Ok(all)
}

/// A quantity of the best settings of every method, over what it was measured at.
fn over(
    record: &Record,
    x: Axis,
    y: &str,
    selection: &Selection,
    values: impl Fn(&Setting) -> Vec<(f64, Stat)>,
    diverged: impl Fn(&Setting) -> Option<f64>,
) -> Result<Figure> {
    let quantity = Quantity::new(record, y, selection);
    let (mut series, mut settings) = (Vec::new(), Vec::new());
    for (nth, setting) in best(record, selection)? {
        let mut values = values(setting);
        if values.is_empty() {
            continue;
        }
        let end = diverged(setting);
        for (at, stat) in &mut values {
            if end.is_some_and(|end| *at >= end) {
                stat.mean = f64::NAN;
            }
        }
        let point = |(at, stat)| quantity.point(at, stat, selection.sigma);
        let lost = if record.diverged(setting, None) {
            " (diverged)"
        } else {
            ""
        };
        series.push(Series {
            label: label(record, &[setting], &[]) + lost,
            look: match selection.per_setting {
                true => Look::nth(series.len()),
                false => look(setting.method()),
            },
            nth: if selection.per_setting { 0 } else { nth },
            mark: Mark::LineAndMarkers,
            points: values.into_iter().map(point).collect(),
            diverged: end.into_iter().collect(),
        });
        settings.push(setting);
    }
    let chart = Chart {
        title: String::new(),
        x,
        y: quantity.axis(&series, selection)?,
        series,
        diverged_on_top: !quantity.accuracy,
    };
    figure(record, selection, &settings, selection.sigma, chart)
}

/// A metric over the epochs: the best settings of every method. Settings that diverge end where they do.
pub fn curves(record: &Record, metric: &str, selection: &Selection) -> Result<Figure> {
    let column = record.metric(metric)?;
    let values = |setting: &Setting| {
        let curve = &setting.curves[column];
        let rows = setting.epochs.iter().zip(curve.mean.iter().zip(&curve.std));
        let value = |(&e, (&mean, &std)): (&usize, (&f64, &f64))| (e as f64, Stat { mean, std });
        rows.map(value).collect()
    };
    let end = |setting: &Setting| record.diverged_at(setting).map(|epoch| epoch as f64);
    over(
        record,
        Axis::new("Epoch", Scale::Whole),
        metric,
        selection,
        values,
        end,
    )
}

/// A metric over what training had taken by then, in a clock's unit: the best settings of every method, means over the
/// seeds.
pub fn time(record: &Record, metric: &str, clock: Clock, selection: &Selection) -> Result<Figure> {
    let column = record.metric(metric)?;
    let elapsed = |setting: &Setting| measure::elapsed(setting, clock);
    if record
        .settings
        .iter()
        .all(|setting| elapsed(setting).is_none())
    {
        return Err(Error::usage(format!(
            "{} does not say how many {} its runs took: outputs do, records do not",
            record.name,
            clock.unit()
        )));
    }
    let values = |setting: &Setting| {
        let curve = &setting.curves[column];
        let rows = curve.mean.iter().zip(&curve.std);
        let rows = elapsed(setting).unwrap_or_default().into_iter().zip(rows);
        rows.map(|(at, (&mean, &std))| (at, Stat { mean, std }))
            .collect()
    };
    let end = |setting: &Setting| {
        let epoch = record.diverged_at(setting)?;
        let row = setting.epochs.iter().position(|e| *e == epoch)?;
        elapsed(setting)?.get(row).copied()
    };
    let x = match clock {
        Clock::Seconds => Axis::new("Training time (s)", Scale::Linear),
        Clock::Steps => Axis::new("Steps", Scale::Whole),
        Clock::Epochs => Axis::new("Epochs", Scale::Whole),
    };
    over(record, x, metric, selection, values, end)
}

/// Performance profiles: for each method the share of experiments whose target it reached in at most tau times what the
/// fastest method took.
pub fn profile(profiles: &Profiles, score: &str, accuracy: bool, selection: &Selection) -> Figure {
    let wanted = |method: &str| {
        selection.methods.is_empty() || selection.methods.iter().any(|wanted| wanted == method)
    };
    let shown = profiles
        .methods
        .iter()
        .filter(|profile| wanted(&profile.method));
    let series = shown.map(|profile| Series {
        label: format!(
            "{}, score {:.2}",
            names::method(&profile.method),
            profile.score
        ),
        look: look(&profile.method),
        nth: 0,
        mark: Mark::LineAndMarkers,
        points: (profile.corners(R_MAX).into_iter())
            .map(|(tau, share)| [tau, 100.0 * share, f64::NAN, f64::NAN])
            .collect(),
        diverged: Vec::new(),
    });
    let own = || match &profiles.workloads[..] {
        [one] => one.title.clone(),
        many => format!("{} experiments", many.len()),
    };
    let metric = names::metric(score, accuracy).to_lowercase();
    Figure {
        title: selection.title.map_or_else(own, str::to_owned),
        caption: format!(
            "{} to the target of the {metric}; the score is the area, over its width",
            profiles.clock.unit()
        ),
        ..Figure::from(Chart {
            title: String::new(),
            x: Axis::new("τ, times what the fastest took", Scale::Linear),
            y: Axis {
                limits: [
                    selection.y_limits[0].or(Some(0.0)),
                    selection.y_limits[1].or(Some(102.0)),
                ],
                ..Axis::new("Targets reached (%)", Scale::Linear)
            },
            series: series.collect(),
            diverged_on_top: false,
        })
    }
}

/// What was logged of steps, by names.
pub fn logged(record: &Record) -> Result<Vec<&str>> {
    let names = record.logged();
    match names.is_empty() {
        true => Err(Error::usage(format!(
            "{} has no logged steps: outputs of train --log-every-k-steps have them, records do not",
            record.name
        ))),
        false => Ok(names),
    }
}

/// What was logged of steps under a name, of the best settings of every method.
pub fn stepwise(record: &Record, name: &str, selection: &Selection) -> Result<Figure> {
    let values = |setting: &Setting| {
        let logged = measure::logged(setting, name).into_iter();
        logged.map(|(step, stat)| (step as f64, stat)).collect()
    };
    let x = Axis::new("Step", Scale::Whole);
    over(record, x, name, selection, values, |_| None)
}

/// Settings with their places on an x axis, in its order.
type Line<'a> = Vec<(f64, &'a Setting)>;

/// A method's settings as lines over a key: the settings of a line differ in nothing else, but for what is ignored. The
/// line with the best setting comes first.
fn lines<'a>(
    record: &'a Record,
    method: &str,
    rank: usize,
    selection: &Selection,
) -> Vec<Line<'a>> {
    let without = without(selection);
    let mut lines: Vec<(Vec<(String, String)>, Line)> = Vec::new();
    for setting in record.ranking(method, rank, selection.cutoff) {
        let value = setting
            .option(selection.x)
            .and_then(|text| text.parse().ok());
        let Some(x) = value else { continue };
        let rest = record.differing(setting, &without);
        match lines.iter_mut().find(|line| line.0 == rest) {
            // The best of those that differ in what is ignored is there already.
            Some((_, line)) if line.iter().any(|point| point.0 == x) => {}
            Some((_, line)) => line.push((x, setting)),
            None => lines.push((rest, vec![(x, setting)])),
        }
    }
    let mut lines: Vec<Line> = lines.into_iter().map(|line| line.1).collect();
    for line in &mut lines {
        line.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    lines
}

/// The keys that tell no lines apart.
fn without<'a>(selection: &'a Selection) -> Vec<&'a str> {
    let ignored = selection.ignore.iter().map(String::as_str);
    std::iter::once(selection.x).chain(ignored).collect()
}

/// The lines of every method that is to be shown, with their looks and places among the method's.
fn all_lines<'a>(
    record: &'a Record,
    rank: usize,
    selection: &Selection,
) -> Result<Vec<(Look, usize, Line<'a>)>> {
    let mut all = Vec::new();
    for method in methods(record, selection)? {
        for (nth, line) in lines(record, method, rank, selection)
            .into_iter()
            .enumerate()
        {
            all.push(match selection.per_setting {
                true => (Look::nth(all.len()), 0, line),
                false => (look(method), nth, line),
            });
        }
    }
    if all.is_empty() {
        return Err(Error::usage(format!(
            "{} has no numbers under {:?} to draw over: its keys are {}",
            record.name,
            selection.x,
            record.keys.join(", ")
        )));
    }
    Ok(all)
}

/// The axis of a key: logarithmic where its values span a power of ten.
fn key_axis(key: &str, lines: &[(Look, usize, Line)]) -> Axis {
    let values = lines
        .iter()
        .flat_map(|line| line.2.iter().map(|point| point.0));
    let positive = values.filter(|x| *x > 0.0);
    let (low, high) = positive.fold((f64::INFINITY, 0.0f64), |(a, b), x| (a.min(x), b.max(x)));
    let log = key == "lr" || high >= 10.0 * low;
    Axis::new(
        names::axis(key),
        if log { Scale::Log } else { Scale::Linear },
    )
}

/// The final value over the learning rate, or another key: one line per method and choice of the other keys. What
/// diverged, or is a thousand times off the scale, has a cross outside of it.
pub fn stability(record: &Record, metric: &str, selection: &Selection) -> Result<Figure> {
    let column = record.metric(metric)?;
    let quantity = Quantity::new(record, metric, selection);
    // Finite, but so bad that the axis would show nothing else: worse than any first epoch a thousandfold.
    let first = record
        .settings
        .iter()
        .filter_map(|s| s.curves[column].mean.first());
    let mut first: Vec<f64> = first.copied().filter(|x| x.is_finite()).collect();
    first.sort_by(f64::total_cmp);
    let middle = first.get(first.len() / 2);
    let limit = middle.map_or(f64::INFINITY, |m| 1e3 * m.abs());
    let all = all_lines(record, column, selection)?;
    let x = key_axis(selection.x, &all);
    let (mut series, mut shown) = (Vec::new(), Vec::new());
    for (look, nth, line) in all {
        let (mut points, mut diverged) = (Vec::new(), Vec::new());
        for &(x, setting) in &line {
            let last = record.last(setting, column, selection.cutoff);
            let lost = record.diverged(setting, selection.cutoff);
            if lost || !last.mean.is_finite() || last.mean.abs() > limit {
                diverged.push(x);
            } else {
                points.push(quantity.point(x, last, selection.sigma));
            }
        }
        // A line goes on beyond what diverged only as dots do.
        let apart = diverged.iter().map(|x| [*x, f64::NAN, f64::NAN, f64::NAN]);
        points.extend(apart);
        points.sort_by(|a, b| a[0].total_cmp(&b[0]));
        let settings: Vec<&Setting> = line.iter().map(|point| point.1).collect();
        series.push(Series {
            label: label(record, &settings, &without(selection)),
            look,
            nth,
            mark: Mark::LineAndMarkers,
            points,
            diverged,
        });
        shown.extend(settings);
    }
    let y = quantity.axis(&series, selection)?;
    let chart = Chart {
        title: String::new(),
        x,
        y,
        series,
        diverged_on_top: !quantity.accuracy,
    };
    let mut figure = figure(record, selection, &shown, selection.sigma, chart)?;
    let when = match selection.cutoff {
        None => "last epoch".to_owned(),
        Some(Cutoff { from, to: None }) => format!("epochs from {from} on"),
        Some(Cutoff { from, to: Some(to) }) => format!("epochs {from} to {to}"),
    };
    figure.caption = format!("{when}: {}", figure.caption);
    Ok(figure)
}

fn no_steps(record: &Record) -> Error {
    Error::usage(format!(
        "{} has no step sizes: only outputs of adaptive methods (momo and its variants, prox-sps) hold them, \
         records do not",
        record.name
    ))
}

/// The steps that adaptive methods would take, over the learning rate that caps them: median of all steps
/// of all seeds and epochs, the band from the 10th to the 90th percentile, and the cap as a dashed line.
pub fn steps(record: &Record, selection: &Selection) -> Result<Figure> {
    let rank = record.metric(selection.rank_by)?;
    let selection = Selection {
        x: "lr",
        ..selection.clone()
    };
    let (mut series, mut shown) = (Vec::new(), Vec::new());
    for (look, nth, line) in all_lines(record, rank, &selection)? {
        let stored = line.iter().filter_map(|&(lr, setting)| {
            let [median, low, high] = measure::steps(setting)?;
            Some([lr, median, low, high])
        });
        let points: Vec<[f64; 4]> = stored.collect();
        if points.is_empty() {
            continue;
        }
        let settings: Vec<&Setting> = line.iter().map(|point| point.1).collect();
        series.push(Series {
            label: label(record, &settings, &without(&selection)),
            look,
            nth,
            mark: Mark::LineAndMarkers,
            points,
            diverged: Vec::new(),
        });
        shown.extend(settings);
    }
    if series.is_empty() {
        return Err(no_steps(record));
    }
    let rates = series.iter().flat_map(|s| s.points.iter().map(|p| p[0]));
    let (low, high) = rates.fold((f64::INFINITY, 0.0f64), |(a, b), x| (a.min(x), b.max(x)));
    series.push(Series {
        label: "Learning rate".into(),
        look: GUIDE,
        nth: 0,
        mark: Mark::Line,
        points: [low, high].map(|x| [x, x, x, x]).to_vec(),
        diverged: Vec::new(),
    });
    let chart = Chart {
        title: String::new(),
        x: Axis::new("Learning rate", Scale::Log),
        y: Axis {
            limits: selection.y_limits,
            ..Axis::new("Adaptive step size", Scale::Log)
        },
        series,
        diverged_on_top: false,
    };
    let mut figure = figure(record, &selection, &shown, 0.0, chart)?;
    figure.caption = "median of all steps, 10th to 90th percentile".into();
    Ok(figure)
}

/// The methods whose step sizes there are.
pub fn adaptive<'a>(record: &'a Record, selection: &Selection) -> Result<Vec<&'a str>> {
    let mut found = methods(record, selection)?;
    let has = |method: &&str| {
        let mut mine = record.settings.iter().filter(|s| s.method() == *method);
        mine.any(|setting| measure::steps(setting).is_some())
    };
    found.retain(has);
    match found.is_empty() {
        true => Err(no_steps(record)),
        false => Ok(found),
    }
}

/// Steps that a panel shows at most.
const DOTS: usize = 1500;

/// The adaptive steps of a method's first seed over the epochs, a panel for each learning rate: every step, the median of
/// every epoch, and what caps them.
pub fn step_sizes(record: &Record, method: &str, selection: &Selection) -> Result<Figure> {
    let rank = record.metric(selection.rank_by)?;
    let selection = Selection {
        x: "lr",
        ..selection.clone()
    };
    let mut best: Line = Vec::new();
    for setting in record.ranking(method, rank, selection.cutoff) {
        let new = |lr: &f64| best.iter().all(|point| point.0 != *lr);
        if let Some(lr) = setting.lr().filter(new) {
            best.push((lr, setting));
        }
    }
    best.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mine = Series {
        label: "step size".into(),
        look: look(method),
        nth: 0,
        mark: Mark::Dots,
        points: Vec::new(),
        diverged: Vec::new(),
    };
    let alone = |x: f64, y: f64| [x, y, f64::NAN, f64::NAN];
    let mut panels = Vec::new();
    let mut corrected = false;
    for (_, setting) in best {
        let Some(run) = setting.runs.iter().min_by_key(|run| run.run_id()) else {
            continue;
        };
        let per_epoch = run.epochs.iter().zip(&run.step_sizes);
        let all = per_epoch.clone().flat_map(|(epoch, steps)| {
            let part = 1.0 / steps.len() as f64;
            let at = move |(i, t): (usize, &f64)| alone(*epoch as f64 + i as f64 * part, *t);
            steps.iter().enumerate().map(at)
        });
        let all: Vec<[f64; 4]> = all.collect();
        if all.is_empty() {
            continue;
        }
        let medians = per_epoch.filter_map(|(epoch, steps)| {
            let finite: Vec<f64> = steps.iter().copied().filter(|t| t.is_finite()).collect();
            (!finite.is_empty()).then(|| alone(*epoch as f64 + 0.5, median(&finite)))
        });
        let caps = measure::caps(run);
        corrected |= caps.1;
        let caps = all
            .iter()
            .zip(&caps.0)
            .map(|(step, cap)| alone(step[0], *cap));
        let caps: Vec<[f64; 4]> = caps.collect();
        // At first the correction changes fast; later a few hundred points show all.
        let early = caps.iter().take(50).copied();
        let late = caps
            .iter()
            .skip(50)
            .step_by(caps.len().div_ceil(300))
            .copied();
        let every = all.len().div_ceil(DOTS);
        panels.push(Chart {
            title: pair(&("lr".into(), setting.option("lr").unwrap_or_default().into())),
            x: Axis::new("Epoch", Scale::Whole),
            y: Axis {
                limits: selection.y_limits,
                ..Axis::new("Step size", Scale::Log)
            },
            series: vec![
                Series {
                    points: all.iter().step_by(every).copied().collect(),
                    ..mine.clone()
                },
                Series {
                    label: if corrected { "α/ρ" } else { "α" }.into(),
                    look: GUIDE,
                    mark: Mark::Line,
                    points: early.chain(late).collect(),
                    ..mine.clone()
                },
                Series {
                    label: "median of an epoch".into(),
                    look: Look {
                        dash: 0,
                        ..mine.look
                    },
                    mark: Mark::LineAndMarkers,
                    points: medians.collect(),
                    ..mine.clone()
                },
            ],
            diverged_on_top: true,
        });
    }
    if panels.is_empty() {
        return Err(no_steps(record));
    }
    if panels.len() > MOST_LINES {
        return Err(Error::usage(format!(
            "{}: {} learning rates of {method} are too many panels for a figure ({MOST_LINES} at most): take some of them \
             with --keep lr=VALUE,...",
            record.title(),
            panels.len()
        )));
    }
    let own = || format!("{}, {}", names::experiment(record), names::method(method));
    Ok(Figure {
        title: selection.title.map_or_else(own, str::to_owned),
        caption: match corrected {
            true => "steps of the first seed; α/ρ: learning rate over the bias correction".into(),
            false => "steps of the first seed; α: learning rate".into(),
        },
        panels,
        shared: true,
    })
}
