//! `train` ended from outside: signals, kills, and others who write its output.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStderr, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::cifar::write_cifar;
use crate::common::program::{Folder, Ran, runs_in, send, without_times};
use serde_json::{Value, json};
use stepback_native::random::torch::Generator;
use stepback_native::results::output::read;

/// `runs` runs of this many epochs, each epoch being 20 steps.
fn sweep(runs: usize, epochs: usize) -> Value {
    json!({
        "dataset": "synthetic_linear",
        "dataset_kwargs": {"p": 20, "n_samples": 100},
        "model": "linear",
        "loss_func": "logistic",
        "score_func": "logistic_accuracy",
        "opt": [{"name": "sgd-m", "lr": 0.01}, {"name": "momo", "lr": 1}],
        "batch_size": 5,
        "max_epoch": epochs,
        "n_runs": runs / 2,
    })
}

fn undisturbed(config: &Value) -> String {
    let folder = Folder::new();
    folder.config("sweep", config);
    folder.run("train -q sweep.json").code(0);
    without_times(&folder.read("output/sweep.json"))
}

/// A process that trains, and what it says.
struct Process {
    child: Child,
    stderr: BufReader<ChildStderr>,
}

impl Process {
    /// Starts a sweep on one thread and waits until its first run is finished. Of a second one of a thousand epochs it says more
    /// than fits into a pipe: it comes no further until somebody reads that.
    fn started(folder: &Folder) -> Process {
        let mut command = folder.command("train sweep.json -v --threads 1");
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut told = String::new();
        while told.matches(" epoch 0: ").count() < 2 {
            assert_ne!(stderr.read_line(&mut told).unwrap(), 0, "{told}");
        }
        Process { child, stderr }
    }

    fn ends(mut self) -> Ran {
        let mut stderr = String::new();
        self.stderr.read_to_string(&mut stderr).unwrap();
        Ran {
            code: self.child.wait().unwrap().code(),
            stdout: String::new(),
            stderr,
        }
    }
}

#[test]
fn signals_finish_the_file_and_a_restart_goes_on() {
    let config = sweep(8, 1000);
    let expected = undisturbed(&config);
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let folder = Folder::new();
        folder.config("sweep", &config);
        let process = Process::started(&folder);
        send(signal, process.child.id());
        let ran = process.ends().code(code);
        let told = ran.stderr;
        assert!(told.contains("interrupted after"), "{told}");
        let runs = runs_in(&folder.read("output/sweep.json"));
        assert!((1..8).contains(&runs), "{runs} runs");

        let rest = folder.run("train sweep.json --json").code(0);
        assert_eq!(rest.stdout.lines().count(), 8 - runs);
        assert!(without_times(&folder.read("output/sweep.json")) == expected);
    }
}

#[test]
fn nobody_writes_over_an_output_that_is_being_trained() {
    let folder = Folder::new();
    folder.config("sweep", &sweep(100, 5000));
    let mut process = Process::started(&folder);
    let overwritten = folder.run("train sweep.json --overwrite");
    let text = folder.read("output/sweep.json");
    folder.write("all.json", &text);
    let merge = "output merge all.json --overwrite --out output/sweep.json";
    let merged = folder.run(merge);
    let elsewhere = folder.run("train sweep.json --epochs 1 --output-dir other");
    let holder = format!("pid {}", process.child.id());
    process.child.kill().unwrap();
    process.ends();
    for refused in [overwritten, merged] {
        refused.code(11).says(&["output/sweep.json", &holder]);
    }
    elsewhere.code(0);
    folder
        .run("train sweep.json --overwrite --epochs 1")
        .code(0);
}

#[test]
fn a_run_of_any_length_trains_until_it_is_stopped() {
    let folder = Folder::new();
    folder.config("sweep", &sweep(2, 1_000_000_000));
    let mut command = folder.command("train sweep.json -v --threads 1");
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("epoch 2: ")));
    send("TERM", child.id());
    let told: Vec<String> = lines.map(|line| line.unwrap()).collect();
    assert_eq!(child.wait().unwrap().code(), Some(143));
    let last = told.last().unwrap();
    assert!(last.contains("interrupted before the first of 2"), "{last}");
    assert_eq!(folder.names("output"), [".sweep.checkpoints"]);
}

#[test]
fn an_output_that_somebody_removes_is_noticed() {
    let folder = Folder::new();
    folder.config("sweep", &sweep(20, 1000));
    let process = Process::started(&folder);
    fs::remove_file(folder.path("output/sweep.json")).unwrap();
    let ran = process.ends().code(74);
    let told = "output/sweep.json was removed or changed";
    assert!(ran.stderr.contains(told), "{}", ran.stderr);
    let runs = runs_in(&folder.read("output/sweep.json.bak"));
    assert!((2..20).contains(&runs), "{runs}");
    assert_eq!(folder.names("output"), ["sweep.json.bak"]);
}

#[test]
fn no_kill_loses_a_finished_run() {
    let config = sweep(24, 20);
    let begin = Instant::now();
    let expected = undisturbed(&config);
    // Where the machine is so busy that it takes longer, a hundred kills would take minutes.
    let whole_sweep = begin.elapsed().as_micros().min(300_000) as u64;
    let mut generator = Generator::new(1);
    let mut kills = 0;
    while kills < 100 {
        let folder = Folder::new();
        folder.config("sweep", &config);
        let mut stored = 0;
        for attempt in 0.. {
            let mut command = folder.command("train -q sweep.json --json");
            let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
            thread::sleep(Duration::from_micros(generator.randint(whole_sweep)));
            // At last it has the time that it needs: the machine may be busier than it was.
            if attempt < 20 {
                child.kill().unwrap();
            }
            let output = child.wait_with_output().unwrap();
            let killed = output.status.signal() == Some(9);
            let ran = Ran::from(output);
            let now = match folder.exists("output/sweep.json") {
                true => read(&folder.path("output/sweep.json")).unwrap().len(),
                false => 0,
            };
            let told = ran.stdout.matches('\n').count();
            assert!(now >= stored + told, "{now} runs after {stored} and {told}");
            stored = now;
            if killed {
                kills += 1;
            } else {
                ran.code(0);
                break;
            }
        }
        assert!(without_times(&folder.read("output/sweep.json")) == expected);
        let left: Vec<_> = (std::fs::read_dir(folder.path("output")).unwrap())
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["sweep.json"], "the output alone");
    }
}

#[test]
fn a_signal_during_a_download_leaves_nothing() {
    // Takes connections and says nothing.
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    mute.set_nonblocking(true).unwrap();
    let proxy = format!("http://{}", mute.local_addr().unwrap());
    let folder = Folder::new();
    let mut config = sweep(2, 1);
    config["dataset"] = json!("mnist");
    config["dataset_kwargs"] = json!({});
    folder.config("sweep", &config);
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let mut command = folder.command("train sweep.json --save-weights");
        for variable in ["NO_PROXY", "no_proxy"] {
            command.env_remove(variable);
        }
        for variable in ["HTTPS_PROXY", "https_proxy"] {
            command.env(variable, &proxy);
        }
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let _connection = loop {
            match mute.accept() {
                Ok(connection) => break connection,
                Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
            }
            assert!(child.try_wait().unwrap().is_none(), "it asks for data");
            thread::sleep(Duration::from_millis(10));
        };
        send(signal, child.id());
        let ran = Ran::from(child.wait_with_output().unwrap()).code(code);
        assert!(ran.stderr.contains("interrupted before the first run"));
        assert_eq!(folder.names(""), ["sweep.json"]);
    }
}

#[test]
fn a_signal_at_any_moment_leaves_no_half_of_anything() {
    let folder = Folder::new();
    write_cifar(&folder.path("data"), 2000, 100);
    let mut config = sweep(2, 1000);
    for (key, value) in [
        ("dataset", json!("cifar10")),
        ("dataset_kwargs", json!({})),
        ("model", json!("resnet20")),
        ("loss_func", json!("cross_entropy")),
        ("score_func", json!("cross_entropy_accuracy")),
    ] {
        config[key] = value;
    }
    folder.config("sweep", &config);
    for wait in [0, 2, 4, 8, 16, 32, 64, 128] {
        let mut command = folder.command(
            "train -q sweep.json --offline --threads 1 --save-weights --checkpoint-every never",
        );
        let child = command.stderr(Stdio::piped()).spawn().unwrap();
        thread::sleep(Duration::from_millis(wait));
        send("TERM", child.id());
        let ran = Ran::from(child.wait_with_output().unwrap());
        // Before it listens, a signal ends it by itself: nothing is there yet.
        assert!(matches!(ran.code, None | Some(143)), "{}", ran.stderr);
        assert_eq!(ran.stderr, "");
        assert!(!folder.exists("output"), "after {wait} ms");
        let Ok(shards) = fs::read_dir(folder.path("data/shards")) else {
            continue;
        };
        let names = shards.map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        match names.len() {
            1 => assert_eq!(names, [".lock"]),
            _ => assert_eq!(names, [".lock", "cifar10-train.shard", "cifar10-val.shard"]),
        }
        fs::remove_dir_all(folder.path("data/shards")).unwrap();
    }
}
