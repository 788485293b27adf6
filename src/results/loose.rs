//! Finished runs that do not stand in the output yet: `DIR/.<id>.runs/<hash of the run's identity>.json`, each the text
//! of one run as the output will have it. Short runs are claimed and stored several at a time, as a **bundle**:
//! `bundles/<process>-<number>.json` in there is a line with the hashes of its runs, then these as an output has them.
//!
//! A run is safe as soon as its file is there, however long the output is. A reader looks into this folder first and
//! into the output second: a file that goes in between is in the output by then. `store.rs` says when one goes.
//!
//! The folder also holds the claims of the runs that are under way (`writers.rs`), `<hash>.failed`, why a run could not be
//! trained to its end, and `plan`, what is to be done (`progress.rs`).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use rayon::prelude::*;

use super::file;
use super::identity::Identity;
use super::json::{self, Json, SyntaxError};
use super::progress::Plan;
use super::writers::{Claimed, Writer, lock};
use crate::error::{Error, Result};
use crate::files;

/// Prefix of temporary files.
const TEMPORARY: &str = ".tmp-";
const EXTENSION: &str = "json";
const CLAIM: &str = "claim";
const FAILED: &str = "failed";
const PLAN: &str = "plan";
const BUNDLES: &str = "bundles";

/// The loose runs of an output.
#[derive(Debug)]
pub struct Loose {
    folder: PathBuf,
    bundles: PathBuf,
    /// Bundles that this process has made.
    made: AtomicUsize,
    /// Bundles of others whose first line this process has read.
    listed: Mutex<HashSet<String>>,
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
    const MOST: f64 = 0.1;
    const SHARE: f64 = 0.01;

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
        let folder = file::beside(target, "runs");
        Loose {
            bundles: folder.join(BUNDLES),
            folder,
            made: AtomicUsize::new(0),
            listed: Mutex::default(),
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

    /// The name of a new file for runs of these hashes, of which there is one or more.
    pub fn name(&self, hashes: &[&str], writer: &Writer) -> String {
        match hashes {
            [hash] => format!("{hash}.{EXTENSION}"),
            _ => {
                let number = self.made.fetch_add(1, Ordering::Relaxed);
                format!("{BUNDLES}/{}-{number}.{EXTENSION}", writer.name())
            }
        }
    }

    /// Adds runs, hashes with texts, as a file of this name. It is on disk when this returns, unless too many come at once.
    pub fn add(&self, name: &str, runs: &[(&str, &str)]) -> io::Result<()> {
        let path = self.folder.join(name);
        let syncs = || lock(&self.syncs);
        let write = |out: &mut dyn Write| match runs {
            [(_, text)] => out.write_all(text.as_bytes()),
            _ => {
                let hashes: Vec<&str> = runs.iter().map(|(hash, _)| *hash).collect();
                writeln!(out, "{}", hashes.join(" "))?;
                write_list(out, runs.iter().map(|(_, text)| *text))
            }
        };
        if !syncs().is_allowed() {
            let put = || file::replace_in_memory(&path, TEMPORARY, write);
            return self.within(&path, put);
        }
        let begin = Instant::now();
        self.within(&path, || file::replace(&path, TEMPORARY, write))?;
        syncs().allowance -= begin.elapsed().as_secs_f64();
        Ok(())
    }

    /// Does something at a path in one of the folders, which are made if they are missing.
    fn within<T>(&self, path: &Path, mut act: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        let folder = path.parent().unwrap_or(&self.folder);
        match folder == self.folder {
            true => file::within(folder, act),
            false => file::within(folder, || file::within(&self.folder, &mut act)),
        }
    }

    /// Claims runs, one or more, for the process that trains them.
    pub fn claim(&self, hashes: &[&str], writer: &Writer) -> io::Result<Claimed> {
        let (folder, other) = match hashes.len() {
            1 => (&self.folder, &self.bundles),
            _ => (&self.bundles, &self.folder),
        };
        let place = folder.join(hashes[0]).with_extension(CLAIM);
        let claimed = self.within(&place, || writer.claim(&place, hashes))?;
        if self.bundles.exists() && !writer.is_alone()? {
            // So that NFS shows what others have claimed and finished there: see `writers.rs`.
            match file::probe(other, TEMPORARY) {
                Err(e) if !files::absent(&e) => return Err(e),
                _ => {}
            }
        }
        Ok(claimed)
    }

    /// Those of these runs that other processes have claimed, with their owners: of several runs all, of one those who have claimed
    /// it with others; who has claimed it alone is found by [`Loose::claim`].
    pub fn held(&self, hashes: &[&str], writer: &Writer) -> io::Result<HashMap<String, String>> {
        let mut held = HashMap::new();
        if hashes.len() > 1 {
            for run in names(&self.folder, CLAIM)? {
                if hashes.contains(&&*run)
                    && let Some(owner) = writer.holder(&self.path(&run, CLAIM))?
                {
                    held.insert(run, owner);
                }
            }
        }
        // What an ended claim has left is in a bundle by now.
        if writer.is_alone()? {
            return Ok(held);
        }
        for first in names(&self.bundles, CLAIM)? {
            let place = self.bundles.join(first).with_extension(CLAIM);
            if let Some(owner) = writer.holder(&place)?
                && owner != writer.name()
            {
                let runs = claimed(&place, &owner)?.into_iter();
                held.extend(runs.map(|run| (run, owner.clone())));
            }
        }
        Ok(held)
    }

    /// Those of these runs that are finished, in no bundle.
    pub fn finished_alone(&self, hashes: &[&str]) -> io::Result<HashSet<String>> {
        self.marked(hashes, EXTENSION)
    }

    /// Those of these runs that have failed.
    pub fn failed_of(&self, hashes: &[&str]) -> io::Result<HashSet<String>> {
        self.marked(hashes, FAILED)
    }

    /// Those of these runs that have such a file, and of several others as well: then the folder, which may be long, is read once.
    fn marked(&self, hashes: &[&str], extension: &str) -> io::Result<HashSet<String>> {
        match hashes {
            [hash] => {
                let there = self.path(hash, extension).exists();
                Ok(there.then(|| (*hash).to_owned()).into_iter().collect())
            }
            _ => Ok(names(&self.folder, extension)?.into_iter().collect()),
        }
    }

    /// The runs of other processes' bundles that have come since this was last asked.
    pub fn newly_bundled(&self, writer: &Writer) -> io::Result<Vec<String>> {
        let mut runs = Vec::new();
        for name in names(&self.bundles, EXTENSION)? {
            if !name.starts_with(writer.name()) && lock(&self.listed).insert(name.clone()) {
                runs.extend(self.bundled(&name)?);
            }
        }
        Ok(runs)
    }

    /// The runs of a bundle; none if they stand in the output since.
    fn bundled(&self, name: &str) -> io::Result<Vec<String>> {
        let path = self.bundles.join(name).with_extension(EXTENSION);
        let mut line = String::new();
        match files::open(&path).and_then(|file| BufReader::new(file).read_line(&mut line)) {
            Err(e) if !files::absent(&e) => Err(e),
            _ => Ok(line.split_whitespace().map(str::to_owned).collect()),
        }
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

    /// Those that have failed.
    pub fn failed(&self) -> io::Result<Vec<String>> {
        names(&self.folder, FAILED)
    }

    /// Why a run has failed.
    pub fn why(&self, hash: &str) -> String {
        files::read_to_string(&self.path(hash, FAILED)).unwrap_or_default()
    }

    /// The hashes of those that are finished.
    pub fn finished(&self) -> io::Result<BTreeSet<String>> {
        let mut hashes: BTreeSet<String> = names(&self.folder, EXTENSION)?.into_iter().collect();
        for name in names(&self.bundles, EXTENSION)? {
            hashes.extend(self.bundled(&name)?);
        }
        Ok(hashes)
    }

    /// Those that are claimed, with the names of the processes that have them, or had them.
    pub fn claims(&self) -> io::Result<BTreeMap<String, String>> {
        let mut claims = BTreeMap::new();
        for folder in [&self.folder, &self.bundles] {
            for hash in names(folder, CLAIM)? {
                let place = folder.join(&hash).with_extension(CLAIM);
                let owner = fs::read_dir(&place).into_iter().flatten().flatten().next();
                let Some(owner) = owner.and_then(|entry| entry.file_name().into_string().ok())
                else {
                    continue;
                };
                let runs = match folder == &self.folder {
                    true => vec![hash],
                    false => claimed(&place, &owner)?,
                };
                claims.extend(runs.into_iter().map(|run| (run, owner.clone())));
            }
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

    /// The names of all files of runs that are there.
    pub fn files(&self) -> io::Result<Vec<String>> {
        let alone = names(&self.folder, EXTENSION)?.into_iter();
        let alone = alone.map(|name| format!("{name}.{EXTENSION}"));
        let bundles = names(&self.bundles, EXTENSION)?.into_iter();
        let bundles = bundles.map(|name| format!("{BUNDLES}/{name}.{EXTENSION}"));
        Ok(alone.chain(bundles).collect())
    }

    /// The runs of these files. Those that are gone, or empty after a power cut, leave the list.
    pub fn read(&self, files: &mut Vec<String>) -> Result<Texts> {
        let mut texts = Texts::new();
        let mut read = Vec::new();
        for name in files.drain(..) {
            let path = self.folder.join(&name);
            let text = match files::read_to_string(&path) {
                Ok(text) if text.is_empty() => continue,
                Ok(text) => text,
                // What it had stands in the output since.
                Err(e) if files::absent(&e) => continue,
                Err(e) => return Err(Error::io("read", &path, &e)),
            };
            take_apart(&name, text, &mut texts).map_err(|what| {
                let path = path.display();
                let text = format!("{path}: {what}; delete it, and its runs are trained again");
                Error::corrupt(text)
            })?;
            read.push(name);
        }
        *files = read;
        Ok(texts)
    }

    /// All runs that are there.
    pub fn read_all(&self) -> Result<Texts> {
        let files = self.files();
        self.read(&mut files.map_err(|e| Error::io("read", &self.folder, &e))?)
    }

    /// Removes files whose runs the output has.
    pub fn remove(&self, files: &[String]) {
        files.par_iter().for_each(|name| {
            // One that stays is read as what it is: runs of the output.
            let _ = fs::remove_file(self.folder.join(name));
        });
    }

    /// Removes the folder, if no run is in it. For when nobody is adding one.
    pub fn close(&self) {
        let _ = fs::remove_dir(&self.bundles);
        let _ = fs::remove_dir(&self.folder);
    }

    /// Removes what dead processes have left half done. For when nobody else writes the output.
    pub fn tidy(&self) -> io::Result<()> {
        // Those are tried again.
        for hash in self.failed()? {
            self.note_failure(&hash, None)?;
        }
        for name in self.files()? {
            let path = self.folder.join(name);
            if fs::metadata(&path)?.len() == 0 {
                fs::remove_file(path)?;
            }
        }
        self.remove_left_overs()
    }

    /// Removes claims and temporary files. For when nobody else is there, and this process trains nothing.
    pub fn remove_left_overs(&self) -> io::Result<()> {
        for folder in [&self.folder, &self.bundles] {
            for name in names(folder, CLAIM)? {
                fs::remove_dir_all(folder.join(name).with_extension(CLAIM))?;
            }
        }
        file::remove_left_overs(&self.bundles, TEMPORARY)?;
        file::remove_left_overs(&self.folder, TEMPORARY)
    }

    /// Removes all runs.
    pub fn clear(&self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The names of what has this extension, without it. None if there is no such folder.
fn names(folder: &Path, extension: &str) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if files::absent(&e) => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let name = name.to_str().and_then(|name| name.strip_suffix(extension));
        names.extend(name.and_then(|n| n.strip_suffix('.')).map(str::to_owned));
    }
    Ok(names)
}

/// The runs that an owner's claim of several names; none if it has ended.
fn claimed(place: &Path, owner: &str) -> io::Result<Vec<String>> {
    match files::read_to_string(&place.join(owner)) {
        Ok(runs) => Ok(runs.lines().map(str::to_owned).collect()),
        Err(e) if files::absent(&e) => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

/// Adds the runs of a file's text to others.
fn take_apart(name: &str, text: String, to: &mut Texts) -> std::result::Result<(), String> {
    if !name.starts_with(BUNDLES) {
        json::parse(&text).map_err(|e| e.to_string())?;
        let hash = name.split('.').next().unwrap_or_default();
        to.insert(hash.to_owned(), text);
        return Ok(());
    }
    let (hashes, list) = text.split_once('\n').ok_or("it has one line")?;
    let mut hashes = hashes.split(' ');
    let each = |run: &str, _: Json| {
        let hash = hashes.next().ok_or("it has more runs than it names")?;
        to.insert(hash.to_owned(), run.to_owned());
        Ok(())
    };
    json::parse_items(list, each).map_err(|e| e.to_string())?;
    match hashes.next() {
        None => Ok(()),
        Some(hash) => Err(format!("it lacks the run {hash}")),
    }
}

/// Writes runs as an output has them.
pub fn write_list<'a>(out: &mut dyn Write, texts: impl Iterator<Item = &'a str>) -> io::Result<()> {
    for (i, text) in texts.enumerate() {
        out.write_all(if i == 0 { b"[\n    " } else { b",\n    " })?;
        out.write_all(text.as_bytes())?;
    }
    out.write_all(b"\n]")
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
    let identity = Identity::new(&map("config"), &map("summary"));
    identity.hash().to_owned()
}
