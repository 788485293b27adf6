//! Texts: read, cut in two, and windows of their tokens; and `text`, whatever file a run names, held in memory.

use super::packed::{Limited, open_plain, read_error};
use super::raw::TRAIN_SIZE;
use super::vocabulary::Vocabulary;
use super::{Origin, Part, Request, Row, Split};
use crate::config::{Entry, Key, Kind, Values};
use crate::error::{Error, Result};
use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;

pub const ROW: Row = Row {
    entry: Entry {
        name: "text",
        about: "any text, the first 80 % for training; a sample is a window of model_kwargs.seq_len tokens",
        paper: "",
        keys: KEYS,
    },
    origin: Origin::Named(open),
};

const KEYS: &[Key] = &[
    Key {
        name: "file",
        kind: Kind::Checked("the path of a file", |value| {
            value.as_str().is_some_and(|path| !path.is_empty())
        }),
        default: None,
        about: "the text, in the data folder unless its path is absolute",
    },
    Key {
        name: "tokenizer",
        kind: Kind::Choice(&["characters", "bytes"]),
        default: Some("\"characters\""),
        about: "what its tokens are: characters of UTF-8, at most 256 different ones, or bytes",
    },
];

/// Bytes that no text has.
const LIMIT: u64 = 1 << 32;

fn open(dir: &Path, request: &Request) -> Result<[Split; 2]> {
    let values = Values::new(KEYS, request.kwargs);
    let file = values.text("file");
    let path = dir.join(&file);
    let bytes = read(&path, LIMIT)?;
    let path = path.display();
    if bytes.is_empty() {
        return Err(Error::corrupt(format!("{path} is empty")));
    }
    let (vocabulary, halves) = match values.text("tokenizer").as_str() {
        "bytes" => {
            let mut train = bytes;
            let val = train.split_off((TRAIN_SIZE * train.len() as f64) as usize);
            (Vocabulary::Bytes, [train, val])
        }
        _ => {
            let advice = "\"tokenizer\": \"bytes\" takes any file";
            let text = utf8(&bytes)
                .map_err(|why| Error::corrupt(format!("{path} is no text: {why}; {advice}")))?;
            let characters: BTreeSet<char> = text.chars().collect();
            if characters.len() > 256 {
                let n = characters.len();
                return Err(Error::usage(format!(
                    "{path} has {n} different characters, more than 256; {advice}"
                )));
            }
            let vocabulary = Vocabulary::Characters(characters.into_iter().collect());
            let halves = halves(text, TRAIN_SIZE).map(|half| vocabulary.encode(half).0);
            (vocabulary, halves)
        }
    };
    let codes = halves.iter().flatten().max();
    let classes = codes.map_or(0, |code| usize::from(*code) + 1);
    let [train, val] = halves;
    let half = |tokens: Vec<u8>, part| {
        let length = window(request, &file, part, tokens.len() as u64)?;
        Ok(Split::of_text(tokens, classes, length, vocabulary.clone()))
    };
    Ok([half(train, Part::Train)?, half(val, Part::Val)?])
}

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

/// The halves of a text: the first characters, of which this is the share, and the rest.
pub(super) fn halves(text: &str, train_size: f64) -> [&str; 2] {
    let first = (train_size * text.chars().count() as f64) as usize;
    let place = text.char_indices().nth(first);
    let (train, val) = text.split_at(place.map_or(text.len(), |(at, _)| at));
    [train, val]
}

/// Tokens of a window.
///
/// # Errors
/// If the run does not say it, or this half of the text called `name` has too few for one window.
pub(super) fn window(request: &Request, name: &str, part: Part, tokens: u64) -> Result<usize> {
    let Some(length) = request.seq_len else {
        let name = request.name;
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
