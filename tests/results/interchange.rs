//! Python's json and pandas read what we write, and compute the same averages.

use crate::common::files;
use crate::common::skip;
use std::fs;
use std::process::Command;

use crate::common::program::{Folder, Ran};
use serde_json::json;
use stepback_native::results::output;

fn has_pandas() -> bool {
    let tried = Command::new("python3")
        .args(["-c", "import pandas"])
        .output();
    tried.is_ok_and(|output| output.status.success())
}

/// Runs `interchange.py` on outputs and what we make of them; a line for each.
fn read_by_pandas(folder: &Folder, ids: &[&str]) -> Vec<String> {
    let mut python = Command::new("python3");
    python.arg(files::path("tests/results/interchange.py"));
    for id in ids {
        let [output, record, export] = [
            format!("output/{id}.json"),
            format!("{id}.csv"),
            format!("{id}-export.csv"),
        ];
        folder.run(&format!("record {id} --out {record}")).code(0);
        folder
            .run(&format!("output export {output} --out {export}"))
            .code(0);
        python.args([output, record, export]);
    }
    let ran = python.current_dir(folder.path("")).output().unwrap();
    let said = Ran::from(ran).code(0).stdout;
    said.lines().map(str::to_owned).collect()
}

#[test]
fn pandas_agrees() {
    if !has_pandas() {
        return skip::skip("pandas_agrees", "python3 finds no pandas");
    }
    let folder = Folder::new();
    // Settings that diverge, keys and columns that only some have.
    let config = json!({
        "dataset": "synthetic_linear",
        "dataset_kwargs": {"p": 10, "n_samples": 50},
        "model": "linear",
        "loss_func": "squared",
        "score_func": "squared",
        "opt": [
            {"name": "sgd", "lr": [1e-5, 1.0, 1e6], "weight_decay": 0.1},
            {"name": "momo-star", "lr": [1, 10], "bias_correction": [true, false]},
            {"name": "adamw", "lr": 0.01, "betas": [[0.9, 0.99]]},
        ],
        "batch_size": 5,
        "max_epoch": 12,
        "n_runs": 3,
    });
    folder.config("own", &config);
    folder.run("train -q own.json").code(0);
    // More seeds for one method than for the others, which have one.
    let parts = [
        "output filter output/own.json --keep name=sgd --out d/sgd.json",
        "output filter output/own.json --drop name=sgd --keep run_id=0 --out d/rest.json",
        "output merge d --out output/uneven.json",
    ];
    for command in parts {
        folder.run(command).code(0);
    }
    let reference = ["mnist_mlp-2", "synthetic_small", "test"];
    for id in reference {
        let name = format!("{id}.json");
        let path = files::path("records/reference/outputs").join(&name);
        folder.write(&format!("output/{name}"), fs::read(path).unwrap());
    }
    let said = read_by_pandas(&folder, &[&["own", "uneven"], &reference[..]].concat());
    assert!(said[0].starts_with("24 runs, 8 settings, "), "{said:?}");
    assert!(!said[0].contains(" 0 rows with NaN"), "{said:?}");
    assert!(said[1].starts_with("14 runs, 8 settings, "), "{said:?}");
    assert_eq!(said.len(), 5);
}

/// The real package reads the event files.
#[test]
fn tensorboard_agrees() {
    let read = "import sys\n\
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator\n\
        log = EventAccumulator(sys.argv[1]).Reload()\n\
        for tag in sorted(log.Tags()['scalars']):\n\
        \x20   for e in log.Scalars(tag): print(tag, e.step, repr(e.value))\n";
    let python = |arguments: &[&str]| Command::new("python3").args(arguments).output();
    if !python(&["-c", "import tensorboard"]).is_ok_and(|ran| ran.status.success()) {
        return skip::skip("tensorboard_agrees", "python3 finds no tensorboard");
    }
    let folder = Folder::new();
    folder.config("x", &logged());
    folder
        .run("train x.json -q --log tensorboard --log-every-k-steps 2")
        .code(0);
    let run = folder
        .path("output/tensorboard/x")
        .read_dir()
        .unwrap()
        .next()
        .unwrap();
    let ran = python(&["-c", read, &run.unwrap().path().to_string_lossy()]).unwrap();
    let said = Ran::from(ran).code(0).stdout;
    let output = output::read(&folder.path("output/x.json")).unwrap();
    let loss = output[0].metric("train_loss").unwrap();
    for (epoch, x) in loss.iter().enumerate() {
        let line = said
            .lines()
            .find(|line| line.starts_with(&format!("loss/train {epoch} ")));
        let value: f64 = line.unwrap().split(' ').nth(2).unwrap().parse().unwrap();
        assert_eq!(value as f32, *x as f32);
    }
    assert_eq!(
        said.lines()
            .filter(|line| line.starts_with("step/loss "))
            .count(),
        output[0].logged("loss").len()
    );
}

fn logged() -> serde_json::Value {
    json!({
        "dataset": "synthetic_linear", "dataset_kwargs": {"p": 10, "n_samples": 50}, "model": "linear",
        "loss_func": "squared", "score_func": "squared", "opt": {"name": "sgd", "lr": 0.1}, "batch_size": 5,
        "max_epoch": 4, "n_runs": 1,
    })
}

/// A folder for every run, whose names tell apart what labels do not; written as epochs end.
#[test]
fn every_run_has_a_folder_of_events() {
    let folder = Folder::new();
    let mut config = logged();
    config["batch_size"] = json!([5, 10]);
    folder.config("x", &config);
    folder
        .run("train x.json -q --log tensorboard=events")
        .code(0);
    let runs = folder.names("events/x");
    assert_eq!(runs.len(), 2);
    for run in runs {
        assert!(run.starts_with("name=sgd:lr=0.1:run_id=0-"), "{run}");
        let files = folder.names(&format!("events/x/{run}"));
        let [file] = &files[..] else {
            panic!("{files:?}")
        };
        let bytes = fs::read(folder.path(format!("events/x/{run}/{file}"))).unwrap();
        // Whole records: the file's version, and one for each epoch.
        let (mut left, mut records) = (&bytes[..], 0);
        while !left.is_empty() {
            let length = u64::from_le_bytes(left[..8].try_into().unwrap()) as usize;
            left = &left[16 + length..];
            records += 1;
        }
        assert_eq!(records, 1 + 4);
    }
    folder
        .run("train x.json --log wandb")
        .code(2)
        .says(&["expected tensorboard, tensorboard=DIR, jsonl or jsonl=FILE"]);
    folder.write("taken", "");
    folder
        .run("train x.json --overwrite -q --log tensorboard=taken")
        .code(74)
        .says(&["taken"]);
}
