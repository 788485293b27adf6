//! The output file while it grows: `DIR/<id>.json`, whole at any moment, written by one process at a time.
//!
//! A finished run goes to a file of its own (`loose.rs`), which takes as long for the last run as for the first. The
//! output is written anew at the end, and from time to time.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::RunResult;
use super::file::{self, Existing, Lock};
use super::identity::{self, Identity, Index};
use super::json;
use super::loose::{self, Loose};
use super::output::Run;
use crate::error::{Error, Kind, Result};
use crate::files;

/// Which runs of the output that is there are not kept. They stay until the first new one is saved, and then under
/// another name, `<id>.json.bak`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overwrite {
    /// All: the output starts anew.
    All,
    /// Those that have a place in the experiment.
    Selected,
}

#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub overwrite: Option<Overwrite>,
    /// Write null instead of NaN and Infinity.
    pub strict_json: bool,
    /// The output is not written more often than this.
    pub interval: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            overwrite: None,
            strict_json: false,
            interval: Duration::from_secs(30),
        }
    }
}

/// An output file that this process holds. All methods may be called from several threads.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    loose: Loose,
    options: Options,
    state: Mutex<State>,
    /// Held until the process ends or drops the store.
    lock: Lock,
}

#[derive(Debug)]
struct State {
    /// Runs that were in the file and have no place in this experiment, in the file's order.
    kept: Vec<Stored>,
    /// Runs by their index in the experiment.
    runs: BTreeMap<usize, Stored>,
    /// Does the output lack some of them, or are they in another order there?
    behind: bool,
    /// Those that have files of their own.
    loose: Vec<String>,
    /// An old output that the next save keeps under another name.
    back_up: bool,
    /// The output as we found it or left it; none while there is none.
    seen: Option<Stamp>,
    saved: Instant,
    /// Where the runs go since somebody else has put something in the output's place.
    elsewhere: Option<PathBuf>,
}

/// A run as it stands in the file.
#[derive(Clone, Debug)]
struct Stored {
    identity: Identity,
    text: Arc<str>,
}

/// What tells a file from another one of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Option<Stamp>> {
        let stamp = |meta: Metadata| Stamp {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
        };
        match fs::symlink_metadata(path) {
            Ok(meta) => Ok(Some(stamp(meta))),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }
}

impl Store {
    /// Takes the lock on `dir/<id>.json`, checks that it can be written, and reads what is there.
    pub fn open(dir: &Path, id: &str, options: Options) -> Result<Store> {
        if Path::new(id).file_name() != Some(id.as_ref()) {
            return Err(Error::usage(format!(
                "experiment id {id:?} cannot be a file name"
            )));
        }
        let path = dir.join(format!("{id}.json"));
        let lock = Lock::take(&path, "use another folder with --output-dir")?;
        let loose = Loose::of(lock.target());
        let cannot = |e| {
            let dir = dir.display();
            let text = format!("cannot write in {dir}: {e}; use another folder with --output-dir");
            Error::new(Kind::CannotCreate, text)
        };
        lock.probe().and_then(|()| loose.tidy()).map_err(cannot)?;
        let finished = loose.read()?;
        let there = fs::exists(lock.target()).map_err(|e| Error::io("read", &path, &e))?;
        let read = there && options.overwrite != Some(Overwrite::All);
        let mut kept = Vec::new();
        if read || !finished.is_empty() {
            kept = read_stored(&path, there.then_some(lock.target()), finished.clone())?;
        }
        // Of a process that was killed. Now the output has what belongs to it, and can be kept in whole.
        if !finished.is_empty() {
            let save = lock.replace(Existing::Replace, |out| write_runs(out, kept.iter()));
            save.map_err(|e| cannot_save(&path, &e))?;
            loose.remove(finished.keys());
            loose.close();
        }
        if options.overwrite == Some(Overwrite::All) {
            kept.clear();
        }
        if options.strict_json {
            kept.iter_mut().for_each(make_strict);
        }
        let seen = Stamp::of(lock.target()).map_err(|e| Error::io("read", &path, &e))?;
        Ok(Store {
            path,
            loose,
            options,
            state: Mutex::new(State {
                kept,
                runs: BTreeMap::new(),
                // Not in the experiment's order yet.
                behind: !finished.is_empty() && options.overwrite.is_none(),
                loose: Vec::new(),
                back_up: seen.is_some() && options.overwrite.is_some(),
                seen,
                saved: Instant::now(),
                elsewhere: None,
            }),
            lock,
        })
    }

    /// The output file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A folder beside the output, behind all links, for what belongs to it: `.<id>.<what>`.
    pub fn beside(&self, what: &str) -> PathBuf {
        file::beside(self.lock.target(), what)
    }

    /// Is this run there, as far as is known?
    pub fn contains(&self, run: &Identity) -> bool {
        let state = self.state();
        let mut stored = state.kept.iter().chain(state.runs.values());
        stored.any(|other| other.identity.agrees_with(run))
    }

    /// Gives the runs that are there already their places among `runs`, the whole experiment in its
    /// order, and says which of them those are; or leaves them out, if they are to be overwritten. Runs without a
    /// place stay at the front of the file.
    pub fn settle(&self, runs: &[Identity]) -> Vec<bool> {
        let mut places = Index::default();
        for (index, run) in runs.iter().enumerate() {
            places.insert(run.clone(), index);
        }
        let mut state = self.state();
        for run in std::mem::take(&mut state.kept) {
            match places.get(&run.identity) {
                Some(_) if self.options.overwrite == Some(Overwrite::Selected) => {}
                Some(&index) if !state.runs.contains_key(&index) => {
                    // A process that was killed has left them in another order than the experiment's.
                    let last = state.runs.last_key_value().map(|(last, _)| *last);
                    state.behind |= last > Some(index);
                    state.runs.insert(index, run);
                }
                _ => state.kept.push(run),
            }
        }
        (0..runs.len())
            .map(|index| state.runs.contains_key(&index))
            .collect()
    }

    /// Refuses to add to runs of a problem that is none of the experiment's `runs`: nobody could rank them together.
    ///
    /// # Errors
    /// A usage error that names the keys that differ.
    pub fn check_problems(&self, runs: &[Identity]) -> Result<()> {
        let state = self.state();
        let stored = state.kept.iter().chain(state.runs.values());
        let wanted = identity::problems(runs.iter());
        for other in identity::problems(stored.map(|run| &run.identity)) {
            let differing = wanted.iter().map(|run| run.other_problem(other));
            let least = differing.min_by_key(Vec::len).unwrap_or_default();
            if !least.is_empty() {
                return Err(Error::usage(format!(
                    "{} holds runs of another problem, and results of both do not mix: {}; use another folder with \
                     --output-dir, or another name for the config",
                    self.path.display(),
                    least.join(", ")
                )));
            }
        }
        Ok(())
    }

    /// Adds a finished run, `index` being its place in the experiment. It is on disk when this returns.
    ///
    /// # Errors
    /// The run is still in memory then: the next save that succeeds writes it too. If somebody else has removed the
    /// output or put another file in its place, all runs are written elsewhere, and the error says where.
    pub fn add(&self, index: usize, run: &RunResult) -> Result<()> {
        let mut text = String::new();
        json::write(&mut text, &run.to_json(), 1, self.options.strict_json);
        let identity = Identity::new(&run.config, &run.summary);
        let hash = identity.hash();
        let text: Arc<str> = text.into();
        let stored = Stored {
            identity,
            text: text.clone(),
        };
        let mut state = self.state();
        state.runs.insert(index, stored);
        state.behind = true;
        // Without an output of ours there is nothing that the file of a run could belong to.
        let first = state.seen.is_none() || state.back_up;
        if first || !self.untouched(&state)? || state.saved.elapsed() >= self.options.interval {
            return self.save(&mut state);
        }
        drop(state);
        let added = self.loose.add(&hash, &text);
        added.map_err(|e| cannot_save(&self.path, &e))?;
        self.state().loose.push(hash);
        Ok(())
    }

    /// Writes the output anew if that is due.
    pub fn finish(&self) -> Result<()> {
        let mut state = self.state();
        let outcome = match state.behind {
            true => self.save(&mut state),
            false => Ok(()),
        };
        if !state.behind {
            self.loose.remove(&std::mem::take(&mut state.loose));
        }
        self.loose.close();
        outcome
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    /// Is the output as we left it?
    fn untouched(&self, state: &State) -> Result<bool> {
        let now = Stamp::of(self.lock.target()).map_err(|e| Error::io("read", &self.path, &e))?;
        Ok(state.elsewhere.is_none() && now == state.seen)
    }

    fn save(&self, state: &mut State) -> Result<()> {
        if !self.untouched(state)? {
            return Err(self.save_elsewhere(state));
        }
        let mut save = || {
            let existing = match (state.seen, state.back_up) {
                (None, _) => Existing::Refuse,
                (Some(_), false) => Existing::Replace,
                (Some(_), true) => Existing::Keep,
            };
            let runs = state.kept.iter().chain(state.runs.values());
            (self.lock).replace(existing, |out| write_runs(out, runs))?;
            state.seen = Stamp::of(self.lock.target())?;
            state.back_up = false;
            io::Result::Ok(())
        };
        save().map_err(|e| cannot_save(&self.path, &e))?;
        self.loose.remove(&std::mem::take(&mut state.loose));
        state.behind = false;
        state.saved = Instant::now();
        Ok(())
    }

    /// The output is gone, or it is not ours any more: nothing is written over what others have made.
    fn save_elsewhere(&self, state: &mut State) -> Error {
        let runs = state.kept.iter().chain(state.runs.values());
        let count = runs.clone().count();
        let write = |out: &mut dyn Write| write_runs(out, runs);
        let path = self.path.display();
        let written = match &state.elsewhere {
            Some(place) => file::replace(place, ".tmp-", write).map(|()| place.clone()),
            None => self.lock.write_beside(write),
        };
        match written {
            Ok(place) => {
                // They are no runs of what is there now.
                self.loose.remove(&std::mem::take(&mut state.loose));
                state.behind = false;
                let text = format!(
                    "{path} was removed or changed by somebody else since this command began, and is left as it is; \
                     all {count} runs are in {}",
                    place.display()
                );
                state.elsewhere = Some(place);
                Error::new(Kind::Io, text)
            }
            Err(e) => cannot_save(&self.path, &e),
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // Whoever wants to know calls `finish`. What could not be written is still in files of its own.
        let _ = self.finish();
    }
}

fn cannot_save(path: &Path, cause: &io::Error) -> Error {
    let path = path.display();
    Error::new(
        Kind::Io,
        format!("cannot save {path}: {cause}; the runs saved earlier are intact"),
    )
}

fn write_runs<'a>(out: &mut dyn Write, runs: impl Iterator<Item = &'a Stored>) -> io::Result<()> {
    for (i, run) in runs.enumerate() {
        out.write_all(if i == 0 { b"[\n    " } else { b",\n    " })?;
        out.write_all(run.text.as_bytes())?;
    }
    out.write_all(b"\n]")
}

/// The runs of an existing output, verbatim, and those that do not stand in it yet.
fn read_stored(path: &Path, target: Option<&Path>, finished: loose::Texts) -> Result<Vec<Stored>> {
    let corrupt = |what: String| {
        Error::corrupt(format!(
            "{}: {what}; the file is left as it is: repair it, move it away, or start anew with \
             --overwrite, which keeps it as .bak",
            path.display()
        ))
    };
    let text = match target {
        None => "[]".to_owned(),
        Some(target) => files::read_to_string(target).map_err(|e| match e.kind() {
            ErrorKind::InvalidData => corrupt("not UTF-8".into()),
            _ => Error::io("read", path, &e),
        })?,
    };
    let mut runs = Vec::new();
    loose::all(&text, finished, |text, run| {
        let run = Run::from_json(&run, path)?;
        let (epochs, all) = (run.epochs.len(), run.max_epoch());
        // It would count as trained.
        if epochs < all {
            let id = run.id();
            return Err(format!("the history of {id} has {epochs} of {all} epochs"));
        }
        let (identity, text) = (run.identity, text.into());
        runs.push(Stored { identity, text });
        Ok(())
    })
    .map_err(|e| corrupt(e.to_string()))?;
    Ok(runs)
}

/// Writes a run's text again, with nulls for numbers that are not finite.
fn make_strict(run: &mut Stored) {
    let mut out = String::new();
    let parsed = json::parse(&run.text).expect("parsed when it was read");
    json::write(&mut out, &parsed, 1, true);
    run.text = out.into();
}
