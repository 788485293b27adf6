//! `compare`: my runs beside the published record.

use super::print::{self, print};
use super::sources::Sources;
use crate::error::Result;
use crate::results::compare::{Deviation, LIMIT, RELATIVE_LIMIT, Row, compare};
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
    /// Exit 1 if any setting differs by more than 3 pooled standard deviations (1 % where there is one seed only), or
    /// if nothing was compared
    #[arg(long)]
    strict: bool,
}

impl Args {
    pub fn run(self) -> Result<u8> {
        let mine = self.sources.outputs(&self.id)?;
        let theirs = self
            .sources
            .record(self.against.as_deref().unwrap_or(&self.id))?;
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
            let of = |side: usize| {
                row.seeds
                    .map_or(String::new(), |s| format!(" ({} seeds)", s[side]))
            };
            let cells = [
                row.id.clone(),
                row.metric.clone(),
                format_stat(row.mine, row.accuracy) + &of(0),
                format_stat(row.theirs, row.accuracy) + &of(1),
                match row.deviation {
                    Deviation::Pooled(d) => format!("{d:+.2}"),
                    Deviation::Relative(d) => format!("{:+.2} %", 100.0 * d),
                },
                row.verdict().to_owned(),
            ];
            cells.map(|text| Cell { text, bold: false }).into()
        });
        let table = Table {
            header: header.map(str::to_owned).into(),
            rows: rows.collect(),
            notes: Vec::new(),
        };
        print(&table.render(self.format))?;
        let rows = &comparison.rows;
        if rows.is_empty() {
            print::note("nothing was compared: no setting is in both");
        }
        let relative = |row: &&Row| matches!(row.deviation, Deviation::Relative(_));
        let one_seed = rows.iter().filter(relative).count();
        if one_seed > 0 {
            print::note(format_args!(
                "{one_seed} of {} have one seed on both sides and so no spread: relative differences, which agree \
                 within {} %",
                rows.len(),
                100.0 * RELATIVE_LIMIT
            ));
        }
        let agreeing = rows.iter().filter(|r| r.agrees()).count();
        let differing = rows.len() - agreeing;
        print::note(format_args!(
            "{agreeing} of {} agree within {LIMIT} pooled standard deviations, {differing} differ; \
             {} settings only in the output, {} only in the record",
            rows.len(),
            comparison.only_mine.len(),
            comparison.only_theirs.len(),
        ));
        Ok(u8::from(self.strict && (differing > 0 || rows.is_empty())))
    }
}
