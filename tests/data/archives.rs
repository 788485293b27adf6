//! Archives of every kind, sound and damaged, and what a killed import leaves.

use super::mnist::{images, labels, mnist, small_mnist};
use super::{all, corrupt, put};
use std::fs;
use std::io::Write;
use std::path::Path;
use stepback_native::data::raw::Set;
use stepback_native::data::{Origin, row};
use stepback_native::error::{Kind, Result};
use tempfile::TempDir;

/// The files of a small MNIST, as they are called in archives that people make of them.
fn files() -> [(&'static str, Vec<u8>); 4] {
    [
        ("train-images-idx3-ubyte", images(30)),
        ("train-labels-idx1-ubyte", labels(30)),
        ("t10k-images-idx3-ubyte", images(10)),
        ("t10k-labels-idx1-ubyte", labels(10)),
    ]
}

/// A tar of these files below a folder.
fn tar_below(folder: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files() {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        let name = format!("{folder}{name}");
        // Past the builder, which would tidy the name.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        builder.append(&header, content.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

fn import(dir: &Path, from: &Path) -> Result<Vec<&'static str>> {
    let Origin::Files(files) = &row("mnist").unwrap().origin else {
        panic!("mnist is made of files");
    };
    Set::new("mnist", files, dir).import(from)
}

/// Imports an archive of this content into a folder of its own.
fn imported(name: &str, archive: &[u8]) -> (TempDir, Result<Vec<&'static str>>) {
    let dir = TempDir::new().unwrap();
    let from = put(dir.path(), name, archive);
    let result = import(&dir.path().join("data"), &from);
    (dir, result)
}

#[test]
fn archives_are_known_by_their_content() {
    let tar = tar_below("MNIST/raw/");
    let mut bz2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bz2.write_all(&tar).unwrap();
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, content) in files() {
        let options = zip::write::SimpleFileOptions::default();
        // As Kaggle packs it: dotted names, beside folders called like the files.
        zip.start_file(name.replace("-idx", ".idx"), options)
            .unwrap();
        zip.write_all(&content).unwrap();
        zip.start_file(format!("{name}/{name}"), options).unwrap();
        zip.write_all(b"not wanted").unwrap();
    }
    let archives = [
        ("a.tar", tar_below("./MNIST/raw/")),
        ("a.tar.gz", gz(&tar_below("././"))),
        ("a.zip", gz(&tar)),
        ("a", bz2.finish().unwrap()),
        // Python: lzma.compress of such a tar, of one image and one label each.
        ("a.tar.xz", include_bytes!("mnist.tar.xz").to_vec()),
        ("b.zip", zip.finish().unwrap().into_inner()),
    ];
    for (name, archive) in archives {
        let (dir, result) = imported(name, &archive);
        assert_eq!(result.unwrap().len(), 4, "{name}");
        let pair = mnist(&dir.path().join("data")).unwrap();
        let n = if name == "a.tar.xz" { 1 } else { 30 };
        assert_eq!(pair.train.len(), n, "{name}");
    }
    for (archive, what) in [
        (&b"\x28\xb5\x2f\xfd rest"[..], "zstd"),
        (b"7z\xbc\xaf\x27\x1c", "7-Zip"),
    ] {
        let (_, result) = imported("a.tar", archive);
        corrupt(
            result,
            &["a.tar: it is packed with", what, "unpack it first"],
        );
    }
}

#[test]
fn a_flipped_bit_of_a_packed_archive_is_found() {
    let good = gz(&tar_below(""));
    let mut found = 0;
    for k in 0..60 {
        let mut archive = good.clone();
        let bit = k * (8 * good.len() - 1) / 59;
        archive[bit / 8] ^= 1 << (bit % 8);
        let (dir, result) = imported("a.tar.gz", &archive);
        match result {
            Err(e) => {
                assert_eq!(e.kind, Kind::Corrupt, "{e}");
                found += 1;
            }
            // The time in the header means nothing, nor do the bits that fill the last byte.
            Ok(_) => {
                let raw = dir.path().join("data/MNIST/raw");
                for (name, content) in files() {
                    assert_eq!(fs::read(raw.join(name)).unwrap(), content);
                }
            }
        }
    }
    assert!(found > 50, "{found}");
}

#[test]
fn members_that_are_too_long_are_refused_early() {
    let mut header = tar::Header::new_gnu();
    header.set_path("train-images-idx3-ubyte").unwrap();
    header.set_size(3 << 30);
    header.set_cksum();
    // The rest is not even there.
    let archive = [&header.as_bytes()[..], &[0; 4096]].concat();
    let (dir, result) = imported("a.tar", &archive);
    corrupt(result, &["a.tar", "3221225472 bytes, more than any file"]);
    let left = fs::read_dir(dir.path().join("data/shards")).unwrap();
    assert_eq!(left.count(), 1, "the lock");
}

#[test]
fn the_next_import_removes_what_a_killed_one_left() {
    let raw = small_mnist();
    let dir = TempDir::new().unwrap();
    put(
        dir.path(),
        "shards/.tmp-a/MNIST/raw/t10k-images-idx3-ubyte",
        b"1",
    );
    put(dir.path(), "shards/.tmp-b", b"2");
    put(dir.path(), "MNIST/raw/.tmp-c", b"3");
    put(dir.path(), "MNIST/raw/.mine", b"4");
    import(dir.path(), raw.path()).unwrap();
    let names = |folder: &str| {
        let entries = fs::read_dir(dir.path().join(folder)).unwrap();
        let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| name.starts_with('.')).collect();
        names.sort();
        names
    };
    assert_eq!(
        (names("shards"), names("MNIST/raw")),
        (vec![".lock".into()], vec![".mine".into()])
    );
}

#[test]
fn of_two_imports_of_different_content_one_fails() {
    let (a, b) = (small_mnist(), small_mnist());
    put(b.path(), "MNIST/raw/train-images-idx3-ubyte", &images(39));
    put(b.path(), "MNIST/raw/train-labels-idx1-ubyte", &labels(39));
    for _ in 0..10 {
        let dir = TempDir::new().unwrap();
        let results = std::thread::scope(|scope| {
            let threads = [&a, &b].map(|from| scope.spawn(|| import(dir.path(), from.path())));
            threads.map(|thread| thread.join().unwrap())
        });
        let failures: Vec<_> = results.iter().filter_map(|r| r.as_ref().err()).collect();
        let [e] = failures[..] else {
            panic!("one fails, not {}", failures.len());
        };
        assert_eq!(e.kind, Kind::Usage, "{e}");
        let n = if results[0].is_ok() { 40 } else { 39 };
        let pair = mnist(dir.path()).unwrap();
        assert_eq!((pair.train.len(), all(&pair.train).1.len()), (n, n));
    }
}

#[test]
fn long_names_are_not_kept_in_memory() {
    // A thread's memory cannot be limited, but a process's can.
    let mut archive = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    for kind in [tar::EntryType::GNULongName, tar::EntryType::XHeader] {
        let mut header = tar::Header::new_gnu();
        header.set_path("././@LongLink").unwrap();
        header.set_entry_type(kind);
        header.set_size(1 << 29);
        header.set_cksum();
        archive.write_all(header.as_bytes()).unwrap();
        (0..1 << 9).for_each(|_| archive.write_all(&vec![b'a'; 1 << 20]).unwrap());
    }
    archive.write_all(&tar_below("")).unwrap();
    let dir = TempDir::new().unwrap();
    put(dir.path(), "a.tar.gz", &archive.finish().unwrap());
    let command = format!(
        "ulimit -v 500000; RAYON_NUM_THREADS=1 exec {} data import mnist --from a.tar.gz",
        env!("CARGO_BIN_EXE_stepback-native")
    );
    let mut shell = std::process::Command::new("sh");
    let ran = shell
        .args(["-c", &command])
        .current_dir(dir.path())
        .output();
    let ran = ran.unwrap();
    assert!(
        ran.status.success(),
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
}
