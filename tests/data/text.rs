//! `sensor` and the sets in LIBSVM's format.

use super::{all, corrupt, load, offline, put};
use serde_json::json;
use std::fs;
use std::io::Write;
use stepback_native::data::Pair;
use stepback_native::error::{Kind, Result};
use stepback_native::random::numpy::RandomState;
use tempfile::TempDir;

#[test]
fn sensor_splits_and_standardises() {
    let dir = TempDir::new().unwrap();
    // 3 by 4, with two gaps: ten values 1 to 10.
    let text = ",a,b,c,d\n7,1,2,0,3\n8,4,0,5,6\n9,7,8.0,9,1e1\n";
    let path = put(dir.path(), "sensor/Ventana_Eli_mes1.csv", text.as_bytes());
    let pair = load(&offline(dir.path()), "sensor", json!({}), "squared", 0).unwrap();
    assert_eq!((pair.train.len(), pair.val.len()), (8, 2));
    assert_eq!(
        (pair.train.sample().shape(), pair.train.target_shape()),
        (vec![2], &[1][..])
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
    let mut r = RandomState::new(12_345_678);
    let expected: Vec<f32> = r.permutation(10).iter().map(|i| *i as f32 + 1.0).collect();
    assert_eq!(order, expected);

    for (text, what) in [
        (",a\n1,2\n3,x\n", "line 3, field 2"),
        (",a\n1,2\n3,\n", "line 3, field 2"),
        (",a\n1,2\n3,NaN\n", "line 3, field 2"),
        (",a\n1,2\n3,4,5\n", "line 3 has 3 fields"),
        (",a\n1,2\n3,1e39\n", "\"1e39\", not a number of 32 bits"),
        (",a\n1,2\n3,4", "the file was cut"),
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
        (pair.train.sample().shape(), pair.train.classes()),
        (vec![4], None)
    );
    let rows = [
        ([0.5, 0.0, -2.0, 0.0], -1.0),
        ([0.0, 1e-3, 0.0, 0.0], 1.0),
        ([0.0; 4], 1.0),
        ([0.0, 0.0, 0.0, 7.0], -1.0),
        ([1.0, 2.0, 3.0, 4.0], 1.0),
        ([6.0, 0.0, 0.0, 0.0], -1.0),
    ];
    let order = RandomState::new(12_345_678).permutation(6);
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
fn labels_of_several_classes_are_counted_from_the_smallest() {
    let classes = |text: &str| {
        let pair = libsvm("wine", "libsvm/wine.scale", text.as_bytes()).unwrap();
        let ([x, y], [vx, vy]) = (
            <[_; 2]>::from(all(&pair.train)),
            <[_; 2]>::from(all(&pair.val)),
        );
        // The only feature tells the label.
        let pairs = [x, vx].concat().into_iter().zip([y, vy].concat());
        let mut pairs: Vec<_> = pairs.map(|(x, y)| (x as u32, y as u32)).collect();
        pairs.sort();
        pairs.dedup();
        assert_eq!(pair.train.classes(), pair.val.classes());
        (pairs, pair.train.classes())
    };
    let text = "3 1:3\n9 1:9\n5 1:5\n5 1:5\n+3.0 1:3\n9 1:9\n";
    assert_eq!(classes(text), (vec![(3, 0), (5, 2), (9, 6)], Some(7)));
    let text = "1 1:1\n0 1:0\n2 1:2\n2 1:2\n";
    assert_eq!(classes(text), (vec![(0, 0), (1, 1), (2, 2)], Some(3)));
    for (text, what) in [
        ("1 1:1\n-1 1:1\n2 1:1\n", "label -1 is not a class"),
        ("1 1:1\n1.5 1:1\n2 1:1\n", "label 1.5 is not a class"),
        ("1 1:1\n1e9 1:1\n2 1:1\n", "label 1000000000 is not a class"),
        ("1 1:1\n", "fewer than two samples"),
        ("", "fewer than two samples"),
    ] {
        corrupt(
            libsvm("dna", "libsvm/dna.scale", text.as_bytes()),
            &["libsvm/dna.scale", what],
        );
    }
}

/// Every share cuts the same order of the samples; the shards of each lie side by side.
#[test]
fn train_size_is_the_share_for_training() {
    let dir = TempDir::new().unwrap();
    let lines: String = (0..11).map(|i| format!("{} 1:{i}\n", i % 2)).collect();
    put(dir.path(), "libsvm/a1a", lines.as_bytes());
    let library = offline(dir.path());
    let halves = |kwargs| {
        let pair = load(&library, "a1a", kwargs, "logistic", 0)?;
        Ok((all(&pair.val).0, all(&pair.train).0))
    };
    let order: Vec<f32> = RandomState::new(12_345_678)
        .permutation(11)
        .iter()
        .map(|i| *i as f32)
        .collect();
    for (kwargs, train, shard) in [
        (json!({}), 8, "a1a-train.shard"),
        (json!({"train_size": 0.8}), 8, "a1a-train.shard"),
        (json!({"train_size": 0.5}), 5, "a1a-5e-1-train.shard"),
        (json!({"train_size": 0.95}), 10, "a1a-9.5e-1-train.shard"),
        (json!({"train_size": 0.1}), 1, "a1a-1e-1-train.shard"),
        (
            json!({"train_size": 1.0 - f64::EPSILON / 2.0}),
            10,
            "a1a-9.999999999999999e-1-train.shard",
        ),
    ] {
        let (first, second) = order.split_at(11 - train);
        let expected = (first.to_vec(), second.to_vec());
        let found: Result<_> = halves(kwargs);
        assert_eq!(found.unwrap(), expected);
        assert!(dir.path().join("shards").join(shard).is_file(), "{shard}");
    }
    let e = halves(json!({"train_size": 0.09})).expect_err("an error");
    assert_eq!(e.kind, Kind::Usage, "{e}");
    let text = "train_size 0.09 leaves none of the 11 samples of";
    assert!(e.message.contains(text), "{e}");
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
        (
            "1 1:2\n-1 1:1e39\n",
            "line 2: \"1:1e39\" is not a number of 32 bits",
        ),
        ("1 1:2\n-1 1:0.2", "line 2 has no end: the file was cut"),
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
