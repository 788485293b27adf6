//! `output`: look into, merge, filter and export output files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::print::{self, print};
use super::sources::{Overwrite, write_or_print};
use super::table::Shape;
use crate::config::Choice;
use crate::error::{Error, Result};
use crate::results::edit;
use crate::results::identity::Varying;
use crate::results::output::{self, Run};
use crate::results::table::{Cell, Kind, Table, format_small};

/// Look into output files, merge, filter and export them
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// What is in a file: one line per run
    List {
        file: PathBuf,
        #[command(flatten)]
        shape: Shape,
    },
    /// One file of several, or of all in a folder
    Merge {
        #[arg(required = true)]
        files: Vec<PathBuf>,
        #[command(flatten)]
        target: Target,
    },
    /// Keep or drop runs by keys of the config or of the optimizer, such as lr, opt.lr or dataset_kwargs.p
    Filter {
        file: PathBuf,
        #[command(flatten)]
        choice: Choice,
        /// Drop this key from every epoch
        #[arg(long, value_name = "KEY")]
        drop_history: Vec<String>,
        #[command(flatten)]
        target: Target,
    },
    /// All epochs of all runs as CSV, with a column for each key
    Export {
        file: PathBuf,
        /// Leave the ids out, which say in one text what the keys say
        #[arg(long)]
        no_ids: bool,
        #[command(flatten)]
        target: Target,
    },
}

#[derive(clap::Args, Debug)]
struct Target {
    /// The file to write, `-` for stdout
    #[arg(long, value_name = "FILE", default_value = "-")]
    out: PathBuf,
    #[command(flatten)]
    overwrite: Overwrite,
}

impl Target {
    fn write(&self, text: &str) -> Result<()> {
        write_or_print(&self.out, text, self.overwrite.into())
    }
}

impl Args {
    pub fn run(self) -> Result<u8> {
        match self.command {
            Command::List { file, shape } => print(&shape.render(&[list(&file)?], true))?,
            Command::Merge { files, target } => {
                let mut all = Vec::new();
                for path in files {
                    if path.is_dir() {
                        let stems = output::stems(&path, "json")?;
                        if stems.is_empty() {
                            let text = format!("{}: no output files", path.display());
                            return Err(Error::usage(text));
                        }
                        all.extend(stems.iter().map(|s| path.join(format!("{s}.json"))));
                    } else {
                        all.push(path);
                    }
                }
                let (text, runs) = edit::merge(&all)?;
                target.write(&text)?;
                print::note(format_args!("{runs} runs of {} files", all.len()));
            }
            Command::Filter {
                file,
                choice,
                drop_history,
                target,
            } => {
                let (text, stay, gone) = edit::filter(&file, &choice, &drop_history)?;
                target.write(&text)?;
                print::note(format_args!("{stay} runs kept, {gone} dropped"));
            }
            Command::Export {
                file,
                no_ids,
                target,
            } => target.write(&edit::export(&file, !no_ids)?)?,
        }
        Ok(0)
    }
}

fn list(file: &Path) -> Result<Table> {
    let header = [
        "run",
        "run_id",
        "epochs",
        "train_loss",
        "val_score",
        "seconds",
        "note",
    ];
    let runs = output::read(file)?;
    let rows = runs.iter().zip(labels(&runs)).map(|(run, label)| {
        let last = |metric| run.metric(metric).and_then(|m| m.last()).copied();
        let number = |metric| last(metric).map_or(String::new(), format_small);
        let note = run.diverged_at().map(|e| format!("diverged in epoch {e}"));
        let cells = [
            label,
            run.run_id().to_string(),
            run.epochs.len().to_string(),
            number("train_loss"),
            number("val_score"),
            if run.train_time().is_nan() {
                String::new()
            } else {
                format_small(run.train_time())
            },
            note.unwrap_or_default(),
        ];
        cells.map(Cell::plain).into()
    });
    Ok(Table {
        header: header.map(str::to_owned).into(),
        rows: rows.collect(),
        kind: Kind::Attributes,
        keys: 1,
        ..Table::default()
    })
}

/// The method of each run and the keys in which runs that have them differ: `adam, lr=0.1`.
fn labels(runs: &[Run]) -> Vec<String> {
    let varying = Varying::among(runs.iter().map(|run| &run.identity));
    let settings: Vec<_> = runs.iter().map(|run| varying.setting_of(run)).collect();
    let mut values: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (key, value) in settings.iter().flatten() {
        values.entry(key).or_default().insert(value);
    }
    let label = |setting: &Vec<(String, String)>| {
        let shown = setting
            .iter()
            .filter_map(|(key, value)| match key.as_str() {
                "name" => Some(value.clone()),
                key => (values[key].len() > 1).then(|| format!("{key}={value}")),
            });
        shown.collect::<Vec<_>>().join(", ")
    };
    settings.iter().map(label).collect()
}
