//! `record`: outputs into the CSV of their averages.

use std::path::PathBuf;

use super::print;
use super::sources::{Overwrite, RunChoice, write_or_print};
use crate::error::Result;
use crate::results::record::{self, Found, Setting};

/// Average an experiment's runs over their seeds into a CSV file
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Experiment: ID.json, ID-1.json, ... are collected
    id: String,
    /// Folder of the output files
    #[arg(long, value_name = "DIR", default_value = "output")]
    output_dir: PathBuf,
    #[command(flatten)]
    choice: RunChoice,
    /// The CSV file to write, `-` for stdout [default: records/ID.csv]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Leave the ids out, which the reference's tools want: keys have columns of their own
    #[arg(long)]
    no_ids: bool,
    #[command(flatten)]
    overwrite: Overwrite,
}

impl Args {
    pub fn run(self) -> Result<u8> {
        let found = Found::outputs(&self.id, &self.output_dir)?;
        let records = self.choice.records(vec![found])?;
        let path = self
            .out
            .unwrap_or_else(|| PathBuf::from("records").join(format!("{}.csv", self.id)));
        let csv = record::to_csv(&records, !self.no_ids);
        write_or_print(&path, &csv, self.overwrite.into())?;
        let settings = || record::all_settings(&records).map(|(_, setting)| setting);
        let range = |counts: &dyn Fn(&Setting) -> usize| {
            let (least, most) = (settings().map(counts).min(), settings().map(counts).max());
            let (least, most) = (least.unwrap_or(0), most.unwrap_or(0));
            if least == most {
                most.to_string()
            } else {
                format!("{least} to {most}")
            }
        };
        print::note(format_args!(
            "{}: {} settings, {} epochs, seeds of each: {}",
            self.id,
            settings().count(),
            range(&|s| s.epochs.len()),
            range(&|s| s.runs.len()),
        ));
        Ok(0)
    }
}
