//! Checkpoints: what another process needs to go on with a run that was ended from outside, to the same bits.
//!
//! `DIR/.<id>.checkpoints/<run>-<rest>.safetensors` beside the output: `run` is the hash of the run's identity, `rest` that
//! of whatever else its bits depend on. The file holds the bytes of all that is on the run's machine and nowhere
//! else (`Trainer::pieces`), the history, and where the run stands. What follows from config and history alone (orders of
//! samples, rates, coefficients) is computed again.
//!
//! The process that has claimed a run writes and removes its files.

use std::collections::HashMap;
use std::fs;
use std::io::{self, ErrorKind, Read};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use md5::{Digest, Md5};
use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::step_log::LogSteps;
use super::trainer::Trainer;
use crate::config::canonical;
use crate::error::{Error, Kind, Result};
use crate::files;
use crate::results::identity::Identity;
use crate::results::json::{self, Json};
use crate::results::{Epoch, file, provenance};

/// Prefix of temporary files.
const TEMPORARY: &str = ".tmp-";
const EXTENSION: &str = "safetensors";

/// The tensor that holds the history, as the output would, and the last one: a checksum of all that is before it.
const HISTORY: &str = "history";
const SUM: &str = "crc32c";

/// Members of a file's metadata.
const OWNER: &str = "owner";
const POSITION: &str = "position";

/// Files that are told of; a sweep may have left many.
const TOLD: usize = 8;

/// Whose a checkpoint is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Owner {
    run: Identity,
    rest: Rest,
}

/// What a run's bits depend on beside its identity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Rest {
    /// Logged steps are part of the history.
    log_every_k_steps: Option<NonZeroUsize>,
    log_layers: bool,
    build: Map<String, Value>,
}

impl Rest {
    fn new(log: Option<LogSteps>) -> Rest {
        Rest {
            log_every_k_steps: log.map(|log| log.every),
            log_layers: log.is_some_and(|log| log.layers),
            build: provenance::of_bits(),
        }
    }

    /// 8 hexadecimal digits.
    fn hash(&self) -> String {
        files::hex(&Md5::digest(canonical(&json!(self)))[..4])
    }
}

impl Owner {
    /// In what it is another one: `opt.lr=0.1 instead of 0.01`.
    fn other_than(&self, run: &Identity, rest: &Rest) -> Vec<String> {
        let mut all = self.run.other_run(run);
        let logged = [&self.rest, rest].map(|rest| rest.log_every_k_steps);
        if logged[0] != logged[1] {
            let [this, that] = logged.map(|k| k.map_or("none".into(), |k| k.to_string()));
            all.push(format!("log-every-k-steps={this} instead of {that}"));
        }
        let layers = [&self.rest, rest].map(|rest| rest.log_layers);
        if layers[0] != layers[1] {
            let [this, that] = layers;
            all.push(format!("log-layers={this} instead of {that}"));
        }
        let builds = [&self.rest.build, &rest.build];
        let values = |key| builds.map(|build| build.get(key).unwrap_or(&Value::Null));
        let texts = builds[1].keys().filter_map(|key| {
            let [this, that] = values(key);
            (this != that).then(|| format!("{key}={this} instead of {that}"))
        });
        all.extend(texts);
        all
    }
}

/// The checkpoints of an output's runs.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    folder: PathBuf,
    /// A run writes one at most once in this time, or none.
    every: Option<Duration>,
    log: Option<LogSteps>,
    /// Those that are to be trained.
    runs: Vec<Identity>,
}

impl Checkpoints {
    /// Opens the folder, which need not be there.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn open(
        folder: PathBuf,
        every: Option<Duration>,
        log: Option<LogSteps>,
        runs: Vec<Identity>,
    ) -> Result<Checkpoints> {
        let usable = || match every {
            Some(_) if fs::symlink_metadata(&folder).is_ok() => {
                match file::probe(&folder, TEMPORARY) {
                    // Somebody has removed it, since it was empty.
                    Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
                    outcome => outcome,
                }
            }
            // Then it is made, beside an output that can be written.
            _ => Ok(()),
        };
        usable().map_err(|e| {
            let folder = folder.display();
            let text = format!(
                "cannot write checkpoints in {folder}: {e}; make it a folder that can be written, or train without \
                 them: --checkpoint-every never"
            );
            Error::new(Kind::CannotCreate, text)
        })?;
        Ok(Checkpoints {
            folder,
            every,
            log,
            runs,
        })
    }

    /// Removes the checkpoints of runs that are stored. Tells of those that none of the experiment's runs (`all`) goes
    /// on from, and why.
    pub fn settle(&self, stored: impl Fn(&Identity) -> bool, all: &[Identity]) -> Vec<String> {
        let files = self.files();
        if files.is_empty() {
            self.close();
            return Vec::new();
        }
        let (rest, mut told) = (Rest::new(self.log), Vec::new());
        for path in files {
            let shown = path.display();
            let owner = match owner(&path) {
                Ok(owner) => owner,
                // Another process has finished the run in between.
                Err(e) if files::absent(&e) => continue,
                Err(_) => {
                    // If it has a run's name, that run tells.
                    if !self.runs.iter().any(|run| self.path_of(run) == path) {
                        told.push(format!("{shown} is damaged, and no run's; delete it"));
                    }
                    continue;
                }
            };
            if stored(&owner.run) {
                let _ = fs::remove_file(&path);
                continue;
            }
            let differing = all.iter().map(|run| owner.other_than(run, &rest));
            let least = differing.min_by_key(Vec::len).unwrap_or_default();
            if !least.is_empty() {
                told.push(format!(
                    "no run continues from the checkpoint {shown}: {}; delete it if none ever will",
                    least.join(", ")
                ));
            }
        }
        self.close();
        let more = told.len().saturating_sub(TOLD);
        told.truncate(TOLD);
        if more > 0 {
            told.push(format!("and from {more} more in {}", self.folder.display()));
        }
        told
    }

    /// Removes the checkpoints of all runs that are to be trained: they start again.
    pub fn start_anew(&self) {
        (0..self.runs.len()).for_each(|run| self.place(run).remove());
        self.close();
    }

    /// Where the checkpoints of a run go.
    pub fn place(&self, run: usize) -> Place<'_> {
        Place {
            of: self,
            run: &self.runs[run],
        }
    }

    /// Removes the folder, if nothing is in it. For when no run is under way.
    pub fn close(&self) {
        let _ = fs::remove_dir(&self.folder);
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let paths = entries.map(|entry| entry.path());
        let mut paths: Vec<_> = paths
            .filter(|path| path.extension().is_some_and(|e| e == EXTENSION))
            .collect();
        paths.sort();
        paths
    }

    fn path_of(&self, run: &Identity) -> PathBuf {
        let name = format!("{}-{}.{EXTENSION}", run.hash(), Rest::new(self.log).hash());
        self.folder.join(name)
    }
}

/// What a file says of its owner. Of its data nothing is read.
fn owner(path: &Path) -> io::Result<Owner> {
    #[derive(Deserialize)]
    struct Header {
        __metadata__: HashMap<String, String>,
    }
    /// As safetensors has it.
    const LONGEST: u64 = 100_000_000;
    let mut file = files::open(path)?;
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > LONGEST {
        return Err(ErrorKind::InvalidData.into());
    }
    let mut header = Vec::new();
    file.take(length).read_to_end(&mut header)?;
    let header: Header = serde_json::from_slice(&header)?;
    let owner = header.__metadata__.get(OWNER);
    Ok(serde_json::from_str(owner.map_or("", |text| text))?)
}

/// Where a run stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Position {
    /// When it began.
    pub start_time: String,
    /// Training steps of the epoch under way that are done, for those who want to know.
    pub step: usize,
    /// Programs of its training that were run; none if it is trained, and evaluation comes next.
    pub trained: Option<usize>,
    /// What the global generator had drawn when the epoch, or its evaluation, began.
    pub drawn: u64,
}

/// A checkpoint, as it was read.
pub(super) struct Checkpoint {
    pub position: Position,
    pub history: Vec<Epoch>,
    /// The epoch under way, as far as it is known.
    pub epoch: Epoch,
    /// The bytes of [`Trainer::pieces`].
    pub state: Vec<u8>,
}

/// Where the checkpoints of a run go.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    of: &'a Checkpoints,
    run: &'a Identity,
}

impl Place<'_> {
    pub fn every(&self) -> Option<Duration> {
        self.of.every
    }

    fn path(&self) -> PathBuf {
        self.of.path_of(self.run)
    }

    /// Removes the checkpoints of the run, those of other builds too.
    pub fn remove(&self) {
        let hash = self.run.hash();
        let named = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with(hash))
        };
        for path in self.of.files().into_iter().filter(named) {
            // One that stays is removed by the next command that finds the run stored.
            let _ = fs::remove_file(path);
        }
    }

    /// Writes a checkpoint, whole or not at all, in place of the last one. Faults of the device are within the error.
    pub(super) fn write(
        &self,
        position: &Position,
        history: &[Epoch],
        trainer: &mut Trainer,
    ) -> io::Result<()> {
        let owner = Owner {
            run: self.run.clone(),
            rest: Rest::new(self.of.log),
        };
        let epochs = history.iter().map(Epoch::to_json).collect();
        let history = json::dumps(&Json::List(epochs), false);
        let header = header(&owner, position, trainer.pieces(), history.len())?;
        // Another process may have removed the folder, since it was empty.
        file::within(&self.of.folder, || {
            file::replace(&self.path(), TEMPORARY, |out| {
                let mut sum = 0;
                let mut put = |bytes: &[u8]| {
                    sum = crc32c::crc32c_append(sum, bytes);
                    out.write_all(bytes)
                };
                put(&header)?;
                trainer.save(&mut put)?;
                put(history.as_bytes())?;
                out.write_all(&sum.to_le_bytes())
            })
        })
    }

    /// The run's checkpoint, if there is one, for a machine with such pieces.
    ///
    /// # Errors
    /// If it cannot be read, or is damaged.
    pub(super) fn read(&self, pieces: &[(String, usize)]) -> Result<Option<Checkpoint>> {
        if !self.of.folder.exists() {
            return Ok(None);
        }
        let path = self.path();
        let bytes = match files::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if files::absent(&e) => return Ok(None),
            Err(e) => return Err(Error::io("read", &path, &e)),
        };
        let shown = path.display();
        let rest = Rest::new(self.of.log);
        if owner(&path).is_ok_and(|owner| !owner.other_than(self.run, &rest).is_empty()) {
            // Somebody has renamed it; [`Checkpoints::settle`] has told of it.
            return Ok(None);
        }
        let read = decode(bytes, pieces);
        read.map(Some)
            .map_err(|what| Error::corrupt(format!("{shown} is damaged: {what}")))
    }
}

/// What stands before the data.
fn header(
    owner: &Owner,
    position: &Position,
    pieces: Vec<(String, usize)>,
    history: usize,
) -> io::Result<Vec<u8>> {
    let mut end = 0;
    let tensor = |(name, len): (String, usize)| {
        let begin = end;
        end += len;
        let info = TensorInfo {
            dtype: Dtype::U8,
            shape: vec![len],
            data_offsets: (begin, end),
        };
        (name, info)
    };
    let last = [(HISTORY, history), (SUM, size_of::<u32>())];
    let last = last.map(|(name, len)| (name.to_owned(), len));
    let tensors = pieces.into_iter().chain(last).map(tensor).collect();
    let about = [
        (OWNER, serde_json::to_string(owner)?),
        (POSITION, serde_json::to_string(position)?),
    ];
    let about = about.map(|(key, value)| (key.to_owned(), value));
    let metadata = Metadata::new(Some(HashMap::from(about)), tensors).map_err(io::Error::other)?;
    let mut text = serde_json::to_vec(&metadata)?;
    text.resize(text.len().next_multiple_of(8), b' ');
    let length = (text.len() as u64).to_le_bytes();
    Ok([&length[..], &text].concat())
}

fn decode(mut bytes: Vec<u8>, pieces: &[(String, usize)]) -> Result<Checkpoint, String> {
    let (header, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| e.to_string())?;
    let found = metadata.offset_keys().into_iter().map(|name| {
        let len = metadata
            .info(&name)
            .map_or(0, |info| info.shape.iter().product());
        (name, len)
    });
    let found: Vec<(String, usize)> = found.collect();
    let [state @ .., (history, length), (sum, 4)] = &found[..] else {
        return Err("it lacks a piece".into());
    };
    if state != pieces || history != HISTORY || sum != SUM {
        return Err("its pieces are not those of the run".into());
    }
    let sum = bytes.split_off(bytes.len() - size_of::<u32>());
    if crc32c::crc32c(&bytes).to_le_bytes() != sum[..] {
        return Err("its checksum is another one".into());
    }
    let history = bytes.split_off(bytes.len() - length);
    let mut history = epochs(&history).ok_or("its history cannot be read")?;
    let position = metadata
        .metadata()
        .as_ref()
        .and_then(|about| about.get(POSITION));
    let position = position.and_then(|text| serde_json::from_str(text).ok());
    Ok(Checkpoint {
        position: position.ok_or("it does not say where the run stands")?,
        epoch: history.pop().ok_or("its history is empty")?,
        history,
        state: bytes.split_off(size_of::<u64>() + header),
    })
}

fn epochs(text: &[u8]) -> Option<Vec<Epoch>> {
    let text = std::str::from_utf8(text).ok()?;
    match json::parse(text).ok()? {
        Json::List(epochs) => epochs.iter().map(Epoch::from_json).collect(),
        _ => None,
    }
}
