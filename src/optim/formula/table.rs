//! The methods that are files: those that the program carries, and those that configs name.

use std::path::Path;
use std::sync::{LazyLock, PoisonError, RwLock};

use md5::{Digest, Md5};
use serde_json::Value;

use super::method::FileMethod;
use super::syntax::{Default, Definition};
use crate::config::{Entry, Key, Kind, Values};
use crate::error::{Error, Result};
use crate::files::hex;
use crate::optim::{AUX, AnyMethod, LR, Look, Reports, Row, WEIGHT_DECAY};

macro_rules! files {
    ($folder:literal: $($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../../", $folder, "/", $name, ".toml")))),*]
    };
}

/// Names and texts, in the order in which `list` shows them.
const FILES: &[(&str, &str)] = files!["optimizers":
    "rmsprop",
    "adagrad",
    "adadelta",
    "adamax",
    "nadam",
    "radam",
    "nadamw",
    "adamc",
    "adamw-lh",
    "asgd",
    "rprop",
    "lars",
    "lamb",
    "novograd",
    "yogi",
    "adan",
    "adopt",
    "ademamix",
    "mars",
    "signum",
    "schedule-free-sgd",
    "schedule-free-adamw",
    "prodigy",
    "ngn",
    "alr-smag",
    "iam",
    "momo-star-max",
    "momo-adam-star-max",
];

/// What methods of the table do, as files: starts for one's own, which tests hold against the hand-written kernels.
const TWINS: &[(&str, &str)] = files!["tests/optimizers":
    "sgd",
    "sgd-m",
    "sgd-nesterov",
    "adam",
    "adamw",
    "momo",
    "momo-star",
    "momo-adam",
    "momo-adam-star",
    "prox-sps",
    "adabound",
    "adabelief",
    "lion",
    "muon",
];

/// Names and texts of all files that the program carries.
pub fn texts() -> impl Iterator<Item = (&'static str, &'static str)> {
    TWINS.iter().chain(FILES).copied()
}

/// A method that is a file.
pub struct MethodFile {
    pub definition: Definition,
    /// Of what it computes: two files have the same exactly if they differ in names, comments and spaces alone.
    pub hash: String,
}

/// All that this process has read, by their rows. They stay as long as it does, as those of the table do.
static FOUND: LazyLock<RwLock<Vec<(&'static Row, &'static MethodFile)>>> = LazyLock::new(|| {
    let carried = FILES.iter().map(|(name, text)| {
        let definition = super::read(text.as_bytes(), &format!("optimizers/{name}.toml"));
        made(definition.expect("files that tests have read"), name)
    });
    RwLock::new(carried.collect())
});

/// The rows of all that was read so far, the carried ones first.
pub fn rows() -> Vec<&'static Row> {
    let found = FOUND.read().unwrap_or_else(PoisonError::into_inner);
    found.iter().map(|(row, _)| *row).collect()
}

/// The row of this name, if it comes from a file.
pub fn row(name: &str) -> Option<&'static Row> {
    found(name).map(|(row, _)| row)
}

/// The file that a row of this name comes from, if it is one.
pub fn file(name: &str) -> Option<&'static MethodFile> {
    found(name).map(|(_, file)| file)
}

fn found(name: &str) -> Option<(&'static Row, &'static MethodFile)> {
    let found = FOUND.read().unwrap_or_else(PoisonError::into_inner);
    found
        .iter()
        .copied()
        .find(|(row, _)| row.entry.name == name)
}

/// Reads the method that a config in the folder `beside` names by a path, `mine/try3.toml`, or by the name of a file in
/// `optimizers` there. From then on the table has it under this name.
///
/// # Errors
/// If there is no such path, or mistakes are in the file, or another method has the name already.
pub fn find(name: &str, beside: &Path) -> Result<()> {
    let is_path = name.ends_with(".toml");
    let path = match is_path {
        true => beside.join(name),
        false => beside.join("optimizers").join(format!("{name}.toml")),
    };
    let plain = !name.is_empty() && !name.contains(['/', '\\']);
    if !(is_path || plain && path.is_file()) {
        return Ok(());
    }
    let definition = super::load(&path)?;
    let mut found = FOUND.write().unwrap_or_else(PoisonError::into_inner);
    let other = found.iter().find(|(row, _)| row.entry.name == name);
    match other {
        Some((_, file)) if file.hash == hash(&definition) => {}
        Some(_) => {
            return Err(Error::usage(format!(
                "{}: another method is called {name} already (rename the file)",
                path.display()
            )));
        }
        None if crate::optim::ROWS.iter().any(|row| row.entry.name == name) => {
            return Err(Error::usage(format!(
                "{}: the program has a method {name} (rename the file)",
                path.display()
            )));
        }
        None => {
            let row = made(definition, name);
            found.push(row);
        }
    }
    Ok(())
}

fn hash(definition: &Definition) -> String {
    let Definition {
        keys,
        vectors,
        tensors,
        scalars,
        step,
        evaluate,
        reports,
        rest,
        ..
    } = definition;
    let states = [vectors, tensors, scalars];
    let states = states.map(|states| {
        states
            .iter()
            .map(|state| (&state.name, state.initial.to_string()))
    });
    let states = states.map(|states| states.collect::<Vec<_>>());
    let code =
        [step, evaluate].map(|code| code.iter().map(ToString::to_string).collect::<Vec<_>>());
    let text = format!("{keys:?} {states:?} {code:?} {reports:?} {rest:?}");
    hex(&Md5::digest(text))
}

/// A row for a file's method under a name.
fn made(definition: Definition, name: &str) -> (&'static Row, &'static MethodFile) {
    let file: &'static MethodFile = Box::leak(Box::new(MethodFile {
        hash: hash(&definition),
        definition,
    }));
    let definition = &file.definition;
    let mut keys: Vec<Key> = definition.keys.iter().map(key).collect();
    let rest = definition.rest.as_deref();
    let of_rest = rest.into_iter().flat_map(aux_keys);
    let others = of_rest.filter(|key| definition.keys.iter().all(|own| own.name != key.name));
    keys.extend(others);
    let steps: Vec<&'static str> = definition.reports.iter().map(String::as_str).collect();
    let row = Box::leak(Box::new(Row {
        entry: Entry {
            name: String::leak(name.to_owned()),
            about: &definition.about,
            paper: &definition.paper,
            keys: Vec::leak(keys),
        },
        look: look(name),
        reports: Reports {
            steps: Vec::leak(steps),
            epoch: &[],
        },
        rest,
        build: Box::leak(Box::new(|values: &Values| -> Box<dyn AnyMethod> {
            Box::new(FileMethod::new(definition, values))
        })),
    }));
    (row, file)
}

/// The keys of the method for what is no matrix, as a config has them.
fn aux_keys(rest: &str) -> Vec<Key> {
    let row = crate::optim::ROWS.iter().find(|row| row.entry.name == rest);
    let own = row.map_or(&[][..], |row| row.entry.keys).iter();
    let common = [LR, WEIGHT_DECAY];
    let common = common
        .iter()
        .filter(|key| own.clone().all(|o| o.name != key.name));
    let keys = common.chain(own.clone());
    let aux = keys.map(|key| Key {
        name: String::leak(format!("{AUX}{}", key.name)),
        ..*key
    });
    aux.collect()
}

fn key(key: &'static super::syntax::Key) -> Key {
    let number = |x: &f64| serde_json::Number::from_f64(*x).map_or(Value::Null, Value::Number);
    let (kind, default, about) = match &key.default {
        Default::Number(x) => (Kind::Real, number(x), "a number of the file"),
        Default::Flag(flag) => (Kind::Flag, Value::Bool(*flag), "a flag of the file"),
        Default::List(list) => (
            Kind::Numbers(list.len()),
            list.iter().map(number).collect(),
            "numbers of the file; inside `opt` a list of lists",
        ),
        Default::Formula(_) => (
            Kind::Real,
            Value::Null,
            "a number, by default of other keys",
        ),
    };
    let default = Some(&*String::leak(default.to_string()));
    // Every optimizer has these; the file gives another default.
    let common = crate::optim::COMMON_KEYS.iter();
    if let Some(common) = common.copied().find(|common| common.name == key.name) {
        return Key { default, ..common };
    }
    Key {
        name: &key.name,
        kind,
        default,
        about,
    }
}

/// The look of a file's method, whether it was read or not. Those that the program carries have one of their own; of
/// others the name decides.
pub fn look(name: &str) -> Look {
    let carried = FILES.iter().position(|(other, _)| *other == name);
    let nth = carried.unwrap_or_else(|| {
        let bytes = name.bytes().map(usize::from);
        let sum = bytes.fold(0usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte));
        FILES.len() + sum % (Look::COUNT - FILES.len())
    });
    // The first look is that of a method in Rust.
    Look::nth(1 + nth)
}
