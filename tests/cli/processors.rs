//! Which processors and instruction sets the program runs on.

use std::process::{Command, Output};

use serde_json::json;

use crate::common::program::{Folder, Ran, without_times};
use crate::common::skip::skip;

const PROGRAM: &str = env!("CARGO_BIN_EXE_stepback-native");

/// A program on another processor, by qemu's user mode; nothing where there is no qemu.
fn emulated(folder: &Folder, processor: &str, program: &str, arguments: &str) -> Option<Output> {
    let mut command = Command::new("qemu-x86_64");
    command
        .args(["-cpu", processor, program])
        .args(arguments.split_whitespace())
        .env_remove("STEPBACK_SIMD")
        .current_dir(folder.path(""));
    command.output().ok()
}

fn skipped(test: &str) {
    skip(
        &format!("processors::{test}"),
        "there is no qemu-x86_64 (Debian: qemu-user)",
    );
}

/// It says so before anything of it runs, instead of dying of an illegal instruction; so does a test.
#[test]
fn an_old_processor_is_told() {
    let (folder, test) = (Folder::new(), std::env::current_exe().unwrap());
    for (program, arguments) in [
        (PROGRAM, "--version"),
        (PROGRAM, "train x.json"),
        (test.to_str().unwrap(), "--list"),
    ] {
        let Some(ran) = emulated(&folder, "Nehalem", program, arguments) else {
            return skipped("an_old_processor_is_told");
        };
        let ran = Ran::from(ran).code(2);
        let ran = ran.says(&["AVX2 and FMA", "target-cpu=native"]);
        assert_eq!((ran.stdout.as_str(), ran.stderr.lines().count()), ("", 1));
    }
}

/// The bits of a processor that has AVX2 and no more.
#[test]
fn the_instruction_set_can_be_chosen() {
    let folder = Folder::new();
    folder.config(
        "x",
        &json!({
            "dataset": "synthetic_linear", "dataset_kwargs": {"p": 50, "n_samples": 200}, "model": "mlp",
            "model_kwargs": {"output_size": 1, "hidden_sizes": [70, 40]}, "loss_func": "squared",
            "score_func": "squared", "opt": {"name": "adam"}, "batch_size": 20, "max_epoch": 1, "n_runs": 1,
        }),
    );
    let train = |set: &str| -> Ran {
        let mut command = folder.command("train -q x.json");
        command.env("STEPBACK_SIMD", set).output().unwrap().into()
    };
    for wrong in ["sse", "AVX2", "avx\n2"] {
        let ran = train(wrong).code(2);
        ran.says(&["STEPBACK_SIMD=", "this machine has avx2"]);
    }
    train("avx2").code(0);
    // Nothing is as good as unset.
    train("").code(0);
    let arguments = "train -q x.json --output-dir emulated";
    let Some(ran) = emulated(&folder, "Haswell", PROGRAM, arguments) else {
        return skipped("the_instruction_set_can_be_chosen");
    };
    assert!(ran.status.success(), "{ran:?}");
    let history = |output: &str| {
        let text = without_times(&folder.read(&format!("{output}/x.json")));
        text.split("\"summary\"").next().unwrap().to_owned()
    };
    assert_eq!(history("output"), history("emulated"));
}
