//! From a path to a JSON value, with everything noted that an ordinary JSON reader passes over:
//! duplicate keys, numbers too small for a double, the place of a syntax error. A file may also be JSON with comments, or
//! TOML.

use std::fmt;
use std::fs;
use std::io::{ErrorKind, Read};
use std::path::Path;

use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::text::{child, item, nearest, position, printable, shown_text};
use crate::error::{Error, Result};
use crate::files;

/// Files that people write, of one kind.
pub struct Form {
    /// What such a file is, for messages.
    pub what: &'static str,
    pub extension: &'static str,
    /// Bytes.
    pub most: usize,
}

const MAX_WARNINGS: usize = 20;

pub(super) const CONFIG: Form = Form {
    what: "config",
    extension: "json",
    most: 16 << 20,
};

impl Form {
    /// The bytes of the file at `path`, which messages call `source`. Nothing but a regular file is read, and nothing is
    /// waited for.
    ///
    /// # Errors
    /// All are usage errors.
    pub fn read(&self, path: &Path, source: &str) -> Result<Vec<u8>> {
        let unreadable =
            |cause: std::io::Error| Error::usage(format!("{source}: cannot read: {cause}"));
        let mut file = files::open(path).map_err(|cause| {
            let similar = match cause.kind() {
                ErrorKind::NotFound => self.similar(path),
                _ => None,
            };
            let hint = similar.map_or(String::new(), |name| format!(" (did you mean {name}?)"));
            Error::usage(format!("{source}: cannot read: {cause}{hint}"))
        })?;
        let mut bytes = Vec::new();
        Read::by_ref(&mut file)
            .take(self.most as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(unreadable)?;
        self.check_size(&bytes, source)?;
        Ok(bytes)
    }

    /// # Errors
    /// If no such file has this many bytes.
    pub fn check_size(&self, bytes: &[u8], source: &str) -> Result<()> {
        let most = match self.most {
            most if most < 1 << 20 => format!("{} KB", most >> 10),
            most => format!("{} MB", most >> 20),
        };
        match bytes.len() > self.most {
            false => Ok(()),
            true => {
                let what = self.what;
                let text = format!("{source}: larger than {most} (no {what} is)");
                Err(Error::usage(text))
            }
        }
    }

    /// A file in the same folder with nearly the same name, or with the extension forgotten.
    fn similar(&self, path: &Path) -> Option<String> {
        let folder = path.parent().filter(|parent| *parent != Path::new(""));
        let entries = fs::read_dir(folder.unwrap_or(Path::new("."))).ok()?;
        let names = entries.flatten().map(|entry| entry.file_name());
        let names: Vec<String> = names.filter_map(|name| name.into_string().ok()).collect();
        let stems = names.iter().filter_map(|name| {
            let stem = name.strip_suffix(self.extension)?;
            stem.strip_suffix('.')
        });
        let near = nearest(path.file_stem()?.to_str()?, stems)?;
        let near = path.with_file_name(format!("{near}.{}", self.extension));
        Some(printable(&near.to_string_lossy()))
    }
}

/// A JSON text with what its value alone does not tell.
pub(super) struct Document {
    pub value: Value,
    /// The paths of keys that stand more than once in their object.
    pub duplicates: Vec<String>,
    pub warnings: Vec<String>,
}

/// The config at `path`: TOML in a `.toml`, JSON in anything else, with comments and commas at the end of lists in a
/// `.jsonc`.
pub(super) fn document(path: &Path, source: &str) -> Result<Document> {
    let bytes = CONFIG.read(path, source)?;
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("toml") => toml(source, utf8(source, &bytes)?),
        Some("jsonc") => {
            let mut text = utf8(source, &bytes)?.to_owned();
            // Blanks take their place: what stands behind them keeps its line and column.
            json_strip_comments::strip(&mut text)
                .map_err(|cause| Error::usage(format!("{source}: {cause}")))?;
            json(source, text.as_bytes())
        }
        _ => json(source, &bytes),
    }
}

fn toml(source: &str, text: &str) -> Result<Document> {
    let value = toml::from_str(text).map_err(|cause: toml::de::Error| {
        let at = cause.span().map_or(0, |span| span.start);
        let (line, column) = position(&text.as_bytes()[..at]);
        let what = printable(cause.message());
        Error::usage(format!("{source}:{line}:{column}: not TOML: {what}"))
    })?;
    Ok(Document {
        value,
        duplicates: Vec::new(),
        warnings: Vec::new(),
    })
}

fn utf8<'b>(source: &str, bytes: &'b [u8]) -> Result<&'b str> {
    const MARKS: [&[u8]; 3] = [b"\xEF\xBB\xBF", b"\xFF\xFE", b"\xFE\xFF"];
    if MARKS.iter().any(|mark| bytes.starts_with(mark)) {
        return Err(Error::usage(format!(
            "{source}:1:1: starts with a byte order mark, BOM (save it as UTF-8 without BOM)"
        )));
    }
    std::str::from_utf8(bytes).map_err(|cause| {
        let (line, column) = position(&bytes[..cause.valid_up_to()]);
        Error::usage(format!(
            "{source}:{line}:{column}: not UTF-8 (save the file as UTF-8)"
        ))
    })
}

pub(super) fn json(source: &str, bytes: &[u8]) -> Result<Document> {
    let text = utf8(source, bytes)?;
    let mut notes = Notes::default();
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = Node(&mut notes)
        .deserialize(&mut reader)
        .and_then(|value| reader.end().map(|()| value))
        .map_err(|cause| Error::usage(syntax(source, text, &notes.path, &cause)))?;
    Ok(Document {
        value,
        duplicates: notes.duplicates,
        warnings: vanishing(source, text),
    })
}

/// One line for a text that is no JSON, in words for those who know Python better.
fn syntax(source: &str, text: &str, path: &[PathPart], cause: &serde_json::Error) -> String {
    let (line, column) = (cause.line().max(1), cause.column().max(1));
    let place = format!("{source}:{line}:{column}");
    if text.trim_ascii().is_empty() {
        return format!("{place}: the file is empty (expected a JSON object or array)");
    }
    let full = cause.to_string();
    let suffix = format!(" at line {} column {}", cause.line(), cause.column());
    let what = full.strip_suffix(&suffix).unwrap_or(&full);
    let word = word_at(text, line, column);
    let bare = word.trim_start_matches(['-', '+']).to_ascii_lowercase();
    let at = joined(path);
    match (what, bare.as_str()) {
        ("number out of range", _) => {
            format!("{place}: {at}: number out of range (expected at most 1.8e308 in size)")
        }
        ("recursion limit exceeded", _) => {
            format!("{place}: {at}: nested too deep (expected at most 127 levels)")
        }
        ("expected value" | "expected ident" | "invalid number", "nan" | "inf" | "infinity") => {
            format!("{place}: {at}: JSON has no {word} (expected a finite number)")
        }
        ("expected value" | "expected ident" | "invalid number", json @ ("true" | "false")) => {
            format!("{place}: {at}: JSON has no {word} (did you mean {json}?)")
        }
        ("trailing characters", _) => {
            format!("{place}: text after the end of the JSON value (expected nothing)")
        }
        _ => format!("{place}: invalid JSON: {what}"),
    }
}

/// The word, with its sign, around a place in the text; empty if there is none.
fn word_at(text: &str, line: usize, column: usize) -> &str {
    let line = text.split('\n').nth(line - 1).unwrap_or("");
    let at = column - 1;
    let part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '+';
    let (Some(before), Some(after)) = (line.get(..at), line.get(at..)) else {
        return "";
    };
    let start = before.trim_end_matches(part).len();
    let end = at + after.len() - after.trim_start_matches(part).len();
    &line[start..end]
}

/// Warnings for numbers such as 1e-400 that are not 0 but become 0 as a double.
fn vanishing(source: &str, text: &str) -> Vec<String> {
    let bytes = text.as_bytes();
    let mut warnings = Vec::new();
    let mut at = 0;
    while at < bytes.len() && warnings.len() < MAX_WARNINGS {
        match bytes[at] {
            b'"' => {
                at += 1;
                while bytes[at] != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            b'-' | b'0'..=b'9' => {
                let rest = &text[at..];
                let number = |c: char| c.is_ascii_digit() || "+-.eE".contains(c);
                let token = &rest[..rest.len() - rest.trim_start_matches(number).len()];
                let digits = token.split(['e', 'E']).next().unwrap_or(token);
                let zero = !digits.contains(|c: char| ('1'..='9').contains(&c));
                if !zero && token.parse() == Ok(0.0) {
                    let (line, column) = position(&bytes[..at]);
                    let token = shown_text(token);
                    warnings.push(format!("{source}:{line}:{column}: {token} is read as 0"));
                }
                at += token.len();
            }
            _ => at += 1,
        }
    }
    warnings
}

/// One step down into a JSON value.
enum PathPart {
    Key(String),
    Item(usize),
}

/// Where the reader is, and the keys it met twice.
#[derive(Default)]
struct Notes {
    path: Vec<PathPart>,
    duplicates: Vec<String>,
}

/// The path as text; the middle of a very long one is left out.
fn joined(path: &[PathPart]) -> String {
    let mut text = String::new();
    for (depth, step) in path.iter().enumerate() {
        match step {
            _ if path.len() > 8 && (4..path.len() - 2).contains(&depth) => {
                if depth == 4 {
                    text.push('…');
                }
            }
            PathPart::Key(key) => text = child(&text, key),
            PathPart::Item(index) => text = item(&text, *index),
        }
    }
    if text.is_empty() {
        text.push_str("top level");
    }
    text
}

/// Reads one value. On an error `path` is left pointing at the value that could not be read.
struct Node<'a>(&'a mut Notes);

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: de::Deserializer<'de>>(
        self,
        from: D,
    ) -> std::result::Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> std::result::Result<Value, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("number out of range"))?;
        Ok(Value::Number(number))
    }

    fn visit_str<E>(self, value: &str) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            self.0.path.push(PathPart::Item(items.len()));
            let Some(item) = seq.next_element_seed(Node(self.0))? else {
                break;
            };
            items.push(item);
            self.0.path.pop();
        }
        self.0.path.pop();
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Value, A::Error> {
        let mut entries = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            self.0.path.push(PathPart::Key(key.clone()));
            let value = map.next_value_seed(Node(self.0))?;
            if entries.insert(key, value).is_some() {
                self.0.duplicates.push(joined(&self.0.path));
            }
            self.0.path.pop();
        }
        Ok(Value::Object(entries))
    }
}
