//! `output merge`, `filter` and `export`, as functions.

use crate::common::files;
use std::fs;

use stepback_native::config::{Choice, Filter};
use stepback_native::results::record::{self, Found};
use stepback_native::results::{edit, output};

fn conditions(texts: &[&str]) -> Vec<Filter> {
    texts.iter().map(|t| t.parse().unwrap()).collect()
}

#[test]
fn filters_keep_the_bytes_of_what_stays() {
    let path = files::path("records/reference/outputs/mnist_mlp-2.json");
    let whole = fs::read_to_string(&path).unwrap();
    let same = edit::filter(&path, &Choice::default(), &[]).unwrap();
    assert_eq!(same.0, whole);
    let dir = tempfile::tempdir().unwrap();
    let kept = |filter: Choice| {
        let (text, stay, gone) = edit::filter(&path, &filter, &[]).unwrap();
        assert_eq!(stay + gone, 48);
        let file = dir.path().join("x.json");
        fs::write(&file, text).unwrap();
        assert_eq!(output::read(&file).unwrap().len(), stay);
        stay
    };
    let drop = conditions(&["name=adabound"]);
    assert_eq!(
        kept(Choice {
            drop,
            ..Choice::default()
        }),
        24
    );
    // 1e-05 and 0.00001 are one number; values of one key are alternatives, keys restrict one another.
    let keep = conditions(&["lr=0.00001", "lr=0.1", "run_id=1"]);
    assert_eq!(
        kept(Choice {
            keep,
            ..Choice::default()
        }),
        4
    );
    let keep = conditions(&["opt.lr=1e-5", "dataset=mnist"]);
    assert_eq!(
        kept(Choice {
            keep,
            ..Choice::default()
        }),
        6
    );
    let keep = conditions(&["lr=0.00001,1e-1", "run_id=1"]);
    assert_eq!(
        kept(Choice {
            keep,
            ..Choice::default()
        }),
        4
    );
    // Of conditions on several keys, one is enough here.
    let any = conditions(&["name=adabound", "lr=1e-5"]);
    assert_eq!(
        kept(Choice {
            any,
            ..Choice::default()
        }),
        24 + 3
    );
    assert!("lr".parse::<Filter>().is_err());
}

#[test]
fn keys_and_values_that_no_run_has_are_refused() {
    let path = files::path("records/reference/outputs/mnist_mlp-2.json");
    let refused = |choice: Choice| edit::filter(&path, &choice, &[]).unwrap_err().message;
    let keep = |texts: &[&str]| {
        refused(Choice {
            keep: conditions(texts),
            ..Choice::default()
        })
    };
    let message = keep(&["nme=adabound"]);
    assert!(
        message.contains("no run has this key (did you mean \"name\"?)"),
        "{message}"
    );
    let message = keep(&["lr=7"]);
    assert!(
        message.contains("no run has this value (the runs have "),
        "{message}"
    );
    assert!(
        keep(&["lr=0.1", "max_epoch=10", "name=adabelief", "batch_size=1"]).contains("batch_size")
    );
    let message = refused(Choice {
        drop: conditions(&["opt.lrr=1"]),
        ..Choice::default()
    });
    assert!(message.contains("no run has this key"), "{message}");
    let message = keep(&["lr=0.1,7"]);
    assert!(message.contains("lr=7: no run has"), "{message}");
    let error = edit::filter(&path, &Choice::default(), &["step_sizes".into()]).unwrap_err();
    assert!(error.message.contains("no epoch has the key"), "{error}");
    let message = refused(Choice {
        drop: conditions(&["name=adabelief", "name=adabound"]),
        ..Choice::default()
    });
    assert!(message.contains("no run would stay"), "{message}");
}

#[test]
fn history_keys_can_be_dropped() {
    let path = files::path("records/reference/outputs/synthetic_small.json");
    let keys = ["step_size_list".to_owned()];
    let (text, stay, _) = edit::filter(&path, &Choice::default(), &keys).unwrap();
    assert_eq!(stay, 129);
    let whole = fs::read_to_string(&path).unwrap();
    assert!(whole.contains("step_size_list") && !text.contains("step_size_list"));
    // All else is as it was: numbers, NaN, layout.
    let lines = |s: &str| s.matches("\"train_loss\": ").count();
    assert_eq!(lines(&text), lines(&whole));
    assert_eq!(text.matches("NaN").count(), whole.matches("NaN").count());
}

#[test]
fn merging_splits_gives_the_whole_and_refuses_what_does_not_mix() {
    let path = files::path("records/reference/outputs/mnist_mlp-2.json");
    let dir = tempfile::tempdir().unwrap();
    let [a, b] = ["a.json", "b.json"].map(|n| dir.path().join(n));
    for (file, name) in [(&a, "adabelief"), (&b, "adabound")] {
        let choice = Choice {
            keep: conditions(&[&format!("name={name}")]),
            ..Choice::default()
        };
        let (text, _, _) = edit::filter(&path, &choice, &[]).unwrap();
        fs::write(file, text).unwrap();
    }
    let (text, runs) = edit::merge(&[a.clone(), b]).unwrap();
    assert_eq!(runs, 48);
    assert_eq!(text, fs::read_to_string(&path).unwrap());
    let twice = edit::merge(&[a.clone(), a.clone()]).unwrap_err();
    assert!(
        twice
            .message
            .contains("run_id 0 of name=adabelief:lr=1e-06"),
        "{twice}"
    );
    let mixed = edit::merge(&[a, files::path("records/reference/outputs/test.json")]).unwrap_err();
    assert!(
        mixed
            .message
            .contains("dataset=synthetic_linear instead of mnist"),
        "{mixed}"
    );
}

#[test]
fn exports_have_a_row_per_epoch() {
    let csv = edit::export(&files::path("records/reference/outputs/test.json"), true).unwrap();
    assert_eq!(csv.lines().count(), 1 + 24 * 10);
    assert!(csv.starts_with("id,run_id,epoch,grad_norm,learning_rate,"));
    assert!(
        csv.lines()
            .nth(1)
            .unwrap()
            .starts_with("name=sgd-m:lr=0.01:lr_schedule=constant,0,0,0.6093964576721191,")
    );
    let path = files::path("records/reference/outputs/test.json");
    let found = Found::find(
        &path.to_string_lossy(),
        "nowhere".as_ref(),
        "nowhere".as_ref(),
    );
    assert_eq!(found.unwrap().records().unwrap()[0].name, "test");
}

#[test]
fn records_are_chosen_from_like_outputs() {
    let outputs = files::path("records/reference/outputs");
    let folder = files::path("records");
    let chosen = |ids: &[&str], keep: &[&str]| {
        let find = |id: &&str| Found::find(id, &outputs, &folder).unwrap();
        let mut found: Vec<Found> = ids.iter().map(find).collect();
        let choice = Choice {
            keep: conditions(keep),
            ..Choice::default()
        };
        record::choose(&mut found, &choice)?;
        let records = found
            .into_iter()
            .map(|one| one.records().unwrap().remove(0));
        Ok(records.collect::<Vec<_>>())
    };
    let refused = |ids: &[&str], keep: &[&str]| -> stepback_native::error::Error {
        chosen(ids, keep).unwrap_err()
    };
    // One is a file of averages, one has runs; keys of both, and with a dot.
    for keep in [&["name=adam"][..], &["name=adam", "opt.lr=0.1,0.01"]] {
        let records = chosen(&["cifar10_vit", "synthetic_small"], keep).unwrap();
        for record in &records {
            assert_eq!(record.methods(), ["adam"]);
            let rates = record.settings.iter().map(|s| s.lr().unwrap());
            assert!(keep.len() == 1 || rates.clone().all(|lr| lr == 0.1 || lr == 0.01));
        }
        assert!(!records.is_empty());
    }
    // What only one of them has leaves that one.
    let records = chosen(&["cifar10_vit", "synthetic_small"], &["run_id=0"]).unwrap();
    assert_eq!(records.len(), 1);
    assert!(records[0].settings.iter().all(|s| s.runs.len() == 1));
    let error = refused(&["cifar10_vit"], &["lr=123"]);
    assert!(error.message.contains("no run has this value"), "{error}");
}

#[test]
fn runs_are_cut_to_their_common_epochs() {
    let outputs = files::path("records/reference/outputs");
    let mut found = Found::outputs("synthetic_small", &outputs).unwrap();
    let Found::Runs(_, runs) = &mut found else {
        unreachable!("an output has runs")
    };
    // One seed ends early.
    let dir = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(outputs.join("test.json")).unwrap();
    let mut all: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    let history = all[0]["history"].as_array_mut().unwrap();
    history.truncate(4);
    let file = dir.path().join("test.json");
    fs::write(&file, serde_json::to_string(&all).unwrap()).unwrap();
    *runs = output::read(&file).unwrap();
    let early = runs[0].id();
    found.cut();
    let record = found.records().unwrap().remove(0);
    assert!(record.notes.is_empty());
    assert!(record.settings.iter().all(|s| s.epochs == [0, 1, 2, 3]));

    // Without that, its own seeds alone end with it, and somebody is told.
    let found = Found::outputs("test", dir.path()).unwrap();
    let record = found.records().unwrap().remove(0);
    for setting in &record.settings {
        let epochs = if setting.id == early { 4 } else { 10 };
        assert_eq!(setting.epochs.len(), epochs);
        let curves = setting.curves.iter().filter(|c| !c.mean.is_empty());
        assert!(
            curves
                .clone()
                .all(|c| c.mean.len() == epochs && c.std.len() == epochs)
        );
    }
    assert_eq!(record.notes.len(), 1);
    assert!(record.notes[0].contains(&early), "{:?}", record.notes);
}
