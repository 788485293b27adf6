//! Opening files: those that others made, and our own that lie where others can put something in their place.

use std::fs::{self, File, OpenOptions};
use std::io::{Error, ErrorKind, Read, Result};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Bytes as hexadecimal digits, as sums are written.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Opens a regular file for reading.
///
/// # Errors
/// Refuses everything else at once: a FIFO would let us wait for a writer, a device may have no end.
pub fn open(path: &Path) -> Result<File> {
    // Without O_NONBLOCK, opening a FIFO waits for its other end. It means nothing for regular files.
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    regular(&file.metadata()?)?;
    Ok(file)
}

/// The content of a regular file.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The content of a regular file of text.
pub fn read_to_string(path: &Path) -> Result<String> {
    let mut text = String::new();
    open(path)?.read_to_string(&mut text)?;
    Ok(text)
}

/// Opens, or makes, a file of our own for reading and writing: a lock, the beginning of a download. What is in it stays.
///
/// # Errors
/// Refuses a link, behind which there may be somebody's file, and everything that is no regular file.
pub fn open_own(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).read(true).write(true);
    let file = options
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .map_err(|e| match e.raw_os_error() {
            Some(libc::ELOOP) => Error::new(ErrorKind::InvalidInput, "it is a link; delete it"),
            _ => e,
        })?;
    regular(&file.metadata()?)?;
    Ok(file)
}

/// Whether there is a regular file; a folder of that name counts as none.
///
/// # Errors
/// If the way there is barred, or if there is something that is neither.
pub fn exists(path: &Path) -> Result<bool> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(false),
        Ok(metadata) => regular(&metadata).map(|()| true),
        Err(e) if absent(&e) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Whether an error says that there is no such file, rather than that it cannot be had.
pub fn absent(e: &Error) -> bool {
    matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn regular(metadata: &fs::Metadata) -> Result<()> {
    match metadata.file_type() {
        kind if kind.is_file() => Ok(()),
        kind if kind.is_dir() => Err(Error::new(ErrorKind::IsADirectory, "it is a folder")),
        _ => Err(Error::new(
            ErrorKind::InvalidInput,
            "it is not a regular file",
        )),
    }
}
