//! `cifar10` and `cifar100`: 32 x 32 photographs of Krizhevsky, Nair and Hinton, from the binary batch files
//! or from the pickled ones. Of CIFAR-100's labels the fine ones count.

use super::augment::Recipe;
use super::packed;
use super::pickle::{Array, Pickle};
use super::raw::{self, Archive, Files, RawFile};
use super::shard::{Classes, Contents, Features, Form, Shard, Targets, Writer};
use super::split::normalise;
use super::{Origin, Part, Row, Split};
use crate::config::Entry;
use crate::data::shard::map::MappedFile;
use crate::error::Result;
use crate::graph::Sample;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

pub const CIFAR10: Row = Row {
    entry: Entry {
        name: "cifar10",
        about: "32 x 32 photographs, 50000 for training and 10000 for validation, 10 classes, augmented",
        paper: "Krizhevsky: Learning Multiple Layers of Features from Tiny Images (2009)",
        keys: &[],
    },
    origin: Origin::Files(Files {
        raw: &[
            RawFile {
                names: &[
                    "cifar-10-batches-bin/data_batch_1.bin",
                    "cifar-10-batches-py/data_batch_1",
                ],
                md5: &[
                    "5dd7e06a14cb22eb9f671a540d1b7c25",
                    "c99cafc152244af753f735de768cd75f",
                ],
                remote: None,
            },
            RawFile {
                names: &[
                    "cifar-10-batches-bin/data_batch_2.bin",
                    "cifar-10-batches-py/data_batch_2",
                ],
                md5: &[
                    "5ea93a67294ea407fff1d09f752e9692",
                    "d4bba439e000b95fd0a9bffe97cbabec",
                ],
                remote: None,
            },
            RawFile {
                names: &[
                    "cifar-10-batches-bin/data_batch_3.bin",
                    "cifar-10-batches-py/data_batch_3",
                ],
                md5: &[
                    "942cd6a4bcdd0dd3c604fbe906cb4421",
                    "54ebc095f3ab1f0389bbae665268c751",
                ],
                remote: None,
            },
            RawFile {
                names: &[
                    "cifar-10-batches-bin/data_batch_4.bin",
                    "cifar-10-batches-py/data_batch_4",
                ],
                md5: &[
                    "ae636b3ba5c66a11e91e8cb52e771fcb",
                    "634d18415352ddfa80567beed471001a",
                ],
                remote: None,
            },
            RawFile {
                names: &[
                    "cifar-10-batches-bin/data_batch_5.bin",
                    "cifar-10-batches-py/data_batch_5",
                ],
                md5: &[
                    "53f37980c15c3d472c316c40844f3f0d",
                    "482c414d41f54cd18b22e5b47cb7c3cb",
                ],
                remote: None,
            },
            RawFile {
                names: &[
                    "cifar-10-batches-bin/test_batch.bin",
                    "cifar-10-batches-py/test_batch",
                ],
                md5: &[
                    "803d5f7f4d78ea53de84dbe85f74fb6d",
                    "40351d587109b95175f43aff81a1287e",
                ],
                remote: None,
            },
        ],
        convert: |paths, _, train, val| {
            FORMAT10.convert(&paths[..5], train)?;
            FORMAT10.convert(&paths[5..], val)
        },
        open: |shard, part, _| {
            let mean_and_std = [(0.4914, 0.2470), (0.4822, 0.2435), (0.4465, 0.2616)];
            Ok(open(shard, part, &mean_and_std, Recipe::FlipThenCrop))
        },
        form: form(FORMAT10.classes),
        limit: LIMIT,
        archives: &[
            Archive {
                file: "cifar-10-binary.tar.gz",
                md5: "c32a1d4ab5d03f1284b67883e8d87530",
            },
            Archive {
                file: "cifar-10-python.tar.gz",
                md5: "c58f30108f718f92721af3b95e74349a",
            },
        ],
        mirrors: MIRRORS,
        home: HOME,
    }),
};

pub const CIFAR100: Row = Row {
    entry: Entry {
        name: "cifar100",
        about: "32 x 32 photographs, 50000 for training and 10000 for validation, 100 classes, augmented",
        paper: "Krizhevsky: Learning Multiple Layers of Features from Tiny Images (2009)",
        keys: &[],
    },
    origin: Origin::Files(Files {
        raw: &[
            RawFile {
                names: &["cifar-100-binary/train.bin", "cifar-100-python/train"],
                md5: &[
                    "6172c7755cfe09b2fe270c85cebc1b15",
                    "16019d7e3df5f24257cddd939b257f8d",
                ],
                remote: None,
            },
            RawFile {
                names: &["cifar-100-binary/test.bin", "cifar-100-python/test"],
                md5: &[
                    "4499cfba6c016c1be1438163640a0898",
                    "f0ef6b0ae62326f3e7ffdfab6717acfc",
                ],
                remote: None,
            },
        ],
        convert: |paths, _, train, val| {
            FORMAT100.convert(&paths[..1], train)?;
            FORMAT100.convert(&paths[1..], val)
        },
        open: |shard, part, _| {
            let mean_and_std = [(0.5071, 0.2673), (0.4866, 0.2564), (0.4409, 0.2762)];
            Ok(open(shard, part, &mean_and_std, Recipe::FlipThenCrop))
        },
        form: form(FORMAT100.classes),
        limit: LIMIT,
        archives: &[
            Archive {
                file: "cifar-100-binary.tar.gz",
                md5: "03b5dce01913d631647c71ecec9e9cb8",
            },
            Archive {
                file: "cifar-100-python.tar.gz",
                md5: "eb9058c3a382ffc7106e4002c42a8d85",
            },
        ],
        mirrors: MIRRORS,
        home: HOME,
    }),
};

const MIRRORS: &[&str] = &["https://www.cs.toronto.edu/~kriz"];
const HOME: &str = "https://www.cs.toronto.edu/~kriz/cifar.html";

pub const SIDE: usize = 32;
/// Bytes of an image.
pub const IMAGE: usize = 3 * SIDE * SIDE;
/// More than any file of these formats holds; keeps a damaged file from filling the disk.
const MAX_COUNT: usize = 2_000_000;
/// Bytes that no file of them reaches: the largest one published, of ImageNet, has 0.4 of them.
pub(super) const LIMIT: u64 = 1 << 30;

/// What the shards of photographs hold.
pub(super) const fn form(classes: u32) -> Form {
    Form {
        features: Features::Bytes,
        sample: Some(&[SIDE as u32, SIDE as u32, 3]),
        classes: Some(Classes::Exactly(classes)),
        places: None,
    }
}

/// A split of colour photographs; those for training are augmented.
pub(super) fn open(shard: Shard, part: Part, mean_and_std: &[(f32, f32)], recipe: Recipe) -> Split {
    let sample = Sample::Image {
        channels: 3,
        height: SIDE,
        width: SIDE,
    };
    let split = Split::of_shard(shard, sample, normalise(mean_and_std));
    match part {
        Part::Train => split.augmented(recipe),
        Part::Val => split,
    }
}

/// How a set spells its labels.
struct Format {
    name: &'static str,
    other: &'static str,
    classes: u32,
    /// Bytes before a binary record's pixels, the last of which is the label.
    head: usize,
    other_head: usize,
    /// The labels' key in a pickle, and the one that a pickle of the other set has.
    key: &'static str,
    other_key: &'static str,
}

const FORMAT10: Format = Format {
    name: "cifar10",
    other: "cifar100",
    classes: 10,
    head: 1,
    other_head: 2,
    key: "labels",
    other_key: "fine_labels",
};

const FORMAT100: Format = Format {
    name: "cifar100",
    other: "cifar10",
    classes: 100,
    head: 2,
    other_head: 1,
    key: "fine_labels",
    other_key: "labels",
};

impl Format {
    fn convert(&self, paths: &[PathBuf], out: &mut Writer) -> Result<()> {
        let mut half = Half::new(0, self.classes, out);
        for path in paths {
            match path.extension().is_some_and(|e| e == "bin") {
                true => self.read_binary(path, &mut half)?,
                false => self.read_pickle(path, &mut half)?,
            }
        }
        half.finish()
    }

    /// Records of labels and three planes of pixels, nothing before, between or behind them.
    fn read_binary(&self, path: &Path, half: &mut Half) -> Result<()> {
        let record = self.head + IMAGE;
        let length = std::fs::metadata(path).map_or(0, |m| m.len() as usize);
        if !length.is_multiple_of(record) && length.is_multiple_of(self.other_head + IMAGE) {
            return Err(self.of_the_other_set(path));
        }
        let mut reader = packed::open(path, LIMIT)?;
        let mut bytes = vec![0; record];
        for i in 0.. {
            match fill(&mut reader, &mut bytes) {
                Ok(0) if i > 0 => break,
                Ok(n) if n == record => {}
                Ok(n) => {
                    let text = format!(
                        "it is cut short: record {i} has {n} bytes where {record} are expected"
                    );
                    return Err(raw::damaged(path, text));
                }
                Err(e) => return Err(packed::read_error(path, &e)),
            }
            let (labels, planes) = bytes.split_at(self.head);
            let label = i64::from(labels[self.head - 1]);
            half.add(path, i, label, |plane| planes[plane])?;
        }
        Ok(())
    }

    fn read_pickle(&self, path: &Path, half: &mut Half) -> Result<()> {
        read_pickle(path, half, |pickle| {
            let labels = pickle.get(self.key).and_then(|item| item.integers());
            match labels {
                Some(labels) => Ok(labels),
                None if pickle.get(self.other_key).is_some() => Err(self.of_the_other_set(path)),
                None => {
                    let text = format!("it has no list of integers called {}", self.key);
                    Err(raw::damaged(path, text))
                }
            }
        })
    }

    fn of_the_other_set(&self, path: &Path) -> crate::error::Error {
        let text = format!("it is a file of {}, not of {}", self.other, self.name);
        raw::damaged(path, text)
    }
}

/// Fills the buffer as far as there are bytes.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// Adds the images of a pickled dictionary: `data` (n x 3072 or n x 3 x 32 x 32 bytes in channel, row, column
/// order) and as many labels, which `labels` takes out of it.
pub(super) fn read_pickle(
    path: &Path,
    half: &mut Half,
    labels: impl FnOnce(&Pickle) -> Result<Vec<i64>>,
) -> Result<()> {
    let file = MappedFile::open(path)?;
    let pickle = Pickle::parse(&file).map_err(|why| raw::damaged(path, why))?;
    let labels = labels(&pickle)?;
    let data = pickle.get("data").and_then(|item| item.array());
    let data = data.filter(|array| {
        let images = matches!(array.shape, [_, IMAGE] | [_, 3, SIDE, SIDE]);
        images && array.dtype == b"u1"
    });
    let Some(data) = data else {
        let text = "it has no array of bytes called data, of shape (n, 3072) or (n, 3, 32, 32)";
        return Err(raw::damaged(path, text));
    };
    if labels.len() != data.shape[0] || labels.is_empty() {
        let (images, labels) = (data.shape[0], labels.len());
        let text = format!("it has {images} images and {labels} labels");
        return Err(raw::damaged(path, text));
    }
    for (i, label) in labels.into_iter().enumerate() {
        half.add(path, i, label, |plane| data.bytes[place(&data, i, plane)])?;
    }
    match file.damaged() {
        false => Ok(()),
        true => Err(raw::damaged(path, "it was cut while it was being read")),
    }
}

/// Where number `k` of image `i`, in channel, row, column order, lies in the array.
fn place(data: &Array, i: usize, k: usize) -> usize {
    if !data.fortran {
        return i * IMAGE + k;
    }
    let n = data.shape[0];
    let k = match data.shape.len() {
        2 => k,
        _ => {
            let (channel, y, x) = (k / (SIDE * SIDE), k / SIDE % SIDE, k % SIDE);
            (x * SIDE + y) * 3 + channel
        }
    };
    i + n * k
}

/// The images and labels of one half on their way into a shard.
pub(super) struct Half<'w> {
    /// The label of the first class.
    first: i64,
    classes: u32,
    out: &'w mut Writer,
    labels: Vec<u32>,
    image: Vec<u8>,
}

impl<'w> Half<'w> {
    pub fn new(first: i64, classes: u32, out: &'w mut Writer) -> Half<'w> {
        Half {
            first,
            classes,
            out,
            labels: Vec::new(),
            image: vec![0; IMAGE],
        }
    }

    /// The next image, number `i` of the file at `path`; `byte` gives its bytes in channel, row, column
    /// order.
    fn add(&mut self, path: &Path, i: usize, label: i64, byte: impl Fn(usize) -> u8) -> Result<()> {
        let (first, last) = (self.first, self.first + i64::from(self.classes) - 1);
        if !(first..=last).contains(&label) {
            let text = format!("label {i} is {label} (expected {first} to {last})");
            return Err(raw::damaged(path, text));
        }
        if self.labels.len() == MAX_COUNT {
            let text = format!("more than {MAX_COUNT} images");
            return Err(raw::damaged(path, text));
        }
        for (at, pixel) in self.image.iter_mut().enumerate() {
            *pixel = byte(at % 3 * SIDE * SIDE + at / 3);
        }
        self.labels.push((label - first) as u32);
        self.out.features(&self.image)
    }

    pub fn finish(self) -> Result<()> {
        self.out.finish(&Contents {
            features: Features::Bytes,
            sample: &[SIDE, SIDE, 3],
            target: &[1],
            targets: Targets::Classes {
                labels: &self.labels,
                classes: self.classes,
            },
            rows: &[],
        })
    }
}
