//! `profile`: AlgoPerf's scores and performance profiles.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::print;
use super::sources::{Overwrite, Sources, write_or_print};
use super::table::Shape;
use crate::error::Result;
use crate::results::names;
use crate::results::profile::{Clock, Profiles, Query, R_MAX, Target, profiles};
use crate::results::table::{Cell, Kind, Table, format_small};

/// Score methods by how soon they reach targets on several experiments, as AlgoPerf does
///
/// The time of a method on an experiment is the median over the seeds of the fastest setting's. Its score is the area under
/// its performance profile: the share of experiments that it solves within tau times the best method's time, from tau = 1 to 4.
/// `plot profile` draws it.
#[derive(clap::Args, Debug)]
pub struct Profile {
    /// Experiments, as ids or as paths to .json outputs or .csv records
    #[arg(required = true)]
    ids: Vec<String>,
    #[command(flatten)]
    sources: Sources,
    /// The quantity that is to reach the target
    #[arg(long, value_name = "METRIC", default_value = "val_score")]
    score: String,
    /// The score (as a fraction) or loss to reach, for all experiments or for one: 0.97, or mnist_mlp=0.97
    #[arg(long = "target", value_name = "[ID=]X", required = true)]
    targets: Vec<Target>,
    /// What time is counted in
    #[arg(long, value_enum, default_value = "epochs")]
    clock: Clock,
    #[command(flatten)]
    shape: Shape,
    /// One JSON object instead of a table
    #[arg(long, conflicts_with_all = ["format", "width"])]
    json: bool,
    /// The file to write, `-` for stdout
    #[arg(long, value_name = "FILE", default_value = "-")]
    out: PathBuf,
    #[command(flatten)]
    overwrite: Overwrite,
}

impl Profile {
    pub fn run(self) -> Result<u8> {
        let records = self.sources.load(&self.ids)?;
        let query = Query {
            score: &self.score,
            targets: &self.targets,
            clock: self.clock,
        };
        let found = profiles(&records, &query)?;
        let accuracy = records.iter().all(|r| r.higher_is_better(&self.score));
        let text = match self.json {
            true => format!("{}\n", in_json(&found)),
            false => {
                let table = table(&found, &names::metric(&self.score, accuracy));
                self.shape.render(&[table], self.out.as_os_str() == "-")
            }
        };
        write_or_print(&self.out, &text, self.overwrite.into())?;
        found.notes.iter().for_each(print::note);
        Ok(0)
    }
}

fn table(found: &Profiles, metric: &str) -> Table {
    let titles = found.workloads.iter().map(|w| w.title.clone());
    let header = ["method", "score", "fastest on (%)", "within 2x (%)"];
    let header = header.map(str::to_owned).into_iter().chain(titles);
    let rows = found.methods.iter().map(|method| {
        let mut row = vec![
            Cell::plain(&method.method),
            Cell::plain(format!("{:.3}", method.score)),
        ];
        for tau in [1.0, 2.0] {
            row.push(Cell::plain(format!("{:.0}", 100.0 * method.share(tau))));
        }
        let times = method.times.iter().zip(&method.ratios);
        row.extend(times.map(|(&time, ratio)| {
            Cell::plain(match time.is_finite() {
                false => "missed".into(),
                true => format!("{} ({ratio:.2}x)", format_small(time)),
            })
        }));
        row
    });
    let workloads = found.workloads.iter();
    let targets: Vec<String> = workloads
        .map(|w| format!("{} {}", w.title, w.target))
        .collect();
    Table {
        header: header.collect(),
        rows: rows.collect(),
        kind: Kind::Attributes,
        keys: 1,
        caption: format!(
            "Score: area under the performance profile from tau = 1 to {R_MAX}. Columns of experiments: {} of training \
             until {metric} reaches the target, and the ratio to the best method. Targets: {}.",
            found.clock.unit(),
            targets.join(", ")
        ),
        notes: Vec::new(),
    }
}

fn in_json(found: &Profiles) -> Value {
    let workloads = found.workloads.iter();
    let workloads = workloads.map(|w| json!({"experiment": w.title, "target": w.target}));
    let methods = found.methods.iter().map(|method| {
        json!({
            "method": method.method, "score": method.score, "times": method.times, "ratios": method.ratios,
        })
    });
    json!({
        "time": found.clock.unit(), "r_max": R_MAX, "experiments": workloads.collect::<Vec<_>>(),
        "methods": methods.collect::<Vec<_>>(), "notes": found.notes,
    })
}
