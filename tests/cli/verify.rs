//! `verify`: all suites pass, and fail where a number is wrong.

use std::path::{Path, PathBuf};

use crate::common::program::Folder;
use serde_json::Value;
use stepback_native::device::Target;
use stepback_native::verify::{Check, Context, Goldens, SUITES, Verdict};

/// Suites that need files which cannot be computed.
const NEED_DATA: [&str; 2] = ["mnist", "cifar"];

#[test]
fn every_suite_passes() {
    let data_dir = std::env::var_os("STEPBACK_DATA_DIR");
    let context = Context {
        goldens: Goldens::Packed,
        data_dir: data_dir.map_or_else(|| Folder::new().path("none"), PathBuf::from),
        target: Target::CPU,
    };
    for suite in SUITES {
        let checks = (suite.run)(&context).unwrap();
        for check in &checks {
            let failed = check.verdict() == Verdict::Failed;
            assert!(!failed, "{}: {check:?}", suite.name);
        }
        if !NEED_DATA.contains(&suite.name) {
            let mut verdicts = checks.iter().map(Check::verdict);
            assert!(
                verdicts.any(|v| v == Verdict::Passed),
                "{} was skipped: {checks:?}",
                suite.name
            );
        }
    }
}

fn golden(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("records/goldens");
    std::fs::read_to_string(path.join(name)).unwrap()
}

/// The first number below `value` that is not an integer.
fn first_real(value: &mut Value) -> Option<&mut Value> {
    match value {
        Value::Number(n) if n.is_f64() => Some(value),
        Value::Array(items) => items.iter_mut().find_map(first_real),
        Value::Object(map) => map.values_mut().find_map(first_real),
        _ => None,
    }
}

#[test]
fn one_changed_number_fails() {
    let edits: [(&str, &str, &str); 8] = [
        ("schedules.json", "schedules", "/cases/1/per_epoch"),
        ("rng.json", "random", "/torch_cpu_generator"),
        ("datasets.json", "datasets", ""),
        ("init.json", "init", "/cases/0/parameters/0/first"),
        ("models.json", "models", "/cases/0/train_logits"),
        ("runs_small.json", "runs", "/runs/0/history"),
        ("augment.json", "augment", "/eight_outputs/3/last"),
        ("augment.json", "augment", "/ninth_output_corner_3x3x3"),
    ];
    for (file, suite, place) in edits {
        let folder = Folder::new();
        let command = format!("verify --suite {suite} --goldens goldens");
        folder.write(&format!("goldens/{file}"), golden(file));
        let before = folder.run(&command).code(0);
        assert!(before.stdout.contains("passed"), "{}", before.stdout);

        let mut json: Value = serde_json::from_str(&golden(file)).unwrap();
        let number = first_real(json.pointer_mut(place).unwrap()).unwrap();
        *number = (number.as_f64().unwrap() * 1.5 + 0.01).into();
        folder.write(&format!("goldens/{file}"), json.to_string());
        let after = folder.run(&command).code(1);
        assert!(after.stdout.contains("FAILED"), "{}", after.stdout);
    }
}

#[test]
fn missing_goldens_are_skipped() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path("empty")).unwrap();
    let ran = folder.run("verify --goldens empty --json").code(0);
    let lines: Vec<Value> = (ran.stdout.lines())
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for suite in SUITES {
        assert!(lines.iter().any(|line| line["suite"] == suite.name));
    }
    for line in lines {
        assert_eq!(line["verdict"], "skipped");
        assert!(!line["skipped"][0].as_str().unwrap().is_empty());
    }
}

#[test]
fn damaged_goldens_are_named() {
    for content in ["{", "[3]", "{\"cases\": 3}", "", "\"text\""] {
        for (file, suite) in [
            ("schedules.json", "schedules"),
            ("optimizers.json", "optimizers"),
            ("sampler.json", "sampler"),
            ("models.json", "models"),
            ("runs_small.json", "runs"),
            ("augment.json", "augment"),
            ("runs_tiny_cifar.json", "networks"),
        ] {
            let folder = Folder::new();
            folder.write(&format!("goldens/{file}"), content);
            let ran = folder.run(&format!("verify --suite {suite} --goldens goldens"));
            ran.code(65).says(&[file]);
        }
    }
}

#[test]
fn wrong_arguments_are_usage_errors() {
    let folder = Folder::new();
    let unknown = folder.run("verify --suite optimisers").code(2);
    unknown.says(&["optimisers", "optimizers", "schedules"]);
    folder
        .run("verify --goldens nowhere")
        .code(2)
        .says(&["nowhere"]);
    folder
        .run("verify --threads 0")
        .code(2)
        .says(&["--threads"]);
}
