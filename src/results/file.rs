//! Files that are whole at any moment: written under a temporary name beside the final one.

use std::fs::Permissions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::NamedTempFile;

use crate::error::{Error, Kind, Result};

/// What to do if there is a file of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    Refuse,
    Replace,
}

/// A new file whose name no tool takes for a result, with the mode that the umask allows.
pub(super) fn temporary(dir: &Path, prefix: &str) -> std::io::Result<NamedTempFile> {
    tempfile::Builder::new()
        .prefix(prefix)
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(dir)
}

/// Writes a file whole or not at all, making its folder.
///
/// # Errors
/// [`Kind::CannotCreate`] if it cannot be written, or is there and is to be kept.
pub fn write(path: &Path, bytes: &[u8], existing: Existing) -> Result<()> {
    let cannot = |what: &dyn std::fmt::Display| {
        let text = format!("cannot write {}: {what}", path.display());
        Error::new(Kind::CannotCreate, text)
    };
    let dir = match path.parent() {
        Some(dir) if dir != Path::new("") => dir,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(dir).map_err(|e| cannot(&e))?;
    let mut temp = temporary(dir, ".tmp-").map_err(|e| cannot(&e))?;
    temp.write_all(bytes).map_err(|e| cannot(&e))?;
    let outcome = match existing {
        Existing::Refuse => temp.persist_noclobber(path),
        Existing::Replace => temp.persist(path),
    };
    match outcome {
        Ok(_) => Ok(()),
        Err(e) if e.error.kind() == ErrorKind::AlreadyExists => Err(cannot(
            &"it exists: choose another name, or say --overwrite",
        )),
        Err(e) => Err(cannot(&e.error)),
    }
}
