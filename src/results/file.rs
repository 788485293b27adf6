//! Files of results: written by one process at a time, whole at any moment, durable.
//!
//! A writer of one holds its [`Lock`] (`writers.rs`). The new content goes to a temporary file beside the real one, is
//! synced, and takes its name in one step. A kill, a full disk or a power cut leaves the last whole file.

use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::loose::Loose;
use super::writers::{self, About, Claim, Claimed, Role, Writer};
use crate::error::{Error, Kind, Result};
use crate::{files, stop};

/// What to do if there is a file of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    Refuse,
    Replace,
    /// Replace it, what was there getting a name that nothing had: NAME.bak, NAME.bak.1, ...
    Keep,
}

/// Writes a file whole or not at all, making its folder.
///
/// # Errors
/// [`Kind::CannotCreate`] if it cannot be written, or is there and is to be kept; [`Kind::Locked`] if another process
/// is writing it.
pub fn write(path: &Path, bytes: &[u8], existing: Existing) -> Result<()> {
    refuse(path, existing)?;
    let shared = Shared::join(path, "choose another name", writers::SILENCE)?;
    let lock = shared.seize()?;
    let put = |out: &mut dyn Write| out.write_all(bytes);
    match lock.replace(existing, put, |_| Ok(())) {
        Ok(()) => {}
        Err(e) if e.kind() == ErrorKind::AlreadyExists => refuse(path, Existing::Refuse)?,
        Err(e) => return Err(cannot_write(path, &e, "choose another name")),
    }
    // They are runs of what was there.
    Loose::of(shared.target()).clear();
    Ok(())
}

/// As [`write()`], but no file is written if another one is in the way.
pub fn write_all(files: &[(PathBuf, Vec<u8>)], existing: Existing) -> Result<()> {
    let mut paths = files.iter();
    paths.try_for_each(|(path, _)| refuse(path, existing))?;
    let mut files = files.iter();
    files.try_for_each(|(path, bytes)| write(path, bytes, existing))
}

fn refuse(path: &Path, existing: Existing) -> Result<()> {
    if existing != Existing::Refuse || !path.exists() {
        return Ok(());
    }
    let path = path.display();
    let text = format!("cannot write {path}: it exists: choose another name, or say --overwrite");
    Err(Error::new(Kind::CannotCreate, text))
}

fn cannot_write(path: &Path, cause: &dyn std::fmt::Display, advice: &str) -> Error {
    let path = path.display();
    Error::new(
        Kind::CannotCreate,
        format!("cannot write {path}: {cause}; {advice}"),
    )
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if dir != Path::new("") => dir,
        _ => Path::new("."),
    }
}

/// The name of an output without `.json`, and of any other file the whole name: what its lock and its temporary files
/// are named after.
pub(super) fn stem(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.strip_suffix(".json").unwrap_or(&name).to_owned()
}

/// A folder beside an output: `.<id>.<what>`.
pub(super) fn beside(target: &Path, what: &str) -> PathBuf {
    target.with_file_name(format!(".{}.{what}", stem(target)))
}

/// The file that a path leads to, behind all links. It need not be there, but its folder must.
pub(super) fn target(path: &Path) -> io::Result<PathBuf> {
    // As many links as Linux follows.
    const MOST: usize = 40;
    let mut path = path.to_owned();
    for _ in 0..MOST {
        match fs::read_link(&path) {
            Ok(to) => path = folder(&path).join(to),
            // No link, or nothing at all.
            Err(e) if matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::NotFound) => {
                let name = path.file_name().ok_or(ErrorKind::InvalidInput)?;
                return Ok(fs::canonicalize(folder(&path))?.join(name));
            }
            Err(e) => return Err(e),
        }
    }
    Err(io::Error::from_raw_os_error(libc::ELOOP))
}

/// What distinguishes a file from another one of that name, on every machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    pub(super) fn new(meta: &Metadata) -> Stamp {
        Stamp {
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
        }
    }

    pub(super) fn of(path: &Path) -> io::Result<Option<Stamp>> {
        // Opened, since NFS may show a name as it was some time ago.
        match files::open(path).and_then(|file| file.metadata()) {
            Ok(meta) => Ok(Some(Stamp::new(&meta))),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// A new file whose name no tool takes for a result, with the mode that the umask allows.
pub(super) fn temporary(dir: &Path, prefix: &str) -> io::Result<NamedTempFile> {
    tempfile::Builder::new()
        .prefix(prefix)
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(dir)
}

/// Can files be made in this folder?
pub fn probe(dir: &Path, prefix: &str) -> io::Result<()> {
    temporary(dir, prefix)?.close()
}

/// Makes what became of the names in a folder durable.
fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Writes a file of this folder under a temporary name, durably unless said otherwise.
fn whole(
    dir: &Path,
    prefix: &str,
    durable: bool,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<NamedTempFile> {
    // Dropping it on an error removes it.
    let temp = temporary(dir, prefix)?;
    let file = temp.as_file();
    let buffered = |out: &mut dyn Write| {
        let mut out = BufWriter::with_capacity(1 << 16, out);
        write(&mut out)?;
        out.flush()
    };
    match durable {
        true => thread::scope(|scope| {
            let mut out = Synced {
                file,
                scope,
                since: 0,
                syncing: None,
            };
            buffered(&mut out)?;
            out.wait()?;
            file.sync_all()
        })?,
        false => buffered(&mut &*file)?,
    }
    Ok(temp)
}

/// A long file, which goes to the disk while more of it is written.
struct Synced<'scope, 'env> {
    file: &'env File,
    scope: &'scope thread::Scope<'scope, 'env>,
    /// Bytes written since that last began.
    since: usize,
    syncing: Option<thread::ScopedJoinHandle<'scope, io::Result<()>>>,
}

impl Synced<'_, '_> {
    const LONG: usize = 1 << 24;

    /// An error is told once, to whoever asks next.
    fn wait(&mut self) -> io::Result<()> {
        let ended = self.syncing.take().map(|thread| thread.join());
        ended.map_or(Ok(()), |ended| ended.expect("nothing in it panics"))
    }
}

impl Write for Synced<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut file = self.file;
        let written = file.write(bytes)?;
        self.since += written;
        let idle = self
            .syncing
            .as_ref()
            .is_none_or(|thread| thread.is_finished());
        if self.since >= Self::LONG && idle {
            self.wait()?;
            self.since = 0;
            // The system may give no thread: then the end takes longer.
            let builder = thread::Builder::new();
            let sync = builder.spawn_scoped(self.scope, || file.sync_data());
            self.syncing = sync.ok();
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a file that this process alone can be writing, durably, in place of what was there.
pub fn replace(
    path: &Path,
    prefix: &str,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let dir = folder(path);
    whole(dir, prefix, true, write)?.persist(path)?;
    sync(dir)
}

/// As [`replace`], but a power cut may leave an empty file, or none.
pub fn replace_in_memory(
    path: &Path,
    prefix: &str,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    whole(folder(path), prefix, false, write)?.persist(path)?;
    Ok(())
}

/// Makes a folder beside an output, durably. It may be there.
pub fn make(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Ok(()) => sync(folder(dir)),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        // Somebody has moved or removed the output's folder: all goes on where it was.
        Err(e) if e.kind() == ErrorKind::NotFound => fs::create_dir_all(dir),
        Err(e) => Err(e),
    }
}

/// Does something in a folder beside an output, which is made if it is missing.
pub fn within<T>(dir: &Path, mut act: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    match act() {
        Err(e) if e.kind() == ErrorKind::NotFound => {
            make(dir)?;
            act()
        }
        outcome => outcome,
    }
}

/// Folders that were made for something that may not come: those that are empty in the end go again.
#[derive(Debug, Default)]
pub struct Folders {
    /// The deepest first.
    made: Vec<PathBuf>,
}

impl Folders {
    pub fn make(dir: &Path) -> io::Result<Folders> {
        let missing = dir.ancestors();
        let missing = missing.take_while(|dir| **dir != *"" && !dir.exists());
        let folders = Folders {
            made: missing.map(Path::to_owned).collect(),
        };
        fs::create_dir_all(dir)?;
        Ok(folders)
    }
}

impl Drop for Folders {
    fn drop(&mut self) {
        for dir in &self.made {
            // Fails, as it should, if something is in it.
            let _ = fs::remove_dir(dir);
        }
    }
}

/// A file of results at which this process is, as others may be.
#[derive(Debug)]
pub struct Shared {
    /// As the user has named it.
    path: PathBuf,
    /// What to do if it cannot be had.
    advice: &'static str,
    /// The file itself, behind all links: it is one file under all its names.
    target: PathBuf,
    prefix: String,
    silence: Duration,
    writer: Writer,
    /// Dropped last.
    _folders: Folders,
}

impl Shared {
    /// Comes to a file, making its folder. `silence`: how long one of another machine must be silent to be dead.
    ///
    /// # Errors
    /// [`Kind::CannotCreate`] if the file could not be written.
    pub fn join(path: &Path, advice: &'static str, silence: Duration) -> Result<Arc<Shared>> {
        let cannot = |cause: &dyn std::fmt::Display| cannot_write(path, cause, advice);
        let folders = Folders::make(folder(path)).map_err(|e| cannot(&e))?;
        let target = target(path).map_err(|e| cannot(&e))?;
        match fs::metadata(&target) {
            Ok(meta) if meta.is_file() => {}
            Ok(_) => return Err(cannot(&"it is not a regular file")),
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(cannot(&e)),
        }
        let prefix = format!(".tmp-{}-", stem(&target));
        let folder = beside(&target, "writers");
        let named = |e| cannot(&format!("{}: {e}", folder.display()));
        let writer = Writer::new(folder.clone(), silence).map_err(named)?;
        Ok(Arc::new(Shared {
            path: path.to_owned(),
            advice,
            target,
            prefix,
            silence,
            writer,
            _folders: folders,
        }))
    }

    pub fn target(&self) -> &Path {
        &self.target
    }

    pub fn writer(&self) -> &Writer {
        &self.writer
    }

    /// Takes the lock for a moment, waiting for others who have it for one.
    ///
    /// # Errors
    /// [`Kind::Locked`] if somebody has the file alone, or has it for longer than a moment.
    pub fn lock(self: &Arc<Shared>) -> Result<Lock> {
        let begin = Instant::now();
        let mut pause = Duration::from_millis(1);
        loop {
            let name = match self.claim()? {
                Ok(lock) => return Ok(lock),
                Err(name) => name,
            };
            let holder = self.looked(self.writer.look(&name))?;
            // Else it has just ended.
            if let Some(about) = holder {
                let long = 2 * self.silence + Duration::from_secs(60);
                if about.role == Role::Alone || begin.elapsed() > long {
                    return Err(self.taken(&[(name, about)]));
                }
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// Takes the lock and has the file alone.
    ///
    /// # Errors
    /// [`Kind::Locked`] if somebody else is at it.
    pub fn seize(self: &Arc<Shared>) -> Result<Lock> {
        let alive = |name: &str| self.looked(self.writer.watch(name, stop::flag()));
        let lock = loop {
            match self.claim()? {
                Ok(lock) => break lock,
                Err(name) => {
                    if let Some(about) = alive(&name)? {
                        return Err(self.taken(&[(name, about)]));
                    }
                }
            }
        };
        let announced = self.writer.announce(|about| about.role = Role::Alone);
        announced.map_err(|e| self.cannot(&e))?;
        let mut others = lock.others()?;
        let mut dead = Vec::new();
        for (name, _) in &others {
            if alive(name)?.is_none() {
                dead.push(name.clone());
            }
        }
        others.retain(|(name, _)| !dead.contains(name));
        if !others.is_empty() {
            return Err(self.taken(&others));
        }
        lock.tidy()?;
        Ok(lock)
    }

    fn claim(self: &Arc<Shared>) -> Result<std::result::Result<Lock, String>> {
        let place = beside(&self.target, "lock");
        let claimed = self.writer.claim(&place, &[]).map_err(|e| {
            let place = place.display();
            match e.kind() {
                ErrorKind::NotADirectory => {
                    let what = "is not a folder: delete it, unless an older version of this program is at work";
                    self.cannot(&format!("{place} {what}"))
                }
                _ => self.cannot(&format!("{place}: {e}")),
            }
        })?;
        Ok(match claimed {
            Claimed::Held(name) => Err(name),
            Claimed::Mine(claim) => Ok(Lock {
                claim,
                shared: self.clone(),
            }),
        })
    }

    fn looked<T>(&self, outcome: io::Result<T>) -> Result<T> {
        outcome.map_err(|e| self.cannot(&e))
    }

    fn cannot(&self, cause: &dyn std::fmt::Display) -> Error {
        cannot_write(&self.path, cause, self.advice)
    }

    /// What to tell about others who are at the file.
    pub fn taken(&self, others: &[(String, About)]) -> Error {
        let (path, advice) = (self.path.display(), self.advice);
        let (who, them) = match others {
            [(_, one)] => (format!("another process ({one})"), "it ends"),
            _ => {
                let all: Vec<String> = others.iter().take(4).map(|(_, o)| o.to_string()).collect();
                let all = all.join(", ");
                let more = if others.len() > 4 { ", ..." } else { "" };
                (
                    format!("{} other processes ({all}{more})", others.len()),
                    "they end",
                )
            }
        };
        let text = format!("{path} is being written by {who}: wait until {them}, or {advice}");
        Error::new(Kind::Locked, text)
    }
}

/// The right to write a file: no other process has it at the same time. It ends when dropped.
#[derive(Debug)]
pub struct Lock {
    claim: Claim,
    shared: Arc<Shared>,
}

impl Lock {
    /// The others who write this file.
    pub fn others(&self) -> Result<Vec<(String, About)>> {
        let others = self.shared.writer.others();
        let mut others = self.shared.looked(others)?;
        others.retain(|(_, about)| about.role != Role::Waiting);
        Ok(others)
    }

    /// Removes what dead processes have left. For when nobody else is at the file.
    pub fn tidy(&self) -> Result<()> {
        let tidied = self.shared.writer.tidy().and_then(|()| {
            let target = &self.shared.target;
            remove_left_overs(folder(target), &self.shared.prefix)
        });
        self.shared.looked(tidied)
    }

    /// Can files be made here?
    pub fn probe(&self) -> io::Result<()> {
        probe(folder(&self.shared.target), &self.shared.prefix)
    }

    /// Writes the file, durably. At any moment there is the old one or the new one. `about_to` hears of the new one before
    /// it is in place.
    pub fn replace(
        &self,
        existing: Existing,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
        about_to: impl FnOnce(&Metadata) -> io::Result<()>,
    ) -> io::Result<()> {
        let target = &self.shared.target;
        let dir = folder(target);
        let temp = whole(dir, &self.shared.prefix, true, write)?;
        if existing == Existing::Keep {
            self.name_again(target)?;
        }
        about_to(&temp.as_file().metadata()?)?;
        if !self.claim.is_there() {
            return Err(io::Error::other(
                "others have taken the lock, since nothing was heard of us",
            ));
        }
        match existing {
            Existing::Refuse => temp.persist_noclobber(target)?,
            Existing::Replace | Existing::Keep => temp.persist(target)?,
        };
        sync(dir)
    }

    /// Writes a file beside the target, under a name as of [`Existing::Keep`].
    pub fn write_beside(
        &self,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<PathBuf> {
        let temp = whole(
            folder(&self.shared.target),
            &self.shared.prefix,
            true,
            write,
        )?;
        self.name_again(temp.path())
    }

    /// Gives a file beside the target a second name.
    fn name_again(&self, file: &Path) -> io::Result<PathBuf> {
        let name = |n: usize| {
            let mut name = self.shared.target.clone().into_os_string();
            name.push(".bak");
            if n > 0 {
                name.push(format!(".{n}"));
            }
            PathBuf::from(name)
        };
        let mut names = (0..).map(name);
        let kept = loop {
            let name = names.next().expect("without end");
            // Not every file system has hard links.
            let linked = fs::hard_link(file, &name);
            match linked.or_else(|e| match e.kind() {
                ErrorKind::AlreadyExists => Err(e),
                _ => copy(file, &name),
            }) {
                Ok(()) => break name,
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        };
        sync(folder(&self.shared.target))?;
        Ok(kept)
    }
}

/// Copies a file to a name that nothing has.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut from = File::open(from)?;
    let mut copy = File::create_new(to)?;
    let outcome = io::copy(&mut from, &mut copy).and_then(|_| copy.sync_all());
    outcome.inspect_err(|_| drop(fs::remove_file(to)))
}

/// Removes temporary files of killed processes, if there is such a folder. Call it where no other process can be writing
/// files of this prefix.
pub fn remove_left_overs(dir: &Path, prefix: &str) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if files::absent(&e) => return Ok(()),
        Err(e) => return Err(e),
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let suffix = name.to_str().and_then(|name| name.strip_prefix(prefix));
        // Experiment `a` must not touch `.tmp-a-b-XXXXXX` of experiment `a-b`.
        if suffix.is_some_and(|suffix| !suffix.contains('-')) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_files_are_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("long");
        // Pieces that neither fill buffers nor begin syncs at their ends.
        let piece: Vec<u8> = (0..999_983).map(|i| (i % 251) as u8).collect();
        let pieces = 5 * Synced::LONG / piece.len();
        let write = |out: &mut dyn Write| (0..pieces).try_for_each(|_| out.write_all(&piece));
        replace(&path, ".tmp-", write).unwrap();
        let text = fs::read(&path).unwrap();
        assert_eq!(text.len(), pieces * piece.len());
        assert!(text.chunks(piece.len()).all(|read| read == piece));
        // And none is left that could not be written.
        let write = |out: &mut dyn Write| {
            out.write_all(&text)?;
            Err(ErrorKind::Other.into())
        };
        replace(&path, ".tmp-", write).unwrap_err();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(fs::read(&path).unwrap(), text);
    }
}
