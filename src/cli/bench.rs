//! `bench-kernels`: the report of [`crate::bench`].

use std::path::PathBuf;

use serde_json::{Value, json};

use super::{device, print};
use crate::bench::{Measured, measure};
use crate::device::Device;
use crate::error::{Error, Result};

/// Measure the kernels one by one, and compare them with the CPU (on the emulator the second alone)
#[derive(clap::Args)]
pub struct Bench {
    #[command(flatten)]
    device: device::Choice,
    /// Only ops and optimizers whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    filter: String,
    /// One JSON object instead of the table
    #[arg(long)]
    json: bool,
    /// An earlier report (--json) to compare times with
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
}

impl Bench {
    pub fn run(self) -> Result<u8> {
        let target = self.device.target("auto")?;
        if target.device == Device::Cpu {
            return Err(Error::usage(
                "bench-kernels: there is no GPU that can be used (see `stepback-native devices`); --device emulator compares kernels with the CPU",
            ));
        }
        let baseline = self.baseline()?;
        let lines = measure(target, &self.filter)?;
        if self.json {
            let lines: Vec<Value> = lines.iter().map(Measured::to_json).collect();
            print::println(json!({
                "device": target.device.name(), "precision": target.precision_name(), "version": env!("CARGO_PKG_VERSION"),
                "rows": lines,
            }))?;
            return Ok(0);
        }
        let copied = lines.iter().find(|l| l.name == "copy").and_then(rate);
        let mut table = print::table(&[
            "name",
            "about",
            "launches",
            "µs",
            "GB/s",
            "of copy",
            "TFLOP/s",
            "error",
            "× baseline",
        ]);
        for line in &lines {
            let shown = |x: Option<f64>, digits: usize| match x {
                Some(x) => format!("{x:.digits$}"),
                None => "-".to_owned(),
            };
            let before = baseline
                .iter()
                .find(|b| b.0 == line.name && b.1 == line.about);
            let share = rate(line).zip(copied).map(|(x, all)| 100.0 * x / all);
            let ratio = line.seconds.zip(before).map(|(now, before)| now / before.2);
            table.add_row([
                line.name.clone(),
                line.about.clone(),
                line.launches.to_string(),
                shown(line.seconds.map(|s| s * 1e6), 1),
                shown(rate(line), 0),
                share.map_or("-".to_owned(), |s| format!("{s:.0} %")),
                shown(line.seconds.map(|s| line.flops as f64 / s / 1e12), 2),
                format!("{:.1e}", line.error),
                shown(ratio, 2),
            ]);
        }
        print::println(table)?;
        Ok(0)
    }

    /// Names, shapes and seconds of an earlier report.
    fn baseline(&self) -> Result<Vec<(String, String, f64)>> {
        let Some(path) = &self.baseline else {
            return Ok(Vec::new());
        };
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, &e))?;
        let damaged =
            || Error::corrupt(format!("{}: not a report of bench-kernels", path.display()));
        let report: Value = serde_json::from_str(&text).map_err(|_| damaged())?;
        let rows = report["rows"].as_array().ok_or_else(damaged)?;
        let row = |row: &Value| {
            let text = |key: &str| Some(row[key].as_str()?.to_owned());
            Some((text("name")?, text("about")?, row["seconds"].as_f64()?))
        };
        Ok(rows.iter().filter_map(row).collect())
    }
}

/// GB/s.
fn rate(line: &Measured) -> Option<f64> {
    line.seconds.map(|s| line.bytes as f64 / s / 1e9)
}
