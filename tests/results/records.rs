//! From outputs to records, tables and comparisons.

use crate::common::files;
use std::fs;
use std::path::Path;

use stepback_native::error::Kind;
use stepback_native::results::compare::{Deviation, compare};
use stepback_native::results::table::{Cell, Format, Query, Table};
use stepback_native::results::{Record, measure, record};

/// The record of an experiment with one problem.
fn one(records: stepback_native::Result<Vec<Record>>) -> Record {
    let mut records = records.unwrap();
    assert_eq!(records.len(), 1);
    records.remove(0)
}

fn published(id: &str) -> Record {
    one(record::read_csv(&files::path(&format!("records/{id}.csv"))))
}

fn from_outputs(id: &str) -> Record {
    one(record::from_outputs(
        id,
        &files::path("records/reference/outputs"),
    ))
}

#[test]
fn published_records_are_rewritten_byte_for_byte() {
    let ids = [
        "cifar100_resnet110",
        "cifar10_resnet20",
        "cifar10_vgg16",
        "cifar10_vit",
    ];
    for id in ids.iter().chain(&["imagenet32_resnet18", "mnist_mlp"]) {
        let text = std::fs::read_to_string(files::path(&format!("records/{id}.csv"))).unwrap();
        assert!(
            record::to_csv(&[published(id)], true) == text,
            "{id} changed by rewriting"
        );
    }
}

#[test]
fn the_record_of_mnist_is_reproduced() {
    let (ours, theirs) = (from_outputs("mnist_mlp-2"), published("mnist_mlp"));
    assert_eq!(ours.metrics, theirs.metrics);
    assert_eq!(ours.settings.len(), 16);
    let mut compared = 0;
    for setting in &ours.settings {
        let same = theirs.settings.iter().find(|s| s.id == setting.id);
        let same = same.unwrap_or_else(|| panic!("{} is not in the record", setting.id));
        assert_eq!(setting.options, same.options);
        assert_eq!(setting.epochs, same.epochs);
        for (a, b) in setting.curves.iter().zip(&same.curves) {
            for (a, b) in a.mean.iter().chain(&a.std).zip(b.mean.iter().chain(&b.std)) {
                assert!(
                    (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-12 * b.abs(),
                    "{}: {a} is not {b}",
                    setting.id
                );
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 16 * 7 * 2 * 10);
}

/// A run: lr, run_id, number of epochs.
type Run = (&'static str, u32, usize);

/// A folder with these output files.
fn outputs(files: &[(&str, &[Run])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, runs) in files {
        let runs: Vec<String> = runs
            .iter()
            .map(|(lr, seed, epochs)| {
                let epochs: Vec<String> = (0..*epochs)
                    .map(|e| format!(r#"{{"epoch": {e}, "train_loss": {seed}.5, "val_score": NaN}}"#))
                    .collect();
                format!(
                    r#"{{"config": {{"opt": {{"lr": {lr}, "name": "sgd", "betas": [0.9, 1], "flag": false}}, "run_id": {seed}}},
                        "history": [{}], "summary": {{}}}}"#,
                    epochs.join(",")
                )
            })
            .collect();
        fs::write(dir.path().join(name), format!("[{}]", runs.join(","))).unwrap();
    }
    dir
}

#[test]
fn files_are_collected_in_order_and_ids_are_spelled_like_python() {
    let dir = outputs(&[
        ("x-10.json", &[("1", 0, 1)]),
        ("x-2.json", &[("1.0", 1, 1)]),
        ("x.json", &[("1e-5", 0, 1), ("1e-5", 2, 1)]),
        ("x-2b.json", &[("7", 0, 1)]),
        ("xy.json", &[("8", 0, 1)]),
    ]);
    let records = record::from_outputs("x", dir.path()).unwrap();
    // The list in the id holds a comma, so pandas quotes the id too. 1 and 1.0 are one number.
    assert_eq!(
        record::to_csv(&records, true),
        r#"id,epoch,train_loss,val_score,train_loss_std,val_score_std,name,lr,betas,flag
"name=sgd:lr=1.0:betas=[0.9, 1]:flag=False",0,1.0,,0.7071067811865476,,sgd,1.0,"[0.9, 1]",False
"name=sgd:lr=1e-05:betas=[0.9, 1]:flag=False",0,1.5,,1.4142135623730951,,sgd,1e-05,"[0.9, 1]",False
"#
    );
}

#[test]
fn bad_input_is_named() {
    let refused = |dir: &Path, id: &str| record::from_outputs(id, dir).unwrap_err();
    let dir = outputs(&[("y.json", &[("1", 4, 1), ("1", 4, 1)])]);
    let error = refused(dir.path(), "y");
    assert!(
        error.message.contains("the same run twice: name=sgd:lr=1:"),
        "{error}"
    );
    assert!(error.message.contains("run_id 4"), "{error}");
    let error = refused(dir.path(), "z");
    assert_eq!(error.kind, Kind::Usage);
    assert!(error.message.contains("there is y"), "{error}");
    for (text, what) in [
        ("{}", "line 1 column 1: expected '['"),
        ("[]", "z: no runs"),
        (
            "[{\"config\": {}}]",
            "column 2: not a run: its config has no \"opt\"",
        ),
        (
            "[{\"config\": {\"opt\": {\"name\": \"a\"}}}]",
            "no list \"history\"",
        ),
        (
            "[{\"config\": {\"opt\": {\"name\": \"a\"}}, \"history\": [{\"epoch\": 0}, {}]}]",
            "epoch 1 of the history",
        ),
        ("[\n  {\"config\"", "line 2 column 12"),
    ] {
        fs::write(dir.path().join("z.json"), text).unwrap();
        let error = refused(dir.path(), "z");
        assert_eq!(error.kind, Kind::Corrupt, "{error}");
        assert!(error.message.contains(what), "{error}");
    }
    for (text, what) in [
        ("", "not a record"),
        ("id,epoch,a,a_std,name\n", "no rows"),
        (
            "id,epoch,a,a_std,name\nx,0,1,?,sgd\n",
            "line 2, column a_std: \"?\" is not a number",
        ),
        (
            "id,epoch,a,a_std,name\nx,0,1,,sgd\ny,0,1,,sgd\ny,1,1,,sgd\ny,0,2,,sgd\n",
            "y has epoch 0 twice",
        ),
        ("id,epoch,a,a_std,name\nx,0,1\n", "3 fields"),
    ] {
        let path = dir.path().join("r.csv");
        fs::write(&path, text).unwrap();
        let error = record::read_csv(&path).unwrap_err();
        assert!(error.message.contains(what), "{error}");
    }
    let error = published("mnist_mlp").metric("val_scare").unwrap_err();
    assert!(error.message.contains("train_loss"), "{error}");
}

fn table(ids: &[&str], query: &Query) -> Vec<Vec<String>> {
    let records: Vec<Record> = ids.iter().map(|id| published(id)).collect();
    let table = Table::new(&records, query).unwrap();
    let text = |c: &Cell| {
        if c.bold {
            format!("[{}]", c.text)
        } else {
            c.text.clone()
        }
    };
    table
        .rows
        .iter()
        .map(|row| row.iter().map(text).collect())
        .collect()
}

const QUERY: Query = Query {
    score: "val_score",
    cutoff: None,
    columns: &[],
    target: None,
    sort: None,
};

#[test]
fn the_table_shows_the_best_setting_of_each_method() {
    // From pandas: the last epoch's mean per id, its highest per name.
    let rows = table(&["mnist_mlp", "cifar10_vit"], &QUERY);
    let mnist = [
        "mnist_mlp",
        "97.62 ± 0.17",
        "97.67 ± 0.14",
        "97.75 ± 0.06",
        "",
        "[97.97 ± 0.08]",
        "97.96 ± 0.12",
        "97.73 ± 0.12",
    ];
    assert_eq!(rows[0], mnist);
    assert_eq!(rows[1][4], "[87.06 ± 0.18]");
    let losses = table(
        &["mnist_mlp"],
        &Query {
            score: "train_loss",
            ..QUERY
        },
    );
    let lowest = |rows: &[Vec<String>]| {
        rows[0]
            .iter()
            .filter(|c| c.starts_with('['))
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(lowest(&losses).len(), 1);
    // One seed: no spread.
    let one_seed = table(&["imagenet32_resnet18"], &QUERY);
    assert!(
        one_seed[0][1..].iter().all(|c| !c.contains('±')),
        "{one_seed:?}"
    );
    // The average over the last two epochs lies between the two.
    let tail = table(
        &["mnist_mlp"],
        &Query {
            cutoff: Some("8".parse().unwrap()),
            ..QUERY
        },
    );
    assert_ne!(tail[0][1], rows[0][1]);
}

#[test]
fn bold_is_spelled_in_every_format() {
    let records = [published("mnist_mlp")];
    let table = Table::new(&records, &QUERY).unwrap();
    assert!(
        table
            .render(Format::Markdown)
            .contains("| **97.97 ± 0.08** |")
    );
    let latex = table.render_within(Format::Latex, 200);
    assert!(
        latex.contains("MNIST, MLP & 97.62 $\\pm$ 0.17 &"),
        "{latex}"
    );
    assert!(latex.contains("\\textbf{97.97 $\\pm$ 0.08} &"), "{latex}");
    assert!(table.render(Format::Text).contains("97.97 ± 0.08 *"));
    assert!(
        table
            .render(Format::Csv)
            .starts_with("experiment,adabelief,")
    );
}

/// A record with these (lr, final score) of one method, and a straight line from 0 to them over 5 epochs.
fn record_of(scores: &[(f64, f64)]) -> Record {
    let mut csv = "id,epoch,val_score,val_score_std,name,lr\n".to_owned();
    for (lr, score) in scores {
        for epoch in 0..5 {
            let value = score * f64::from(epoch) / 4.0;
            let value = if value.is_nan() {
                String::new()
            } else {
                value.to_string()
            };
            csv += &format!("name=a:lr={lr},{epoch},{value},0.01,a,{lr}\n");
        }
    }
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("x.csv"), csv).unwrap();
    one(record::read_csv(&dir.path().join("x.csv")))
}

#[test]
fn measures_follow_their_formulas() {
    let record = record_of(&[
        (1e-3, 0.80),
        (1e-2, 0.895),
        (1e-1, 0.90),
        (1.0, 0.891),
        (10.0, 0.7),
        (100.0, 0.9),
    ]);
    let width = |r: &Record| measure::robustness(r, "a", 0, None);
    // 100 ties with 0.1 and stands alone: the last of equal bests counts.
    assert!(width(&record).unwrap().abs() < 1e-12);
    let record = record_of(&[
        (1e-3, 0.80),
        (1e-2, 0.895),
        (1e-1, 0.90),
        (1.0, 0.891),
        (10.0, f64::NAN),
        (100.0, 0.895),
    ]);
    assert!((width(&record).unwrap() - 2.0).abs() < 1e-12);
    let best = record.ranking("a", 0, None);
    assert_eq!(best[0].lr(), Some(0.1));
    assert_eq!(best[5].lr(), Some(10.0), "the diverged one comes last");
    // 0, 0.225, 0.45, 0.675, 0.9: half of the final value on average.
    assert!((measure::area(best[0], 0).unwrap() - 0.45).abs() < 1e-12);
    assert_eq!(measure::epochs_to(&record, best[0], 0, 0.5), Some(4));
    assert_eq!(measure::epochs_to(&record, best[0], 0, 0.95), None);
    assert_eq!(
        measure::time_to(&record, best[0], 0, 0.5),
        None,
        "records hold no times"
    );
    let diverged = record_of(&[(1.0, f64::NAN)]);
    assert_eq!(width(&diverged), None);
    let table = Table::new(&[diverged], &QUERY).unwrap();
    assert_eq!(table.rows[0][1].text, "diverged");
    let runs = from_outputs("mnist_mlp-2");
    let (score, setting) = (runs.metric("val_score").unwrap(), &runs.settings[0]);
    let epochs = measure::epochs_to(&runs, setting, score, 0.9).unwrap();
    let seconds = setting.runs.iter().map(|r| {
        r.metric("train_epoch_time").unwrap()[..epochs]
            .iter()
            .sum::<f64>()
    });
    let expected = seconds.sum::<f64>() / 3.0;
    assert!((measure::time_to(&runs, setting, score, 0.9).unwrap() - expected).abs() < 1e-9);
}

#[test]
fn comparisons_count_in_pooled_standard_deviations() {
    let metrics = ["train_loss", "val_score"];
    let all = compare(
        &[from_outputs("mnist_mlp-2")],
        &[published("mnist_mlp")],
        &metrics,
        None,
    )
    .unwrap();
    assert_eq!(
        (all.rows.len(), all.only_mine.len(), all.only_theirs.len()),
        (32, 0, 25)
    );
    assert!(
        all.rows
            .iter()
            .all(|r| r.agrees() && r.deviation == Deviation::Pooled(0.0))
    );
    // Both spreads are 0.01, so a difference of 0.035 is 3.5 of them.
    let mine = record_of(&[(0.1, 0.9), (1.0, 0.5), (10.0, f64::NAN), (7.0, 0.1)]);
    let theirs = record_of(&[(0.1, 0.865), (1.0, 0.52), (10.0, 0.3), (8.0, 0.1)]);
    let both = compare(&[mine], &[theirs], &["val_score"], None).unwrap();
    let verdicts: Vec<_> = both
        .rows
        .iter()
        .map(|r| (r.id.as_str(), r.verdict()))
        .collect();
    assert_eq!(
        verdicts,
        [
            ("name=a:lr=0.1", "differs"),
            ("name=a:lr=1", "agrees"),
            ("name=a:lr=10", "differs")
        ]
    );
    let pooled = |row: usize| match both.rows[row].deviation {
        Deviation::Pooled(d) => d,
        Deviation::Relative(d) => panic!("no spread: {d}"),
    };
    assert!((pooled(0) - 3.5).abs() < 1e-9);
    assert!((pooled(1) + 2.0).abs() < 1e-9);
    assert_eq!((both.only_mine.len(), both.only_theirs.len()), (1, 1));
}
