//! Tests, intervals and profiles where there is little to go by. Their numbers are in the suite `statistics` of `verify`.

use std::f64::consts::PI;
use std::fs;

use stepback_native::error::Kind;
use stepback_native::results::Record;
use stepback_native::results::profile::{Clock, Query, Target, profiles};
use stepback_native::results::record::from_outputs;
use stepback_native::results::statistics::*;

#[test]
fn holm_multiplies_by_the_tests_that_are_left() {
    let corrected = holm(&[0.01, 0.04, f64::NAN, 0.03, 0.005]);
    let expected = [0.03, 0.06, f64::NAN, 0.06, 0.02];
    for (ours, expected) in corrected.iter().zip(expected) {
        let same = (ours - expected).abs() < 1e-15 || ours.is_nan() && expected.is_nan();
        assert!(same, "{corrected:?}");
    }
    assert_eq!(holm(&[0.5, 0.9]), [1.0, 1.0]);
}

/// Sums of tenths are rounded, means of equal numbers are not.
#[test]
fn equal_values_differ_by_nothing() {
    let test = welch(&[0.1; 3], &[0.1; 7], 0.95).unwrap();
    assert_eq!((test.difference, test.interval), (0.0, [0.0, 0.0]));
    assert!(test.t.is_nan() && test.p.is_nan());
    assert_eq!(mean_interval(&[0.1; 3], 0.95), Some([0.1, 0.1]));
    let sure = welch(&[0.2; 3], &[0.1; 7], 0.95).unwrap();
    assert_eq!((sure.t, sure.p), (f64::INFINITY, 0.0));
}

#[test]
fn one_seed_has_no_interval() {
    assert_eq!(welch(&[1.0], &[1.0, 2.0], 0.95), None);
    assert_eq!(paired(&[1.0], &[2.0], 0.95), None);
    assert_eq!(mean_interval(&[1.0], 0.95), None);
}

#[test]
fn nothing_is_said_of_what_diverged() {
    let test = welch(&[1.0, f64::NAN], &[1.0, 2.0], 0.95).unwrap();
    assert!(test.p.is_nan() && test.interval[0].is_nan());
    let test = paired(&[f64::INFINITY, 1.0], &[1.0, 2.0], 0.95).unwrap();
    assert!(test.p.is_nan() && test.interval[0].is_nan());
}

/// With one degree of freedom Student's distribution is Cauchy's, which has a formula.
#[test]
fn intervals_are_right_in_the_tails() {
    for outside in [0.5, 0.05, 1e-6, 1e-10] {
        let [_, high] = mean_interval(&[-1.0, 1.0], 1.0 - outside).unwrap();
        let cauchy = 1.0 / (PI * (1.0 - (1.0 - outside)) / 2.0).tan();
        assert!((high - cauchy).abs() <= 1e-9 * cauchy, "{high} {cauchy}");
    }
}

#[test]
fn a_target_is_significant_later_than_it_is_reached() {
    let gaps = [-1.0, 0.5, 0.9, 1.0];
    let with = |n, sigma| reached(&gaps, n, sigma, 2.0);
    assert_eq!(
        (with(4, 0.9).first, with(4, 0.9).significant),
        (Some(1), Some(2))
    );
    assert_eq!(with(1, 0.9).significant, None);
    assert_eq!(reached(&[f64::NAN, -1.0], 3, 0.1, 2.0), Reached::default());
}

/// A run: method, learning rate, seed and losses. An epoch takes as many seconds as the learning rate says.
type Run<'a> = (&'a str, u32, u32, &'a [f64]);

fn experiments(files: &[(&str, &[Run])]) -> Vec<Record> {
    let folder = tempfile::tempdir().unwrap();
    let mut records = Vec::new();
    for (id, runs) in files {
        let run = |(name, lr, seed, losses): &Run| {
            let epoch = |(epoch, loss): (usize, &f64)| {
                format!(r#"{{"epoch": {epoch}, "val_loss": {loss:?}, "train_epoch_time": {lr}}}"#)
            };
            let epochs: Vec<String> = losses.iter().enumerate().map(epoch).collect();
            format!(
                r#"{{"config": {{"opt": {{"name": "{name}", "lr": {lr}}}, "run_id": {seed}}},
                    "history": [{}], "summary": {{"num_batches_per_epoch": 10}}}}"#,
                epochs.join(",")
            )
        };
        let text = runs.iter().map(run).collect::<Vec<_>>().join(",");
        fs::write(
            folder.path().join(format!("{id}.json")),
            format!("[{text}]"),
        )
        .unwrap();
        records.extend(from_outputs(id, folder.path()).unwrap());
    }
    records
}

fn two_experiments() -> Vec<Record> {
    experiments(&[
        (
            "a",
            &[
                ("adam", 1, 0, &[3.0, 0.9, 0.5]),
                ("adam", 1, 1, &[3.0, 3.0, 3.0]),
                ("adam", 2, 0, &[0.8, 0.9, 0.5]),
                ("adam", 2, 1, &[3.0, 3.0, 0.9]),
                ("sgd", 1, 0, &[0.9, f64::NAN, f64::NAN]),
                ("sgd", 1, 1, &[2.0, 2.0, 2.0]),
            ],
        ),
        ("b", &[("adam", 1, 0, &[9.0]), ("lion", 1, 0, &[5.0])]),
    ])
}

fn query<'a>(targets: &'a [Target], clock: Clock) -> Query<'a> {
    Query {
        score: "val_loss",
        targets,
        clock,
    }
}

#[test]
fn seeds_are_studies_and_settings_are_trials() {
    let records = two_experiments();
    let targets = ["1", "b=5"].map(|text| text.parse().unwrap());
    let found = profiles(&records, &query(&targets, Clock::Epochs)).unwrap();
    let names: Vec<&str> = found.methods.iter().map(|m| m.method.as_str()).collect();
    // Adam's seeds arrive after 1 and 3 epochs, and never on b; sgd arrives with one seed of two.
    assert_eq!(names, ["adam", "lion", "sgd"]);
    let inf = f64::INFINITY;
    let times: Vec<&[f64]> = found.methods.iter().map(|m| m.times.as_slice()).collect();
    assert_eq!(times, [[2.0, inf], [inf, 1.0], [inf, inf]]);
    let scores: Vec<f64> = found.methods.iter().map(|m| m.score).collect();
    assert_eq!(scores, [0.5, 0.5, 0.0]);
    assert_eq!(found.workloads[1].target, 5.0);
    let notes = [
        "lion was not tried on a, which counts as missed",
        "sgd was not tried on b, which counts as missed",
    ];
    assert_eq!(found.notes, notes);
}

#[test]
fn time_is_counted_in_epochs_steps_or_seconds() {
    let records = two_experiments();
    let targets = ["a=1".parse().unwrap(), "b=0".parse().unwrap()];
    for (clock, time) in [(Clock::Steps, 20.0), (Clock::Seconds, 4.0)] {
        let found = profiles(&records, &query(&targets, clock)).unwrap();
        assert_eq!(found.methods[0].times[0], time, "{clock:?}");
        assert!(found.notes.contains(&"b: no method reaches 0".into()));
    }
    // Old outputs and the authors' say nothing of steps.
    let mut records = records;
    records[0].settings[0].runs[0].summary.clear();
    let e = profiles(&records, &query(&targets, Clock::Steps)).unwrap_err();
    assert_eq!(e.kind, Kind::Usage);
    assert!(e.message.contains("steps are not known"), "{e}");
}

#[test]
fn profiles_need_targets_of_these_experiments() {
    let records = two_experiments();
    for (text, said) in [("a=1", "no target for b"), ("c=1", "\"c\"")] {
        let target: [Target; 1] = [text.parse().unwrap()];
        let e = profiles(&records, &query(&target, Clock::Epochs)).unwrap_err();
        assert!(e.message.contains(said), "{e}");
    }
    assert!("a=x".parse::<Target>().is_err() && "nan".parse::<Target>().is_err());
}

#[test]
fn corners_draw_the_steps_of_rho() {
    let records = experiments(&[
        (
            "a",
            &[("adam", 1, 0, &[1.0, 1.0]), ("sgd", 1, 0, &[2.0, 1.0])],
        ),
        ("b", &[("adam", 1, 0, &[1.0]), ("sgd", 1, 0, &[1.0])]),
    ]);
    let targets = ["1".parse().unwrap()];
    let found = profiles(&records, &query(&targets, Clock::Epochs)).unwrap();
    let sgd = &found.methods[1];
    assert_eq!(sgd.method, "sgd");
    let corners = [(1.0, 0.5), (2.0, 0.5), (2.0, 1.0), (4.0, 1.0)];
    assert_eq!(sgd.corners(4.0), corners);
    assert_eq!(found.methods[0].corners(4.0), [(1.0, 1.0), (4.0, 1.0)]);
}
