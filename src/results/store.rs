//! The output file while it grows: `DIR/<id>.json`, whole at any moment, written by one process at a time.
//!
//! A save writes all runs to a temporary file in the same folder, fsyncs it, renames it over the output
//! and fsyncs the folder. A kill, a full disk or a power cut leaves the last whole file.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once};
use std::time::SystemTime;

use serde_json::{Map, Value};
use tempfile::NamedTempFile;

use super::RunResult;
use super::file::temporary;
use super::json::{self, Json};
use super::timestamp::timestamp;
use crate::error::{Error, Kind, Result};
use crate::files;

#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Start anew; the first save renames the file that is there to `<id>.json.bak`.
    pub overwrite: bool,
    /// Write null instead of NaN and Infinity.
    pub strict_json: bool,
}

/// An output file that this process holds. All methods may be called from several threads.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    path: PathBuf,
    temp_prefix: String,
    strict: bool,
    state: Mutex<State>,
    saved: Condvar,
    /// Held until the process ends or drops the store.
    _lock: Lock,
}

#[derive(Debug)]
struct State {
    /// Runs that were in the file and have no place in this experiment, in the file's order.
    kept: Vec<Stored>,
    /// Runs by their index in the experiment.
    runs: BTreeMap<usize, Stored>,
    /// An old output that the next save moves out of the way.
    back_up: bool,
    added: u64,
    on_disk: u64,
    saving: bool,
}

/// A run as it stands in the file.
#[derive(Clone, Debug)]
struct Stored {
    key: String,
    text: Arc<str>,
}

impl Store {
    /// Takes the lock on `dir/<id>.json`, checks that it can be written, and reads what is there.
    pub fn open(dir: &Path, id: &str, options: Options) -> Result<Store> {
        if Path::new(id).file_name() != Some(id.as_ref()) {
            return Err(Error::usage(format!(
                "experiment id {id:?} cannot be a file name"
            )));
        }
        survive_file_size_limits();
        let lock = lock(dir, id)?;
        let temp_prefix = format!(".tmp-{id}-");
        remove_left_overs(dir, &temp_prefix)?;
        temporary(dir, &temp_prefix)
            .and_then(NamedTempFile::close)
            .map_err(|e| cannot_create(dir, &e))?;

        let path = dir.join(format!("{id}.json"));
        let exists = match fs::metadata(&path) {
            Ok(meta) if meta.is_file() => true,
            Ok(_) => {
                return Err(Error::new(
                    Kind::CannotCreate,
                    format!(
                        "{} is not a regular file: move it away or use another output folder",
                        path.display()
                    ),
                ));
            }
            Err(e) if e.kind() == ErrorKind::NotFound => false,
            Err(e) => return Err(Error::io("read", &path, &e)),
        };
        let kept = if exists && !options.overwrite {
            read_stored(&path, options.strict_json)?
        } else {
            Vec::new()
        };
        Ok(Store {
            dir: dir.to_owned(),
            path,
            temp_prefix,
            strict: options.strict_json,
            state: Mutex::new(State {
                kept,
                runs: BTreeMap::new(),
                back_up: exists && options.overwrite,
                added: 0,
                on_disk: 0,
                saving: false,
            }),
            saved: Condvar::new(),
            _lock: lock,
        })
    }

    /// The output file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Is there a run with this config? The order of keys is free and 1 equals 1.0, as in Python.
    pub fn contains(&self, config: &Map<String, Value>) -> bool {
        let key = config_key(config);
        let state = self.state();
        let mut stored = state.kept.iter().chain(state.runs.values());
        stored.any(|run| run.key == key)
    }

    /// Gives the runs that are there already their places among `configs`, the whole experiment in its
    /// order, and says which of them those are. Runs without a place stay at the front of the file.
    pub fn settle(&self, configs: &[Map<String, Value>]) -> Vec<bool> {
        let places = configs.iter().enumerate();
        let places: HashMap<String, usize> = places.map(|(i, c)| (config_key(c), i)).collect();
        let mut state = self.state();
        for run in std::mem::take(&mut state.kept) {
            match places.get(&run.key) {
                Some(&index) if !state.runs.contains_key(&index) => {
                    state.runs.insert(index, run);
                }
                _ => state.kept.push(run),
            }
        }
        (0..configs.len())
            .map(|index| state.runs.contains_key(&index))
            .collect()
    }

    /// Adds a finished run, `index` being its place in the experiment. It is on disk when this returns.
    ///
    /// Threads that add at the same time share a save. After an error the run is still in memory: the next
    /// save that succeeds writes it too.
    pub fn add(&self, index: usize, run: &RunResult) -> Result<()> {
        let mut text = String::new();
        json::write(&mut text, &run.to_json(), 1, self.strict);
        let stored = Stored {
            key: config_key(&run.config),
            text: text.into(),
        };
        let mut state = self.state();
        state.runs.insert(index, stored);
        state.added += 1;
        let mine = state.added;
        while state.on_disk < mine {
            if state.saving {
                state = self.saved.wait(state).expect("no holder panics");
                continue;
            }
            let texts: Vec<Arc<str>> = (state.kept.iter())
                .chain(state.runs.values())
                .map(|run| run.text.clone())
                .collect();
            let (all, back_up) = (state.added, state.back_up);
            state.saving = true;
            drop(state);
            let outcome = self.save(&texts, back_up);
            state = self.state();
            state.saving = false;
            self.saved.notify_all();
            outcome?;
            state.back_up = false;
            state.on_disk = all;
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    fn save(&self, runs: &[Arc<str>], back_up: bool) -> Result<()> {
        self.replace(runs, back_up).map_err(|e| {
            Error::new(
                Kind::Io,
                format!(
                    "cannot save {}: {e}; the runs saved earlier are intact",
                    self.path.display()
                ),
            )
        })
    }

    fn replace(&self, runs: &[Arc<str>], back_up: bool) -> std::io::Result<()> {
        // Dropping it on an error removes it.
        let mut temp = temporary(&self.dir, &self.temp_prefix)?;
        {
            let mut out = std::io::BufWriter::with_capacity(1 << 16, temp.as_file_mut());
            for (i, run) in runs.iter().enumerate() {
                out.write_all(if i == 0 { b"[\n    " } else { b",\n    " })?;
                out.write_all(run.as_bytes())?;
            }
            out.write_all(b"\n]")?;
            out.flush()?;
        }
        temp.as_file().sync_all()?;
        if back_up {
            match fs::rename(&self.path, self.path.with_extension("json.bak")) {
                // A save that failed after this line has moved it already.
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                outcome => outcome?,
            }
        }
        temp.persist(&self.path).map_err(|e| e.error)?;
        File::open(&self.dir)?.sync_all()
    }
}

/// A write beyond `ulimit -f` ends the process by default; with a handler, it fails like one on a full disk.
fn survive_file_size_limits() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let flag = Arc::new(AtomicBool::new(false));
        // Where it cannot be installed the default stays: no save is lost by that.
        let _ = signal_hook::flag::register(libc::SIGXFSZ, flag);
    });
}

fn cannot_create(path: &Path, cause: &std::io::Error) -> Error {
    Error::new(
        Kind::CannotCreate,
        format!(
            "cannot write in the output folder: {}: {cause}; use another one with --output-dir",
            path.display()
        ),
    )
}

/// A locked file, and the folder if it was made for it. When dropped, the file goes, and so does the folder
/// if nothing is in it.
///
/// The lock is given up in so many words: closing the file alone would leave it to a child process that is
/// being started at that moment and has inherited it.
#[derive(Debug)]
struct Lock {
    file: File,
    path: PathBuf,
    made: Option<PathBuf>,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // On failure a file stays that means nothing, and the lock ends with the process.
        let _ = fs::remove_file(&self.path);
        let _ = self.made.as_ref().map(fs::remove_dir);
        let _ = self.file.unlock();
    }
}

/// Locks `dir/.<id>.lock` and writes into it who we are.
fn lock(dir: &Path, id: &str) -> Result<Lock> {
    let made = (!dir.exists()).then(|| dir.to_owned());
    fs::create_dir_all(dir).map_err(|e| cannot_create(dir, &e))?;
    let path = dir.join(format!(".{id}.lock"));
    let file = loop {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&path).map_err(|e| cannot_create(&path, &e))?;
        match file.try_lock() {
            // Its holder may have removed it since we opened it; a lock on it would keep nobody out.
            Ok(()) if is_at(&file, &path) => break file,
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Empty between the holder's lock and its note.
                let _ = file.read_to_string(&mut holder);
                return Err(Error::new(
                    Kind::Locked,
                    format!(
                        "{} is being written by another process ({}): wait until it ends, or use another \
                         folder with --output-dir",
                        dir.join(format!("{id}.json")).display(),
                        if holder.is_empty() {
                            "unknown"
                        } else {
                            holder.trim_end()
                        },
                    ),
                ));
            }
            Err(TryLockError::Error(e)) => return Err(cannot_create(&path, &e)),
        }
    };
    let mut lock = Lock { file, path, made };
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let note = format!(
        "pid {} on {} since {} UTC\n",
        std::process::id(),
        if host.is_empty() {
            "an unknown host"
        } else {
            host.trim_end()
        },
        timestamp(SystemTime::now()),
    );
    (lock.file.set_len(0))
        .and_then(|()| lock.file.rewind())
        .and_then(|()| lock.file.write_all(note.as_bytes()))
        .map_err(|e| cannot_create(&lock.path, &e))?;
    Ok(lock)
}

/// Is this open file the one that has this name?
fn is_at(file: &File, path: &Path) -> bool {
    let inode = |meta: fs::Metadata| (meta.dev(), meta.ino());
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => inode(open) == inode(named),
        _ => false,
    }
}

/// Removes temporary files of killed saves of this output: we hold the lock, so nobody is writing them.
fn remove_left_overs(dir: &Path, prefix: &str) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(|e| cannot_create(dir, &e))? {
        let entry = entry.map_err(|e| Error::io("read", dir, &e))?;
        let name = entry.file_name();
        let suffix = name.to_str().and_then(|name| name.strip_prefix(prefix));
        // Experiment `a` must not touch `.tmp-a-b-XXXXXX` of experiment `a-b`.
        if suffix.is_some_and(|suffix| !suffix.contains('-')) {
            let path = entry.path();
            fs::remove_file(&path).map_err(|e| cannot_create(&path, &e))?;
        }
    }
    Ok(())
}

/// The runs of an existing output, verbatim (with nulls for non-finite numbers if `strict`).
fn read_stored(path: &Path, strict: bool) -> Result<Vec<Stored>> {
    let corrupt = |what: String| {
        Error::corrupt(format!(
            "{}: {what}; the file is left as it is: repair it, move it away, or start anew with \
             --overwrite, which keeps it as .bak",
            path.display()
        ))
    };
    let text = files::read_to_string(path).map_err(|e| match e.kind() {
        ErrorKind::InvalidData => corrupt("not UTF-8".into()),
        _ => Error::io("read", path, &e),
    })?;
    let mut runs = Vec::new();
    json::parse_items(&text, |text, run| {
        let Some(config @ Json::Dict(_)) = run.get("config") else {
            return Err("a run without \"config\"".into());
        };
        let text = if strict {
            let mut out = String::new();
            json::write(&mut out, &run, 1, true);
            out.into()
        } else {
            text.into()
        };
        let key = canonical(config);
        runs.push(Stored { key, text });
        Ok(())
    })
    .map_err(|e| corrupt(e.to_string()))?;
    Ok(runs)
}

fn config_key(config: &Map<String, Value>) -> String {
    canonical(&config.into())
}

/// A text that two configs share if and only if Python calls them equal, but for True and 1.
fn canonical(config: &Json) -> String {
    fn whole_numbers(value: &Json) -> Json<'static> {
        match value {
            Json::Float(x) if x.fract() == 0.0 && x.abs() < 1e15 => {
                Json::Int((*x as i64).to_string().into())
            }
            Json::Float(x) => Json::Float(*x),
            Json::List(items) => Json::List(items.iter().map(whole_numbers).collect()),
            Json::Dict(members) => {
                let members = members.iter();
                let owned = |k: &str| k.to_owned().into();
                Json::Dict(members.map(|(k, v)| (owned(k), whole_numbers(v))).collect())
            }
            Json::Null => Json::Null,
            Json::Bool(b) => Json::Bool(*b),
            Json::Int(digits) => Json::Int(digits.to_string().into()),
            Json::Str(s) => Json::Str(s.to_string().into()),
        }
    }
    json::dumps(&whole_numbers(config), false)
}
