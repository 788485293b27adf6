//! From a file to a method's definition: TOML, sections, and the code in them.

use std::collections::BTreeMap;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::check::{Checker, Meaning, Section};
use super::code::{Node, Reader, What};
use super::mistakes::Mistakes;
use super::syntax::{Default, Definition, Expr, Key, Kind, State};
use crate::config::{Form, position, printable, suggestion};
use crate::error::{Error, Result};
use crate::optim::ROWS;

/// Files of methods.
const FORM: Form = Form {
    what: "method",
    extension: "toml",
    most: 64 << 10,
};

const MAX_KEYS: usize = 64;
const MAX_VECTORS: usize = 32;
const MAX_NUMBERS: usize = 64;

type Value<'t> = Spanned<DeValue<'t>>;

/// Reads and checks the method in the file at `path`.
///
/// # Errors
/// As [`read`]; and if there is no regular file.
pub fn load(path: &Path) -> Result<Definition> {
    let source = printable(&path.to_string_lossy());
    read(&FORM.read(path, &source)?, &source)
}

/// Reads and checks a method; `file` names it in messages.
///
/// # Errors
/// A usage error with a line for every mistake, `file:line:column: what is wrong (what was expected)`.
pub fn read(bytes: &[u8], file: &str) -> Result<Definition> {
    FORM.check_size(bytes, file)?;
    let text = std::str::from_utf8(bytes).map_err(|cause| {
        let (line, column) = position(&bytes[..cause.valid_up_to()]);
        Error::usage(format!(
            "{file}:{line}:{column}: not UTF-8 (save the file as UTF-8)"
        ))
    })?;
    let (document, wrong) = DeTable::parse_recoverable(text);
    let mut mistakes = Mistakes::new(text);
    for cause in wrong {
        let at = cause.span().map_or(0, |span| span.start.min(text.len()));
        mistakes.add(at, format!("not TOML: {}", cause.message()));
    }
    mistakes.finish(file)?;
    let mut reader = FileReader {
        text,
        code: Reader::new(),
        checker: Checker::new(Mistakes::new(text)),
    };
    let definition = reader.definition(document.get_ref());
    reader.checker.mistakes.finish(file)?;
    Ok(definition)
}

struct FileReader<'t> {
    text: &'t str,
    code: Reader,
    checker: Checker<'t>,
}

impl<'t> FileReader<'t> {
    fn definition(&mut self, document: &'t DeTable<'t>) -> Definition {
        let known = [
            "name", "about", "paper", "defaults", "state", "step", "evaluate", "report", "apply",
        ];
        self.known(document, &known, "the file");
        let name = self.required(document, 0, "name", "a file");
        let name = name.map_or("", |(name, at)| {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
                let what = "wrong name (expected up to 64 letters, digits, -, _ or dots)";
                self.wrong(at, what);
            }
            name
        });
        let [about, paper] = ["about", "paper"].map(|key| {
            let (text, at) = self.text_of(document, key)?;
            if text.chars().any(char::is_control) {
                self.wrong(at, format!("\"{key}\" is more than a line of text"));
            }
            Some(text.to_owned())
        });
        let keys = self.keys(document);
        let [vectors, tensors, scalars] = self.state(document);
        let step = self.statements(document, Section::Step, "step");
        let reports = self.reports(document);
        self.checker.unread();
        let evaluate = self.statements(document, Section::Evaluate, "evaluate");
        self.checker.unread();
        let rest = self.rest(document);
        self.checker.unused(rest.is_some());
        if step.is_none() {
            self.wrong(
                0,
                "no section [step] (expected one with code that assigns w)",
            );
        }
        Definition {
            name: name.to_owned(),
            about: about.unwrap_or_default(),
            paper: paper.unwrap_or_default(),
            keys,
            vectors,
            tensors,
            scalars,
            step: step.unwrap_or_default(),
            evaluate: evaluate.unwrap_or_default(),
            reports,
            rest,
            text: self.text.to_owned(),
        }
    }

    fn wrong(&mut self, at: usize, what: impl Into<String>) {
        self.checker.mistakes.add(at, what);
    }

    /// Reports the keys of a table that are not known.
    fn known(&mut self, table: &DeTable, known: &[&str], owner: &str) {
        for key in table.keys() {
            if !known.contains(&key.get_ref().as_ref()) {
                let name = key.get_ref();
                let hint = suggestion(name, known);
                let what = format!("unknown key {name:?} of {owner} {hint}");
                self.wrong(key.span().start, what);
            }
        }
    }

    fn section(
        &mut self,
        document: &'t DeTable<'t>,
        name: &str,
        known: &[&str],
    ) -> Option<(&'t DeTable<'t>, usize)> {
        let value = document.get(name)?;
        let at = value.span().start;
        match value.get_ref() {
            DeValue::Table(table) => {
                if !known.is_empty() {
                    self.known(table, known, &format!("[{name}]"));
                }
                Some((table, at))
            }
            other => {
                self.expected(at, name, other, &format!("a section, [{name}]"));
                None
            }
        }
    }

    fn expected(&mut self, at: usize, key: &str, found: &DeValue, expected: &str) {
        let found = found.type_str();
        let article = if found.starts_with(['a', 'i']) {
            "an"
        } else {
            "a"
        };
        self.wrong(
            at,
            format!("\"{key}\" is {article} {found} (expected {expected})"),
        );
    }

    /// A key's string, and where it is.
    fn text_of(&mut self, table: &'t DeTable<'t>, key: &str) -> Option<(&'t str, usize)> {
        let value = table.get(key)?;
        let at = value.span().start;
        match value.get_ref() {
            DeValue::String(text) => Some((text, at)),
            other => {
                self.expected(at, key, other, "a string");
                None
            }
        }
    }

    /// The same where there must be one; `at` is where the table is.
    fn required(
        &mut self,
        table: &'t DeTable<'t>,
        at: usize,
        key: &str,
        owner: &str,
    ) -> Option<(&'t str, usize)> {
        if !table.contains_key(key) {
            self.wrong(at, format!("{owner} has no key \"{key}\""));
        }
        self.text_of(table, key)
    }

    /// The code in a string, as it stands in the file, and where it begins. Escapes have no meaning there, so that places in it
    /// are places in the file.
    fn code_of(&self, value: &Value) -> (&'t str, usize) {
        let written = &self.text[value.span()];
        let marks = ["\"\"\"", "'''", "\"", "'"];
        let mark = marks.into_iter().find(|mark| written.starts_with(mark));
        let length = mark.map_or(0, str::len);
        let code = &written[length..written.len() - length];
        (code, value.span().start + length)
    }

    fn keys(&mut self, document: &'t DeTable<'t>) -> Vec<Key> {
        let Some((table, at)) = self.section(document, "defaults", &[]) else {
            return Vec::new();
        };
        let entries = in_order(table);
        if entries.len() > MAX_KEYS {
            self.wrong(at, format!("more than {MAX_KEYS} keys"));
            return Vec::new();
        }
        for (name, at, value) in &entries {
            let meaning = match value.get_ref() {
                DeValue::Array(items) => Meaning::List(items.len()),
                _ => Meaning::Key,
            };
            self.checker.declare(name, *at, meaning);
        }
        let keys: Vec<Key> = (entries.iter())
            .filter_map(|(name, _, value)| {
                let default = self.default(name, value)?;
                let name = (*name).to_owned();
                Some(Key { name, default })
            })
            .collect();
        for (name, at, _) in entries {
            if let Some(way) = cycle(name, &keys) {
                let way = way.join(", which needs ");
                self.wrong(at, format!("\"{name}\" needs {way}"));
            }
        }
        keys
    }

    fn default(&mut self, name: &str, value: &'t Value<'t>) -> Option<Default> {
        let at = value.span().start;
        Some(match value.get_ref() {
            DeValue::Boolean(value) => Default::Flag(*value),
            DeValue::Array(items) => {
                if items.is_empty() {
                    self.wrong(at, format!("\"{name}\" is an empty list"));
                }
                let expected = "numbers in a list";
                let numbers = items.iter().map(|item| self.number(name, item, expected));
                Default::List(
                    numbers
                        .collect::<Vec<_>>()
                        .into_iter()
                        .collect::<Option<_>>()?,
                )
            }
            DeValue::String(_) => Default::Formula(self.formula(value)),
            _ => {
                let expected =
                    "a number, a flag, a list of numbers, or a formula of keys in a string";
                Default::Number(self.number(name, value, expected)?)
            }
        })
    }

    fn number(&mut self, name: &str, value: &Value, expected: &str) -> Option<f64> {
        let at = value.span().start;
        let number = match value.get_ref() {
            DeValue::Integer(value) => i64::from_str_radix(value.as_str(), value.radix())
                .ok()
                .map(|value| value as f64),
            DeValue::Float(value) => value.as_str().parse().ok(),
            other => {
                self.expected(at, name, other, expected);
                return None;
            }
        };
        let written_infinite = self.text[value.span()].ends_with("inf");
        let sound = number.filter(|n| !n.is_nan() && (n.is_finite() || written_infinite));
        if sound.is_none() {
            self.wrong(
                at,
                format!("\"{name}\" is NaN or too large (expected a number, or inf)"),
            );
        }
        sound
    }

    fn formula(&mut self, value: &Value<'t>) -> Expr {
        let (code, at) = self.code_of(value);
        let node: Node = self.code.formula(code, at, &mut self.checker.mistakes);
        self.checker.complete &= !matches!(node.what, What::Broken(_));
        self.checker.formula(&node)
    }

    fn state(&mut self, document: &'t DeTable<'t>) -> [Vec<State>; 3] {
        let kinds = [
            ("vectors", Kind::Vector, MAX_VECTORS),
            ("tensors", Kind::Tensor, MAX_NUMBERS),
            ("scalars", Kind::Scalar, MAX_NUMBERS),
        ];
        let Some((table, _)) = self.section(document, "state", &kinds.map(|(name, ..)| name))
        else {
            return [const { Vec::new() }; 3];
        };
        kinds.map(|(name, kind, limit)| match table.get(name) {
            Some(value) => self.state_of(name, kind, limit, value),
            None => Vec::new(),
        })
    }

    fn state_of(
        &mut self,
        key: &str,
        kind: Kind,
        limit: usize,
        value: &'t Value<'t>,
    ) -> Vec<State> {
        let at = value.span().start;
        let entries = match value.get_ref() {
            DeValue::Array(items) => items
                .iter()
                .filter_map(|item| {
                    let at = item.span().start;
                    match item.get_ref() {
                        DeValue::String(name) => Some((name.as_ref(), at, None)),
                        other => {
                            self.expected(at, key, other, "names in a list");
                            None
                        }
                    }
                })
                .collect(),
            DeValue::Table(table) => {
                let entries = in_order(table).into_iter();
                entries
                    .map(|(name, at, value)| (name, at, Some(value)))
                    .collect()
            }
            other => {
                let expected = "a list of names, or a table of names with what they hold at first";
                self.expected(at, key, other, expected);
                Vec::new()
            }
        };
        if entries.len() > limit {
            self.wrong(at, format!("more than {limit} {key}"));
            return Vec::new();
        }
        let mut state = Vec::new();
        for (name, at, initial) in entries {
            self.checker.declare(name, at, Meaning::State(kind));
            let initial = match initial {
                None => Expr::Number(0.0),
                Some(value) if matches!(value.get_ref(), DeValue::String(_)) => self.formula(value),
                Some(value) => {
                    let number =
                        self.number(name, value, "a number, or a formula of keys in a string");
                    Expr::Number(number.unwrap_or(0.0))
                }
            };
            let name = name.to_owned();
            state.push(State { name, initial });
        }
        state
    }

    /// The checked code of a section, if there is one.
    fn statements(
        &mut self,
        document: &'t DeTable<'t>,
        section: Section,
        name: &str,
    ) -> Option<Vec<super::syntax::Statement>> {
        let (table, at) = self.section(document, name, &["code"])?;
        self.required(table, at, "code", &format!("[{name}]"))?;
        let (code, at) = self.code_of(table.get("code")?);
        let before = self.checker.mistakes.count();
        let statements = self.code.statements(code, at, &mut self.checker.mistakes);
        self.checker.complete &= self.checker.mistakes.count() == before;
        Some(self.checker.statements(section, at, &statements))
    }

    fn reports(&mut self, document: &'t DeTable<'t>) -> Vec<String> {
        let Some((table, at)) = self.section(document, "report", &["names"]) else {
            return Vec::new();
        };
        let Some(value) = table.get("names") else {
            self.wrong(at, "[report] has no key \"names\"");
            return Vec::new();
        };
        let DeValue::Array(items) = value.get_ref() else {
            let at = value.span().start;
            self.expected(at, "names", value.get_ref(), "a list of names");
            return Vec::new();
        };
        let mut names: Vec<String> = Vec::new();
        for item in items.iter() {
            let at = item.span().start;
            match item.get_ref() {
                DeValue::String(name) if names.iter().any(|known| *known == **name) => {
                    self.wrong(at, format!("{name:?} twice"));
                }
                DeValue::String(name) => {
                    self.checker.report(name, at);
                    names.push(name.to_string());
                }
                other => self.expected(at, "names", other, "names in a list"),
            }
        }
        names
    }

    /// What [apply] leaves the other parameters to.
    fn rest(&mut self, document: &'t DeTable<'t>) -> Option<String> {
        let (table, at) = self.section(document, "apply", &["to", "rest"])?;
        let to = self.required(table, at, "to", "[apply]");
        if let Some((to, at)) = to.filter(|(to, _)| *to != "matrix") {
            self.wrong(
                at,
                format!("unknown parameters {to:?} (expected \"matrix\")"),
            );
        }
        let (rest, at) = self.required(table, at, "rest", "[apply]")?;
        let all = ROWS.iter().filter(|row| row.rest.is_none());
        let known: Vec<&str> = all.map(|row| row.entry.name).collect();
        if !known.contains(&rest) {
            let hint = suggestion(rest, &known);
            self.wrong(at, format!("no method {rest:?} for all parameters {hint}"));
        }
        Some(rest.to_owned())
    }
}

/// A table's entries in the file's order: name, where it stands, value.
fn in_order<'t>(table: &'t DeTable<'t>) -> Vec<(&'t str, usize, &'t Value<'t>)> {
    let entries = table.iter();
    let mut entries: Vec<_> = entries
        .map(|(name, value)| (name.get_ref().as_ref(), name.span().start, value))
        .collect();
    entries.sort_by_key(|(_, at, _)| *at);
    entries
}

/// The way from a key through the formulas of keys back to it.
fn cycle<'k>(name: &'k str, keys: &'k [Key]) -> Option<Vec<&'k str>> {
    let needs: BTreeMap<&str, Vec<&str>> = (keys.iter())
        .filter_map(|key| match &key.default {
            Default::Formula(formula) => Some((key.name.as_str(), names(formula))),
            _ => None,
        })
        .collect();
    // Which key each was first met behind.
    let mut from: BTreeMap<&str, &str> = BTreeMap::new();
    let mut open = vec![name];
    while let Some(key) = open.pop() {
        for needed in needs.get(key).into_iter().flatten() {
            if *needed == name {
                let back = std::iter::successors(Some(key), |key| from.get(key).copied());
                let mut way: Vec<&str> = back.take_while(|key| *key != name).collect();
                way.reverse();
                way.push(name);
                return Some(way);
            }
            if !from.contains_key(needed) {
                from.insert(needed, key);
                open.push(needed);
            }
        }
    }
    None
}

/// The keys that a formula reads.
fn names(formula: &Expr) -> Vec<&str> {
    match formula {
        Expr::Name(name) | Expr::Entry(name, _) => vec![name],
        Expr::Number(_) => Vec::new(),
        Expr::Apply(_, of) => of.iter().flat_map(names).collect(),
        Expr::Clip(of) | Expr::Orthogonalize(of) => of.iter().flat_map(names).collect(),
        Expr::Sum(_, _, of) | Expr::Gradient(of) => names(of),
    }
}
