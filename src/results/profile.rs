//! Performance profiles and scores, as AlgoPerf computes them (Dahl et al. 2023; Dolan and Moré 2002): how soon methods
//! reach the targets of several experiments.
//!
//! An experiment is a workload, a method a submission, its settings are the trials of a study, and a seed is a study.

use std::collections::BTreeSet;
use std::str::FromStr;

use super::output::Run;
use super::record::{Record, Setting};
use super::statistics::median;
use crate::error::{Error, Result};

/// Ratios from here on count nothing in the score.
pub const R_MAX: f64 = 4.0;

/// What time is counted in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Clock {
    /// Epochs of training
    #[default]
    Epochs,
    /// Updates of the weights
    Steps,
    /// Seconds of training, evaluation left out
    Seconds,
}

impl Clock {
    /// What one unit of it is called, in the plural.
    pub fn unit(self) -> &'static str {
        match self {
            Clock::Epochs => "epochs",
            Clock::Steps => "steps",
            Clock::Seconds => "seconds",
        }
    }

    /// The time that a run had taken at the end of each of its epochs. None if its file does not say.
    pub fn times(self, run: &Run) -> Option<Vec<f64>> {
        let after = |per_epoch: f64| {
            let epochs = run.epochs.iter();
            epochs.map(|&e| (e + 1) as f64 * per_epoch).collect()
        };
        match self {
            Clock::Epochs => Some(after(1.0)),
            Clock::Steps => Some(after(run.summary.get("num_batches_per_epoch")?.as_f64()?)),
            Clock::Seconds => {
                let mut sum = 0.0;
                let seconds = run.metric("train_epoch_time")?.iter();
                let sums: Vec<f64> = seconds
                    .map(|s| {
                        sum += s;
                        sum
                    })
                    .collect();
                sum.is_finite().then_some(sums)
            }
        }
    }
}

/// A value of the metric to reach, of one experiment or of all: `mnist_mlp=0.97` or `0.97`.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// The experiment's id; all that have no target of their own if none.
    pub experiment: Option<String>,
    pub value: f64,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Target, String> {
        let (experiment, value) = match text.rsplit_once('=') {
            Some((id, value)) => (Some(id.to_owned()), value),
            None => (None, text),
        };
        match value.trim().parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(Target { experiment, value }),
            _ => Err("expected a finite number, or EXPERIMENT=NUMBER".into()),
        }
    }
}

/// What profiles are made of.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// The metric that is to reach the targets.
    pub score: &'a str,
    pub targets: &'a [Target],
    pub clock: Clock,
}

/// The profiles of all methods on the same workloads.
#[derive(Clone, Debug, PartialEq)]
pub struct Profiles {
    pub workloads: Vec<Workload>,
    /// Highest score first.
    pub methods: Vec<Profile>,
    pub clock: Clock,
    /// What a reader of the numbers should know.
    pub notes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// The experiment's title.
    pub title: String,
    pub target: f64,
}

/// How soon a method reached the targets.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    pub method: String,
    /// The time to the target of each workload, in units of the clock; infinite where it was missed.
    pub times: Vec<f64>,
    /// Each time in units of the best method's on that workload: 1 or more, infinite where it was missed.
    pub ratios: Vec<f64>,
    /// See [`score`].
    pub score: f64,
}

impl Profile {
    /// rho(tau): the share of workloads, from 0 to 1, whose target was reached in at most tau times the best time.
    pub fn share(&self, tau: f64) -> f64 {
        share(&self.ratios, tau)
    }

    /// The corners of rho from tau = 1 to `tau_max`, ascending, ready to be joined by lines: where rho jumps there are two
    /// points with the same tau.
    pub fn corners(&self, tau_max: f64) -> Vec<(f64, f64)> {
        let mut jumps: Vec<f64> = self.ratios.clone();
        jumps.retain(|&r| r > 1.0 && r <= tau_max);
        jumps.sort_by(f64::total_cmp);
        jumps.dedup();
        let mut corners = vec![(1.0, self.share(1.0))];
        for tau in jumps {
            corners.push((tau, corners[corners.len() - 1].1));
            corners.push((tau, self.share(tau)));
        }
        corners.push((tau_max, self.share(tau_max)));
        corners
    }
}

/// A study has a time for each of its trials, infinite if the target was missed: the median over the studies of their best
/// trials.
pub fn time_to_target(studies: &[Vec<f64>]) -> f64 {
    let best = |study: &Vec<f64>| study.iter().copied().fold(f64::INFINITY, f64::min);
    median(&studies.iter().map(best).collect::<Vec<_>>())
}

/// Times, one list per method with one for each workload, over the best time on that workload. What nobody reached is
/// infinite for all.
pub fn ratios(times: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let best = |workload: usize| {
        let times = times.iter().map(|method| method[workload]);
        times.fold(f64::INFINITY, f64::min)
    };
    let ratio = |(workload, &time): (usize, &f64)| match time.is_finite() {
        true => time / best(workload),
        false => f64::INFINITY,
    };
    let of_method = |method: &Vec<f64>| method.iter().enumerate().map(ratio).collect();
    times.iter().map(of_method).collect()
}

/// The share of ratios up to tau.
pub fn share(ratios: &[f64], tau: f64) -> f64 {
    ratios.iter().filter(|&&r| r <= tau).count() as f64 / ratios.len() as f64
}

/// AlgoPerf's benchmark score: the area under rho from tau = 1 to `r_max`, over r_max - 1. From 0 (never within `r_max`)
/// to 1 (always the fastest). The area is exact; AlgoPerf's own code adds up a hundred trapezoids.
pub fn score(ratios: &[f64], r_max: f64) -> f64 {
    let areas = ratios.iter().map(|r| (r_max - r).max(0.0));
    areas.sum::<f64>() / (r_max - 1.0) / ratios.len() as f64
}

/// The profiles of all methods of these records. A workload that a method was not tried on counts as missed.
///
/// # Errors
/// A usage error if a record lacks the metric, a target, or the times that the clock counts, or if a target is for none
/// of them.
pub fn profiles(records: &[Record], query: &Query) -> Result<Profiles> {
    let known = |id: &String| records.iter().any(|record| record.name == *id);
    let mut named = query.targets.iter().filter_map(|t| t.experiment.as_ref());
    if let Some(id) = named.find(|id| !known(id)) {
        let all: BTreeSet<&str> = records.iter().map(|r| r.name.as_str()).collect();
        let all: Vec<&str> = all.into_iter().collect();
        return Err(Error::usage(format!(
            "a target for {id:?}, which is not among the experiments: {}",
            all.join(", ")
        )));
    }
    let workload = |record: &Record| {
        let of = |id: Option<&String>| {
            let targets = query.targets.iter().rev();
            let mut mine = targets.filter(move |t| t.experiment.as_ref() == id);
            mine.next().map(|t| t.value)
        };
        let target = of(Some(&record.name)).or_else(|| of(None));
        let target = target.ok_or_else(|| {
            let name = &record.name;
            Error::usage(format!(
                "no target for {name}: give one for it, {name}=NUMBER, or for all"
            ))
        })?;
        let title = record.title();
        Ok(Workload { title, target })
    };
    let workloads: Vec<Workload> = records.iter().map(workload).collect::<Result<_>>()?;
    let methods: BTreeSet<&str> = records.iter().flat_map(|r| r.methods()).collect();
    let mut notes = Vec::new();
    let mut times = Vec::new();
    for method in &methods {
        let (mut row, mut untried) = (Vec::new(), Vec::new());
        for (record, workload) in records.iter().zip(&workloads) {
            let studies = studies(record, method, workload.target, query)?;
            if studies.is_empty() {
                untried.push(workload.title.as_str());
            }
            row.push(match studies.is_empty() {
                true => f64::INFINITY,
                false => time_to_target(&studies),
            });
        }
        times.push(row);
        if !untried.is_empty() {
            let untried = untried.join(", ");
            notes.push(format!(
                "{method} was not tried on {untried}, which counts as missed"
            ));
        }
    }
    for (at, workload) in workloads.iter().enumerate() {
        if times.iter().all(|method| method[at].is_infinite()) {
            let Workload { title, target } = workload;
            notes.push(format!("{title}: no method reaches {target}"));
        }
    }
    for record in records {
        if record.settings.iter().any(|s| s.runs.is_empty()) {
            let title = record.title();
            notes.push(format!(
                "{title}: a record has no single seeds; times are those of the mean"
            ));
        }
    }
    let ratios = ratios(&times);
    let all = methods.into_iter().zip(times).zip(ratios);
    let mut methods: Vec<Profile> = all
        .map(|((method, times), ratios)| Profile {
            method: method.to_owned(),
            score: score(&ratios, R_MAX),
            times,
            ratios,
        })
        .collect();
    methods.sort_by(|a, b| b.score.total_cmp(&a.score));
    Ok(Profiles {
        workloads,
        methods,
        clock: query.clock,
        notes,
    })
}

/// For each seed of a method the times of its settings. The mean curves of a record are one study.
fn studies(record: &Record, method: &str, target: f64, query: &Query) -> Result<Vec<Vec<f64>>> {
    let metric = record.metric(query.score)?;
    let up = record.higher_is_better(query.score);
    let settings = record.ranking(method, metric, None);
    let unknown = || {
        let title = record.title();
        let unit = query.clock.unit();
        Error::usage(format!("{title}: {unit} are not known; count epochs"))
    };
    let first = |values: &[f64], times: &[f64]| {
        let reached = |x: &f64| if up { *x >= target } else { *x <= target };
        let row = values.iter().position(reached);
        row.map_or(f64::INFINITY, |row| times[row])
    };
    let mut studies: Vec<(Option<i64>, Vec<f64>)> = Vec::new();
    let mut add = |seed: Option<i64>, time: f64| match studies.iter_mut().find(|s| s.0 == seed) {
        Some((_, trials)) => trials.push(time),
        None => studies.push((seed, vec![time])),
    };
    for setting in settings {
        for run in &setting.runs {
            let times = query.clock.times(run).ok_or_else(unknown)?;
            let values = run.metric(query.score).unwrap_or_default();
            add(Some(run.run_id()), first(values, &times));
        }
        if setting.runs.is_empty() {
            let Setting { epochs, curves, .. } = setting;
            if query.clock != Clock::Epochs {
                return Err(unknown());
            }
            let times: Vec<f64> = epochs.iter().map(|&e| (e + 1) as f64).collect();
            add(None, first(&curves[metric].mean, &times));
        }
    }
    Ok(studies.into_iter().map(|study| study.1).collect())
}
