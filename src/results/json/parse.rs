//! The reader: one pass over the text, strings borrowed where they hold no escapes.

use std::borrow::Cow;
use std::fmt;

use super::Json;

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
pub(in crate::results) fn parse_items<'a>(
    text: &'a str,
    mut each: impl FnMut(&'a str, Json<'a>) -> Result<(), String>,
) -> Result<(), SyntaxError> {
    Parser::new(text).list(|parser, start, item| {
        let own = &text[start..parser.at];
        each(own, item).inspect_err(|_| parser.at = start)
    })
}

/// How many items a JSON array has. They are read, but not kept, which takes a fraction of the time.
pub(in crate::results) fn count_items(text: &str) -> Result<usize, SyntaxError> {
    let parser = Parser {
        keeps: false,
        ..Parser::new(text)
    };
    let mut count = 0;
    parser.list(|_, _, _| {
        count += 1;
        Ok(())
    })?;
    Ok(count)
}

/// Nesting beyond any real file: stops a hostile one before the stack does.
const MAX_DEPTH: usize = 128;

struct Parser<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    /// Else all numbers are null, and lists and objects empty.
    keeps: bool,
}

type Parsed<T> = Result<T, String>;

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Parser<'a> {
        let bytes = text.as_bytes();
        Parser {
            text,
            bytes,
            at: 0,
            keeps: true,
        }
    }

    /// A list of runs with nothing after it: `each` gets where an item begins, and the item, of which the end is at hand.
    fn list(
        mut self,
        mut each: impl FnMut(&mut Self, usize, Json<'a>) -> Parsed<()>,
    ) -> Result<(), SyntaxError> {
        let mut read = || {
            self.space();
            if self.peek() != Some(b'[') {
                return Err("expected '[' and the list of runs".to_owned());
            }
            self.items(b']', |p| {
                let start = p.at;
                let item = p.value(1)?;
                each(p, start, item)
            })?;
            self.end()
        };
        read().map_err(|message| self.error(message))
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

    fn end(&mut self) -> Parsed<()> {
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

    fn value(&mut self, depth: usize) -> Parsed<Json<'a>> {
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
                    let value = p.value(depth + 1)?;
                    if p.keeps {
                        members.push((key, value));
                    }
                    Ok(())
                })?;
                Ok(Json::Dict(members))
            }
            Some(b'[') => {
                let mut items = Vec::new();
                self.items(b']', |p| {
                    let value = p.value(depth + 1)?;
                    if p.keeps {
                        items.push(value);
                    }
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
    fn items(&mut self, close: u8, mut item: impl FnMut(&mut Self) -> Parsed<()>) -> Parsed<()> {
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

    fn number(&mut self) -> Parsed<Json<'a>> {
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
            _ if !self.keeps => Ok(Json::Null),
            _ if float => Ok(Json::Float(token.parse().expect("checked digits"))),
            "-0" => Ok(Json::Int("0".into())),
            _ => Ok(Json::Int(token.into())),
        }
    }

    fn string(&mut self) -> Parsed<Cow<'a, str>> {
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
    fn escape(&mut self) -> Parsed<char> {
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
    fn unit(&mut self) -> Parsed<u16> {
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
