//! Who writes, and who has what: processes that share a file of results, on one machine or on many.
//!
//! Two kinds of files beside the output `DIR/<id>.json` are all that they know of each other:
//!
//! - `.<id>.writers/<name>.writer`: a process that is there. It alone writes this file, every `BEAT`.
//! - a **claim**, the right to something: a folder that holds one file named as its owner. `.<id>.lock/` is the right to
//!   write the output, which a process has for moments only, `.<id>.runs/<hash>.claim/` that to train a run. A claim of several
//!   short runs is `.<id>.runs/bundles/<hash of the first>.claim/`; its file names them all.
//!
//! **A claim has one owner.** A process that wants one makes a folder with its name in it and renames it to the claim's. A rename
//! is one step, on NFS as well, and succeeds where there is nothing or an empty folder, but not where there is a name in
//! it. A name is random and never used again, so to remove it can take a claim from its owner alone, never from somebody
//! who has come since. That is how an owner gives up his claim and how others take it from one who is dead. There is no
//! moment at which a process may hold what it has looked at for what is there. Only the claim of a finished run, which nobody
//! wants any more, is moved away as it is ([`Claim::done`]).
//!
//! **A run has one claim**, though two may name it. Who has made a claim looks for others that name the same runs, and leaves
//! these to their owners; of two claims, the one that was made later is sure to see the other. Two processes may leave a run to each
//! other, so each tries what it has left again in the end, alone, when its own claim has ended: the last to try gets it.
//!
//! **Who is dead.** A process of this machine is dead exactly if there is none of its number and start. One of another
//! machine counts as dead once its file has stayed the same for a time that the observer has measured by his own clock:
//! clocks of two hosts are never compared. It may be wrong, if that process was suspended or cut off from the files. So
//! - it looks with every beat whether its claims are still there, and gives up the runs that others have taken;
//! - a process that counts it as gone from the output removes its file while it holds the lock, and none but the process itself
//!   puts it back. As long as the file is there, no run that has been finished since leaves `.<id>.runs/` (`store.rs`). If
//!   it is not, the process reads the output again before it writes it.
//!
//! **A run is trained once.** Its owner puts the finished run into the folder of its claim before he gives that up, and
//! looks for a finished one, alone or in a bundle, after he has got it. To make a file in a folder, or to rename one into it, brings
//! a client's view of it up to date, as does opening a file its view of the file; nothing else is asked of NFS, neither
//! locks nor an order of what different folders show. If all of that fails, a run is trained twice to the same bits, and is
//! stored once, since runs are known by their hashes.
//!
//! No lock of the system's is used.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::timestamp::timestamp;
use super::{file, provenance};
use crate::files;

/// A process says so often that it is there.
const BEAT: Duration = Duration::from_secs(5);

/// A process of another machine that has said nothing for so long is dead. NFS may show a file as it was a minute ago.
pub const SILENCE: Duration = Duration::from_secs(120);

/// Hexadecimal digits of a process's name.
const NAME_LENGTH: usize = 16;
const WRITER: &str = "writer";
const CLAIMING: &str = "claiming";
const ENTERING: &str = "entering";

/// What a process does with a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Nothing yet, or nothing any more.
    #[default]
    Waiting,
    /// Writes it, as others may.
    Sharing,
    /// Nobody else may.
    Alone,
}

/// A process, as it describes itself to others.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct About {
    pub pid: u32,
    /// When the process began, in the system's ticks.
    pub(super) start: u64,
    /// On which machine `pid` means something: one boot of a system, one space of numbers.
    pub(super) machine: String,
    pub host: String,
    pub since: String,
    pub role: Role,
    /// What it writes: processes that do not agree on that do not share a file.
    pub work: Value,
    /// The runs that it trains, by their hashes.
    pub runs: BTreeMap<String, UnderWay>,
    /// Epochs that it has trained, and the seconds since it came.
    pub epochs: usize,
    pub seconds: f64,
    /// By its own clock.
    pub beat: String,
    pub(super) beats: u64,
}

/// A run under way.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct UnderWay {
    pub since: String,
    /// Epochs that are done.
    pub epochs: usize,
    pub of: usize,
    /// Of the last one; none if it is not finite.
    pub loss: Option<f64>,
}

impl About {
    fn new() -> About {
        let pid = std::process::id();
        About {
            pid,
            start: started(pid).unwrap_or_default(),
            machine: MACHINE.clone(),
            host: provenance::host(),
            since: timestamp(SystemTime::now()),
            ..About::default()
        }
    }

    /// Whether the process lives, if that can be seen from here.
    pub fn lives(&self) -> Option<bool> {
        let here = !MACHINE.is_empty() && self.machine == *MACHINE;
        here.then(|| started(self.pid) == Some(self.start))
    }
}

impl std::fmt::Display for About {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.pid {
            0 => f.write_str("unknown"),
            pid => write!(f, "pid {pid} on {} since {} UTC", self.host, self.since),
        }
    }
}

/// Empty where processes of others cannot be seen: there nobody is judged by his number.
static MACHINE: LazyLock<String> = LazyLock::new(|| {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let space = fs::read_link("/proc/self/ns/pid");
    match (boot, space, started(1)) {
        (Ok(boot), Ok(space), Some(_)) => format!("{} {}", boot.trim(), space.display()),
        _ => String::new(),
    }
});

/// When a process began; none if there is no such process, or only its remains.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Its name, which may hold anything, is in brackets.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let ended = ["Z", "X", "x"].contains(&state);
    fields.nth(18).filter(|_| !ended)?.parse().ok()
}

/// This process at one file.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    /// Who says that it is there.
    beating: Option<(mpsc::Sender<()>, JoinHandle<()>)>,
}

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    name: String,
    silence: Duration,
    about: Mutex<Published>,
    observed: Mutex<HashMap<String, Observed>>,
    claims: Mutex<Vec<(PathBuf, Arc<AtomicBool>)>>,
    claimings: AtomicUsize,
    /// Folders with our name in them that are no claims yet, or any more.
    spare: Mutex<Vec<PathBuf>>,
}

#[derive(Debug)]
struct Published {
    about: About,
    /// When it came.
    begin: Instant,
    /// Bytes of its file, which never becomes shorter.
    length: usize,
}

/// A file of another process.
#[derive(Debug)]
struct Observed {
    bytes: Vec<u8>,
    since: Instant,
    changes: usize,
}

/// What came of a claim.
#[derive(Debug)]
pub enum Claimed {
    Mine(Claim),
    /// By the process of this name.
    Held(String),
}

/// A claim of this process, which ends when dropped.
#[derive(Debug)]
pub struct Claim {
    place: PathBuf,
    /// The hashes of its runs; none if it is no claim of runs.
    runs: Vec<String>,
    lost: Arc<AtomicBool>,
    done: bool,
    shared: Arc<Shared>,
}

impl Claim {
    /// Have others taken it, since they thought that we were dead?
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Tells others, with the next beat, how far a run of the claim has come if they are to know, and whether an epoch of it was
    /// trained just now.
    pub fn report(&self, run: &str, under_way: Option<UnderWay>, trained: bool) {
        let about = &mut lock(&self.shared.about).about;
        let under_way = under_way.map(|under_way| (run.to_owned(), under_way));
        about.runs.extend(under_way);
        about.epochs += usize::from(trained);
    }

    /// Ends the claim of what is done, all of it: who claims it from now on learns that first. So there is nothing to guard any
    /// more, and its folder may become that of the next claim, which saves making and removing one for each.
    pub fn done(mut self) {
        self.done = true;
        let spare = self.shared.next_claiming();
        let moved = fs::rename(&self.place, &spare);
        // Others may have thought that we were dead: then it is theirs, and of no more use to anybody.
        match moved.is_ok() && spare.join(&self.shared.name).exists() {
            true => lock(&self.shared.spare).push(spare),
            false => drop(fs::remove_dir_all(spare)),
        }
    }

    /// As [`Claim::is_lost`], at this moment.
    pub fn is_there(&self) -> bool {
        !matches!(fs::exists(self.place.join(&self.shared.name)), Ok(false))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        lock(&self.shared.claims).retain(|(_, lost)| !Arc::ptr_eq(lost, &self.lost));
        let about = &mut lock(&self.shared.about).about;
        for run in &self.runs {
            about.runs.remove(run);
        }
        if self.done {
            return;
        }
        // One that stays is that of a dead process later.
        let _ = fs::remove_file(self.place.join(&self.shared.name));
        let _ = fs::remove_dir(&self.place);
    }
}

/// Locks, whether or not a thread has panicked while it held the lock.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Writer {
    /// Says that this process is there, in a folder that is made if its parent is there.
    pub fn new(folder: PathBuf, silence: Duration) -> io::Result<Writer> {
        let shared = Arc::new(Shared {
            folder,
            // Seeded by the system.
            name: format!(
                "{:0NAME_LENGTH$x}",
                RandomState::new().build_hasher().finish()
            ),
            silence,
            about: Mutex::new(Published {
                about: About::new(),
                begin: Instant::now(),
                length: 0,
            }),
            observed: Mutex::default(),
            claims: Mutex::default(),
            claimings: AtomicUsize::new(0),
            spare: Mutex::default(),
        });
        shared.enter()?;
        let (end, ended) = mpsc::channel();
        let of_thread = shared.clone();
        let beat = move || {
            while ended.recv_timeout(BEAT) == Err(RecvTimeoutError::Timeout) {
                of_thread.beat();
            }
        };
        // Where the system gives no thread, other machines will think that the process is dead.
        let beating = thread::Builder::new().spawn(beat).ok();
        Ok(Writer {
            shared,
            beating: beating.map(|beating| (end, beating)),
        })
    }

    /// The random name of this process.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Changes what it says of itself, and says so at once.
    pub fn announce(&self, change: impl FnOnce(&mut About)) -> io::Result<()> {
        let mut published = lock(&self.shared.about);
        change(&mut published.about);
        self.shared.publish(&mut published)
    }

    /// Does anybody count it as dead?
    pub fn is_dismissed(&self) -> bool {
        matches!(fs::exists(self.shared.path(&self.shared.name)), Ok(false))
    }

    /// Says again that it is there, for who holds the lock.
    pub fn enter_again(&self) -> io::Result<()> {
        self.shared.enter()
    }

    /// The others, with their names; who is dead is dismissed. For who holds the lock.
    pub fn others(&self) -> io::Result<Vec<(String, About)>> {
        let shared = &self.shared;
        let mut others = Vec::new();
        for name in names(&shared.folder)? {
            let Some(name) = name.strip_suffix(WRITER).and_then(|n| n.strip_suffix('.')) else {
                continue;
            };
            if name == shared.name {
                continue;
            }
            match shared.look(name)? {
                Some(about) => others.push((name.to_owned(), about)),
                None => remove(&shared.path(name))?,
            }
        }
        Ok(others)
    }

    /// Is no other process there, not even a dead one that nobody has dismissed?
    pub fn is_alone(&self) -> io::Result<bool> {
        let names = names(&self.shared.folder)?;
        let other = |name: &String| name.ends_with(WRITER) && !name.starts_with(&self.shared.name);
        Ok(!names.iter().any(other))
    }

    /// A process by its name; none if it is dead.
    pub fn look(&self, name: &str) -> io::Result<Option<About>> {
        self.shared.look(name)
    }

    /// As [`Writer::look`], but waits until it is certain: at most until a process would be dead, or `stop` is set.
    pub fn watch(&self, name: &str, stop: &AtomicBool) -> io::Result<Option<About>> {
        let changes = || lock(&self.shared.observed).get(name).map(|o| o.changes);
        let mut at_first = None;
        loop {
            let about = self.shared.look(name)?;
            let seen = changes();
            let at_first = at_first.get_or_insert(seen);
            match about {
                Some(about) if about.lives().is_none() && *at_first == seen => {
                    if stop.load(Ordering::Relaxed) {
                        return Ok(Some(about));
                    }
                }
                certain => return Ok(certain),
            }
            thread::sleep(BEAT.min(self.shared.silence) / 20);
        }
    }

    /// Claims what has this place, whose folder must be there and on the same file system: runs of these hashes, if it is a
    /// claim of runs.
    pub fn claim(&self, place: &Path, runs: &[&str]) -> io::Result<Claimed> {
        let shared = &self.shared;
        let mut claiming = shared.claiming()?;
        let lost = Arc::default();
        let outcome = loop {
            // One run is named by the place.
            let named = match runs.len() {
                0 | 1 => Ok(()),
                _ => fs::write(claiming.join(&shared.name), runs.join("\n")),
            };
            match named.and_then(|()| fs::rename(&claiming, place)) {
                Ok(()) => {
                    lock(&shared.claims).push((place.to_owned(), Arc::clone(&lost)));
                    return Ok(Claimed::Mine(Claim {
                        place: place.to_owned(),
                        runs: runs.iter().map(|run| (*run).to_owned()).collect(),
                        lost,
                        done: false,
                        shared: shared.clone(),
                    }));
                }
                Err(e) if is_taken(&e) => match shared.holder(place) {
                    Ok(Some(holder)) => break Ok(Claimed::Held(holder)),
                    // He has given it up, or is dead.
                    Ok(None) => {}
                    Err(e) => break Err(e),
                },
                // Others thought that we were dead, and have tidied up.
                Err(e) if files::absent(&e) && !claiming.exists() => {
                    claiming = shared.claiming()?
                }
                Err(e) => break Err(e),
            }
        };
        lock(&shared.spare).push(claiming);
        outcome
    }

    /// Who has a claim, if anybody. Takes it from who is dead.
    pub fn holder(&self, place: &Path) -> io::Result<Option<String>> {
        self.shared.holder(place)
    }

    /// Removes what dead processes have left in the folder, for who holds the lock.
    pub fn tidy(&self) -> io::Result<()> {
        for name in names(&self.shared.folder)? {
            let mut parts = name.split('.');
            if name.ends_with(ENTERING) {
                // Of one that is alive it is made again.
                remove(&self.shared.folder.join(&name))?;
            }
            if let (Some(writer), true) = (parts.next(), name.ends_with(CLAIMING))
                && writer != self.shared.name
                && self.shared.look(writer)?.is_none()
            {
                let _ = fs::remove_dir_all(self.shared.folder.join(&name));
            }
        }
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some((end, beating)) = self.beating.take() {
            drop(end);
            let _ = beating.join();
        }
        self.shared.leave();
    }
}

impl Shared {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name).with_extension(WRITER)
    }

    fn enter(&self) -> io::Result<()> {
        const TRIES: usize = 100;
        for _ in 1..TRIES {
            match self.try_enter() {
                // Who left last has removed the folder.
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                outcome => return outcome,
            }
        }
        self.try_enter()
    }

    fn try_enter(&self) -> io::Result<()> {
        file::make(&self.folder)?;
        // Under another name until it says whose it is: nobody could judge what a process leaves that is killed in between.
        let entering = self.folder.join(&self.name).with_extension(ENTERING);
        File::create(&entering)?;
        self.write(&entering, &mut lock(&self.about))?;
        fs::rename(&entering, self.path(&self.name))
    }

    fn leave(&self) {
        for spare in lock(&self.spare).drain(..) {
            let _ = fs::remove_dir_all(spare);
        }
        let _ = fs::remove_file(self.path(&self.name));
        // Fails, as it should, if others are there.
        let _ = fs::remove_dir(&self.folder);
    }

    fn publish(&self, published: &mut Published) -> io::Result<()> {
        self.write(&self.path(&self.name), published)
    }

    /// Writes the file that is there, and makes none: see the top.
    fn write(&self, path: &Path, published: &mut Published) -> io::Result<()> {
        let about = &mut published.about;
        about.beats += 1;
        about.beat = timestamp(SystemTime::now());
        about.seconds = published.begin.elapsed().as_secs_f64();
        let mut text = serde_json::to_string(about)?;
        published.length = published.length.max(text.len());
        // In one piece, with nothing of an earlier text behind it.
        let missing = published.length - text.len();
        text.extend(std::iter::repeat_n(' ', missing));
        let mut file = OpenOptions::new().write(true).open(path)?;
        file.write_all(text.as_bytes())
    }

    fn beat(&self) {
        // If it cannot be written for long, others take the claims.
        let _ = self.publish(&mut lock(&self.about));
        let gone = |path: &Path| matches!(fs::exists(path), Ok(false));
        for (place, lost) in &*lock(&self.claims) {
            // Somebody may also have moved or removed all of them: then nobody else has any.
            if gone(&place.join(&self.name)) && !place.parent().is_some_and(gone) {
                lost.store(true, Ordering::Relaxed);
            }
        }
    }

    fn look(&self, name: &str) -> io::Result<Option<About>> {
        let bytes = match files::read(&self.path(name)) {
            Ok(bytes) => bytes,
            Err(e) if files::absent(&e) => return Ok(None),
            Err(e) => return Err(e),
        };
        // It may be read while it is written: somebody is there then.
        let unknown = |_| About {
            role: Role::Sharing,
            ..About::default()
        };
        let about: About = serde_json::from_slice(&bytes).unwrap_or_else(unknown);
        if let Some(lives) = about.lives() {
            return Ok(lives.then_some(about));
        }
        let mut observed = lock(&self.observed);
        let new = || Observed {
            bytes: bytes.clone(),
            since: Instant::now(),
            changes: 0,
        };
        let observed = observed.entry(name.to_owned()).or_insert_with(new);
        if observed.bytes != bytes {
            *observed = Observed {
                bytes,
                since: Instant::now(),
                changes: observed.changes + 1,
            };
        }
        Ok((observed.since.elapsed() < self.silence).then_some(about))
    }

    /// Who has a claim. Takes it from who is dead.
    fn holder(&self, place: &Path) -> io::Result<Option<String>> {
        let names = match fs::symlink_metadata(place) {
            // Behind a link there may be somebody's folder.
            Ok(meta) if !meta.is_dir() => return Err(ErrorKind::NotADirectory.into()),
            Ok(_) => names(place),
            Err(e) => Err(e),
        };
        let names = match names {
            Ok(names) => names,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        for name in names {
            if name.len() != NAME_LENGTH || !name.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(io::Error::other(format!(
                    "{name:?} is in it, which this program has not made"
                )));
            }
            if name == self.name || self.look(&name)?.is_some() {
                return Ok(Some(name));
            }
            remove(&place.join(name))?;
        }
        // Not every file system renames to an empty folder. One that is not empty any more stays.
        let _ = fs::remove_dir(place);
        Ok(None)
    }

    fn next_claiming(&self) -> PathBuf {
        let number = self.claimings.fetch_add(1, Ordering::Relaxed);
        let folder = format!("{}.{number}.{CLAIMING}", self.name);
        self.folder.join(folder)
    }

    /// A folder that is about to become a claim.
    fn claiming(&self) -> io::Result<PathBuf> {
        if let Some(spare) = lock(&self.spare).pop() {
            return Ok(spare);
        }
        let folder = self.next_claiming();
        file::within(&self.folder, || fs::create_dir(&folder))?;
        File::create_new(folder.join(&self.name))?;
        Ok(folder)
    }
}

/// Is there a folder with something in it?
fn is_taken(e: &io::Error) -> bool {
    [ErrorKind::DirectoryNotEmpty, ErrorKind::AlreadyExists].contains(&e.kind())
}

/// Removes a file that somebody else may have removed.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if !files::absent(&e) => Err(e),
        _ => Ok(()),
    }
}

/// The names in a folder that are text; none if there is no such folder: somebody may have moved or removed it.
fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(e) if files::absent(&e) => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry?.file_name().into_string());
    }
    Ok(names)
}

/// The processes in the folder of a file that somebody looks at, with their names: all but those that are known to be dead.
pub fn at_work(folder: &Path) -> io::Result<Vec<(String, About)>> {
    let mut all = Vec::new();
    for name in names(folder)? {
        if let Some(name) = name.strip_suffix(WRITER).and_then(|n| n.strip_suffix('.'))
            && let Ok(bytes) = files::read(&folder.join(name).with_extension(WRITER))
        {
            let about: About = serde_json::from_slice(&bytes).unwrap_or_default();
            if about.lives() != Some(false) {
                all.push((name.to_owned(), about));
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_lost_to_others_not_with_the_folder_of_all() {
        let dir = tempfile::tempdir().unwrap();
        let (writers, runs) = (dir.path().join("writers"), dir.path().join("runs"));
        fs::create_dir(&runs).unwrap();
        let writer = Writer::new(writers.clone(), SILENCE).unwrap();
        let claimed = || match writer.claim(&runs.join("a.claim"), &["a"]).unwrap() {
            Claimed::Mine(claim) => claim,
            Claimed::Held(name) => panic!("{name} has it"),
        };
        let claim = claimed();
        fs::remove_dir_all(&writers).unwrap();
        fs::rename(&runs, dir.path().join("moved")).unwrap();
        writer.shared.beat();
        assert!(!claim.is_lost());
        assert!(writer.is_alone().unwrap() && writer.others().unwrap().is_empty());
        writer.tidy().unwrap();
        drop(claim);
        fs::create_dir(&runs).unwrap();
        let claim = claimed();
        fs::remove_dir_all(runs.join("a.claim")).unwrap();
        writer.shared.beat();
        assert!(claim.is_lost());
    }
}
