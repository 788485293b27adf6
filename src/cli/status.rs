//! `status`: how far a sweep is.

use std::io::{IsTerminal, stdout};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use serde_json::json;

use super::print::{self, count};
use crate::error::Result;
use crate::results::progress::{Status, Watch, duration};
use crate::results::table::format_small;

/// How far a sweep is that is being trained, by one process or by many
#[derive(clap::Args)]
pub struct Args {
    /// The experiment, as an id or as the path of its output
    id: String,
    /// Folder of the output files
    #[arg(long, value_name = "DIR", default_value = "output")]
    output_dir: PathBuf,
    /// One JSON object
    #[arg(long)]
    json: bool,
    /// Say it again and again, after this time in seconds, until all runs are done
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", require_equals = true,
        value_parser = super::train::seconds)]
    watch: Option<Duration>,
}

impl Args {
    pub fn run(&self) -> Result<u8> {
        let path = match self.id.ends_with(".json") {
            true => PathBuf::from(&self.id),
            false => self.output_dir.join(format!("{}.json", self.id)),
        };
        let mut watch = Watch::default();
        loop {
            let status = watch.status(&path)?;
            self.print(&status)?;
            let all_done = status.running.is_empty() && status.to_go == 0;
            let Some(pause) = self.watch.filter(|_| !all_done) else {
                return Ok(0);
            };
            thread::sleep(pause);
        }
    }

    fn print(&self, status: &Status) -> Result<()> {
        if self.json {
            return print::json(&json!(status));
        }
        if self.watch.is_some() && stdout().is_terminal() {
            // From the upper left corner of an empty screen.
            print::print("\x1b[H\x1b[2J")?;
        }
        print::println(text(status))
    }
}

/// Running ones that have a line.
const SHOWN: usize = 20;

/// `3 of 12 runs done, 1 running, ...`
pub(super) fn summary(status: &Status) -> String {
    let Status {
        done,
        running,
        failed,
        to_go,
        ..
    } = status;
    let all = done + running.len() + failed.len() + to_go;
    let left = match status.seconds_left {
        _ if running.is_empty() && *to_go == 0 => String::new(),
        Some(seconds) => format!(", about {} left", duration(seconds)),
        None if running.is_empty() => ", and nobody is at work".into(),
        None => String::new(),
    };
    format!(
        "{done} of {} done, {} running, {} failed, {to_go} to go{left}",
        count(all, "run"),
        running.len(),
        failed.len(),
    )
}

fn text(status: &Status) -> String {
    let mut lines = vec![format!("{}: {}", status.output.display(), summary(status))];
    for run in status.running.iter().take(SHOWN) {
        let stands = match &run.under_way {
            None => String::new(),
            Some(way) => {
                let loss = way.loss.map_or(String::new(), |loss| {
                    format!(", loss {}", format_small(loss))
                });
                let (epochs, of) = (way.epochs, way.of);
                format!(
                    ": {epochs} of {} done{loss}, since {} UTC",
                    count(of, "epoch"),
                    way.since
                )
            }
        };
        let heard = run.heard.as_ref();
        let heard = heard.map_or(String::new(), |at| {
            format!(", last sign of life {at} UTC by its clock")
        });
        lines.push(format!(
            "running  {} in pid {} on {}{stands}{heard}",
            run.run, run.pid, run.host
        ));
    }
    // Short runs are claimed many at a time.
    let more = status.running.len().saturating_sub(SHOWN);
    lines.extend((more > 0).then(|| format!("running  {more} more")));
    let failed = status.failed.iter();
    lines.extend(failed.map(|run| format!("failed   {}: {}", run.run, run.error)));
    lines.join("\n")
}
