//! `compare`: my runs beside the published record.

use super::print::{self, print};
use super::sources::Sources;
use crate::error::Result;
use crate::results::Record;
use crate::results::compare::{LIMIT, compare};
use crate::results::table::{Cell, Format, Table, format_stat};

/// Set final losses and scores beside a record, in units of the pooled standard deviation
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Experiment: its output files are compared
    id: String,
    /// The record, as an id or a path [default: ID in the folder of records]
    #[arg(long, value_name = "RECORD")]
    against: Option<String>,
    #[command(flatten)]
    sources: Sources,
    /// Quantities to compare
    #[arg(long = "metric", value_name = "METRIC", default_values = ["train_loss", "val_score"])]
    metrics: Vec<String>,
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Exit 1 if any setting differs by more than 3 pooled standard deviations
    #[arg(long)]
    strict: bool,
}

impl Args {
    pub fn run(self) -> Result<u8> {
        let mine = Record::from_outputs(&self.id, &self.sources.output_dir)?;
        let against = self.against.as_deref().unwrap_or(&self.id);
        let records = &self.sources.records_dir;
        let theirs = if against.ends_with(".csv") || against.ends_with(".json") {
            self.sources.load(against)?
        } else {
            Record::read_csv(&records.join(format!("{against}.csv")))?
        };
        let metrics: Vec<&str> = self.metrics.iter().map(String::as_str).collect();
        let comparison = compare(&mine, &theirs, &metrics)?;
        let header = [
            "setting",
            "metric",
            "mine",
            "record",
            "deviation",
            "verdict",
        ];
        let rows = comparison.rows.iter().map(|row| {
            let accuracy = mine.higher_is_better(&row.metric);
            let cells = [
                row.id.clone(),
                row.metric.clone(),
                format_stat(row.mine, accuracy),
                format_stat(row.theirs, accuracy),
                format!("{:+.2}", row.deviation),
                row.verdict().to_owned(),
            ];
            cells.map(|text| Cell { text, bold: false }).into()
        });
        let table = Table {
            header: header.map(str::to_owned).into(),
            rows: rows.collect(),
        };
        let differing = comparison
            .rows
            .iter()
            .filter(|r| r.verdict() == "differs")
            .count();
        let agreeing = comparison.rows.iter().filter(|r| r.agrees()).count();
        print(&table.render(self.format))?;
        print::note(format_args!(
            "{agreeing} of {} agree within {LIMIT} pooled standard deviations, {differing} differ; \
             {} settings only in the output, {} only in the record",
            comparison.rows.len(),
            comparison.only_mine.len(),
            comparison.only_theirs.len(),
        ));
        Ok(u8::from(self.strict && differing > 0))
    }
}
