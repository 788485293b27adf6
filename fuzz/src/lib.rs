//! What several targets share: files of given bytes, and the readers of data sets.

use std::fs;
use std::path::{Path, PathBuf};
use stepback_native::data::raw::{Files, TRAIN_SIZE};
use stepback_native::data::shard::{Form, Shard, Writer};
use stepback_native::data::{Origin, row};
use stepback_native::error::{Kind, Result};
use tempfile::TempDir;

/// A folder in memory, or where temporary files go.
pub fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    match memory.is_dir() {
        true => TempDir::new_in(memory).unwrap(),
        false => TempDir::new().unwrap(),
    }
}

pub fn files(name: &str) -> &'static Files {
    match &row(name).unwrap().origin {
        Origin::Files(files) => files,
        Origin::Computed(_) | Origin::Named(_) => panic!("{name} has no files of its own"),
    }
}

pub fn form(name: &str) -> &'static Form {
    &files(name).form
}

/// Makes shards of files of these names and contents. They are refused as damaged, or else well-formed shards come of
/// them.
pub fn convert(name: &str, contents: &[(&str, &[u8])]) {
    let dir = folder();
    let put = |(name, bytes): &(&str, &[u8])| -> PathBuf {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let paths: Vec<PathBuf> = contents.iter().map(put).collect();
    let shards = [dir.path().join("train"), dir.path().join("val")];
    let made = || -> Result<()> {
        let mut train = Writer::create(&shards[0])?;
        let mut val = Writer::create(&shards[1])?;
        (files(name).convert)(&paths, TRAIN_SIZE, &mut train, &mut val)?;
        train.commit(Vec::new())?;
        val.commit(Vec::new())
    };
    match made() {
        Err(e) => assert_eq!(e.kind, Kind::Corrupt, "{e}"),
        Ok(()) => shards.iter().for_each(|path| {
            let shard = Shard::open(path).unwrap();
            shard.check_form(form(name), name).unwrap();
        }),
    }
}

/// An IDX file of these dimensions.
pub fn idx(dims: &[u32], bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0, 0, 8, dims.len() as u8];
    out.extend(dims.iter().flat_map(|d| d.to_be_bytes()));
    out.extend(bytes);
    out
}

/// Makes all checksums of a shard right, for the number of blocks that its length allows.
pub fn reseal(bytes: &mut [u8]) {
    use stepback_native::data::shard::{BLOCK, HEADER, MAGIC, VERSION};
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    let header = crc32c::crc32c(&bytes[..HEADER - 4]);
    bytes[HEADER - 4..HEADER].copy_from_slice(&header.to_le_bytes());
    let Some(rest) = (bytes.len() - HEADER).checked_sub(4) else {
        return;
    };
    let blocks = rest.div_ceil(BLOCK + 4);
    let table = bytes.len() - 4 - 4 * blocks;
    if table < HEADER {
        return;
    }
    let (body, sums) = bytes[HEADER..].split_at_mut(table - HEADER);
    let end = sums.len() - 4;
    for (block, sum) in body.chunks(BLOCK).zip(sums[..end].chunks_mut(4)) {
        sum.copy_from_slice(&crc32c::crc32c(block).to_le_bytes());
    }
    let all = crc32c::crc32c(&sums[..end]);
    sums[end..].copy_from_slice(&all.to_le_bytes());
}
