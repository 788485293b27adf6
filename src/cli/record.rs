//! `record`: outputs into the CSV of their averages.

use std::path::PathBuf;

use super::print;
use super::sources::{Overwrite, write_or_print};
use crate::error::Result;
use crate::results::Record;

/// Average an experiment's runs over their seeds into a CSV file
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Experiment: ID.json, ID-1.json, ... are collected
    id: String,
    /// Folder of the output files
    #[arg(long, value_name = "DIR", default_value = "output")]
    output_dir: PathBuf,
    /// The CSV file to write, `-` for stdout [default: records/ID.csv]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    overwrite: Overwrite,
}

impl Args {
    pub fn run(self) -> Result<u8> {
        let record = Record::from_outputs(&self.id, &self.output_dir)?;
        let path = self
            .out
            .unwrap_or_else(|| PathBuf::from("records").join(format!("{}.csv", self.id)));
        write_or_print(&path, &record.to_csv(), self.overwrite.into())?;
        let (settings, epochs) = (record.settings.len(), record.epochs.len());
        print::note(format_args!(
            "{}: {settings} settings, {epochs} epochs",
            record.name
        ));
        Ok(0)
    }
}
