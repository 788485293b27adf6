//! Runs as list-type configs again: whole, or cut into parts for several machines.

use serde_json::Value;

use super::RunConfig;
use super::read::CONFIG;
use crate::error::{Error, Result};

/// The text of a list-type config of these runs, one on each line.
pub fn list(runs: &[RunConfig]) -> String {
    let lines: Vec<String> = runs
        .iter()
        .map(|run| Value::Object(run.to_json()).to_string())
        .collect();
    format!("[\n{}\n]\n", lines.join(",\n"))
}

/// Cuts an experiment into `parts` list-type configs, fewer if it has fewer runs: neighbouring runs stay
/// together and in order, and lengths differ by one at most. Gives names without `.json` and texts; the
/// names are `ID-01`, `ID-02`, ..., with as many digits as sort them.
///
/// # Errors
/// A usage error if a part would be too large to be read again.
pub fn split(id: &str, runs: &[RunConfig], parts: usize) -> Result<Vec<(String, String)>> {
    let parts = parts.min(runs.len());
    let digits = parts.to_string().len().max(2);
    let start = |part: usize| (part as u128 * runs.len() as u128 / parts as u128) as usize;
    let named = |part: usize| {
        let text = list(&runs[start(part)..start(part + 1)]);
        if text.len() > CONFIG.most {
            return Err(Error::usage(format!(
                "a part would be larger than 16 MB, which no config may be: make more than {parts} parts"
            )));
        }
        Ok((format!("{id}-{:0digits$}", part + 1), text))
    };
    (0..parts).map(named).collect()
}
