//! Suite `statistics`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::goldens::number;
use super::{Check, Context};
use crate::error::Result;
use crate::results::profile;
use crate::results::statistics::{
    Lead, TTest, Z, bootstrap_differences, bootstrap_means, paired, past_target,
    percentile_interval, reached, welch,
};

const FILE: &str = "next_stats.json";

#[derive(Deserialize)]
struct File {
    welch: Vec<Test>,
    paired: Vec<Test>,
    bootstrap_mean: Vec<Resampled>,
    bootstrap_difference: Vec<Resampled>,
    performance_profiles: Vec<Profiles>,
    steps_to_target: Vec<Steps>,
    pairwise_steps: Vec<Pair>,
}

#[derive(Deserialize)]
struct Test {
    a: Vec<f64>,
    b: Vec<f64>,
    mean_difference: Option<f64>,
    t: Value,
    df: f64,
    p: Value,
    ci95: Vec<f64>,
}

#[derive(Deserialize)]
struct Resampled {
    #[serde(alias = "values")]
    a: Vec<f64>,
    #[serde(default)]
    b: Vec<f64>,
    resamples: usize,
    level: f64,
    #[serde(alias = "first_means", alias = "first_differences")]
    first: Vec<f64>,
    ci: Vec<f64>,
}

/// By names of submissions, then of workloads.
type Table<T> = BTreeMap<String, BTreeMap<String, T>>;

#[derive(Deserialize)]
struct Profiles {
    /// Studies of trials; null is a miss.
    times: Table<Vec<Vec<Option<f64>>>>,
    r_max: f64,
    time_to_target: Table<Value>,
    ratios: Table<Value>,
    taus: Vec<f64>,
    rho: BTreeMap<String, Vec<f64>>,
    score: BTreeMap<String, f64>,
}

#[derive(Deserialize)]
struct Steps {
    steps: Vec<usize>,
    /// One list per run.
    values: Vec<Vec<f64>>,
    target: f64,
    sigma: f64,
    z: f64,
    lower_is_better: bool,
    means: Vec<f64>,
    statistic: Vec<f64>,
    first_significant_step: Option<usize>,
    first_step_with_mean_at_target: Option<usize>,
}

#[derive(Deserialize)]
struct Pair {
    final_loss_difference: f64,
    step_difference: f64,
    loss_per_100_steps: f64,
    n1: usize,
    n2: usize,
    statistic: f64,
    significant: bool,
}

pub fn statistics(context: &Context) -> Result<Vec<Check>> {
    let Some(file) = context.goldens.read::<File>(FILE)? else {
        return Ok(vec![Check::skip("tests", format!("no {FILE}"))]);
    };
    Ok(vec![
        tests(&file),
        resamples(&file),
        profiles(&file),
        steps(&file),
    ])
}

fn real(value: &Value) -> f64 {
    number(value).unwrap_or(f64::NAN)
}

/// A difference of means that agree in four digits has lost as many of its sixteen, and Student's distribution adds some
/// roundings.
fn tests(file: &File) -> Check {
    let mut check = Check::new("t-tests: t, p and intervals", 1e-10);
    type Kind = fn(&[f64], &[f64], f64) -> Option<TTest>;
    let welch = file.welch.iter().map(|case| ("welch", welch as Kind, case));
    let paired = file
        .paired
        .iter()
        .map(|case| ("paired", paired as Kind, case));
    for (at, (name, test, case)) in welch.chain(paired).enumerate() {
        check.cases += 1;
        let ours = test(&case.a, &case.b, 0.95).expect("two values a side");
        let difference = case.mean_difference.unwrap_or(ours.difference);
        let [low, high] = ours.interval;
        let ours = [ours.difference, ours.t, ours.df, ours.p, low, high];
        let (t, p) = (real(&case.t), real(&case.p));
        let theirs = [difference, t, case.df, p, case.ci95[0], case.ci95[1]];
        check.compare_all(&ours, &theirs, &format!("{name} {at}"));
    }
    check
}

/// The draws are exact; sums have another order, and differences lose digits.
fn resamples(file: &File) -> Check {
    let mut check = Check::new("bootstrap", 1e-11);
    let all = file.bootstrap_mean.iter().chain(&file.bootstrap_difference);
    for (at, case) in all.enumerate() {
        check.cases += 1;
        let ours = match case.b.is_empty() {
            true => bootstrap_means(&case.a, case.resamples),
            false => bootstrap_differences(&case.a, &case.b, case.resamples),
        };
        let first = &ours[..case.first.len()];
        check.compare_all(first, &case.first, &format!("case {at}, resample"));
        let interval = percentile_interval(&ours, case.level);
        check.compare_all(&interval, &case.ci, &format!("case {at}, interval"));
    }
    check
}

fn profiles(file: &File) -> Check {
    let mut check = Check::new("performance profiles and scores", 1e-14);
    for case in &file.performance_profiles {
        check.cases += 1;
        let study = |trials: &Vec<Option<f64>>| -> Vec<f64> {
            let times = trials.iter();
            times.map(|time| time.unwrap_or(f64::INFINITY)).collect()
        };
        let time = |studies: &Vec<Vec<Option<f64>>>| {
            profile::time_to_target(&studies.iter().map(study).collect::<Vec<_>>())
        };
        let times = case.times.values();
        let times = times.map(|workloads| workloads.values().map(time).collect());
        let times: Vec<Vec<f64>> = times.collect();
        let ratios = profile::ratios(&times);
        for ((name, times), ratios) in case.times.keys().zip(&times).zip(&ratios) {
            let theirs = |table: &Table<Value>| table[name].values().map(real).collect::<Vec<_>>();
            check.compare_all(
                times,
                &theirs(&case.time_to_target),
                &format!("{name} time"),
            );
            check.compare_all(ratios, &theirs(&case.ratios), &format!("{name} ratio"));
            let rho: Vec<f64> = (case.taus.iter())
                .map(|&tau| profile::share(ratios, tau))
                .collect();
            check.compare_all(&rho, &case.rho[name], &format!("{name} rho"));
            let score = profile::score(ratios, case.r_max);
            check.compare_all(&[score], &[case.score[name]], &format!("{name} score"));
        }
    }
    check
}

/// A gap between mean and target loses up to four digits, relative to itself.
fn steps(file: &File) -> Check {
    let mut check = Check::new("steps to target", 1e-11);
    let place = |step: Option<usize>| step.map_or(-1.0, |step| step as f64);
    for (at, case) in file.steps_to_target.iter().enumerate() {
        check.cases += 1;
        let n = case.values.len();
        let mean = |at: usize| case.values.iter().map(|run| run[at]).sum::<f64>() / n as f64;
        let means: Vec<f64> = (0..case.steps.len()).map(mean).collect();
        check.compare_all(&means, &case.means, &format!("case {at}, mean"));
        let sign = if case.lower_is_better { -1.0 } else { 1.0 };
        let gaps: Vec<f64> = means.iter().map(|m| sign * (m - case.target)).collect();
        let statistics: Vec<f64> = gaps.iter().map(|&gap| past_target(gap, n)).collect();
        check.compare_all(
            &statistics,
            &case.statistic,
            &format!("case {at}, statistic"),
        );
        let ours = reached(&gaps, n, case.sigma, case.z);
        let ours = [ours.first, ours.significant].map(|row| place(row.map(|row| case.steps[row])));
        let theirs = [
            case.first_step_with_mean_at_target,
            case.first_significant_step,
        ];
        check.compare_all(&ours, &theirs.map(place), &format!("case {at}, step"));
    }
    for (at, case) in file.pairwise_steps.iter().enumerate() {
        check.cases += 1;
        let lead = Lead {
            loss: case.final_loss_difference,
            steps: case.step_difference,
            loss_per_100_steps: case.loss_per_100_steps,
            runs: [case.n1, case.n2],
        };
        let ours = lead.statistic();
        check.compare_all(&[ours], &[case.statistic], &format!("pair {at}"));
        // modded-nanogpt's standard deviation of a run is 0.0013.
        if (ours >= 0.0013 * Z) != case.significant {
            check.fail(format!("pair {at}: significant or not"));
        }
    }
    check
}
