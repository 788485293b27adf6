//! Methods that are files, which a config names.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::schema::Vocabulary;
use crate::error::{Error, Result};

/// The vocabulary with the methods that the config at `path` names, where these are files.
///
/// # Errors
/// All mistakes of all of them.
pub(super) fn named(config: &Value, path: &Path, vocabulary: &Vocabulary) -> Result<Vocabulary> {
    let mut vocabulary = vocabulary.clone();
    let mut names = BTreeSet::new();
    collect(config, false, &mut names);
    let beside = path.parent().unwrap_or(Path::new(""));
    let mut mistakes = Vec::new();
    for name in names {
        match (vocabulary.find_optimizer)(name, beside) {
            Ok(optimizers) => vocabulary.optimizers = optimizers,
            Err(error) => mistakes.push(error.message),
        }
    }
    match mistakes.is_empty() {
        true => Ok(vocabulary),
        false => Err(Error::usage(mistakes.join("\n"))),
    }
}

/// The names in `opt` and `groups`, lists of choices too.
fn collect<'v>(value: &'v Value, inside: bool, names: &mut BTreeSet<&'v str>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match key.as_str() {
                    "opt" | "groups" => collect(value, true, names),
                    "name" if inside => strings(value, names),
                    _ => {}
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, inside, names)),
        _ => {}
    }
}

fn strings<'v>(value: &'v Value, names: &mut BTreeSet<&'v str>) {
    match value {
        Value::String(name) => {
            names.insert(name);
        }
        Value::Array(items) => items.iter().for_each(|item| strings(item, names)),
        _ => {}
    }
}
