//! Texts: read, cut in two, and windows of their tokens.

use super::packed::{Limited, open_plain, read_error};
use super::{Part, Request};
use crate::error::{Error, Result};
use std::io::Read;
use std::path::Path;

/// The bytes of a file.
pub(super) fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let mut reader = Limited {
        inner: open_plain(path)?,
        left: limit,
    };
    let mut bytes = Vec::new();
    let read = reader.read_to_end(&mut bytes);
    read.map_err(|e| read_error(path, &e))?;
    Ok(bytes)
}

pub(super) fn utf8(bytes: &[u8]) -> std::result::Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|e| {
        let at = e.valid_up_to();
        format!("it is not UTF-8 from byte {at} on")
    })
}

/// The halves of a text: the first 80 % of its characters, and the rest.
pub(super) fn halves(text: &str) -> [&str; 2] {
    let first = first(text.chars().count());
    let place = text.char_indices().nth(first);
    let (train, val) = text.split_at(place.map_or(text.len(), |(at, _)| at));
    [train, val]
}

/// How many of so many are for training.
fn first(length: usize) -> usize {
    (0.8 * length as f64) as usize
}

/// Tokens of a window.
///
/// # Errors
/// If the run does not say it, or this half has too few for one window.
pub(super) fn window(request: &Request, part: Part, tokens: u64) -> Result<usize> {
    let name = request.name;
    let Some(length) = request.seq_len else {
        let text = format!("data set {name} needs model_kwargs.seq_len, the length of its windows");
        return Err(Error::usage(text));
    };
    if tokens <= length as u64 {
        let half = match part {
            Part::Train => "training",
            Part::Val => "validation",
        };
        return Err(Error::usage(format!(
            "seq_len: a window of {length} needs {} tokens, the {half} half of {name} has {tokens}",
            length.saturating_add(1)
        )));
    }
    Ok(length)
}
