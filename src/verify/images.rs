//! Suites `networks` and `cifar`: runs of image networks.

use std::fs;
use std::ops::Range;

use serde::Deserialize;
use serde_json::{Map, Value};
use tempfile::TempDir;

use super::runs::{ALL, compare_nearer, golden_runs};
use super::{Check, Context};
use crate::config::RunConfig;
use crate::data::fetch::Options;
use crate::data::{Library, Loader, Pair, Request};
use crate::device::{Target, cpu};
use crate::error::{Error, Kind, Result};
use crate::graph::{Clock, Mode, Session};
use crate::models;
use crate::optim::State;
use crate::results::json;
use crate::train::Plans;

/// Rows and columns of an image.
pub const SIDE: usize = 32;

/// A small set in CIFAR-10's format, in a temporary folder.
pub struct SmallSet {
    dir: TempDir,
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
        let write = || -> std::io::Result<TempDir> {
            let dir = tempfile::tempdir()?;
            let folder = dir.path().join("cifar-10-batches-bin");
            fs::create_dir(&folder)?;
            let train: Vec<usize> = train.collect();
            // A file may not be empty: of fewer images than files the last one fills the rest.
            let batch = train.len().div_ceil(5);
            for file in 0..5 {
                let start = (file * batch).min(train.len() - 1);
                let images = &train[start..(start + batch).min(train.len())];
                fs::write(
                    folder.join(format!("data_batch_{}.bin", file + 1)),
                    records(images),
                )?;
            }
            let val: Vec<usize> = val.collect();
            fs::write(folder.join("test_batch.bin"), records(&val))?;
            Ok(dir)
        };
        let dir = write().map_err(|e| {
            let text = format!("cannot write to the folder for temporary files: {e}");
            Error::new(Kind::CannotCreate, text)
        })?;
        Ok(SmallSet {
            dir,
            kwargs: Map::new(),
        })
    }

    pub fn library(&self) -> Library {
        Library::new(self.dir.path(), true, Options::new(Vec::new(), true))
    }

    pub fn request(&self) -> Request<'_> {
        Request {
            name: "cifar10",
            kwargs: &self.kwargs,
            loss_func: "cross_entropy",
            run_id: 0,
        }
    }
}

/// Three epochs with shuffling, augmentation, batch norm and both evaluations. A network with batch norm
/// amplifies rounding from step to step, fastest with Adam, whose first steps are as long for gradients of
/// rounding noise as for others. There PyTorch with other convolutions of its own (oneDNN switched off) is
/// 1.9e-2 away from itself after one epoch, which sets the tolerance.
pub fn networks(context: &Context) -> Result<Vec<Check>> {
    const FILE: &str = "runs_tiny_cifar.json";
    let Some(text) = context.goldens.text(FILE)? else {
        return Ok(vec![Check::skip("runs", format!("no {FILE}"))]);
    };
    let damaged = |why: &dyn std::fmt::Display| context.goldens.damaged(FILE, why);
    let file = json::parse(&text).map_err(|e| damaged(&e))?;
    let runs = golden_runs(&file).ok_or_else(|| damaged(&"no runs"))?;
    let one_thread = context.goldens.text("one_thread/runs_tiny_cifar.json")?;
    let one_thread = one_thread.unwrap_or_else(|| "[]".into());
    let other = json::parse(&one_thread).map_err(|e| damaged(&e))?;
    let other = golden_runs(&other).ok_or_else(|| damaged(&"no runs"))?;
    let set = SmallSet::new(0..250, 1000..1060, |i, c, y, x| {
        37 * i + 11 * c * (y + 1) + 7 * x * y + 3 * x
    })?;
    let library = set.library();

    // Model, method, epochs, tolerance.
    let rows: [(&str, &str, Range<usize>, f64); 5] = [
        ("vit", "adam", ALL, 1e-4),
        ("resnet20", "momo", 0..1, 1e-3),
        ("resnet20", "momo", 1..2, 1e-2),
        ("resnet20", "momo", 2..3, 5e-2),
        ("resnet20", "adam", 0..1, 3e-2),
    ];
    let mut checks = Vec::new();
    for theirs in &runs {
        let config = &theirs.config;
        let (model, method) = (config["model"].as_str(), config["opt"]["name"].as_str());
        let rows = rows
            .iter()
            .filter(|row| (Some(row.0), Some(row.1)) == (model, method));
        let mut ours = None;
        for (model, method, epochs, tolerance) in rows {
            let epochs = epochs.clone();
            let which = match epochs == ALL {
                true => "all epochs".to_owned(),
                false => format!("epoch {}", epochs.start),
            };
            let mut check = Check::new(format!("{model}, {method}: {which}"), *tolerance);
            if models::row(model).is_none() {
                check.skipped.push(format!("no model {model}"));
            } else {
                match ours.get_or_insert_with(|| theirs.ours(&library, context.target)) {
                    Ok((ours, _)) => {
                        compare_nearer(&mut check, theirs, &other, ours, epochs, |_| true);
                    }
                    Err(why) => check.fail(why.clone()),
                }
            }
            checks.push(check);
        }
    }
    Ok(checks)
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

/// Losses of single steps. Rounding grows faster with Adam's kind of step than with SGD's, see [`networks`]:
/// PyTorch is up to 1.2e-3 away from itself in the first six steps with oneDNN switched off, 2.0e-3 with
/// images laid out channels-last, and 6e-4 in double precision.
pub fn cifar(context: &Context) -> Result<Vec<Check>> {
    const FILE: &str = "runs_cifar_steps.json";
    let Some(file) = context.goldens.read::<StepsFile>(FILE)? else {
        return Ok(vec![Check::skip("losses", format!("no {FILE}"))]);
    };
    let mut sgd = Check::new("sgd-m: losses of the first six steps", 1e-3);
    let mut adam = Check::new("Adam's family: losses of the first six steps", 3e-3);
    let mut later = Check::new("losses of later steps", 2e-2);
    let mut norms = Check::new("norms of all weights after the last step", 1e-4);
    for case in &file.cases {
        let name = format!("{} {}", case.model, Value::Object(case.opt.clone()));
        if models::row(&case.model).is_none() {
            later.skipped.push(format!("no model {}", case.model));
            continue;
        }
        let config = RunConfig {
            dataset: "cifar10".into(),
            dataset_kwargs: Map::new(),
            model: case.model.clone(),
            model_kwargs: case.model_kwargs.clone(),
            loss_func: "cross_entropy".into(),
            score_func: "cross_entropy_accuracy".into(),
            opt: case.opt.clone(),
            batch_size: case.batch_size,
            max_epoch: 1,
            run_id: case.run_id,
        };
        let data = match context.library().load(&config) {
            Ok(data) => data,
            Err(e) if e.kind == Kind::Io => {
                later.skipped.push(e.message);
                break;
            }
            Err(e) => return Err(e),
        };
        if !are_the_copies(&data) {
            let text = "these are not the copies of CIFAR-10 that the reference was run on";
            later.skipped.push(text.into());
            break;
        }
        let (losses, norm) = steps(&config, &data, case.losses.len(), context.target)?;
        let first = match case.opt.get("name").and_then(Value::as_str) {
            Some("sgd-m") => &mut sgd,
            _ => &mut adam,
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
    Ok(vec![sgd, adam, later, norms])
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

/// Losses of the first steps, without dropout, and the norm of the weights after them.
fn steps(config: &RunConfig, data: &Pair, n: usize, target: Target) -> Result<(Vec<f64>, f64)> {
    let Pair { train, val } = data;
    let mode = Mode::TrainWithoutDropout;
    let Plans {
        mut params,
        train: plan,
        ..
    } = Plans::new(config, train, val, target.device, mode)?;
    let [mut x, mut y] = [0, 1].map(|i| vec![0.0; plan.inputs[i].len]);
    let mut session = Session::new(&params, vec![plan], target)?;
    let mut w = params.values.clone();
    let mut optimizer = State::new(&config.opt, w.len())?;
    let lr = config.opt.get("lr").and_then(Value::as_f64);
    let lr = lr.ok_or_else(|| Error::usage("a golden run without lr"))?;
    let mut loader = Loader::new(config.run_id, train.len(), config.batch_size);
    let batches = loader.next_epoch().chunks_exact(config.batch_size);
    let mut losses = Vec::with_capacity(n);
    for indices in batches.take(n) {
        let placements = &mut Vec::new();
        let placements = train.place(indices.len(), &mut params.generator, placements);
        train.gather(indices, placements, &mut x, &mut y);
        let loss = session.run(0, &[&x, &y], Clock::default())?[0][0];
        optimizer.step(lr, loss, &mut w, &session.grads()?);
        session.set_values(&w)?;
        losses.push(f64::from(loss));
    }
    Ok((losses, cpu::dot(&w, &w).sqrt()))
}
