//! Language models: trained on a text, they write one.

use crate::common::program::{Folder, Ran};
use serde_json::{Value, json};

const SENTENCE: &str = "the quick brown fox jumps over a lazy dog. ";

/// Four pages of one sentence, and a model that has learned it soon.
fn config() -> Value {
    json!({
        "dataset": "text",
        "dataset_kwargs": {"file": "pages.txt"},
        "model": "llama",
        "model_kwargs": {"vocab_size": 28, "dim": 32, "expand": 2, "n_layers": 1, "n_heads": 2, "seq_len": 32},
        "loss_func": "sequence_cross_entropy",
        "score_func": "sequence_cross_entropy_accuracy",
        "opt": {"name": "adamw", "lr": 0.01},
        "batch_size": 8,
        "max_epoch": 8,
        "run_id": 0,
    })
}

fn folder() -> Folder {
    let folder = Folder::new();
    folder.write("data/pages.txt", SENTENCE.repeat(200));
    folder
}

/// As [`Folder::run`], an argument with blanks behind the others.
fn run(folder: &Folder, arguments: &str, last: &str) -> Ran {
    folder.command(arguments).arg(last).output().unwrap().into()
}

/// The file of weights of the only run.
fn weights(folder: &Folder, of: &str) -> String {
    let names = folder.names(of);
    let file = names.iter().find(|name| name.ends_with("safetensors"));
    format!("{of}/{}", file.expect("a file of weights"))
}

#[test]
fn a_model_writes_the_text_that_it_was_trained_on() {
    let folder = folder();
    folder.config("pages", &json!([config()]));
    let train = "train -q pages.json --save-weights=w";
    folder.run(train).code(0);
    let runs: Value = serde_json::from_str(&folder.read("output/pages.json")).unwrap();
    let (summary, history) = (&runs[0]["summary"], &runs[0]["history"]);
    assert_eq!(summary["input_dim"], json!([32]));
    assert_eq!(summary["output_dim"], json!([32]));
    assert_eq!(summary["vocabulary"].as_str().unwrap().len(), 28);
    assert!(history[7]["val_score"].as_f64().unwrap() > 0.9, "{history}");
    let file = weights(&folder, "w/pages");
    let likeliest = format!("sample {file} --temperature 0 --tokens 60 --prompt");
    let expected = format!("{}\n", &SENTENCE.repeat(2)[..66]);
    let written = run(&folder, &likeliest, "the qu").code(0);
    assert_eq!(written.stdout, expected);
    let sample = |rest: &str| {
        folder
            .run(&format!("sample {file} --tokens 50 {rest}"))
            .code(0)
            .stdout
    };
    let warm = sample("--prompt fox --temperature 2");
    assert_eq!(warm, sample("--prompt fox --temperature 2 --seed 1"));
    assert_ne!(warm, sample("--prompt fox --temperature 2 --seed 2"));
    let object: Value =
        serde_json::from_str(&sample("--prompt fox --temperature 2 --json")).unwrap();
    assert_eq!(format!("fox{}\n", object["text"].as_str().unwrap()), warm);
    if cfg!(emulator) {
        let few = format!("sample {file} --temperature 0 --tokens 2 --device emulator --prompt");
        assert_eq!(run(&folder, &few, "the qu").code(0).stdout, "the quic\n");
    }

    // A text of as many other characters is not one that this model reads.
    folder.write("data/pages.txt", SENTENCE.to_uppercase().repeat(200));
    folder
        .run(&format!(
            "train -q pages.json --overwrite --init-weights {file}"
        ))
        .says(&["another vocabulary", &file])
        .code(2);
}

#[test]
fn what_no_model_can_write_is_an_error() {
    let folder = folder();
    let mut short = config();
    short["max_epoch"] = json!(1);
    folder.config("pages", &json!([short]));
    folder.run("train -q pages.json --save-weights=w").code(0);
    let file = weights(&folder, "w/pages");
    for (arguments, last, says) in [
        ("--prompt", "the éclair", "lacks \"é\""),
        ("--prompt", "", "empty"),
        ("--temperature", "NaN", "expected a finite number"),
        ("--temperature", "inf", "expected a finite number"),
        ("--temperature", "-1", "expected a finite number, 0 or more"),
        ("--device", "gpu", "gpu"),
    ] {
        let command = format!("sample {file} {arguments}");
        run(&folder, &command, last).says(&[says]).code(2);
    }
    run(&folder, "sample", "none").says(&["none"]).code(74);
    let other = json!([{
        "dataset": "synthetic_linear", "dataset_kwargs": {"p": 4, "n_samples": 20}, "model": "linear",
        "loss_func": "squared", "score_func": "squared", "opt": {"name": "sgd", "lr": 0.1}, "max_epoch": 1, "run_id": 0,
    }]);
    folder.config("line", &other);
    folder.run("train -q line.json --save-weights=v").code(0);
    let line = weights(&folder, "v/line");
    run(&folder, "sample", &line)
        .says(&["linear on synthetic_linear", "not a language model"])
        .code(2);
}

#[test]
fn a_model_that_does_not_fit_its_text_is_an_error() {
    let folder = folder();
    for (key, value, says) in [
        ("vocab_size", json!(27), "at least 28 are needed"),
        ("n_heads", json!(3), "must divide dim, which is 32"),
        ("n_heads", json!(32), "so it must be even"),
        ("expand", json!(1e30), "too large"),
        ("mlp", json!("gelu"), "mlp, glu, mlp_relu_sq"),
        ("seq_len", json!(5000), "a window of 5000 needs"),
        ("seq_len", json!(0), "1 or more"),
    ] {
        let mut config = config();
        config["model_kwargs"][key] = value;
        folder.config("wrong", &json!([config]));
        folder.run("train -q wrong.json").says(&[says]).code(2);
    }
    let mut both = config();
    both["model_kwargs"]["mlp"] = json!("glu");
    both["model_kwargs"]["mlp_class"] = json!("mlp");
    let mut loss = config();
    loss["loss_func"] = json!("cross_entropy");
    let mut image = config();
    image["dataset"] = json!("synthetic_linear");
    image["dataset_kwargs"] = json!({"p": 4, "n_samples": 20});
    for (config, says) in [
        (both, "another name of the same key"),
        (loss, "take sequence_cross_entropy"),
        (image, "it takes texts"),
    ] {
        folder.config("wrong", &json!([config]));
        folder.run("train -q wrong.json").says(&[says]).code(2);
    }
}
