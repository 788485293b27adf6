//! Data sets: a table of rows, one file per source, the shard format and the order of batches.
//!
//! A row either computes its samples from a seed or converts raw files, once, into two shards. Images are
//! channels-last everywhere in here; [`Split::input_shape`] alone speaks PyTorch's order.

pub mod augment;
mod cifar;
pub mod fetch;
mod imagenet32;
mod libsvm;
mod loader;
mod made_up;
mod mnist;
pub mod pickle;
pub mod raw;
mod sensor;
pub mod shard;
mod split;
mod synthetic_linear;
mod synthetic_matrix_fac;

pub use loader::Loader;
pub use made_up::made_up;
pub use split::Split;

use crate::config::{Entry, RunConfig};
use crate::error::{Error, Result};
use crate::random::{SEED, run_seed};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::path::PathBuf;
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
];

/// Seed of what the training and validation halves share: true weights, and the split of a file in two.
const TARGET_SEED: u32 = 12_345_678;

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
}

impl<'a> From<&'a RunConfig> for Request<'a> {
    fn from(run: &'a RunConfig) -> Self {
        Request {
            name: &run.dataset,
            kwargs: &run.dataset_kwargs,
            loss_func: &run.loss_func,
            run_id: run.run_id,
        }
    }
}

/// Both halves of a data set.
#[derive(Clone)]
pub struct Pair {
    pub train: Arc<Split>,
    pub val: Arc<Split>,
}

/// The row called `name`, or an error that lists the names.
pub fn row(name: &str) -> Result<&'static Row> {
    let found = ROWS.iter().find(|row| row.entry.name == name);
    found.ok_or_else(|| {
        let names: Vec<_> = ROWS.iter().map(|row| row.entry.name).collect();
        let names = names.join(", ");
        Error::usage(format!("no data set is called {name}; there are {names}"))
    })
}

/// The data sets of a sweep: every half is loaded once and shared by the runs that have it in common.
pub struct Library {
    dir: PathBuf,
    offline: bool,
    fetch: fetch::Options,
    splits: Mutex<HashMap<SplitKey, Arc<Split>>>,
}

#[derive(PartialEq, Eq, Hash)]
struct SplitKey {
    name: String,
    kwargs: String,
    loss_func: String,
    part: Part,
    seed: u64,
}

impl Library {
    /// Raw files lie under `dir`; what is missing is downloaded unless `offline`.
    pub fn new(dir: impl Into<PathBuf>, offline: bool, fetch: fetch::Options) -> Library {
        Library {
            dir: dir.into(),
            offline,
            fetch,
            splits: Mutex::default(),
        }
    }

    pub fn load<'a>(&self, request: impl Into<Request<'a>>) -> Result<Pair> {
        let request = request.into();
        Ok(Pair {
            train: self.split(&request, Part::Train)?,
            val: self.split(&request, Part::Val)?,
        })
    }

    fn split(&self, request: &Request, part: Part) -> Result<Arc<Split>> {
        let row = row(request.name)?;
        let seed = match row.origin {
            Origin::Computed(_) => part.seed(request.run_id),
            Origin::Files(_) => 0,
        };
        let key = SplitKey {
            name: request.name.to_owned(),
            kwargs: serde_json::to_string(request.kwargs).expect("a map of values"),
            loss_func: request.loss_func.to_owned(),
            part,
            seed,
        };
        // The lock is held while loading, so that two runs do not load the same half twice.
        let mut splits = self.splits.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(split) = splits.get(&key) {
            return Ok(split.clone());
        }
        let split = match &row.origin {
            Origin::Computed(create) => create(request, part)?,
            Origin::Files(files) => {
                let set = raw::Set::new(row.entry.name, files, &self.dir);
                if !self.offline {
                    fetch::missing(&set, &self.fetch)?;
                }
                let values = crate::config::Values::new(row.entry.keys, request.kwargs);
                (files.open)(set.shard(part)?, part, &values)
            }
        };
        let split = Arc::new(split);
        splits.insert(key, split.clone());
        Ok(split)
    }
}

/// Refuses what would not fit into memory before it is tried.
fn in_bounds(name: &str, rows: usize, columns: usize) -> Result<()> {
    const LIMIT: usize = 1 << 28;
    match rows.checked_mul(columns) {
        Some(size) if size <= LIMIT => Ok(()),
        _ => Err(Error::usage(format!(
            "{name} of {rows} by {columns} numbers is too large (at most {LIMIT} in all)"
        ))),
    }
}
