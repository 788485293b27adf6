//! `config`: check configs, print their runs and schedules, split them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::groups::{self, Choice};
use super::print::{self, count, print, println};
use super::show_schedule::ShowSchedule;
use super::sources::Overwrite;
use super::vocabulary;
use crate::config::{self, Changes, Experiment, Filter, MAX_RUNS, RunConfig, Vocabulary};
use crate::data::{self, Library, Origin, fetch};
use crate::device::Target;
use crate::error::{Error, Kind, Result};
use crate::optim::schedule::Schedule;
use crate::results::escape;
use crate::results::file::{self, Existing};
use crate::results::identity::{Identity, Index};
use crate::results::output;
use crate::stop;
use crate::train::sweep::{self, Choices};

/// Check experiment configs, print their runs and learning rates, split them
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Say what is wrong in configs, all of it, or how many runs they have
    Check(Check),
    /// Print the runs of a config
    Expand(Expand),
    /// Show the learning rates of a config's runs, a line for each schedule
    ShowSchedule(ShowSchedule),
    /// Split a config's runs into list-type configs, to train them on several machines
    Split(Split),
}

#[derive(clap::Args, Debug)]
struct Check {
    /// Experiment configs (see configs/README.md)
    #[arg(required = true, value_name = "CONFIG.json")]
    configs: Vec<PathBuf>,
    /// One JSON array with an object per config
    #[arg(long)]
    json: bool,
    /// Name all parameters of every group, not the first ones
    #[arg(long, short)]
    verbose: bool,
    #[command(flatten)]
    changes: Changes,
    /// Largest number of runs that a config may expand to
    #[arg(long, value_name = "N", default_value_t = MAX_RUNS)]
    max_runs: u64,
}

/// A config and a choice of its runs.
#[derive(clap::Args, Debug)]
pub(super) struct Source {
    /// Experiment config
    #[arg(value_name = "CONFIG.json")]
    config: PathBuf,
    #[command(flatten)]
    runs: Runs,
}

/// Which of the runs that configs have, and what is changed in them.
#[derive(clap::Args, Debug)]
pub(super) struct Runs {
    /// Only the runs with this value, such as name=adam,momo or lr=0.1; several keys: all must hold
    #[arg(long, value_name = "KEY=VALUE[,VALUE]")]
    pub only: Vec<Filter>,
    #[command(flatten)]
    changes: Changes,
    /// Largest number of runs that a config may expand to
    #[arg(long, value_name = "N", default_value_t = MAX_RUNS)]
    max_runs: u64,
}

#[derive(clap::Args, Debug)]
struct Expand {
    #[command(flatten)]
    source: Source,
    /// A JSON array of single runs, one on each line: a config itself
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args, Debug)]
struct Split {
    #[command(flatten)]
    source: Source,
    /// How many files, of about equally many runs
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    parts: u32,
    /// Folder for ID-01.json, ID-02.json, ...
    #[arg(long, value_name = "DIR")]
    into: PathBuf,
    /// Leave out the runs that the experiment's output holds already
    #[arg(long)]
    only_new: bool,
    /// Folder of that output: ID.json, ID-1.json, ...
    #[arg(
        long,
        value_name = "DIR",
        default_value = "output",
        requires = "only_new"
    )]
    output_dir: PathBuf,
    #[command(flatten)]
    overwrite: Overwrite,
}

impl Args {
    pub fn run(self) -> Result<u8> {
        match self.command {
            Command::Check(command) => command.run(),
            Command::Expand(command) => command.run(),
            Command::ShowSchedule(command) => command.run(),
            Command::Split(command) => command.run(),
        }
    }
}

impl Check {
    fn run(&self) -> Result<u8> {
        let vocabulary = vocabulary();
        let (mut entries, mut problems) = (Vec::new(), Vec::new());
        for path in &self.configs {
            let file = path.display().to_string();
            let read = config::load(path, &vocabulary, &self.changes, self.max_runs);
            let read = read.and_then(|experiment| Ok((try_out(&experiment, &file)?, experiment)));
            let (runs, warnings, tried, errors) = match read {
                Ok((tried, Experiment { runs, warnings, .. })) => {
                    (Some(runs.len()), warnings, tried, Vec::new())
                }
                Err(error) => (None, Vec::new(), Tried::default(), lines(&error.message)),
            };
            let Tried { untried, groups } = tried;
            if let Some(runs) = runs.filter(|_| !self.json) {
                warn(&warnings);
                let left = match untried.is_empty() {
                    true => String::new(),
                    false => {
                        let names: Vec<_> = untried.iter().copied().collect();
                        format!("; train will tell whether they fit {}", names.join(", "))
                    }
                };
                println(format_args!("{file}: OK, {}{left}", count(runs, "run")))?;
                for choice in &groups {
                    println(choice.text(self.verbose))?;
                }
            }
            problems.extend(errors.iter().cloned());
            entries.push(json!({
                "file": file, "runs": runs, "warnings": warnings, "errors": errors, "untried": untried,
                "groups": groups.iter().map(Choice::json).collect::<Vec<_>>(),
            }));
        }
        if self.json {
            println(format_args!("{:#}", Value::Array(entries)))?;
        }
        if problems.is_empty() {
            return Ok(0);
        }
        Err(Error::usage(problems.join("\n")))
    }
}

/// What was tried of a config.
#[derive(Default)]
struct Tried {
    /// Data sets whose files were not read.
    untried: BTreeSet<&'static str>,
    groups: Vec<Choice>,
}

/// Tries the runs as `train` does before the first one, if their data are computed, and the groups of all.
fn try_out(experiment: &Experiment, file: &str) -> Result<Tried> {
    let (mut untried, mut computed) = (BTreeSet::new(), Vec::new());
    let mut found = Vec::new();
    for run in &experiment.runs {
        let row = data::row(&run.dataset)?;
        match row.origin {
            Origin::Computed(_) => computed.push(run),
            Origin::Files(_) | Origin::Named(_) => {
                untried.insert(row.entry.name);
                found.extend(too_short(run).err());
            }
        }
    }
    let library = Library::new("", true, fetch::Options::new(Vec::new(), true));
    let choices = Choices::default();
    let check = sweep::check(computed, &library, Target::CPU, &choices, stop::flag());
    found.extend(check);
    let groups = groups::choices(&experiment.runs, &library);
    match groups {
        Ok(groups) if found.is_empty() => return Ok(Tried { untried, groups }),
        Ok(_) => {}
        Err(problems) => found.extend(problems),
    }
    let lines: BTreeSet<String> = found.iter().map(|e| format!("{file}: {e}")).collect();
    let lines: Vec<String> = lines.into_iter().collect();
    Err(Error::usage(lines.join("\n")))
}

/// Refuses a schedule that is longer than the run, as far as that is known before data are read.
fn too_short(run: &RunConfig) -> Result<()> {
    let schedule = Schedule::new(&run.opt, run.max_epoch, 0)?;
    match schedule.stepwise() {
        true => Ok(()),
        false => schedule.check(),
    }
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

fn warn(warnings: &[String]) {
    for text in warnings {
        print::note(format_args!("warning: {text}"));
    }
}

impl Source {
    pub fn load(&self) -> Result<Experiment> {
        let experiment = self.runs.load(&self.config, &vocabulary())?;
        warn(&experiment.warnings);
        Ok(experiment)
    }
}

impl Runs {
    pub fn load(&self, config: &Path, vocabulary: &Vocabulary) -> Result<Experiment> {
        let mut experiment = config::load(config, vocabulary, &self.changes, self.max_runs)?;
        config::select(&mut experiment, &self.only, &config.to_string_lossy())?;
        Ok(experiment)
    }
}

impl Expand {
    fn run(&self) -> Result<u8> {
        let Experiment { id, runs, .. } = self.source.load()?;
        if self.json {
            print(&config::list(&runs))?;
        } else {
            let lines = runs
                .iter()
                .map(|run| escape::printable(&run.label()).into_owned() + "\n");
            print(&lines.collect::<String>())?;
        }
        print::note(format_args!("{id}: {}", count(runs.len(), "run")));
        Ok(0)
    }
}

impl Split {
    fn run(&self) -> Result<u8> {
        let Experiment { id, mut runs, .. } = self.source.load()?;
        let all = runs.len();
        if self.only_new {
            let done = self.done(&id)?;
            let identity = |run: &RunConfig| Identity::new(&run.to_json(), &sweep::of_methods(run));
            runs.retain(|run| done.get(&identity(run)).is_none());
        }
        let parts = config::split(&id, &runs, self.parts as usize)?;
        let parts: Vec<(PathBuf, String)> = (parts.into_iter())
            .map(|(name, text)| (self.into.join(name + ".json"), text))
            .collect();
        let existing = Existing::from(self.overwrite);
        self.refuse_mixture(&id, &parts, existing)?;
        for (path, text) in &parts {
            file::write(path, text.as_bytes(), existing)?;
            println(path.display())?;
        }
        if all > runs.len() {
            let place = self.output_dir.display();
            let there = all - runs.len();
            print::note(format_args!(
                "{id}: {there} of {all} runs are in {place} already"
            ));
        }
        print::note(match (runs.len(), parts.len()) {
            (0, _) => format!("{id}: nothing is left to train, and no file was written"),
            (n, files) => format!("{id}: {} in {}", count(n, "run"), count(files, "file")),
        });
        Ok(0)
    }

    /// The runs that the output holds.
    fn done(&self, id: &str) -> Result<Index<()>> {
        let mut done = Index::default();
        for path in output::files(&self.output_dir, id)? {
            let runs = output::read(&path)?.into_iter();
            runs.for_each(|run| done.insert(run.identity, ()));
        }
        Ok(done)
    }

    /// Nothing is written if something stands in the way, or if parts of another split would stay between
    /// these: training the folder would train runs twice.
    fn refuse_mixture(
        &self,
        id: &str,
        parts: &[(PathBuf, String)],
        existing: Existing,
    ) -> Result<()> {
        let in_the_way = output::stems(&self.into, "json")?
            .into_iter()
            .filter(|stem| {
                let digits = stem
                    .strip_prefix(id)
                    .and_then(|rest| rest.strip_prefix('-'));
                digits.is_some_and(|d| d.len() > 1 && d.bytes().all(|b| b.is_ascii_digit()))
            });
        let in_the_way: Vec<PathBuf> = in_the_way
            .map(|stem| self.into.join(stem + ".json"))
            .filter(|path| existing == Existing::Refuse || parts.iter().all(|p| p.0 != *path))
            .collect();
        let Some(first) = in_the_way.first() else {
            return Ok(());
        };
        let advice = match existing {
            Existing::Refuse => "choose another folder, or say --overwrite",
            _ => "remove what is left of another split, or choose another folder",
        };
        Err(Error::new(
            Kind::CannotCreate,
            format!("{} exists: {advice}", first.display()),
        ))
    }
}
