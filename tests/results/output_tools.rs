//! `output merge`, `filter` and `export`, as functions.

use crate::common::files;
use std::fs;

use stepback_native::config::Filter;
use stepback_native::results::edit::{self, Choice};
use stepback_native::results::{output, record};

fn conditions(texts: &[&str]) -> Vec<Filter> {
    texts.iter().map(|t| t.parse().unwrap()).collect()
}

#[test]
fn filters_keep_the_bytes_of_what_stays() {
    let path = files::path("records/reference/outputs/mnist_mlp-2.json");
    let whole = fs::read_to_string(&path).unwrap();
    assert_eq!(edit::filter(&path, &Choice::default()).unwrap().0, whole);
    let dir = tempfile::tempdir().unwrap();
    let kept = |filter: Choice| {
        let (text, stay, gone) = edit::filter(&path, &filter).unwrap();
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
    assert!("lr".parse::<Filter>().is_err());
}

#[test]
fn keys_and_values_that_no_run_has_are_refused() {
    let path = files::path("records/reference/outputs/mnist_mlp-2.json");
    let refused = |choice: Choice| edit::filter(&path, &choice).unwrap_err().message;
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
        message.contains("no run has this value (there are: "),
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
    let message = refused(Choice {
        drop_history: vec!["step_sizes".into()],
        ..Choice::default()
    });
    assert!(message.contains("no epoch has the key"), "{message}");
    let message = refused(Choice {
        drop: conditions(&["name=adabelief", "name=adabound"]),
        ..Choice::default()
    });
    assert!(message.contains("no run would stay"), "{message}");
}

#[test]
fn history_keys_can_be_dropped() {
    let path = files::path("records/reference/outputs/synthetic_small.json");
    let filter = Choice {
        drop_history: vec!["step_size_list".into()],
        ..Choice::default()
    };
    let (text, stay, _) = edit::filter(&path, &filter).unwrap();
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
        let keep = conditions(&[&format!("name={name}")]);
        fs::write(
            file,
            edit::filter(
                &path,
                &Choice {
                    keep,
                    ..Choice::default()
                },
            )
            .unwrap()
            .0,
        )
        .unwrap();
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
    let csv = edit::export(&files::path("records/reference/outputs/test.json")).unwrap();
    assert_eq!(csv.lines().count(), 1 + 24 * 10);
    assert!(csv.starts_with("id,run_id,epoch,grad_norm,learning_rate,"));
    assert!(
        csv.lines()
            .nth(1)
            .unwrap()
            .starts_with("name=sgd-m:lr=0.01:lr_schedule=constant,0,0,0.6093964576721191,")
    );
    let record = record::load(
        files::path("records/reference/outputs/test.json")
            .to_str()
            .unwrap(),
        "nowhere".as_ref(),
        "nowhere".as_ref(),
    );
    assert_eq!(record.unwrap()[0].name, "test");
}
