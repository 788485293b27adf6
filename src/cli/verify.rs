//! `verify`: the suites' report.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::print;
use crate::device::Target;
use crate::device::gpu::Precision;
use crate::error::{Error, Result};
use crate::results::escape;
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
                "--suite: unknown suite {name:?} (expected {})",
                known.join(", ")
            )));
        }
        let goldens = match self.goldens {
            None => Goldens::packed(),
            Some(folder) if folder.is_dir() => Goldens::folder(folder),
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
        let mut report = Report::new(self.json)?;
        for suite in SUITES {
            if self.suite.is_empty() || self.suite.iter().any(|name| name == suite.name) {
                for check in (suite.run)(&context)? {
                    report.add(suite.name, &check)?;
                }
            }
        }
        if self.suite.is_empty() {
            let unread = context.goldens.unread()?;
            if !unread.is_empty() {
                let mut check = Check::new("files that no suite reads", 0.0);
                let names = unread.iter().map(|path| path.display().to_string());
                check.skipped.extend(names);
                report.add("-", &check)?;
            }
        }
        report.finish()
    }
}

/// What is printed: a line for each check as soon as it is done, remarks and the sum at the end.
struct Report {
    json: bool,
    passed: usize,
    failed: usize,
    skipped: usize,
    /// What is to be said, and of which suites.
    remarks: Vec<(String, Vec<&'static str>)>,
}

impl Report {
    fn new(json: bool) -> Result<Report> {
        let columns = [
            "suite",
            "check",
            "cases",
            "numbers",
            "worst",
            "tolerance",
            "verdict",
        ];
        if !json {
            print::println(line(columns))?;
        }
        Ok(Report {
            json,
            passed: 0,
            failed: 0,
            skipped: 0,
            remarks: Vec::new(),
        })
    }

    fn add(&mut self, suite: &'static str, check: &Check) -> Result<()> {
        *match check.verdict() {
            Verdict::Passed => &mut self.passed,
            Verdict::Failed => &mut self.failed,
            Verdict::Skipped => &mut self.skipped,
        } += 1;
        if self.json {
            return print::json(&as_json(suite, check));
        }
        if check.verdict() == Verdict::Failed {
            self.remark(suite, format!("FAILED {}: {}", check.about, check.at));
        }
        for why in &check.skipped {
            self.remark(suite, format!("skipped: {why}"));
        }
        print::print(&(as_text(suite, check) + "\n"))
    }

    fn remark(&mut self, suite: &'static str, text: String) {
        match self.remarks.iter_mut().find(|(known, _)| *known == text) {
            Some((_, suites)) if suites.contains(&suite) => {}
            Some((_, suites)) => suites.push(suite),
            None => self.remarks.push((text, vec![suite])),
        }
    }

    /// Returns the exit code.
    fn finish(self) -> Result<u8> {
        if !self.json {
            for (text, suites) in &self.remarks {
                let text = text.trim_end().replace('\n', "\n    ");
                print::println(format!("\n{}: {text}", suites.join(", ")))?;
            }
            let Report {
                passed,
                failed,
                skipped,
                ..
            } = self;
            let sum = format!("{passed} passed, {failed} failed, {skipped} skipped");
            print::print(&format!("\n{}\n", print::coloured(&sum, failed == 0)))?;
        }
        Ok(u8::from(self.failed > 0))
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
    let coloured = match verdict {
        Verdict::Skipped => word(verdict).to_owned(),
        _ => print::coloured(word(verdict), verdict == Verdict::Passed),
    };
    line([
        suite,
        &escape::printable(&check.about),
        &check.cases.to_string(),
        &check.numbers.to_string(),
        &error(check.worst),
        &error(check.tolerance),
        &coloured,
    ])
}

fn as_json(suite: &str, check: &Check) -> Value {
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
}
