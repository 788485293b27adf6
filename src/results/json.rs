//! JSON as Python's `json` module reads and writes it: bare `NaN` and `Infinity`, integers and floats kept
//! apart, floats in Python's spelling. serde_json cannot read those words and writes `null` for them.

use std::borrow::Cow;
use std::fmt::{self, Write};

use serde_json::Value;

/// A JSON value that borrows from the text it was read from.
#[derive(Clone, Debug, PartialEq)]
pub enum Json<'a> {
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
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_by(|a, b| a.0.cmp(&b.0));
            // Keeps the last of equal keys: the sort is stable, and dedup keeps the first.
            sorted.reverse();
            sorted.dedup_by(|a, b| a.0 == b.0);
            sorted.reverse();
            write_items(out, ['{', '}'], &sorted, depth, |out, (key, item)| {
                write_string(out, key);
                out.push_str(": ");
                write(out, item, depth + 1, strict);
            });
        }
    }
}

fn write_items<T>(
    out: &mut String,
    brackets: [char; 2],
    items: &[T],
    depth: usize,
    mut one: impl FnMut(&mut String, &T),
) {
    let newline = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("    ", depth));
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
    let text = shortest(x);
    let (mantissa, exponent) = text.split_once('e').expect("an exponent");
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", mantissa),
    };
    out.push_str(sign);
    let exponent: i32 = exponent.parse().expect("an exponent");
    let digits = mantissa.replace('.', "");
    match exponent {
        -4..0 => {
            out.push_str("0.");
            out.extend(std::iter::repeat_n('0', (-exponent - 1) as usize));
            out.push_str(&digits);
        }
        0..16 => {
            let whole = exponent as usize + 1;
            let fraction = digits.get(whole..).filter(|f| !f.is_empty());
            out.push_str(&digits[..whole.min(digits.len())]);
            out.extend(std::iter::repeat_n('0', whole.saturating_sub(digits.len())));
            out.push('.');
            out.push_str(fraction.unwrap_or("0"));
        }
        _ => {
            let sign = if exponent < 0 { '-' } else { '+' };
            write!(out, "{mantissa}e{sign}{:02}", exponent.abs()).expect("writing to a string");
        }
    }
}

/// The shortest decimal that reads back as `x`, with an exponent.
///
/// Rust rounds up where two such decimals are equally near (1.00028228759765625), Python to the even one,
/// as does Rust where the number of digits is given. Such ties need 15 digits or more.
fn shortest(x: f64) -> String {
    let text = format!("{x:e}");
    let digits = text.bytes().take_while(|&b| b != b'e');
    let digits = digits.filter(u8::is_ascii_digit).count();
    if digits >= 15 {
        let even = format!("{x:.*e}", digits - 1);
        if even.parse() == Ok(x) {
            return even;
        }
    }
    text
}

fn write_string(out: &mut String, s: &str) {
    out.push('"');
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

/// Where a text stops being JSON, and why. Lines and columns count from 1, columns in characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    pub line: usize,
    pub column: usize,
    pub message: String,
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SyntaxError { line, column, .. } = self;
        write!(f, "line {line} column {column}: {}", self.message)
    }
}

/// Reads one JSON value, with nothing after it.
pub fn parse(text: &str) -> Result<Json<'_>, SyntaxError> {
    let mut parser = Parser::new(text);
    let value = parser.value(0).and_then(|v| parser.end().map(|()| v));
    value.map_err(|message| parser.error(message))
}

/// Reads a JSON array and hands each item over with its text; the items are not kept.
pub(super) fn parse_items<'a>(
    text: &'a str,
    mut each: impl FnMut(&'a str, Json<'a>) -> Result<(), String>,
) -> Result<(), SyntaxError> {
    let mut parser = Parser::new(text);
    let mut read = || {
        parser.space();
        if parser.peek() != Some(b'[') {
            return Err("expected '[' and the list of runs".to_owned());
        }
        parser.items(b']', |p| {
            let start = p.at;
            let item = p.value(1)?;
            each(&text[start..p.at], item).inspect_err(|_| p.at = start)
        })?;
        parser.end()
    };
    read().map_err(|message| parser.error(message))
}

/// Nesting beyond any real file: stops a hostile one before the stack does.
const MAX_DEPTH: usize = 128;

struct Parser<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
}

type Step<T> = Result<T, String>;

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Parser<'a> {
        let bytes = text.as_bytes();
        Parser { text, bytes, at: 0 }
    }

    fn error(&self, message: String) -> SyntaxError {
        let before = &self.bytes[..self.at.min(self.bytes.len())];
        let line_start = before
            .iter()
            .rposition(|&b| b == b'\n')
            .map_or(0, |i| i + 1);
        // Continuation bytes of UTF-8 are not characters of their own.
        let characters = |b: &&u8| **b & 0xC0 != 0x80;
        SyntaxError {
            line: before.iter().filter(|&&b| b == b'\n').count() + 1,
            column: before[line_start..].iter().filter(characters).count() + 1,
            message,
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    fn end(&mut self) -> Step<()> {
        self.space();
        match self.peek() {
            None => Ok(()),
            Some(_) => Err("text after the end of the value".into()),
        }
    }

    fn word(&mut self, word: &str) -> bool {
        let found = self.bytes[self.at..].starts_with(word.as_bytes());
        if found {
            self.at += word.len();
        }
        found
    }

    fn value(&mut self, depth: usize) -> Step<Json<'a>> {
        if depth > MAX_DEPTH {
            return Err(format!("nested more than {MAX_DEPTH} deep"));
        }
        self.space();
        match self.peek() {
            Some(b'"') => Ok(Json::Str(self.string()?)),
            Some(b'{') => {
                let mut members = Vec::new();
                self.items(b'}', |p| {
                    if p.peek() != Some(b'"') {
                        return Err("expected a key in double quotes".into());
                    }
                    let key = p.string()?;
                    p.space();
                    if !p.word(":") {
                        return Err("expected ':' after the key".into());
                    }
                    members.push((key, p.value(depth + 1)?));
                    Ok(())
                })?;
                Ok(Json::Dict(members))
            }
            Some(b'[') => {
                let mut items = Vec::new();
                self.items(b']', |p| {
                    items.push(p.value(depth + 1)?);
                    Ok(())
                })?;
                Ok(Json::List(items))
            }
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ if self.word("NaN") => Ok(Json::Float(f64::NAN)),
            _ if self.word("Infinity") => Ok(Json::Float(f64::INFINITY)),
            _ if self.word("null") => Ok(Json::Null),
            _ if self.word("true") => Ok(Json::Bool(true)),
            _ if self.word("false") => Ok(Json::Bool(false)),
            None => Err("the text ends where a value should stand".into()),
            _ if self.word("\u{feff}") => Err("a byte order mark (BOM): save without it".into()),
            Some(_) => Err("expected a value".into()),
        }
    }

    /// The items between the bracket at hand and `close`.
    fn items(&mut self, close: u8, mut item: impl FnMut(&mut Self) -> Step<()>) -> Step<()> {
        self.at += 1;
        self.space();
        if self.peek() == Some(close) {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.space();
            item(self)?;
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b) if b == close => {
                    self.at += 1;
                    return Ok(());
                }
                None => return Err(format!("the text ends before '{}'", close as char)),
                Some(_) => return Err(format!("expected ',' or '{}'", close as char)),
            }
        }
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        self.at - start
    }

    fn number(&mut self) -> Step<Json<'a>> {
        let start = self.at;
        let negative = self.word("-");
        if negative && self.word("Infinity") {
            return Ok(Json::Float(f64::NEG_INFINITY));
        }
        let first = self.peek();
        let whole = self.digits();
        if whole == 0 || (first == Some(b'0') && whole > 1) {
            self.at = start;
            return Err("not a number".into());
        }
        let mut float = false;
        if self.word(".") {
            float = true;
            if self.digits() == 0 {
                return Err("expected digits after the point".into());
            }
        }
        if self.word("e") || self.word("E") {
            float = true;
            let _sign = self.word("+") || self.word("-");
            if self.digits() == 0 {
                return Err("expected digits in the exponent".into());
            }
        }
        let token = &self.text[start..self.at];
        match token {
            _ if float => Ok(Json::Float(token.parse().expect("checked digits"))),
            "-0" => Ok(Json::Int("0".into())),
            _ => Ok(Json::Int(token.into())),
        }
    }

    fn string(&mut self) -> Step<Cow<'a, str>> {
        self.at += 1;
        let mut start = self.at;
        let mut escaped: Option<String> = None;
        loop {
            match self.peek() {
                Some(b'"') => {
                    let rest = &self.text[start..self.at];
                    self.at += 1;
                    return Ok(match escaped {
                        Some(s) => Cow::Owned(s + rest),
                        None => Cow::Borrowed(rest),
                    });
                }
                Some(b'\\') => {
                    let s = escaped.get_or_insert_default();
                    s.push_str(&self.text[start..self.at]);
                    s.push(self.escape()?);
                    start = self.at;
                }
                Some(0..0x20) => return Err("a control character inside a string".into()),
                Some(_) => self.at += 1,
                None => return Err("the text ends inside a string".into()),
            }
        }
    }

    /// One escape sequence, backslash first.
    fn escape(&mut self) -> Step<char> {
        let letter = self.bytes.get(self.at + 1).copied();
        let plain = match letter {
            Some(c @ (b'"' | b'\\' | b'/')) => c as char,
            Some(b'n') => '\n',
            Some(b't') => '\t',
            Some(b'r') => '\r',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'u') => {
                let high = self.unit()?;
                let is_high = (0xD800..0xDC00).contains(&high);
                let low = if is_high && self.bytes[self.at..].starts_with(b"\\u") {
                    Some(self.unit()?)
                } else {
                    None
                };
                let units = std::iter::once(high).chain(low);
                let mut decoded = char::decode_utf16(units);
                return match (decoded.next(), decoded.next()) {
                    (Some(Ok(c)), None) => Ok(c),
                    _ => Err("half of a surrogate pair".into()),
                };
            }
            _ => return Err("an unknown escape".into()),
        };
        self.at += 2;
        Ok(plain)
    }

    /// The four hexadecimal digits of `\uXXXX`.
    fn unit(&mut self) -> Step<u16> {
        let digits = self.bytes.get(self.at + 2..self.at + 6).unwrap_or_default();
        let hex = |n: u16, &b: &u8| Some((n << 4) | (b as char).to_digit(16)? as u16);
        match digits.iter().try_fold(0, hex) {
            Some(unit) if digits.len() == 4 => {
                self.at += 6;
                Ok(unit)
            }
            _ => Err("expected four hexadecimal digits after \\u".into()),
        }
    }
}
