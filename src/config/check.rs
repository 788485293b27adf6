//! Compares a config with the vocabulary and collects every mistake, not only the first.

use std::collections::HashMap;
use std::fmt::Display;

use serde_json::{Map, Value};

use super::schema::{Entry, Key, Kind, Vocabulary, opt_keys};
use super::text::{child, item, nearest, shown, shown_text, suggestion};
use super::{expand, same};
use crate::error::{Error, Result};

type Object = Map<String, Value>;

/// More mistakes than this are counted as "more": nobody reads a thousand lines.
const MAX_SHOWN: usize = 50;

/// The reference adds the run's id to 456789 and seeds numpy with it, whose seeds end at 2^32 - 1.
pub(super) const MAX_RUN_ID: u64 = u32::MAX as u64 - 456_789;

/// What the reference has for ImageNet's photographs in their full size.
const LEFT_OUT: [&str; 3] = ["imagenet", "resnet18-pytorch", "resnet50-pytorch"];

const GROUPS: &str = "groups";
const NAME: Kind = Kind::Checked("a name", Value::is_string);
const OBJECT: Kind = Kind::Checked("an object", Value::is_object);
/// As many as `train --epochs` takes; more would take centuries.
const EPOCHS: Kind = Kind::Checked("an integer from 1 to 4294967295", |value| {
    value
        .as_u64()
        .is_some_and(|n| n > 0 && n <= u64::from(u32::MAX))
});

/// The keys of a run, all but the one that says which seed.
pub(super) const KEYS: [Key; 10] = [
    key("dataset", NAME, None, "the data set's name"),
    key("dataset_kwargs", OBJECT, Some("{}"), "the data set's keys"),
    key("model", NAME, None, "the model's name"),
    key("model_kwargs", OBJECT, Some("{}"), "the model's keys"),
    key("loss_func", NAME, None, "the training loss's name"),
    key("score_func", NAME, None, "the score's name"),
    key("opt", OBJECT, None, "the optimizer's name and keys"),
    key(
        GROUPS,
        Kind::Checked(
            "a list of groups; where a list is a choice, a list of such lists: [[{\"match\": ...}, ...]]",
            Value::is_array,
        ),
        Some("[]"),
        "groups of parameters with values of their own",
    ),
    key("batch_size", Kind::Count, Some("1"), "samples in a batch"),
    key("max_epoch", EPOCHS, None, "how many epochs to train"),
];
const N_RUNS: Key = key("n_runs", Kind::Count, None, "how many seeds");
const RUN_ID: Key = key(
    "run_id",
    Kind::Checked("an integer from 0 to 4294510506", |value| {
        value.as_u64().is_some_and(|id| id <= MAX_RUN_ID)
    }),
    None,
    "which seed",
);
const OPT_NAME: Key = key("name", NAME, None, "the optimizer's name");

const fn key(
    name: &'static str,
    kind: Kind,
    default: Option<&'static str>,
    about: &'static str,
) -> Key {
    Key {
        name,
        kind,
        default,
        about,
    }
}

/// A value with its path in the file.
type Placed<'v> = (String, &'v Value);

pub(super) struct Checker<'a> {
    vocabulary: &'a Vocabulary,
    max_runs: u64,
    errors: Vec<String>,
    more: bool,
    warnings: Vec<String>,
}

impl<'a> Checker<'a> {
    pub fn new(vocabulary: &'a Vocabulary, max_runs: u64) -> Self {
        Checker {
            vocabulary,
            max_runs,
            errors: Vec::new(),
            more: false,
            warnings: Vec::new(),
        }
    }

    /// Notes a mistake. The same one may be met in several combinations of choices: it is kept once.
    pub fn report(&mut self, path: &str, text: impl Display) {
        if self.full() {
            return;
        }
        let line = line(path, text);
        if !self.errors.contains(&line) {
            self.errors.push(line);
        }
    }

    /// Notes what may not be meant, once.
    pub fn warn(&mut self, path: &str, text: impl Display) {
        let line = line(path, text);
        if !self.warnings.contains(&line) {
            self.warnings.push(line);
        }
    }

    /// The warnings, or one error of all mistakes.
    pub fn finish(self, source: &str) -> Result<Vec<String>> {
        let placed = |line: &String| format!("{source}: {line}");
        if self.errors.is_empty() {
            return Ok(self.warnings.iter().map(placed).collect());
        }
        let mut lines: Vec<String> = self.errors.iter().map(placed).collect();
        if self.more {
            lines.push(format!("{source}: and more mistakes"));
        }
        Err(Error::usage(lines.join("\n")))
    }

    /// An experiment's id becomes part of file names.
    pub fn id(&mut self, id: &str) {
        let wrong = if id.is_empty() {
            "is empty"
        } else if id.starts_with(['.', '-']) {
            "starts with a dot or a dash"
        } else if id.contains(['/', '\\']) || id.contains("..") {
            "has a path in it"
        } else if id.chars().any(char::is_control) {
            "has control characters"
        } else {
            return;
        };
        let id = shown_text(id);
        let text = format!(
            "the experiment id \"{id}\", the file's name without its extension, {wrong} (rename the file)"
        );
        self.report("", text);
    }

    pub fn document(&mut self, value: &Value) {
        let count = expand::count(value);
        if count > u128::from(self.max_runs) {
            let count = match u64::try_from(count) {
                Ok(count) => count.to_string(),
                Err(_) => "more than 10^19".into(),
            };
            let limit = self.max_runs;
            let text = format!("{count} runs (expected at most {limit}; raise it with --max-runs)");
            return self.report("", text);
        }
        match value {
            Value::Object(map) => self.run("", map, &N_RUNS),
            Value::Array(runs) => {
                if runs.is_empty() {
                    self.report("", "no runs (expected at least one in the list)");
                }
                for (index, run) in runs.iter().enumerate() {
                    let path = item("", index);
                    match run {
                        Value::Object(map) => self.run(&path, map, &RUN_ID),
                        other => self.wrong(&path, "an object, one run", other),
                    }
                }
            }
            other => self.wrong("", "an object, or a list of runs", other),
        }
        if self.errors.is_empty() {
            for (first, second) in same::repeated(value, self.vocabulary) {
                let text =
                    format!("the same as {first}, so that two runs are identical (remove one)");
                self.report(&second, text);
            }
        }
    }

    /// Whether nothing more will be shown; then a message is not worth its making.
    fn full(&mut self) -> bool {
        self.more |= self.errors.len() >= MAX_SHOWN;
        self.more
    }

    fn wrong(&mut self, path: &str, expected: &str, value: &Value) {
        if !self.full() {
            let shown = shown(value);
            self.report(path, format!("wrong value {shown} (expected {expected})"));
        }
    }

    fn value(&mut self, path: &str, kind: &Kind, value: &Value) {
        if kind.accepts(value) {
            return;
        }
        let mut expected = kind.describe();
        match value {
            Value::String(word) => {
                if let Some(near) = respelt(kind, word) {
                    expected += &format!("; did you mean {near:?}?");
                }
            }
            Value::Array(items) if items.iter().all(|item| kind.accepts(item)) => {
                expected += "; a list is not a choice here";
            }
            _ => {}
        }
        self.wrong(path, &expected, value);
    }

    /// The choices that a value stands for; it is a mistake if there are none.
    fn choices<'v>(&mut self, path: String, value: &'v Value, lists: bool) -> Vec<Placed<'v>> {
        if lists && value.as_array().is_some_and(Vec::is_empty) {
            self.report(&path, "empty list (expected at least one choice)");
        }
        expand::choices(path, value, lists)
    }

    /// An object of the file that describes runs; `seed` is the key that says which seeds, and with it
    /// whether lists are choices.
    fn run(&mut self, path: &str, map: &Object, seed: &Key) {
        let lists = seed.name == N_RUNS.name;
        let keys: Vec<&Key> = KEYS.iter().chain([seed]).collect();
        self.unknown_keys(path, map, &keys, "");
        self.missing_keys(path, map, &keys, "");

        let mut placed: HashMap<&str, Vec<Placed>> = HashMap::new();
        for key in keys {
            let Some(value) = map.get(key.name) else {
                continue;
            };
            let choices =
                self.choices(child(path, key.name), value, lists && key.name != seed.name);
            for (path, value) in &choices {
                self.value(path, &key.kind, value);
            }
            placed.insert(key.name, choices);
        }
        let vocabulary = self.vocabulary;
        let choices = |name: &str| placed.get(name).map_or(&[][..], Vec::as_slice);
        self.names(choices("loss_func"), "loss", &vocabulary.losses);
        self.names(choices("score_func"), "score", &vocabulary.scores);
        let data = (
            "data set",
            "dataset",
            "dataset_kwargs",
            &vocabulary.datasets,
        );
        let model = ("model", "model", "model_kwargs", &vocabulary.models);
        for (what, name, kwargs, entries) in [data, model] {
            let known: Vec<&str> = entries.iter().map(|entry| entry.name).collect();
            self.names(choices(name), what, &known);
            let none = Value::Object(Object::new());
            let none = [(child(path, kwargs), &none)];
            let all = match choices(kwargs) {
                [] if !map.contains_key(kwargs) => &none[..],
                given => given,
            };
            for (_, name) in choices(name) {
                let Some(entry) = entries.iter().find(|entry| *name == entry.name) else {
                    continue;
                };
                let keys: Vec<&Key> = entry.keys.iter().collect();
                let owner = format!(" of {what} {:?}", entry.name);
                for (path, kwargs) in all {
                    if let Value::Object(kwargs) = kwargs {
                        self.object(path, kwargs, &keys, &owner, false);
                    }
                }
            }
        }
        let mut methods: Vec<&Entry> = Vec::new();
        for (path, opt) in choices("opt") {
            if let Value::Object(opt) = opt {
                self.opt(path, opt, lists);
                let names = opt.get(OPT_NAME.name).into_iter();
                let names = names.flat_map(|value| expand::choices(String::new(), value, lists));
                methods.extend(names.filter_map(|(_, name)| vocabulary.optimizer(name)));
            }
        }
        for (path, groups) in choices(GROUPS) {
            for (index, group) in groups.as_array().into_iter().flatten().enumerate() {
                let path = item(path, index);
                match group {
                    Value::Object(group) => self.group(&path, group, &methods),
                    other => self.wrong(&path, "an object, one group", other),
                }
            }
        }
    }

    /// A group of parameters under these methods. Nothing in it is a choice.
    fn group(&mut self, path: &str, map: &Object, methods: &[&Entry]) {
        let vocabulary = self.vocabulary;
        let known: Vec<&str> = (vocabulary.optimizers.iter())
            .map(|entry| entry.name)
            .collect();
        let own = map.get(OPT_NAME.name);
        let named: Vec<Placed> = own
            .map(|name| (child(path, OPT_NAME.name), name))
            .into_iter()
            .collect();
        self.names(&named, "optimizer", &known);
        let own = own.and_then(|name| vocabulary.optimizer(name));
        if ["lr", "lr_factor"].iter().all(|key| map.contains_key(*key)) {
            self.report(path, "has both lr and lr_factor (give one of them)");
        }
        let (key, pattern) = ("match", map.get("match").and_then(Value::as_str));
        if let Some(Err(why)) = pattern.map(vocabulary.group_match) {
            self.report(&child(path, key), why);
        }
        let common: Vec<&Key> = vocabulary.group_keys.iter().collect();
        let methods = if named.is_empty() {
            methods
        } else {
            own.as_slice()
        };
        if methods.is_empty() {
            self.missing_keys(path, map, &common, " of a group");
            self.values(path, map, &common, false);
        }
        for method in methods {
            let keys = [common.clone(), method.keys.iter().collect()].concat();
            let mut rest = Object::new();
            for (name, value) in map {
                let at = child(path, name);
                if keys.iter().any(|key| key.name == name) {
                    rest.insert(name.clone(), value.clone());
                } else if vocabulary.shared_by_groups(name) {
                    self.report(&at, "belongs in opt, since all groups share it");
                } else if vocabulary.optimizers.iter().any(|other| other.has(name)) {
                    let text = format!("has no effect on {}, which does not have it", method.name);
                    self.warn(&at, text);
                } else {
                    rest.insert(name.clone(), value.clone());
                }
            }
            let owner = format!(" of a group of optimizer {:?}", method.name);
            self.object(path, &rest, &keys, &owner, false);
        }
    }

    fn names(&mut self, choices: &[Placed], what: &str, known: &[&str]) {
        for (path, name) in choices {
            if let Value::String(name) = name
                && !known.contains(&name.as_str())
            {
                self.unknown(path, what, name, known);
            }
        }
    }

    fn unknown(&mut self, path: &str, what: &str, word: &str, known: &[&str]) {
        if !self.full() {
            let (shown, hint) = (shown_text(word), suggestion(word, known));
            let left_out = what != "optimizer" && LEFT_OUT.contains(&word);
            let text = match left_out {
                true => format!(
                    "{what} \"{shown}\" is step-back's, but left out here: of ImageNet there is imagenet32"
                ),
                false => format!("unknown {what} \"{shown}\" {hint}"),
            };
            self.report(path, text);
        }
    }

    /// Keys of other optimizers are taken as the reference takes them, which looks only for those that it wants.
    fn opt(&mut self, path: &str, map: &Object, lists: bool) {
        let optimizers = &self.vocabulary.optimizers;
        let common: Vec<&Key> = [&OPT_NAME]
            .into_iter()
            .chain(self.vocabulary.optimizer_keys)
            .collect();
        let names = match map.get(OPT_NAME.name) {
            Some(value) => self.choices(child(path, OPT_NAME.name), value, lists),
            None => Vec::new(),
        };
        let known: Vec<&str> = optimizers.iter().map(|entry| entry.name).collect();
        self.names(&names, "optimizer", &known);
        let mut any = false;
        let mut lr = common.iter().copied().find(|key| key.name == "lr");
        for (_, name) in names {
            if let Some(entry) = optimizers.iter().find(|entry| *name == entry.name) {
                lr = entry.keys.iter().find(|key| key.name == "lr").or(lr);
                for schedule in self.schedules(path, map, lists) {
                    self.method(path, map, entry, schedule, lists);
                }
                any = true;
            }
        }
        if !any {
            // Without a name, only what every optimizer has can be judged.
            self.missing_keys(path, map, &common, "");
            self.values(path, map, &common, lists);
        }
        if let Some(default) = lr.and_then(|key| key.default)
            && !map.contains_key("lr")
        {
            self.warn(path, format!("no lr, so {default} is used"));
        }
    }

    /// The schedules that an optimizer object names, its default among them; those that are none are told elsewhere.
    fn schedules(&mut self, path: &str, map: &Object, lists: bool) -> Vec<Entry> {
        const NAME: &str = "lr_schedule";
        let keys = self.vocabulary.optimizer_keys.iter();
        let default = keys.filter(|key| key.name == NAME).find_map(Key::default);
        let given = map.get(NAME).or(default.as_ref());
        let choices = given.map(|value| self.choices(child(path, NAME), value, lists));
        let names = choices.iter().flatten().map(|(_, name)| name.as_str());
        let named = names.map(|name| (self.vocabulary.schedule)(name?).copied());
        // Without a schedule, a method's own keys can be judged.
        let none = Entry {
            name: "",
            about: "",
            paper: "",
            keys: &[],
        };
        named.map(|entry| entry.unwrap_or(none)).collect()
    }

    /// An optimizer object as one of a method and of a schedule.
    fn method(&mut self, path: &str, map: &Object, entry: &Entry, schedule: Entry, lists: bool) {
        let has = Entry::has;
        let Vocabulary {
            optimizers,
            optimizer_keys,
            schedules,
            ..
        } = self.vocabulary;
        let mut keys = opt_keys(entry.keys, optimizer_keys, schedule.keys);
        keys.push(&OPT_NAME);
        let owner = format!(" of optimizer {:?}", entry.name);
        let mut rest = Object::new();
        for (name, value) in map {
            let at = child(path, name);
            let known = keys.iter().any(|key| key.name == name);
            let of_schedules = schedules.iter().filter(|other| has(other, name));
            let of_schedules: Vec<&str> = of_schedules.map(|other| other.name).collect();
            if !known && !schedule.name.is_empty() && !of_schedules.is_empty() {
                let (mine, theirs) = (schedule.name, of_schedules.join(", "));
                let text = format!(
                    "not a key of lr_schedule {mine:?} (it is of {theirs}; entries of opt may each have their own schedule)"
                );
                self.report(&at, text);
            } else if !known && optimizers.iter().any(|other| has(other, name)) {
                let text = format!("has no effect on {}, which does not have it", entry.name);
                self.warn(&at, text);
            } else {
                rest.insert(name.clone(), value.clone());
            }
            // Every schedule has a warm-up; only one that was asked for can be meant by it.
            if has(entry, name) && has(&schedule, name) && schedule.name != "constant" {
                let (method, schedule) = (entry.name, schedule.name);
                let text = format!(
                    "a key of optimizer {method:?} and of lr_schedule {schedule:?}, and it is not clear which is meant (leave it out, or take the schedule \"constant\", for which it is the optimizer's)"
                );
                self.report(&at, text);
            }
        }
        self.unknown_keys(path, &rest, &keys, &owner);
        let of_schedule = |key: &&Key| has(&schedule, key.name) && !has(entry, key.name);
        let (of_schedule, of_method): (Vec<&Key>, Vec<&Key>) =
            keys.iter().copied().partition(of_schedule);
        self.missing_keys(path, &rest, &of_method, &owner);
        let owner = format!(" of lr_schedule {:?}", schedule.name);
        self.missing_keys(path, &rest, &of_schedule, &owner);
        self.values(path, &rest, &keys, lists);
    }

    /// An object whose keys are `keys`; `owner` says whose they are.
    fn object(&mut self, path: &str, map: &Object, keys: &[&Key], owner: &str, lists: bool) {
        self.unknown_keys(path, map, keys, owner);
        self.missing_keys(path, map, keys, owner);
        self.values(path, map, keys, lists);
    }

    fn unknown_keys(&mut self, path: &str, map: &Object, keys: &[&Key], owner: &str) {
        let known: Vec<&str> = keys.iter().map(|key| key.name).collect();
        let what = format!("key{owner}");
        for name in map.keys().filter(|name| !known.contains(&name.as_str())) {
            self.unknown(&child(path, name), &what, name, &known);
        }
    }

    fn missing_keys(&mut self, path: &str, map: &Object, keys: &[&Key], owner: &str) {
        for key in keys {
            if key.default.is_none() && !map.contains_key(key.name) {
                let (name, about, kind) = (key.name, key.about, key.kind.describe());
                let text = format!("missing key{owner} {name:?} (expected {kind}: {about})");
                self.report(path, text);
            }
        }
    }

    fn values(&mut self, path: &str, map: &Object, keys: &[&Key], lists: bool) {
        for key in keys {
            let Some(value) = map.get(key.name) else {
                continue;
            };
            let path = child(path, key.name);
            if lists && is_bare_list(&key.kind, value) {
                let (shown, kind) = (shown(value), key.kind.describe());
                let text = format!(
                    "{shown} is a list of choices (expected each choice to be {kind}: write a list \
                     of lists, [{shown}])"
                );
                self.report(&path, text);
                continue;
            }
            for (path, value) in self.choices(path, value, lists) {
                self.value(&path, &key.kind, value);
            }
        }
    }
}

/// Whether a value that must be a list is written as if a list were no list of choices.
fn is_bare_list(kind: &Kind, value: &Value) -> bool {
    let items = value.as_array().map_or(&[][..], Vec::as_slice);
    kind.accepts(value) && items.iter().any(|item| !kind.accepts(item))
}

fn line(path: &str, text: impl Display) -> String {
    match path {
        "" => text.to_string(),
        _ => format!("{path}: {text}"),
    }
}

/// The accepted word that a refused one may have meant.
fn respelt<'k>(kind: &Kind, word: &str) -> Option<&'k str> {
    match *kind {
        Kind::Choice(words) => nearest(word, words.iter().copied()),
        // The description names the words; what else it says, the function refuses.
        Kind::Checked(about, accepts) => {
            let part_of_word = |c: char| c.is_alphanumeric() || "-_.".contains(c);
            let words = about.split(move |c| !part_of_word(c));
            nearest(word, words.filter(|word| accepts(&Value::from(*word))))
        }
        _ => None,
    }
}
