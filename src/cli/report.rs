//! `report`: one HTML file on experiments.

use std::path::PathBuf;

use super::print::println;
use super::sources::{Overwrite, Sources, finite, write_or_print};
use crate::error::Result;
use crate::results::report;

/// Write one HTML file with table, figures, runs and data of experiments
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Experiments, as ids or as paths to .json outputs or .csv records
    #[arg(required = true)]
    ids: Vec<String>,
    #[command(flatten)]
    sources: Sources,
    /// The metric that decides which settings are best, in the tables and in the figures, whatever these show
    #[arg(
        long,
        alias = "score",
        value_name = "METRIC",
        default_value = "val_score"
    )]
    rank_by: String,
    /// Say when each method reaches this score (a fraction) or loss
    #[arg(long, value_name = "X", value_parser = finite)]
    target: Option<f64>,
    /// The file to write, `-` for stdout
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    out: PathBuf,
    #[command(flatten)]
    overwrite: Overwrite,
}

impl Args {
    pub fn run(self) -> Result<u8> {
        let records = self.sources.load(&self.ids)?;
        let html = report::html(&records, &self.rank_by, self.target)?;
        write_or_print(&self.out, &html, self.overwrite.into())?;
        if self.out.as_os_str() != "-" {
            println(self.out.display())?;
        }
        Ok(0)
    }
}
