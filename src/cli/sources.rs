//! Where results are read from and written to.

use std::path::{Path, PathBuf};

use super::print::{note, print};
use crate::error::Result;
use crate::results::file::{self, Existing};
use crate::results::record::{self, Cutoff, Record};

/// The folders that experiments are looked for in.
#[derive(clap::Args, Clone, Debug)]
pub struct Sources {
    /// Folder of the output files
    #[arg(long, value_name = "DIR", default_value = "output")]
    pub output_dir: PathBuf,
    /// Folder of the records, used for experiments without output
    #[arg(long, value_name = "DIR", default_value = "records")]
    pub records_dir: PathBuf,
}

impl Sources {
    /// A record for each problem of an experiment.
    pub fn load(&self, id: &str) -> Result<Vec<Record>> {
        record::load(id, &self.output_dir, &self.records_dir)
    }

    pub fn load_all(&self, ids: &[String]) -> Result<Vec<Record>> {
        let mut records = Vec::new();
        for id in ids {
            records.extend(self.load(id)?);
        }
        Ok(records)
    }
}

/// Says of which experiments no epoch is left to average over.
pub fn note_cutoff(records: &[Record], cutoff: Option<Cutoff>) {
    let Some(Cutoff { from, .. }) = cutoff else {
        return;
    };
    for record in records.iter().filter(|record| record.end() < from) {
        note(format_args!(
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
    number.ok_or_else(|| "not a finite number".into())
}

/// Writes a file, or prints on stdout if its name is `-`.
pub fn write_or_print(path: &Path, text: &str, existing: Existing) -> Result<()> {
    if path.as_os_str() == "-" {
        print(text)
    } else {
        file::write(path, text.as_bytes(), existing)
    }
}
