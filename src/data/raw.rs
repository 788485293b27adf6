//! Raw files: where they are looked for, and how they become shards.

use super::packed::{self, open_plain, read_error};
use super::shard::{self, Form, Header, Shard, Source, Writer};
use super::split::Split;
use super::{Part, Request};
use crate::error::{Error, Kind, Result};
use crate::files::{self, hex};
use crate::stop;
use md5::{Digest, Md5};
use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

/// A data set made from files.
pub struct Files {
    pub raw: &'static [RawFile],
    /// Reads the raw files (one path for each of `raw`) and writes the training and validation shards. The number is the share
    /// of the samples that is for training, where the files do not say it.
    pub convert: fn(&[PathBuf], f64, &mut Writer, &mut Writer) -> Result<()>,
    pub open: fn(Shard, Part, &Request) -> Result<Split>,
    /// What the shards hold.
    pub form: Form,
    /// Bytes that no raw file reaches, unpacked; keeps a damaged or hostile file from filling memory or disk.
    pub limit: u64,
    /// Archives with all raw files in them, the best one first.
    pub archives: &'static [Archive],
    /// Folders on the web that hold the remote files and the archives.
    pub mirrors: &'static [&'static str],
    /// Where a human finds the files.
    pub home: &'static str,
}

/// One file of a data set.
pub struct RawFile {
    /// Where it may lie under the data folder, the best place first.
    pub names: &'static [&'static str],
    /// Sums of its content, unpacked, as it was published; more than one where it was published in
    /// several formats.
    pub md5: &'static [&'static str],
    pub remote: Option<Remote>,
}

/// What there is to download in place of a raw file.
pub struct Remote {
    pub file: &'static str,
    /// Where it goes, one of the raw file's names.
    pub name: &'static str,
    /// The published sum of the remote file.
    pub md5: &'static str,
}

/// A file whose members are called as the raw files are under the data folder.
pub struct Archive {
    pub file: &'static str,
    /// The published sum of the archive.
    pub md5: &'static str,
}

/// The raw files and shards of one data set.
pub struct Set<'a> {
    pub name: &'static str,
    pub files: &'static Files,
    /// The data folder, in which the raw files are.
    pub dir: &'a Path,
    /// The folder of the shards, where one was chosen.
    pub cache: Option<&'a Path>,
    /// The share of the samples that is for training.
    pub train_size: f64,
}

/// That share, unless a run chooses another.
pub const TRAIN_SIZE: f64 = 0.8;

/// Both shards of a data set.
pub struct Shards {
    pub train: Shard,
    pub val: Shard,
    /// Where they are, if that is neither the data folder nor a folder that was chosen.
    pub elsewhere: Option<String>,
}

impl Shards {
    /// Characters of a text that were left out.
    pub fn skipped(&self) -> u64 {
        self.train.header().skipped + self.val.header().skipped
    }
}

/// What is there of a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Raw files and up-to-date shards.
    Ready,
    /// Raw files; the shards will be made by the first use.
    Unconverted,
    /// The first name of each raw file that is not there.
    Missing(Vec<&'static str>),
}

impl<'a> Set<'a> {
    pub fn new(name: &'static str, files: &'static Files, dir: &'a Path) -> Set<'a> {
        Set {
            name,
            files,
            dir,
            cache: None,
            train_size: TRAIN_SIZE,
        }
    }

    /// The file that stands for `raw`, by its name under the data folder.
    ///
    /// # Errors
    /// A file that may be there, but cannot be seen, is not missing.
    pub fn find(&self, raw: &RawFile) -> Result<Option<&'static str>> {
        for name in raw.names {
            if is_there(&self.dir.join(name))? {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    pub fn missing(&self) -> Result<Vec<&'static RawFile>> {
        let mut missing = Vec::new();
        for raw in self.files.raw {
            if self.find(raw)?.is_none() {
                missing.push(raw);
            }
        }
        Ok(missing)
    }

    /// Says exactly which files to put where.
    pub fn remedy(&self, missing: &[&RawFile]) -> String {
        let places = missing.iter().map(|raw| {
            let text = format!("\n  {}", self.dir.join(raw.names[0]).display());
            match &raw.file_names()[1..] {
                [] => text,
                others => format!("{text} (or {})", others.join(", ")),
            }
        });
        let places: String = places.collect();
        let (name, home) = (self.name, self.files.home);
        let archives = self.files.archives.iter().map(|archive| {
            let path = self.dir.join(archive.file);
            format!(
                "\nor {}, and run `stepback-native data fetch {name}`",
                path.display()
            )
        });
        let archives: String = archives.collect();
        format!(
            "put these files in place:{places}{archives}\n\
             or run `stepback-native data import {name} --from FOLDER`; they come from {home}"
        )
    }

    /// Names of the raw files.
    fn names(&self) -> Result<Vec<&'static str>> {
        let missing = self.missing()?;
        if !missing.is_empty() {
            let (name, remedy) = (self.name, self.remedy(&missing));
            let text = format!("the files of {name} are missing; {remedy}");
            return Err(Error::new(Kind::Io, text));
        }
        let raw = self.files.raw.iter();
        let names = raw.map(|raw| Ok(self.find(raw)?.unwrap_or(raw.names[0])));
        names.collect()
    }

    /// Folders where shards may be, and what there is to tell of each: the chosen one alone; else that of the data
    /// folder, and one of the user's for a data folder that may not be written to.
    fn folders(&self) -> Vec<(PathBuf, Option<String>)> {
        if let Some(cache) = self.cache {
            return vec![(cache.to_owned(), None)];
        }
        // None where the way there is barred.
        let user = user_folder(self.dir).filter(|folder| files::exists(folder).is_ok());
        let user = user.map(|folder| {
            let text = format!("in {}", folder.display());
            (folder, Some(text))
        });
        let own = (self.own_folder(), None);
        [own].into_iter().chain(user).collect()
    }

    fn own_folder(&self) -> PathBuf {
        self.dir.join("shards")
    }

    fn shard_path(&self, folder: &Path, part: Part) -> PathBuf {
        let share = match self.train_size {
            TRAIN_SIZE => String::new(),
            // With an exponent it is short.
            share => format!("-{share:e}"),
        };
        folder.join(format!("{}{share}-{}.shard", self.name, part.name()))
    }

    pub fn state(&self) -> Result<State> {
        let missing = self.missing()?;
        if !missing.is_empty() {
            return Ok(State::Missing(missing.iter().map(|r| r.names[0]).collect()));
        }
        let names = self.names()?;
        for (folder, _) in self.folders() {
            if let Some(header) = self.header(&folder)?
                && self.unchanged(&names, &header)?
            {
                return Ok(State::Ready);
            }
        }
        Ok(State::Unconverted)
    }

    /// The shards, made where there are none yet or where the raw files are not those that they were made from.
    ///
    /// # Errors
    /// Also if they are sound, but not of this data set.
    pub fn shards(&self) -> Result<Shards> {
        let names = self.names()?;
        for (folder, elsewhere) in self.folders() {
            let fit = self.fit(&folder, &names)?;
            if fit == Fit::Current {
                return self.open(&folder, elsewhere);
            }
            match lock(&folder) {
                Ok(_lock) => {
                    self.bring_up_to_date(&folder, &names)?;
                    return self.open(&folder, elsewhere);
                }
                Err(e) if denied(&e) && fit == Fit::Touched => {
                    return self.open(&folder, elsewhere);
                }
                Err(e) if denied(&e) && self.cache.is_none() => {}
                Err(e) => return Err(Error::cannot_write(&folder, &e)),
            }
        }
        // The maps outlive the names of their files.
        let folder = temporary_folder(&std::env::temp_dir())?;
        self.bring_up_to_date(folder.path(), &names)?;
        let text = "in memory, for this process alone";
        self.open(folder.path(), Some(text.to_owned()))
    }

    fn open(&self, folder: &Path, elsewhere: Option<String>) -> Result<Shards> {
        let open = |part| {
            let shard = Shard::open(&self.shard_path(folder, part))?;
            shard.check_form(&self.files.form, self.name)?;
            Ok(shard)
        };
        let (train, val) = (open(Part::Train)?, open(Part::Val)?);
        let (a, b) = (&train.header().sample, &val.header().sample);
        if a != b {
            return Err(Error::corrupt(format!(
                "the shards of {} in {} are no pair: samples of {a:?} and of {b:?}; delete them, and they are made again \
                 from the raw files",
                self.name,
                folder.display()
            )));
        }
        Ok(Shards {
            train,
            val,
            elsewhere,
        })
    }

    /// Call it only under the lock of the folder.
    fn bring_up_to_date(&self, folder: &Path, names: &[&'static str]) -> Result<()> {
        // Another process may have been faster.
        match self.fit(folder, names)? {
            Fit::Current => Ok(()),
            Fit::Touched => {
                let sources = self.sources(names)?;
                [Part::Train, Part::Val].into_iter().try_for_each(|part| {
                    let path = self.shard_path(folder, part);
                    let shard = Shard::open(&path)?;
                    shard::restamp(&shard, &path, sources.clone())
                })
            }
            Fit::Not => {
                let paths: Vec<_> = names.iter().map(|name| self.dir.join(name)).collect();
                self.convert(folder, &paths, names, || Ok(()))
            }
        }
    }

    /// Of both shards in a folder, if both are there and of the same files.
    fn header(&self, folder: &Path) -> Result<Option<Header>> {
        let header = |part| shard::header_of(&self.shard_path(folder, part));
        let (train, val) = (header(Part::Train)?, header(Part::Val)?);
        let pair = train.zip(val).filter(|(a, b)| a.sources == b.sources);
        Ok(pair.map(|(train, _)| train))
    }

    fn fit(&self, folder: &Path, names: &[&'static str]) -> Result<Fit> {
        let Some(header) = self.header(folder)? else {
            return Ok(Fit::Not);
        };
        if self.unchanged(names, &header)? {
            return Ok(Fit::Current);
        }
        Ok(match self.same_content(names, &header)? {
            true => Fit::Touched,
            false => Fit::Not,
        })
    }

    /// Makes both shards from the files at `paths`. When their content was found good, and before the
    /// shards are put in place, `accept` may bring the files to where `names` says.
    fn convert(
        &self,
        folder: &Path,
        paths: &[PathBuf],
        names: &[&'static str],
        accept: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let stamps = |paths: &[PathBuf]| paths.iter().map(|p| stamp(p)).collect::<Result<Vec<_>>>();
        let before = stamps(paths)?;
        let mut train = Writer::create(&self.shard_path(folder, Part::Train))?;
        let mut val = Writer::create(&self.shard_path(folder, Part::Val))?;
        (self.files.convert)(paths, self.train_size, &mut train, &mut val)?;
        if stamps(paths)? != before {
            let name = self.name;
            return Err(Error::corrupt(format!(
                "the files of {name} changed while they were being read; try again when they are at rest"
            )));
        }
        accept()?;
        let sources = self.sources(names)?;
        train.commit(sources.clone())?;
        val.commit(sources)
    }

    fn sources(&self, names: &[&'static str]) -> Result<Vec<Source>> {
        let source = |name: &&'static str| {
            let path = self.dir.join(name);
            let (size, modified) = stamp(&path)?;
            Ok(Source {
                name: (*name).to_owned(),
                size,
                modified,
                md5: md5_of(open_plain(&path)?, &path)?,
            })
        };
        names.iter().map(source).collect()
    }

    /// Whether the raw files have the names, sizes and times that the shard was made from.
    fn unchanged(&self, names: &[&'static str], header: &Header) -> Result<bool> {
        self.compare(names, header, |path, source| {
            Ok(stamp(path)? == (source.size, source.modified))
        })
    }

    fn same_content(&self, names: &[&'static str], header: &Header) -> Result<bool> {
        self.compare(names, header, |path, source| {
            Ok(stamp(path)?.0 == source.size && md5_of(open_plain(path)?, path)? == source.md5)
        })
    }

    fn compare(
        &self,
        names: &[&'static str],
        header: &Header,
        same: impl Fn(&Path, &Source) -> Result<bool>,
    ) -> Result<bool> {
        if names.len() != header.sources.len() {
            return Ok(false);
        }
        for (name, source) in names.iter().zip(&header.sources) {
            if *name != source.name || !same(&self.dir.join(name), source)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Checks raw files and shards in whole, and makes the shards if there are none.
    pub fn check(&self) -> Result<Shards> {
        let shards = self.shards()?;
        // The shards are sound and were made from files of these sizes and times: of these bytes, too?
        for source in &shards.train.header().sources {
            let path = self.dir.join(&source.name);
            let found = md5_of(open_plain(&path)?, &path)?;
            if source.md5 != found {
                return Err(Error::corrupt(format!(
                    "{} has changed since the shards were made from it, with its size and time kept (md5 {}, \
                     then {}); delete it and download it again, or delete {} if the change was meant",
                    path.display(),
                    hex(&found),
                    hex(&source.md5),
                    shards.train.path().with_file_name("").display()
                )));
            }
        }
        Ok(shards)
    }

    /// Whether these raw files, from which shards were made, are those that their authors published; `None` if no sums
    /// are known of them.
    pub fn published(&self, sources: &[Source]) -> Result<Option<bool>> {
        for (raw, source) in self.files.raw.iter().zip(sources) {
            if raw.md5.is_empty() {
                return Ok(None);
            }
            let known = |sum: &[u8; 16]| raw.md5.contains(&hex(sum).as_str());
            let mut remote = raw.remote.iter();
            let as_sent = remote.any(|r| r.name == source.name && r.md5 == hex(&source.md5));
            if as_sent || known(&source.md5) {
                continue;
            }
            // Packed again by another program, perhaps.
            let path = self.dir.join(&source.name);
            let plain = !source.name.ends_with(".gz") && !source.name.ends_with(".bz2");
            if plain || !known(&md5_of(packed::open(&path, self.files.limit)?, &path)?) {
                return Ok(Some(false));
            }
        }
        Ok(Some(true))
    }

    /// Takes the missing raw files out of an archive in the data folder. Returns the names that were taken.
    pub fn unpack(&self, path: &Path) -> Result<Vec<&'static str>> {
        let _lock = self.lock_raw()?;
        self.take_out(path, &self.missing()?, self.dir)
    }

    /// Takes these raw files, and nothing else, out of an archive, and puts them where they belong below `into`.
    fn take_out(&self, path: &Path, files: &[&RawFile], into: &Path) -> Result<Vec<&'static str>> {
        let name_of = |member: &str| files.iter().find_map(|file| file.name_of(member));
        let mut names = Vec::new();
        let wanted = |member: &str| name_of(member).is_some();
        packed::members(path, self.files.limit, &wanted, &mut |member, content| {
            let name = name_of(member).expect("it was wanted");
            names.push(name);
            put(content, path, &into.join(name))
        })?;
        let taken = |file: &&&RawFile| file.names.iter().any(|name| names.contains(name));
        let Some(file) = files.iter().find(|file| !taken(file)) else {
            return Ok(names);
        };
        let name = file.names.join(" or ");
        Err(match names.is_empty() {
            true => Error::corrupt(format!(
                "{} is not an archive of {}: it has no {name}",
                path.display(),
                self.name
            )),
            false => damaged(path, format_args!("it has no {name}")),
        })
    }

    /// One process at a time puts raw files in place.
    fn lock_raw(&self) -> Result<File> {
        let folder = self.own_folder();
        let lock = lock(&folder).map_err(|e| Error::cannot_write(&folder, &e))?;
        let names = self.files.raw.iter().flat_map(|raw| raw.names);
        names.for_each(|name| {
            let path = self.dir.join(name);
            shard::remove_leftovers(path.parent().expect("a raw file lies in a folder"));
        });
        Ok(lock)
    }

    /// Copies the raw files found at `from`, a folder or an archive, into the data folder after checking them,
    /// and makes the shards. Returns the names that were copied.
    pub fn import(&self, from: &Path) -> Result<Vec<&'static str>> {
        let metadata = fs::metadata(from).map_err(|e| Error::io("read", from, &e))?;
        // Before the look at what is there already, so that of two imports the second one sees the first one's.
        let lock = self.lock_raw()?;
        let archive = match metadata.is_dir() {
            false => Some(from.to_owned()),
            true => self.archive_in(from)?,
        };
        let Some(archive) = archive else {
            return self.import_folder(from, lock);
        };
        let folder = temporary_folder(&self.own_folder())?;
        let files: Vec<&RawFile> = self.files.raw.iter().collect();
        self.take_out(&archive, &files, folder.path())?;
        self.import_folder(folder.path(), lock).map_err(|e| {
            // The folder will be gone when this is read.
            let unpacked = folder.path().display().to_string();
            let message = e.message.replace(&unpacked, &archive.display().to_string());
            Error::new(e.kind, message)
        })
    }

    /// The archive to be imported from a folder, unless that has the files themselves, which saves the work.
    fn archive_in(&self, from: &Path) -> Result<Option<PathBuf>> {
        let mut unpacked = true;
        for raw in self.files.raw {
            unpacked &= raw.look_in(from)?.is_some();
        }
        for archive in self.files.archives.iter().filter(|_| !unpacked) {
            let path = from.join(archive.file);
            if is_there(&path)? {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }

    fn import_folder(&self, from: &Path, lock_raw: File) -> Result<Vec<&'static str>> {
        let (mut paths, mut names, mut copies) = (Vec::new(), Vec::new(), Vec::new());
        for raw in self.files.raw {
            let (path, name) = raw.look_in(from)?.ok_or_else(|| raw.is_not_in(from))?;
            // A file that is there already under another name keeps it.
            let there = self.find(raw)?;
            match there.map(|there| self.dir.join(there)) {
                None => copies.push((path.clone(), name)),
                Some(there) if same_bytes(&path, &there)? => {}
                Some(there) => {
                    let (there, path) = (there.display(), path.display());
                    return Err(Error::usage(format!(
                        "{there} is there already and differs from {path}; delete it to import the other"
                    )));
                }
            }
            paths.push(path);
            names.push(there.unwrap_or(name));
        }
        let folder = self.folders().swap_remove(0).0;
        let _lock = match folder == self.own_folder() {
            true => lock_raw,
            false => lock(&folder).map_err(|e| Error::cannot_write(&folder, &e))?,
        };
        self.convert(&folder, &paths, &names, || {
            let mut copies = copies.iter();
            copies.try_for_each(|(path, name)| {
                put(&mut open_plain(path)?, path, &self.dir.join(name))
            })
        })?;
        Ok(copies.into_iter().map(|(_, name)| name).collect())
    }
}

/// How shards fit the raw files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    /// There are none, or they were made from other files.
    Not,
    /// The files have other times than those that the shards were made from, and the same content.
    Touched,
    Current,
}

impl RawFile {
    /// The name that a path stands for in a folder or an archive laid out in any of the usual ways: as the data folder,
    /// as one of its subfolders, or flat.
    fn name_of(&self, path: &str) -> Option<&'static str> {
        let stands_for = |name: &&str| {
            let before = name.strip_suffix(path);
            before.is_some_and(|before| before.is_empty() || before.ends_with('/'))
        };
        self.names.iter().copied().find(stands_for)
    }

    /// Where the file is in such a folder, and the name that it has there.
    fn look_in(&self, from: &Path) -> Result<Option<(PathBuf, &'static str)>> {
        for name in self.names {
            let folders = name.match_indices('/').map(|(at, _)| at + 1);
            for start in std::iter::once(0).chain(folders) {
                let path = from.join(&name[start..]);
                if is_there(&path)? {
                    return Ok(Some((path, name)));
                }
            }
        }
        Ok(None)
    }

    /// Its names without folders.
    fn file_names(&self) -> Vec<&'static str> {
        let names = self.names.iter();
        names.filter_map(|name| name.rsplit('/').next()).collect()
    }

    fn is_not_in(&self, from: &Path) -> Error {
        let (names, from) = (self.file_names().join(", "), from.display());
        let text = format!(
            "{from} has none of {names} in it; point --from at the folder with the raw files, or at an archive \
             (.tar, .tar.gz, .tar.bz2, .tar.xz, .zip) of them"
        );
        Error::new(Kind::Io, text)
    }
}

/// Whether there is such a file; an error if that cannot be seen.
pub fn is_there(path: &Path) -> Result<bool> {
    files::exists(path).map_err(|e| Error::io("read", path, &e))
}

/// A folder of the user's for the shards of a data folder.
fn user_folder(data: &Path) -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let home = || set("HOME").map(|home| Path::new(&home).join(".cache"));
    let cache = set("XDG_CACHE_HOME").map(PathBuf::from).or_else(home)?;
    let data = fs::canonicalize(data).ok()?;
    let sum = Md5::digest(data.as_os_str().as_encoded_bytes());
    Some(cache.join("stepback-native").join(hex(&sum[..8])))
}

/// Whether an error says that we may not write there.
fn denied(e: &std::io::Error) -> bool {
    matches!(
        e.kind(),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem
    )
}

/// Locks a folder, which is made if there is none, to write into it; removes what killed processes left there.
fn lock(folder: &Path) -> std::io::Result<File> {
    fs::create_dir_all(folder)?;
    let lock = files::open_own(&folder.join(".lock"))?;
    loop {
        match lock.try_lock() {
            Ok(()) => break,
            // Another process is at work there.
            Err(TryLockError::WouldBlock) => {
                stop::check()?;
                thread::sleep(Duration::from_millis(50));
            }
            Err(TryLockError::Error(e)) => return Err(e),
        }
    }
    shard::remove_leftovers(folder);
    // The lock may have been made when the folder could be written to.
    tempfile::tempfile_in(folder)?;
    Ok(lock)
}

fn temporary_folder(folder: &Path) -> Result<TempDir> {
    let made = tempfile::Builder::new()
        .prefix(shard::TEMPORARY)
        .tempdir_in(folder);
    made.map_err(|e| Error::cannot_write(folder, &e))
}

/// Writes what `source`, which comes from `from`, gives to `to`, which appears in whole or not at all.
fn put(source: &mut dyn Read, from: &Path, to: &Path) -> Result<()> {
    let folder = to.parent().expect("a raw file lies in a folder");
    let cannot = |e: std::io::Error| Error::cannot_write(folder, &e);
    fs::create_dir_all(folder).map_err(cannot)?;
    let mut target = tempfile::Builder::new()
        .prefix(shard::TEMPORARY)
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666))
        .tempfile_in(folder)
        .map_err(cannot)?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let n = match source.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) => return Err(read_error(from, &e)),
        };
        let written = target.as_file_mut().write_all(&buffer[..n]);
        written.map_err(cannot)?;
    }
    target.as_file().sync_all().map_err(cannot)?;
    target.persist(to).map_err(|e| cannot(e.error))?;
    shard::sync_folder(to)
}

/// Size and time of the last change.
fn stamp(path: &Path) -> Result<(u64, i64)> {
    let metadata = fs::metadata(path).map_err(|e| Error::io("read", path, &e))?;
    let modified = metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec();
    Ok((metadata.len(), modified))
}

fn same_bytes(a: &Path, b: &Path) -> Result<bool> {
    Ok(stamp(a)?.0 == stamp(b)?.0 && md5_of(open_plain(a)?, a)? == md5_of(open_plain(b)?, b)?)
}

/// A raw file whose content is wrong.
pub fn damaged(path: &Path, what: impl std::fmt::Display) -> Error {
    let path = path.display();
    Error::corrupt(format!(
        "{path} is damaged: {what}; delete it and download it again (`stepback-native data list` shows what is \
         missing then)"
    ))
}

/// The MD5 of everything `reader` gives; `path` is for the error.
pub fn md5_of(mut reader: impl Read, path: &Path) -> Result<[u8; 16]> {
    let mut hash = Md5::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(hash.finalize().into()),
            Ok(n) => hash.update(&buffer[..n]),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(read_error(path, &e)),
        }
    }
}
