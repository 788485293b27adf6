//! The figures of an experiment: training curves, stability over the learning rate, adaptive steps, logged steps.

mod backend;
pub mod canvas;
pub mod chart;

use chart::{Axis, Chart, Scale, Series};

use super::measure;
use super::record::{Record, Setting, Stat};
use crate::error::{Error, Result};
use crate::optim::{self, Look, Marker, Shape};

/// What to draw of a record.
#[derive(Clone, Debug)]
pub struct Selection<'a> {
    /// Empty for all.
    pub methods: &'a [String],
    /// Settings per method in the curves, best first.
    pub top: usize,
    /// The metric that ranks settings.
    pub rank_by: &'a str,
    /// A logarithmic y axis; losses, and scores that are not accuracies, have one unless this says otherwise.
    pub log_y: Option<bool>,
}

/// Methods that the table of optimizers does not know share this.
const UNKNOWN: Look = Look {
    colour: 0x80_8080,
    reference: None,
    marker: Marker::Hollow(Shape::Diamond),
    dash: 0,
};

/// A method's colour and marker. Files that configs name by a path need not be there any more.
pub fn look(method: &str) -> Look {
    match optim::row(method) {
        Some(row) => row.look,
        None if method.ends_with(".toml") => optim::formula::look(method),
        None => UNKNOWN,
    }
}

/// A metric's name on an axis.
pub fn metric_title(metric: &str) -> String {
    match metric {
        "train_loss" => "Training loss".into(),
        "val_loss" => "Validation loss".into(),
        "train_score" => "Training score".into(),
        "val_score" => "Validation score".into(),
        "model_norm" => "Norm of the weights".into(),
        "grad_norm" => "Norm of the gradient".into(),
        "fstar" => "Lower bound f*".into(),
        "loss" => "Loss of the batch".into(),
        "lr" => "Learning rate".into(),
        other => other.into(),
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

fn y_scale(record: &Record, metric: &str, selection: &Selection) -> Scale {
    let loss = metric.ends_with("loss") || (metric.ends_with("score") && !record.accuracy);
    match selection.log_y.unwrap_or(loss) {
        true => Scale::Log,
        false => Scale::Linear,
    }
}

/// A metric over the epochs: the best settings of every method, with a band of one standard deviation.
/// Settings that diverge are named in the legend and end where they do.
pub fn curves(record: &Record, metric: &str, selection: &Selection) -> Result<Chart> {
    let column = record.metric(metric)?;
    best(record, "Epoch", metric, selection, |setting| {
        let curve = &setting.curves[column];
        let rows = setting.epochs.iter().zip(curve.mean.iter().zip(&curve.std));
        let point = |(&e, (&mean, &std)): (&usize, (&f64, &f64))| (e, Stat { mean, std });
        rows.map(point).collect()
    })
}

/// What was logged of steps under a name, of the best settings of every method, with a band of one standard deviation.
pub fn stepwise(record: &Record, name: &str, selection: &Selection) -> Result<Chart> {
    best(record, "Step", name, selection, |setting| {
        measure::logged(setting, name)
    })
}

/// A quantity of the best settings of every method, over what it was measured at.
fn best(
    record: &Record,
    x: &str,
    y: &str,
    selection: &Selection,
    values: impl Fn(&Setting) -> Vec<(usize, Stat)>,
) -> Result<Chart> {
    let rank = record.metric(selection.rank_by)?;
    let mut series = Vec::new();
    for method in methods(record, selection)? {
        let best = record.ranking(method, rank, None);
        for (nth, setting) in best.into_iter().take(selection.top.max(1)).enumerate() {
            let values = values(setting);
            if values.is_empty() {
                continue;
            }
            let point = |(at, Stat { mean, std })| [at as f64, mean, mean - std, mean + std];
            let note = match record.diverged(setting, None) {
                true => " (diverged)",
                false => "",
            };
            series.push(Series {
                label: label(record, method, &setting.label(), &[setting]) + note,
                look: look(method),
                marked: true,
                dash: nth,
                points: values.into_iter().map(point).collect(),
                diverged: Vec::new(),
            });
        }
    }
    Ok(Chart {
        title: record.title(),
        x: Axis {
            title: x.into(),
            scale: Scale::Whole,
        },
        y: Axis {
            title: metric_title(y),
            scale: y_scale(record, y, selection),
        },
        series,
        diverged_on_top: false,
    })
}

/// A line's name in a legend: the method, and by what else the line differs from others.
fn label(record: &Record, method: &str, differing: &str, settings: &[&Setting]) -> String {
    let seeds = record.seeds(settings).unwrap_or_default();
    let parts = [method, differing, &seeds];
    let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join(", ")
}

/// A method's settings as lines over the learning rate, sorted by it: the settings of a line differ in nothing else.
/// The line with the best setting comes first.
fn lines<'a>(record: &'a Record, method: &str, rank: usize) -> Vec<Vec<(f64, &'a Setting)>> {
    let mut lines: Vec<Vec<(f64, &Setting)>> = Vec::new();
    for setting in record.ranking(method, rank, None) {
        let Some(lr) = setting.lr() else { continue };
        match lines.iter_mut().find(|line| line[0].1.line == setting.line) {
            Some(line) => line.push((lr, setting)),
            None => lines.push(vec![(lr, setting)]),
        }
    }
    for line in &mut lines {
        line.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    lines
}

/// The final value over the learning rate, one line per method and choice of the other keys, a band of one standard
/// deviation. A cross
/// marks a learning rate whose training loss diverged: at its final value (an accuracy is that of guessing
/// then), or on the chart's edge where that is not finite or off the scale of all others.
pub fn stability(record: &Record, metric: &str, selection: &Selection) -> Result<Chart> {
    let column = record.metric(metric)?;
    let up = record.higher_is_better(metric);
    // Finite, but so bad that the axis would show nothing else: worse than any first epoch a thousandfold.
    let first = record
        .settings
        .iter()
        .filter_map(|s| s.curves[column].mean.first());
    let first = first.copied().filter(|x| x.is_finite());
    let mut first: Vec<f64> = first.collect();
    first.sort_by(f64::total_cmp);
    let limit = first
        .get(first.len() / 2)
        .map_or(f64::INFINITY, |m| 1e3 * m.abs());
    let mut series = Vec::new();
    for method in methods(record, selection)? {
        for (nth, line) in lines(record, method, column).into_iter().enumerate() {
            let (mut points, mut diverged) = (Vec::new(), Vec::new());
            for (lr, setting) in &line {
                let last = record.last(setting, column, None);
                let shown = last.mean.is_finite() && last.mean.abs() <= limit;
                let y = if shown { last.mean } else { f64::NAN };
                points.push([*lr, y, y - last.std, y + last.std]);
                if record.diverged(setting, None) || !shown {
                    diverged.push([*lr, y]);
                }
            }
            let note = if diverged.is_empty() {
                ""
            } else {
                " (× diverged)"
            };
            let settings: Vec<&Setting> = line.iter().map(|point| point.1).collect();
            series.push(Series {
                label: label(record, method, &settings[0].line, &settings) + note,
                look: look(method),
                marked: true,
                dash: nth,
                points,
                diverged,
            });
        }
    }
    Ok(Chart {
        title: record.title(),
        x: Axis {
            title: "Learning rate".into(),
            scale: Scale::Log,
        },
        y: Axis {
            title: format!("{}, last epoch", metric_title(metric)),
            scale: y_scale(record, metric, selection),
        },
        series,
        diverged_on_top: !up,
    })
}

/// The steps that adaptive methods would take, over the learning rate that caps them: median of all steps
/// of all seeds and epochs, the band from the 10th to the 90th percentile, and the cap as a dashed line.
pub fn steps(record: &Record, selection: &Selection) -> Result<Chart> {
    let rank = record.metric(selection.rank_by)?;
    let mut series = Vec::new();
    for method in methods(record, selection)? {
        for (nth, line) in lines(record, method, rank).into_iter().enumerate() {
            let stored = line.iter().filter_map(|&(lr, setting)| {
                let [median, low, high] = measure::steps(setting)?;
                Some([lr, median, low, high])
            });
            let points: Vec<[f64; 4]> = stored.collect();
            if !points.is_empty() {
                let settings: Vec<&Setting> = line.iter().map(|point| point.1).collect();
                series.push(Series {
                    label: label(record, method, &settings[0].line, &settings),
                    look: look(method),
                    marked: true,
                    dash: nth,
                    points,
                    diverged: Vec::new(),
                });
            }
        }
    }
    let rates = series.iter().flat_map(|s| s.points.iter().map(|p| p[0]));
    let (low, high) = rates.fold((f64::INFINITY, 0.0f64), |(a, b), x| (a.min(x), b.max(x)));
    if series.is_empty() {
        return Err(Error::usage(format!(
            "{} has no step sizes: only outputs of adaptive methods (momo and its variants, prox-sps) hold them, \
             records do not",
            record.name
        )));
    }
    series.push(Series {
        label: "learning rate".into(),
        look: UNKNOWN,
        marked: false,
        dash: 1,
        points: [low, high].map(|x| [x, x, x, x]).to_vec(),
        diverged: Vec::new(),
    });
    Ok(Chart {
        title: record.title(),
        x: Axis {
            title: "Learning rate".into(),
            scale: Scale::Log,
        },
        y: Axis {
            title: "Adaptive step size".into(),
            scale: Scale::Log,
        },
        series,
        diverged_on_top: false,
    })
}
