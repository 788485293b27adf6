//! `table`: the best setting of every method.

use std::path::PathBuf;
use std::slice;

use super::print;
use super::sources::{Overwrite, Sources, finite, note_cutoff, write_or_print};
use crate::error::Result;
use crate::results::record::Cutoff;
use crate::results::table::{Column, Format, Query, Table, WIDTH};

/// How a table is shown.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct Shape {
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Characters of a line at most; wider tables are turned on their side or cut. For LaTeX 80 are the text's width in an
    /// article [default: the terminal's width, or 80]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(20..))]
    width: Option<u16>,
}

impl Shape {
    /// Tables of the same columns as they go to a file, or to stdout.
    pub fn render(self, tables: &[Table], to_stdout: bool) -> String {
        let terminal = || {
            let terminal = comfy_table::Table::new().width();
            terminal.filter(|_| to_stdout && self.format == Format::Text)
        };
        let width = self.width.or_else(terminal);
        Table::render_all(tables, self.format, width.map_or(WIDTH, usize::from))
    }

    /// Whether programs read it, which want one table.
    pub fn is_csv(self) -> bool {
        self.format == Format::Csv
    }
}

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
    #[command(flatten)]
    shape: Shape,
    /// Average over the epochs from A on, or from A to B, instead of taking the last
    #[arg(long, value_name = "A[:B]")]
    cutoff: Option<Cutoff>,
    /// One row per method with these columns
    #[arg(long, value_enum, value_delimiter = ',')]
    columns: Vec<Column>,
    /// The score (as a fraction) or loss that `epochs` and `time` wait for
    #[arg(long, value_name = "X", value_parser = finite,
        required_if_eq_any([("columns", "epochs"), ("columns", "time"), ("sort", "epochs"), ("sort", "time")]))]
    target: Option<f64>,
    /// Sort methods by this column, best first, instead of by name
    #[arg(long, value_enum, value_name = "COLUMN")]
    sort: Option<Column>,
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
            sort: self.sort,
        };
        let table = Table::new(&records, &query)?;
        let to_stdout = self.out.as_os_str() == "-";
        let text = self.shape.render(slice::from_ref(&table), to_stdout);
        write_or_print(&self.out, &text, self.overwrite.into())?;
        table.notes.iter().for_each(print::note);
        note_cutoff(&records, self.cutoff);
        Ok(0)
    }
}
