//! `shakespeare`: pieces of Shakespeare's plays, character by character, as the reference's author reads them.

use super::raw::{self, Files, RawFile, Remote};
use super::shard::{Classes, Contents, Features, Form, Targets, Writer};
use super::text;
use super::vocabulary::Vocabulary;
use super::{Origin, Row, Split};
use crate::config::Entry;
use crate::error::Result;
use std::path::PathBuf;

pub const ROW: Row = Row {
    entry: Entry {
        name: "shakespeare",
        about: "40000 lines of Shakespeare's plays, 1115394 characters, the first 80 % for training; a sample is a window of \
                model_kwargs.seq_len characters",
        paper: "Karpathy: The Unreasonable Effectiveness of Recurrent Neural Networks (2015)",
        keys: &[],
    },
    origin: Origin::Files(Files {
        raw: &[RawFile {
            names: &["shakespeare/input.txt", "shakespeare/raw.txt"],
            md5: &[MD5],
            remote: Some(Remote {
                file: "input.txt",
                name: "shakespeare/input.txt",
                md5: MD5,
            }),
        }],
        convert,
        open: |shard, part, request| {
            let length = text::window(request, request.name, part, shard.header().samples)?;
            Ok(Split::of_tokens(shard, length, vocabulary()))
        },
        form: Form {
            features: Features::Tokens,
            sample: Some(&[1]),
            classes: Some(Classes::AtMost(CODES)),
            places: None,
        },
        limit: LIMIT,
        archives: &[],
        mirrors: &[
            "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare",
        ],
        home: "https://github.com/karpathy/char-rnn (data/tinyshakespeare/input.txt)",
    }),
};

const MD5: &str = "6fb458f1232090904fb40fe944165e91";
const CODES: u32 = 96;
/// Bytes that nothing by Shakespeare has.
const LIMIT: u64 = 1 << 28;

/// ASCII's letters, digits, punctuation and space, and the newline, sorted.
fn vocabulary() -> Vocabulary {
    Vocabulary::Characters(std::iter::once('\n').chain(' '..='~').collect())
}

fn convert(paths: &[PathBuf], train_size: f64, train: &mut Writer, val: &mut Writer) -> Result<()> {
    let path = &paths[0];
    let text = text::read(path, LIMIT)?;
    let text = text::utf8(&text).map_err(|why| raw::damaged(path, why))?;
    let halves = text::halves(text, train_size).map(|half| vocabulary().encode(half));
    if halves.iter().any(|(codes, _)| codes.is_empty()) {
        let why = "it has no characters for both halves that are letters, digits, punctuation, spaces or newlines of ASCII";
        return Err(raw::damaged(path, why));
    }
    let largest = halves.iter().flat_map(|(codes, _)| codes).max();
    let codes = largest.map_or(0, |code| u32::from(*code) + 1);
    for ((tokens, skipped), out) in halves.iter().zip([train, val]) {
        out.features(tokens)?;
        out.finish(&Contents {
            features: Features::Tokens,
            sample: &[1],
            target: &[1],
            targets: Targets::Next {
                codes,
                skipped: *skipped,
            },
            rows: &[],
        })?;
    }
    Ok(())
}
