//! Finished runs that do not stand in the output yet: `DIR/.<id>.runs/<hash of the run's identity>.json`, each the text
//! of one run as the output will have it.
//!
//! A run is safe as soon as its file is there, however long the output is. Who holds the output's lock writes it anew
//! from time to time, and then removes the files whose runs it has. Whoever reads looks into this folder first and
//! into the output second: a file that goes in between is in the output by then.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::file;
use super::identity::Identity;
use super::json::{self, Json, SyntaxError};
use crate::error::{Error, Result};
use crate::files;

/// Prefix of temporary files.
const TEMPORARY: &str = ".tmp-";
const EXTENSION: &str = "json";

/// The loose runs of an output.
#[derive(Debug)]
pub struct Loose {
    folder: PathBuf,
}

/// Texts of runs by the hash of their identity.
pub type Texts = BTreeMap<String, String>;

impl Loose {
    /// Of the output that is this file, behind all links.
    pub fn of(target: &Path) -> Loose {
        Loose {
            folder: file::beside(target, "runs"),
        }
    }

    /// Adds a run, or replaces one of the same identity. It is on disk when this returns.
    pub fn add(&self, hash: &str, text: &str) -> io::Result<()> {
        file::make(&self.folder)?;
        let path = self.folder.join(hash).with_extension(EXTENSION);
        file::replace(&path, TEMPORARY, |out| out.write_all(text.as_bytes()))
    }

    /// All runs that are there.
    pub fn read(&self) -> Result<Texts> {
        let mut texts = Texts::new();
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(e) if files::absent(&e) => return Ok(texts),
            Err(e) => return Err(Error::io("read", &self.folder, &e)),
        };
        for entry in entries {
            let entry = entry.map_err(|e| Error::io("read", &self.folder, &e))?;
            let path = entry.path();
            let hash = path.file_stem().and_then(|stem| stem.to_str());
            let (Some(hash), true) = (hash, path.extension().is_some_and(|e| e == EXTENSION))
            else {
                continue;
            };
            let text = match files::read_to_string(&path) {
                Ok(text) => text,
                // It stands in the output since.
                Err(e) if files::absent(&e) => continue,
                Err(e) => return Err(Error::io("read", &path, &e)),
            };
            if let Err(e) = json::parse(&text) {
                let path = path.display();
                return Err(Error::corrupt(format!(
                    "{path}: {e}; it holds one run: delete it, and the run is trained again"
                )));
            }
            texts.insert(hash.to_owned(), text);
        }
        Ok(texts)
    }

    /// Removes runs that the output has.
    pub fn remove<'a>(&self, hashes: impl IntoIterator<Item = &'a String>) {
        for hash in hashes {
            // One that stays is read as what it is: a run of the output.
            let _ = fs::remove_file(self.folder.join(hash).with_extension(EXTENSION));
        }
    }

    /// Removes the folder, if no run is in it. For when nobody is adding one.
    pub fn close(&self) {
        let _ = fs::remove_dir(&self.folder);
    }

    /// Removes what killed processes left half written. For who holds the output's lock.
    pub fn tidy(&self) -> io::Result<()> {
        match file::remove_left_overs(&self.folder, TEMPORARY) {
            Err(e) if files::absent(&e) => Ok(()),
            outcome => outcome,
        }
    }

    /// Removes all runs.
    pub fn clear(&self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Hands over all runs of an output with their texts: those of its file, of which loose ones are newer versions, then
/// the other loose ones.
pub fn all(
    output: &str,
    mut loose: Texts,
    mut each: impl for<'b> FnMut(&'b str, Json<'b>) -> std::result::Result<(), String>,
) -> std::result::Result<(), SyntaxError> {
    fn parse(text: &str) -> Json<'_> {
        json::parse(text).expect("parsed when it was read")
    }
    json::parse_items(output, |text, run| {
        let newer = match loose.is_empty() {
            true => None,
            false => loose.remove(&hash(&run)),
        };
        match &newer {
            Some(newer) => each(newer, parse(newer)),
            None => each(text, run),
        }
    })?;
    for text in loose.values() {
        let at_start = |message| SyntaxError {
            line: 1,
            column: 1,
            message,
        };
        each(text, parse(text)).map_err(at_start)?;
    }
    Ok(())
}

fn hash(run: &Json) -> String {
    let map = |key| match run.get(key).map(Json::to_value) {
        Some(serde_json::Value::Object(map)) => map,
        _ => serde_json::Map::new(),
    };
    Identity::new(&map("config"), &map("summary")).hash()
}
