//! Where results are read from and written to.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};
use crate::results::Record;

/// The folders that experiments are looked for in.
#[derive(clap::Args, Clone, Debug)]
pub struct Sources {
    /// Folder of the output files
    #[arg(long, value_name = "DIR", default_value = "output")]
    pub output_dir: PathBuf,
    /// Folder of the records, used for experiments without output
    #[arg(long, value_name = "DIR", default_value = "records")]
    pub records_dir: PathBuf,
}

impl Sources {
    pub fn load(&self, id: &str) -> Result<Record> {
        Record::load(id, &self.output_dir, &self.records_dir)
    }

    pub fn load_all(&self, ids: &[String]) -> Result<Vec<Record>> {
        ids.iter().map(|id| self.load(id)).collect()
    }
}

/// Writes a file whole or not at all, making its folder.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let cannot = |e: std::io::Error| {
        Error::new(
            Kind::CannotCreate,
            format!("cannot write {}: {e}", path.display()),
        )
    };
    let dir = match path.parent() {
        Some(dir) if dir != Path::new("") => dir,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(dir).map_err(cannot)?;
    let mut temp = tempfile::Builder::new()
        .prefix(".tmp-")
        .permissions(std::fs::Permissions::from_mode(0o666))
        .tempfile_in(dir)
        .map_err(cannot)?;
    temp.write_all(bytes).map_err(cannot)?;
    temp.persist(path).map_err(|e| cannot(e.error))?;
    Ok(())
}
