//! What a command made before is made again only if the command, `kernels/`, `build/` or `build.rs` has changed: this script also
//! runs when a commit is made.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Whether `made` is what the command would make.
pub fn by(command: &Command, made: &Path) -> bool {
    made.is_file() && fs::read_to_string(stamp(made)).is_ok_and(|s| s == fingerprint(command))
}

/// Notes that the command has made it.
pub fn note(command: &Command, made: &Path) {
    fs::write(stamp(made), fingerprint(command)).expect("OUT_DIR is writable");
}

fn stamp(made: &Path) -> PathBuf {
    made.with_added_extension("stamp")
}

fn fingerprint(command: &Command) -> String {
    let mut hasher = DefaultHasher::new();
    format!("{command:?}").hash(&mut hasher);
    for path in ["build.rs", "build", "kernels"] {
        hash(Path::new(path), &mut hasher);
    }
    format!("{:016x}", hasher.finish())
}

fn hash(path: &Path, hasher: &mut DefaultHasher) {
    if path.is_dir() {
        let entries = fs::read_dir(path).expect("a readable folder");
        let mut paths: Vec<PathBuf> = entries.map(|e| e.expect("an entry").path()).collect();
        paths.sort();
        paths.iter().for_each(|path| hash(path, hasher));
    } else {
        path.hash(hasher);
        fs::read(path).expect("a readable file").hash(hasher);
    }
}
