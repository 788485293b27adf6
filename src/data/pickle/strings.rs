//! Integers and strings as a pickle's lines spell them.

use super::{Outcome, text};

/// An integer in decimal digits.
pub fn decimal(digits: &[u8]) -> Outcome<i64> {
    let value = std::str::from_utf8(digits)
        .ok()
        .and_then(|d| d.parse().ok());
    value.ok_or_else(|| format!("{:?} where an integer is expected", text(digits)))
}

/// The content of a Python 2 string literal.
pub fn quoted(line: &[u8]) -> Outcome<Vec<u8>> {
    let inner = match line {
        [b'\'', inner @ .., b'\''] | [b'"', inner @ .., b'"'] => inner,
        _ => return Err("a string without quotes".into()),
    };
    let mut out = Vec::with_capacity(inner.len());
    let mut rest = inner.iter();
    while let Some(byte) = rest.next() {
        if *byte != b'\\' {
            out.push(*byte);
            continue;
        }
        out.push(match rest.next() {
            Some(same @ (b'\\' | b'\'' | b'"')) => *same,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'x') => hexadecimal(&mut rest, 2)? as u8,
            _ => return Err("an escape that is not understood".into()),
        });
    }
    Ok(out)
}

fn hexadecimal(rest: &mut std::slice::Iter<u8>, digits: usize) -> Outcome<u32> {
    let (now, later) = rest.as_slice().split_at_checked(digits).unwrap_or_default();
    *rest = later.iter();
    let all_digits = !now.is_empty() && now.iter().all(u8::is_ascii_hexdigit);
    let number = std::str::from_utf8(now).ok().filter(|_| all_digits);
    let number = number.and_then(|n| u32::from_str_radix(n, 16).ok());
    number.ok_or_else(|| "an escape that is not understood".into())
}

/// Text of protocol 0: Latin-1 with `\uXXXX` and `\UXXXXXXXX`.
pub fn raw_unicode(line: &[u8]) -> Outcome<String> {
    let mut out = String::with_capacity(line.len());
    let mut rest = line.iter();
    while let Some(byte) = rest.next() {
        let digits = match (byte, rest.as_slice().first()) {
            (b'\\', Some(b'u')) => 4,
            (b'\\', Some(b'U')) => 8,
            _ => {
                out.push(char::from(*byte));
                continue;
            }
        };
        rest.next();
        let code = hexadecimal(&mut rest, digits)?;
        out.push(char::from_u32(code).ok_or("an escape that is no character")?);
    }
    Ok(out)
}

/// The bytes that a text of the first 256 characters stands for.
pub fn latin1(utf8: &[u8]) -> Outcome<Vec<u8>> {
    let text = std::str::from_utf8(utf8).map_err(|_| "text that is not UTF-8")?;
    let byte = |c: char| u8::try_from(c).map_err(|_| "text that is not Latin-1".to_owned());
    text.chars().map(byte).collect()
}
