//! Several processes that train one sweep: kills, stops, and owners of runs that are on other machines, or no more.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::common::program::{Folder, Ran, runs_in, send, without_times};
use serde_json::{Value, json};
use stepback_native::random::torch::Generator;

const WRITERS: &str = "output/.sweep.writers";
const RUNS: &str = "output/.sweep.runs";

/// `runs` runs of this many epochs, each epoch being 20 steps.
fn sweep(runs: usize, epochs: usize) -> Value {
    json!({
        "dataset": "synthetic_linear", "dataset_kwargs": {"p": 20, "n_samples": 100}, "model": "linear",
        "loss_func": "logistic", "score_func": "logistic_accuracy",
        "opt": [{"name": "sgd-m", "lr": 0.01}, {"name": "momo", "lr": 1}], "batch_size": 5, "max_epoch": epochs,
        "n_runs": runs / 2,
    })
}

fn undisturbed(config: &Value) -> String {
    let folder = Folder::new();
    folder.config("sweep", config);
    folder.run("train -q sweep.json").code(0);
    without_times(&folder.read("output/sweep.json"))
}

fn folder(config: &Value) -> Folder {
    let folder = Folder::new();
    folder.config("sweep", config);
    folder
}

/// A process that trains, with what it says.
struct Process {
    child: Child,
    /// Read all the time: a process that nobody reads from stops.
    stdout: JoinHandle<Vec<u8>>,
    stderr: BufReader<ChildStderr>,
    told: String,
}

impl Process {
    fn new(mut command: Command) -> Process {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let mut stdout = child.stdout.take().unwrap();
        let stdout = thread::spawn(move || {
            let mut all = Vec::new();
            stdout.read_to_end(&mut all).unwrap();
            all
        });
        Process {
            child,
            stdout,
            stderr,
            told: String::new(),
        }
    }

    /// Waits until it has told of this many epochs, or has ended.
    fn trains(&mut self, epochs: usize) {
        let mut told = 0;
        while told < epochs {
            let begin = self.told.len();
            if self.stderr.read_line(&mut self.told).unwrap() == 0 {
                return;
            }
            told += usize::from(self.told[begin..].contains(" epoch "));
        }
    }

    fn ends(mut self) -> Ran {
        self.stderr.read_to_string(&mut self.told).unwrap();
        Ran {
            code: self.child.wait().unwrap().code(),
            stdout: String::from_utf8(self.stdout.join().unwrap()).unwrap(),
            stderr: self.told,
        }
    }

    fn killed(mut self) -> Ran {
        self.child.kill().unwrap();
        self.ends()
    }
}

fn begun(folder: &Folder, arguments: &str) -> Process {
    Process::new(folder.command(&format!(
        "train sweep.json -v --json --threads 1 {arguments}"
    )))
}

/// The runs that processes have told that they finished, without times.
fn finished(stdout: &str) -> Vec<String> {
    // A kill may cut the last one.
    let whole = stdout
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'));
    let config = |line: &str| serde_json::from_str::<Value>(line).unwrap()["config"].to_string();
    whole.map(config).collect()
}

/// Kills at numbers of epochs, up to `most`, that a seed decides: how many kills came before all runs were there.
fn share(
    runs: usize,
    epochs: usize,
    most: usize,
    writers: usize,
    kills: usize,
    seed: u64,
) -> usize {
    let config = sweep(runs, epochs);
    let expected = undisturbed(&config);
    let folder = folder(&config);
    let mut told = Vec::new();
    let mut came = 0;
    thread::scope(|scope| {
        let one = |writer: usize| {
            let folder = &folder;
            move || {
                let mut draws = Generator::new(seed * 1000 + writer as u64);
                let (mut told, mut came) = (Vec::new(), 0);
                loop {
                    let mut process = begun(folder, "--checkpoint-every 0.01");
                    let patience = 1 + draws.randint(most as u64) as usize;
                    if came < kills / writers {
                        process.trains(patience);
                        let _ = process.child.kill();
                    }
                    let ran = process.ends();
                    assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
                    assert!(!ran.stderr.contains("damaged"), "{}", ran.stderr);
                    told.extend(finished(&ran.stdout));
                    match ran.code {
                        None => came += 1,
                        Some(_) => {
                            ran.code(0);
                            return (told, came);
                        }
                    }
                }
            }
        };
        let all: Vec<_> = (0..writers)
            .map(|writer| scope.spawn(one(writer)))
            .collect();
        for writer in all {
            let (its, kills) = writer.join().unwrap();
            told.extend(its);
            came += kills;
        }
    });
    // What the last one of all was killed at.
    let ran = folder.run("train sweep.json -q --json").code(0);
    told.extend(finished(&ran.stdout));
    let all = told.len();
    told.sort();
    told.dedup();
    assert_eq!(told.len(), all, "no run is trained twice");
    let output = folder.read("output/sweep.json");
    assert_eq!(runs_in(&output), runs, "no run is lost");
    assert!(without_times(&output) == expected);
    assert_eq!(folder.names("output"), ["sweep.json"]);
    came
}

#[test]
fn processes_share_a_sweep_whoever_is_killed() {
    let kills = share(12, 210, 420, 4, 12, 1);
    assert!(kills > 0);
}

#[test]
fn processes_share_runs_that_are_claimed_many_at_a_time_whoever_is_killed() {
    let kills = share(600, 2, 200, 4, 12, 1);
    assert!(kills > 0);
}

/// `STEPBACK_KILLS=1000 cargo test --test cli -- --ignored --nocapture many_kills`
#[test]
#[ignore = "takes minutes"]
fn many_kills() {
    let wanted = std::env::var("STEPBACK_KILLS").map_or(1000, |n| n.parse().unwrap());
    let (mut kills, mut seed) = (0, 2);
    while kills < wanted {
        kills += share(80, 30, 60, 4, 40, seed);
        kills += share(2000, 2, 400, 4, 40, seed);
        seed += 1;
        eprintln!("{kills} kills, {} sweeps of 80 runs and of 2,000", seed - 2);
    }
}

#[test]
fn a_second_process_joins_and_the_output_is_that_of_one() {
    let config = sweep(8, 300);
    let folder = folder(&config);
    // Who is not read from does not come far.
    let mut first = begun(&folder, "");
    first.trains(2);
    let mut second = begun(&folder, "");
    second.trains(1);
    let [first, second] = [first, second].map(|process| process.ends().code(0));
    let [mine, theirs] = [&first, &second].map(|ran| finished(&ran.stdout));
    assert_eq!(mine.len() + theirs.len(), 8);
    assert!(!theirs.is_empty(), "{}", second.stderr);
    assert!(without_times(&folder.read("output/sweep.json")) == undisturbed(&config));
    assert_eq!(folder.names("output"), ["sweep.json"]);
}

#[test]
fn nobody_takes_a_run_from_an_owner_who_lives() {
    let config = sweep(2, 1000);
    let folder = folder(&config);
    let mut owner = begun(&folder, "");
    owner.trains(2);
    // He says nothing any more, but he is there.
    send("STOP", owner.child.id());
    let other = begun(&folder, "--takeover-after 0").ends().code(0);
    assert_eq!(finished(&other.stdout).len(), 1);
    assert!(
        other.stderr.contains("1 under way in other processes"),
        "{}",
        other.stderr
    );
    // Nor does anybody overwrite what he writes.
    let overwrites = folder.run("train sweep.json --overwrite").code(11);
    overwrites.says(&[&format!("pid {}", owner.child.id()), "without --overwrite"]);
    send("CONT", owner.child.id());
    let owner = owner.ends().code(0);
    assert_eq!(finished(&owner.stdout).len(), 1);
    assert!(without_times(&folder.read("output/sweep.json")) == undisturbed(&config));
}

/// A run whose owner was killed after two epochs, and the file that tells of him.
fn orphan(config: &Value) -> (Folder, PathBuf) {
    let folder = folder(config);
    let mut owner = begun(&folder, "--checkpoint-every 0");
    owner.trains(2);
    owner.killed();
    let left = folder
        .names(RUNS)
        .into_iter()
        .filter(|name| name.ends_with(".claim"));
    assert_eq!(left.count(), 1);
    let file = folder.path(WRITERS).join(&folder.names(WRITERS)[0]);
    (folder, file)
}

#[test]
fn a_claim_of_a_process_that_is_gone_is_taken_over_at_its_checkpoint() {
    let config = sweep(2, 1000);
    let (folder, _) = orphan(&config);
    let ran = begun(&folder, "").ends().code(0);
    assert!(
        ran.stderr.contains("continues from epoch"),
        "{}",
        ran.stderr
    );
    assert!(without_times(&folder.read("output/sweep.json")) == undisturbed(&config));
    assert_eq!(folder.names("output"), ["sweep.json"]);
}

#[test]
fn a_process_of_another_machine_is_judged_by_its_signs_of_life() {
    let config = sweep(2, 1000);
    let (folder, file) = orphan(&config);
    let mut about: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    about["machine"] = "elsewhere".into();
    about["host"] = "elsewhere".into();
    // Its clock is an hour behind, or a thousand years ahead.
    about["beat"] = "3026-11-27 00:00:00.000000".into();
    let mut beats = 0;
    let mut beat = || {
        beats += 1;
        about["beats"] = beats.into();
        fs::write(&file, about.to_string()).unwrap();
    };
    beat();
    // Alive: whoever comes does the other run, and leaves this one to it.
    let mut other = Process::new(folder.command("train sweep.json --json --threads 1"));
    while other.child.try_wait().unwrap().is_none() {
        beat();
        thread::sleep(Duration::from_millis(10));
    }
    let ran = other.ends().code(0);
    assert_eq!(finished(&ran.stdout).len(), 1, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("1 under way in other processes"),
        "{}",
        ran.stderr
    );
    // Silent.
    let ran = begun(&folder, "--takeover-after 0.5").ends().code(0);
    assert!(
        ran.stderr.contains("continues from epoch"),
        "{}",
        ran.stderr
    );
    assert!(without_times(&folder.read("output/sweep.json")) == undisturbed(&config));
}

#[test]
fn a_folder_that_is_moved_or_removed_loses_no_run() {
    let config = sweep(2, 2000);
    let expected = undisturbed(&config);
    for moves in [true, false] {
        let folder = folder(&config);
        let mut process = begun(&folder, "");
        // In its second run, and it does not come to the end of that, where it would write, until somebody reads what it says.
        process.trains(2100);
        match moves {
            true => fs::rename(folder.path("output"), folder.path("moved")).unwrap(),
            // It may be adding to it.
            false => while fs::remove_dir_all(folder.path("output")).is_err() {},
        }
        process.ends().code(0);
        assert!(without_times(&folder.read("output/sweep.json")) == expected);
        assert_eq!(folder.names("output"), ["sweep.json"]);
    }
}

#[test]
fn a_config_that_was_changed_between_tasks_is_told() {
    let folder = folder(&sweep(2, 1_000_000));
    let mut first = begun(&folder, "");
    first.trains(2);
    let mut other = sweep(2, 10);
    other["loss_func"] = json!("squared");
    folder.config("sweep", &other);
    folder.run("train sweep.json").code(2).says(&[
        "output/sweep.json",
        &format!("pid {}", first.child.id()),
        "loss_func=squared instead of logistic",
    ]);
    first.killed();
    folder.run("train sweep.json").code(0);
}

#[test]
fn as_many_runs_go_side_by_side_as_are_asked_for() {
    for jobs in [1, 3] {
        let folder = folder(&sweep(6, 1_000_000_000));
        let train = format!("train sweep.json -v --threads 2 --jobs {jobs}");
        let mut process = Process::new(folder.command(&train));
        let mut labels = BTreeSet::new();
        while labels.len() < jobs {
            process.trains(1);
            let last = process.told.lines().last().unwrap();
            labels.insert(last.split(' ').next().unwrap().to_owned());
        }
        send("TERM", process.child.id());
        process.ends().code(143);
        assert_eq!(folder.names("output/.sweep.checkpoints").len(), jobs);
    }
    let folder = folder(&sweep(2, 1));
    folder.run("train sweep.json --jobs 0").code(2);
}

/// Locks of the system's are not needed.
#[test]
fn a_file_system_without_locks_is_as_good() {
    let config = sweep(8, 100);
    let folder = folder(&config);
    let source = "#include <errno.h>\nint flock(int fd, int how) { errno = ENOLCK; return -1; }\n\
                  int lockf(int fd, int how, long n) { errno = ENOLCK; return -1; }\n";
    let source = folder.write("locks.c", source);
    let library = folder.path("locks.so");
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .status();
    if !compiled.is_ok_and(|status| status.success()) {
        eprintln!("skipped: there is no cc that makes a library");
        return;
    }
    let process = || {
        let mut command = folder.command("train sweep.json -v --json --threads 1 --save-weights");
        command.env("LD_PRELOAD", &library);
        Process::new(command)
    };
    let all = [process(), process(), process()];
    let told = all.map(|process| finished(&process.ends().code(0).stdout));
    assert_eq!(told.concat().len(), 8);
    assert!(without_times(&folder.read("output/sweep.json")) == undisturbed(&config));
    assert_eq!(folder.names("output"), ["sweep.json", "weights"]);
    assert_eq!(folder.names("output/weights/sweep").len(), 8);
}
