//! `record`: outputs into the CSV of their averages.

use std::path::PathBuf;

use super::print::{self, print};
use super::sources::write;
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
}

impl Args {
    pub fn run(self) -> Result<u8> {
        let record = Record::from_outputs(&self.id, &self.output_dir)?;
        let csv = record.to_csv();
        let path = self
            .out
            .unwrap_or_else(|| PathBuf::from("records").join(format!("{}.csv", self.id)));
        if path.as_os_str() == "-" {
            print(&csv)?;
        } else {
            write(&path, csv.as_bytes())?;
            let (settings, epochs) = (record.settings.len(), record.epochs.len());
            print::note(format_args!(
                "{}: {settings} settings, {epochs} epochs",
                path.display()
            ));
        }
        Ok(0)
    }
}
