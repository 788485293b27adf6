//! Which values are equal: as the reference compares them, and within one config.

use std::collections::HashMap;

use serde::Serialize;
use serde_json::{Map, Number, Value};

use super::RunConfig;
use super::expand::{choices, opts};
use super::schema::{Vocabulary, complete, opt_keys};
use super::text::{child, item};

/// JSON text that two values share exactly if they are equal: keys sorted, `1` and `1.0` alike.
pub fn canonical(value: &Value) -> String {
    let mut text = Vec::new();
    write(value, &mut text);
    String::from_utf8(text).expect("JSON")
}

/// As [`canonical`] of an object that has these entries, sorted by their keys.
pub fn canonical_object<'a>(entries: impl Iterator<Item = (&'a String, &'a Value)>) -> String {
    let mut text = Vec::new();
    write_object(entries, &mut text);
    String::from_utf8(text).expect("JSON")
}

fn write_object<'a>(entries: impl Iterator<Item = (&'a String, &'a Value)>, out: &mut Vec<u8>) {
    out.push(b'{');
    for (key, item) in entries {
        plain(key, out);
        out.push(b':');
        write(item, out);
        out.push(b',');
    }
    out.push(b'}');
}

fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Number(number) => write_number(number, out),
        Value::Array(items) => {
            out.push(b'[');
            for item in items {
                write(item, out);
                out.push(b',');
            }
            out.push(b']');
        }
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_unstable_by_key(|(key, _)| *key);
            write_object(entries.into_iter(), out);
        }
        other => plain(other, out),
    }
}

fn write_number(number: &Number, out: &mut Vec<u8>) {
    // No JSON integer reaches 2^64 (the reader makes it a double), so larger ones need no care.
    let whole = number
        .as_f64()
        .filter(|x| number.is_f64() && x.fract() == 0.0 && x.abs() < 2f64.powi(64));
    match whole {
        Some(x) => plain(&(x as i128), out),
        None => plain(number, out),
    }
}

fn plain(value: &impl Serialize, out: &mut Vec<u8>) {
    serde_json::to_writer(out, value).expect("memory takes all");
}

/// The paths of choices, or of runs, that stand twice in a config and so make two runs the same.
///
/// Two runs of a product are the same exactly if some key has the same choice twice, so that
/// comparing choices finds every case and can say where it is.
pub(super) fn repeated(config: &Value, vocabulary: &Vocabulary) -> Vec<(String, String)> {
    // What is left out has its default.
    let completed = |mut opt: Map<String, Value>| {
        let name = opt.get("name").and_then(Value::as_str);
        let row = vocabulary
            .optimizers
            .iter()
            .find(|row| name == Some(row.name));
        let own = row.map_or(&[][..], |row| row.keys);
        complete(&mut opt, vocabulary.optimizer_keys);
        let schedule = opt.get("lr_schedule").and_then(Value::as_str);
        let schedule = schedule.and_then(vocabulary.schedule);
        let schedule = schedule.map_or(&[][..], |entry| entry.keys);
        complete(&mut opt, opt_keys(own, vocabulary.optimizer_keys, schedule));
        opt
    };
    let keyed = |choices: Vec<(String, &Value)>| -> Vec<(String, String)> {
        let choices = choices.into_iter();
        choices
            .map(|(path, value)| (path, canonical(value)))
            .collect()
    };
    let Value::Object(map) = config else {
        let runs = choices(String::new(), config, true).into_iter();
        let runs = runs.filter_map(|(path, run)| {
            let mut run = RunConfig::from_json(run.as_object()?)?;
            run.opt = completed(run.opt);
            Some((path, run.identity()))
        });
        return twice(runs.collect());
    };
    let mut found = Vec::new();
    for (name, value) in map {
        if name != "opt" {
            found.extend(twice(keyed(choices(child("", name), value, true))));
            continue;
        }
        for (path, opt) in choices(child("", name), value, true) {
            for (key, value) in opt.as_object().into_iter().flatten() {
                found.extend(twice(keyed(choices(child(&path, key), value, true))));
            }
        }
        let expanded = opts(value).into_iter();
        found.extend(twice(
            expanded
                .filter_map(|(index, opt)| match opt {
                    Value::Object(opt) => Some((index, completed(opt))),
                    _ => None,
                })
                .map(|(index, opt)| (item("opt", index), canonical(&opt.into())))
                .collect(),
        ));
    }
    found
}

/// Pairs of different paths with equal texts.
fn twice(keyed: Vec<(String, String)>) -> Vec<(String, String)> {
    let mut first: HashMap<String, String> = HashMap::new();
    let mut pairs: Vec<(String, String)> = Vec::new();
    for (path, text) in keyed {
        match first.get(&text) {
            Some(earlier) if *earlier != path => pairs.push((earlier.clone(), path)),
            Some(_) => {}
            None => {
                first.insert(text, path);
            }
        }
    }
    pairs
}
