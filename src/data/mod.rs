//! Data sets: a table of rows, one file per source, the shard format and the order of batches.
//!
//! A row either computes its samples from a seed or converts raw files, once, into two shards. Images are
//! channels-last everywhere in here; [`Sample::shape`](crate::graph::Sample::shape) alone speaks PyTorch's order.

mod ahead;
pub mod augment;
mod cifar;
pub mod fetch;
mod imagenet32;
mod libsvm;
mod loader;
mod mnist;
mod packed;
pub mod pickle;
mod random_bytes;
pub mod raw;
mod sensor;
mod shakespeare;
pub mod shard;
mod split;
mod synthetic_linear;
mod synthetic_matrix_fac;
mod text;
mod vocabulary;

pub use ahead::Ahead;
pub use loader::Loader;
pub use random_bytes::{blank, random_bytes};
pub use split::Split;
pub use vocabulary::Vocabulary;

use crate::config::{self, Entry, Key, RunConfig, Values};
use crate::error::{Error, Kind, Result};
use crate::random::{SEED, run_seed};
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// All data sets, in the order in which they are listed.
pub const ROWS: &[Row] = &[
    synthetic_linear::ROW,
    synthetic_matrix_fac::ROW,
    mnist::ROW,
    cifar::CIFAR10,
    cifar::CIFAR100,
    imagenet32::ROW,
    sensor::ROW,
    libsvm::RCV1,
    libsvm::MUSHROOMS,
    libsvm::A1A,
    libsvm::IJCNN,
    libsvm::BREAST_CANCER,
    libsvm::DNA,
    libsvm::WINE,
    shakespeare::ROW,
    text::ROW,
];

/// Seed of what the training and validation halves share: true weights, and the split of a file in two.
const TARGET_SEED: u32 = 12_345_678;

/// A key of data sets that are cut in two here.
const TRAIN_SIZE: Key = Key {
    name: "train_size",
    kind: config::Kind::Checked("a number in (0, 1)", |value| {
        value
            .as_f64()
            .is_some_and(|share| 0.0 < share && share < 1.0)
    }),
    default: Some("0.8"),
    about: "share of the samples that is for training",
};

/// A row of the table of data sets.
pub struct Row {
    pub entry: Entry,
    pub origin: Origin,
}

/// Where the samples come from.
pub enum Origin {
    /// From a seed: the training half from [`SEED`], the validation half from the run's own.
    Computed(fn(&Request, Part) -> Result<Split>),
    Files(raw::Files),
    /// From a file that the run names, in the data folder or elsewhere.
    Named(fn(&Path, &Request) -> Result<[Split; 2]>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    Train,
    Val,
}

impl Part {
    pub fn name(self) -> &'static str {
        match self {
            Part::Train => "train",
            Part::Val => "val",
        }
    }

    fn seed(self, run_id: u64) -> u64 {
        match self {
            Part::Train => SEED,
            Part::Val => run_seed(run_id),
        }
    }
}

/// What a run says about its data. The kwargs were checked against the row's keys before.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub name: &'a str,
    pub kwargs: &'a Map<String, Value>,
    pub loss_func: &'a str,
    pub run_id: u64,
    /// Tokens of a window, which texts are cut into.
    pub seq_len: Option<usize>,
}

impl<'a> From<&'a RunConfig> for Request<'a> {
    fn from(run: &'a RunConfig) -> Self {
        Request {
            name: &run.dataset,
            kwargs: &run.dataset_kwargs,
            loss_func: &run.loss_func,
            run_id: run.run_id,
            seq_len: run.seq_len(),
        }
    }
}

/// Both halves of a data set.
#[derive(Clone)]
pub struct Pair {
    pub train: Arc<Split>,
    pub val: Arc<Split>,
}

impl Pair {
    /// What the codes of tokens stand for, where samples are windows of them.
    pub fn vocabulary(&self) -> Option<&Vocabulary> {
        self.train.vocabulary()
    }

    /// A checksum of the samples of both halves, where they come from files.
    pub fn checksum(&self) -> Option<String> {
        let (train, val) = (self.train.checksum()?, self.val.checksum()?);
        Some(format!("{train:08x}{val:08x}"))
    }
}

/// The row called `name`, or an error that lists the names.
pub fn row(name: &str) -> Result<&'static Row> {
    let found = ROWS.iter().find(|row| row.entry.name == name);
    found.ok_or_else(|| {
        let names: Vec<_> = ROWS.iter().map(|row| row.entry.name).collect();
        let names = names.join(", ");
        Error::usage(format!("unknown data set {name:?} (expected {names})"))
    })
}

/// The data sets of a sweep: what runs have in common is loaded once and shared.
pub struct Library {
    dir: PathBuf,
    cache: Option<PathBuf>,
    offline: bool,
    fetch: fetch::Options,
    tell: fn(&str),
    told: Mutex<HashSet<String>>,
    /// Halves by what they are made from. What could not be had is not tried again.
    splits: Mutex<HashMap<SplitKey, Result<Arc<Split>>>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct SplitKey {
    name: String,
    kwargs: String,
    loss_func: String,
    seq_len: Option<usize>,
    part: Part,
    seed: u64,
}

impl Library {
    /// Raw files lie under `dir`; what is missing is downloaded unless `offline`.
    pub fn new(dir: impl Into<PathBuf>, offline: bool, fetch: fetch::Options) -> Library {
        Library {
            dir: dir.into(),
            cache: None,
            offline,
            fetch,
            tell: |_| {},
            told: Mutex::default(),
            splits: Mutex::default(),
        }
    }

    /// Shards lie in this folder, rather than in that of the raw files.
    pub fn cached_in(self, cache: Option<PathBuf>) -> Library {
        Library { cache, ..self }
    }

    /// What a user should know of data that are loaded goes there, once for each data set.
    pub fn telling(self, tell: fn(&str)) -> Library {
        Library { tell, ..self }
    }

    pub fn load<'a>(&self, request: impl Into<Request<'a>>) -> Result<Pair> {
        let request = request.into();
        let row = row(request.name)?;
        // The lock is held while loading, so that two runs do not load the same half twice.
        let mut splits = self.splits.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = [Part::Train, Part::Val].map(|part| SplitKey::new(row, &request, part));
        if !keys.iter().all(|key| splits.contains_key(key)) {
            let mut put = |halves: Result<[Split; 2]>| match halves {
                Ok(halves) => {
                    let halves = halves.map(|half| Ok(Arc::new(half)));
                    splits.extend(keys.iter().cloned().zip(halves));
                }
                Err(e) => splits.extend(keys.iter().map(|key| (key.clone(), Err(e.clone())))),
            };
            match &row.origin {
                Origin::Computed(create) => {
                    for key in &keys {
                        let made = || create(&request, key.part).map(Arc::new);
                        splits.entry(key.clone()).or_insert_with(made);
                    }
                }
                Origin::Files(files) => put(self.open(row, files, &request)),
                Origin::Named(open) => put(open(&self.dir, &request)),
            }
        }
        let [train, val] = keys.each_ref().map(|key| splits[key].clone());
        Ok(Pair {
            train: train?,
            val: val?,
        })
    }

    fn open(
        &self,
        row: &'static Row,
        files: &'static raw::Files,
        request: &Request,
    ) -> Result<[Split; 2]> {
        let name = row.entry.name;
        let mut set = raw::Set {
            cache: self.cache.as_deref(),
            ..raw::Set::new(name, files, &self.dir)
        };
        if row.entry.has(TRAIN_SIZE.name) {
            let values = Values::new(row.entry.keys, request.kwargs);
            set.train_size = values.real(TRAIN_SIZE.name);
        }
        if !self.offline {
            fetch::missing(&set, &self.fetch)?;
        }
        let shards = set.shards()?;
        if let Some(place) = &shards.elsewhere {
            let dir = self.dir.display();
            self.say(format!(
                "{name}: {dir} may only be read, so the shards are {place}; --cache-dir names another place"
            ));
        }
        let published = set.published(&shards.train.header().sources)?;
        if published == Some(false) {
            let dir = self.dir.display();
            self.say(format!(
                "warning: the files of {name} in {dir} are not the published ones; results are not those of {name}"
            ));
        }
        let skipped = shards.skipped();
        if skipped > 0 {
            self.say(format!(
                "{name}: left out {skipped} of the text's characters, which its vocabulary does not have"
            ));
        }
        let open = |shard, part| {
            let split = (files.open)(shard, part, request)?;
            Ok(split.with_published(published))
        };
        Ok([
            open(shards.train, Part::Train)?,
            open(shards.val, Part::Val)?,
        ])
    }

    fn say(&self, text: String) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if !told.contains(&text) {
            (self.tell)(&text);
            told.insert(text);
        }
    }
}

impl SplitKey {
    fn new(row: &Row, request: &Request, part: Part) -> SplitKey {
        SplitKey {
            name: request.name.to_owned(),
            kwargs: serde_json::to_string(request.kwargs).expect("a map of values"),
            loss_func: request.loss_func.to_owned(),
            seq_len: request.seq_len,
            part,
            seed: match row.origin {
                Origin::Computed(_) => part.seed(request.run_id),
                Origin::Files(_) | Origin::Named(_) => 0,
            },
        }
    }
}

/// Refuses what would not fit into memory before it is tried, for an allocation that fails ends the process. `bytes` are
/// needed for each number while it is made.
fn in_bounds(name: &str, rows: usize, columns: usize, bytes: usize) -> Result<()> {
    const LIMIT: usize = 1 << 28;
    // Their places in several orders, for one.
    const ROW: usize = 64;
    let what = format!("{name} of {rows} by {columns} numbers");
    let Some(size) = rows.checked_mul(columns).filter(|size| *size <= LIMIT) else {
        let text = format!("{what} is too large (at most {LIMIT} in all)");
        return Err(Error::usage(text));
    };
    let needed = size * bytes + rows * ROW;
    Vec::<u8>::new().try_reserve_exact(needed).map_err(|_| {
        let mib = needed.div_ceil(1 << 20);
        let text =
            format!("{what}: no memory: {mib} MiB are needed; fewer samples or features need less");
        Error::new(Kind::Device, text)
    })
}
