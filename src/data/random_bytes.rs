//! What stands in place of a data set's files: random bytes or tokens for measurements, zeros for what models must know.

use super::raw::Files;
use super::shard::{Classes, Contents, Features, Form, Shard, Targets, Writer};
use super::{Origin, Pair, Part, Request, Split, row};
use crate::error::{Error, Kind, Result};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;

/// A data set of random bytes and classes, in shards that are opened, and augmented, as the real ones are: so many
/// samples for training and for validation, each of the shape `sample` in the order (row, column, channel). Or a text of
/// random tokens with this many codes, and as many of them as that many windows need.
///
/// # Errors
/// If the temporary files cannot be written.
///
/// # Panics
/// If the data set is not made from files.
pub fn random_bytes<'a>(
    request: impl Into<Request<'a>>,
    sample: &[usize],
    classes: u32,
    samples: [usize; 2],
) -> Result<Pair> {
    let request = request.into();
    let mut draws = Xoshiro256PlusPlus::seed_from_u64(1);
    written(request, |form, part, writer| {
        let n = samples[part as usize];
        let labels: Vec<u32>;
        let (features, targets) = match form.features {
            Features::Tokens => {
                let tokens = n * request.seq_len.unwrap_or(0) + 1;
                let codes = (0..tokens).map(|_| draws.random_range(0..classes) as u8);
                writer.features(&codes.collect::<Vec<_>>())?;
                let (codes, skipped) = (classes, 0);
                (Features::Tokens, Targets::Next { codes, skipped })
            }
            _ => {
                let mut bytes = vec![0u8; n * sample.iter().product::<usize>()];
                draws.fill(&mut bytes);
                writer.features(&bytes)?;
                labels = (0..n).map(|_| draws.random_range(0..classes)).collect();
                let labels = &labels;
                (Features::Bytes, Targets::Classes { labels, classes })
            }
        };
        writer.finish(&Contents {
            features,
            sample,
            target: &[1],
            targets,
            rows: &[],
        })
    })
}

/// A data set of one sample of zeros a half, which tells without the files what models must know of it. None where the
/// files alone say how many features there are, and where samples are computed.
pub fn blank<'a>(request: impl Into<Request<'a>>) -> Result<Option<Pair>> {
    let request = request.into();
    let Origin::Files(Files { form, .. }) = &row(request.name)?.origin else {
        return Ok(None);
    };
    let Some(sample) = form.sample else {
        return Ok(None);
    };
    let sample: Vec<usize> = sample.iter().map(|side| *side as usize).collect();
    let numbers: usize = sample.iter().product();
    let size = match form.features {
        Features::Bytes => numbers,
        Features::Tokens => request.seq_len.unwrap_or(0) + 1,
        Features::Floats | Features::Sparse => 4 * numbers,
    };
    let classes = form.classes.map(|classes| match classes {
        Classes::Exactly(classes) => classes,
        Classes::AtMost(_) => 1,
    });
    let targets = match (form.features, classes) {
        (Features::Tokens, codes) => Targets::Next {
            codes: codes.unwrap_or(1),
            skipped: 0,
        },
        (_, Some(classes)) => Targets::Classes {
            labels: &[0],
            classes,
        },
        (_, None) => Targets::Floats(&[0.0]),
    };
    let pair = written(request, |_, _, writer| {
        writer.features(&vec![0; size])?;
        writer.finish(&Contents {
            features: form.features,
            sample: &sample,
            target: &[1],
            targets,
            rows: &[],
        })
    });
    pair.map(Some)
}

/// A data set whose shards are written by a function.
fn written(
    request: Request,
    mut write: impl FnMut(&Form, Part, &mut Writer) -> Result<()>,
) -> Result<Pair> {
    let Origin::Files(files) = &row(request.name)?.origin else {
        panic!("{} has no files of its own", request.name);
    };
    let folder = tempfile::tempdir().map_err(|e| {
        let text = format!("cannot create a temporary folder: {e}; TMPDIR names another place");
        Error::new(Kind::CannotCreate, text)
    })?;
    let mut half = |part: Part| -> Result<Arc<Split>> {
        let path = folder.path().join(part.name());
        let mut writer = Writer::create(&path)?;
        write(&files.form, part, &mut writer)?;
        writer.commit(Vec::new())?;
        // The map outlives the file's name.
        Ok(Arc::new((files.open)(Shard::open(&path)?, part, &request)?))
    };
    Ok(Pair {
        train: half(Part::Train)?,
        val: half(Part::Val)?,
    })
}
