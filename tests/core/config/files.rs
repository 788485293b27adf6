use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use stepback_native::config::{self, Changes, MAX_RUNS};
use stepback_native::error::Kind;

use super::{dict, vocabulary};

#[test]
fn ids_that_are_no_plain_file_names_are_refused() {
    let text = dict(&[]);
    let with = |id: &str| config::parse(id, "e.json", text.as_bytes(), &vocabulary(), 10);
    let wrong = [
        "",
        "a/b",
        "/",
        "..",
        "a..b",
        "../a",
        "a\\b",
        "a\nb",
        "\u{1b}[31m",
        "-a",
        ".a",
    ];
    for id in wrong {
        let error = with(id).expect_err(id);
        assert_eq!(error.kind, Kind::Usage);
        assert!(error.message.contains("experiment id"), "{error}");
        assert!(!error.message.contains(['\n', '\u{1b}']), "{error}");
    }
    for id in ["a", "mnist_mlp-2", "v1.2", "größe"] {
        assert_eq!(with(id).unwrap().id, id);
    }
}

/// Loads the file and checks that it is refused in one line that has the fragment.
fn refused(path: &Path, fragment: &str) {
    let error =
        config::load(path, &vocabulary(), &Changes::default(), MAX_RUNS).expect_err(fragment);
    assert_eq!(error.kind, Kind::Usage, "{error}");
    assert!(error.message.contains(fragment), "{error}");
    assert_eq!(error.message.lines().count(), 1, "{error}");
}

#[test]
fn only_regular_files_of_decent_size_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let load = |name: &str| config::load(&path(name), &vocabulary(), &Changes::default(), MAX_RUNS);
    fs::write(path("good.json"), dict(&[])).unwrap();
    assert_eq!(load("good.json").unwrap().id, "good");

    refused(&path("godo.json"), "good.json?)");
    refused(&path("good"), "good.json?)");
    refused(&path("wholly-else.json"), "cannot read: No such file");
    refused(&path("good.json/x.json"), "cannot read: Not a directory");
    refused(folder.path(), "a folder");
    refused(Path::new("/"), "names no file");
    refused(Path::new(".."), "names no file");
    refused(Path::new("/dev/zero"), "not a regular file");

    let fifo = path("fifo.json");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    refused(&fifo, "not a regular file");

    let mut text = dict(&[]).into_bytes();
    text.resize(16 << 20, b' ');
    fs::write(path("largest.json"), &text).unwrap();
    assert!(load("largest.json").is_ok());
    text.push(b' ');
    fs::write(path("larger.json"), &text).unwrap();
    refused(&path("larger.json"), "larger than 16 MB");
}

#[test]
fn encodings_and_names_that_lead_astray_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |name: &[u8], content: &[u8], fragment: &str| {
        let path = folder.path().join(OsStr::from_bytes(name));
        fs::write(&path, content).unwrap();
        refused(&path, fragment);
    };
    let good = dict(&[]);
    refused(
        b"latin.json",
        b"{\n \"gr\xf6\": 1}",
        "latin.json:2:5: not UTF-8",
    );
    refused(b"utf16.json", b"\xff\xfe{\0}\0", "BOM");
    refused(
        b"-dash.json",
        good.as_bytes(),
        "starts with a dot or a dash",
    );
    refused(b".json", good.as_bytes(), "starts with a dot or a dash");
    refused(b"a..b.json", good.as_bytes(), "has a path in it");
    refused(b"new\nline.json", good.as_bytes(), "has control characters");
    refused(b"\xff.json", good.as_bytes(), "not UTF-8");
}
