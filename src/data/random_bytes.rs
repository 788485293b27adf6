//! Random bytes in place of a data set's files, for measurements.

use super::shard::{Contents, Features, Shard, Targets, Writer};
use super::{Origin, Pair, Part, Request, Split, row};
use crate::config::Values;
use crate::error::{Error, Kind, Result};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;

/// A data set of random bytes and classes, in shards that are opened, and augmented, as the real ones are: so many
/// samples for training and for validation, each of the shape `sample` in the order (row, column, channel).
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
    let row = row(request.name)?;
    let Origin::Files(files) = &row.origin else {
        panic!("{} is computed", request.name);
    };
    let folder = tempfile::tempdir().map_err(|e| {
        let text = format!("cannot create a temporary folder: {e}; TMPDIR names another place");
        Error::new(Kind::CannotCreate, text)
    })?;
    let values = Values::new(row.entry.keys, request.kwargs);
    let mut draws = Xoshiro256PlusPlus::seed_from_u64(1);
    let mut half = |part: Part, n: usize| -> Result<Arc<Split>> {
        let path = folder.path().join(part.name());
        let mut writer = Writer::create(&path)?;
        let mut bytes = vec![0u8; n * sample.iter().product::<usize>()];
        draws.fill(&mut bytes);
        writer.features(&bytes)?;
        let labels: Vec<u32> = (0..n).map(|_| draws.random_range(0..classes)).collect();
        writer.finish(&Contents {
            features: Features::Bytes,
            sample,
            target: &[1],
            targets: Targets::Classes {
                labels: &labels,
                classes,
            },
            rows: &[],
        })?;
        writer.commit(Vec::new())?;
        // The map outlives the file's name.
        Ok(Arc::new((files.open)(Shard::open(&path)?, part, &values)))
    };
    Ok(Pair {
        train: half(Part::Train, samples[0])?,
        val: half(Part::Val, samples[1])?,
    })
}
