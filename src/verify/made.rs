//! Data sets that suites make, in temporary folders.

use std::fs;
use std::io;
use std::path::Path;

use tempfile::TempDir;

use crate::data::Library;
use crate::data::fetch::Options;
use crate::error::{Error, Kind, Result};

/// Raw files of data sets, which are gone when it is dropped.
pub(super) struct RawFiles(TempDir);

impl RawFiles {
    /// Files of these contents, by their names under the data folder.
    pub fn new(files: impl IntoIterator<Item = (String, Vec<u8>)>) -> Result<RawFiles> {
        let write = || -> io::Result<TempDir> {
            let dir = tempfile::tempdir()?;
            for (name, contents) in files {
                let path = dir.path().join(name);
                fs::create_dir_all(path.parent().expect("a name is not empty"))?;
                fs::write(path, contents)?;
            }
            Ok(dir)
        };
        write().map(RawFiles).map_err(|e| {
            let text = format!("cannot write to the folder for temporary files: {e}");
            Error::new(Kind::CannotCreate, text)
        })
    }

    pub fn library(&self) -> Library {
        library(self.0.path())
    }
}

/// The data sets of a folder; nothing is downloaded.
pub(super) fn library(dir: &Path) -> Library {
    Library::new(dir, true, Options::new(Vec::new(), true))
}
