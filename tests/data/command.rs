//! The subcommand `data`.

use super::mnist::{TRAIN_IMAGES, idx, images, labels, mnist, small_mnist};
use super::{corrupt, data_command as data, put};
use std::fs;
use std::path::Path;
use stepback_native::error::{Error, Kind, Result};
use tempfile::TempDir;

fn failure(result: Result<()>) -> Error {
    result.expect_err("an error")
}

#[test]
fn import_accepts_the_usual_layouts_and_refuses_damage() {
    let raw = small_mnist();
    let nested = raw.path().join("MNIST");
    for from in [raw.path().to_owned(), nested.clone(), nested.join("raw")] {
        let dir = TempDir::new().unwrap();
        data(
            dir.path(),
            &["import", "mnist", "--from", from.to_str().unwrap()],
        )
        .unwrap();
        assert_eq!(mnist(dir.path()).unwrap().train.len(), 40);
        data(dir.path(), &["check", "mnist"]).unwrap();
        // Once more changes nothing.
        data(
            dir.path(),
            &["import", "mnist", "--from", from.to_str().unwrap()],
        )
        .unwrap();
    }
    let dotted = TempDir::new().unwrap();
    put(dotted.path(), "train-images.idx3-ubyte", &images(4));
    put(dotted.path(), "train-labels.idx1-ubyte", &labels(4));
    put(dotted.path(), "t10k-images.idx3-ubyte", &images(3));
    let labels_path = put(dotted.path(), "t10k-labels.idx1-ubyte", &labels(2));
    let import = |dir: &Path| {
        data(
            dir,
            &["import", "mnist", "--from", dotted.path().to_str().unwrap()],
        )
    };

    let dir = TempDir::new().unwrap();
    assert_eq!(failure(import(dir.path())).kind, Kind::Corrupt);
    assert!(
        !dir.path().join("MNIST").exists(),
        "damaged files are not copied"
    );
    fs::write(&labels_path, labels(3)).unwrap();
    import(dir.path()).unwrap();
    assert_eq!(mnist(dir.path()).unwrap().val.len(), 3);

    fs::write(&labels_path, idx(1, &[3], &[9, 9, 9])).unwrap();
    let e = failure(import(dir.path()));
    assert!(
        e.kind == Kind::Usage && e.message.contains("delete it"),
        "{e}"
    );
    fs::remove_file(&labels_path).unwrap();
    let e = failure(import(dir.path()));
    assert!(
        e.kind == Kind::Io && e.message.contains("t10k-labels-idx1-ubyte"),
        "{e}"
    );
}

#[test]
fn check_finds_flipped_bytes_everywhere() {
    let dir = small_mnist();
    let check = || data(dir.path(), &["check"]);
    check().unwrap();
    let flip = |name: &str, keep_time: bool| {
        let path = dir.path().join(name);
        let time = fs::metadata(&path).unwrap().modified().unwrap();
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes.len() - 20;
        bytes[at] ^= 1;
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        if keep_time {
            let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.set_modified(time).unwrap();
        }
    };
    flip("shards/mnist-val.shard", false);
    assert_eq!(failure(check()).kind, Kind::Corrupt);
    corrupt(
        data(dir.path(), &["check", "mnist"]),
        &["mnist-val.shard", "checksum"],
    );
    flip("shards/mnist-val.shard", false);
    check().unwrap();
    // Nothing but the sum tells of this one.
    flip(TRAIN_IMAGES, true);
    corrupt(
        data(dir.path(), &["check", "mnist"]),
        &["train-images-idx3-ubyte", "md5"],
    );
    flip(TRAIN_IMAGES, true);
    check().unwrap();
}

#[test]
fn the_subcommand_says_what_cannot_be_done() {
    let dir = TempDir::new().unwrap();
    data(dir.path(), &["list"]).unwrap();
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        0,
        "list creates nothing"
    );
    assert_eq!(
        failure(data(dir.path(), &["fetch", "synthetic_linear"])).kind,
        Kind::Usage
    );
    assert_eq!(
        failure(data(dir.path(), &["check", "imagenet64"])).kind,
        Kind::Usage
    );
    let e = failure(data(dir.path(), &["fetch", "rcv1"]));
    for part in ["rcv1_train.binary", "csie.ntu.edu.tw", "import rcv1 --from"] {
        assert!(e.message.contains(part), "{part:?} is not in {e}");
    }
}
