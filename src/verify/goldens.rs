//! The golden files: those in the binary, or others of the same names and format.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::files;

mod packed {
    include!(concat!(env!("OUT_DIR"), "/goldens.rs"));
}

pub struct Goldens {
    /// A folder of files; those that travel inside the binary if there is none.
    folder: Option<PathBuf>,
    /// Names of the files that somebody has asked for.
    asked: RefCell<BTreeSet<PathBuf>>,
}

impl Goldens {
    /// Those inside the binary.
    pub fn packed() -> Goldens {
        Goldens {
            folder: None,
            asked: RefCell::default(),
        }
    }

    /// Those in a folder.
    pub fn folder(folder: PathBuf) -> Goldens {
        Goldens {
            folder: Some(folder),
            ..Goldens::packed()
        }
    }

    /// The text of a golden file; `None` if there is no such file.
    pub fn text(&self, name: &str) -> Result<Option<String>> {
        let Some(folder) = &self.folder else {
            let found = packed::FILES.iter().find(|(file, _)| *file == name);
            return Ok(found.map(|(_, bytes)| {
                let mut text = String::new();
                let read = GzDecoder::new(*bytes).read_to_string(&mut text);
                read.expect("build.rs packed valid text");
                text
            }));
        };
        let path = folder.join(name);
        let text = match files::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("read", &path, &e)),
        };
        self.asked.borrow_mut().insert(path);
        text
    }

    /// The JSON files of the folder, and of folders in it, that nobody has asked for.
    pub fn unread(&self) -> Result<Vec<PathBuf>> {
        let mut unread = Vec::new();
        if let Some(folder) = &self.folder {
            for path in entries(folder)? {
                match path.is_dir() {
                    true => unread.extend(entries(&path)?),
                    false => unread.push(path),
                }
            }
        }
        let asked = self.asked.borrow();
        unread
            .retain(|path| path.extension().is_some_and(|e| e == "json") && !asked.contains(path));
        Ok(unread)
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
        let place = match &self.folder {
            None => name.into(),
            Some(folder) => folder.join(name).display().to_string(),
        };
        Error::corrupt(format!("{place}: not a golden file of this format: {why}"))
    }
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = || {
        let entries = fs::read_dir(folder)?;
        let mut paths = entries
            .map(|entry| Ok(entry?.path()))
            .collect::<std::io::Result<Vec<_>>>()?;
        paths.sort();
        Ok(paths)
    };
    read().map_err(|e: std::io::Error| Error::io("read", folder, &e))
}

/// A number of a golden file, where those that are not finite are strings.
pub fn number(value: &Value) -> Option<f64> {
    match value {
        Value::String(text) => text.parse().ok(),
        other => other.as_f64(),
    }
}

/// A number as a golden file writes it.
pub fn written(x: f64) -> Value {
    if x.is_finite() {
        x.into()
    } else {
        x.to_string().into()
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
    pub fn of(name: &str, shape: &[usize], values: &[f32]) -> Digest {
        let exact = values.iter().map(|x| f64::from(*x));
        let shown = |values: &[f32]| values.iter().map(|x| written((*x).into())).collect();
        Digest {
            name: name.to_owned(),
            shape: shape.to_vec(),
            sum: written(exact.clone().sum()),
            l2: written(exact.map(|x| x * x).sum::<f64>().sqrt()),
            first: shown(&values[..values.len().min(4)]),
            last: shown(&values[values.len().saturating_sub(2)..]),
        }
    }

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

    /// All it says, as values of the size that the tensor's have, and their names.
    pub fn values(&self) -> Vec<(String, f64)> {
        let n = self.len() as f64;
        let real = |value| number(value).unwrap_or(f64::NAN);
        let means = [
            ("mean", real(&self.sum) / n),
            ("rms", real(&self.l2) / n.sqrt()),
        ];
        let means = means.map(|(what, x)| (format!("{} {what}", self.name), x));
        let shown = self
            .shown()
            .map(|(i, x)| (format!("{}[{i}]", self.name), x));
        means.into_iter().chain(shown).collect()
    }
}
