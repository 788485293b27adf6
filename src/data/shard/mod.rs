//! Shards: one split of a data set in one binary file, memory-mapped and read in place. The format is
//! described in `docs/shard-format.md`.

#[allow(unsafe_code)]
pub(in crate::data) mod map;
mod write;

pub use write::{Contents, TEMPORARY, Targets, Writer, remove_leftovers, restamp, sync_folder};

use crate::error::{Error, Result};
use crate::files;
use map::MappedFile;
use rayon::prelude::*;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

pub const MAGIC: [u8; 8] = *b"\x89SBSHARD";
pub const VERSION: u32 = 1;
/// Length of the header, and of the smallest page: the features start on a page border.
pub const HEADER: usize = 4096;
/// Bytes that one checksum of the table covers.
pub const BLOCK: usize = 1 << 16;
/// Sections start at multiples of this.
const ALIGN: usize = 64;
const MAX_RANK: usize = 4;

const _: () = assert!(
    cfg!(target_endian = "little"),
    "shards are little-endian and read in place"
);

/// How the features of a sample are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Features {
    /// Bytes, images in (row, column, channel) order.
    Bytes = 1,
    Floats = 2,
    /// Pairs of a column and its value; every other feature of the sample is zero.
    Sparse = 3,
    /// A text: a sample is the code of a token, one byte, and its target the next one. Readers cut windows.
    Tokens = 4,
}

/// A raw file that a shard was made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Relative to the data folder.
    pub name: String,
    pub size: u64,
    /// Time of the last change, nanoseconds since 1970.
    pub modified: i64,
    pub md5: [u8; 16],
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub features: Features,
    /// Number of classes; `None` if the targets are floats. Of tokens: how many codes there are.
    pub classes: Option<u32>,
    /// Shapes of a stored sample and of a target.
    pub sample: Vec<u32>,
    pub target: Vec<u32>,
    pub samples: u64,
    /// Pairs in all samples together (sparse features only, else 0).
    pub pairs: u64,
    /// Characters that were left out of this half of a text, for they have no code (tokens only, else 0).
    pub skipped: u64,
    pub sources: Vec<Source>,
}

/// What the shards of a data set hold, which a well-formed shard may not: another program made it, or it is of
/// another data set.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    pub features: Features,
    /// Shape of a stored sample; `None` if it is one dimension of any length. A target is one number.
    pub sample: Option<&'static [u32]>,
    pub classes: Option<Classes>,
    /// The features are whole numbers below this one, where they are places.
    pub places: Option<u32>,
}

/// How many classes a data set has.
#[derive(Clone, Copy, Debug)]
pub enum Classes {
    Exactly(u32),
    /// Its files tell how many.
    AtMost(u32),
}

/// Where the sections of a shard lie; a function of the header alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    pub features: Range<usize>,
    /// First pair of every sample and the end of the last one (sparse features only, else empty).
    pub rows: Range<usize>,
    pub targets: Range<usize>,
    /// One CRC-32C per block of what lies between header and table, then one of the table.
    pub table: Range<usize>,
}

impl Header {
    /// `None` where a product leaves the range of addresses.
    pub fn layout(&self) -> Option<Layout> {
        let product = |dims: &[u32]| {
            dims.iter()
                .try_fold(1usize, |all, d| all.checked_mul(usize::try_from(*d).ok()?))
        };
        let samples = usize::try_from(self.samples).ok()?;
        let pairs = usize::try_from(self.pairs).ok()?;
        let sparse = self.features == Features::Sparse;
        let features = match self.features {
            Features::Bytes | Features::Tokens => samples.checked_mul(product(&self.sample)?)?,
            Features::Floats => samples
                .checked_mul(product(&self.sample)?)?
                .checked_mul(4)?,
            Features::Sparse => pairs.checked_mul(8)?,
        };
        let rows = match sparse {
            true => samples.checked_add(1)?.checked_mul(8)?,
            false => 0,
        };
        let targets = match self.features {
            Features::Tokens => 0,
            _ => samples
                .checked_mul(product(&self.target)?)?
                .checked_mul(4)?,
        };
        let section = |start: usize, length: usize| {
            let end = start.checked_add(length)?;
            Some((start..end, end.checked_next_multiple_of(ALIGN)?))
        };
        let (features, next) = section(HEADER, features)?;
        let (rows, next) = section(next, rows)?;
        let (targets, next) = section(next, targets)?;
        let blocks = (next - HEADER).div_ceil(BLOCK);
        let end = next.checked_add(blocks.checked_mul(4)?)?.checked_add(4)?;
        Some(Layout {
            features,
            rows,
            targets,
            table: next..end,
        })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

/// Takes the header's fields one after the other; `None` behind the end.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (now, later) = self.0.split_at_checked(n)?;
        self.0 = later;
        Some(now)
    }

    fn u8(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(self.take(2)?.try_into().ok()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32_at(self.take(4)?, 0))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64_at(self.take(8)?, 0))
    }

    fn shape(&mut self) -> Option<Vec<u32>> {
        let rank = usize::from(self.u8()?);
        let dims: Vec<u32> = (0..rank).map(|_| self.u32()).collect::<Option<_>>()?;
        ((1..=MAX_RANK).contains(&rank) && !dims.contains(&0)).then_some(dims)
    }

    fn source(&mut self) -> Option<Source> {
        let (size, modified) = (self.u64()?, self.u64()? as i64);
        let md5 = self.take(16)?.try_into().ok()?;
        let length = usize::from(self.u16()?);
        let name = String::from_utf8(self.take(length)?.to_vec()).ok()?;
        Some(Source {
            name,
            size,
            modified,
            md5,
        })
    }

    /// The header behind magic and version.
    fn header(&mut self) -> Option<Header> {
        let features = match self.u8()? {
            1 => Features::Bytes,
            2 => Features::Floats,
            3 => Features::Sparse,
            4 => Features::Tokens,
            _ => return None,
        };
        let classes = Some(self.u32()?).filter(|c| *c != 0);
        let (samples, pairs) = (self.u64()?, self.u64()?);
        let (sample, target) = (self.shape()?, self.shape()?);
        let tokens = features == Features::Tokens;
        let skipped = if tokens { self.u64()? } else { 0 };
        let sources = (0..self.u16()?).map(|_| self.source());
        let header = Header {
            features,
            classes,
            sample,
            target,
            samples,
            pairs,
            skipped,
            sources: sources.collect::<Option<_>>()?,
        };
        // Samples are numbered with 32 bits, and a class is one number.
        let counted = (1..=u64::from(u32::MAX)).contains(&samples);
        let paired = header.features == Features::Sparse || pairs == 0;
        let classed = classes.is_none() || header.target == [1];
        let flat = header.features != Features::Sparse || header.sample.len() == 1;
        let coded = classes.is_some_and(|classes| classes <= 256) && header.sample == [1];
        (counted && paired && classed && flat && (coded || !tokens)).then_some(header)
    }
}

/// Checks the first [`HEADER`] bytes of a shard.
fn parse_header(bytes: &[u8]) -> Result<(Header, Layout)> {
    let wrong = |text: String| Err(Error::corrupt(text));
    if bytes.len() < HEADER {
        let length = bytes.len();
        return wrong(format!(
            "it has {length} bytes, fewer than a header's {HEADER}"
        ));
    }
    if bytes[..8] != MAGIC {
        return wrong("it is no shard (its first bytes are others)".into());
    }
    let version = u32_at(bytes, 8);
    if version != VERSION {
        return wrong(format!(
            "it is of version {version}, this program reads version {VERSION}"
        ));
    }
    if crc32c::crc32c(&bytes[..HEADER - 4]) != u32_at(bytes, HEADER - 4) {
        return wrong("its header is damaged (checksum)".into());
    }
    let header = Fields(&bytes[12..HEADER - 4]).header();
    header
        .and_then(|h| h.layout().map(|l| (h, l)))
        .ok_or_else(|| Error::corrupt("its header makes no sense"))
}

/// Checks a shard in whole - every byte of it - and says where its sections are.
pub fn parse(bytes: &[u8]) -> Result<(Header, Layout)> {
    let (header, layout) = parse_header(bytes)?;
    if bytes.len() != layout.table.end {
        let (has, should) = (bytes.len(), layout.table.end);
        return Err(Error::corrupt(format!(
            "it has {has} bytes where its header asks for {should}"
        )));
    }
    check_blocks(bytes, &layout)?;
    check_contents(bytes, &header, &layout)?;
    Ok((header, layout))
}

fn check_blocks(bytes: &[u8], layout: &Layout) -> Result<()> {
    let (table, own) = bytes[layout.table.clone()].split_at(layout.table.len() - 4);
    if crc32c::crc32c(table) != u32_at(own, 0) {
        return Err(Error::corrupt("its table of checksums is damaged"));
    }
    let body = &bytes[HEADER..layout.table.start];
    let blocks = body.par_chunks(BLOCK).zip(table.par_chunks(4)).enumerate();
    let bad = blocks.find_map_first(|(i, (block, crc))| {
        (crc32c::crc32c(block) != u32_at(crc, 0)).then_some((i, block.len()))
    });
    bad.map_or(Ok(()), |(i, length)| {
        let start = HEADER + i * BLOCK;
        let end = start + length;
        Err(Error::corrupt(format!(
            "block {i} (bytes {start} to {end}) is damaged (checksum)"
        )))
    })
}

/// What the checksums cannot know: a well-formed file made by another program.
fn check_contents(bytes: &[u8], header: &Header, layout: &Layout) -> Result<()> {
    if let (Features::Tokens, Some(classes)) = (header.features, header.classes) {
        let mut tokens = bytes[layout.features.clone()].iter();
        if let Some(i) = tokens.position(|token| u32::from(*token) >= classes) {
            return Err(Error::corrupt(format!(
                "the code of token {i} is not below {classes}"
            )));
        }
    } else if let Some(classes) = header.classes {
        let mut labels = bytes[layout.targets.clone()].chunks_exact(4);
        if let Some(i) = labels.position(|label| u32_at(label, 0) >= classes) {
            return Err(Error::corrupt(format!(
                "the class of sample {i} is not below {classes}"
            )));
        }
    }
    if header.features == Features::Sparse {
        let width = header.sample[0];
        let mut columns = bytes[layout.features.clone()].chunks_exact(8);
        if let Some(i) = columns.position(|pair| u32_at(pair, 0) >= width) {
            return Err(Error::corrupt(format!(
                "the column of pair {i} is not below {width}"
            )));
        }
        let rows = bytes[layout.rows.clone()].chunks_exact(8);
        let rows: Vec<u64> = rows.map(|row| u64_at(row, 0)).collect();
        let ends = rows[0] == 0 && rows.last() == Some(&header.pairs);
        if !ends || !rows.is_sorted() {
            return Err(Error::corrupt("its rows do not follow one another"));
        }
    }
    Ok(())
}

fn damaged(path: &Path, cause: &Error) -> Error {
    let path = path.display();
    Error::corrupt(format!(
        "{path} is damaged: {cause}; delete it, and it is made again from the raw files"
    ))
}

/// The header of the shard at `path`, without a look at the rest; `None` if there is no file.
pub fn header_of(path: &Path) -> Result<Option<Header>> {
    let mut start = Vec::with_capacity(HEADER);
    let read = files::open(path).and_then(|f| f.take(HEADER as u64).read_to_end(&mut start));
    match read {
        Ok(_) => match parse_header(&start) {
            Ok((header, _)) => Ok(Some(header)),
            Err(e) => Err(damaged(path, &e)),
        },
        Err(e) if files::absent(&e) => Ok(None),
        Err(e) => Err(Error::io("read", path, &e)),
    }
}

/// An open shard. Reads never panic, even after the file was cut: see [`Shard::check`].
pub struct Shard {
    map: MappedFile,
    header: Header,
    layout: Layout,
    path: PathBuf,
    /// The checksum of the table, and so of all but the header.
    sum: u32,
}

impl Shard {
    /// Maps the file and checks all of it.
    pub fn open(path: &Path) -> Result<Shard> {
        let map = MappedFile::open(path)?;
        let (header, layout) = parse(&map).map_err(|e| damaged(path, &e))?;
        let shard = Shard {
            sum: u32_at(&map, layout.table.end - 4),
            map,
            header,
            layout,
            path: path.to_owned(),
        };
        shard.check()?;
        Ok(shard)
    }

    /// An error if the shard is not one of the data set called `name`.
    pub fn check_form(&self, form: &Form, name: &str) -> Result<()> {
        let Header {
            features,
            classes,
            sample,
            target,
            ..
        } = &self.header;
        let shape = form
            .sample
            .map_or(sample.len() == 1, |shape| shape == sample);
        let classed = match (form.classes, *classes) {
            (None, None) => true,
            (Some(Classes::Exactly(n)), Some(classes)) => classes == n,
            (Some(Classes::AtMost(n)), Some(classes)) => classes <= n,
            _ => false,
        };
        let kind = (*features, target.as_slice()) == (form.features, &[1]) && classed;
        let place =
            |limit: u32, value: &f32| value.fract() == 0.0 && (0.0..limit as f32).contains(value);
        let in_places = |limit: u32| self.float_features().iter().all(|v| place(limit, v));
        // The order matters: features are read as what they are.
        if shape && kind && form.places.is_none_or(in_places) {
            return Ok(());
        }
        Err(Error::corrupt(format!(
            "{} is no shard of {name} (it holds {features:?} of shape {sample:?}); delete it, and it is made again from \
             the raw files",
            self.path.display()
        )))
    }

    /// An error if the file was cut, or could not be read, since it was opened. Cheap.
    pub fn check(&self) -> Result<()> {
        match self.map.damaged() {
            false => Ok(()),
            true => Err(self.changed("was cut")),
        }
    }

    /// An error if any byte is not what it was when the file was opened. Reads the whole file.
    pub fn check_all(&self) -> Result<()> {
        let table = self.layout.table.end - 4;
        let same = u32_at(&self.map, table) == self.sum;
        let same = same && check_blocks(&self.map, &self.layout).is_ok();
        self.check()?;
        match same {
            true => Ok(()),
            false => Err(self.changed("changed")),
        }
    }

    fn changed(&self, how: &str) -> Error {
        Error::corrupt(format!(
            "{} {how} while it was being read, so what was computed since is worthless; \
             delete it, and it is made again from the raw files",
            self.path.display()
        ))
    }

    /// The checksum of everything but the header, which names the sources.
    pub fn sum(&self) -> u32 {
        self.sum
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Features stored as [`Features::Bytes`] or [`Features::Tokens`].
    pub fn byte_features(&self) -> &[u8] {
        &self.map[self.layout.features.clone()]
    }

    /// Features stored as [`Features::Floats`].
    pub fn float_features(&self) -> &[f32] {
        bytemuck::cast_slice(&self.map[self.layout.features.clone()])
    }

    /// Column and bits of the value, for every pair of a sample stored as [`Features::Sparse`].
    pub fn sparse_features(&self, sample: usize) -> &[[u32; 2]] {
        let pairs: &[[u32; 2]] = bytemuck::cast_slice(&self.map[self.layout.features.clone()]);
        let rows: &[u64] = bytemuck::cast_slice(&self.map[self.layout.rows.clone()]);
        // A file cut since it was checked reads as zeros: an empty row then.
        pairs
            .get(rows[sample] as usize..rows[sample + 1] as usize)
            .unwrap_or(&[])
    }

    /// Targets where [`Header::classes`] is `Some`, except of tokens.
    pub fn class_targets(&self) -> &[u32] {
        bytemuck::cast_slice(&self.map[self.layout.targets.clone()])
    }

    /// Targets where [`Header::classes`] is `None`.
    pub fn float_targets(&self) -> &[f32] {
        bytemuck::cast_slice(&self.map[self.layout.targets.clone()])
    }
}
