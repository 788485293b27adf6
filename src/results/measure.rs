//! What a setting or a method is worth beyond its final score.

use serde_json::Value;

use super::output::Run;
use super::profile::Clock;
use super::record::{Cutoff, Record, Setting, Stat, over_seeds};
use crate::optim;

/// After how many epochs of training the mean metric first reaches `target` (from below for scores, from above for losses).
pub fn epochs_to(record: &Record, setting: &Setting, metric: usize, target: f64) -> Option<usize> {
    let up = record.higher_is_better(&record.metrics[metric]);
    let reached = |x: f64| if up { x >= target } else { x <= target };
    let row = setting.curves[metric]
        .mean
        .iter()
        .position(|&x| reached(x))?;
    Some(setting.epochs[row] + 1)
}

/// Seconds of training until then, averaged over the seeds. `None` for records read from
/// CSV files, which hold no times.
pub fn time_to(record: &Record, setting: &Setting, metric: usize, target: f64) -> Option<f64> {
    let epochs = epochs_to(record, setting, metric, target)?;
    let rows = setting.epochs.iter().take_while(|&&e| e < epochs).count();
    let times = setting.runs.iter().map(|run| {
        let times = run.metric("train_epoch_time")?;
        Some(times[..rows].iter().sum::<f64>())
    });
    let times: Vec<f64> = times.collect::<Option<_>>()?;
    (!times.is_empty()).then(|| times.iter().sum::<f64>() / times.len() as f64)
}

/// What training had taken at the end of every epoch, averaged over the seeds. `None` where a run does not say.
pub fn elapsed(setting: &Setting, clock: Clock) -> Option<Vec<f64>> {
    let times = setting.runs.iter().map(|run| clock.times(run));
    let times: Vec<Vec<f64>> = times.collect::<Option<_>>()?;
    let mean = |row: usize| times.iter().map(|t| t[row]).sum::<f64>() / times.len() as f64;
    (!times.is_empty()).then(|| (0..setting.epochs.len()).map(mean).collect())
}

/// Area under the mean curve by the trapezoid rule, divided by the epochs it spans: the average height of
/// the curve. `None` for a single epoch.
pub fn area(setting: &Setting, metric: usize) -> Option<f64> {
    let (x, y) = (&setting.epochs, &setting.curves[metric].mean);
    let steps = x.windows(2).zip(y.windows(2));
    let area: f64 = steps
        .map(|(x, y)| (x[1] - x[0]) as f64 * (y[0] + y[1]) / 2.0)
        .sum();
    let span = x[x.len() - 1] - x[0];
    (span > 0).then(|| area / span as f64)
}

/// The width, in decades, of the range of learning rates around the best one whose final accuracy stays
/// within one percentage point of it: log10(highest / lowest) over neighbouring tried values, each with the
/// best of its other hyper-parameters. Only for scores that are accuracies.
pub fn robustness(
    record: &Record,
    method: &str,
    metric: usize,
    cutoff: Option<Cutoff>,
) -> Option<f64> {
    if !record.higher_is_better(&record.metrics[metric]) {
        return None;
    }
    let value = |setting: &Setting| {
        let score = record.last(setting, metric, cutoff).mean;
        let lost = score.is_nan() || record.diverged(setting, cutoff);
        if lost { f64::NEG_INFINITY } else { score }
    };
    let mine = record.ranking(method, metric, cutoff).into_iter();
    let mut scores: Vec<(f64, f64)> = mine.filter_map(|s| Some((s.lr()?, value(s)))).collect();
    // The best score of each learning rate comes first (the sort is stable); dedup keeps it. A diverged setting
    // counts as worst.
    scores.sort_by(|a, b| a.0.total_cmp(&b.0));
    scores.dedup_by(|a, b| a.0 == b.0);
    let best = (0..scores.len()).max_by(|&a, &b| scores[a].1.total_cmp(&scores[b].1))?;
    if scores[best].1 == f64::NEG_INFINITY {
        return None;
    }
    let near = |&(_, s): &&(f64, f64)| *s >= scores[best].1 - 0.01;
    let low = scores[..best].iter().rev().take_while(near).last();
    let high = scores[best..].iter().take_while(near).last();
    let (low, high) = (low.unwrap_or(&scores[best]).0, high?.0);
    Some((high / low).log10())
}

/// What was logged of steps under a name, averaged over the seeds: of the steps that all seeds have.
pub fn logged(setting: &Setting, name: &str) -> Vec<(usize, Stat)> {
    let mut logs = setting.runs.iter().map(|run| run.logged(name));
    let first = logs.next().unwrap_or_default();
    let rest: Vec<&[(usize, f64)]> = logs.collect();
    let over_seeds = |&(step, value): &(usize, f64)| {
        let others = rest.iter().map(|log| {
            let at = log.binary_search_by_key(&step, |logged| logged.0);
            Some(log[at.ok()?].1)
        });
        let others: Vec<f64> = others.collect::<Option<_>>()?;
        let all = std::iter::once(value).chain(others.iter().copied());
        Some((step, over_seeds(all)))
    };
    first.iter().filter_map(over_seeds).collect()
}

/// Median, 10th and 90th percentile of the adaptive steps of all seeds, epochs and steps that are finite.
/// `None` where none were stored.
pub fn steps(setting: &Setting) -> Option<[f64; 3]> {
    let lists = setting.runs.iter().flat_map(|run| &run.step_sizes);
    let finite = lists.flatten().copied().filter(|t| t.is_finite());
    let mut all: Vec<f64> = finite.collect();
    if all.is_empty() {
        return None;
    }
    all.sort_by(f64::total_cmp);
    let quantile = |q: f64| all[((all.len() - 1) as f64 * q).round() as usize];
    Some([0.5, 0.1, 0.9].map(quantile))
}

/// What caps every adaptive step of a run: the epoch's learning rate, divided by 1 - beta^k where the method corrects its
/// average of the gradients so; and whether it does.
pub fn caps(run: &Run) -> (Vec<f64>, bool) {
    let beta = correction(run);
    let rates = run.metric("learning_rate").unwrap_or_default();
    let per_step = rates.iter().zip(&run.step_sizes);
    let per_step = per_step.flat_map(|(rate, steps)| steps.iter().map(|_| *rate));
    let corrected = per_step.zip(1..).map(|(rate, k)| match beta {
        Some(beta) => rate / (1.0 - beta.powi(k)),
        None => rate,
    });
    (corrected.collect(), beta.is_some())
}

/// The beta by whose powers a run's method corrects its average of the gradients, if it does.
fn correction(run: &Run) -> Option<f64> {
    let opt = run.config.get("opt")?.as_object()?;
    let name = opt.get("name")?.as_str()?;
    let default = |key: &str| {
        let key = optim::row(name)?
            .entry
            .keys
            .iter()
            .find(|k| k.name == key)?;
        serde_json::from_str(key.default?).ok()
    };
    let value = |key: &str| -> Option<Value> { opt.get(key).cloned().or_else(|| default(key)) };
    match name {
        "momo" | "momo-star" => {
            let corrects = value("bias_correction")?.as_bool()?;
            value("beta")?.as_f64().filter(|_| corrects)
        }
        "momo-adam" | "momo-adam-star" => value("betas")?.get(0)?.as_f64(),
        _ => None,
    }
}
