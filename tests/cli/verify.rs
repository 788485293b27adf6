//! `verify`: suites fail where a number is wrong. That all pass is seen in tests/rows/suites.rs.

use std::path::Path;

use crate::common::program::Folder;
use serde_json::Value;
use stepback_native::device::Target;
use stepback_native::verify::{Context, Goldens, SUITES, Verdict};

/// A file of goldens; of networks only the small ones, which come first: the others take seconds.
fn golden(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("records/goldens");
    let text = std::fs::read_to_string(path.join(name)).unwrap();
    if name != "models.json" {
        return text;
    }
    let mut json: Value = serde_json::from_str(&text).unwrap();
    json["cases"].as_array_mut().unwrap().truncate(2);
    json.to_string()
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
    let edits: [(&str, &str, &str); 10] = [
        ("next_stats.json", "statistics", "/bootstrap_mean/1/ci"),
        ("next_schedules.json", "schedules", "/further/14/lr"),
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

/// Faults of one part in 100,000 are beyond the reference's own spread: the suite is red if a hyper-parameter of ours
/// is off. What is recorded of it, the learning rate, is off in the reference as well, so as to count for nothing.
#[test]
fn small_faults_are_red() {
    let file = "ensemble/runs_small.json";
    let ensemble: Value = serde_json::from_str(&golden(file)).unwrap();
    let failures = |ensemble: &Value| {
        let folder = Folder::new();
        folder.write(&format!("goldens/{file}"), ensemble.to_string());
        let context = Context {
            goldens: Goldens::folder(folder.path("goldens")),
            data_dir: folder.path("none"),
            target: Target::CPU,
        };
        let suite = SUITES.iter().find(|suite| suite.name == "runs").unwrap();
        let checks = (suite.run)(&context).unwrap();
        assert_eq!(checks[0].cases, 34, "{checks:?}");
        let failed = checks.iter().filter(|c| c.verdict() == Verdict::Failed);
        failed.map(|c| c.at.clone()).collect::<Vec<_>>()
    };
    assert_eq!(failures(&ensemble), [""; 0]);

    // Which run, which key, the value it should have and by how much it is off.
    let faults: [(&str, &str, &str, f64, f64); 10] = [
        ("squared", "sgd", "lr", 0.1, 1e-5),
        ("squared", "sgd-m", "lr", 0.05, 1e-5),
        ("squared", "sgd-m", "momentum", 0.9, 1e-5),
        ("squared", "adam", "lr", 0.01, 1e-5),
        ("squared", "adam", "eps", 1e-8, 1e3),
        ("squared", "momo-adam", "lr", 0.1, 1e-5),
        ("squared", "momo-star", "lr", 0.1, 1e-5),
        ("logistic", "adamw", "weight_decay", 0.1, 1e-4),
        ("logistic", "lion", "lr", 0.01, 1e-5),
        ("logistic", "momo", "beta", 0.9, 1e-5),
    ];
    for (loss, method, key, value, off) in faults {
        let mut ensemble = ensemble.clone();
        let runs = ensemble["runs"].as_array_mut().unwrap();
        let run = runs
            .iter_mut()
            .find(|run| {
                run["config"]["loss_func"] == loss && run["config"]["opt"]["name"] == method
            })
            .unwrap();
        let wrong = value * (1.0 + off);
        let opt = &mut run["config"]["opt"];
        assert!(opt.get(key).is_none_or(|written| written == value), "{opt}");
        opt[key] = wrong.into();
        let members = run["members"].as_object_mut().unwrap().values_mut();
        for epoch in members.flat_map(|history| history.as_array_mut().unwrap()) {
            if key == "lr" {
                let rate = epoch["learning_rate"].as_f64().unwrap();
                epoch["learning_rate"] = (rate * (1.0 + off)).into();
            }
        }
        let failed = failures(&ensemble);
        assert_eq!(failed.len(), 1, "{loss} {method} {key}");
        assert!(failed[0].contains(&wrong.to_string()), "{}", failed[0]);
    }
}

/// What a folder of goldens holds and nobody compares is told.
#[test]
fn cases_that_are_not_compared_are_skipped_visibly() {
    let folder = Folder::new();
    let change = |file: &str, places: &[&str], to: Value| {
        let mut json: Value = serde_json::from_str(&golden(file)).unwrap();
        for place in places {
            *json.pointer_mut(place).unwrap() = to.clone();
        }
        folder.write(&format!("goldens/{file}"), json.to_string());
    };
    change(
        "runs_tiny_cifar.json",
        &[
            "/runs/0/config/model",
            "/runs/1/config/model",
            "/runs/2/config/model",
        ],
        "mixer".into(),
    );
    change("models.json", &["/cases/0/model"], "gpt".into());
    change("init.json", &["/cases/0/model"], "mamba".into());
    change("optimizers.json", &["/cases/0/opt/name"], "sonia-g".into());
    change(
        "schedules.json",
        &["/cases/0/lr_schedule"],
        "onecycle".into(),
    );
    change("datasets.json", &["/cases/0/dataset"], "enwik8".into());
    change(
        "runs_small.json",
        &["/runs/0/config/opt/name"],
        "shampoo".into(),
    );
    folder.write("goldens/next_vit.json", "{}");
    folder.write("goldens/one_thread/runs_mnist.json", "{}");
    let ran = folder.run("verify --goldens goldens").code(0);
    for word in [
        "mixer",
        "gpt",
        "mamba",
        "sonia-g",
        "onecycle",
        "enwik8",
        "shampoo",
        "next_vit.json",
        "one_thread/runs_mnist.json",
        "no ensemble/runs_small.json",
        "no ensemble/models.json",
        "no ensemble/runs_tiny_cifar.json",
        "no runs_mnist.json",
    ] {
        let told = ran.stdout.lines().filter(|line| line.contains(word));
        let told: Vec<_> = told
            .filter(|line| line.contains("skipped: ") || line.starts_with("    "))
            .collect();
        assert_eq!(told.len(), 1, "{word}: {}", ran.stdout);
    }
}

/// A table, remarks below it, each once, and the sum.
#[test]
fn the_report_ends_with_the_sum() {
    let folder = Folder::new();
    let command = "verify --suite schedules --suite mnist --suite cifar";
    let ran = folder.run(command).code(0);
    let text = &ran.stdout;
    assert!(
        text.ends_with("\n\n2 passed, 0 failed, 3 skipped\n"),
        "{text}"
    );
    assert!(!text.contains('\x1b'), "{text}");
    assert_eq!(
        text.matches("the files of mnist are missing").count(),
        1,
        "{text}"
    );
    assert_eq!(
        text.matches("the files of cifar10 are missing").count(),
        1,
        "{text}"
    );
    assert!(text.contains("data import mnist"), "{text}");
    let (table, _) = text.split_once("\n\n").unwrap();
    assert_eq!(table.lines().count(), 6, "{text}");
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
            ("next_schedules.json", "schedules"),
            ("optimizers.json", "optimizers"),
            ("catalogue.json", "catalogue"),
            ("sampler.json", "sampler"),
            ("models.json", "models"),
            ("runs_small.json", "runs"),
            ("augment.json", "augment"),
            ("runs_tiny_cifar.json", "networks"),
            ("ensemble/runs_tiny_cifar.json", "networks"),
            ("ensemble/models.json", "models"),
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
