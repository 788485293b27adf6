//! What a result is the result of: everything that was chosen for a run. By it runs are the same, seeds of one
//! setting, or not to be compared at all.
//!
//! A config says most of it, its summary the rest: [`BEYOND`]. The config's defaults are filled in and numbers
//! count by value, so that neither spelling nor order matters.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};

use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::output::{Run, python_str};
use crate::config::{self, Key, canonical_object, complete};
use crate::files::hex;
use crate::{data, models, optim};

/// What distinguishes a seed from a setting.
const RUN_ID: &str = "run_id";

/// Keys of a summary that are part of a run's identity, for bits differ with them. Old outputs and the reference's
/// lack them: such a part is not known, and what is not known agrees with anything. Without a word on initial
/// weights they were drawn, as nearly always.
pub const BEYOND: [&str; 5] = ["data", "device", INIT_WEIGHTS, METHOD_FILES, "precision"];
/// Methods that are files, and hashes of what they compute.
const METHOD_FILES: &str = "optimizer_files";
const INIT_WEIGHTS: &str = "init_weights";

/// Parameters with values of their own. A config without them has none, which is the same as an empty list.
const GROUPS: &str = "groups";

/// The objects of a config, whose keys are parts of their own.
const OBJECTS: [&str; 3] = ["dataset_kwargs", "model_kwargs", "opt"];

/// A run's parts, `opt.lr` and `batch_size` say, each with its value. Whole numbers are integers here.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(from = "Parts", into = "Parts")]
pub struct Identity(Arc<Known>);

type Parts = BTreeMap<String, Value>;

/// What all copies of an identity share.
#[derive(Debug)]
struct Known {
    parts: Parts,
    /// Computed when somebody first asks for it.
    hash: OnceLock<String>,
}

impl From<Parts> for Identity {
    fn from(parts: Parts) -> Identity {
        let hash = OnceLock::new();
        Identity(Arc::new(Known { parts, hash }))
    }
}

impl From<Identity> for Parts {
    fn from(identity: Identity) -> Parts {
        identity.0.parts.clone()
    }
}

impl PartialEq for Identity {
    fn eq(&self, other: &Identity) -> bool {
        self.parts() == other.parts()
    }
}

impl Identity {
    /// The identity of a run with this config and this summary. Of a run that is yet to be trained, `summary` need
    /// hold no more than [`BEYOND`].
    pub fn new(config: &Map<String, Value>, summary: &Map<String, Value>) -> Identity {
        let mut parts = Parts::new();
        for (key, value) in completed(config) {
            match value {
                Value::Object(inner) if OBJECTS.contains(&key.as_str()) => {
                    let inner = inner.into_iter();
                    parts.extend(inner.map(|(name, v)| (format!("{key}.{name}"), by_value(v))));
                }
                value => {
                    parts.insert(key, by_value(value));
                }
            }
        }
        for key in BEYOND {
            let unsaid = (key == INIT_WEIGHTS).then_some(Value::Null);
            let value = summary.get(key).cloned().or(unsaid);
            parts.extend(value.map(|v| (key.to_owned(), v)));
        }
        parts.into()
    }

    fn parts(&self) -> &Parts {
        &self.0.parts
    }

    /// 32 hexadecimal digits that two runs share exactly if they share all parts.
    pub fn hash(&self) -> &str {
        let hash = &self.0.hash;
        hash.get_or_init(|| hex(&Md5::digest(self.text(|_| true))))
    }

    /// Whether both are the same run, as far as is known.
    pub fn agrees_with(&self, other: &Identity) -> bool {
        self.differing(other, |_| true).is_empty()
    }

    /// Whether both are seeds of one setting, as far as is known, on whatever device.
    pub fn same_setting(&self, other: &Identity) -> bool {
        let of_setting = |key: &str| ![RUN_ID, "device", "precision"].contains(&key);
        self.differing(other, of_setting).is_empty()
    }

    /// In which keys two runs are of different problems (their results must not be ranked together), as far as is
    /// known: `model=mlp instead of linear`.
    pub fn other_problem(&self, other: &Identity) -> Vec<String> {
        self.told(other, of_problem)
    }

    /// In which keys this is another run, as far as is known: `opt.lr=0.1 instead of 0.01`.
    pub fn other_run(&self, other: &Identity) -> Vec<String> {
        self.told(other, |_| true)
    }

    fn told(&self, other: &Identity, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let shown =
            |run: &Identity, key: &str| run.parts().get(key).map_or("nothing".into(), python_str);
        let text = |key: String| {
            let (mine, theirs) = (shown(self, &key), shown(other, &key));
            format!("{key}={mine} instead of {theirs}")
        };
        let differing = self.differing(other, wanted).into_iter();
        differing.map(text).collect()
    }

    fn differing(&self, other: &Identity, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let keys: BTreeSet<&String> = self.parts().keys().chain(other.parts().keys()).collect();
        let differs = |key: &&String| {
            let (mine, theirs) = (self.parts().get(*key), other.parts().get(*key));
            let unknown = BEYOND.contains(&key.as_str()) && (mine.is_none() || theirs.is_none());
            wanted(key) && !unknown && mine != theirs
        };
        keys.into_iter().filter(differs).cloned().collect()
    }

    /// The parts that every run tells.
    fn known(&self) -> String {
        self.text(|key| !BEYOND.contains(&key))
    }

    fn text(&self, wanted: impl Fn(&str) -> bool) -> String {
        canonical_object(self.parts().iter().filter(|(key, _)| wanted(key)))
    }
}

/// One run of every problem that there is among these.
pub fn problems<'a>(runs: impl Iterator<Item = &'a Identity>) -> Vec<&'a Identity> {
    let runs = runs.map(|run| (run.text(of_problem), run));
    runs.collect::<BTreeMap<_, _>>().into_values().collect()
}

/// Values by run: what was put in for a run is found by every identity that agrees with the run's.
#[derive(Clone, Debug)]
pub struct Index<T>(HashMap<String, Vec<(Identity, T)>>);

impl<T> Default for Index<T> {
    fn default() -> Self {
        Index(HashMap::new())
    }
}

impl<T> Index<T> {
    pub fn insert(&mut self, run: Identity, value: T) {
        self.0.entry(run.known()).or_default().push((run, value));
    }

    pub fn get(&self, run: &Identity) -> Option<&T> {
        let alike = self.0.get(&run.known())?;
        let found = alike.iter().find(|(other, _)| other.agrees_with(run));
        found.map(|(_, value)| value)
    }
}

/// The runs of an experiment as seeds of settings, and the parts by which the settings differ.
///
/// A part that only some runs tell is taken for what the others say, if they all say the same; if they do not, not
/// to be known is a value of its own.
#[derive(Clone, Debug)]
pub struct Varying {
    /// Sorted; without `run_id`.
    keys: Vec<String>,
}

impl Varying {
    pub fn among<'a>(runs: impl Iterator<Item = &'a Identity> + Clone) -> Varying {
        let all: BTreeSet<&String> = runs.clone().flat_map(|run| run.parts().keys()).collect();
        let varies = |key: &&String| {
            let mut values = runs.clone().map(|run| run.parts().get(*key));
            let known = |value: &Option<&Value>| value.is_some();
            if BEYOND.contains(&key.as_str()) {
                let mut values = values.filter(known);
                let first = values.next();
                return values.any(|value| Some(value) != first);
            }
            let first = values.next();
            values.any(|value| Some(value) != first)
        };
        let keys = all.into_iter().filter(|key| *key != RUN_ID).filter(varies);
        Varying {
            keys: keys.cloned().collect(),
        }
    }

    /// A text that two runs share exactly if they are seeds of one setting.
    pub fn setting(&self, run: &Identity) -> String {
        run.text(|key| self.keys.iter().any(|k| k == key))
    }

    /// A text that two runs share exactly if they are of one problem.
    pub fn problem(&self, run: &Identity) -> String {
        run.text(|key| of_problem(key) && self.keys.iter().any(|k| k == key))
    }

    /// Keys and values of a run's setting: the optimizer's, `name` first, its groups, and [`Varying::beside_opt`].
    pub fn setting_of(&self, run: &Run) -> Vec<(String, String)> {
        let mut pairs = run.pairs();
        for (key, value) in self.beside_opt(&run.identity) {
            if !pairs.iter().any(|pair| pair.0 == key) {
                pairs.push((key, value));
            }
        }
        pairs
    }

    /// The parts, but for those of `opt`, by which a run's setting differs from others: keys and values as Python
    /// prints them.
    pub fn beside_opt(&self, run: &Identity) -> Vec<(String, String)> {
        let of_opt = |key: &str| key.starts_with("opt.") || key == METHOD_FILES;
        let keys = self.keys.iter().filter(|key| !of_opt(key));
        let shown = |key: &String| match run.parts().get(key) {
            Some(value) if key == GROUPS => config::groups(value),
            Some(value) => python_str(value),
            None if key == GROUPS => "none".into(),
            None => "unknown".into(),
        };
        keys.map(|key| (key.clone(), shown(key))).collect()
    }
}

/// Whether this part of a setting is no key of the optimizer.
pub fn beside_opt(key: &str) -> bool {
    of_problem(key) || BEYOND.contains(&key) || ["batch_size", "max_epoch", GROUPS].contains(&key)
}

/// Whether results that differ by this part are answers to different questions.
pub fn of_problem(key: &str) -> bool {
    let outer = key.split('.').next().unwrap_or_default();
    [
        "dataset",
        "dataset_kwargs",
        "model",
        "model_kwargs",
        "loss_func",
        "score_func",
        "data",
    ]
    .contains(&outer)
}

/// The config with the defaults of everything that it leaves out.
fn completed(config: &Map<String, Value>) -> Map<String, Value> {
    let mut config = config.clone();
    config.entry("batch_size").or_insert(1.into());
    config.entry(RUN_ID).or_insert(0.into());
    if config.get(GROUPS) == Some(&Value::Array(Vec::new())) {
        config.remove(GROUPS);
    }
    for object in OBJECTS {
        let keys = keys_of(object, &config);
        let map = config.entry(object).or_insert_with(|| Map::new().into());
        if let Value::Object(map) = map {
            complete(map, keys);
        }
    }
    config
}

/// The keys that an object of this config may have; none where its row is not one of ours.
fn keys_of(object: &str, config: &Map<String, Value>) -> Vec<&'static Key> {
    let text =
        |value: Option<&'_ Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let entry = match object {
        "dataset_kwargs" => data::row(&text(config.get("dataset")))
            .ok()
            .map(|row| &row.entry),
        "model_kwargs" => models::row(&text(config.get("model"))).map(|row| &row.entry),
        _ => {
            let opt = config.get("opt").and_then(Value::as_object);
            let known = opt.filter(|opt| optim::row(&text(opt.get("name"))).is_some());
            return known.map_or(Vec::new(), optim::keys);
        }
    };
    entry.map_or(Vec::new(), |entry| entry.keys.iter().collect())
}

/// The value with its whole numbers as integers.
fn by_value(value: Value) -> Value {
    match value {
        Value::Number(n) if n.is_f64() => {
            let x = n.as_f64().expect("a float");
            match x.fract() == 0.0 && x.abs() < 2f64.powi(63) {
                true => (x as i64).into(),
                false => n.into(),
            }
        }
        Value::Array(items) => items.into_iter().map(by_value).collect(),
        Value::Object(map) => map.into_iter().map(|(k, v)| (k, by_value(v))).collect(),
        other => other,
    }
}
