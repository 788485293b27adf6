//! The output file while it grows: `DIR/<id>.json`, whole at any moment, of one process or of many.
//!
//! A finished run goes to a file of its own, or into one with other short ones (`loose.rs`), which takes as long for the last
//! run as for the first. The output is written again at the end, and from time to time, by the holder of the lock
//! (`writers.rs`): all runs that were there when this process came, and all that lie beside it, in the experiment's order.
//!
//! **No run is lost.** A run's file goes only when the output has the run, under the lock, while no other process is at the
//! output: all who come later, under the lock as well, find it there. So a process that is there need not read the output again to
//! know all runs, unless others have counted him as dead.
//!
//! **What somebody else puts in the output's place stays.** Who writes the output says in `.<id>.runs/output` what it was
//! and what it will be, before it is. All else is somebody else's.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, Metadata};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::json;

use super::RunResult;
use super::file::{self, Existing, Lock, Shared, Stamp};
use super::identity::{self, Identity, Index};
use super::json;
use super::loose::{self, Loose};
use super::output::Run;
use super::progress::{Plan, Planned};
use super::writers::{self, Claim, Claimed, Role};
use crate::error::{Error, Kind, Result};
use crate::files;

/// `.<id>.checkpoints`: a folder beside the output.
const CHECKPOINTS: &str = "checkpoints";

/// Which runs of the output that is there are not kept. They stay until the first new one is saved, and then under
/// another name, `<id>.json.bak`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overwrite {
    /// All: the output starts again.
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
    /// A process of another machine that has said nothing for so long is dead.
    pub silence: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            overwrite: None,
            strict_json: false,
            interval: Duration::from_secs(30),
            silence: writers::SILENCE,
        }
    }
}

/// An output file that this process writes. All methods may be called from several threads.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    loose: Loose,
    options: Options,
    state: Mutex<State>,
    /// Runs that had failed before: they may be tried again.
    failed: HashSet<String>,
    /// Of who overwrites, as long as the store is there: nobody else writes it.
    alone: Option<Lock>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct State {
    /// Runs that have no place in this experiment, in the file's order.
    kept: Vec<Stored>,
    /// Runs by their index in the experiment.
    runs: BTreeMap<usize, Stored>,
    /// Indices of the experiment's runs.
    places: Index<usize>,
    /// Does the output lack some of them, or are they in another order there?
    behind: bool,
    /// The names of files beside the output whose runs are among these.
    files: HashSet<String>,
    /// The hashes of runs that such files had since this process came.
    finished: HashSet<String>,
    /// An old output that the next save keeps under another name.
    back_up: bool,
    /// The output as we found it or left it; none while there is none.
    seen: Option<Stamp>,
    /// When the output was written, by anybody.
    saved: Option<Instant>,
    /// Where the runs go since somebody else has put something in the output's place.
    elsewhere: Option<PathBuf>,
}

impl State {
    fn all(&self) -> impl Iterator<Item = &Stored> + Clone {
        self.kept.iter().chain(self.runs.values())
    }

    /// Takes in a run that others have finished.
    fn insert(&mut self, run: Stored) {
        match self.places.get(&run.identity) {
            Some(index) if self.runs.contains_key(index) => return,
            Some(&index) => drop(self.runs.insert(index, run)),
            None if self.kept.iter().any(|k| k.identity == run.identity) => return,
            None => self.kept.push(run),
        }
        self.behind = true;
    }
}

/// A finished run that is to be stored.
#[derive(Clone, Copy, Debug)]
pub struct Finished<'a> {
    /// Its place in the experiment.
    pub index: usize,
    pub identity: &'a Identity,
    pub result: &'a RunResult,
}

/// Who trains a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The process that asks.
    Mine,
    /// It is stored.
    Finished,
    /// It has failed since this process began.
    Failed,
    /// The process of this name.
    Held(String),
}

/// A run as it stands in the file.
#[derive(Clone, Debug)]
struct Stored {
    identity: Identity,
    text: Arc<str>,
}

impl Store {
    /// Comes to `dir/<id>.json`, checks that it can be written, and reads what is there.
    ///
    /// # Errors
    /// [`Kind::Locked`] if somebody else overwrites it, or is there while we want to.
    pub fn open(dir: &Path, id: &str, options: Options) -> Result<Store> {
        if Path::new(id).file_name() != Some(id.as_ref()) {
            return Err(Error::usage(format!(
                "experiment id {id:?} cannot be a file name"
            )));
        }
        let path = dir.join(format!("{id}.json"));
        let advice = match options.overwrite {
            None => "use another folder with --output-dir",
            Some(_) => {
                "use another folder with --output-dir; without --overwrite all share the runs"
            }
        };
        let shared = Shared::join(&path, advice, options.silence)?;
        let lock = match options.overwrite {
            None => shared.lock()?,
            Some(_) => shared.seize()?,
        };
        let alone = lock.others()?.is_empty();
        let loose = Loose::of(shared.target());
        let cannot = |e| {
            let dir = dir.display();
            let text = format!("cannot write in {dir}: {e}; use another folder with --output-dir");
            Error::new(Kind::CannotCreate, text)
        };
        lock.probe().map_err(cannot)?;
        if alone {
            lock.tidy()?;
            loose.tidy().map_err(cannot)?;
            let checkpoints = file::beside(shared.target(), CHECKPOINTS);
            file::remove_left_overs(&checkpoints, ".tmp-").map_err(cannot)?;
        }
        let role = options.overwrite.map_or(Role::Sharing, |_| Role::Alone);
        let announced = shared.writer().announce(|about| about.role = role);
        announced.map_err(cannot)?;
        let mut beside = loose.files().map_err(cannot)?;
        let finished = loose.read(&mut beside)?;
        let there = fs::exists(shared.target()).map_err(|e| Error::io("read", &path, &e))?;
        let read = there && options.overwrite != Some(Overwrite::All);
        let mut behind = !finished.is_empty();
        let found: HashSet<String> = finished.keys().cloned().collect();
        let mut kept = Vec::new();
        if read || behind {
            kept = read_stored(&path, there.then_some(shared.target()), finished)?;
        }
        // Of a process that was killed. Now the output has what belongs to it, and can be kept in whole.
        if alone && behind {
            let write = |out: &mut dyn Write| write_runs(out, kept.iter());
            let save = lock.replace(Existing::Replace, write, |_| Ok(()));
            save.map_err(|e| cannot_save(&path, &e))?;
            loose.remove(&beside);
            loose.close();
            beside.clear();
            // Not in the experiment's order yet.
            behind = options.overwrite.is_none();
        }
        if options.overwrite == Some(Overwrite::All) {
            kept.clear();
        }
        if options.strict_json {
            kept.iter_mut().for_each(make_strict);
        }
        let seen = Stamp::of(shared.target()).map_err(|e| Error::io("read", &path, &e))?;
        if alone {
            // Of processes that were killed.
            let _ = fs::remove_file(loose.note());
            loose.set_plan(None).map_err(cannot)?;
        }
        let failed = loose.failed().map_err(cannot)?.into_iter().collect();
        Ok(Store {
            path,
            loose,
            options,
            state: Mutex::new(State {
                kept,
                behind,
                files: beside.into_iter().collect(),
                finished: if alone { HashSet::new() } else { found },
                back_up: seen.is_some() && options.overwrite.is_some(),
                seen,
                saved: Some(Instant::now()),
                ..State::default()
            }),
            failed,
            alone: options.overwrite.map(|_| lock),
            shared,
        })
    }

    /// The output file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// As [`Store::path`], behind all links.
    pub fn target(&self) -> &Path {
        self.shared.target()
    }

    /// The folder of checkpoints, beside the output and behind all links.
    pub fn checkpoints(&self) -> PathBuf {
        file::beside(self.shared.target(), CHECKPOINTS)
    }

    /// Is this run there, as far as is known?
    pub fn contains(&self, run: &Identity) -> bool {
        let state = self.state();
        state.all().any(|other| other.identity.agrees_with(run))
    }

    /// Gives the runs that are there already their places among `all`, the whole experiment in its order, and says
    /// which of the `selected` ones those are; or leaves these out, if they are to be overwritten. Runs without a place
    /// stay at the front of the file.
    pub fn settle(&self, all: &[Identity], selected: &[usize]) -> Vec<bool> {
        let mut state = self.state();
        let state = &mut *state;
        for (index, run) in all.iter().enumerate() {
            state.places.insert(run.clone(), index);
        }
        let overwritten: HashSet<usize> = match self.options.overwrite {
            Some(Overwrite::Selected) => selected.iter().copied().collect(),
            _ => HashSet::new(),
        };
        for run in std::mem::take(&mut state.kept) {
            match state.places.get(&run.identity) {
                Some(index) if overwritten.contains(index) => {}
                Some(&index) if !state.runs.contains_key(&index) => {
                    // A process that was killed has left them in another order than the experiment's.
                    let last = state.runs.last_key_value().map(|(last, _)| *last);
                    state.behind |= last > Some(index);
                    state.runs.insert(index, run);
                }
                _ => state.kept.push(run),
            }
        }
        let there = selected.iter().map(|index| state.runs.contains_key(index));
        there.collect()
    }

    /// Refuses to add to runs of a problem that is none of the experiment's `runs`: nobody could rank them together. Nor
    /// does another process add such runs from now on.
    ///
    /// # Errors
    /// A usage error that names the keys that differ.
    pub fn check_problems(&self, runs: &[Identity]) -> Result<()> {
        let wanted = identity::problems(runs.iter());
        let check = |others: &[&Identity], who: &str| {
            for other in others {
                let differing = wanted.iter().map(|run| run.other_problem(other));
                let least = differing.min_by_key(Vec::len).unwrap_or_default();
                if !least.is_empty() {
                    return Err(Error::usage(format!(
                        "{} {who} runs of another problem, and results of both do not mix: {}; use another folder with \
                         --output-dir, or another name for the config",
                        self.path.display(),
                        least.join(", ")
                    )));
                }
            }
            Ok(())
        };
        let state = self.state();
        check(
            &identity::problems(state.all().map(|run| &run.identity)),
            "holds",
        )?;
        self.locked(|lock| {
            for (_, other) in lock.others()? {
                let theirs: Vec<Identity> =
                    serde_json::from_value(other.work.clone()).unwrap_or_default();
                let who = format!("is being written by another process ({other}) that trains");
                check(&theirs.iter().collect::<Vec<_>>(), &who)?;
            }
            let announced = self
                .shared
                .writer()
                .announce(|about| about.work = json!(wanted));
            announced.map_err(|e| cannot_save(&self.path, &e))
        })
    }

    /// Lets other commands see what is to be done: `left` in the experiment's order. Other processes may have more.
    pub fn plan(&self, done: usize, left: Vec<Planned>) -> Result<()> {
        let mut plan = Plan { done, left };
        let _state = self.state();
        self.locked(|lock| {
            let theirs = match lock.others()?.is_empty() {
                true => None,
                false => self.loose.plan()?,
            };
            if let Some(theirs) = theirs {
                let mine: HashSet<String> = plan.left.iter().map(|run| run.run.clone()).collect();
                let mut others = theirs.left;
                others.retain(|run| !mine.contains(&run.run));
                let beside = self.loose.finished();
                let beside = beside.map_err(|e| cannot_save(&self.path, &e))?;
                let finished = others.iter().filter(|run| beside.contains(&run.run));
                plan.done = theirs.done.max(plan.done.saturating_sub(finished.count()));
                plan.left.extend(others);
            }
            let set = self.loose.set_plan(Some(&plan));
            set.map_err(|e| cannot_save(&self.path, &e))
        })
    }

    /// What the output has since is not to be done any more.
    fn shorten_plan(&self, done: &HashSet<String>) -> Result<()> {
        let Some(mut plan) = self.loose.plan()? else {
            return Ok(());
        };
        let before = plan.left.len();
        plan.left.retain(|run| !done.contains(&run.run));
        plan.done += before - plan.left.len();
        let set = self.loose.set_plan(Some(&plan));
        set.map_err(|e| cannot_save(&self.path, &e))
    }

    /// Claims runs that are to be trained one after the other, so that nobody else trains them. Says of each whose it is:
    /// those that are [`Turn::Mine`] have the claim, which there is if there are any.
    ///
    /// # Errors
    /// If nothing can be written beside the output.
    pub fn claim(&self, runs: &[&Identity]) -> Result<(Vec<Turn>, Option<Claim>)> {
        let claimed = self.claim_free(runs);
        claimed.map_err(|e| cannot_save(&self.path, &e))
    }

    fn claim_free(&self, runs: &[&Identity]) -> io::Result<(Vec<Turn>, Option<Claim>)> {
        let mut turns = vec![Turn::Mine; runs.len()];
        let claim = loop {
            self.leave_taken(runs, &mut turns)?;
            let mine: Vec<usize> = (0..runs.len())
                .filter(|i| turns[*i] == Turn::Mine)
                .collect();
            let Some(first) = mine.first() else {
                return Ok((turns, None));
            };
            let hashes: Vec<&str> = mine.iter().map(|i| runs[*i].hash()).collect();
            match self.loose.claim(&hashes, self.shared.writer())? {
                Claimed::Mine(claim) => break claim,
                Claimed::Held(name) => turns[*first] = Turn::Held(name),
            }
        };
        // Others may have claimed some in between, and the last owners may have finished them.
        self.leave_taken(runs, &mut turns)?;
        for (run, turn) in runs.iter().zip(&turns) {
            if *turn == Turn::Mine && self.failed.contains(run.hash()) {
                self.loose.note_failure(run.hash(), None)?;
            }
        }
        match turns.contains(&Turn::Mine) {
            true => Ok((turns, Some(claim))),
            false => Ok((turns, None)),
        }
    }

    /// Finds which of the runs that would be ours are others' or need nobody.
    fn leave_taken(&self, runs: &[&Identity], turns: &mut [Turn]) -> io::Result<()> {
        let mine = runs.iter().zip(&*turns);
        let mine = mine.filter(|(_, turn)| **turn == Turn::Mine);
        let mine: Vec<&str> = mine.map(|(run, _)| run.hash()).collect();
        // Claims first: what ends in between is found finished.
        let held = self.loose.held(&mine, self.shared.writer())?;
        let bundled = self.loose.newly_bundled(self.shared.writer())?;
        let finished = self.loose.finished_alone(&mine)?;
        let failed = self.loose.failed_of(&mine)?;
        let mut state = self.state();
        state.finished.extend(bundled);
        for (run, turn) in runs.iter().zip(turns) {
            let hash = run.hash();
            if *turn != Turn::Mine {
                continue;
            }
            if state.finished.contains(hash) || finished.contains(hash) {
                *turn = Turn::Finished;
            } else if !self.failed.contains(hash) && failed.contains(hash) {
                *turn = Turn::Failed;
            } else if let Some(name) = held.get(hash) {
                *turn = Turn::Held(name.clone());
            }
        }
        Ok(())
    }

    /// Waits until it is certain whether this process is alive, or until `stop` is set.
    pub fn is_alive(&self, name: &str, stop: &AtomicBool) -> Result<bool> {
        let alive = self.shared.writer().watch(name, stop);
        let alive = alive.map_err(|e| Error::io("read about writers of", &self.path, &e))?;
        Ok(alive.is_some())
    }

    /// Tells others why a run that this process has claimed cannot be trained.
    pub fn fail(&self, run: &Identity, why: &Error) {
        // Else they try it themselves.
        let _ = self.loose.note_failure(run.hash(), Some(&why.message));
    }

    /// Adds finished runs, in a file of their own. They are on disk when this returns.
    ///
    /// # Errors
    /// They are still in memory then: the next save that succeeds writes them too. If somebody else has removed the
    /// output or put another file in its place, all runs are written elsewhere, and the error says where.
    pub fn add(&self, runs: &[Finished]) -> Result<()> {
        if runs.is_empty() {
            return Ok(());
        }
        let mut buffer = String::new();
        let text = |run: &Finished| -> Arc<str> {
            let Finished {
                identity, result, ..
            } = run;
            debug_assert_eq!(**identity, Identity::new(&result.config, &result.summary));
            buffer.clear();
            let json = result.to_json();
            json::write(&mut buffer, &json, 1, self.options.strict_json);
            buffer.as_str().into()
        };
        let texts: Vec<Arc<str>> = runs.iter().map(text).collect();
        let hashes: Vec<&str> = runs.iter().map(|run| run.identity.hash()).collect();
        let name = self.loose.name(&hashes, self.shared.writer());
        let mut state = self.state();
        for (run, text) in runs.iter().zip(&texts) {
            let stored = Stored {
                identity: run.identity.clone(),
                text: text.clone(),
            };
            state.runs.insert(run.index, stored);
        }
        state.files.insert(name.clone());
        state
            .finished
            .extend(hashes.iter().map(|&hash| hash.into()));
        state.behind = true;
        // Who overwrites has no output of his own yet that the file of a run could belong to.
        if !state.back_up {
            drop(state);
            let texts = hashes.iter().zip(&texts);
            let texts: Vec<(&str, &str)> = texts.map(|(hash, text)| (*hash, &**text)).collect();
            let added = self.loose.add(&name, &texts);
            added.map_err(|e| cannot_save(&self.path, &e))?;
            state = self.state();
        }
        let due = |saved: Instant| saved.elapsed() >= self.options.interval;
        let first = state.seen.is_none() || state.back_up;
        match first || !self.untouched(&mut state)? || state.saved.is_none_or(due) {
            true => self.locked(|lock| self.save(&mut state, lock)),
            false => Ok(()),
        }
    }

    /// Writes the output again if that is due, and leaves nothing beside it if nobody else is there.
    pub fn finish(&self) -> Result<()> {
        self.end(false)
    }

    /// As [`Store::finish`]. Who leaves says so before he gives up the lock: of two who leave at once one must know that he is the
    /// last.
    fn end(&self, leaves: bool) -> Result<()> {
        let mut state = self.state();
        if state.elsewhere.is_some() && !state.behind {
            self.loose.close();
            return Ok(());
        }
        self.locked(|lock| {
            self.save(&mut state, lock)?;
            if leaves {
                // If it cannot be said, something stays beside the output.
                let writer = self.shared.writer();
                let _ = writer.announce(|about| about.role = Role::Waiting);
            }
            if lock.others()?.is_empty() {
                // Without an output there is nothing to go on with.
                let plan = self.loose.plan()?.filter(|_| state.seen.is_some());
                if plan.is_none_or(|plan| plan.left.is_empty()) {
                    let forgotten = self.loose.set_plan(None);
                    forgotten.map_err(|e| cannot_save(&self.path, &e))?;
                }
                // A process that was killed meanwhile has left it.
                lock.tidy()?;
                let checkpoints = file::beside(self.shared.target(), CHECKPOINTS);
                let tidied = file::remove_left_overs(&checkpoints, ".tmp-");
                let tidied = tidied.and_then(|()| self.loose.remove_left_overs());
                tidied.map_err(|e| cannot_save(&self.path, &e))?;
                self.loose.close();
            }
            Ok(())
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    fn locked<T>(&self, work: impl FnOnce(&Lock) -> Result<T>) -> Result<T> {
        match &self.alone {
            Some(lock) => work(lock),
            None => work(&self.shared.lock()?),
        }
    }

    /// Is the output as we left it, or as one of the others says that he did?
    fn untouched(&self, state: &mut State) -> Result<bool> {
        let now = Stamp::of(self.shared.target());
        let now = now.map_err(|e| Error::io("read", &self.path, &e))?;
        if state.elsewhere.is_some() || now == state.seen {
            return Ok(state.elsewhere.is_none());
        }
        let note = fs::read(self.loose.note()).unwrap_or_default();
        let said: Vec<Option<Stamp>> = serde_json::from_slice(&note).unwrap_or_default();
        let theirs = said.contains(&now);
        if theirs {
            state.seen = now;
            state.saved = Some(Instant::now());
        }
        Ok(theirs)
    }

    /// Writes the output if it lacks something, with all that others have finished.
    fn save(&self, state: &mut State, lock: &Lock) -> Result<()> {
        let cannot = |e: io::Error| cannot_save(&self.path, &e);
        if self.shared.writer().is_dismissed() && state.elsewhere.is_none() {
            self.come_again(state)?;
        }
        let there = self.loose.files().map_err(cannot)?;
        let new = there.iter().filter(|name| !state.files.contains(*name));
        let mut new: Vec<String> = new.cloned().collect();
        let others = self.loose.read(&mut new)?;
        state.files.extend(new);
        if !others.is_empty() {
            state.finished.extend(others.keys().cloned());
            for run in read_stored(&self.path, None, others)? {
                state.insert(self.as_wanted(run));
            }
        }
        if state.behind {
            if !self.untouched(state)? {
                return Err(self.save_elsewhere(state, lock, &there));
            }
            let existing = match (state.seen, state.back_up) {
                (None, _) => Existing::Refuse,
                (Some(_), false) => Existing::Replace,
                (Some(_), true) => Existing::Keep,
            };
            let about_to = |meta: &Metadata| {
                let note = json!([state.seen, Stamp::new(meta)]);
                file::make(self.loose.folder())?;
                fs::write(self.loose.note(), note.to_string())
            };
            let write = |out: &mut dyn Write| write_runs(out, state.all());
            lock.replace(existing, write, about_to).map_err(cannot)?;
            state.seen = Stamp::of(self.shared.target()).map_err(cannot)?;
            state.back_up = false;
            state.behind = false;
            state.saved = Some(Instant::now());
        }
        if lock.others()?.is_empty() {
            if !there.is_empty() {
                self.shorten_plan(&state.finished)?;
            }
            self.loose.remove(&there);
            let _ = fs::remove_file(self.loose.note());
        }
        Ok(())
    }

    /// Others have counted this process as dead: what it has not seen may stand in the output alone. Or the folder has been moved
    /// or removed: then all that it knows goes to where it was.
    fn come_again(&self, state: &mut State) -> Result<()> {
        let entered = self.shared.writer().enter_again();
        entered.map_err(|e| cannot_save(&self.path, &e))?;
        let beside = self.loose.files();
        let mut beside = beside.map_err(|e| cannot_save(&self.path, &e))?;
        let finished = self.loose.read(&mut beside)?;
        let seen = Stamp::of(self.shared.target());
        state.seen = seen.map_err(|e| Error::io("read", &self.path, &e))?;
        let target = state.seen.map(|_| self.shared.target());
        state.finished.extend(finished.keys().cloned());
        let known = state.all().map(|run| run.identity.hash().to_owned());
        let known: HashSet<String> = known.collect();
        for run in read_stored(&self.path, target, finished)? {
            if !known.contains(run.identity.hash()) {
                state.insert(self.as_wanted(run));
            }
        }
        state.files.extend(beside);
        state.behind |= state.seen.is_none() && state.all().next().is_some();
        Ok(())
    }

    fn as_wanted(&self, mut run: Stored) -> Stored {
        if self.options.strict_json {
            make_strict(&mut run);
        }
        run
    }

    /// The output is gone, or it is not ours any more: nothing is written over what others have made.
    fn save_elsewhere(&self, state: &mut State, lock: &Lock, beside: &[String]) -> Error {
        let runs = state.all();
        let count = runs.clone().count();
        let write = |out: &mut dyn Write| write_runs(out, runs);
        let path = self.path.display();
        let written = match &state.elsewhere {
            Some(place) => file::replace(place, ".tmp-", write).map(|()| place.clone()),
            None => lock.write_beside(write),
        };
        match written {
            Ok(place) => {
                // They are no runs of what is there now.
                self.loose.remove(beside);
                let _ = fs::remove_file(self.loose.note());
                let _ = self.loose.set_plan(None);
                self.loose.close();
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
        // `finish` reports errors. What could not be written is still in files of its own.
        let _ = self.end(true);
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
    loose::write_list(out, runs.map(|run| &*run.text))
}

/// The runs of an existing output, verbatim, and those that do not stand in it yet.
fn read_stored(path: &Path, target: Option<&Path>, finished: loose::Texts) -> Result<Vec<Stored>> {
    let corrupt = |what: String| {
        Error::corrupt(format!(
            "{}: {what}; the file is left as it is: repair it, move it away, or start again with \
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
