//! Any bytes as a shard whose checksums are right: refused, or a run is trained on it to its end.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::json;
use std::fs;
use std::sync::Arc;
use stepback_native::config::RunConfig;
use stepback_native::data::shard::{Features, HEADER, Shard};
use stepback_native::data::{Pair, Part, Request};
use stepback_native::device::{Machine, Target};
use stepback_native::error::Kind;
use stepback_native::train::run;
use stepback_native_fuzz::{files, folder, form, reseal};

/// The data set that a shard claims to be of, and a run on it.
fn config(features: Features) -> RunConfig {
    let mut config = match features {
        // A linear model takes flat images.
        Features::Bytes => json!({
            "dataset": "mnist", "dataset_kwargs": {"as_image": false}, "model": "linear",
            "model_kwargs": {"output_size": 10}, "loss_func": "cross_entropy",
        }),
        Features::Floats => json!({
            "dataset": "sensor", "model": "matrix_completion", "model_kwargs": {"dim": [64, 64], "rank": 2},
            "loss_func": "squared",
        }),
        Features::Sparse => json!({"dataset": "a1a", "model": "linear", "loss_func": "logistic"}),
        Features::Tokens => json!({
            "dataset": "shakespeare", "model": "llama", "loss_func": "sequence_cross_entropy",
            "model_kwargs": {"vocab_size": 96, "dim": 8, "expand": 1, "n_layers": 1, "n_heads": 2, "seq_len": 4},
        }),
    };
    config["score_func"] = config["loss_func"].clone();
    config["opt"] = json!({"name": "sgd", "lr": 0.1});
    config["batch_size"] = json!(1);
    config["max_epoch"] = json!(1);
    config["run_id"] = json!(0);
    RunConfig::from_json(config.as_object().unwrap()).unwrap()
}

fuzz_target!(|bytes: &[u8]| {
    if bytes.len() < HEADER {
        return;
    }
    let mut bytes = bytes.to_vec();
    reseal(&mut bytes);
    let dir = folder();
    let path = dir.path().join("x.shard");
    fs::write(&path, bytes).unwrap();
    let Ok(shard) = Shard::open(&path) else {
        return;
    };
    let config = config(shard.header().features);
    let name = config.dataset.as_str();
    // Wide or long ones are sound, and take long.
    let small = shard.header().samples < 50 && shard.header().sample.iter().all(|d| *d < 5000);
    if !small || shard.check_form(form(name), name).is_err() {
        return;
    }
    let split = match (files(name).open)(shard, Part::Val, &Request::from(&config)) {
        Ok(split) => Arc::new(split),
        // Shorter than a window.
        Err(e) => return assert_eq!(e.kind, Kind::Usage, "{e}"),
    };
    let data = Pair {
        train: split.clone(),
        val: split,
    };
    let machine = Machine::open(Target::CPU).unwrap();
    match run(&config, &data, machine, None, None, &()) {
        Ok(result) => assert_eq!(result.unwrap().history.len(), 1),
        // A place outside of the matrix.
        Err(e) => assert_eq!(e.kind, Kind::Usage, "{e}"),
    }
});
