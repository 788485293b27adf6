//! `slurm`: the script that it writes, run as Slurm would, and an `sbatch` that fails in every way.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use crate::common::program::{Folder, Ran, runs_in, send, without_times};
use serde_json::{Value, json};

fn sweep(runs: usize, epochs: usize) -> Value {
    json!({
        "dataset": "synthetic_linear", "dataset_kwargs": {"p": 20, "n_samples": 100}, "model": "linear",
        "loss_func": "logistic", "score_func": "logistic_accuracy", "opt": [{"name": "adam", "lr": 0.01}],
        "batch_size": 5, "max_epoch": epochs, "n_runs": runs,
    })
}

/// A folder with a config, and with programs in place of Slurm's.
fn folder(config: &Value, sbatch: &str) -> Folder {
    let folder = Folder::new();
    folder.config("sweep", config);
    for (name, script) in [
        ("sbatch", sbatch),
        ("scontrol", "echo \"$@\" >> scontrol.log"),
    ] {
        let text = folder.write(&format!("{name}.sh"), format!("#!/bin/sh\n{script}\n"));
        fs::create_dir_all(folder.path("bin")).unwrap();
        // What somebody has open for writing cannot be run. What we open, a process that another test starts has open for a
        // moment longer.
        let mut install = Command::new("install");
        install.args(["-m", "755"]).arg(&text);
        let installed = install.arg(folder.path("bin").join(name)).status();
        assert!(installed.unwrap().success());
        fs::remove_file(text).unwrap();
    }
    folder
}

fn with_path(folder: &Folder, mut command: Command) -> Command {
    let path = std::env::var("PATH").unwrap();
    command.env("PATH", format!("{}:{path}", folder.path("bin").display()));
    command
}

fn slurm(folder: &Folder, arguments: &str) -> Ran {
    let command = folder.command(&format!("slurm sweep.json {arguments}"));
    with_path(folder, command).output().unwrap().into()
}

/// The script as a task of the job 7.
fn task(folder: &Folder, script: &str) -> Command {
    let mut command = Command::new("bash");
    command
        .arg(folder.path(script))
        .current_dir(folder.path(""));
    command.env("SLURM_ARRAY_JOB_ID", "7");
    command.env("SLURM_ARRAY_TASK_ID", "1");
    with_path(folder, command)
}

const SUBMITS: &str = "echo \"$@\" >> sbatch.log; echo '7;cluster'";

#[test]
fn a_sweep_is_submitted_trained_and_not_submitted_again() {
    let config = sweep(3, 5);
    let folder = folder(&config, SUBMITS);
    let ran = slurm(&folder, "--max-parallel 2").code(0);
    assert_eq!(ran.stdout, "7\n");
    assert!(
        ran.stderr.contains("3 runs left, 2 tasks in job 7"),
        "{}",
        ran.stderr
    );
    let script = "output/slurm/sweep.sh";
    assert!(folder.read("sbatch.log").contains("--parsable /"));
    let ran: Ran = task(&folder, script).output().unwrap().into();
    ran.code(0);
    let alone = Folder::new();
    alone.config("sweep", &config);
    alone.run("train -q sweep.json").code(0);
    let expected = without_times(&alone.read("output/sweep.json"));
    assert!(without_times(&folder.read("output/sweep.json")) == expected);
    let ran = slurm(&folder, "").code(0);
    assert!(
        ran.stderr.contains("nothing is left to train"),
        "{}",
        ran.stderr
    );
    assert_eq!(folder.read("sbatch.log").lines().count(), 1);
    // A longer sweep: what is missing of it.
    folder.config("sweep", &sweep(5, 5));
    let ran = slurm(&folder, "--missing").code(0);
    assert!(
        ran.stderr.contains("2 runs left, 1 task in"),
        "{}",
        ran.stderr
    );
    assert_eq!(runs_in(&folder.read("output/sweep.json")), 3);
    assert!(!folder.exists("scontrol.log"));
}

#[test]
fn a_task_whose_time_is_nearly_over_goes_on_later() {
    let folder = folder(&sweep(1, 1_000_000_000), SUBMITS);
    slurm(&folder, "-- -v --threads 1").code(0);
    let begun = || {
        let mut command = task(&folder, "output/slurm/sweep.sh");
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut told = String::new();
        while told.matches(" epoch ").count() < 4 {
            assert_ne!(stderr.read_line(&mut told).unwrap(), 0, "{told}");
        }
        (child, stderr, told)
    };
    let (mut child, mut stderr, mut told) = begun();
    send("USR1", child.id());
    stderr.read_to_string(&mut told).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(folder.read("scontrol.log"), "requeue 7_1\n");
    // It goes on, until somebody cancels the job: that is for good.
    let (mut child, mut stderr, mut told) = begun();
    assert!(told.contains("continues from epoch"), "{told}");
    send("TERM", child.id());
    stderr.read_to_string(&mut told).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143), "{told}");
    assert_eq!(folder.read("scontrol.log").lines().count(), 1);
}

#[test]
fn a_signal_of_a_queue_has_an_exit_code_of_its_own() {
    let folder = folder(&sweep(1, 1_000_000_000), "");
    let mut command = folder.command("train sweep.json -v --threads 1");
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("epoch 2: ")));
    send("USR1", child.id());
    lines.for_each(drop);
    assert_eq!(child.wait().unwrap().code(), Some(75));
    assert_eq!(folder.names("output/.sweep.checkpoints").len(), 1);
}

#[test]
fn the_script_says_what_was_asked_for() {
    let folder = folder(&sweep(3, 5), SUBMITS);
    let options = "--gpus-per-task 2 --max-parallel 40 --time 1:00:00 --partition fast --sbatch-option --account=a'b \
                   --sbatch-option exclusive --dry-run -- --only run_id=0,2 --seeds 0..9";
    let script = slurm(&folder, options).code(0).stdout;
    for line in [
        "#SBATCH --job-name=sweep\n",
        "#SBATCH --array=1-2\n",
        "#SBATCH --requeue\n",
        "#SBATCH --signal=B:USR1@120\n",
        "#SBATCH --gres=gpu:2\n",
        "#SBATCH --time=1:00:00\n",
        "#SBATCH --partition=fast\n",
        "#SBATCH --account='a'\\''b'\n",
        "#SBATCH --exclusive\n",
        " train sweep.json --device=cuda:0,cuda:1 --only run_id=0,2 --seeds 0..9 &\n",
    ] {
        assert!(script.contains(line), "no {line:?} in {script}");
    }
    assert_eq!(
        folder.names(""),
        ["bin", "sweep.json"],
        "nothing is written"
    );
    let script = slurm(&folder, "--dry-run").code(0).stdout;
    assert!(
        !script.contains("gres") && !script.contains("--device"),
        "{script}"
    );
    for wrong in [
        "--dry-run -- --nonsense",
        "--dry-run -- --only run_id=9",
        "--max-parallel 0",
    ] {
        slurm(&folder, wrong).code(2);
    }
}

#[test]
fn what_sbatch_does_wrong_is_told() {
    let check = |sbatch: &str, code: i32, parts: &[&str]| {
        let folder = folder(&sweep(3, 5), sbatch);
        let ran = slurm(&folder, "").code(code).says(parts);
        assert!(
            ran.stderr.contains("output/slurm/sweep.sh"),
            "{}",
            ran.stderr
        );
        assert_eq!(ran.stdout, "");
    };
    let rejects = "echo 'sbatch: error: invalid partition' >&2; exit 1";
    check(
        rejects,
        74,
        &[
            "sbatch rejected the job",
            "invalid partition",
            "no job runs it",
        ],
    );
    check(
        "echo Submitted batch job",
        74,
        &["answered \"Submitted batch job\"", "squeue"],
    );
    check("true", 74, &["answered \"\""]);
    let folder = folder(&sweep(3, 5), "");
    let mut command = folder.command("slurm sweep.json");
    let ran: Ran = command
        .env("PATH", folder.path("empty"))
        .output()
        .unwrap()
        .into();
    ran.code(2)
        .says(&["there is no sbatch on the PATH", "output/slurm/sweep.sh"]);
}
