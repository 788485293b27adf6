//! Sets of the LIBSVM collection in svmlight format, for binary classification. Kept sparse on disk,
//! handed out dense.
//!
//! The format says nothing of what the labels mean: 0/1 become -1/1, -1/1 stay, and of any other two
//! labels (1/2 in `mushrooms`) the smaller becomes -1. `breast-cancer` alone is the other way round.

use super::packed;
use super::raw::{self, Files, RawFile};
use super::shard::{Contents, Features, Form, Shard, Targets, Writer};
use super::{Origin, Part, Request, Row, Split, TARGET_SEED};
use crate::config::Entry;
use crate::error::Result;
use crate::graph::Sample;
use crate::random::numpy::RandomState;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

pub const RCV1: Row = row(
    "rcv1",
    "news articles, 20242 samples of 47236 features, two classes",
    &[RawFile {
        names: &[
            "libsvm/rcv1_train.binary",
            "libsvm/rcv1_train.binary.bz2",
            "libsvm/rcv1",
            "libsvm/rcv1.bz2",
        ],
        md5: &[],
        remote: None,
    }],
    convert_ascending,
);

pub const MUSHROOMS: Row = row(
    "mushrooms",
    "edible or poisonous mushrooms, 8124 samples of 112 features, two classes",
    &[RawFile {
        names: &[
            "libsvm/mushrooms",
            "libsvm/mushrooms.txt",
            "libsvm/mushrooms.bz2",
        ],
        md5: &[],
        remote: None,
    }],
    convert_ascending,
);

pub const A1A: Row = row(
    "a1a",
    "adult census income, 1605 samples of 119 features, two classes",
    &[RawFile {
        names: &["libsvm/a1a", "libsvm/a1a.txt", "libsvm/a1a.bz2"],
        md5: &[],
        remote: None,
    }],
    convert_ascending,
);

pub const IJCNN: Row = row(
    "ijcnn",
    "the IJCNN 2001 challenge, 22 features, two classes",
    &[RawFile {
        names: &[
            "libsvm/ijcnn1.tr",
            "libsvm/ijcnn1.tr.bz2",
            "libsvm/ijcnn1",
            "libsvm/ijcnn1.bz2",
            "libsvm/ijcnn",
            "libsvm/ijcnn.bz2",
        ],
        md5: &[],
        remote: None,
    }],
    convert_ascending,
);

pub const BREAST_CANCER: Row = row(
    "breast-cancer",
    "the Wisconsin breast cancer data, 683 samples of 10 features, two classes",
    &[RawFile {
        names: &[
            "libsvm/breast-cancer_scale",
            "libsvm/breast-cancer_scale.bz2",
            "libsvm/breast-cancer",
            "libsvm/breast-cancer.bz2",
        ],
        md5: &[],
        remote: None,
    }],
    convert_descending,
);

const fn row(
    name: &'static str,
    about: &'static str,
    raw: &'static [RawFile],
    convert: fn(&[PathBuf], &mut Writer, &mut Writer) -> Result<()>,
) -> Row {
    Row {
        entry: Entry {
            name,
            about,
            paper: "Chang, Lin: LIBSVM: A Library for Support Vector Machines (2011)",
            keys: &[],
        },
        origin: Origin::Files(Files {
            raw,
            convert,
            open,
            form: Form {
                features: Features::Sparse,
                sample: None,
                classes: None,
                places: None,
            },
            limit: LIMIT,
            archives: &[],
            mirrors: &[],
            home: "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/binary.html",
        }),
    }
}

/// More than any set of the collection has; keeps a damaged index from filling the memory.
const MAX_FEATURES: u32 = 1 << 26;

/// Bytes that no set of the collection of this size has.
const LIMIT: u64 = 1 << 32;

/// Longest line, in bytes.
const MAX_LINE: u64 = 1 << 26;

/// A file's content, columns numbered as in the file.
struct Table {
    labels: Vec<f64>,
    /// First pair of every sample, and the end of the last one.
    rows: Vec<u64>,
    pairs: Vec<(u32, f32)>,
}

fn convert_ascending(paths: &[PathBuf], train: &mut Writer, val: &mut Writer) -> Result<()> {
    convert(&paths[0], [-1.0, 1.0], train, val)
}

fn convert_descending(paths: &[PathBuf], train: &mut Writer, val: &mut Writer) -> Result<()> {
    convert(&paths[0], [1.0, -1.0], train, val)
}

/// `signs` are what the smaller and the larger label become.
fn convert(path: &Path, signs: [f32; 2], train: &mut Writer, val: &mut Writer) -> Result<()> {
    let mut table = read(path)?;
    let n = table.labels.len();
    let mut kinds = table.labels.clone();
    kinds.sort_by(f64::total_cmp);
    kinds.dedup();
    let &[low, _] = kinds.as_slice() else {
        let kinds = kinds.len();
        return Err(raw::damaged(
            path,
            format_args!("it has {kinds} different labels, not two"),
        ));
    };
    // Indices start at 1 unless one of them is 0, as scikit-learn's reader takes it.
    let base = table.pairs.iter().map(|(column, _)| *column).min();
    let base = base.unwrap_or(0).min(1);
    table
        .pairs
        .iter_mut()
        .for_each(|(column, _)| *column -= base);
    let last = table.pairs.iter().map(|(column, _)| *column).max();
    let features = last.map_or(1, |column| column as usize + 1);

    let order = RandomState::new(TARGET_SEED).permutation(n);
    // ceil(n / 5), what scikit-learn makes of test_size = 0.2.
    let (second, first) = order.split_at(n.div_ceil(5));
    if first.is_empty() {
        return Err(raw::damaged(path, "it has a single sample"));
    }
    for (half, out) in [(first, train), (second, val)] {
        let mut rows = vec![0];
        let mut pairs: Vec<[u32; 2]> = Vec::new();
        for i in half.iter().map(|i| *i as usize) {
            let row = table.rows[i] as usize..table.rows[i + 1] as usize;
            let row = table.pairs[row].iter();
            pairs.extend(row.map(|(column, value)| [*column, value.to_bits()]));
            rows.push(pairs.len() as u64);
        }
        let sign = |i: &u32| signs[usize::from(table.labels[*i as usize] != low)];
        let targets: Vec<f32> = half.iter().map(sign).collect();
        out.features(bytemuck::cast_slice(&pairs))?;
        out.finish(&Contents {
            features: Features::Sparse,
            sample: &[features],
            target: &[1],
            targets: Targets::Floats(&targets),
            rows: &rows,
        })?;
    }
    Ok(())
}

/// Lines of `LABEL INDEX:VALUE ...`, indices ascending; `#` starts a comment.
fn read(path: &Path) -> Result<Table> {
    let mut table = Table {
        labels: Vec::new(),
        rows: vec![0],
        pairs: Vec::new(),
    };
    let mut reader = BufReader::new(packed::open(path, LIMIT)?);
    let mut line = String::new();
    for number in 1.. {
        line.clear();
        match reader.by_ref().take(MAX_LINE).read_line(&mut line) {
            Ok(0) => break,
            Ok(_) if line.ends_with('\n') => {}
            Ok(_) => {
                let text = format!("line {number} has no end: the file was cut there");
                return Err(raw::damaged(path, text));
            }
            Err(e) if e.kind() == ErrorKind::InvalidData && e.raw_os_error().is_none() => {
                return Err(raw::damaged(path, format_args!("line {number}: {e}")));
            }
            Err(e) => return Err(packed::read_error(path, &e)),
        }
        let content = line.split('#').next().unwrap_or_default();
        let mut words = content.split_ascii_whitespace();
        let Some(label) = words.next() else {
            continue;
        };
        let number_in = |text: &str| text.parse::<f64>().ok().filter(|v| v.is_finite());
        let wrong = |word: &str, what: &str| {
            let text = format!("line {number}: {word:?} is not {what}");
            raw::damaged(path, text)
        };
        let label = number_in(label).ok_or_else(|| wrong(label, "a label"))?;
        let mut previous = None;
        for word in words {
            let pair = word.split_once(':').and_then(|(index, value)| {
                let index = index.parse::<u32>().ok().filter(|i| *i <= MAX_FEATURES)?;
                Some((index, number_in(value)?))
            });
            let (index, value) = pair.ok_or_else(|| wrong(word, "of the form INDEX:VALUE"))?;
            let value = Some(value as f32).filter(|v| v.is_finite());
            let value = value.ok_or_else(|| wrong(word, "a number of 32 bits"))?;
            if previous.is_some_and(|p| p >= index) {
                return Err(wrong(word, "in ascending order"));
            }
            previous = Some(index);
            table.pairs.push((index, value));
        }
        table.labels.push(label);
        table.rows.push(table.pairs.len() as u64);
    }
    Ok(table)
}

fn open(shard: Shard, _: Part, _: &Request) -> Result<Split> {
    let features = shard.header().sample[0] as usize;
    Ok(Split::of_shard(shard, Sample::Vector(features), Vec::new()))
}
