//! JSON lines on runs: what `train --json` prints of finished ones, and what `train --log jsonl` writes of epochs.
//! docs/running.md says what is in them. They are strict JSON: numbers that are not finite become null.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::print;
use crate::config::RunConfig;
use crate::error::{Error, Result};
use crate::results::{Epoch, RunResult};

/// In every line. Another number says that a member is gone or means something else; new ones do not change it.
const SCHEMA: u32 = 1;

/// A finished run.
pub fn run(id: &str, result: &RunResult) -> Value {
    json!({
        "schema": SCHEMA,
        "event": "run",
        "id": id,
        "config": result.config,
        "last_epoch": result.history.last().map(numbers),
        "summary": result.summary,
    })
}

/// An epoch of a run.
pub fn epoch(id: &str, config: &RunConfig, done: &Epoch) -> Value {
    let mut line = Map::new();
    line.insert("schema".into(), SCHEMA.into());
    line.insert("event".into(), "epoch".into());
    line.insert("id".into(), id.into());
    line.insert("run".into(), config.label().into());
    line.append(&mut numbers(done));
    line.into()
}

fn numbers(epoch: &Epoch) -> Map<String, Value> {
    let numbers = json!({
        "epoch": epoch.epoch,
        "learning_rate": epoch.learning_rate.to_value(),
        "model_norm": epoch.model_norm,
        "grad_norm": epoch.grad_norm,
        "train_loss": epoch.train_loss,
        "train_score": epoch.train_score,
        "val_loss": epoch.val_loss,
        "val_score": epoch.val_score,
        "train_epoch_time": epoch.train_epoch_time,
        "eval_epoch_time": epoch.eval_epoch_time,
    });
    match numbers {
        Value::Object(numbers) => numbers,
        _ => unreachable!("it is an object"),
    }
}

/// Where lines go.
pub enum Lines {
    Stdout,
    File(PathBuf, File),
}

impl Lines {
    /// At the end of a file, which several processes may write: a line is one write. Stdout without one.
    pub fn open(path: Option<&Path>) -> Result<Lines> {
        let Some(path) = path else {
            return Ok(Lines::Stdout);
        };
        let file = OpenOptions::new().append(true).create(true).open(path);
        let file = file.map_err(|e| Error::cannot_write(path, &e))?;
        Ok(Lines::File(path.to_owned(), file))
    }

    pub fn write(&self, line: &Value) -> Result<()> {
        match self {
            Lines::Stdout => print::json(line),
            Lines::File(path, file) => {
                let text = format!("{line}\n");
                let mut file = file;
                file.write_all(text.as_bytes())
                    .map_err(|e| Error::io("write", path, &e))
            }
        }
    }
}
