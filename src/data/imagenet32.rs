//! `imagenet32`: ImageNet's photographs at 32 x 32, from the pickled batches of Chrabaszcz, Loshchilov and
//! Hutter.

use super::augment::Recipe;
use super::cifar::{self, Half};
use super::raw::{self, Files, RawFile};
use super::shard::Writer;
use super::{Origin, Row};
use crate::config::Entry;
use crate::error::{Error, Result};
use std::path::PathBuf;

pub const ROW: Row = Row {
    entry: Entry {
        name: "imagenet32",
        about: "ImageNet at 32 x 32, 1281167 photographs for training and 50000 for validation, 1000 classes, augmented",
        paper: "Chrabaszcz, Loshchilov, Hutter: A Downsampled Variant of ImageNet as an Alternative to the CIFAR Datasets (2017)",
        keys: &[],
    },
    origin: Origin::Files(Files {
        raw: &[
            file(&["imagenet32/train/train_data_batch_1"]),
            file(&["imagenet32/train/train_data_batch_2"]),
            file(&["imagenet32/train/train_data_batch_3"]),
            file(&["imagenet32/train/train_data_batch_4"]),
            file(&["imagenet32/train/train_data_batch_5"]),
            file(&["imagenet32/train/train_data_batch_6"]),
            file(&["imagenet32/train/train_data_batch_7"]),
            file(&["imagenet32/train/train_data_batch_8"]),
            file(&["imagenet32/train/train_data_batch_9"]),
            file(&["imagenet32/train/train_data_batch_10"]),
            file(&["imagenet32/val/val_data"]),
        ],
        convert: |paths, _, train, val| {
            convert(&paths[..10], train)?;
            convert(&paths[10..], val)
        },
        open: |shard, part, _| {
            let mean_and_std = [(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)];
            Ok(cifar::open(
                shard,
                part,
                &mean_and_std,
                Recipe::CropThenFlip,
            ))
        },
        form: cifar::form(CLASSES),
        limit: cifar::LIMIT,
        archives: &[],
        mirrors: &[],
        home: "https://image-net.org/download-images.php (after registration: Imagenet32_train, Imagenet32_val)",
    }),
};

const fn file(names: &'static [&'static str]) -> RawFile {
    RawFile {
        names,
        md5: &[],
        remote: None,
    }
}

const CLASSES: u32 = 1000;

/// The files count their classes from 1.
const FIRST: i64 = 1;

fn convert(paths: &[PathBuf], out: &mut Writer) -> Result<()> {
    let mut half = Half::new(FIRST, CLASSES, out);
    for path in paths {
        cifar::read_pickle(path, &mut half, |pickle| {
            let labels = pickle.get("labels").and_then(|item| item.integers());
            let labels = labels
                .ok_or_else(|| raw::damaged(path, "it has no list of integers called labels"))?;
            if labels.contains(&(FIRST - 1)) {
                let path = path.display();
                return Err(Error::corrupt(format!(
                    "{path}: the labels start at {}, those of imagenet32 at {FIRST}: it was made by another program; \
                     get the published file, or add one to its labels",
                    FIRST - 1
                )));
            }
            Ok(labels)
        })?;
    }
    half.finish()
}
