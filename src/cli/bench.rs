//! `bench-kernels`: the report of [`crate::bench`].

use std::collections::HashMap;
use std::path::PathBuf;

use serde_json::Value;

use super::{device, print};
use crate::bench::{Measured, Report, measure};
use crate::error::{Error, Result};
use crate::files;

/// Measure kernels one by one and whole training steps, and compare kernels with the CPU
///
/// On a GPU at the shapes of the five experiments; on the CPU and the emulator at small ones, where times say little
/// and errors are the point.
#[derive(clap::Args)]
pub struct Bench {
    #[command(flatten)]
    device: device::Choice,
    /// Only ops, optimizers and experiments whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    filter: String,
    /// One JSON object instead of the tables
    #[arg(long)]
    json: bool,
    /// An earlier report (--json) to compare times with
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
}

/// Seconds of an earlier report by name, about and part.
type Baseline = HashMap<[String; 3], f64>;

impl Bench {
    pub fn run(self) -> Result<u8> {
        let target = self.device.target("auto")?;
        let baseline = self.baseline()?;
        let before = |name: &str, about: &str, part: &str| {
            baseline
                .get(&[name, about, part].map(str::to_owned))
                .copied()
        };
        let report = measure(target, &self.filter);
        if report.fault.is_none() && report.rows.is_empty() && report.experiments.is_empty() {
            return Err(Error::usage(format!(
                "--filter {}: no op, optimizer or experiment has this in its name",
                self.filter
            )));
        }
        if self.json {
            print::println(report.to_json(target, before))?;
        } else {
            let lines = report.peaks.iter().chain(&report.rows);
            if lines.clone().next().is_some() {
                print::println(kernels(&report, lines, before))?;
            }
            if !report.experiments.is_empty() {
                print::println(steps(&report, before))?;
            }
        }
        report.fault.map_or(Ok(0), Err)
    }

    fn baseline(&self) -> Result<Baseline> {
        let Some(path) = &self.baseline else {
            return Ok(Baseline::new());
        };
        let text = files::read_to_string(path).map_err(|e| Error::io("read", path, &e))?;
        let damaged =
            || Error::corrupt(format!("{}: not a report of bench-kernels", path.display()));
        let report: Value = serde_json::from_str(&text).map_err(|_| damaged())?;
        let row = |row: &Value| {
            let [name, about, part] =
                ["name", "about", "part"].map(|key| row[key].as_str().map(str::to_owned));
            Some(([name?, about?, part?], row["seconds"].as_f64()?))
        };
        let mut baseline = Baseline::new();
        for key in ["peaks", "rows", "experiments"] {
            let rows = report[key].as_array().ok_or_else(damaged)?;
            baseline.extend(rows.iter().filter_map(row));
        }
        Ok(baseline)
    }
}

/// A number with so many digits behind the point, `-` where there is none.
fn shown(x: Option<f64>, digits: usize) -> String {
    x.map_or("-".to_owned(), |x| format!("{x:.digits$}"))
}

fn percent(x: Option<f64>) -> String {
    x.map_or("-".to_owned(), |x| format!("{:.0} %", 100.0 * x))
}

fn kernels<'r>(
    report: &Report,
    lines: impl Iterator<Item = &'r Measured>,
    before: impl Fn(&str, &str, &str) -> Option<f64>,
) -> comfy_table::Table {
    let mut table = print::table(&[
        "name",
        "about",
        "part",
        "kernels",
        "µs",
        "MB",
        "GB/s",
        "of copy",
        "GFLOP",
        "TFLOP/s",
        "of peak",
        "error",
        "× baseline",
    ]);
    for line in lines {
        let before = before(&line.name, &line.about, line.part);
        let flops = (line.flops > 0).then_some(line.flops as f64);
        table.add_row([
            line.name.clone(),
            line.about.clone(),
            line.part.to_owned(),
            line.launches.to_string(),
            shown(line.seconds.map(|s| 1e6 * s), 1),
            shown(Some(line.bytes as f64 / 1e6), 2),
            shown(line.rate().map(|r| r / 1e9), 0),
            percent(report.share_of_copy(line)),
            shown(flops.map(|f| f / 1e9), 3),
            shown(flops.and(line.speed()).map(|s| s / 1e12), 2),
            percent(report.share_of_peak(line)),
            format!("{:.1e}", line.error),
            shown(
                line.seconds.zip(before).map(|(now, before)| now / before),
                2,
            ),
        ]);
    }
    table
}

fn steps(report: &Report, before: impl Fn(&str, &str, &str) -> Option<f64>) -> comfy_table::Table {
    let mut table = print::table(&[
        "experiment",
        "batch",
        "kernels",
        "ms per step",
        "images/s",
        "of floor",
        "× baseline",
    ]);
    for step in &report.experiments {
        let before = before(step.name, crate::bench::STEP_ABOUT, crate::bench::STEP_PART);
        let (kernels, why) = match &step.measured {
            Ok((kernels, _)) => (kernels.to_string(), None),
            Err(why) => ("-".to_owned(), Some(why)),
        };
        let time = match why {
            None => shown(step.seconds().map(|s| 1e3 * s), 3),
            Some(why) => why.clone(),
        };
        table.add_row([
            step.name.to_owned(),
            step.batch.to_string(),
            kernels,
            time,
            shown(step.images_per_second(), 0),
            percent(step.share_of_floor()),
            shown(
                step.seconds().zip(before).map(|(now, before)| now / before),
                2,
            ),
        ]);
    }
    table
}
