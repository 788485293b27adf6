//! Python's json and pandas read what we write, and compute the same averages.

use crate::common::files;
use crate::common::skip;
use std::fs;
use std::process::Command;

use crate::common::program::{Folder, Ran};
use serde_json::json;

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
