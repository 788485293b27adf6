//! What is opened as a file and what is not.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use stepback_native::files;
use tempfile::TempDir;

#[test]
fn regular_files_alone_are_opened() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("file"), "text").unwrap();
    symlink("file", path("link")).unwrap();
    assert_eq!(files::read(&path("link")).unwrap(), b"text");
    assert!(files::exists(&path("link")).unwrap());
    let made = Command::new("mkfifo").arg(path("fifo")).status().unwrap();
    assert!(made.success());
    for special in [path("fifo"), "/dev/zero".into(), dir.path().to_owned()] {
        assert!(files::open(&special).is_err(), "{}", special.display());
    }
    assert!(files::exists(&path("fifo")).is_err());
    for nothing in [path("nothing"), path("file/below"), dir.path().to_owned()] {
        assert!(!files::exists(&nothing).unwrap(), "{}", nothing.display());
    }
}

#[test]
fn our_own_files_are_no_links() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("theirs"), "text").unwrap();
    symlink("theirs", path("lock")).unwrap();
    symlink("nothing", path("dangling")).unwrap();
    for link in ["lock", "dangling"] {
        let e = files::open_own(&path(link)).unwrap_err();
        assert_eq!(e.to_string(), "it is a link; delete it");
    }
    assert!(!path("nothing").exists());
    files::open_own(&path("theirs")).unwrap();
    assert_eq!(fs::read(path("theirs")).unwrap(), b"text");
    files::open_own(&path("new")).unwrap();
    assert!(path("new").is_file());
    assert_eq!(
        files::open_own(Path::new("/dev/null")).unwrap_err().kind(),
        ErrorKind::InvalidInput
    );
}
