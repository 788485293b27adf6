//! `mnist`: 28 x 28 images of digits, from the IDX files of LeCun, Cortes and Burges.

use super::packed;
use super::raw::{self, Files, RawFile, Remote};
use super::shard::{Classes, Contents, Features, Form, Shard, Targets, Writer};
use super::split::normalise;
use super::{Origin, Part, Request, Row, Split};
use crate::config::{Entry, Key, Kind, Values};
use crate::error::Result;
use crate::graph::Sample;
use std::io::Read;
use std::path::{Path, PathBuf};

pub const ROW: Row = Row {
    entry: Entry {
        name: "mnist",
        about: "handwritten digits, 60000 for training and 10000 for validation, 10 classes",
        paper: "LeCun, Bottou, Bengio, Haffner: Gradient-Based Learning Applied to Document Recognition (1998)",
        keys: KEYS,
    },
    origin: Origin::Files(Files {
        raw: RAW,
        convert,
        open,
        form: Form {
            features: Features::Bytes,
            sample: Some(&[SIDE as u32, SIDE as u32, 1]),
            classes: Some(Classes::Exactly(CLASSES)),
            places: None,
        },
        limit: LIMIT,
        archives: &[],
        mirrors: &[
            "https://ossci-datasets.s3.amazonaws.com/mnist",
            "https://storage.googleapis.com/cvdf-datasets/mnist",
        ],
        home: "https://ossci-datasets.s3.amazonaws.com/mnist/ (train-images-idx3-ubyte.gz and so on)",
    }),
};

const KEYS: &[Key] = &[
    Key {
        name: "normalize",
        kind: Kind::Flag,
        default: Some("true"),
        about: "subtract the mean 0.1307 and divide by the standard deviation 0.3081",
    },
    Key {
        name: "as_image",
        kind: Kind::Flag,
        default: Some("true"),
        about: "samples of shape (1, 28, 28) rather than (784,)",
    },
];

const RAW: &[RawFile] = &[
    RawFile {
        names: &[
            "MNIST/raw/train-images-idx3-ubyte",
            "MNIST/raw/train-images-idx3-ubyte.gz",
            "MNIST/raw/train-images.idx3-ubyte",
            "MNIST/raw/train-images.idx3-ubyte.gz",
        ],
        md5: &["6bbc9ace898e44ae57da46a324031adb"],
        remote: Some(Remote {
            file: "train-images-idx3-ubyte.gz",
            name: "MNIST/raw/train-images-idx3-ubyte.gz",
            md5: "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        }),
    },
    RawFile {
        names: &[
            "MNIST/raw/train-labels-idx1-ubyte",
            "MNIST/raw/train-labels-idx1-ubyte.gz",
            "MNIST/raw/train-labels.idx1-ubyte",
            "MNIST/raw/train-labels.idx1-ubyte.gz",
        ],
        md5: &["a25bea736e30d166cdddb491f175f624"],
        remote: Some(Remote {
            file: "train-labels-idx1-ubyte.gz",
            name: "MNIST/raw/train-labels-idx1-ubyte.gz",
            md5: "d53e105ee54ea40749a09fcbcd1e9432",
        }),
    },
    RawFile {
        names: &[
            "MNIST/raw/t10k-images-idx3-ubyte",
            "MNIST/raw/t10k-images-idx3-ubyte.gz",
            "MNIST/raw/t10k-images.idx3-ubyte",
            "MNIST/raw/t10k-images.idx3-ubyte.gz",
        ],
        md5: &["2646ac647ad5339dbf082846283269ea"],
        remote: Some(Remote {
            file: "t10k-images-idx3-ubyte.gz",
            name: "MNIST/raw/t10k-images-idx3-ubyte.gz",
            md5: "9fb629c4189551a2d022fa330f9573f3",
        }),
    },
    RawFile {
        names: &[
            "MNIST/raw/t10k-labels-idx1-ubyte",
            "MNIST/raw/t10k-labels-idx1-ubyte.gz",
            "MNIST/raw/t10k-labels.idx1-ubyte",
            "MNIST/raw/t10k-labels.idx1-ubyte.gz",
        ],
        md5: &["27ae3e4e09519cfbb04c329615203637"],
        remote: Some(Remote {
            file: "t10k-labels-idx1-ubyte.gz",
            name: "MNIST/raw/t10k-labels-idx1-ubyte.gz",
            md5: "ec29112dd5afa0611ce80d1b7f02629c",
        }),
    },
];

const SIDE: usize = 28;
const CLASSES: u32 = 10;
/// More than any file of this format holds; keeps a damaged count from filling the memory.
const MAX_COUNT: usize = 1_000_000;
/// Bytes of a file with this many images.
const LIMIT: u64 = (16 + MAX_COUNT * SIDE * SIDE) as u64;

fn convert(paths: &[PathBuf], _: f64, train: &mut Writer, val: &mut Writer) -> Result<()> {
    convert_half(&paths[0], &paths[1], train)?;
    convert_half(&paths[2], &paths[3], val)
}

fn convert_half(images_path: &Path, labels_path: &Path, out: &mut Writer) -> Result<()> {
    let labels = read_idx(labels_path, &[])?;
    let images = read_idx(images_path, &[SIDE, SIDE])?;
    let (n, m) = (labels.len(), images.len() / (SIDE * SIDE));
    if n != m {
        let text = format!(
            "it has {m} images, but {} has {n} labels",
            labels_path.display()
        );
        return Err(raw::damaged(images_path, text));
    }
    let labels: Vec<u32> = labels.into_iter().map(u32::from).collect();
    if let Some(i) = labels.iter().position(|label| *label >= CLASSES) {
        let text = format!("label {i} is {}, not a digit of 0 to 9", labels[i]);
        return Err(raw::damaged(labels_path, text));
    }
    out.features(&images)?;
    out.finish(&Contents {
        features: Features::Bytes,
        sample: &[SIDE, SIDE, 1],
        target: &[1],
        targets: Targets::Classes {
            labels: &labels,
            classes: CLASSES,
        },
        rows: &[],
    })
}

/// The content of an IDX file of bytes: a magic number of two zeros, the element type (8 for bytes) and the
/// rank, then the dimensions, all big-endian; here a count followed by `shape`.
fn read_idx(path: &Path, shape: &[usize]) -> Result<Vec<u8>> {
    let damaged = |text: String| Err(raw::damaged(path, text));
    let mut reader = packed::open(path, LIMIT + 1)?;
    let mut head = Vec::new();
    let wanted = 4 + 4 * (1 + shape.len());
    let read = reader.by_ref().take(wanted as u64).read_to_end(&mut head);
    read.map_err(|e| packed::read_error(path, &e))?;
    if head.len() < wanted {
        return damaged(format!("it is cut short, {} bytes long", head.len()));
    }
    let number = |i: usize| u32::from_be_bytes(head[4 * i..4 * i + 4].try_into().expect("4 bytes"));
    let magic = 0x0800 | (1 + shape.len() as u32);
    if number(0) != magic {
        let found = number(0);
        return damaged(format!(
            "its magic number is {found:#010x} where {magic:#010x} is expected"
        ));
    }
    let count = number(1) as usize;
    if !(1..=MAX_COUNT).contains(&count) {
        return damaged(format!("its count of samples, {count}, is out of range"));
    }
    for (i, side) in shape.iter().enumerate() {
        let found = number(2 + i);
        if found as usize != *side {
            return damaged(format!("its images have a side of {found}, not of {side}"));
        }
    }
    let length = count * shape.iter().product::<usize>();
    let mut content = Vec::new();
    let read = reader.take(length as u64 + 1).read_to_end(&mut content);
    read.map_err(|e| packed::read_error(path, &e))?;
    if content.len() != length {
        let what = if content.len() < length {
            "is cut short"
        } else {
            "goes on after its end"
        };
        return damaged(format!(
            "it {what}: its header asks for {count} samples, {length} bytes"
        ));
    }
    Ok(content)
}

fn open(shard: Shard, _: Part, request: &Request) -> Result<Split> {
    let values = Values::new(KEYS, request.kwargs);
    let mean_and_std = match values.flag("normalize") {
        true => (0.1307, 0.3081),
        false => (0.0, 1.0),
    };
    let sample = match values.flag("as_image") {
        true => Sample::Image {
            channels: 1,
            height: SIDE,
            width: SIDE,
        },
        false => Sample::Vector(SIDE * SIDE),
    };
    Ok(Split::of_shard(shard, sample, normalise(&[mean_and_std])))
}
