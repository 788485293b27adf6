//! Suite `datasets`.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::goldens::{Digest, numbers};
use super::{Check, Context, libsvm};
use crate::data::{Request, Split};
use crate::error::Result;
use crate::random::RUN_SEED;

#[derive(Deserialize)]
struct File {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    dataset: String,
    dataset_kwargs: Map<String, Value>,
    loss_func: String,
    split: String,
    seed: u64,
    x: Digest,
    y: Digest,
    x_row0: Value,
    y_head: Value,
}

/// All features and targets of a split.
pub(super) fn contents(split: &Split) -> (Vec<f32>, Vec<f32>) {
    let size = |shape: &[usize]| split.len() * shape.iter().product::<usize>();
    let mut x = vec![0.0; size(&split.sample().shape())];
    let mut y = vec![0.0; size(split.target_shape())];
    let all: Vec<u32> = (0..split.len() as u32).collect();
    split.gather(&all, &[], &mut x, &mut y);
    (x, y)
}

pub fn datasets(context: &Context) -> Result<Vec<Check>> {
    const FILE: &str = "datasets.json";
    let Some(file) = context.goldens.read::<File>(FILE)? else {
        return Ok(vec![Check::skip("samples", format!("no {FILE}"))]);
    };
    // The samples are computed in f64 and rounded once: one ulp of f32.
    let mut check = Check::new("samples, relative to the set's mean size", 2e-7);
    let library = context.library();
    for case in &file.cases {
        let pair = match library.load(Request {
            name: &case.dataset,
            kwargs: &case.dataset_kwargs,
            loss_func: &case.loss_func,
            run_id: case.seed.wrapping_sub(RUN_SEED),
            seq_len: None,
        }) {
            Ok(pair) => pair,
            Err(e) => {
                check.skip_for(e)?;
                continue;
            }
        };
        check.cases += 1;
        let split = if case.split == "train" {
            &pair.train
        } else {
            &pair.val
        };
        let (x, y) = contents(split);
        let at = format!("{} {} {}", case.dataset, case.loss_func, case.split);
        check.compare_digest(&x, &case.x, &format!("{at} x"));
        check.compare_digest(&y, &case.y, &format!("{at} y"));
        for (ours, theirs, what) in [(&x, &case.x_row0, "x"), (&y, &case.y_head, "y")] {
            for (i, theirs) in numbers(theirs).into_iter().enumerate() {
                let ours = f64::from(ours[i]);
                check.compare(ours, theirs, theirs.abs(), || format!("{at} {what}[{i}]"));
            }
        }
    }
    let classes = match libsvm::made(context)? {
        Some(made) => made.samples()?,
        None => Check::skip("sets of classes", format!("no {}", libsvm::FILE)),
    };
    Ok(vec![check, classes])
}
