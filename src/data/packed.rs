//! Packed files and archives, distinguished by their first bytes, whatever they are called.

use super::raw::damaged;
use crate::error::{Error, Result};
use crate::files;
use crate::stop;
use bzip2::read::MultiBzDecoder;
use flate2::read::MultiGzDecoder;
use lzma_rust2::XzReader;
use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;
use zip::ZipArchive;

/// Memory for unpacking .xz; `xz -9` asks for 65 MiB.
const XZ_KIB: u32 = 1 << 18;

/// Opens the file at `path` as it is.
pub fn open_plain(path: &Path) -> Result<BufReader<Raw>> {
    let file = files::open(path).map_err(|e| Error::io("open", path, &e))?;
    Ok(BufReader::with_capacity(1 << 16, Raw(file)))
}

/// A file that is read until the process is asked to stop: some are of gigabytes.
pub struct Raw(File);

impl Read for Raw {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        stop::check()?;
        self.0.read(buffer)
    }
}

impl Seek for Raw {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.0.seek(to)
    }
}

/// Opens the file at `path`, unpacked if it is packed. Reading more than `limit` bytes of it is an error.
pub fn open(path: &Path, limit: u64) -> Result<impl Read + use<>> {
    let unpacked = unpack(open_plain(path)?).map_err(|e| read_error(path, &e))?;
    Ok(Limited {
        inner: unpacked,
        left: limit,
    })
}

fn unpack(mut file: BufReader<Raw>) -> io::Result<Box<dyn Read>> {
    let start = file.fill_buf()?;
    let foreign = |name: &str| {
        let text = format!("it is packed with {name}, which is not read here: unpack it first");
        Err(io::Error::new(ErrorKind::Unsupported, text))
    };
    Ok(match start {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(file)),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Box::new(MultiBzDecoder::new(file)),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            Box::new(XzReader::new_mem_limit(file, true, XZ_KIB))
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => return foreign("zstd"),
        [b'7', b'z', 0xbc, 0xaf, ..] => return foreign("7-Zip"),
        [b'R', b'a', b'r', b'!', ..] => return foreign("RAR"),
        _ => Box::new(file),
    })
}

/// Ends with an error behind this many bytes.
pub struct Limited<R> {
    pub inner: R,
    pub left: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| {
            let text = "it goes on where every file of this data set has ended";
            io::Error::new(ErrorKind::FileTooLarge, text)
        })?;
        Ok(n)
    }
}

/// Hands the members of the archive at `path` whose names are `wanted` to `take`, one after the other. All else in it
/// (links, devices, other names) is passed over; it is read to its end, where the checksums are. The archive is a zip
/// or a tar, which may be packed.
///
/// # Errors
/// Among others, if a wanted member is longer than `limit` bytes.
pub fn members(
    path: &Path,
    limit: u64,
    wanted: &dyn Fn(&str) -> bool,
    take: &mut dyn FnMut(&str, &mut dyn Read) -> Result<()>,
) -> Result<()> {
    let mut one = |name: &str, size: u64, member: &mut dyn Read| {
        if size > limit {
            let text =
                format!("{name} in it has {size} bytes, more than any file of this data set");
            return Err(damaged(path, text));
        }
        take(
            name,
            &mut Limited {
                inner: member,
                left: limit,
            },
        )
    };
    let broken = |e: io::Error| read_error(path, &e);
    let mut file = open_plain(path)?;
    if file.fill_buf().map_err(broken)?.starts_with(b"PK") {
        let broken = |e: zip::result::ZipError| broken(e.into());
        let mut archive = ZipArchive::new(file).map_err(broken)?;
        for i in 0..archive.len() {
            let name = archive.name_for_index(i).and_then(|name| name.ok());
            let name = name.map(|name| plain(&name)).unwrap_or_default();
            if wanted(&name) {
                let mut member = archive.by_index(i).map_err(broken)?;
                if member.is_file() {
                    one(&name, member.size(), &mut member)?;
                }
            }
        }
        return Ok(());
    }
    let mut archive = tar::Archive::new(unpack(file).map_err(broken)?);
    // Raw: else long names and extended headers are read into memory, whatever their length. What is looked for has a
    // short name.
    for member in archive.entries().map_err(broken)?.raw(true) {
        let mut member = member.map_err(broken)?;
        let name = plain(&String::from_utf8_lossy(&member.path_bytes()));
        if member.header().entry_type().is_file() && wanted(&name) {
            one(&name, member.size(), &mut member)?;
        }
    }
    // The end of a tar comes before that of what it is packed in.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(broken)?;
    Ok(())
}

/// A member's name without `./`.
fn plain(name: &str) -> String {
    name.trim_start_matches("./").to_owned()
}

/// An error while reading what is (or may be) packed: of the device, or of the content.
pub fn read_error(path: &Path, e: &io::Error) -> Error {
    match e.kind() {
        _ if e.raw_os_error().is_some() => Error::io("read", path, e),
        ErrorKind::Unsupported => Error::corrupt(format!("{}: {e}", path.display())),
        ErrorKind::FileTooLarge => damaged(path, e),
        _ => damaged(path, format_args!("it cannot be unpacked: {e}")),
    }
}
