//! `table`: the best setting of every method.

use std::path::PathBuf;

use super::print;
use super::sources::{Overwrite, Sources, finite, note_cutoff, write_or_print};
use crate::error::Result;
use crate::results::record::Cutoff;
use crate::results::table::{Column, Format, Query, Table};

/// Best final score per method, mean ± std over the seeds, best in bold
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Experiments, as ids or as paths to .json outputs or .csv records
    #[arg(required = true)]
    ids: Vec<String>,
    #[command(flatten)]
    sources: Sources,
    /// The quantity to rank by
    #[arg(long, value_name = "METRIC", default_value = "val_score")]
    score: String,
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Average over the epochs from A on, or from A to B, instead of taking the last
    #[arg(long, value_name = "A[:B]")]
    cutoff: Option<Cutoff>,
    /// One row per method with these columns
    #[arg(long, value_enum, value_delimiter = ',')]
    columns: Vec<Column>,
    /// The score (as a fraction) or loss that `epochs` and `time` wait for
    #[arg(long, value_name = "X", value_parser = finite,
        required_if_eq_any([("columns", "epochs"), ("columns", "time")]))]
    target: Option<f64>,
    /// The file to write, `-` for stdout
    #[arg(long, value_name = "FILE", default_value = "-")]
    out: PathBuf,
    #[command(flatten)]
    overwrite: Overwrite,
}

impl Args {
    pub fn run(self) -> Result<u8> {
        let records = self.sources.load(&self.ids)?;
        let query = Query {
            score: &self.score,
            cutoff: self.cutoff,
            columns: &self.columns,
            target: self.target,
        };
        let table = Table::new(&records, &query)?;
        write_or_print(&self.out, &table.render(self.format), self.overwrite.into())?;
        table.notes.iter().for_each(print::note);
        note_cutoff(&records, self.cutoff);
        Ok(0)
    }
}
