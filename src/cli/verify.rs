//! `verify`: the suites' report.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::print;
use crate::device::Target;
use crate::device::gpu::Precision;
use crate::error::{Error, Result};
use crate::verify::{Check, Context, Goldens, SUITES, Verdict};

#[derive(Args)]
pub struct Verify {
    /// The same as --device cpu, the default: what models and whole runs are computed on
    #[arg(long, conflicts_with = "device")]
    cpu: bool,
    #[command(flatten)]
    device: super::device::Choice,
    /// Only this suite; may be given several times
    #[arg(long, value_name = "NAME")]
    suite: Vec<String>,
    /// Golden files to compare with, instead of those in the binary
    #[arg(long, value_name = "DIR")]
    goldens: Option<PathBuf>,
    /// Where data sets are; suites that lack theirs are skipped
    #[arg(long, value_name = "DIR", default_value = "data")]
    data_dir: PathBuf,
    /// Threads to use [default: all cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// One JSON object per line of the report
    #[arg(long)]
    json: bool,
}

impl Verify {
    pub fn run(self) -> Result<u8> {
        let unknown = self
            .suite
            .iter()
            .find(|name| SUITES.iter().all(|s| s.name != **name));
        if let Some(name) = unknown {
            let known: Vec<_> = SUITES.iter().map(|s| s.name).collect();
            return Err(Error::usage(format!(
                "--suite: there is no suite {name}; there are {}",
                known.join(", ")
            )));
        }
        let goldens = match self.goldens {
            None => Goldens::Packed,
            Some(folder) if folder.is_dir() => Goldens::Folder(folder),
            Some(folder) => {
                return Err(Error::usage(format!(
                    "--goldens: {} is not a folder",
                    folder.display()
                )));
            }
        };
        let target = match self.cpu {
            true => Target::CPU,
            // What is compared is single precision, unless the user wants to see another one fail.
            false => self.device.target("cpu")?.or_precision(Precision::Fp32),
        };
        super::use_threads(self.threads)?;
        let context = Context {
            goldens,
            data_dir: self.data_dir,
            target,
        };
        let mut failed = false;
        if !self.json {
            print::println(line([
                "suite",
                "check",
                "cases",
                "numbers",
                "worst",
                "tolerance",
                "verdict",
            ]))?;
        }
        for suite in SUITES {
            if !(self.suite.is_empty() || self.suite.iter().any(|name| name == suite.name)) {
                continue;
            }
            for check in (suite.run)(&context)? {
                failed |= check.verdict() == Verdict::Failed;
                let text = if self.json {
                    as_json(suite.name, &check)
                } else {
                    as_text(suite.name, &check)
                };
                print::println(text)?;
            }
        }
        Ok(u8::from(failed))
    }
}

fn line(columns: [&str; 7]) -> String {
    let [suite, check, cases, numbers, worst, tolerance, verdict] = columns;
    format!("{suite:<11} {check:<48} {cases:>5} {numbers:>8} {worst:>9} {tolerance:>9}  {verdict}")
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Passed => "passed",
        Verdict::Failed => "FAILED",
        Verdict::Skipped => "skipped",
    }
}

fn as_text(suite: &str, check: &Check) -> String {
    let verdict = check.verdict();
    let error = |x: f64| match verdict {
        Verdict::Skipped => "-".to_owned(),
        _ => format!("{x:.1e}"),
    };
    let mut text = line([
        suite,
        &check.about,
        &check.cases.to_string(),
        &check.numbers.to_string(),
        &error(check.worst),
        &error(check.tolerance),
        word(verdict),
    ]);
    if verdict == Verdict::Failed {
        text += &format!("\n    worst: {}", check.at);
    }
    for why in &check.skipped {
        text += &format!("\n    skipped: {why}");
    }
    text
}

fn as_json(suite: &str, check: &Check) -> String {
    json!({
        "suite": suite,
        "check": check.about,
        "cases": check.cases,
        "numbers": check.numbers,
        "worst": check.worst,
        "at": check.at,
        "tolerance": check.tolerance,
        "verdict": word(check.verdict()).to_lowercase(),
        "skipped": check.skipped,
    })
    .to_string()
}
