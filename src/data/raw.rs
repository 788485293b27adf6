//! Raw files: where they are looked for, and how they become shards.

use super::Part;
use super::shard::{self, Header, Shard, Source, Writer};
use super::split::Split;
use crate::config::Values;
use crate::error::{Error, Kind, Result};
use bzip2::read::MultiBzDecoder;
use flate2::read::MultiGzDecoder;
use md5::{Digest, Md5};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A data set made from files.
pub struct Files {
    pub raw: &'static [RawFile],
    /// Reads the raw files (one path for each of `raw`) and writes the training and validation shards.
    pub convert: fn(&[PathBuf], &mut Writer, &mut Writer) -> Result<()>,
    pub open: fn(Shard, Part, &Values) -> Split,
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

/// A `.tar.gz` whose members are called as the raw files are under the data folder.
pub struct Archive {
    pub file: &'static str,
    /// The published sum of the archive.
    pub md5: &'static str,
}

/// The raw files and shards of one data set in one data folder.
pub struct Set<'a> {
    pub name: &'static str,
    pub files: &'static Files,
    pub dir: &'a Path,
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
        Set { name, files, dir }
    }

    /// The file that stands for `raw`, by its name under the data folder.
    pub fn find(&self, raw: &RawFile) -> Option<&'static str> {
        let mut names = raw.names.iter();
        names.find(|name| self.dir.join(name).is_file()).copied()
    }

    /// Names of the raw files, or the raw files that are missing.
    fn locate(&self) -> std::result::Result<Vec<&'static str>, Vec<&'static RawFile>> {
        let found: Vec<_> = self.files.raw.iter().map(|r| (r, self.find(r))).collect();
        let missing: Vec<_> = found.iter().filter(|(_, name)| name.is_none()).collect();
        match missing.is_empty() {
            true => Ok(found.into_iter().filter_map(|(_, name)| name).collect()),
            false => Err(missing.into_iter().map(|(raw, _)| *raw).collect()),
        }
    }

    pub fn missing(&self) -> Vec<&'static RawFile> {
        self.locate().err().unwrap_or_default()
    }

    /// Says exactly which files to put where.
    pub fn remedy(&self) -> String {
        let missing = self.missing();
        let places = missing.iter().map(|raw| {
            let mut names = raw.names.iter().map(|name| self.dir.join(name));
            let first = names.next().expect("a raw file has a name");
            let mut text = format!("\n  {}", first.display());
            for other in names {
                let name = other.file_name().expect("a file").display();
                text += &format!(" (or {name})");
            }
            text
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

    fn names(&self) -> Result<Vec<&'static str>> {
        self.locate().map_err(|_| {
            let (name, remedy) = (self.name, self.remedy());
            Error::new(
                Kind::Io,
                format!("the files of {name} are missing; {remedy}"),
            )
        })
    }

    pub fn shard_path(&self, part: Part) -> PathBuf {
        let file = format!("{}-{}.shard", self.name, part.name());
        self.dir.join("shards").join(file)
    }

    pub fn state(&self) -> Result<State> {
        let Ok(names) = self.locate() else {
            let missing = self.missing();
            return Ok(State::Missing(missing.iter().map(|r| r.names[0]).collect()));
        };
        for part in [Part::Train, Part::Val] {
            let header = shard::header_of(&self.shard_path(part))?;
            if !header.is_some_and(|h| self.unchanged(&names, &h).unwrap_or(false)) {
                return Ok(State::Unconverted);
            }
        }
        Ok(State::Ready)
    }

    /// The shard of one half, made (with that of the other half) where there is none yet or where the raw
    /// files are not those it was made from.
    pub fn shard(&self, part: Part) -> Result<Shard> {
        let path = self.shard_path(part);
        let names = self.names()?;
        if let Some(header) = shard::header_of(&path)?
            && self.unchanged(&names, &header)?
        {
            return Shard::open(&path);
        }
        let _lock = self.lock_shards()?;
        // Another process may have been faster.
        match shard::header_of(&path)? {
            Some(header) if self.unchanged(&names, &header)? => {}
            Some(header) if self.same_content(&names, &header)? => {
                let sources = self.sources(&names)?;
                shard::restamp(&Shard::open(&path)?, &path, sources)?;
            }
            _ => {
                let paths: Vec<_> = names.iter().map(|name| self.dir.join(name)).collect();
                self.convert(&paths, &names, || Ok(()))?;
            }
        }
        Shard::open(&path)
    }

    /// Makes both shards from the files at `paths`. When their content was found good, and before the
    /// shards are put in place, `accept` may bring the files to where `names` says.
    fn convert(
        &self,
        paths: &[PathBuf],
        names: &[&'static str],
        accept: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let stamps = |paths: &[PathBuf]| paths.iter().map(|p| stamp(p)).collect::<Result<Vec<_>>>();
        let before = stamps(paths)?;
        let mut train = Writer::create(&self.shard_path(Part::Train))?;
        let mut val = Writer::create(&self.shard_path(Part::Val))?;
        (self.files.convert)(paths, &mut train, &mut val)?;
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

    /// One process at a time makes shards in a data folder.
    fn lock_shards(&self) -> Result<File> {
        let folder = self.dir.join("shards");
        let cannot = |e: io::Error| cannot_write(&folder, &e);
        fs::create_dir_all(&folder).map_err(cannot)?;
        let mut options = OpenOptions::new();
        let options = options.create(true).truncate(false).write(true);
        let lock = options.open(folder.join(".lock")).map_err(cannot)?;
        lock.lock().map_err(cannot)?;
        shard::remove_leftovers(&folder);
        Ok(lock)
    }

    /// Checks raw files and shards in whole, and makes the shards if there are none.
    pub fn check(&self) -> Result<[Shard; 2]> {
        let shards = [self.shard(Part::Train)?, self.shard(Part::Val)?];
        // The shards are sound and were made from files of these sizes and times: of these bytes, too?
        let [train, val] = shards.each_ref().map(|shard| &shard.header().sources);
        for (source, other) in train.iter().zip(val) {
            let path = self.dir.join(&source.name);
            let found = md5_of(open_plain(&path)?, &path)?;
            if [source.md5, other.md5] != [found; 2] {
                return Err(Error::corrupt(format!(
                    "{} has changed since the shards were made from it, with its size and time kept (md5 {}, \
                     then {}); delete it and get it anew, or delete {} if the change was meant",
                    path.display(),
                    hex(&found),
                    hex(&source.md5),
                    self.shard_path(Part::Train).with_file_name("").display()
                )));
            }
        }
        Ok(shards)
    }

    /// Whether the raw files are, byte for byte, those that their authors published; `None` if no sums are
    /// known of them.
    pub fn published(&self) -> Result<Option<bool>> {
        for (raw, name) in self.files.raw.iter().zip(self.names()?) {
            if raw.md5.is_empty() {
                return Ok(None);
            }
            let path = self.dir.join(name);
            let found = hex(&md5_of(open(&path)?, &path)?);
            if !raw.md5.contains(&found.as_str()) {
                return Ok(Some(false));
            }
        }
        Ok(Some(true))
    }

    /// Takes the missing raw files out of an archive, and nothing else: members of other names, links and
    /// devices are passed over. Returns the names that were taken.
    pub fn unpack(&self, path: &Path) -> Result<Vec<&'static str>> {
        let wanted = self.missing();
        let broken = |e: io::Error| read_error(path, &e);
        let packed = MultiGzDecoder::new(open_plain(path)?);
        let mut archive = tar::Archive::new(packed);
        let mut names = Vec::new();
        for member in archive.entries().map_err(broken)? {
            let mut member = member.map_err(broken)?;
            let member_name = member.path_bytes().into_owned();
            let mut known = wanted.iter().flat_map(|file| file.names);
            let name = known.find(|name| name.as_bytes() == member_name);
            if let Some(name) = name.filter(|_| member.header().entry_type().is_file()) {
                put(&mut member, path, &self.dir.join(name))?;
                names.push(*name);
            }
        }
        let missing = self.missing();
        let Some(file) = missing.first() else {
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

    /// Copies the raw files found at `from`, a folder or an archive, into the data folder after checking them,
    /// and makes the shards. Returns the names that were copied.
    pub fn import(&self, from: &Path) -> Result<Vec<&'static str>> {
        if let Err(e) = fs::metadata(from) {
            return Err(Error::io("read", from, &e));
        }
        let files = self.files;
        let archives = files.archives.iter().map(|a| from.join(a.file));
        let archive = match from.is_file() {
            true => Some(from.to_owned()),
            // Files that are there already unpacked save the work.
            false if files.raw.iter().all(|raw| find_in(from, raw).is_ok()) => None,
            false => archives.into_iter().find(|path| path.is_file()),
        };
        let Some(archive) = archive else {
            return self.import_folder(from);
        };
        let cannot = |e: io::Error| cannot_write(self.dir, &e);
        fs::create_dir_all(self.dir).map_err(cannot)?;
        let folder = tempfile::tempdir_in(self.dir).map_err(cannot)?;
        Set::new(self.name, files, folder.path()).unpack(&archive)?;
        self.import_folder(folder.path()).map_err(|e| {
            // The folder will be gone when this is read.
            let unpacked = folder.path().display().to_string();
            let message = e.message.replace(&unpacked, &archive.display().to_string());
            Error::new(e.kind, message)
        })
    }

    fn import_folder(&self, from: &Path) -> Result<Vec<&'static str>> {
        let found = self.files.raw.iter().map(|raw| find_in(from, raw));
        let found: Vec<(PathBuf, &'static str)> = found.collect::<Result<_>>()?;
        let mut copies = Vec::new();
        for (raw, (path, name)) in self.files.raw.iter().zip(&found) {
            match self.find(raw).map(|there| self.dir.join(there)) {
                None => copies.push((path, *name)),
                Some(there) if same_bytes(path, &there)? => {}
                Some(there) => {
                    let (there, path) = (there.display(), path.display());
                    return Err(Error::usage(format!(
                        "{there} is there already and differs from {path}; delete it to import the other"
                    )));
                }
            }
        }
        let _lock = self.lock_shards()?;
        let paths: Vec<_> = found.iter().map(|(path, _)| path.clone()).collect();
        // A file that is there already under another name keeps it.
        let names = self.files.raw.iter().zip(&found);
        let names: Vec<_> = names
            .map(|(raw, (_, name))| self.find(raw).unwrap_or(name))
            .collect();
        self.convert(&paths, &names, || {
            copies
                .iter()
                .try_for_each(|(path, name)| copy(path, &self.dir.join(name)))
        })?;
        Ok(copies.into_iter().map(|(_, name)| name).collect())
    }
}

/// Looks for a raw file in a folder laid out in any of the usual ways: as the data folder, as one of its
/// subfolders, or flat; a dot may stand for the dash of `-idx3-ubyte`.
fn find_in(from: &Path, raw: &RawFile) -> Result<(PathBuf, &'static str)> {
    for name in raw.names {
        let mut tail = *name;
        loop {
            for spelling in [tail.to_owned(), tail.replace("-idx", ".idx")] {
                let path = from.join(spelling);
                if path.is_file() {
                    return Ok((path, name));
                }
            }
            match tail.split_once('/') {
                Some((_, rest)) => tail = rest,
                None => break,
            }
        }
    }
    let file = |name: &&str| name.rsplit('/').next().unwrap_or(name).to_owned();
    let names: Vec<_> = raw.names.iter().map(file).collect();
    let (names, from) = (names.join(", "), from.display());
    Err(Error::new(
        Kind::Io,
        format!(
            "{from} has none of {names} in it; point --from at the folder with the raw files, or at an archive \
             (.tar.gz) of them"
        ),
    ))
}

fn cannot_write(folder: &Path, e: &io::Error) -> Error {
    let folder = folder.display();
    Error::new(Kind::CannotCreate, format!("cannot write to {folder}: {e}"))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    put(&mut open_plain(from)?, from, to)
}

/// Writes what `source`, which comes from `from`, gives to `to`, which appears in whole or not at all.
pub fn put(source: &mut impl Read, from: &Path, to: &Path) -> Result<()> {
    let folder = to.parent().expect("a raw file lies in a folder");
    let cannot = |e: io::Error| cannot_write(folder, &e);
    fs::create_dir_all(folder).map_err(cannot)?;
    let mut target = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666))
        .tempfile_in(folder)
        .map_err(cannot)?;
    let copied = io::copy(source, &mut target).and_then(|_| target.as_file().sync_all());
    copied.map_err(|e| match e.raw_os_error() {
        Some(_) => Error::io("copy", from, &e),
        None => read_error(from, &e),
    })?;
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

fn open_plain(path: &Path) -> Result<BufReader<File>> {
    let file = File::open(path).map_err(|e| Error::io("open", path, &e))?;
    Ok(BufReader::with_capacity(1 << 16, file))
}

/// Opens a raw file for reading, unpacked if its name ends in .gz or .bz2.
pub fn open(path: &Path) -> Result<Box<dyn Read>> {
    let file = open_plain(path)?;
    let extension = path.extension().and_then(|e| e.to_str());
    Ok(match extension {
        Some("gz") => Box::new(MultiGzDecoder::new(file)),
        Some("bz2") => Box::new(MultiBzDecoder::new(file)),
        _ => Box::new(file),
    })
}

/// An error while reading what [`open`] gave: of the device, or of the packed content.
pub fn read_error(path: &Path, e: &io::Error) -> Error {
    match e.raw_os_error() {
        Some(_) => Error::io("read", path, e),
        None => damaged(path, format_args!("it cannot be unpacked: {e}")),
    }
}

/// A raw file whose content is wrong.
pub fn damaged(path: &Path, what: impl std::fmt::Display) -> Error {
    let path = path.display();
    Error::corrupt(format!(
        "{path} is damaged: {what}; delete it and get it anew (`stepback-native data list` shows what is \
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
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(read_error(path, &e)),
        }
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
