//! The command line: one file per subcommand.

mod bench;
mod compare;
mod completions;
mod config;
mod dashboard;
mod data;
mod device;
mod groups;
mod json_lines;
mod list;
mod optimizer;
mod output;
mod plot;
mod print;
mod profile;
mod record;
mod report;
mod sample;
mod show_schedule;
mod signals;
mod slurm;
mod sources;
mod status;
mod table;
mod train;
mod try_optimizer;
mod verify;

pub use print::note;

use std::ffi::OsString;

use clap::{Parser, Subcommand};

use crate::config::Vocabulary;
use crate::error::{Error, Kind, Result};
use crate::nn::loss::{LOSSES, SCORES};
use crate::optim::schedule;
use crate::{models, optim};

/// Compares optimizers: trains every run of a config, and makes tables, figures and reports of them. Configs, initial weights,
/// batches and numbers are those of the Python package step-back
#[derive(Parser)]
#[command(name = "stepback-native", version, max_term_width = 100)]
#[command(
    after_help = "Exit codes: 0 done, 1 verify or compare found a difference or a device failed, \
    2 wrong usage or config, \
    11 output in use, 65 damaged file, 73 output cannot be created, 74 input/output error, \
    75 stopped by SIGUSR1 to go on later, \
    130 or 143 interrupted, 141 stdout was closed."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Train(train::Train),
    Status(status::Args),
    Dashboard(dashboard::Dashboard),
    Slurm(slurm::Slurm),
    /// Compare this build with the reference's numbers
    Verify(verify::Verify),
    /// Configs: check them, print their runs, split them
    Config(config::Args),
    /// Optimizers as files: check them, print those that the program carries, try them
    Optimizer(optimizer::Args),
    /// Data sets: what is there, and getting and checking the rest
    Data(data::Args),
    Record(record::Args),
    Table(table::Args),
    Compare(compare::Args),
    Profile(profile::Profile),
    Plot(plot::Args),
    Report(report::Args),
    Sample(sample::Sample),
    /// Output files: what is in them, merging, filtering, exporting
    Output(output::Args),
    Devices(device::Devices),
    BenchKernels(bench::Bench),
    List(list::List),
    Completions(completions::Completions),
}

impl Cli {
    /// The program's arguments. What is wrong with them is printed, and ends the process.
    pub fn parse() -> Cli {
        parse(std::env::args_os()).unwrap_or_else(|error: clap::Error| error.exit())
    }

    /// Runs the command and gives the process's exit code.
    pub fn run(self) -> Result<u8> {
        crate::cpu::avx512()?;
        signals::survive_file_size_limits();
        match self.command {
            Command::Train(command) => command.run(),
            Command::Status(command) => command.run(),
            Command::Dashboard(command) => command.run(),
            Command::Slurm(command) => command.run(),
            Command::Verify(command) => command.run(),
            Command::Config(command) => command.run(),
            Command::Optimizer(command) => command.run(),
            Command::Data(command) => {
                use_threads(None)?;
                data::run(&command).map(|()| 0)
            }
            Command::Record(command) => command.run(),
            Command::Table(command) => command.run(),
            Command::Compare(command) => command.run(),
            Command::Profile(command) => command.run(),
            Command::Plot(command) => command.run(),
            Command::Report(command) => command.run(),
            Command::Sample(command) => command.run(),
            Command::Output(command) => command.run(),
            Command::Devices(command) => command.run(),
            Command::BenchKernels(command) => {
                use_threads(None)?;
                command.run()
            }
            Command::List(command) => command.run(),
            Command::Completions(command) => command.run(),
        }
    }
}

fn parse<T: Parser>(
    arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>,
) -> std::result::Result<T, clap::Error> {
    let command = take_negative_numbers(T::command());
    T::from_arg_matches(&command.try_get_matches_from(arguments)?)
}

/// Behind an option a negative number is its value, right or wrong, and no unknown option.
fn take_negative_numbers(command: clap::Command) -> clap::Command {
    command
        .mut_args(|arg| match arg.get_action().takes_values() {
            true if !arg.is_positional() => arg.allow_negative_numbers(true),
            _ => arg,
        })
        .mut_subcommands(take_negative_numbers)
}

/// All names and keys that configs may use, from the tables.
pub fn vocabulary() -> Vocabulary {
    Vocabulary {
        datasets: crate::data::ROWS.iter().map(|r| r.entry).collect(),
        models: models::ROWS.iter().map(|r| r.entry).collect(),
        optimizers: optim::rows().map(|r| r.entry).collect(),
        find_optimizer: |name, beside| {
            optim::formula::find(name, beside)?;
            Ok(optim::rows().map(|r| r.entry).collect())
        },
        optimizer_keys: optim::COMMON_KEYS,
        group_keys: optim::GROUP_KEYS,
        group_match: |text| optim::Match::parse(text).map(|_| ()),
        schedules: schedule::ENTRIES,
        schedule: schedule::named,
        losses: LOSSES.iter().map(|r| r.name).collect(),
        scores: SCORES.iter().chain(LOSSES).map(|r| r.name).collect(),
    }
}

/// Starts the threads of everything that follows: as many as are asked for, or as rayon's variable says, or as there are
/// cores.
fn use_threads(threads: Option<usize>) -> Result<()> {
    const MOST: usize = 1024;
    const VARIABLE: &str = "RAYON_NUM_THREADS";
    if threads.is_some_and(|n| n == 0 || n > MOST) {
        return Err(Error::usage(format!(
            "--threads: not a number from 1 to {MOST}"
        )));
    }
    let variable = std::env::var(VARIABLE).ok();
    let variable = variable.and_then(|text| text.parse::<u64>().ok());
    if threads.is_none() && variable.is_some_and(|n| n > MOST as u64) {
        return Err(Error::usage(format!("{VARIABLE}: more than {MOST}")));
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.unwrap_or(0));
    pool.build_global().map_err(|e| {
        let text = format!("cannot start threads: {e}; try fewer of them with --threads");
        Error::new(Kind::Io, text)
    })
}
