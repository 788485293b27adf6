//! Choosing a device, what is said where it cannot be had, and `bench-kernels`.

use crate::common::program::Folder;
use serde_json::{Value, json};
use stepback_native::device;

fn folder() -> Folder {
    let folder = Folder::new();
    let config = json!({
        "dataset": "synthetic_linear", "dataset_kwargs": {"p": 10, "n_samples": 50}, "model": "linear",
        "loss_func": "squared", "score_func": "squared", "opt": [{"name": "adam", "lr": 0.01}], "batch_size": 5,
        "max_epoch": 2, "n_runs": 1,
    });
    folder.config("good", &config);
    folder
}

#[test]
fn a_device_that_cannot_be_used_is_an_error_and_no_other_steps_in() {
    let folder = folder();
    let mut refused: Vec<(&str, &[&str])> = vec![
        (
            "--device gpu",
            &["unknown device \"gpu\"", "emulator", "cuda:N"],
        ),
        ("--device cuda:x", &["\"cuda:x\"", "cuda:N"]),
        ("--device cuda:-1", &["\"cuda:-1\""]),
        ("--precision tf32", &["--precision tf32", "CPU"]),
        ("--precision bf16", &["bf16", "fp32", "tf32"]),
    ];
    match device::usable_gpus() {
        // A binary without kernels, or a machine without driver or GPU.
        Err(error) => {
            let why = error.message.split_once(": ").unwrap().1.to_owned();
            assert!(why.contains("nvcc") || why.contains("driver"), "{why}");
            let why: &'static str = why.leak();
            let say: &'static [&str] = [why, "--device cuda"].to_vec().leak();
            refused.extend([("--device cuda", say), ("--device cuda:7", say)]);
        }
        Ok(_) => refused.push((
            "--device cuda:99",
            &["--device cuda:99", "there are", "from 0"],
        )),
    }
    for (arguments, fragments) in refused {
        for command in [
            "train good.json",
            "verify --suite optimizers",
            "bench-kernels",
        ] {
            let ran = folder.run(&format!("{command} {arguments}"));
            // bench-kernels takes a GPU where there is one.
            if command == "bench-kernels" && arguments == "--precision tf32" {
                continue;
            }
            ran.code(2).says(fragments);
        }
        assert!(!folder.exists("output"), "{arguments} wrote something");
    }
}

#[test]
fn several_devices_must_be_gpus() {
    let folder = folder();
    let train = |devices: &str| folder.run(&format!("train good.json --device {devices}"));
    for devices in ["cpu,cuda:0", "cpu,emulator", "cpu,cpu"] {
        let say = ["--device", "cpu cannot be one of several devices"];
        train(devices).code(2).says(&say);
    }
    train("cpu,").code(2);
    assert!(!folder.exists("output"));
}

#[test]
fn devices_are_listed_with_what_keeps_them_from_use() {
    let ran = folder().run("devices").code(0);
    let line = |name: &str| {
        let lines = ran.stdout.lines().map(str::trim);
        lines
            .into_iter()
            .find(|l| l.starts_with(name))
            .unwrap()
            .to_owned()
    };
    assert!(line("cpu").contains("yes"));
    let usable = |yes: bool| if yes { "yes" } else { "no" };
    assert!(line("emulator").contains(usable(device::emulator_usable().is_ok())));
    match device::usable_gpus() {
        Ok(gpus) => assert!(line("cuda:0").contains(&gpus[0])),
        Err(error) => assert!(line("cuda").contains(error.message.split_once(": ").unwrap().1)),
    }
}

fn bench(folder: &Folder, arguments: &str) -> Value {
    let ran = folder
        .run(&format!("bench-kernels --json {arguments}"))
        .code(0);
    serde_json::from_str(&ran.stdout).unwrap()
}

#[test]
fn a_filter_that_nothing_matches_is_an_error() {
    let ran = folder().run("bench-kernels --device cpu --filter zzz");
    ran.code(2).says(&["--filter zzz", "no op"]);
}

#[test]
fn kernels_are_compared_with_the_cpu_on_the_emulator() {
    if device::emulator_usable().is_err() {
        return;
    }
    let folder = folder();
    let report = bench(&folder, "--device emulator --filter relu");
    assert_eq!(report["device"], "emulator");
    let names = |key: &str| -> Vec<&str> {
        let lines = report[key].as_array().unwrap();
        lines.iter().map(|l| l["name"].as_str().unwrap()).collect()
    };
    assert_eq!(
        names("peaks"),
        ["copy", "l2", "launch", "peak_fp32", "peak_tf32"]
    );
    let rows = names("rows");
    assert_eq!(rows.iter().filter(|name| **name == "relu").count(), 4);
    assert!(rows.iter().all(|name| name.contains("relu")), "{rows:?}");
    for line in report["rows"].as_array().unwrap() {
        assert_eq!(line["error"], 0.0);
        assert!(line["bytes"].as_u64().unwrap() > 0);
        assert!(
            line["seconds"].is_null(),
            "the emulator's times mean nothing"
        );
    }
    let report = bench(&folder, "--device emulator --filter adam");
    let mut rows = report["rows"].as_array().unwrap().iter();
    assert!(rows.all(|l| l["error"].as_f64().unwrap() < 1e-5));
    let report = bench(&folder, "--device emulator --filter mnist");
    let experiment = &report["experiments"][0];
    assert!(experiment["kernels"].as_u64().unwrap() >= 1);
    assert!(experiment["cannot"].is_null(), "{experiment}");
}

#[test]
fn times_of_an_earlier_report_are_compared() {
    let folder = folder();
    let ran = folder
        .run("bench-kernels --device cpu --filter gelu --json")
        .code(0);
    folder.write("before.json", &ran.stdout);
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert!(
        report["rows"]
            .as_array()
            .unwrap()
            .iter()
            .all(|l| l["seconds"].as_f64() > Some(0.0))
    );
    let again = bench(&folder, "--device cpu --filter gelu --baseline before.json");
    let rows = |report: &Value| report["rows"].as_array().unwrap().clone();
    for (now, before) in rows(&again).iter().zip(rows(&report)) {
        assert_eq!(now["baseline_seconds"], before["seconds"]);
    }
    let table = folder
        .run("bench-kernels --device cpu --filter gelu --baseline before.json")
        .code(0);
    let line = table.stdout.lines().find(|l| l.contains("gelu")).unwrap();
    let ratio: f64 = line.split_whitespace().last().unwrap().parse().unwrap();
    assert!(ratio > 0.0);
    // An experiment's line, too.
    let ran = folder
        .run("bench-kernels --device cpu --filter mnist")
        .code(0);
    let line = ran
        .stdout
        .lines()
        .find(|l| l.contains("mnist_mlp"))
        .unwrap();
    let numbers = line.split_whitespace().filter(|w| w.parse::<f64>().is_ok());
    // Batch, kernels, ms, samples/s.
    assert_eq!(numbers.count(), 4, "{line}");

    folder.write("other.json", "{\"rows\": 3}");
    let arguments = "bench-kernels --device cpu --baseline";
    folder
        .run(&format!("{arguments} other.json"))
        .code(65)
        .says(&["other.json", "bench-kernels"]);
    folder
        .run(&format!("{arguments} none.json"))
        .code(74)
        .says(&["none.json"]);
    // The model takes the rates of a GPU alone.
    let arguments = "bench-kernels --filter mnist --machine";
    folder
        .run(&format!("{arguments} before.json --device plan"))
        .code(65)
        .says(&["before.json", "measured on cpu"]);
    folder
        .run(&format!("{arguments} before.json --device cpu"))
        .code(2)
        .says(&["--machine", "--device plan"]);
}
