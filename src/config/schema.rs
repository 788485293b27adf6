//! Keys: their types, defaults and meaning. Every table of the crate (optimizers, models, data sets)
//! describes its keys with these, and checking, `list` and the typed access of [`Values`] follow.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::Result;

/// One key of an object in a config.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    pub name: &'static str,
    pub kind: Kind,
    /// The default as JSON text; `None` makes the key required.
    pub default: Option<&'static str>,
    pub about: &'static str,
}

impl Key {
    pub fn default(&self) -> Option<Value> {
        let text = self.default?;
        Some(serde_json::from_str(text).expect("defaults are valid JSON"))
    }
}

/// Gives the keys that are missing in `map` their defaults.
pub fn complete<'k>(map: &mut Map<String, Value>, keys: impl IntoIterator<Item = &'k Key>) {
    for key in keys {
        if !map.contains_key(key.name) {
            map.extend(key.default().map(|value| (key.name.to_owned(), value)));
        }
    }
}

/// The values that a key takes.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// true or false.
    Flag,
    /// An integer of 1 or more.
    Count,
    /// A list of integers of 1 or more.
    Counts,
    /// A list of exactly two integers of 1 or more.
    CountPair,
    /// Any finite number.
    Real,
    /// A finite number of 0 or more.
    NonNegative,
    /// A finite number above 0.
    Positive,
    /// A number in [0, 1).
    Fraction,
    /// A list of exactly two numbers in [0, 1).
    FractionPair,
    /// A list of exactly this many finite numbers.
    Numbers(usize),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Anything that the function accepts, described by the text.
    Checked(&'static str, fn(&Value) -> bool),
}

impl Kind {
    /// What a value must be, for error messages and `list`: "a number of 0 or more".
    pub fn describe(&self) -> String {
        match self {
            Kind::Flag => "true or false".into(),
            Kind::Count => "an integer of 1 or more".into(),
            Kind::Counts => "a list of integers of 1 or more".into(),
            Kind::CountPair => "a list of two integers of 1 or more".into(),
            Kind::Real => "a finite number".into(),
            Kind::NonNegative => "a finite number of 0 or more".into(),
            Kind::Positive => "a finite number above 0".into(),
            Kind::Fraction => "a number in [0, 1)".into(),
            Kind::FractionPair => "a list of two numbers in [0, 1)".into(),
            Kind::Numbers(1) => "a list of one number".into(),
            Kind::Numbers(n) => format!("a list of {n} numbers"),
            Kind::Choice(words) => format!("one of {}", words.join(", ")),
            Kind::Checked(text, _) => (*text).into(),
        }
    }

    pub fn accepts(&self, value: &Value) -> bool {
        let real = |v: &Value| v.as_f64().filter(|x| x.is_finite());
        let count = |v: &Value| v.as_u64().is_some_and(|n| n >= 1);
        let fraction = |v: &Value| real(v).is_some_and(|x| (0.0..1.0).contains(&x));
        let list = |v: &Value, f: &dyn Fn(&Value) -> bool| {
            v.as_array()
                .filter(|a| a.iter().all(f))
                .map_or(usize::MAX, Vec::len)
        };
        match self {
            Kind::Flag => value.is_boolean(),
            Kind::Count => count(value),
            Kind::Counts => list(value, &count) != usize::MAX,
            Kind::CountPair => list(value, &count) == 2,
            Kind::Real => real(value).is_some(),
            Kind::NonNegative => real(value).is_some_and(|x| x >= 0.0),
            Kind::Positive => real(value).is_some_and(|x| x > 0.0),
            Kind::Fraction => fraction(value),
            Kind::FractionPair => list(value, &fraction) == 2,
            Kind::Numbers(n) => list(value, &|v| real(v).is_some()) == *n,
            Kind::Choice(words) => value.as_str().is_some_and(|s| words.contains(&s)),
            Kind::Checked(_, f) => f(value),
        }
    }
}

/// A row's name and keys, as `list` shows them and as configs are checked against.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub name: &'static str,
    pub about: &'static str,
    /// Where it comes from, empty if nowhere in particular.
    pub paper: &'static str,
    pub keys: &'static [Key],
}

/// All names and keys that a config may use.
#[derive(Clone, Debug)]
pub struct Vocabulary {
    pub datasets: Vec<Entry>,
    pub models: Vec<Entry>,
    pub optimizers: Vec<Entry>,
    /// Reads a method that a config in a folder names and that may be a file; all optimizers there are then.
    pub find_optimizer: fn(&str, &Path) -> Result<Vec<Entry>>,
    /// Keys that every optimizer has (`lr`, `weight_decay`, `lr_schedule`).
    pub optimizer_keys: &'static [Key],
    /// Keys that a group of parameters has beside those of its method.
    pub group_keys: &'static [Key],
    /// What is wrong with a group's `match`.
    pub group_match: fn(&str) -> std::result::Result<(), String>,
    pub schedules: &'static [Entry],
    /// The schedule that an `lr_schedule` names.
    pub schedule: fn(&str) -> Option<&'static Entry>,
    pub losses: Vec<&'static str>,
    pub scores: Vec<&'static str>,
}

impl Entry {
    pub fn has(&self, key: &str) -> bool {
        self.keys.iter().any(|own| own.name == key)
    }
}

impl Vocabulary {
    /// The optimizer that a config's value names.
    pub fn optimizer(&self, name: &Value) -> Option<&Entry> {
        self.optimizers.iter().find(|entry| *name == entry.name)
    }

    /// Is it a key of `opt` that groups of parameters cannot have for themselves?
    pub fn shared_by_groups(&self, key: &str) -> bool {
        let of_all = self.optimizer_keys.iter().any(|other| other.name == key);
        let of_groups = self.group_keys.iter().any(|other| other.name == key);
        let of_schedules = self.schedules.iter().any(|entry| entry.has(key));
        !of_groups && (of_all || of_schedules)
    }
}

/// The keys of an optimizer object beside `name`: the method's, those of all methods, and its schedule's. Of two of one
/// name the method's counts.
pub fn opt_keys<'k>(method: &'k [Key], all: &'k [Key], schedule: &'k [Key]) -> Vec<&'k Key> {
    let own = |key: &&Key| method.iter().all(|other| other.name != key.name);
    let others = all.iter().chain(schedule).filter(own);
    method.iter().chain(others).collect()
}

/// Typed access to a checked object; a missing key gives its default.
///
/// The object has been checked against the keys before: asking for a key that the table does not
/// have, or as another type, is a bug and panics.
#[derive(Clone, Debug)]
pub struct Values<'a> {
    keys: Vec<Key>,
    map: &'a Map<String, Value>,
}

impl<'a> Values<'a> {
    pub fn new(keys: impl IntoIterator<Item = &'static Key>, map: &'a Map<String, Value>) -> Self {
        Values {
            keys: keys.into_iter().copied().collect(),
            map,
        }
    }

    pub fn get(&self, name: &str) -> Value {
        if let Some(value) = self.map.get(name) {
            return value.clone();
        }
        let key = self.keys.iter().find(|k| k.name == name);
        let default = key.and_then(Key::default);
        default.unwrap_or_else(|| panic!("no key {name}, or it has no default"))
    }

    pub fn real(&self, name: &str) -> f64 {
        self.get(name).as_f64().expect("a number")
    }

    pub fn count(&self, name: &str) -> usize {
        self.get(name).as_u64().expect("an integer") as usize
    }

    pub fn flag(&self, name: &str) -> bool {
        self.get(name).as_bool().expect("true or false")
    }

    pub fn text(&self, name: &str) -> String {
        self.get(name).as_str().expect("a string").to_owned()
    }

    pub fn counts(&self, name: &str) -> Vec<usize> {
        let value = self.get(name);
        let items = value.as_array().expect("a list").iter();
        items
            .map(|v| v.as_u64().expect("an integer") as usize)
            .collect()
    }

    pub fn pair(&self, name: &str) -> (f64, f64) {
        let value = self.get(name);
        let item = |i: usize| value[i].as_f64().expect("two numbers");
        (item(0), item(1))
    }
}
