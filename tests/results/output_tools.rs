//! `output merge`, `filter` and `export`, as functions.

use crate::common::files;
use std::fs;

use stepback_native::results::edit::{self, Condition, Filter};
use stepback_native::results::{Record, output};

fn conditions(texts: &[&str]) -> Vec<Condition> {
    texts.iter().map(|t| t.parse().unwrap()).collect()
}

#[test]
fn filters_keep_the_bytes_of_what_stays() {
    let path = files::path("records/reference/outputs/mnist_mlp-2.json");
    let whole = fs::read_to_string(&path).unwrap();
    assert_eq!(edit::filter(&path, &Filter::default()).unwrap().0, whole);
    let dir = tempfile::tempdir().unwrap();
    let kept = |filter: Filter| {
        let (text, stay, gone) = edit::filter(&path, &filter).unwrap();
        assert_eq!(stay + gone, 48);
        let file = dir.path().join("x.json");
        fs::write(&file, text).unwrap();
        assert_eq!(output::read(&file).unwrap().len(), stay);
        stay
    };
    let drop = conditions(&["name=adabound"]);
    assert_eq!(
        kept(Filter {
            drop,
            ..Filter::default()
        }),
        24
    );
    // 1e-05 and 0.00001 are one number; values of one key are alternatives, keys restrict one another.
    let keep = conditions(&["lr=0.00001", "lr=0.1", "run_id=1"]);
    assert_eq!(
        kept(Filter {
            keep,
            ..Filter::default()
        }),
        4
    );
    assert_eq!(
        kept(Filter {
            keep: conditions(&["beta=0.9"]),
            ..Filter::default()
        }),
        0
    );
    assert!("lr".parse::<Condition>().is_err());
}

#[test]
fn history_keys_can_be_dropped() {
    let path = files::path("records/reference/outputs/synthetic_small.json");
    let filter = Filter {
        drop_history: vec!["step_size_list".into()],
        ..Filter::default()
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
                &Filter {
                    keep,
                    ..Filter::default()
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
        twice.message.contains("run_id 0 of {'lr': 1e-06"),
        "{twice}"
    );
    let mixed = edit::merge(&[a, files::path("records/reference/outputs/test.json")]).unwrap_err();
    assert!(
        mixed.message.contains("synthetic_linear") && mixed.message.contains("mnist"),
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
    let record = Record::load(
        files::path("records/reference/outputs/test.json")
            .to_str()
            .unwrap(),
        "nowhere".as_ref(),
        "nowhere".as_ref(),
    );
    assert_eq!(record.unwrap().name, "test");
}
