//! From outputs to records, tables and comparisons.

use std::fs;
use std::path::Path;

use stepback_native::error::Kind;
use stepback_native::results::Record;

#[path = "common/files.rs"]
mod files;

fn published(id: &str) -> Record {
    Record::read_csv(&files::path(&format!("records/{id}.csv"))).unwrap()
}

fn from_outputs(id: &str) -> Record {
    Record::from_outputs(id, &files::path("records/reference/outputs")).unwrap()
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
        let text = files::read(&format!("records/{id}.csv"));
        assert!(published(id).to_csv() == text, "{id} changed by rewriting");
    }
}

#[test]
fn the_record_of_mnist_is_reproduced() {
    let (ours, theirs) = (from_outputs("mnist_mlp-2"), published("mnist_mlp"));
    assert_eq!(ours.metrics, theirs.metrics);
    assert_eq!(ours.epochs, theirs.epochs);
    assert_eq!(ours.settings.len(), 16);
    let mut compared = 0;
    for setting in &ours.settings {
        let same = theirs.settings.iter().find(|s| s.id == setting.id);
        let same = same.unwrap_or_else(|| panic!("{} is not in the record", setting.id));
        assert_eq!(setting.options, same.options);
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

/// A folder with outputs of one-epoch runs, each given as (lr, run_id, epochs).
fn outputs(files: &[(&str, &[(&str, u32, usize)])]) -> tempfile::TempDir {
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
        ("x-2.json", &[("1.0", 0, 1)]),
        ("x.json", &[("1e-5", 0, 1), ("1e-5", 2, 1)]),
        ("x-2b.json", &[("7", 0, 1)]),
        ("xy.json", &[("8", 0, 1)]),
    ]);
    let record = Record::from_outputs("x", dir.path()).unwrap();
    // The list in the id holds a comma, so pandas quotes the id too.
    assert_eq!(
        record.to_csv(),
        r#"id,epoch,train_loss,val_score,train_loss_std,val_score_std,name,lr,betas,flag
"name=sgd:lr=1.0:betas=[0.9, 1]:flag=False",0,0.5,,,,sgd,1.0,"[0.9, 1]",False
"name=sgd:lr=1:betas=[0.9, 1]:flag=False",0,0.5,,,,sgd,1,"[0.9, 1]",False
"name=sgd:lr=1e-05:betas=[0.9, 1]:flag=False",0,1.5,,1.4142135623730951,,sgd,1e-05,"[0.9, 1]",False
"#
    );
}

#[test]
fn bad_input_is_named() {
    let refused = |dir: &Path, id: &str| Record::from_outputs(id, dir).unwrap_err();
    let dir = outputs(&[
        ("x.json", &[("1", 0, 2), ("1", 1, 3)]),
        ("y.json", &[("1", 4, 1), ("1", 4, 1)]),
    ]);
    let error = refused(dir.path(), "x");
    assert_eq!(error.kind, Kind::Corrupt);
    assert!(
        error.message.contains("different numbers of epochs"),
        "{error}"
    );
    assert!(
        error.message.contains("has 2") && error.message.contains("has 3"),
        "{error}"
    );
    let error = refused(dir.path(), "y");
    assert!(
        error.message.contains("the same run twice: name=sgd:lr=1:"),
        "{error}"
    );
    assert!(error.message.contains("run_id 4"), "{error}");
    let error = refused(dir.path(), "z");
    assert_eq!(error.kind, Kind::Usage);
    assert!(error.message.contains("there is x, y"), "{error}");
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
            "id,epoch,a,a_std,name\nx,0,1,,sgd\ny,0,1,,sgd\ny,1,1,,sgd\n",
            "x has 1, y has 2",
        ),
        ("id,epoch,a,a_std,name\nx,0,1\n", "3 fields"),
    ] {
        let path = dir.path().join("r.csv");
        fs::write(&path, text).unwrap();
        let error = Record::read_csv(&path).unwrap_err();
        assert!(error.message.contains(what), "{error}");
    }
    let error = published("mnist_mlp").metric("val_scare").unwrap_err();
    assert!(error.message.contains("train_loss"), "{error}");
}
