//! `status`: a sweep that somebody trains, that nobody trains any more, and that is done.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use crate::common::program::{Folder, send};
use serde_json::{Value, json};

fn sweep(runs: usize, epochs: usize) -> Value {
    json!({
        "dataset": "synthetic_linear", "dataset_kwargs": {"p": 20, "n_samples": 100}, "model": "linear",
        "loss_func": "logistic", "score_func": "logistic_accuracy", "opt": [{"name": "adam", "lr": 0.01}],
        "batch_size": 5, "max_epoch": epochs, "n_runs": runs,
    })
}

fn status(folder: &Folder) -> Value {
    let ran = folder.run("status sweep --json").code(0);
    serde_json::from_str(&ran.stdout).unwrap()
}

fn numbers(status: &Value) -> [usize; 4] {
    let lengths = ["running", "failed"].map(|key| status[key].as_array().unwrap().len());
    let counts = ["done", "to_go"].map(|key| status[key].as_u64().unwrap() as usize);
    [counts[0], lengths[0], lengths[1], counts[1]]
}

/// Trains until something is so.
fn until(folder: &Folder, is_so: impl Fn(&Value) -> bool) -> (Child, Value) {
    let mut command = folder.command("train sweep.json -q --threads 1");
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    loop {
        if folder.exists("output/.sweep.runs/plan") {
            let status = status(folder);
            if is_so(&status) {
                return (child, status);
            }
        }
        assert!(child.try_wait().unwrap().is_none(), "it has ended");
    }
}

#[test]
fn a_sweep_is_seen_from_outside() {
    let folder = Folder::new();
    for path in ["sweep", "output/sweep.json", "nowhere/sweep.json"] {
        let ran = folder.run(&format!("status {path}"));
        ran.code(2).says(&["sweep.json: no such output"]);
    }
    folder.config("sweep", &sweep(3, 5));
    folder.run("train -q sweep.json --only run_id=1").code(0);
    assert_eq!(numbers(&status(&folder)), [1, 0, 0, 0]);
    // The second is trained for long.
    let config = json!([
        {"dataset": "synthetic_linear", "dataset_kwargs": {"p": 20, "n_samples": 100}, "model": "linear",
         "loss_func": "logistic", "score_func": "logistic_accuracy", "opt": {"name": "adam", "lr": 0.01},
         "batch_size": 5, "max_epoch": 5, "run_id": 1},
        {"dataset": "synthetic_linear", "dataset_kwargs": {"p": 20, "n_samples": 100}, "model": "linear",
         "loss_func": "logistic", "score_func": "logistic_accuracy", "opt": {"name": "adam", "lr": 0.02},
         "batch_size": 5, "max_epoch": 1_000_000_000, "run_id": 1},
        {"dataset": "synthetic_linear", "dataset_kwargs": {"p": 20, "n_samples": 100}, "model": "linear",
         "loss_func": "logistic", "score_func": "logistic_accuracy", "opt": {"name": "adam", "lr": 0.03},
         "batch_size": 5, "max_epoch": 5, "run_id": 1},
    ]);
    folder.config("sweep", &config);
    let told = |status: &Value| status["running"][0]["epochs"].as_u64() > Some(0);
    let (mut child, status_now) = until(&folder, told);
    assert_eq!(numbers(&status_now), [1, 1, 0, 1]);
    let running = &status_now["running"][0];
    assert_eq!(running["run"], "name=adam:lr=0.02:run_id=1");
    assert_eq!(running["pid"], child.id());
    assert_eq!(running["of"], 1_000_000_000);
    assert_eq!(running["heard"], Value::Null);
    assert!(running["loss"].as_f64().is_some() && running["since"].is_string());
    assert!(status_now["seconds_left"].as_f64() > Some(1.0));
    let text = folder.run("status output/sweep.json").code(0).stdout;
    for part in [
        "output/sweep.json: 1 of 3 runs done, 1 running, 0 failed, 1 to go, about ",
        "running  name=adam:lr=0.02:run_id=1 in pid ",
        " of 1000000000 epochs done, loss ",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    send("KILL", child.id());
    child.wait().unwrap();
    assert_eq!(numbers(&status(&folder)), [1, 0, 0, 2]);
    let text = folder.run("status sweep").code(0).stdout;
    assert!(text.contains("2 to go, and nobody is at work"), "{text}");
}

#[test]
fn a_sweep_is_watched_to_its_end() {
    let folder = Folder::new();
    folder.config("sweep", &sweep(4, 1000));
    let mut trains = folder.command("train sweep.json -v --threads 1");
    let mut trains = trains.stderr(Stdio::piped()).spawn().unwrap();
    // It does not come to the end of its first run as long as nobody reads what it says: that does not fit into a pipe.
    let mut told = BufReader::new(trains.stderr.take().unwrap()).lines();
    assert!(told.any(|line| line.unwrap().contains(" epoch ")));
    let mut watches = folder.command("status sweep --watch=0.01");
    let mut watches = watches.stdout(Stdio::piped()).spawn().unwrap();
    let mut seen = BufReader::new(watches.stdout.take().unwrap()).lines();
    let first = seen.next().unwrap().unwrap();
    assert!(first.contains(" of 4 runs done, 1 running"), "{first}");
    told.for_each(drop);
    assert!(trains.wait().unwrap().success());
    let last = seen.last().unwrap().unwrap();
    assert!(watches.wait().unwrap().success());
    assert_eq!(
        last,
        "output/sweep.json: 4 of 4 runs done, 0 running, 0 failed, 0 to go"
    );
    assert_eq!(folder.names("output"), ["sweep.json"]);
}
