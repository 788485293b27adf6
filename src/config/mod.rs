//! Experiment configs: what a run is, and what may stand in a config file. Imports nothing of ours
//! but the error type; the names and keys that exist come in as a [`Vocabulary`].

pub mod schema;

pub use schema::{Entry, Key, Kind, Values, Vocabulary};

use serde_json::{Map, Value};

/// One run: a config file's entry with every choice made and every default filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct RunConfig {
    pub dataset: String,
    pub dataset_kwargs: Map<String, Value>,
    pub model: String,
    pub model_kwargs: Map<String, Value>,
    pub loss_func: String,
    pub score_func: String,
    /// The optimizer's keys as the config spells them, `name` among them.
    pub opt: Map<String, Value>,
    pub batch_size: usize,
    pub max_epoch: usize,
    pub run_id: u64,
}
