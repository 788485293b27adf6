//! `mnist` and the life of shards, on small IDX files made here.

use super::{all, corrupt, gather, load, offline, put, put_later};
use serde_json::json;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use stepback_native::data::Pair;
use stepback_native::data::shard::{Contents, Features, Targets, Writer, header_of};
use stepback_native::error::{Kind, Result};
use tempfile::TempDir;

pub fn idx(rank: u8, dims: &[u32], bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0, 0, 8, rank];
    out.extend(dims.iter().flat_map(|d| d.to_be_bytes()));
    out.extend(bytes);
    out
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Pixel j of image i.
fn pixel(i: usize, j: usize) -> u8 {
    (i * 7 + j * 3) as u8
}

pub fn images(n: usize) -> Vec<u8> {
    let pixels: Vec<u8> = (0..n)
        .flat_map(|i| (0..784).map(move |j| pixel(i, j)))
        .collect();
    idx(3, &[n as u32, 28, 28], &pixels)
}

pub fn labels(n: usize) -> Vec<u8> {
    let digits: Vec<u8> = (0..n).map(|i| (i % 10) as u8).collect();
    idx(1, &[n as u32], &digits)
}

pub const TRAIN_IMAGES: &str = "MNIST/raw/train-images-idx3-ubyte";
const TRAIN_LABELS: &str = "MNIST/raw/train-labels-idx1-ubyte";
const VAL_IMAGES: &str = "MNIST/raw/t10k-images-idx3-ubyte";
const VAL_LABELS: &str = "MNIST/raw/t10k-labels-idx1-ubyte";

/// A data folder with 40 training images, plain, and 12 for validation, packed.
pub fn small_mnist() -> TempDir {
    let dir = TempDir::new().unwrap();
    put(dir.path(), TRAIN_IMAGES, &images(40));
    put(dir.path(), TRAIN_LABELS, &labels(40));
    put(dir.path(), &format!("{VAL_IMAGES}.gz"), &gz(&images(12)));
    put(dir.path(), &format!("{VAL_LABELS}.gz"), &gz(&labels(12)));
    dir
}

pub fn mnist(dir: &Path) -> Result<Pair> {
    load(&offline(dir), "mnist", json!({}), "cross_entropy", 0)
}

#[test]
fn mnist_is_normalised_like_torchvision() {
    let dir = small_mnist();
    let pair = mnist(dir.path()).unwrap();
    assert_eq!((pair.train.len(), pair.val.len()), (40, 12));
    assert_eq!(pair.train.sample().shape(), [1, 28, 28]);
    assert_eq!(pair.train.target_shape(), [1]);
    assert_eq!(pair.train.classes(), Some(10));
    let (x, y) = gather(&pair.train, &[3, 17, 3]);
    assert_eq!(y, [3.0, 7.0, 3.0]);
    for (row, i) in [3, 17, 3].into_iter().enumerate() {
        for j in 0..784 {
            let expected = (f32::from(pixel(i, j)) / 255.0 - 0.1307) / 0.3081;
            assert_eq!(x[row * 784 + j], expected);
        }
    }

    let kwargs = json!({"normalize": false, "as_image": false});
    let flat = load(&offline(dir.path()), "mnist", kwargs, "cross_entropy", 0).unwrap();
    assert_eq!(flat.val.sample().shape(), [784]);
    let (x, _) = all(&flat.val);
    assert_eq!(x[785], f32::from(pixel(1, 1)) / 255.0);
}

#[test]
fn large_batches_are_gathered_alike() {
    let dir = small_mnist();
    let pair = mnist(dir.path()).unwrap();
    // 500 samples are gathered on several threads, one is not.
    let indices: Vec<u32> = (0..500).map(|i| i * 7 % 40).collect();
    let (x, y) = gather(&pair.train, &indices);
    for (row, index) in indices.iter().enumerate() {
        let (one, target) = gather(&pair.train, &[*index]);
        assert_eq!(one, x[row * 784..][..784]);
        assert_eq!(target[0], y[row]);
    }
}

#[test]
fn damaged_idx_files_are_named() {
    let cut = |bytes: &[u8], n: usize| bytes[..bytes.len() - n].to_vec();
    let with = |mut bytes: Vec<u8>, at: usize, value: u8| {
        bytes[at] = value;
        bytes
    };
    let longer = |mut bytes: Vec<u8>| {
        bytes.push(0);
        bytes
    };
    let packed = gz(&images(40));
    let middle = packed.len() / 2;
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        (TRAIN_IMAGES, cut(&images(40), 1), "cut short"),
        (TRAIN_IMAGES, Vec::new(), "cut short"),
        (TRAIN_IMAGES, images(40)[..9].to_vec(), "cut short"),
        (TRAIN_IMAGES, longer(images(40)), "after its end"),
        (TRAIN_IMAGES, labels(40), "magic number"),
        (TRAIN_IMAGES, with(images(40), 2, 9), "magic number"),
        (TRAIN_IMAGES, with(images(40), 4, 255), "count"),
        (TRAIN_IMAGES, with(images(40), 11, 27), "side of 27"),
        (TRAIN_IMAGES, images(39), "39 images"),
        (TRAIN_LABELS, labels(41), "41 labels"),
        (TRAIN_LABELS, idx(1, &[0], &[]), "count"),
        (TRAIN_LABELS, with(labels(40), 8 + 5, 10), "label 5 is 10"),
    ];
    for (name, bytes, what) in cases {
        let dir = small_mnist();
        put(dir.path(), name, &bytes);
        corrupt(
            mnist(dir.path()),
            &["raw/train-", what, "download it again"],
        );
        assert!(!dir.path().join("shards/mnist-train.shard").exists());
    }
    for (bytes, what) in [
        (cut(&packed, 100), "unpacked"),
        (with(packed.clone(), middle, packed[middle] ^ 16), "damaged"),
        (gz(&cut(&images(40), 1)), "cut short"),
    ] {
        let dir = small_mnist();
        fs::remove_file(dir.path().join(TRAIN_IMAGES)).unwrap();
        put(dir.path(), &format!("{TRAIN_IMAGES}.gz"), &bytes);
        corrupt(mnist(dir.path()), &["train-images-idx3-ubyte.gz", what]);
    }
}

#[test]
fn shards_follow_the_raw_files() {
    let dir = small_mnist();
    let shard = dir.path().join("shards/mnist-train.shard");
    let inode = || std::os::unix::fs::MetadataExt::ino(&fs::metadata(&shard).unwrap());
    let change_labels = |labels: &[u8]| put_later(dir.path(), TRAIN_LABELS, labels);
    let first = mnist(dir.path()).unwrap();
    let made = (inode(), fs::read(&shard).unwrap());
    mnist(dir.path()).unwrap();
    assert_eq!(made.0, inode(), "not made a second time");

    // Same content, another time: the shard's content stays, and its header learns the time.
    change_labels(&labels(40));
    mnist(dir.path()).unwrap();
    let touched = (inode(), fs::read(&shard).unwrap());
    assert!(made.1[..4096] != touched.1[..4096] && made.1[4096..] == touched.1[4096..]);
    mnist(dir.path()).unwrap();
    assert_eq!(touched.0, inode(), "not written a third time");

    // The sums alone decide that: a change to the shard (with right checksums) would survive.
    let mut edited = touched.1.clone();
    edited[4096 + 40 * 784] = 6;
    let end = edited.len();
    let body = crc32c::crc32c(&edited[4096..end - 8]).to_le_bytes();
    edited[end - 8..end - 4].copy_from_slice(&body);
    edited[end - 4..].copy_from_slice(&crc32c::crc32c(&body).to_le_bytes());
    fs::remove_file(&shard).unwrap();
    fs::write(&shard, edited).unwrap();
    change_labels(&labels(40));
    assert_eq!(all(&mnist(dir.path()).unwrap().train).1[0], 6.0);

    // Another content of the same length.
    let mut others = labels(40);
    others[8] = 9;
    change_labels(&others);
    let second = mnist(dir.path()).unwrap();
    assert_eq!(
        (all(&first.train).1[0], all(&second.train).1[0]),
        (0.0, 9.0)
    );
    let left = fs::read_dir(dir.path().join("shards")).unwrap().count();
    assert_eq!(left, 3, "two shards and the lock");
}

#[test]
fn processes_that_start_together_make_the_shards_once() {
    let dir = small_mnist();
    let lengths: Vec<usize> = std::thread::scope(|scope| {
        let load = || mnist(dir.path()).unwrap().train.len();
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(load)).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(lengths, [40; 8]);
    let left = fs::read_dir(dir.path().join("shards")).unwrap().count();
    assert_eq!(left, 3, "two shards and the lock");
}

#[test]
fn a_shard_cut_while_it_is_read_is_an_error_after_the_epoch() {
    let dir = small_mnist();
    let pair = mnist(dir.path()).unwrap();
    pair.train.check().unwrap();
    let path = dir.path().join("shards/mnist-train.shard");
    writable(&path).set_len(8192).unwrap();
    let (_, y) = all(&pair.train);
    assert_eq!(y[39], 0.0, "what is gone reads as zero");
    corrupt(
        pair.train.check(),
        &["mnist-train.shard", "while it was being read", "delete it"],
    );
    corrupt(
        mnist(dir.path()),
        &["mnist-train.shard", "8192 bytes", "delete it"],
    );
}

/// Makes a shard writable, for tests that do what nobody should.
fn writable(path: &Path) -> fs::File {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    fs::set_permissions(path, mode).unwrap();
    fs::OpenOptions::new().write(true).open(path).unwrap()
}

#[test]
fn a_shard_changed_while_it_is_read_is_an_error_after_the_run() {
    use std::os::unix::fs::FileExt;
    let dir = small_mnist();
    let path = dir.path().join("shards/mnist-train.shard");
    mnist(dir.path()).unwrap();
    let before = fs::read(&path).unwrap();
    let with_other_labels = |label: u8| {
        put_later(dir.path(), TRAIN_LABELS, &idx(1, &[40], &[label; 40]));
        mnist(dir.path()).unwrap();
        fs::read(&path).unwrap()
    };
    // Another shard of the same length, whole as it is.
    let other = with_other_labels(9);
    assert_eq!(before.len(), other.len());
    let pair = mnist(dir.path()).unwrap();
    pair.train.check_all().unwrap();
    let file = writable(&path);
    for (at, bytes) in [(4096 + 5, &before[..1]), (0, &before[..])] {
        let kept = fs::read(&path).unwrap();
        file.write_all_at(bytes, at).unwrap();
        file.write_all_at(&[bytes[0] ^ 1], at).unwrap();
        pair.train.check().unwrap();
        corrupt(
            pair.train.check_all(),
            &[
                "mnist-train.shard changed while it was being read",
                "delete it",
            ],
        );
        file.write_all_at(&kept, 0).unwrap();
        pair.train.check_all().unwrap();
    }
    // Sound in itself.
    file.write_all_at(&before, 0).unwrap();
    corrupt(pair.train.check_all(), &["changed while it was being read"]);
    pair.val.check_all().unwrap();
}

#[test]
fn shards_of_another_form_are_refused() {
    let dir = small_mnist();
    mnist(dir.path()).unwrap();
    let path = dir.path().join("shards/mnist-train.shard");
    let sources = header_of(&path).unwrap().unwrap().sources;
    let write = |features, sample: &[usize], classes| {
        let mut writer = Writer::create(&path).unwrap();
        let width = if features == Features::Floats { 4 } else { 1 };
        let length = 2 * width * sample.iter().product::<usize>();
        writer.features(&vec![0; length]).unwrap();
        let (labels, floats) = ([0, 1], [0.0; 2]);
        let contents = Contents {
            features,
            sample,
            target: &[1],
            targets: match classes {
                0 => Targets::Floats(&floats),
                classes => Targets::Classes {
                    labels: &labels,
                    classes,
                },
            },
            rows: &[],
        };
        writer.finish(&contents).unwrap();
        writer.commit(sources.clone()).unwrap();
    };
    write(Features::Bytes, &[28, 28, 1], 10);
    assert_eq!(
        mnist(dir.path()).unwrap().train.len(),
        2,
        "the form is right"
    );
    for (features, sample, classes) in [
        (Features::Bytes, &[14, 28, 1][..], 10),
        (Features::Bytes, &[28, 28], 10),
        (Features::Bytes, &[28, 28, 1], 11),
        (Features::Bytes, &[28, 28, 1], 0),
        (Features::Floats, &[28, 28, 1], 10),
    ] {
        write(features, sample, classes);
        corrupt(
            mnist(dir.path()),
            &["mnist-train.shard is no shard of mnist", "delete it"],
        );
    }
}

#[test]
fn the_published_files_are_known() {
    let dir = small_mnist();
    static TOLD: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let library = offline(dir.path()).telling(|text| TOLD.lock().unwrap().push(text.to_owned()));
    for normalize in [true, false] {
        let kwargs = json!({"normalize": normalize});
        let pair = load(&library, "mnist", kwargs, "cross_entropy", 0).unwrap();
        assert_eq!(pair.train.published(), Some(false));
    }
    let told = TOLD.lock().unwrap();
    assert!(
        told.len() == 1 && told[0].contains("not the published ones"),
        "{told:?}"
    );
    let sum = mnist(dir.path()).unwrap().train.checksum().unwrap();
    // The same samples in other files.
    fs::remove_file(dir.path().join(TRAIN_IMAGES)).unwrap();
    put(
        dir.path(),
        "MNIST/raw/train-images.idx3-ubyte.gz",
        &gz(&images(40)),
    );
    let pair = mnist(dir.path()).unwrap();
    assert_eq!(pair.train.checksum(), Some(sum));
    assert_ne!(pair.val.checksum(), Some(sum));
}

#[test]
fn what_is_no_file_is_refused_at_once() {
    let fifo = |path: &Path| {
        let made = std::process::Command::new("mkfifo").arg(path).status();
        assert!(made.unwrap().success());
    };
    let dir = small_mnist();
    mnist(dir.path()).unwrap();
    for name in ["shards/mnist-val.shard", TRAIN_IMAGES, "shards/.lock"] {
        let path = dir.path().join(name);
        fs::remove_file(&path).unwrap();
        fifo(&path);
        if name == "shards/.lock" {
            // Nothing is made as long as nothing has changed.
            mnist(dir.path()).unwrap();
            put_later(dir.path(), TRAIN_LABELS, &idx(1, &[40], &[3; 40]));
        }
        let e = mnist(dir.path()).err().unwrap();
        assert!(matches!(e.kind, Kind::Io | Kind::CannotCreate), "{e}");
        assert!(e.message.contains("regular file"), "{e}");
        fs::remove_file(&path).unwrap();
        put(dir.path(), TRAIN_IMAGES, &images(40));
        mnist(dir.path()).unwrap();
    }
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let dir = small_mnist();
    put(dir.path(), "shards", b"a file where a folder should be");
    let e = mnist(dir.path()).err().unwrap();
    assert_eq!(e.kind, Kind::CannotCreate);
    assert!(e.message.contains("shards"), "{e}");
}

#[test]
fn missing_files_are_listed() {
    let dir = small_mnist();
    fs::remove_file(dir.path().join(TRAIN_LABELS)).unwrap();
    let e = mnist(dir.path()).err().unwrap();
    assert_eq!(e.kind, Kind::Io);
    let path = dir.path().join(TRAIN_LABELS);
    assert!(e.message.contains(&format!("{}", path.display())), "{e}");
    assert!(
        e.message.contains("data import mnist --from") && !e.message.contains("t10k"),
        "{e}"
    );
}

/// The real files, where STEPBACK_DATA_DIR says they are.
#[test]
fn the_real_mnist() {
    let Some(dir) = std::env::var_os("STEPBACK_DATA_DIR") else {
        // Past the test harness, which keeps what a passing test prints to itself.
        let text = "skipped the_real_mnist: STEPBACK_DATA_DIR is not set";
        writeln!(std::io::stderr(), "{text}").unwrap();
        return;
    };
    let pair = mnist(Path::new(&dir)).unwrap();
    assert_eq!((pair.train.len(), pair.val.len()), (60_000, 10_000));
    let (x, y) = all(&pair.train);
    assert_eq!(y[..8], [5.0, 0.0, 4.0, 1.0, 9.0, 2.0, 1.0, 3.0]);
    // What the normalisation is for: mean 0 and standard deviation 1.
    let n = x.len() as f64;
    let mean = x.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
    let square = x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / n;
    assert!(
        mean.abs() < 1e-3 && (square - 1.0).abs() < 1e-3,
        "{mean} {square}"
    );
}
