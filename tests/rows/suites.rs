//! The suites of `verify`: all pass.

use std::path::PathBuf;

use crate::common::kernels::machines;
use crate::common::program::Folder;
use crate::trial;
use libtest_mimic::Trial;
use stepback_native::device::Target;
use stepback_native::device::gpu::Precision;
use stepback_native::verify::{Check, Context, Goldens, SUITES, Suite, Verdict};

/// Suites that need files which cannot be computed.
const NEED_DATA: [&str; 2] = ["mnist", "cifar"];

pub fn trials() -> Vec<Trial> {
    let trials = SUITES.iter().map(|suite| {
        let name = format!("suites::{}", suite.name);
        trial(name, || passes(suite, Target::CPU))
    });
    let by_kernels = ["optimizers", "catalogue"].map(|name| {
        trial(format!("suites::{name}_by_kernels"), move || {
            let suite = SUITES.iter().find(|suite| suite.name == name);
            for machine in machines(1) {
                passes(suite.unwrap(), machine.target(Precision::Fp32));
            }
        })
    });
    trials.chain(by_kernels).collect()
}

fn passes(suite: &Suite, target: Target) {
    let data_dir = std::env::var_os("STEPBACK_DATA_DIR");
    let context = Context {
        goldens: Goldens::packed(),
        data_dir: data_dir.map_or_else(|| Folder::new().path("none"), PathBuf::from),
        target,
    };
    let checks = (suite.run)(&context).unwrap();
    for check in &checks {
        assert!(check.verdict() != Verdict::Failed, "{check:?}");
    }
    if !NEED_DATA.contains(&suite.name) {
        let mut verdicts = checks.iter().map(Check::verdict);
        let passed = verdicts.any(|v| v == Verdict::Passed);
        assert!(passed, "it was skipped: {checks:?}");
    }
}
