//! Files of results: written by one process at a time, whole at any moment, durable.
//!
//! Whoever writes one holds its [`Lock`]. The new content goes to a temporary file beside the real one, is synced, and
//! takes its name in one step. A kill, a full disk or a power cut leaves the last whole file.

use std::fs::{self, File, Permissions, TryLockError};
use std::io::{self, BufWriter, ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tempfile::NamedTempFile;

use super::loose::Loose;
use super::timestamp::timestamp;
use crate::error::{Error, Kind, Result};
use crate::files;

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
    let lock = Lock::take(path, "choose another name")?;
    let put = |out: &mut dyn Write| out.write_all(bytes);
    match lock.replace(existing, put) {
        Ok(()) => {}
        Err(e) if e.kind() == ErrorKind::AlreadyExists => refuse(path, Existing::Refuse)?,
        Err(e) => return Err(cannot_write(path, &e, "choose another name")),
    }
    // They are runs of what was there.
    Loose::of(lock.target()).clear();
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

/// Writes a file of this folder under a temporary name, durably.
fn whole(
    dir: &Path,
    prefix: &str,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<NamedTempFile> {
    // Dropping it on an error removes it.
    let mut temp = temporary(dir, prefix)?;
    let mut out = BufWriter::with_capacity(1 << 16, temp.as_file_mut());
    write(&mut out)?;
    out.flush()?;
    drop(out);
    temp.as_file().sync_all()?;
    Ok(temp)
}

/// Writes a file that this process alone can be writing, durably, in place of what was there.
pub fn replace(
    path: &Path,
    prefix: &str,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let dir = folder(path);
    whole(dir, prefix, write)?.persist(path)?;
    sync(dir)
}

/// Makes a folder beside an output, durably. It may be there.
pub fn make(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Ok(()) => sync(folder(dir)),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(e),
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

/// The right to write a file: no other process has it at the same time. It ends when dropped.
#[derive(Debug)]
pub struct Lock {
    /// The file itself, behind all links: it is one file under all its names.
    target: PathBuf,
    prefix: String,
    file: File,
    path: PathBuf,
    /// Dropped last.
    _folders: Folders,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // On failure a file stays that means nothing, and the lock ends with the process.
        let _ = fs::remove_file(&self.path);
        // In so many words: closing the file alone would leave it to a child process that is being started at that
        // moment and has inherited it.
        let _ = self.file.unlock();
    }
}

impl Lock {
    /// Takes the lock on a file, making its folder, and removes the temporary files of those who were killed while they
    /// had it. `advice` tells what to do if it cannot be had.
    ///
    /// # Errors
    /// [`Kind::Locked`] if another process has it; [`Kind::CannotCreate`] if the file could not be written.
    pub fn take(path: &Path, advice: &str) -> Result<Lock> {
        let cannot = |cause: &dyn std::fmt::Display| cannot_write(path, cause, advice);
        let folders = Folders::make(folder(path)).map_err(|e| cannot(&e))?;
        let target = target(path).map_err(|e| cannot(&e))?;
        match fs::metadata(&target) {
            Ok(meta) if meta.is_file() => {}
            Ok(_) => return Err(cannot(&"it is no regular file")),
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(cannot(&e)),
        }
        let stem = stem(&target);
        let lock = target.with_file_name(format!(".{stem}.lock"));
        let named = |e: &dyn std::fmt::Display| cannot(&format!("{}: {e}", lock.display()));
        let file = loop {
            let mut file = files::open_own(&lock).map_err(|e| named(&e))?;
            match file.try_lock() {
                // Its holder may have removed it since we opened it; a lock on it would keep nobody out.
                Ok(()) if is_at(&file, &lock) => break file,
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(taken(path, &mut file, advice)),
                Err(TryLockError::Error(e)) => return Err(named(&e)),
            }
        };
        let mut lock = Lock {
            prefix: format!(".tmp-{stem}-"),
            path: lock,
            target,
            file,
            _folders: folders,
        };
        lock.sign().map_err(|e| cannot(&e))?;
        remove_left_overs(folder(&lock.target), &lock.prefix).map_err(|e| cannot(&e))?;
        Ok(lock)
    }

    /// Writes into the lock who we are.
    fn sign(&mut self) -> io::Result<()> {
        let host = super::provenance::host();
        let (id, now) = (std::process::id(), timestamp(SystemTime::now()));
        self.file.set_len(0)?;
        self.file.rewind()?;
        let note = format!("pid {id} on {host} since {now} UTC\n");
        self.file.write_all(note.as_bytes())
    }

    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Can files be made here?
    pub fn probe(&self) -> io::Result<()> {
        probe(folder(&self.target), &self.prefix)
    }

    /// Writes the file, durably. At any moment there is the old one or the new one.
    pub fn replace(
        &self,
        existing: Existing,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        let dir = folder(&self.target);
        let temp = whole(dir, &self.prefix, write)?;
        if existing == Existing::Keep {
            self.name_again(&self.target)?;
        }
        match existing {
            Existing::Refuse => temp.persist_noclobber(&self.target)?,
            Existing::Replace | Existing::Keep => temp.persist(&self.target)?,
        };
        sync(dir)
    }

    /// Writes a file beside the target, under a name as of [`Existing::Keep`].
    pub fn write_beside(
        &self,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<PathBuf> {
        let temp = whole(folder(&self.target), &self.prefix, write)?;
        self.name_again(temp.path())
    }

    /// Gives a file beside the target a second name.
    fn name_again(&self, file: &Path) -> io::Result<PathBuf> {
        let name = |n: usize| {
            let mut name = self.target.clone().into_os_string();
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
        sync(folder(&self.target))?;
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

fn taken(path: &Path, lock: &mut File, advice: &str) -> Error {
    let mut holder = String::new();
    // Empty between the holder's lock and its note.
    let _ = lock.read_to_string(&mut holder);
    let holder = match holder.trim_end() {
        "" => "unknown",
        holder => holder,
    };
    let path = path.display();
    Error::new(
        Kind::Locked,
        format!(
            "{path} is being written by another process ({holder}): wait until it ends, or {advice}"
        ),
    )
}

/// Is this open file the one that has this name?
fn is_at(file: &File, path: &Path) -> bool {
    let inode = |meta: fs::Metadata| (meta.dev(), meta.ino());
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => inode(open) == inode(named),
        _ => false,
    }
}

/// Removes temporary files of killed processes. Call it where no other process can be writing files of this prefix.
pub fn remove_left_overs(dir: &Path, prefix: &str) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
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
