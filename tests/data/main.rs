//! Data sets: the order of batches and the computed sets against the reference's numbers, the sets made of
//! files on small files made here.

mod archives;
mod augment;
mod cifar;
mod command;
mod fetch;
mod mnist;
mod pickle;
mod shard;
mod text;
mod windows;

use serde_json::{Map, Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use stepback_native::data::fetch::Options;
use stepback_native::data::{Library, Loader, Origin, Pair, ROWS, Request, Split};
use stepback_native::error::{Error, Kind, Result};

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
        seq_len: None,
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
    let features = split.sample().len();
    let targets: usize = split.target_shape().iter().product();
    let mut x = vec![f32::NAN; indices.len() * features];
    let mut y = vec![f32::NAN; indices.len() * targets];
    split.gather(indices, &[], &mut x, &mut y);
    (x, y)
}

fn corrupt<T>(result: Result<T>, parts: &[&str]) {
    let e = result.err().expect("an error");
    assert_eq!(e.kind, Kind::Corrupt, "{e}");
    for part in parts {
        assert!(e.message.contains(part), "{part:?} is not in {e}");
    }
}

fn put(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, bytes).unwrap();
    path
}

/// Puts other content into a file, whose time is another one then: at once, the clock of the file system may give it the same.
fn put_later(dir: &Path, name: &str, bytes: &[u8]) {
    let before = fs::metadata(dir.join(name)).unwrap().modified().unwrap();
    let file = fs::File::options().append(true).open(put(dir, name, bytes));
    file.unwrap()
        .set_modified(before + Duration::from_secs(1))
        .unwrap();
}

/// Runs the program's `data` subcommand.
fn data_command(dir: &Path, words: &[&str]) -> Result<()> {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_stepback-native"));
    let command = command.args(["data", "--json", "--data-dir"]).arg(dir);
    let output = command.args(words).output().unwrap();
    let kinds = [Kind::Usage, Kind::Corrupt, Kind::CannotCreate, Kind::Io];
    let code = output.status.code().unwrap();
    match kinds
        .into_iter()
        .find(|kind| i32::from(kind.exit_code()) == code)
    {
        Some(kind) => Err(Error::new(kind, String::from_utf8(output.stderr).unwrap())),
        None => {
            assert_eq!(code, 0);
            Ok(())
        }
    }
}

// The order of batches.

#[test]
fn the_loader_visits_samples_in_the_reference_order() {
    let goldens = include_str!("../../records/goldens/sampler.json");
    let goldens: Value = serde_json::from_str(goldens).unwrap();
    let cases = goldens["cases"].as_array().unwrap();
    assert!(cases.len() >= 8);
    for case in cases {
        let number = |key: &str| case[key].as_u64().unwrap();
        let (n, batch_size) = (number("n") as usize, number("batch_size") as usize);
        let loader = || Loader::new(number("run_id"), n, batch_size);
        let (mut loader, mut ahead) = (loader(), loader().ahead());
        for (i, epoch) in case["epochs"].as_array().unwrap().iter().enumerate() {
            assert_eq!(json!(loader.batches()), epoch["batches"]);
            let visited = loader.batches() * batch_size;
            let order = &loader.next_epoch()[..visited];
            assert_eq!(ahead.next_epoch()[..visited], *order, "{case}, epoch {i}");
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
    let goldens = include_str!("../../records/goldens/datasets.json");
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
        let features = split.sample().len();
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
