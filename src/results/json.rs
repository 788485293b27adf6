//! JSON as Python's `json` module reads and writes it: bare `NaN` and `Infinity`, integers and floats kept
//! apart, floats in Python's spelling. serde_json cannot read those words and writes `null` for them.

mod parse;

use std::borrow::Cow;
use std::fmt::Write;

use serde_json::Value;

pub use parse::{SyntaxError, parse};
pub(super) use parse::{count_items, parse_items};

/// A JSON value that borrows from the text it was read from.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Json<'a> {
    #[default]
    Null,
    Bool(bool),
    /// The digits: Python's integers have no largest value.
    Int(Cow<'a, str>),
    Float(f64),
    Str(Cow<'a, str>),
    List(Vec<Json<'a>>),
    /// In the order of the file. Of two equal keys the last one counts, as in Python.
    Dict(Vec<(Cow<'a, str>, Json<'a>)>),
}

impl<'a> Json<'a> {
    /// The member of an object.
    pub fn get(&self, key: &str) -> Option<&Json<'a>> {
        match self {
            Json::Dict(members) => members.iter().rev().find(|m| m.0 == key).map(|m| &m.1),
            _ => None,
        }
    }

    /// A number, or NaN for null: that is what a strict file writes instead of it.
    pub fn number(&self) -> Option<f64> {
        match self {
            Json::Null => Some(f64::NAN),
            Json::Int(digits) => digits.parse().ok(),
            Json::Float(x) => Some(*x),
            _ => None,
        }
    }

    /// The number, spelled as it was.
    pub fn to_number(&self) -> Option<Json<'static>> {
        match self {
            Json::Int(digits) => Some(Json::Int(digits.to_string().into())),
            Json::Float(x) => Some(Json::Float(*x)),
            _ => None,
        }
    }

    /// As serde_json's type. Non-finite numbers become null, integers beyond 64 bits floats.
    pub fn to_value(&self) -> Value {
        match self {
            Json::Null => Value::Null,
            Json::Bool(b) => Value::Bool(*b),
            Json::Int(digits) => digits
                .parse::<i64>()
                .map(Value::from)
                .or_else(|_| digits.parse::<u64>().map(Value::from))
                .unwrap_or_else(|_| Value::from(self.number())),
            Json::Float(x) => Value::from(*x),
            Json::Str(s) => Value::from(s.as_ref()),
            Json::List(items) => items.iter().map(Json::to_value).collect(),
            Json::Dict(members) => members
                .iter()
                .map(|(k, v)| (k.to_string(), v.to_value()))
                .collect(),
        }
    }
}

impl<'a> From<&'a Value> for Json<'a> {
    fn from(value: &'a Value) -> Json<'a> {
        match value {
            Value::Null => Json::Null,
            Value::Bool(b) => Json::Bool(*b),
            Value::Number(n) if n.is_f64() => Json::Float(n.as_f64().expect("a float")),
            Value::Number(n) => Json::Int(n.to_string().into()),
            Value::String(s) => Json::Str(s.into()),
            Value::Array(items) => Json::List(items.iter().map(Json::from).collect()),
            Value::Object(map) => map.into(),
        }
    }
}

impl<'a> From<&'a serde_json::Map<String, Value>> for Json<'a> {
    fn from(map: &'a serde_json::Map<String, Value>) -> Json<'a> {
        Json::Dict(map.iter().map(|(k, v)| (k.into(), v.into())).collect())
    }
}

/// What `json.dumps(value, indent=4, sort_keys=True)` returns. `strict` writes null for non-finite numbers.
pub fn dumps(value: &Json, strict: bool) -> String {
    let mut out = String::new();
    write(&mut out, value, 0, strict);
    out
}

/// Appends `value` as it stands `depth` levels deep in an indented file.
pub(super) fn write(out: &mut String, value: &Json, depth: usize, strict: bool) {
    match value {
        Json::Null => out.push_str("null"),
        Json::Bool(true) => out.push_str("true"),
        Json::Bool(false) => out.push_str("false"),
        Json::Int(digits) => out.push_str(digits),
        Json::Float(x) => write_float(out, *x, strict),
        Json::Str(s) => write_string(out, s),
        Json::List(items) => {
            write_items(out, ['[', ']'], items, depth, |out, item| {
                write(out, item, depth + 1, strict);
            });
        }
        Json::Dict(members) => {
            let one = |out: &mut String, (key, item): &(Cow<str>, Json)| {
                write_string(out, key);
                out.push_str(": ");
                write(out, item, depth + 1, strict);
            };
            let whole = members.iter().all(|m| is_whole(&m.0));
            if !whole && members.is_sorted_by(|a, b| a.0 < b.0) {
                return write_items(out, ['{', '}'], members, depth, one);
            }
            let mut sorted: Vec<_> = members.iter().collect();
            // Whole numbers are integers in Python's dict, and sorted as such.
            match whole {
                true => sorted.sort_by(|a, b| (a.0.len(), &a.0).cmp(&(b.0.len(), &b.0))),
                false => sorted.sort_by(|a, b| a.0.cmp(&b.0)),
            }
            // Keeps the last of equal keys: the sort is stable, and dedup keeps the first.
            sorted.reverse();
            sorted.dedup_by(|a, b| a.0 == b.0);
            sorted.reverse();
            write_items(out, ['{', '}'], &sorted, depth, |out, member| {
                one(out, member)
            });
        }
    }
}

/// Whether a key is a whole number as it is printed.
fn is_whole(key: &str) -> bool {
    let digits = key.bytes().all(|b| b.is_ascii_digit());
    digits && (key == "0" || !key.is_empty() && !key.starts_with('0'))
}

fn write_items<T>(
    out: &mut String,
    brackets: [char; 2],
    items: &[T],
    depth: usize,
    mut one: impl FnMut(&mut String, &T),
) {
    let newline = |out: &mut String, depth: usize| {
        const DEEP: &str = "\n                                ";
        out.push_str(&DEEP[..DEEP.len().min(1 + 4 * depth)]);
        out.extend(std::iter::repeat_n("    ", depth.saturating_sub(8)));
    };
    out.push(brackets[0]);
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        newline(out, depth + 1);
        one(out, item);
    }
    if !items.is_empty() {
        newline(out, depth);
    }
    out.push(brackets[1]);
}

fn write_float(out: &mut String, x: f64, strict: bool) {
    match x {
        _ if x.is_finite() => write_repr(out, x),
        _ if strict => out.push_str("null"),
        _ if x.is_nan() => out.push_str("NaN"),
        _ if x > 0.0 => out.push_str("Infinity"),
        _ => out.push_str("-Infinity"),
    }
}

/// A float as Python's `repr` and `str` print it: `0.1`, `1e-05`, `1e+16`, `nan`, `-inf`.
pub fn repr(x: f64) -> String {
    if x.is_nan() {
        return "nan".into();
    }
    if x.is_infinite() {
        return if x > 0.0 { "inf" } else { "-inf" }.into();
    }
    let mut out = String::new();
    write_repr(&mut out, x);
    out
}

fn write_repr(out: &mut String, x: f64) {
    // The shortest decimal that reads back as `x`, the nearest of these, and of two that are equally near the even one, as in
    // Python.
    let mut buffer = zmij::Buffer::new();
    let text = buffer.format_finite(x);
    if x.abs() >= 1e-4 || x == 0.0 {
        return out.push_str(text);
    }
    let digits = text.trim_start_matches('-');
    if let Some(digits) = digits.strip_prefix("0.0000") {
        // Python has an exponent one digit earlier,
        let sign = if x < 0.0 { "-" } else { "" };
        let (first, rest) = digits.split_at(1);
        let point = if rest.is_empty() { "" } else { "." };
        out.extend([sign, first, point, rest, "e-05"]);
    } else if let Some((mantissa, exponent)) = text.split_once("e-")
        && exponent.len() == 1
    {
        // and two digits in an exponent.
        out.extend([mantissa, "e-0", exponent]);
    } else {
        out.push_str(text);
    }
}

fn write_string(out: &mut String, s: &str) {
    out.push('"');
    let plain = |b: u8| (b' '..=b'~').contains(&b) && b != b'"' && b != b'\\';
    // All bytes are looked at: nearly all strings are short and plain.
    if s.bytes().fold(true, |all, b| all & plain(b)) {
        out.push_str(s);
        out.push('"');
        return;
    }
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' => out.push(c),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(out, "\\u{unit:04x}").expect("writing to a string");
                }
            }
        }
    }
    out.push('"');
}
