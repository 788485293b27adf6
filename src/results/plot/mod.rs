//! The three figures of an experiment: training curves, stability over the learning rate, adaptive steps.

mod backend;
pub mod canvas;
pub mod chart;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use chart::{Axis, Chart, Marker, Series};

use super::measure;
use super::record::{Record, Setting};
use crate::error::{Error, Result};

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

/// Each method's colour.
pub static COLOURS: LazyLock<BTreeMap<String, String>> = LazyLock::new(|| {
    let text = include_str!("../../../assets/colours.json");
    serde_json::from_str(text).expect("the embedded table is whole")
});

fn colour(method: &str) -> (u8, u8, u8) {
    let hex = COLOURS.get(method).or_else(|| COLOURS.get("default"));
    let number = hex.and_then(|h| u32::from_str_radix(h.trim_start_matches('#'), 16).ok());
    let [_, r, g, b] = number.unwrap_or(0x80_8080).to_be_bytes();
    (r, g, b)
}

/// A shape of its own for every method of the table; unknown methods share the last one.
fn marker(method: &str) -> Marker {
    let circle = Marker::Polygon(24, 0);
    let (up, down, left, right) = (-90, 90, 180, 0);
    match method {
        "sgd" => Marker::Polygon(4, up),
        "sgd-m" => Marker::Polygon(4, 45),
        "adam" => Marker::Polygon(3, up),
        "adamw" => Marker::Polygon(3, down),
        "momo" => circle,
        "momo-adam" => Marker::Polygon(6, 0),
        "momo-star" => Marker::Polygon(3, left),
        "momo-adam-star" => Marker::Polygon(3, right),
        "prox-sps" => Marker::Polygon(5, up),
        "adabelief" => Marker::Polygon(4, up),
        "adabound" => Marker::Polygon(3, down),
        "lion" => Marker::Polygon(5, down),
        _ => Marker::Polygon(8, 0),
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

fn log_y(record: &Record, metric: &str, selection: &Selection) -> bool {
    let loss = metric.ends_with("loss") || (metric.ends_with("score") && !record.accuracy);
    selection.log_y.unwrap_or(loss)
}

/// A metric over the epochs: the best settings of every method, with a band of one standard deviation.
/// Settings that diverge are named in the legend and end where they do.
pub fn curves(record: &Record, metric: &str, selection: &Selection) -> Result<Chart> {
    let column = record.metric(metric)?;
    let rank = record.metric(selection.rank_by)?;
    let mut series = Vec::new();
    for method in methods(record, selection)? {
        let best = record.ranking(method, rank, None);
        for setting in best.into_iter().take(selection.top.max(1)) {
            let curve = &setting.curves[column];
            let rows = record.epochs.iter().zip(curve.mean.iter().zip(&curve.std));
            let points: Vec<[f64; 4]> = rows
                .map(|(&e, (&m, &s))| [e as f64, m, m - s, m + s])
                .collect();
            let finite = points.iter().any(|p| p[1].is_finite());
            let lr = setting
                .option("lr")
                .map_or_else(String::new, |lr| format!(", lr {lr}"));
            let note = if finite { "" } else { " (diverged)" };
            series.push(Series {
                label: format!("{method}{lr}{note}"),
                color: colour(method),
                marker: marker(method),
                dashed: false,
                points,
                diverged: Vec::new(),
            });
        }
    }
    Ok(Chart {
        title: record.name.clone(),
        x: Axis {
            title: "Epoch".into(),
            log: false,
        },
        y: Axis {
            title: metric_title(metric),
            log: log_y(record, metric, selection),
        },
        series,
        diverged_on_top: false,
    })
}

/// For every learning rate of a method, its setting with the best final value.
pub fn best_by_lr<'a>(record: &'a Record, method: &str, rank: usize) -> Vec<(f64, &'a Setting)> {
    let ranked = record.ranking(method, rank, None).into_iter();
    let mut best: Vec<(f64, &Setting)> = ranked.filter_map(|s| Some((s.lr()?, s))).collect();
    best.sort_by(|a, b| a.0.total_cmp(&b.0));
    best.dedup_by(|a, b| a.0 == b.0);
    best
}

/// The final value over the learning rate, one line per method, a band of one standard deviation. A cross
/// marks a learning rate whose training loss diverged: at its final value (an accuracy is that of guessing
/// then), or on the chart's edge where that is not finite or off the scale of all others.
pub fn stability(record: &Record, metric: &str, selection: &Selection) -> Result<Chart> {
    let column = record.metric(metric)?;
    let up = record.higher_is_better(metric);
    let loss = record.metric("train_loss").ok();
    // Finite, but so bad that the axis would show nothing else: worse than any first epoch a thousandfold.
    let first = record.settings.iter().map(|s| s.curves[column].mean[0]);
    let first = first.filter(|x| x.is_finite());
    let mut first: Vec<f64> = first.collect();
    first.sort_by(f64::total_cmp);
    let limit = first
        .get(first.len() / 2)
        .map_or(f64::INFINITY, |m| 1e3 * m.abs());
    let mut series = Vec::new();
    for method in methods(record, selection)? {
        let (mut points, mut diverged) = (Vec::new(), Vec::new());
        for (lr, setting) in best_by_lr(record, method, column) {
            let last = record.last(setting, column, None);
            let shown = last.mean.is_finite() && last.mean.abs() <= limit;
            let y = if shown { last.mean } else { f64::NAN };
            points.push([lr, y, y - last.std, y + last.std]);
            let lost = loss.is_some_and(|l| !record.last(setting, l, None).mean.is_finite());
            if lost || !shown {
                diverged.push([lr, y]);
            }
        }
        let note = if diverged.is_empty() {
            ""
        } else {
            " (× diverged)"
        };
        series.push(Series {
            label: format!("{method}{note}"),
            color: colour(method),
            marker: marker(method),
            dashed: false,
            points,
            diverged,
        });
    }
    Ok(Chart {
        title: record.name.clone(),
        x: Axis {
            title: "Learning rate".into(),
            log: true,
        },
        y: Axis {
            title: format!("{}, last epoch", metric_title(metric)),
            log: log_y(record, metric, selection),
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
        let mut points = Vec::new();
        for (lr, setting) in best_by_lr(record, method, rank) {
            if let Some([median, low, high]) = measure::steps(setting) {
                points.push([lr, median, low, high]);
            }
        }
        if !points.is_empty() {
            series.push(Series {
                label: method.to_owned(),
                color: colour(method),
                marker: marker(method),
                dashed: false,
                points,
                diverged: Vec::new(),
            });
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
        color: colour("default"),
        marker: Marker::None,
        dashed: true,
        points: [low, high].map(|x| [x, x, x, x]).to_vec(),
        diverged: Vec::new(),
    });
    Ok(Chart {
        title: record.name.clone(),
        x: Axis {
            title: "Learning rate".into(),
            log: true,
        },
        y: Axis {
            title: "Adaptive step size".into(),
            log: true,
        },
        series,
        diverged_on_top: false,
    })
}
