//! The golden files: those in the binary, or others of the same names and format.

use std::io::{ErrorKind, Read};
use std::path::PathBuf;

use flate2::read::GzDecoder;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::files;

mod packed {
    include!(concat!(env!("OUT_DIR"), "/goldens.rs"));
}

pub enum Goldens {
    /// Those that travel inside the binary.
    Packed,
    /// A folder of files with the same names.
    Folder(PathBuf),
}

impl Goldens {
    /// The text of a golden file; `None` if there is no such file.
    pub fn text(&self, name: &str) -> Result<Option<String>> {
        match self {
            Goldens::Packed => {
                let found = packed::FILES.iter().find(|(file, _)| *file == name);
                Ok(found.map(|(_, bytes)| {
                    let mut text = String::new();
                    let read = GzDecoder::new(*bytes).read_to_string(&mut text);
                    read.expect("build.rs packed valid text");
                    text
                }))
            }
            Goldens::Folder(folder) => {
                let path = folder.join(name);
                match files::read_to_string(&path) {
                    Ok(text) => Ok(Some(text)),
                    Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
                    Err(e) => Err(Error::io("read", &path, &e)),
                }
            }
        }
    }

    /// A golden file's contents; `None` if there is no such file.
    pub fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        let value = serde_json::from_str(&text).map_err(|e| self.damaged(name, &e))?;
        Ok(Some(value))
    }

    /// The error for a golden file that does not hold what it should.
    pub fn damaged(&self, name: &str, why: &dyn std::fmt::Display) -> Error {
        let place = match self {
            Goldens::Packed => name.into(),
            Goldens::Folder(folder) => folder.join(name).display().to_string(),
        };
        Error::corrupt(format!("{place}: not a golden file of this format: {why}"))
    }
}

/// A number of a golden file, where those that are not finite are strings.
pub fn number(value: &Value) -> Option<f64> {
    match value {
        Value::String(text) => text.parse().ok(),
        other => other.as_f64(),
    }
}

/// All numbers of a list, however nested, in order.
pub fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(items) => items.iter().flat_map(numbers).collect(),
        other => number(other).into_iter().collect(),
    }
}

/// What the golden files hold of a tensor.
#[derive(Clone, Debug, serde::Deserialize)]
pub struct Digest {
    #[serde(default)]
    pub name: String,
    pub shape: Vec<usize>,
    pub sum: Value,
    pub l2: Value,
    pub first: Vec<Value>,
    pub last: Vec<Value>,
}

impl Digest {
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// The values shown, and their places in the flattened tensor.
    pub fn shown(&self) -> impl Iterator<Item = (usize, f64)> {
        let last_start = self.len() - self.last.len();
        let first = self.first.iter().enumerate();
        let last = self
            .last
            .iter()
            .enumerate()
            .map(move |(i, v)| (last_start + i, v));
        first
            .chain(last)
            .map(|(i, v)| (i, number(v).unwrap_or(f64::NAN)))
    }
}
