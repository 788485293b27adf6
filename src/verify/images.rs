//! Suites `networks` and `cifar`: runs of image networks.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::histories::judged;
use super::made::RawFiles;
use super::runs::{losses, said};
use super::steps::{Made, order, steps};
use super::{Check, Context};
use crate::config::RunConfig;
use crate::cpu;
use crate::data::{Library, Pair, Request};
use crate::device::Target;
use crate::error::{Error, Result};

/// Rows and columns of an image.
pub const SIDE: usize = 32;

/// A small set in CIFAR-10's format, in a temporary folder.
pub struct SmallSet {
    files: RawFiles,
    kwargs: Map<String, Value>,
}

impl SmallSet {
    /// Images of these numbers, the training ones spread over the five batch files in order; image i has the
    /// label (i^2 + 3 i) mod 10, and `pixel` gives number i's value modulo 256 at channel, row, column.
    pub fn new(
        train: impl Iterator<Item = usize>,
        val: impl Iterator<Item = usize>,
        pixel: impl Fn(usize, usize, usize, usize) -> usize,
    ) -> Result<SmallSet> {
        let records = |images: &[usize]| -> Vec<u8> {
            let record = |i: usize| {
                let pixel = &pixel;
                let places = (0..3 * SIDE * SIDE)
                    .map(move |k| pixel(i, k / (SIDE * SIDE), k / SIDE % SIDE, k % SIDE));
                std::iter::once((i * i + 3 * i) % 10).chain(places)
            };
            let values = images.iter().flat_map(|i| record(*i));
            values.map(|value| (value % 256) as u8).collect()
        };
        let train: Vec<usize> = train.collect();
        let val: Vec<usize> = val.collect();
        // A file may not be empty: of fewer images than files the last one fills the rest.
        let batch = train.len().div_ceil(5);
        let files = (0..5).map(|file| {
            let start = (file * batch).min(train.len() - 1);
            let images = &train[start..(start + batch).min(train.len())];
            (format!("data_batch_{}.bin", file + 1), records(images))
        });
        let files = files.chain([("test_batch.bin".into(), records(&val))]);
        let files = files.map(|(name, bytes)| (format!("cifar-10-batches-bin/{name}"), bytes));
        Ok(SmallSet {
            files: RawFiles::new(files)?,
            kwargs: Map::new(),
        })
    }

    pub fn library(&self) -> Library {
        self.files.library()
    }

    pub fn request(&self) -> Request<'_> {
        Request {
            name: "cifar10",
            kwargs: &self.kwargs,
            loss_func: "cross_entropy",
            run_id: 0,
            seq_len: None,
        }
    }
}

/// Three epochs with shuffling, augmentation, batch norm and both evaluations.
pub fn networks(context: &Context) -> Result<Vec<Check>> {
    let set = SmallSet::new(0..250, 1000..1060, |i, c, y, x| {
        37 * i + 11 * c * (y + 1) + 7 * x * y + 3 * x
    })?;
    let (by_spread, ran) = judged(context, &set.library(), "runs_tiny_cifar.json")?;
    Ok(said([by_spread, losses(&ran)]))
}

#[derive(Deserialize)]
struct StepsFile {
    cases: Vec<StepsCase>,
}

#[derive(Deserialize)]
struct StepsCase {
    model: String,
    model_kwargs: Map<String, Value>,
    opt: Map<String, Value>,
    batch_size: usize,
    run_id: u64,
    losses: Vec<f64>,
    param_l2_after: f64,
}

/// Losses of single steps. Rounding grows from step to step in a network with batch norm, faster with Adam's kind of
/// step than with SGD's: its first steps are as long for gradients of rounding noise as for others. PyTorch is up to
/// 1.2e-3 away from itself in the first six steps with oneDNN switched off, 2.0e-3 with images laid out
/// channels-last, and 6e-4 in double precision.
pub fn cifar(context: &Context) -> Result<Vec<Check>> {
    const FILE: &str = "runs_cifar_steps.json";
    let Some(file) = context.goldens.read::<StepsFile>(FILE)? else {
        return Ok(vec![Check::skip("losses", format!("no {FILE}"))]);
    };
    let library = context.library();
    let mut sgd = Check::new("sgd-m: losses of the first six steps", 1e-3);
    let mut adam = Check::new("Adam's family: losses of the first six steps", 3e-3);
    let mut later = Check::new("losses of later steps", 2e-2);
    let mut norms = Check::new("norms of all weights after the last step", 1e-4);
    for case in &file.cases {
        let name = format!("{} {}", case.model, Value::Object(case.opt.clone()));
        let is_sgd = case.opt.get("name").is_some_and(|name| name == "sgd-m");
        let first = if is_sgd { &mut sgd } else { &mut adam };
        let (losses, norm) = match ours(case, &library, context.target) {
            Ok(ours) => ours,
            Err(e) => {
                first.skip_for(e)?;
                continue;
            }
        };
        for check in [&mut *first, &mut later, &mut norms] {
            check.cases += 1;
        }
        for (step, (ours, theirs)) in losses.into_iter().zip(&case.losses).enumerate() {
            let check = if step < 6 { &mut *first } else { &mut later };
            check.compare(ours, *theirs, theirs.abs(), || {
                format!("{name} step {step}")
            });
        }
        norms.compare(norm, case.param_l2_after, case.param_l2_after, || name);
    }
    Ok(said([sgd, adam, later, norms]))
}

/// Losses of our first steps of a case, and the norm of the weights after them.
fn ours(case: &StepsCase, library: &Library, target: Target) -> Result<(Vec<f64>, f64)> {
    let config = RunConfig {
        dataset: "cifar10".into(),
        dataset_kwargs: Map::new(),
        model: case.model.clone(),
        model_kwargs: case.model_kwargs.clone(),
        loss_func: "cross_entropy".into(),
        score_func: "cross_entropy_accuracy".into(),
        opt: case.opt.clone(),
        groups: Vec::new(),
        batch_size: case.batch_size,
        max_epoch: 1,
        run_id: case.run_id,
    };
    let data = library.load(&config)?;
    if !are_the_copies(&data) {
        let text = "these are not the copies of CIFAR-10 that the reference was run on";
        return Err(Error::usage(text));
    }
    let mut losses = Vec::new();
    let see = |made: Made| losses.push(made.loss);
    let samples = &order(&config, &data)[..case.losses.len() * case.batch_size];
    let w = steps(&config, &data, samples, target, see)?;
    Ok((losses, cpu::dot(&w, &w).sqrt()))
}

/// The reference's numbers were made from JPEG copies of the images. Their first hundred validation images
/// differ from the original ones in this sum.
fn are_the_copies(data: &Pair) -> bool {
    const SUM: f64 = -2090.154;
    let indices: Vec<u32> = (0..100.min(data.val.len() as u32)).collect();
    let mut x = vec![0.0; indices.len() * 3 * SIDE * SIDE];
    let mut y = vec![0.0; indices.len()];
    data.val.gather(&indices, &[], &mut x, &mut y);
    let sum: f64 = x.iter().map(|value| f64::from(*value)).sum();
    (sum - SUM).abs() < 0.01
}
