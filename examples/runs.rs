//! Trains a small sweep from Rust, with a method of its own beside Adam: `cargo run --release --example runs`.

use std::fs;

use stepback_native::cli::vocabulary;
use stepback_native::config::{self, Changes, MAX_RUNS};
use stepback_native::data::{Library, fetch};
use stepback_native::device::{Machine, Target};
use stepback_native::results::Epoch;
use stepback_native::train::{self, Watch};
use stepback_native::{Error, Result};

/// Signs of a running average of the gradient, scaled by its size. docs/optimizers.md has the language.
const METHOD: &str = r#"
name = "scaled-signs"
about = "Signs of momentum, times its mean absolute value"

[defaults]
beta = 0.9

[state]
vectors = ["m"]

[step]
code = """
m = beta*m + (1 - beta)*g
w = w - lr*mean(abs(m))*sign(m)
"""
"#;

const CONFIG: &str = r#"{
  "dataset": "synthetic_linear", "dataset_kwargs": {"p": 20, "n_samples": 200}, "model": "linear",
  "loss_func": "squared", "score_func": "squared",
  "opt": [{"name": "adam", "lr": [0.01, 0.1]}, {"name": "scaled-signs.toml", "lr": [0.1, 1.0]}],
  "batch_size": 20, "max_epoch": 30, "n_runs": 2
}"#;

/// Prints every tenth epoch.
struct Print;

impl Watch for Print {
    fn epoch(&self, done: &Epoch) {
        if done.epoch % 10 == 9 {
            println!(
                "  epoch {}: validation loss {:.3e}",
                done.epoch, done.val_loss
            );
        }
    }
}

fn main() -> Result<()> {
    let folder = std::env::temp_dir().join("stepback-native-runs");
    let (method, config) = (folder.join("scaled-signs.toml"), folder.join("runs.json"));
    fs::create_dir_all(&folder)
        .and_then(|()| fs::write(&method, METHOD))
        .and_then(|()| fs::write(&config, CONFIG))
        .map_err(|e| Error::io("write in", &folder, &e))?;

    let experiment = config::load(&config, &vocabulary(), &Changes::default(), MAX_RUNS)?;
    let library = Library::new("data", true, fetch::Options::new(Vec::new(), true));
    for run in &experiment.runs {
        println!("{}", run.label());
        let data = library.load(run)?;
        let result = train::run(run, &data, Machine::open(Target::CPU)?, None, None, &Print)?;
        let result = result.expect("nobody stops it");
        let cost = &result.summary["state_bytes_per_parameter"];
        println!(
            "  {} epochs, {cost} bytes of state a parameter",
            result.history.len()
        );
    }
    Ok(())
}
