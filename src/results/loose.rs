//! Finished runs that do not stand in the output yet: `DIR/.<id>.runs/<hash of the run's identity>.json`, each the text
//! of one run as the output will have it.
//!
//! A run is safe as soon as its file is there, however long the output is. A reader looks into this folder first and
//! into the output second: a file that goes in between is in the output by then. `store.rs` says when one goes.
//!
//! The folder also holds the claims of the runs that are under way (`writers.rs`), `<hash>.failed`, why a run could not be
//! trained to its end, and `plan`, what is to be done (`progress.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::file;
use super::identity::Identity;
use super::json::{self, Json, SyntaxError};
use super::progress::Plan;
use super::writers::{Claimed, Writer};
use crate::error::{Error, Result};
use crate::files;

/// Prefix of temporary files.
const TEMPORARY: &str = ".tmp-";
const EXTENSION: &str = "json";
const CLAIM: &str = "claim";
const FAILED: &str = "failed";
const PLAN: &str = "plan";

/// The loose runs of an output.
#[derive(Debug)]
pub struct Loose {
    folder: PathBuf,
    syncs: Mutex<Syncs>,
}

/// How much time may be spent on making runs durable: where many end at nearly the same time, it is a small part of
/// theirs, and the next output makes the rest durable. Until then no kill loses them, but a power cut may.
#[derive(Debug)]
struct Syncs {
    allowance: f64,
    since: Instant,
}

impl Syncs {
    const MOST: f64 = 0.5;
    const SHARE: f64 = 0.05;

    fn is_allowed(&mut self) -> bool {
        let earned = Syncs::SHARE * self.since.elapsed().as_secs_f64();
        self.allowance = Syncs::MOST.min(self.allowance + earned);
        self.since = Instant::now();
        self.allowance > 0.0
    }
}

/// Texts of runs by the hash of their identity.
pub type Texts = BTreeMap<String, String>;

impl Loose {
    /// Of the output that is this file, behind all links.
    pub fn of(target: &Path) -> Loose {
        Loose {
            folder: file::beside(target, "runs"),
            syncs: Mutex::new(Syncs {
                allowance: Syncs::MOST,
                since: Instant::now(),
            }),
        }
    }

    /// The ids of the outputs in a folder that have such runs, or would have.
    pub fn outputs(dir: &Path) -> io::Result<BTreeSet<String>> {
        let mut ids = BTreeSet::new();
        for entry in fs::read_dir(dir)? {
            let name = entry?.file_name().into_string().unwrap_or_default();
            let id = name.strip_prefix('.').and_then(|n| n.strip_suffix(".runs"));
            ids.extend(id.map(str::to_owned));
        }
        Ok(ids)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What the output was, and what it will be: see `store.rs`.
    pub fn note(&self) -> PathBuf {
        self.folder.join("output")
    }

    fn path(&self, hash: &str, extension: &str) -> PathBuf {
        self.folder.join(hash).with_extension(extension)
    }

    /// Adds a run, or replaces one of the same identity. It is on disk when this returns, unless too many come at once.
    pub fn add(&self, hash: &str, text: &str) -> io::Result<()> {
        let path = self.path(hash, EXTENSION);
        let syncs = || self.syncs.lock().unwrap_or_else(PoisonError::into_inner);
        let write = |out: &mut dyn Write| out.write_all(text.as_bytes());
        if !syncs().is_allowed() {
            let put = || file::replace_in_memory(&path, TEMPORARY, write);
            return file::within(&self.folder, put);
        }
        let begin = Instant::now();
        file::within(&self.folder, || file::replace(&path, TEMPORARY, write))?;
        syncs().allowance -= begin.elapsed().as_secs_f64();
        Ok(())
    }

    pub fn contains(&self, hash: &str) -> bool {
        self.path(hash, EXTENSION).exists()
    }

    /// Claims a run for the process that trains it.
    pub fn claim(&self, hash: &str, writer: &Writer) -> io::Result<Claimed> {
        let place = self.path(hash, CLAIM);
        file::within(&self.folder, || writer.claim(&place))
    }

    /// Notes why a run could not be trained to its end, or that nothing is known of that any more.
    pub fn note_failure(&self, hash: &str, why: Option<&str>) -> io::Result<()> {
        let path = self.path(hash, FAILED);
        match why {
            Some(why) => {
                file::make(&self.folder)?;
                fs::write(path, why)
            }
            None => match fs::remove_file(path) {
                Err(e) if !files::absent(&e) => Err(e),
                _ => Ok(()),
            },
        }
    }

    pub fn has_failed(&self, hash: &str) -> bool {
        self.path(hash, FAILED).exists()
    }

    /// The hashes of what has this extension.
    fn all(&self, extension: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(e) if files::absent(&e) => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let mut hashes = Vec::new();
        for entry in entries {
            let path = PathBuf::from(entry?.file_name());
            let hash = path.file_stem().and_then(|stem| stem.to_str());
            let wanted = path.extension().is_some_and(|e| e == extension);
            hashes.extend(hash.filter(|_| wanted).map(str::to_owned));
        }
        Ok(hashes)
    }

    /// Those that have failed.
    pub fn failed(&self) -> io::Result<Vec<String>> {
        self.all(FAILED)
    }

    /// Why a run has failed.
    pub fn why(&self, hash: &str) -> String {
        files::read_to_string(&self.path(hash, FAILED)).unwrap_or_default()
    }

    /// Those whose files are there.
    pub fn finished(&self) -> io::Result<Vec<String>> {
        self.all(EXTENSION)
    }

    /// Those that are claimed, with the names of the processes that have them, or had them.
    pub fn claims(&self) -> io::Result<BTreeMap<String, String>> {
        let mut claims = BTreeMap::new();
        for hash in self.all(CLAIM)? {
            let owner = fs::read_dir(self.path(&hash, CLAIM));
            let owner = owner.into_iter().flatten().flatten().next();
            let owner = owner.and_then(|entry| entry.file_name().into_string().ok());
            claims.extend(owner.map(|owner| (hash, owner)));
        }
        Ok(claims)
    }

    /// What is to be done; none if nothing is, or nobody has said it.
    pub fn plan(&self) -> Result<Option<Plan>> {
        let path = self.folder.join(PLAN);
        match files::read(&path) {
            // One that older or newer versions have left says nothing.
            Ok(text) => Ok(serde_json::from_slice(&text).ok()),
            Err(e) if files::absent(&e) => Ok(None),
            Err(e) => Err(Error::io("read", &path, &e)),
        }
    }

    /// Says what is to be done, or that nothing is. For who holds the output's lock.
    pub fn set_plan(&self, plan: Option<&Plan>) -> io::Result<()> {
        let path = self.folder.join(PLAN);
        match plan {
            Some(plan) => {
                file::make(&self.folder)?;
                let text = serde_json::to_vec(plan)?;
                file::replace_in_memory(&path, TEMPORARY, |out| out.write_all(&text))
            }
            None => match fs::remove_file(path) {
                Err(e) if !files::absent(&e) => Err(e),
                _ => Ok(()),
            },
        }
    }

    /// All runs that are there, but for those that are `known`.
    pub fn read(&self, known: impl Fn(&str) -> bool) -> Result<Texts> {
        let mut texts = Texts::new();
        let hashes = self.all(EXTENSION);
        for hash in hashes.map_err(|e| Error::io("read", &self.folder, &e))? {
            if known(&hash) {
                continue;
            }
            let path = self.path(&hash, EXTENSION);
            let text = match files::read_to_string(&path) {
                Ok(text) => text,
                // It stands in the output since.
                Err(e) if files::absent(&e) => continue,
                Err(e) => return Err(Error::io("read", &path, &e)),
            };
            if text.is_empty() {
                // Of a power cut.
                continue;
            }
            if let Err(e) = json::parse(&text) {
                let path = path.display();
                return Err(Error::corrupt(format!(
                    "{path}: {e}; it holds one run: delete it, and the run is trained again"
                )));
            }
            texts.insert(hash, text);
        }
        Ok(texts)
    }

    /// Removes runs that the output has.
    pub fn remove<'a>(&self, hashes: impl IntoIterator<Item = &'a String>) {
        for hash in hashes {
            // One that stays is read as what it is: a run of the output.
            let _ = fs::remove_file(self.path(hash, EXTENSION));
        }
    }

    /// Removes the folder, if no run is in it. For when nobody is adding one.
    pub fn close(&self) {
        let _ = fs::remove_dir(&self.folder);
    }

    /// Removes what dead processes have left half done. For when nobody else writes the output.
    pub fn tidy(&self) -> io::Result<()> {
        for hash in self.all(CLAIM)? {
            fs::remove_dir_all(self.path(&hash, CLAIM))?;
        }
        // Those are tried again.
        for hash in self.failed()? {
            self.note_failure(&hash, None)?;
        }
        for hash in self.all(EXTENSION)? {
            let path = self.path(&hash, EXTENSION);
            if fs::metadata(&path)?.len() == 0 {
                fs::remove_file(path)?;
            }
        }
        file::remove_left_overs(&self.folder, TEMPORARY)
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
