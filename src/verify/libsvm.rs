//! Sets of classes in LIBSVM's form, of which the golden file holds the raw files: for suites `datasets` and `runs`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::datasets::contents;
use super::goldens::numbers;
use super::made::RawFiles;
use super::{Check, Context};
use crate::data::{Library, Request};
use crate::error::Result;

pub(super) const FILE: &str = "next_libsvm.json";

#[derive(Deserialize)]
struct File {
    /// Their names and contents.
    files: BTreeMap<String, String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    dataset: String,
    dataset_kwargs: Map<String, Value>,
    split: String,
    shape: [usize; 2],
    x_sum: f64,
    x_row0: Value,
    x_last: Value,
    targets: Value,
}

/// The sets in a temporary folder.
pub(super) struct Sets {
    files: RawFiles,
    cases: Vec<Case>,
}

/// The sets, if the golden file is there.
pub(super) fn made(context: &Context) -> Result<Option<Sets>> {
    let Some(File { files, cases }) = context.goldens.read(FILE)? else {
        return Ok(None);
    };
    let files = files.into_iter();
    let files = files.map(|(name, text)| (format!("libsvm/{name}"), text.into_bytes()));
    Ok(Some(Sets {
        files: RawFiles::new(files)?,
        cases,
    }))
}

impl Sets {
    pub fn library(&self) -> Library {
        self.files.library()
    }

    /// Which samples are in which half, and what they are.
    pub fn samples(&self) -> Result<Check> {
        // Decimals rounded once, and their sums in f64.
        let mut check = Check::new("sets of classes in LIBSVM's form", 1e-12);
        let library = self.library();
        for case in &self.cases {
            let pair = library.load(Request {
                name: &case.dataset,
                kwargs: &case.dataset_kwargs,
                loss_func: "cross_entropy",
                run_id: 0,
                seq_len: None,
            })?;
            check.cases += 1;
            let split = match case.split.as_str() {
                "train" => &pair.train,
                _ => &pair.val,
            };
            let (x, y) = contents(split);
            let (kwargs, half) = (Value::from(case.dataset_kwargs.clone()), &case.split);
            let at = format!("{} {kwargs} {half}", case.dataset);
            let [rows, columns] = case.shape;
            if (split.len(), split.sample().len()) != (rows, columns) {
                check.fail(format!(
                    "{at}: {} samples, {} numbers",
                    split.len(),
                    x.len()
                ));
                continue;
            }
            let widened = |values: &[f32]| values.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
            let sum: f64 = widened(&x).iter().sum();
            check.compare(sum, case.x_sum, 1.0, || format!("{at} sum"));
            for (what, ours, theirs) in [
                ("first row", &x[..columns], &case.x_row0),
                ("last row", &x[x.len() - columns..], &case.x_last),
                ("targets", &y, &case.targets),
            ] {
                let at = format!("{at} {what}");
                check.compare_all_by(&widened(ours), &numbers(theirs), |_| 1.0, &at);
            }
        }
        Ok(check)
    }
}
