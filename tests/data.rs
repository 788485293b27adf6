//! Data sets: the order of batches and the computed sets against the reference's numbers, the sets made of
//! files on small files made here.

use clap::Parser;
use serde_json::{Map, Value, json};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use stepback_native::cli;
use stepback_native::data::fetch::Options;
use stepback_native::data::{Library, Loader, Origin, Pair, ROWS, Request, Split};
use stepback_native::error::{Error, Kind, Result};
use tempfile::TempDir;

fn load(
    library: &Library,
    name: &str,
    kwargs: Value,
    loss_func: &str,
    run_id: u64,
) -> Result<Pair> {
    let kwargs: Map<String, Value> = serde_json::from_value(kwargs).unwrap();
    library.load(Request {
        name,
        kwargs: &kwargs,
        loss_func,
        run_id,
    })
}

fn offline(dir: &Path) -> Library {
    Library::new(dir, true, Options::new(Vec::new(), true))
}

fn all(split: &Split) -> (Vec<f32>, Vec<f32>) {
    let indices: Vec<u32> = (0..split.len() as u32).collect();
    gather(split, &indices)
}

fn gather(split: &Split, indices: &[u32]) -> (Vec<f32>, Vec<f32>) {
    let features: usize = split.input_shape().iter().product();
    let targets: usize = split.target_shape().iter().product();
    let mut x = vec![f32::NAN; indices.len() * features];
    let mut y = vec![f32::NAN; indices.len() * targets];
    split.gather(indices, &mut x, &mut y);
    (x, y)
}

fn corrupt<T>(result: Result<T>, parts: &[&str]) {
    let e = result.err().expect("an error");
    assert_eq!(e.kind, Kind::Corrupt, "{e}");
    for part in parts {
        assert!(e.message.contains(part), "{part:?} is not in {e}");
    }
}

// The order of batches.

#[test]
fn the_loader_visits_samples_in_the_reference_order() {
    let goldens = include_str!("../records/goldens/sampler.json");
    let goldens: Value = serde_json::from_str(goldens).unwrap();
    let cases = goldens["cases"].as_array().unwrap();
    assert!(cases.len() >= 8);
    for case in cases {
        let number = |key: &str| case[key].as_u64().unwrap();
        let (n, batch_size) = (number("n") as usize, number("batch_size") as usize);
        let mut loader = Loader::new(number("run_id"), n, batch_size);
        for (i, epoch) in case["epochs"].as_array().unwrap().iter().enumerate() {
            assert_eq!(json!(loader.batches()), epoch["batches"]);
            let visited = loader.batches() * batch_size;
            let order = &loader.next_epoch()[..visited];
            let (first, last) = (epoch["first"].as_array(), epoch["last"].as_array());
            let (first, last) = (first.unwrap(), last.unwrap());
            assert_eq!(
                json!(order[..first.len()]),
                epoch["first"],
                "{case}, epoch {i}"
            );
            let tail = &order[order.len() - last.len()..];
            assert_eq!(json!(tail), epoch["last"], "{case}, epoch {i}");
            let terms = order.iter().zip(0u64..);
            let weighted: u64 = terms.map(|(v, i)| u64::from(*v) * (i % 1009)).sum();
            assert_eq!(json!(weighted), epoch["weighted"], "{case}, epoch {i}");
        }
    }
}

// Computed sets.

fn assert_close(what: &str, ours: f64, theirs: &Value, tolerance: f64) {
    let theirs = theirs.as_f64().unwrap();
    assert!(
        (ours - theirs).abs() <= tolerance,
        "{what}: {ours} for {theirs}"
    );
}

/// A tensor against its digest; entries within one rounding of f32.
fn assert_digest(what: &str, ours: &[f32], shape: &[usize], digest: &Value) {
    assert_eq!(json!(shape), digest["shape"], "{what}");
    let l2 = ours
        .iter()
        .map(|v| f64::from(*v).powi(2))
        .sum::<f64>()
        .sqrt();
    let sum: f64 = ours.iter().map(|v| f64::from(*v)).sum();
    assert_close(what, l2, &digest["l2"], 1e-7 * l2);
    assert_close(what, sum, &digest["sum"], 1e-7 * l2);
    let (first, last) = (digest["first"].as_array(), digest["last"].as_array());
    assert_entries(what, ours, first.unwrap());
    assert_entries(
        what,
        &ours[ours.len() - last.unwrap().len()..],
        last.unwrap(),
    );
}

fn assert_entries(what: &str, ours: &[f32], theirs: &[Value]) {
    assert!(!theirs.is_empty());
    for (i, (a, b)) in ours.iter().zip(theirs).enumerate() {
        assert_close(
            &format!("{what}[{i}]"),
            f64::from(*a),
            b,
            f64::from(a.abs()) * 1.2e-7,
        );
    }
}

#[test]
fn computed_sets_match_the_reference() {
    let goldens = include_str!("../records/goldens/datasets.json");
    let goldens: Value = serde_json::from_str(goldens).unwrap();
    let cases = goldens["cases"].as_array().unwrap();
    assert!(cases.len() >= 8);
    let library = offline(Path::new("nowhere"));
    for case in cases {
        let text = |key: &str| case[key].as_str().unwrap();
        let kwargs = case["dataset_kwargs"].clone();
        let pair = load(&library, text("dataset"), kwargs, text("loss_func"), 0).unwrap();
        let split = match text("split") {
            "train" => pair.train,
            _ => pair.val,
        };
        let what = format!("{} {}", text("dataset"), text("split"));
        let (x, y) = all(&split);
        let features = split.input_shape()[0];
        assert_digest(&what, &x, &[split.len(), features], &case["x"]);
        let y_shape = match split.target_shape() {
            [1] => vec![split.len()],
            [q] => vec![split.len(), *q],
            other => panic!("target shape {other:?}"),
        };
        assert_digest(&what, &y, &y_shape, &case["y"]);
        assert_entries(&what, &x[..features], case["x_row0"].as_array().unwrap());
        assert_entries(&what, &y, case["y_head"].as_array().unwrap());
        assert_eq!(split.classes(), None);
    }
}

#[test]
fn runs_share_what_they_have_in_common() {
    let library = offline(Path::new("nowhere"));
    let linear = |loss, run_id| {
        let kwargs = json!({"p": 10, "n_samples": 50});
        load(&library, "synthetic_linear", kwargs, loss, run_id).unwrap()
    };
    let (a, b, c) = (
        linear("squared", 0),
        linear("squared", 1),
        linear("logistic", 0),
    );
    assert!(Arc::ptr_eq(&a.train, &b.train) && !Arc::ptr_eq(&a.train, &c.train));
    assert!(!Arc::ptr_eq(&a.val, &b.val));
    assert_ne!(all(&a.val), all(&b.val));
    assert!(Arc::ptr_eq(&a.val, &linear("squared", 0).val));
}

#[test]
fn impossible_computed_sets_are_refused() {
    let library = offline(Path::new("nowhere"));
    let linear = |p: u64, n: u64| {
        let kwargs = json!({"p": p, "n_samples": n});
        load(&library, "synthetic_linear", kwargs, "squared", 0)
            .err()
            .unwrap()
    };
    let zero_row = linear(1, 500);
    assert_eq!(zero_row.kind, Kind::Usage);
    assert!(zero_row.message.contains("all zero") && zero_row.message.contains("n_samples = 500"));
    assert!(linear(1 << 40, 1 << 40).message.contains("too large"));
}

// Sets made of files.

fn idx(rank: u8, dims: &[u32], bytes: &[u8]) -> Vec<u8> {
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

fn put(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, bytes).unwrap();
    path
}

/// Pixel j of image i.
fn pixel(i: usize, j: usize) -> u8 {
    (i * 7 + j * 3) as u8
}

fn images(n: usize) -> Vec<u8> {
    let pixels: Vec<u8> = (0..n)
        .flat_map(|i| (0..784).map(move |j| pixel(i, j)))
        .collect();
    idx(3, &[n as u32, 28, 28], &pixels)
}

fn labels(n: usize) -> Vec<u8> {
    let digits: Vec<u8> = (0..n).map(|i| (i % 10) as u8).collect();
    idx(1, &[n as u32], &digits)
}

const TRAIN_IMAGES: &str = "MNIST/raw/train-images-idx3-ubyte";
const TRAIN_LABELS: &str = "MNIST/raw/train-labels-idx1-ubyte";
const VAL_IMAGES: &str = "MNIST/raw/t10k-images-idx3-ubyte";
const VAL_LABELS: &str = "MNIST/raw/t10k-labels-idx1-ubyte";

/// A data folder with 40 training images, plain, and 12 for validation, packed.
fn small_mnist() -> TempDir {
    let dir = TempDir::new().unwrap();
    put(dir.path(), TRAIN_IMAGES, &images(40));
    put(dir.path(), TRAIN_LABELS, &labels(40));
    put(dir.path(), &format!("{VAL_IMAGES}.gz"), &gz(&images(12)));
    put(dir.path(), &format!("{VAL_LABELS}.gz"), &gz(&labels(12)));
    dir
}

fn mnist(dir: &Path) -> Result<Pair> {
    load(&offline(dir), "mnist", json!({}), "cross_entropy", 0)
}

#[test]
fn mnist_is_normalised_like_torchvision() {
    let dir = small_mnist();
    let pair = mnist(dir.path()).unwrap();
    assert_eq!((pair.train.len(), pair.val.len()), (40, 12));
    assert_eq!(pair.train.input_shape(), [1, 28, 28]);
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
    assert_eq!(flat.val.input_shape(), [784]);
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
        (TRAIN_IMAGES, longer(images(40)), "behind its end"),
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
        corrupt(mnist(dir.path()), &["raw/train-", what, "get it anew"]);
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
    // File systems tell times apart by a few milliseconds at best.
    let change_labels = |labels: &[u8]| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        put(dir.path(), TRAIN_LABELS, labels);
    };
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
fn a_shard_cut_while_it_is_read_is_an_error_after_the_epoch() {
    let dir = small_mnist();
    let pair = mnist(dir.path()).unwrap();
    pair.train.check().unwrap();
    let path = dir.path().join("shards/mnist-train.shard");
    let mut permissions = fs::metadata(&path).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o644);
    fs::set_permissions(&path, permissions).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(8192).unwrap();
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

#[test]
fn sensor_splits_and_standardises() {
    let dir = TempDir::new().unwrap();
    // 3 by 4, with two gaps: ten values 1 to 10.
    let text = ",a,b,c,d\n7,1,2,0,3\n8,4,0,5,6\n9,7,8.0,9,1e1\n";
    let path = put(dir.path(), "sensor/Ventana_Eli_mes1.csv", text.as_bytes());
    let pair = load(&offline(dir.path()), "sensor", json!({}), "squared", 0).unwrap();
    assert_eq!((pair.train.len(), pair.val.len()), (8, 2));
    assert_eq!(
        (pair.train.input_shape(), pair.train.target_shape()),
        (&[2][..], &[1][..])
    );
    let (x, y) = all(&pair.train);
    let mean = y.iter().sum::<f32>() / 8.0;
    let variance = y.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / 8.0;
    assert!(mean.abs() < 1e-6 && (variance - 1.0).abs() < 1e-6);
    // Every value is at its place, up to the same scale in both halves.
    let value = |at: &[f32]| {
        let table = [[1, 2, 0, 3], [4, 0, 5, 6], [7, 8, 9, 10]];
        table[at[0] as usize][at[1] as usize] as f32
    };
    let slope = (y[1] - y[0]) / (value(&x[2..4]) - value(&x[0..2]));
    let (vx, vy) = all(&pair.val);
    for (at, y) in x.chunks(2).zip(&y).chain(vx.chunks(2).zip(&vy)).skip(1) {
        let expected = y - (value(at) - value(&x[0..2])) * slope;
        assert!((expected - all(&pair.train).1[0]).abs() < 1e-5);
    }
    // numpy.random.RandomState(12345678).permutation(10)
    let order: Vec<f32> = x.chunks(2).chain(vx.chunks(2)).map(value).collect();
    let mut r = stepback_native::random::numpy::RandomState::new(12_345_678);
    let expected: Vec<f32> = r.permutation(10).iter().map(|i| *i as f32 + 1.0).collect();
    assert_eq!(order, expected);

    for (text, what) in [
        (",a\n1,2\n3,x\n", "line 3, field 2"),
        (",a\n1,2\n3,\n", "line 3, field 2"),
        (",a\n1,2\n3,NaN\n", "line 3, field 2"),
        (",a\n1,2\n3,4,5\n", "line 3 has 3 fields"),
        (",a\n1,0\n", "fewer than two"),
        (",a,b\n1,3,3\n2,3,3\n", "all the same"),
    ] {
        fs::write(&path, text).unwrap();
        let result = load(&offline(dir.path()), "sensor", json!({}), "squared", 0);
        corrupt(result, &["Ventana_Eli_mes1.csv", what]);
    }
}

fn libsvm(name: &str, file: &str, bytes: &[u8]) -> Result<Pair> {
    let dir = TempDir::new().unwrap();
    put(dir.path(), file, bytes);
    load(&offline(dir.path()), name, json!({}), "logistic", 0)
}

#[test]
fn libsvm_files_are_read_and_split_like_scikit_learn() {
    let text = "0 1:0.5 3:-2 # one\n1 2:1e-3\n\n1\n0 4:7\n1 1:1 2:2 3:3 4:4\n0 1:6\n";
    let pair = libsvm("a1a", "libsvm/a1a.txt", text.as_bytes()).unwrap();
    // ceil(6 / 5) = 2 for validation, and they come first in the permutation.
    assert_eq!((pair.train.len(), pair.val.len()), (4, 2));
    assert_eq!(
        (pair.train.input_shape(), pair.train.classes()),
        (&[4][..], None)
    );
    let rows = [
        ([0.5, 0.0, -2.0, 0.0], -1.0),
        ([0.0, 1e-3, 0.0, 0.0], 1.0),
        ([0.0; 4], 1.0),
        ([0.0, 0.0, 0.0, 7.0], -1.0),
        ([1.0, 2.0, 3.0, 4.0], 1.0),
        ([6.0, 0.0, 0.0, 0.0], -1.0),
    ];
    let order = stepback_native::random::numpy::RandomState::new(12_345_678).permutation(6);
    let (vx, vy) = all(&pair.val);
    let (x, y) = all(&pair.train);
    let rows_seen = vx.chunks(4).chain(x.chunks(4)).zip(vy.iter().chain(&y));
    for ((x, y), i) in rows_seen.zip(order) {
        let (features, label) = rows[i as usize];
        assert_eq!((x, *y), (&features[..], label), "sample {i}");
    }
}

#[test]
fn libsvm_labels_become_signs() {
    let signs = |name, file, text: &str| {
        let pair = libsvm(name, file, text.as_bytes()).unwrap();
        let (x, y) = all(&pair.train);
        let (vx, vy) = all(&pair.val);
        let (x, y) = ([x, vx].concat(), [y, vy].concat());
        // The only feature repeats the label.
        x.into_iter()
            .zip(y)
            .map(|(x, y)| x * y)
            .fold(0.0, |a, b: f32| a + b)
    };
    let two = |a: &str, b: &str| format!("{a} 1:-1\n{b} 1:1\n{a} 1:-1\n{b} 1:1\n+{b} 1:1\n");
    assert_eq!(signs("a1a", "libsvm/a1a", &two("-1", "1")), 5.0);
    assert_eq!(signs("rcv1", "libsvm/rcv1", &two("0", "1.0")), 5.0);
    assert_eq!(signs("mushrooms", "libsvm/mushrooms", &two("1", "2")), 5.0);
    assert_eq!(
        signs(
            "breast-cancer",
            "libsvm/breast-cancer_scale",
            &two("2", "4")
        ),
        -5.0
    );
    assert_eq!(
        signs(
            "ijcnn",
            "libsvm/ijcnn1.tr",
            &two("-1", "1").replace("1:", "0:")
        ),
        5.0
    );
}

#[test]
fn packed_libsvm_files_are_read() {
    let mut packer = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    packer.write_all(b"-1 1:2\n1 2:3\n").unwrap();
    let packed = packer.finish().unwrap();
    let pair = libsvm("rcv1", "libsvm/rcv1_train.binary.bz2", &packed).unwrap();
    assert_eq!(pair.train.len(), 1);
    let cut = &packed[..packed.len() - 5];
    corrupt(
        libsvm("rcv1", "libsvm/rcv1_train.binary.bz2", cut),
        &["bz2", "unpacked"],
    );
}

#[test]
fn bad_libsvm_lines_are_named() {
    for (text, what) in [
        ("1 1:2\nx 1:2\n", "line 2: \"x\""),
        ("1 1:2\n-1 1;2\n", "line 2: \"1;2\""),
        ("1 1:2\n-1 1:y\n", "line 2: \"1:y\""),
        ("1 1:2\n-1 -3:1\n", "line 2: \"-3:1\""),
        ("1 1:2\n-1 4000000000:1\n", "line 2"),
        ("1 1:2\n-1 2:1 2:1\n", "ascending"),
        ("1 1:nan\n-1 2:1\n", "line 1"),
        ("1 1:2\n1 1:2\n", "1 different labels"),
        ("1 1:2\n2 1:2\n3 1:2\n", "3 different labels"),
        ("", "0 different labels"),
    ] {
        corrupt(
            libsvm("a1a", "libsvm/a1a", text.as_bytes()),
            &["libsvm/a1a", what],
        );
    }
    corrupt(
        libsvm("a1a", "libsvm/a1a", b"1 1:\xff\n"),
        &["line 1", "UTF-8"],
    );
}

// The subcommand.

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: cli::data::Args,
}

fn data(dir: &Path, words: &[&str]) -> Result<()> {
    let dir = dir.to_str().unwrap();
    let words = [&["data", "--json", "--data-dir", dir], words].concat();
    cli::data::run(&Cli::parse_from(words).args)
}

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

#[test]
fn every_row_is_well_formed() {
    for (i, row) in ROWS.iter().enumerate() {
        assert!(
            ROWS[..i]
                .iter()
                .all(|other| other.entry.name != row.entry.name)
        );
        for key in row.entry.keys {
            let default = key.default.map(|d| serde_json::from_str(d).unwrap());
            assert!(default.is_none_or(|d| key.kind.accepts(&d)), "{}", key.name);
        }
        if let Origin::Files(files) = &row.origin {
            for raw in files.raw {
                let remote = raw.remote.as_ref();
                assert!(
                    remote.is_none_or(|r| raw.names.contains(&r.name) && !files.mirrors.is_empty())
                );
            }
        }
    }
}

/// The real files, where STEPBACK_DATA_DIR says they are.
#[test]
fn the_real_mnist() {
    let Some(dir) = std::env::var_os("STEPBACK_DATA_DIR") else {
        eprintln!("skipped: STEPBACK_DATA_DIR is not set");
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
