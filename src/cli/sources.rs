//! Where results are read from and written to.

use std::path::{Path, PathBuf};

use super::print::{self, print};
use crate::config::Choice;
use crate::error::Result;
use crate::results::file::{self, Existing};
use crate::results::record::{self, Cutoff, Found, Record};

/// The folders that experiments are looked for in.
#[derive(clap::Args, Clone, Debug)]
pub struct Sources {
    /// Folder of the output files
    #[arg(long, value_name = "DIR", default_value = "output")]
    pub output_dir: PathBuf,
    /// Folder of the records, used for experiments without output
    #[arg(long, value_name = "DIR", default_value = "records")]
    pub records_dir: PathBuf,
    #[command(flatten)]
    pub choice: RunChoice,
}

/// Which runs, and which of their epochs.
#[derive(clap::Args, Clone, Debug)]
pub struct RunChoice {
    #[command(flatten)]
    choice: Choice,
    /// Cut all runs of an experiment to the epochs that all of them have; without it, those that end before others are not
    /// ranked
    #[arg(long)]
    common_epochs: bool,
}

impl RunChoice {
    /// Chooses, and averages over the seeds: a record for each problem of each experiment.
    pub fn records(&self, mut found: Vec<Found>) -> Result<Vec<Record>> {
        record::choose(&mut found, &self.choice)?;
        let mut records = Vec::new();
        for mut one in found {
            if self.common_epochs {
                one.cut();
            }
            records.extend(one.records()?);
        }
        let notes = records.iter().flat_map(|record| &record.notes);
        notes.for_each(print::note);
        Ok(records)
    }
}

impl Sources {
    pub fn load(&self, ids: &[String]) -> Result<Vec<Record>> {
        let find = |id: &String| Found::find(id, &self.output_dir, &self.records_dir);
        let found = ids.iter().map(find).collect::<Result<_>>()?;
        self.choice.records(found)
    }

    /// Those that the output folder holds.
    pub fn outputs(&self, id: &str) -> Result<Vec<Record>> {
        let found = Found::outputs(id, &self.output_dir)?;
        self.choice.records(vec![found])
    }

    /// Those of a record, which lies in the folder of records unless it is a path.
    pub fn record(&self, id: &str) -> Result<Vec<Record>> {
        let path = match id.ends_with(".csv") || id.ends_with(".json") {
            true => PathBuf::from(id),
            false => self.records_dir.join(format!("{id}.csv")),
        };
        let found = Found::find(&path.to_string_lossy(), &self.output_dir, &self.records_dir)?;
        self.choice.records(vec![found])
    }
}

/// Says of which experiments no epoch is left to average over.
pub fn note_cutoff(records: &[Record], cutoff: Option<Cutoff>) {
    let Some(Cutoff { from, .. }) = cutoff else {
        return;
    };
    for record in records.iter().filter(|record| record.end() < from) {
        print::note(format_args!(
            "warning: {} ends with epoch {}, before --cutoff {from}: its last epoch is taken",
            record.title(),
            record.end()
        ));
    }
}

/// What may be written over.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct Overwrite {
    /// Replace what is there
    #[arg(long)]
    overwrite: bool,
}

impl From<Overwrite> for Existing {
    fn from(choice: Overwrite) -> Existing {
        if choice.overwrite {
            Existing::Replace
        } else {
            Existing::Refuse
        }
    }
}

/// A score or a loss to reach.
pub fn finite(text: &str) -> std::result::Result<f64, String> {
    let number = text.parse().ok().filter(|x: &f64| x.is_finite());
    number.ok_or_else(|| "expected a finite number".into())
}

/// Writes a file, or prints on stdout if its name is `-`.
pub fn write_or_print(path: &Path, text: &str, existing: Existing) -> Result<()> {
    if path.as_os_str() == "-" {
        print(text)
    } else {
        file::write(path, text.as_bytes(), existing)
    }
}
