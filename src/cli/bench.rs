//! `bench-kernels`: the report of [`crate::bench`].

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{device, print};
use crate::bench::{Gpu, Measured, Planned, PlannedLaunch, Report, Shapes, measure, plans};
use crate::error::{Error, Result};
use crate::files;

/// Measure kernels one by one and whole training steps, and compare kernels with the CPU
///
/// On a GPU at the shapes of the six experiments; on the CPU and the emulator at small ones, where times say little
/// and errors are the point. --device plan runs nothing: it counts what a training step of each experiment and its
/// evaluations would launch on a GPU, and what a model says of the time.
#[derive(clap::Args)]
pub struct Bench {
    #[command(flatten)]
    device: device::Choice,
    /// Only ops, optimizers and experiments whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    filter: String,
    /// On a GPU, too, the small shapes of the ops' tests: a quick look at whether it works
    #[arg(long)]
    small: bool,
    /// One JSON object instead of the tables
    #[arg(long)]
    json: bool,
    /// With --device plan: a line for every launch of a training step
    #[arg(long)]
    detail: bool,
    /// With --device plan: a report (--json) of a GPU, whose own rates take the place of documented ones in the model
    #[arg(long, value_name = "FILE")]
    machine: Option<PathBuf>,
    /// An earlier report (--json) to compare times with
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
}

/// Seconds of an earlier report by name, about and part.
type Baseline = HashMap<[String; 3], f64>;

impl Bench {
    pub fn run(self) -> Result<u8> {
        if self.device.plans() {
            return self.plan();
        }
        if self.detail {
            return Err(Error::usage(
                "--detail: launches are listed with --device plan",
            ));
        }
        if self.machine.is_some() {
            return Err(Error::usage(
                "--machine: times are a model's with --device plan alone",
            ));
        }
        let target = self.device.target("auto")?;
        let baseline = self.baseline()?;
        let before = |name: &str, about: &str, part: &str| {
            baseline
                .get(&[name, about, part].map(str::to_owned))
                .copied()
        };
        let shapes = match self.small {
            true => Shapes::Small,
            false => Shapes::usual(target.device),
        };
        let report = measure(target, shapes, &self.filter);
        if report.fault.is_none() && report.rows.is_empty() && report.experiments.is_empty() {
            return Err(Error::usage(format!(
                "--filter {}: no op, optimizer or experiment has this in its name",
                self.filter
            )));
        }
        if self.json {
            print::json(&report.to_json(target, before))?;
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

    fn plan(&self) -> Result<u8> {
        let gpus = match &self.machine {
            None => Gpu::documented(),
            Some(path) => vec![measured(path)?],
        };
        let plans = plans(self.device.precision(), &self.filter, &gpus)?;
        if plans.is_empty() {
            return Err(Error::usage(format!(
                "--filter {}: no experiment has this in its name",
                self.filter
            )));
        }
        match (self.json, self.detail) {
            (true, detail) => print::json(&planned_json(&plans, detail))?,
            (false, true) => {
                for plan in &plans {
                    print::println(plan.name)?;
                    print::println(launches(plan))?;
                }
            }
            (false, false) => print::println(planned(&plans))?,
        }
        Ok(0)
    }

    fn baseline(&self) -> Result<Baseline> {
        let Some(path) = &self.baseline else {
            return Ok(Baseline::new());
        };
        let damaged = || not_a_report(path);
        let report = report(path)?;
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

fn report(path: &Path) -> Result<Value> {
    let text = files::read_to_string(path).map_err(|e| Error::io("read", path, &e))?;
    serde_json::from_str(&text).map_err(|_| not_a_report(path))
}

fn not_a_report(path: &Path) -> Error {
    Error::corrupt(format!("{}: not a report of bench-kernels", path.display()))
}

/// The GPU of a report.
fn measured(path: &Path) -> Result<Gpu> {
    let why = |why| Error::corrupt(format!("--machine {}: {why}", path.display()));
    Gpu::measured(&report(path)?).map_err(why)
}

/// A number with this many digits behind the point, `-` where there is none.
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
        "µs hot",
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
            shown(line.hot_seconds.map(|s| 1e6 * s), 1),
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
        "samples/s",
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
            shown(step.samples_per_second(), 0),
            percent(step.share_of_floor()),
            shown(
                step.seconds().zip(before).map(|(now, before)| now / before),
                2,
            ),
        ]);
    }
    table
}

fn planned(plans: &[Planned]) -> comfy_table::Table {
    let mut table = print::table(&[
        "experiment",
        "batch",
        "launches",
        "path",
        "in evaluation",
        "MB read",
        "MB written",
        "GFLOP",
        "model: µs per step",
        "s per epoch",
    ]);
    for plan in plans {
        let [read, written] = plan.traffic().map(|bytes| bytes as f64 / 1e6);
        let modelled = &plan.modelled[0];
        table.add_row([
            plan.name.to_owned(),
            plan.batch.to_string(),
            plan.launches.len().to_string(),
            plan.path.to_string(),
            plan.eval_launches.to_string(),
            shown(Some(read), 1),
            shown(Some(written), 1),
            shown(Some(plan.flops as f64 / 1e9), 2),
            shown(Some(modelled.step), 0),
            shown(Some(modelled.epoch), 3),
        ]);
    }
    table
}

fn launches(plan: &Planned) -> comfy_table::Table {
    let mut table = print::table(&[
        "kernel",
        "blocks",
        "threads",
        "shared",
        "MB read",
        "MB written",
        "model: µs",
    ]);
    for launch in &plan.launches {
        table.add_row([
            launch.kernel.clone(),
            launch.blocks.map(|n| n.to_string()).join("×"),
            launch.threads.to_string(),
            launch.shared.to_string(),
            shown(Some(launch.traffic[0] as f64 / 1e6), 3),
            shown(Some(launch.traffic[1] as f64 / 1e6), 3),
            shown(Some(launch.modelled), 1),
        ]);
    }
    table
}

/// One object; with `detail` every experiment has its launches.
fn planned_json(plans: &[Planned], detail: bool) -> Value {
    let experiments = plans.iter().map(|plan| {
        let mut object = plan.to_json();
        if detail {
            let launch = |launch: &PlannedLaunch| {
                let [read, written] = launch.traffic;
                json!({
                    "kernel": launch.kernel, "blocks": launch.blocks, "threads": launch.threads,
                    "shared": launch.shared, "read": read, "written": written, "model_us": launch.modelled,
                })
            };
            let all: Value = plan.launches.iter().map(launch).collect();
            object.insert("detail".into(), all);
        }
        object
    });
    json!({"experiments": experiments.collect::<Vec<_>>()})
}
