//! Sets of the LIBSVM collection in svmlight format. Kept sparse on disk, handed out dense.
//!
//! The format says nothing of what the labels mean. In sets of two classes 0/1 become -1/1, -1/1 stay, and of any
//! other two labels (1/2 in `mushrooms`) the smaller becomes -1; `breast-cancer` alone is the other way round. In the other
//! sets labels are classes, counted from the smallest of them if that is above 0.

use super::packed;
use super::raw::{self, Files, RawFile};
use super::shard::{Classes, Contents, Features, Form, Shard, Targets, Writer};
use super::{Origin, Part, Request, Row, Split, TARGET_SEED, TRAIN_SIZE};
use crate::config::Entry;
use crate::error::{Error, Result};
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
    None,
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
    None,
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
    None,
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
    None,
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
    None,
    convert_descending,
);

pub const DNA: Row = row(
    "dna",
    "splice sites of genes, 2000 samples of 180 features, three classes",
    &[RawFile {
        names: &["libsvm/dna.scale"],
        md5: &[],
        remote: None,
    }],
    Some(Classes::AtMost(MAX_CLASSES)),
    convert_classes,
);

pub const WINE: Row = row(
    "wine",
    "wines of three growers, 178 samples of 13 features, three classes",
    &[RawFile {
        names: &["libsvm/wine.scale"],
        md5: &[],
        remote: None,
    }],
    Some(Classes::AtMost(MAX_CLASSES)),
    convert_classes,
);

const fn row(
    name: &'static str,
    about: &'static str,
    raw: &'static [RawFile],
    classes: Option<Classes>,
    convert: fn(&[PathBuf], f64, &mut Writer, &mut Writer) -> Result<()>,
) -> Row {
    Row {
        entry: Entry {
            name,
            about,
            paper: "Chang, Lin: LIBSVM: A Library for Support Vector Machines (2011)",
            keys: &[TRAIN_SIZE],
        },
        origin: Origin::Files(Files {
            raw,
            convert,
            open,
            form: Form {
                features: Features::Sparse,
                sample: None,
                classes,
                places: None,
            },
            limit: LIMIT,
            archives: &[],
            mirrors: &[],
            home: match classes {
                None => "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/binary.html",
                Some(_) => {
                    "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass.html"
                }
            },
        }),
    }
}

/// More than any set of the collection has; keeps a damaged index from filling the memory.
const MAX_FEATURES: u32 = 1 << 26;

/// More than any set of the collection has, and few enough for floats to tell them apart.
const MAX_CLASSES: u32 = 1 << 20;

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

fn convert_ascending(paths: &[PathBuf], share: f64, a: &mut Writer, b: &mut Writer) -> Result<()> {
    convert(&paths[0], Labels::Signs([-1.0, 1.0]), share, [a, b])
}

fn convert_descending(paths: &[PathBuf], share: f64, a: &mut Writer, b: &mut Writer) -> Result<()> {
    convert(&paths[0], Labels::Signs([1.0, -1.0]), share, [a, b])
}

fn convert_classes(paths: &[PathBuf], share: f64, a: &mut Writer, b: &mut Writer) -> Result<()> {
    convert(&paths[0], Labels::Classes, share, [a, b])
}

/// What labels become.
#[derive(Clone, Copy)]
enum Labels {
    /// The smaller and the larger one.
    Signs([f32; 2]),
    Classes,
}

/// The targets of all samples.
enum All {
    Signs(Vec<f32>),
    Classes { labels: Vec<u32>, classes: u32 },
}

impl Labels {
    /// Of the labels of the file at `path`.
    fn targets(self, labels: &[f64], path: &Path) -> Result<All> {
        let mut kinds = labels.to_vec();
        kinds.sort_by(f64::total_cmp);
        kinds.dedup();
        let signs = match (self, kinds.as_slice()) {
            (Labels::Classes, kinds) => return classes(labels, kinds, path),
            (Labels::Signs(signs), &[_, _]) => signs,
            (Labels::Signs(_), kinds) => {
                let kinds = kinds.len();
                let text = format!("it has {kinds} different labels, not two");
                return Err(raw::damaged(path, text));
            }
        };
        let sign = |label: &f64| signs[usize::from(*label != kinds[0])];
        Ok(All::Signs(labels.iter().map(sign).collect()))
    }
}

/// Labels as classes; `kinds` are those that there are, in ascending order.
fn classes(labels: &[f64], kinds: &[f64], path: &Path) -> Result<All> {
    let first = kinds.first().map_or(0.0, |least| least.max(0.0));
    let class = |label: &f64| {
        let class = label - first;
        let fits = class.fract() == 0.0 && (0.0..f64::from(MAX_CLASSES)).contains(&class);
        fits.then_some(class as u32).ok_or_else(|| {
            let text = format!("label {label} is not a class (expected a whole number, 0 or more)");
            raw::damaged(path, text)
        })
    };
    Ok(All::Classes {
        labels: labels.iter().map(class).collect::<Result<_>>()?,
        classes: kinds.last().map(class).transpose()?.map_or(1, |c| c + 1),
    })
}

fn convert(path: &Path, labels: Labels, share: f64, halves: [&mut Writer; 2]) -> Result<()> {
    let mut table = read(path)?;
    let n = table.labels.len();
    let targets = labels.targets(&table.labels, path)?;
    // Indices start at 1 unless one of them is 0, as scikit-learn's reader takes it.
    let base = table.pairs.iter().map(|(column, _)| *column).min();
    let base = base.unwrap_or(0).min(1);
    table
        .pairs
        .iter_mut()
        .for_each(|(column, _)| *column -= base);
    let last = table.pairs.iter().map(|(column, _)| *column).max();
    let features = last.map_or(1, |column| column as usize + 1);

    if n < 2 {
        return Err(raw::damaged(path, "it has fewer than two samples"));
    }
    let order = RandomState::new(TARGET_SEED).permutation(n);
    // As scikit-learn cuts it: those for validation come first.
    let (val, train) = order.split_at(n - (share * n as f64) as usize);
    // The other half has one at least, for the share is below 1.
    if train.is_empty() {
        let path = path.display();
        return Err(Error::usage(format!(
            "train_size {share} leaves none of the {n} samples of {path} for training"
        )));
    }
    for (half, out) in [train, val].into_iter().zip(halves) {
        let mut rows = vec![0];
        let mut pairs: Vec<[u32; 2]> = Vec::new();
        for i in half.iter().map(|i| *i as usize) {
            let row = table.rows[i] as usize..table.rows[i + 1] as usize;
            let row = table.pairs[row].iter();
            pairs.extend(row.map(|(column, value)| [*column, value.to_bits()]));
            rows.push(pairs.len() as u64);
        }
        let (mut signs, mut labels) = (Vec::new(), Vec::new());
        let targets = match &targets {
            All::Signs(all) => {
                signs.extend(half.iter().map(|i| all[*i as usize]));
                Targets::Floats(&signs)
            }
            All::Classes {
                labels: all,
                classes,
            } => {
                labels.extend(half.iter().map(|i| all[*i as usize]));
                Targets::Classes {
                    labels: &labels,
                    classes: *classes,
                }
            }
        };
        out.features(bytemuck::cast_slice(&pairs))?;
        out.finish(&Contents {
            features: Features::Sparse,
            sample: &[features],
            target: &[1],
            targets,
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
