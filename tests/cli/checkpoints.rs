//! Runs that go on from their checkpoints, and checkpoints that no run goes on from.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::cifar::write_cifar;
use crate::common::program::{Folder, Ran, send, without_times};
use serde_json::{Value, json};
use stepback_native::device;
use stepback_native::random::torch::Generator;

const FOLDER: &str = "output/.exp.checkpoints";

/// Two runs, which are trained side by side, of many small steps.
fn long() -> Value {
    json!({
        "dataset": "synthetic_linear", "dataset_kwargs": {"p": 20, "n_samples": 100}, "model": "linear",
        "loss_func": "logistic", "score_func": "logistic_accuracy",
        "opt": [{"name": "sgd-m", "lr": 0.01}, {"name": "momo", "lr": 1}], "batch_size": 5, "max_epoch": 2000, "n_runs": 1,
    })
}

/// An MLP with dropout, methods with memory of every kind, two a run, and logs.
fn perceptrons() -> Value {
    json!({
        "dataset": "synthetic_linear", "dataset_kwargs": {"p": 20, "n_samples": 200}, "model": "mlp",
        "model_kwargs": {"output_size": 1, "hidden_sizes": [30], "dropout": true}, "loss_func": "squared",
        "score_func": "squared",
        "opt": [
            {"name": "adam", "lr": 0.01, "lookahead_k": 5, "lr_schedule": "cosine", "stepwise_schedule": true},
            {"name": "momo-star", "lr": 1},
            {"name": "momo-adam-star", "lr": 0.01},
        ],
        "groups": [[{"match": "head", "name": "lion", "lr": 1e-3}]],
        "batch_size": 4, "max_epoch": 60, "n_runs": 1,
    })
}

/// A network with batch norm on images that are flipped and cropped.
fn network() -> Value {
    json!({
        "dataset": "cifar10", "model": "resnet20", "loss_func": "cross_entropy", "score_func": "cross_entropy_accuracy",
        "opt": [{"name": "adam", "lr": 0.01}], "batch_size": 4, "max_epoch": 2, "n_runs": 1,
    })
}

fn folder(config: &Value) -> Folder {
    let folder = Folder::new();
    folder.config("exp", config);
    write_cifar(&folder.path("data"), 15, 6);
    folder
}

fn undisturbed(config: &Value, arguments: &str) -> (String, Duration) {
    let folder = folder(config);
    let begin = Instant::now();
    folder
        .run(&format!("train -q exp.json --offline {arguments}"))
        .code(0);
    let took = begin.elapsed();
    assert_eq!(
        folder.names("output"),
        ["exp.json"],
        "short runs write none"
    );
    (without_times(&folder.read("output/exp.json")), took)
}

/// Begins to train, and ends it by a signal once its runs are under way.
fn interrupted(folder: &Folder, arguments: &str, signal: &str) -> Ran {
    let mut command = folder.command(&format!("train exp.json -v {arguments}"));
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut told = String::new();
    while !told.contains("epoch 2: ") {
        assert_ne!(stderr.read_line(&mut told).unwrap(), 0, "{told}");
    }
    send(signal, child.id());
    stderr.read_to_string(&mut told).unwrap();
    let mut ran = Ran::from(child.wait_with_output().unwrap());
    ran.stderr = told;
    ran
}

fn checkpoints(folder: &Folder) -> Vec<PathBuf> {
    let names = folder.names(FOLDER).into_iter();
    names.map(|name| folder.path(FOLDER).join(name)).collect()
}

/// Trains to the end, whatever there is to go on from.
fn finished(folder: &Folder, arguments: &str, expected: &str) -> String {
    let ran = folder.run(&format!("train exp.json {arguments}")).code(0);
    assert!(without_times(&folder.read("output/exp.json")) == expected);
    ran.stderr
}

#[test]
fn a_signal_saves_what_is_under_way() {
    let (expected, _) = undisturbed(&long(), "");
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let folder = folder(&long());
        interrupted(&folder, "", signal).code(code);
        assert!(!checkpoints(&folder).is_empty());
        let told = finished(&folder, "", &expected);
        assert!(
            told.contains("exp: name=sgd-m:lr=0.01:run_id=0: continues from epoch "),
            "{told}"
        );
        assert_eq!(folder.names("output"), ["exp.json"]);
        // The parts' times are added up.
        let runs: Value = serde_json::from_str(&folder.read("output/exp.json")).unwrap();
        let times = runs[0]["history"].as_array().unwrap().iter();
        assert!(
            times
                .map(|e| &e["train_epoch_time"])
                .all(|t| t.as_f64().unwrap() > 0.0)
        );
    }
}

#[test]
fn without_checkpoints_runs_start_again() {
    let folder = folder(&long());
    interrupted(&folder, "--checkpoint-every never", "TERM").code(143);
    assert!(!folder.exists("output"));
    for text in ["-1", "often", "NaN", "inf", ""] {
        let ran = folder
            .command("train exp.json")
            .arg(format!("--checkpoint-every={text}"))
            .output();
        Ran::from(ran.unwrap())
            .code(2)
            .says(&["--checkpoint-every", "seconds", "never"]);
    }
}

/// Kills at moments that a seed decides, until all runs are there, and all again until one has gone on from a checkpoint:
/// on a busy machine a kill may come too late.
fn killed_until_done(config: &Value, arguments: &str, seed: u64) {
    let (expected, took) = undisturbed(config, arguments);
    let mut generator = Generator::new(seed);
    let resumed = (0..20).find(|_| {
        let mut moment = || Duration::from_micros(generator.randint(took.as_micros() as u64));
        let (runs, resumed) = killed(config, arguments, &mut moment);
        assert!(runs == expected);
        resumed
    });
    assert!(resumed.is_some(), "no run has gone on from a checkpoint");
}

/// Trains to the end with kills in between. Gives the output, and whether a run went on from a checkpoint.
fn killed(config: &Value, arguments: &str, moment: &mut dyn FnMut() -> Duration) -> (String, bool) {
    let folder = folder(config);
    let train = format!("train exp.json --offline --checkpoint-every 0.002 {arguments}");
    let mut resumed = false;
    for kills in 0.. {
        let mut child = folder
            .command(&train)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let wait = moment();
        if kills == 0 {
            // There is something to go on from.
            while !folder.exists(FOLDER) && child.try_wait().unwrap().is_none() {
                thread::sleep(Duration::from_micros(200));
            }
            thread::sleep(wait / 4);
        } else {
            thread::sleep(wait);
        }
        // At last it has the time that it needs.
        if kills < 20 {
            child.kill().unwrap();
        }
        let output = child.wait_with_output().unwrap();
        let killed = output.status.signal() == Some(9);
        let ran = Ran::from(output);
        assert!(!ran.stderr.contains("damaged"), "{}", ran.stderr);
        resumed |= ran.stderr.contains("continues from epoch");
        if !killed {
            ran.code(0);
            break;
        }
    }
    assert_eq!(folder.names("output"), ["exp.json"]);
    (without_times(&folder.read("output/exp.json")), resumed)
}

#[test]
fn no_kill_changes_a_bit_of_perceptrons() {
    killed_until_done(&perceptrons(), "--log-every-k-steps 3", 2);
}

#[test]
fn no_kill_changes_a_bit_of_a_network() {
    killed_until_done(&network(), "", 3);
}

#[test]
fn no_kill_changes_a_bit_on_the_emulator() {
    if device::emulator_usable().is_err() {
        return;
    }
    let mut config = perceptrons();
    config["max_epoch"] = json!(2);
    killed_until_done(&config, "--device emulator", 4);
}

#[test]
fn what_is_another_run_starts_anew_and_tells_why() {
    let told = |arguments: &str, change: &dyn Fn(&mut Value), reasons: &[&str]| {
        let folder = folder(&long());
        interrupted(&folder, "", "TERM").code(143);
        let before = checkpoints(&folder);
        let mut config = long();
        change(&mut config);
        folder.config("exp", &config);
        let (expected, _) = undisturbed(&config, arguments);
        let told = finished(&folder, arguments, &expected);
        assert!(!told.contains("continues from epoch"), "{told}");
        for reason in reasons {
            assert!(told.contains(reason), "no {reason:?} in {told}");
        }
        // Who goes back to the other run finds its checkpoint.
        assert_eq!(checkpoints(&folder), before);
        folder.config("exp", &long());
        let again = folder.run("train exp.json --output-dir output").code(0);
        assert!(
            again.stderr.contains("continues from epoch"),
            "{}",
            again.stderr
        );
        assert_eq!(folder.names("output"), ["exp.json"]);
    };
    let nothing = |_: &mut Value| {};
    let rates = |config: &mut Value| {
        config["opt"] = json!([{"name": "sgd-m", "lr": 0.02}, {"name": "momo", "lr": 2}]);
    };
    told(
        "",
        &rates,
        &[
            "no run continues from the checkpoint ",
            "output/.exp.checkpoints/",
            "opt.lr=",
            " instead of ",
        ],
    );
    told("--epochs 3", &nothing, &["max_epoch=2000 instead of 3"]);
}

/// Of a build, a log of steps, and a device that are others.
#[test]
fn bits_that_would_be_others_are_not_gone_on_from() {
    let (expected, _) = undisturbed(&long(), "");
    let folder = folder(&long());
    interrupted(&folder, "", "TERM").code(143);
    for path in checkpoints(&folder) {
        let mut bytes = fs::read(&path).unwrap();
        let version = env!("CARGO_PKG_VERSION");
        let at = bytes
            .windows(version.len())
            .position(|part| part == version.as_bytes());
        bytes[at.unwrap()] = b'9';
        // As another build would call it, and under the name that this one expects.
        fs::write(path.with_file_name("other.safetensors"), &bytes).unwrap();
        fs::write(&path, &bytes).unwrap();
    }
    let other = format!("\"9{}\"", &env!("CARGO_PKG_VERSION")[1..]);
    let told = finished(&folder, "", &expected);
    assert!(!told.contains("continues from epoch"), "{told}");
    assert!(
        told.contains(&format!("version={other} instead of")),
        "{told}"
    );
    assert!(told.contains("other.safetensors"), "{told}");
    // The runs are stored: they need none.
    folder.run("train exp.json").code(0);
    assert_eq!(folder.names("output"), ["exp.json"]);

    for (arguments, reason) in [
        (
            "--log-every-k-steps 7",
            "log-every-k-steps=none instead of 7",
        ),
        (
            "--device emulator --epochs 1",
            "device=cpu instead of emulator",
        ),
    ] {
        if device::emulator_usable().is_err() && arguments.contains("emulator") {
            continue;
        }
        let folder = self::folder(&long());
        interrupted(&folder, "", "TERM").code(143);
        let ran = folder.run(&format!("train exp.json {arguments}")).code(0);
        assert!(ran.stderr.contains(reason), "{}", ran.stderr);
        assert!(!ran.stderr.contains("continues from epoch"));
    }
}

#[test]
fn a_damaged_checkpoint_is_told_and_its_run_starts_anew() {
    let (expected, _) = undisturbed(&long(), "");
    let folder = folder(&long());
    interrupted(&folder, "", "TERM").code(143);
    let [path] = &checkpoints(&folder)[..1] else {
        panic!("a checkpoint");
    };
    let whole = fs::read(path).unwrap();
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let position = whole.windows(5).position(|part| part == b"drawn").unwrap();
    let mut moved = whole.clone();
    moved[position + 8] ^= 1;
    let damaged: [&[u8]; 6] = [
        b"",
        b"nonsense",
        &whole[..60],
        &whole[..whole.len() - 1],
        &flipped,
        &moved,
    ];
    for bytes in damaged {
        fs::create_dir_all(folder.path(FOLDER)).unwrap();
        fs::write(path, bytes).unwrap();
        let told = finished(&folder, "--checkpoint-every 1000", &expected);
        for part in ["warning: ", "is damaged: ", "; the run starts again"] {
            assert!(told.contains(part), "no {part:?} in {told}");
        }
        fs::remove_file(folder.path("output/exp.json")).unwrap();
    }
}

#[test]
fn a_checkpoint_that_another_process_removes_meanwhile_is_not_damaged() {
    let folder = folder(&perceptrons());
    fs::create_dir_all(folder.path(FOLDER)).unwrap();
    // It is listed, and is not there.
    std::os::unix::fs::symlink("gone", folder.path(FOLDER).join("link.safetensors")).unwrap();
    let ran = folder.run("train exp.json --epochs 1").code(0);
    assert!(!ran.stderr.contains("link.safetensors"), "{}", ran.stderr);
}

#[test]
fn a_folder_that_cannot_be_written_is_told_before_anything_is_trained() {
    let folder = folder(&long());
    folder.write(FOLDER, "a file");
    let ran = folder.run("train exp.json");
    ran.code(73).says(&[
        "cannot write checkpoints in",
        ".exp.checkpoints",
        "--checkpoint-every never",
    ]);
    folder
        .run("train -q exp.json --checkpoint-every never --epochs 1")
        .code(0);
}

/// A disk that is full for checkpoints alone.
#[test]
fn a_checkpoint_that_cannot_be_written_ends_nothing() {
    let mut config = network();
    config["max_epoch"] = json!(1);
    let (expected, _) = undisturbed(&config, "");
    let folder = folder(&config);
    let train = "train exp.json --offline --checkpoint-every 0";
    let ran = folder.limited("ulimit -f 1000", train).code(0);
    let told = ran
        .stderr
        .matches("warning: cannot write a checkpoint: ")
        .count();
    assert!(told > 0, "{}", ran.stderr);
    assert!(without_times(&folder.read("output/exp.json")) == expected);
    assert_eq!(folder.names("output"), ["exp.json"]);
}

#[test]
fn overwriting_starts_anew() {
    let (expected, _) = undisturbed(&long(), "");
    let folder = folder(&long());
    interrupted(&folder, "", "TERM").code(143);
    let told = finished(&folder, "--overwrite", &expected);
    assert!(!told.contains("continues from epoch"), "{told}");
}
