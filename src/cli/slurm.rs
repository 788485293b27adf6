//! `slurm`: a sweep as an array job. Its tasks are processes that share one output, as any others (`results/writers.rs`):
//! each takes runs that nobody has, until none is left or its time is over.

use std::env;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser;

use super::print::{self, count};
use super::train::Train;
use crate::error::{Error, Kind, Result};
use crate::results::file::{self, Existing};

/// Tasks at most, unless somebody asks for more.
const PARALLEL: usize = 16;
/// A task should have as much to do, in seconds, where finished runs tell how long one takes.
const SHORTEST: f64 = 600.0;
/// Seconds before its time is over in which a task is told to stop: Slurm may be a minute late.
const WARNING: u32 = 120;

/// Train a config's runs as an array job of Slurm
#[derive(clap::Args)]
pub struct Slurm {
    /// Experiment config (see configs/README.md)
    #[arg(value_name = "CONFIG")]
    config: PathBuf,
    /// GPUs of each task, which trains on them; 0: on its CPUs
    #[arg(long, value_name = "N", default_value_t = 0)]
    gpus_per_task: usize,
    /// Tasks at most [default: 16, or fewer where finished runs tell that these would have less than 10 minutes to do]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    max_parallel: Option<u16>,
    /// Time limit of a task, as Slurm spells it; before it is over, the task saves where it is and goes into the queue again
    #[arg(long, value_name = "TIME")]
    time: Option<String>,
    #[arg(long, value_name = "NAME")]
    partition: Option<String>,
    /// Another option of sbatch, such as account=abc or cpus-per-task=8
    #[arg(long, value_name = "OPTION[=VALUE]", allow_hyphen_values = true)]
    sbatch_option: Vec<String>,
    /// Only as many tasks as there are runs that no process has; by the files, whatever Slurm says
    #[arg(long)]
    missing: bool,
    /// Print the script; write and submit nothing
    #[arg(long)]
    dry_run: bool,
    /// Options of train, after --
    #[arg(last = true, value_name = "OPTION OF TRAIN")]
    train: Vec<String>,
}

#[derive(Parser)]
#[command(no_binary_name = true, name = "train")]
struct Task {
    #[command(flatten)]
    train: Train,
}

impl Slurm {
    pub fn run(&self) -> Result<u8> {
        let arguments = self.arguments()?;
        let task: Task = super::parse(&arguments).map_err(|e| {
            let text = e.render().to_string();
            let text = text.trim_start_matches("error: ").trim_end();
            Error::usage(format!("options of train, after --: {text}"))
        })?;
        let (id, left) = task.train.left(self.missing)?;
        if left.runs == 0 {
            print::note(format_args!(
                "{id}: nothing is left to train, and nothing was submitted"
            ));
            return Ok(0);
        }
        let tasks = self.tasks(left.runs, left.seconds_each);
        // Links and all: what the nodes see.
        let folder = env::current_dir().map_err(|e| Error::io("find", Path::new("."), &e))?;
        let place = folder.join(task.train.output_dir()).join("slurm");
        let script = self.script(&id, tasks, &folder, &place, &arguments)?;
        if self.dry_run {
            print::print(&script)?;
            return Ok(0);
        }
        let path = place.join(format!("{id}.sh"));
        fs::create_dir_all(&place).map_err(|e| Error::cannot_write(&place, &e))?;
        file::write(&path, script.as_bytes(), Existing::Replace)?;
        let job = submit(&path)?;
        print::note(format_args!(
            "{id}: {} left, {} in job {job}; logs in {}; stepback-native status {id} shows how far they are",
            count(left.runs, "run"),
            count(tasks, "task"),
            place.display()
        ));
        print::println(job)?;
        Ok(0)
    }

    /// Of `train`, without its name.
    fn arguments(&self) -> Result<Vec<String>> {
        let config = self.config.to_str().ok_or_else(|| {
            Error::usage(format!("{}: the path is not UTF-8", self.config.display()))
        })?;
        let mut all = vec![config.to_owned()];
        let chosen = |option: &String| option == "--device" || option.starts_with("--device=");
        if self.gpus_per_task > 0 && !self.train.iter().any(chosen) {
            let names = (0..self.gpus_per_task).map(|gpu| format!("cuda:{gpu}"));
            all.push(format!("--device={}", names.collect::<Vec<_>>().join(",")));
        }
        all.extend(self.train.iter().cloned());
        Ok(all)
    }

    fn tasks(&self, runs: usize, seconds_each: Option<f64>) -> usize {
        let worth_it = |seconds: f64| (runs as f64 * seconds / SHORTEST).ceil() as usize;
        let most = match self.max_parallel {
            Some(most) => most.into(),
            None => PARALLEL.min(seconds_each.map_or(PARALLEL, worth_it)),
        };
        runs.min(most).max(1)
    }

    fn script(
        &self,
        id: &str,
        tasks: usize,
        folder: &Path,
        place: &Path,
        arguments: &[String],
    ) -> Result<String> {
        let program =
            env::current_exe().map_err(|e| Error::io("find", Path::new("/proc/self/exe"), &e))?;
        let text = |path: &Path| match path.to_str() {
            Some(text) => Ok(text.to_owned()),
            None => Err(Error::usage(format!(
                "{}: the path is not UTF-8",
                path.display()
            ))),
        };
        // In a name % stands for something to Slurm.
        let log =
            text(place)?.replace('%', "%%") + &format!("/{}-%A_%a.log", id.replace('%', "%%"));
        let mut options = vec![
            format!("job-name={id}"),
            format!("array=1-{tasks}"),
            format!("output={log}"),
            "open-mode=append".into(),
            "requeue".into(),
            format!("signal=B:USR1@{WARNING}"),
        ];
        options
            .extend((self.gpus_per_task > 0).then(|| format!("gres=gpu:{}", self.gpus_per_task)));
        options.extend(self.time.as_ref().map(|time| format!("time={time}")));
        options.extend(
            self.partition
                .as_ref()
                .map(|name| format!("partition={name}")),
        );
        let given = self.sbatch_option.iter();
        options.extend(given.map(|option| option.trim_start_matches("--").to_owned()));
        let mut lines = String::new();
        for option in options {
            let option = match option.split_once('=') {
                None => option,
                Some((name, value)) => format!("{name}={}", quoted(value)),
            };
            if option.contains('\n') {
                return Err(Error::usage(format!(
                    "{option:?}: an option of sbatch is one line"
                )));
            }
            lines += &format!("#SBATCH --{option}\n");
        }
        let words = [text(&program)?, "train".into()];
        let words = words.iter().chain(arguments).map(|word| quoted(word));
        let command = words.collect::<Vec<_>>().join(" ");
        let folder = quoted(&text(folder)?);
        Ok(format!(
            r#"#!/bin/bash
{lines}
# Written by stepback-native slurm. A task trains runs that nobody else has, until none is left.
cd {folder} || exit 73
# Slurm signals this script alone.
trap 'signalled=1; kill -USR1 "$train"' USR1
trap 'signalled=1; kill -TERM "$train"' TERM
{command} &
train=$!
while
    wait "$train"
    status=$?
    # 127: it has been waited for.
    [ "$status" = 127 ] || code=$status
    [ -n "$signalled" ]
do
    signalled=
done
# Its time was nearly over: it has saved where it was, and goes on later.
if [ "$code" = 75 ]; then
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}" && exit 0
fi
exit "$code"
"#
        ))
    }
}

/// A word as a shell reads it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-+=:,./@%".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// Submits a script; the number of its job.
fn submit(script: &Path) -> Result<String> {
    let shown = script.display();
    let failed = |kind, what: String| {
        Error::new(
            kind,
            format!("{what}; the script is {shown}, and no job runs it"),
        )
    };
    let output = Command::new("sbatch")
        .arg("--parsable")
        .arg(script)
        .output();
    let output = output.map_err(|e| match e.kind() {
        ErrorKind::NotFound => failed(
            Kind::Usage,
            "there is no sbatch on the PATH: submit from a machine of the cluster".into(),
        ),
        _ => failed(Kind::Io, format!("cannot run sbatch: {e}")),
    })?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        let why = why.trim().trim_start_matches("sbatch: ");
        return Err(failed(
            Kind::Io,
            format!("sbatch rejected the job ({}): {why}", output.status),
        ));
    }
    // With several clusters: 12;name.
    let job = said.trim().split(';').next().unwrap_or_default();
    if job.is_empty() || !job.bytes().all(|b| b.is_ascii_digit()) {
        let what = format!(
            "sbatch answered {:?} (expected the number of a job)",
            said.trim()
        );
        let kind = Kind::Io;
        return Err(Error::new(
            kind,
            format!("{what}; see squeue, whether a job runs {shown}"),
        ));
    }
    Ok(job.to_owned())
}
