//! Writing shards: into a temporary file beside the final one, which then takes its name in one step.

use super::{BLOCK, Features, HEADER, Header, MAGIC, Shard, Source, VERSION};
use crate::error::{Error, Result};
use crate::stop;
use std::fs::{self, File, Permissions};
use std::io::{BufWriter, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Prefix of temporary files and folders; what a killed process left of them is deleted by the next one.
pub const TEMPORARY: &str = ".tmp-";

/// A shard in the making: first all features in one or more pieces, then the rest.
pub struct Writer {
    file: BufWriter<NamedTempFile>,
    path: PathBuf,
    /// Bytes written behind the header, and the checksums of the blocks that they fill.
    written: usize,
    crc: u32,
    table: Vec<u32>,
    header: Option<Header>,
}

/// Everything but the features.
pub struct Contents<'a> {
    pub features: Features,
    /// Shapes of a stored sample and of a target.
    pub sample: &'a [usize],
    pub target: &'a [usize],
    pub targets: Targets<'a>,
    /// First pair of every sample, and the end of the last one (sparse features only, else empty).
    pub rows: &'a [u64],
}

#[derive(Clone, Copy)]
pub enum Targets<'a> {
    Classes {
        labels: &'a [u32],
        classes: u32,
    },
    Floats(&'a [f32]),
    /// Of each token the next one: nothing is stored.
    Next {
        /// How many codes there are.
        codes: u32,
        skipped: u64,
    },
}

impl Writer {
    /// `path` is where the shard will be; its folder must exist.
    pub fn create(path: &Path) -> Result<Writer> {
        let mut writer = Writer {
            file: BufWriter::with_capacity(1 << 18, temporary(path)?),
            path: path.to_owned(),
            written: 0,
            crc: 0,
            table: Vec::new(),
            header: None,
        };
        // Room for the header, which is known last.
        writer.raw(&[0; HEADER])?;
        Ok(writer)
    }

    fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        let result = self.file.write_all(bytes);
        result.map_err(|e| Error::io("write", &self.path, &e))
    }

    fn body(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let room = BLOCK - self.written % BLOCK;
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.raw(now)?;
            self.crc = crc32c::crc32c_append(self.crc, now);
            self.written += now.len();
            if self.written.is_multiple_of(BLOCK) {
                self.close_block();
            }
            bytes = later;
        }
        Ok(())
    }

    fn close_block(&mut self) {
        self.table.push(std::mem::take(&mut self.crc));
    }

    /// Zeros up to the start of the next section.
    fn pad(&mut self, start: usize) -> Result<()> {
        let gap = start - HEADER - self.written;
        self.body(&vec![0; gap])
    }

    /// The next features: bytes, floats, or (u32, f32) pairs, as they are in memory.
    pub fn features(&mut self, bytes: &[u8]) -> Result<()> {
        assert!(self.header.is_none(), "the features come first");
        stop::check().map_err(|e| Error::io("write", &self.path, &e))?;
        self.body(bytes)
    }

    /// What follows the features. Panics if `contents` does not fit them: that is a bug of the source.
    pub fn finish(&mut self, contents: &Contents) -> Result<()> {
        let narrow = |dims: &[usize]| -> Vec<u32> {
            let dims = dims.iter().map(|d| u32::try_from(*d));
            dims.collect::<std::result::Result<_, _>>()
                .expect("dimensions below 2^32")
        };
        let (classes, count, skipped) = match contents.targets {
            Targets::Classes { labels, classes } => (Some(classes), labels.len(), 0),
            Targets::Floats(values) => (None, values.len(), 0),
            Targets::Next { codes, skipped } => (Some(codes), self.written, skipped),
        };
        let header = Header {
            features: contents.features,
            classes,
            sample: narrow(contents.sample),
            target: narrow(contents.target),
            samples: (count / contents.target.iter().product::<usize>()) as u64,
            pairs: contents.rows.last().copied().unwrap_or(0),
            skipped,
            sources: Vec::new(),
        };
        let layout = header.layout().expect("a shard that fits into memory");
        assert_eq!(self.written, layout.features.len(), "features written");
        self.pad(layout.rows.start)?;
        self.body(bytemuck::cast_slice(contents.rows))?;
        self.pad(layout.targets.start)?;
        match contents.targets {
            Targets::Classes { labels, .. } => self.body(bytemuck::cast_slice(labels))?,
            Targets::Floats(values) => self.body(bytemuck::cast_slice(values))?,
            Targets::Next { .. } => {}
        }
        assert_eq!(self.written, layout.targets.end - HEADER, "targets written");
        self.pad(layout.table.start)?;
        if !self.written.is_multiple_of(BLOCK) {
            self.close_block();
        }
        self.header = Some(header);
        Ok(())
    }

    /// Names the sources and puts the shard in place, durably.
    pub fn commit(mut self, sources: Vec<Source>) -> Result<()> {
        let mut header = self.header.take().expect("finish comes before commit");
        header.sources = sources;
        let table = std::mem::take(&mut self.table);
        let table: &[u8] = bytemuck::cast_slice(&table);
        self.raw(table)?;
        self.raw(&crc32c::crc32c(table).to_le_bytes())?;
        let path = self.path.clone();
        let rewind = self.file.rewind();
        rewind.map_err(|e| Error::io("write", &path, &e))?;
        self.raw(&encode(&header))?;
        let file = self.file.into_inner();
        let file = file.map_err(|e| Error::io("write", &path, e.error()))?;
        replace(file, &path)
    }
}

/// Writes the shard again with other sources, after their content was found to be the same.
pub fn restamp(shard: &Shard, path: &Path, sources: Vec<Source>) -> Result<()> {
    let header = Header {
        sources,
        ..shard.header().clone()
    };
    let mut file = temporary(path)?;
    let result = file
        .write_all(&encode(&header))
        .and_then(|()| file.write_all(&shard.bytes()[HEADER..]));
    result.map_err(|e| Error::io("write", path, &e))?;
    shard.check()?;
    replace(file, path)
}

fn encode(header: &Header) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER);
    out.extend(MAGIC);
    out.extend(VERSION.to_le_bytes());
    out.push(header.features as u8);
    out.extend(header.classes.unwrap_or(0).to_le_bytes());
    out.extend(header.samples.to_le_bytes());
    out.extend(header.pairs.to_le_bytes());
    for shape in [&header.sample, &header.target] {
        out.push(shape.len() as u8);
        out.extend(shape.iter().flat_map(|d| d.to_le_bytes()));
    }
    if header.features == Features::Tokens {
        out.extend(header.skipped.to_le_bytes());
    }
    out.extend((header.sources.len() as u16).to_le_bytes());
    for source in &header.sources {
        out.extend(source.size.to_le_bytes());
        out.extend(source.modified.to_le_bytes());
        out.extend(source.md5);
        out.extend((source.name.len() as u16).to_le_bytes());
        out.extend(source.name.as_bytes());
    }
    assert!(out.len() <= HEADER - 4, "the header has room for sources");
    out.resize(HEADER - 4, 0);
    out.extend(crc32c::crc32c(&out).to_le_bytes());
    out
}

/// A temporary file in the folder of `path`. Shards are never written to again, hence read-only.
fn temporary(path: &Path) -> Result<NamedTempFile> {
    let folder = path.parent().expect("a shard lies in a folder");
    let file = tempfile::Builder::new()
        .prefix(TEMPORARY)
        .permissions(Permissions::from_mode(0o444))
        .tempfile_in(folder);
    file.map_err(|e| Error::cannot_write(folder, &e))
}

/// Puts a finished temporary file in place so that after a crash there is the old file or the new one.
fn replace(file: NamedTempFile, path: &Path) -> Result<()> {
    let failed = |e: std::io::Error| Error::io("write", path, &e);
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|e| failed(e.error))?;
    sync_folder(path)
}

/// Makes a rename in the folder of `path` durable.
pub fn sync_folder(path: &Path) -> Result<()> {
    let folder = path.parent().expect("a file lies in a folder");
    let synced = File::open(folder).and_then(|f| f.sync_all());
    synced.map_err(|e| Error::io("write", folder, &e))
}

/// Deletes what killed processes left. Call it only where no other process can be writing.
pub fn remove_leftovers(folder: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries {
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            // Failing to tidy up is no reason to stop; the next process tries again.
            let _ = match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                true => fs::remove_dir_all(entry.path()),
                false => fs::remove_file(entry.path()),
            };
        }
    }
}
