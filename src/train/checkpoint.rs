//! Weights in and out: safetensors files with PyTorch's names, shapes and layouts, so that `load_state_dict`
//! of the reference's model takes them.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use md5::{Digest, Md5};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::json;

use crate::config::RunConfig;
use crate::error::{Error, Kind, Result};
use crate::files;
use crate::graph::{Params, Tensor};
use crate::results::file::{self, Lock};

/// Beside its running averages PyTorch's batch norm counts the batches that went into them, as a scalar of 64
/// bits.
const AVERAGE: &str = "running_mean";
const COUNT: &str = "num_batches_tracked";

/// Names of a lock and of temporary files in a folder of weights.
const NAME: &str = "weights";
const TEMPORARY: &str = ".tmp-weights-";

/// Takes a folder for weights, which is made: no other process writes there until the lock is dropped. What killed ones
/// left half written goes.
pub fn take_folder(folder: &Path) -> Result<Lock> {
    Lock::take(
        &folder.join(NAME),
        "use another folder with --save-weights=DIR",
    )
}

/// What a sweep does with weights.
#[derive(Default)]
pub struct Weights {
    /// In place of the initial weights that a run draws (it draws them all the same: what follows in the
    /// stream stays where it is).
    pub init: Option<Checkpoint>,
    /// For each run the file that its final weights go to.
    pub save: Option<Vec<PathBuf>>,
}

/// A file of weights, read and checked against its own header.
pub struct Checkpoint {
    path: PathBuf,
    bytes: Vec<u8>,
}

/// The tensors of a model at some moment.
pub struct Snapshot<'a> {
    pub params: &'a Params,
    pub values: &'a [f32],
    pub buffers: &'a [f32],
    pub batches_tracked: u64,
}

/// A tensor as the file has it.
struct Entry<'a> {
    dtype: Dtype,
    shape: &'a [usize],
}

/// Names and types of all tensors of a model.
fn entries(params: &Params) -> BTreeMap<String, Entry<'_>> {
    let tensors = params.tensors.iter().chain(&params.buffers);
    let floats = tensors.map(|tensor| {
        let (dtype, shape) = (Dtype::F32, tensor.shape.as_slice());
        (tensor.name.clone(), Entry { dtype, shape })
    });
    let counts = counts(params).map(|name| {
        let (dtype, shape) = (Dtype::I64, &[][..]);
        (name, Entry { dtype, shape })
    });
    floats.chain(counts).collect()
}

/// Names of the counts of batches.
fn counts(params: &Params) -> impl Iterator<Item = String> {
    let layers = params.buffers.iter();
    let layers = layers.filter_map(|buffer| buffer.name.strip_suffix(AVERAGE));
    layers.map(|layer| format!("{layer}{COUNT}"))
}

impl Snapshot<'_> {
    /// Writes the file in whole or not at all.
    pub fn save(&self, config: &RunConfig, path: &Path) -> Result<()> {
        let failed = |e: &dyn std::fmt::Display| {
            let path = path.display();
            Error::new(Kind::Io, format!("cannot save weights to {path}: {e}"))
        };
        let bytes = self.encode(config).map_err(|e| failed(&e))?;
        file::replace(path, TEMPORARY, |out| out.write_all(&bytes)).map_err(|e| failed(&e))
    }

    fn encode(
        &self,
        config: &RunConfig,
    ) -> std::result::Result<Vec<u8>, safetensors::SafeTensorError> {
        let count = (self.batches_tracked as i64).to_le_bytes();
        let float = |tensor: &Tensor, vector| {
            let bytes = bytemuck::cast_slice(tensor.of(vector));
            let view = TensorView::new(Dtype::F32, tensor.shape.clone(), bytes)?;
            Ok((tensor.name.clone(), view))
        };
        let params = self.params.tensors.iter().map(|t| float(t, self.values));
        let buffers = self.params.buffers.iter().map(|t| float(t, self.buffers));
        let counts = counts(self.params)
            .map(|name| Ok((name, TensorView::new(Dtype::I64, Vec::new(), &count)?)));
        let views = params.chain(buffers).chain(counts);
        let views: Vec<_> =
            views.collect::<std::result::Result<_, safetensors::SafeTensorError>>()?;
        let config = serde_json::Value::Object(config.to_json()).to_string();
        // PyTorch's tools look for the format.
        let about = json!({"format": "pt", "config": config});
        Ok(with_metadata(&safetensors::serialize(views, None)?, &about))
    }
}

/// A safetensors file with a member "__metadata__" at the start of its header. The crate writes one in an order that
/// changes from run to run.
fn with_metadata(file: &[u8], about: &serde_json::Value) -> Vec<u8> {
    let (length, rest) = file.split_at(8);
    let length = u64::from_le_bytes(length.try_into().expect("8 bytes")) as usize;
    let (header, data) = rest.split_at(length);
    let mut new = format!("{{\"__metadata__\":{about},").into_bytes();
    new.extend(&header[1..]);
    new.resize(new.len().next_multiple_of(8), b' ');
    let length = (new.len() as u64).to_le_bytes();
    [&length, new.as_slice(), data].concat()
}

impl Checkpoint {
    pub fn read(path: &Path) -> Result<Checkpoint> {
        let bytes = files::read(path).map_err(|e| Error::io("read", path, &e))?;
        let checkpoint = Checkpoint {
            path: path.to_owned(),
            bytes,
        };
        checkpoint.tensors()?;
        Ok(checkpoint)
    }

    /// The file's md5, in hexadecimal digits.
    pub fn hash(&self) -> String {
        let sum = Md5::digest(&self.bytes);
        sum.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn tensors(&self) -> Result<SafeTensors<'_>> {
        SafeTensors::deserialize(&self.bytes).map_err(|e| {
            let path = self.path.display();
            Error::corrupt(format!("{path} is no whole safetensors file: {e}"))
        })
    }

    /// Puts the file's values in the place of the model's. Returns the number of batches in its running
    /// averages.
    ///
    /// # Errors
    /// Lists all tensors that are missing in the file, that the model does not have, and those of another
    /// shape or type. The model is unchanged then.
    pub fn load_into(&self, params: &mut Params, model: &str) -> Result<u64> {
        let file = self.tensors()?;
        let problems = self.misfits(&file, &entries(params));
        if !problems.is_empty() {
            let path = self.path.display();
            let list = problems.join("\n  ");
            return Err(Error::usage(format!(
                "the weights in {path} do not fit model {model}:\n  {list}"
            )));
        }
        let values = |name: &str| file.tensor(name).expect("compared before").data();
        let copy = |tensors: &[Tensor], vector: &mut [f32]| {
            for tensor in tensors {
                let range = tensor.range.start..tensor.range.start + tensor.range.len;
                // The file's data need not be aligned.
                let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut vector[range]);
                bytes.copy_from_slice(values(&tensor.name));
            }
        };
        copy(&params.tensors, &mut params.values);
        copy(&params.buffers, &mut params.buffer_values);
        let tracked = counts(params).map(|name| {
            let bytes = values(&name).try_into().expect("8 bytes, compared before");
            i64::from_le_bytes(bytes).max(0) as u64
        });
        Ok(tracked.max().unwrap_or(0))
    }

    fn misfits(&self, file: &SafeTensors, model: &BTreeMap<String, Entry>) -> Vec<String> {
        let of_model = model.iter().filter_map(|(name, wanted)| {
            let Ok(found) = file.tensor(name) else {
                return Some(format!("{name}: missing in the file"));
            };
            let (shape, dtype) = (found.shape(), found.dtype());
            ((shape, dtype) != (wanted.shape, wanted.dtype)).then(|| {
                let Entry { shape: s, dtype: d } = wanted;
                format!("{name}: {shape:?} of {dtype} in the file, {s:?} of {d} in the model")
            })
        });
        let mut extra: Vec<&str> = file.names().into_iter().collect();
        extra.retain(|name| !model.contains_key(*name));
        extra.sort_unstable();
        let extra = extra
            .into_iter()
            .map(|name| format!("{name}: not in the model"));
        of_model.chain(extra).collect()
    }
}

/// The files for the weights of these runs: `FOLDER/name=adam:lr=0.1:run_id=0.safetensors`. Where two runs
/// have this in common, what tells them apart is added.
pub fn paths(folder: &Path, runs: &[&RunConfig]) -> Vec<PathBuf> {
    let label = |run: &RunConfig| -> String {
        let label = run.label();
        // No folder, and no name that is longer than file systems take.
        let safe = label.chars().map(|c| if c == '/' { '_' } else { c });
        safe.take(180).collect()
    };
    let labels: Vec<String> = runs.iter().map(|run| label(run)).collect();
    let mut uses: HashMap<&String, usize> = HashMap::new();
    labels
        .iter()
        .for_each(|label| *uses.entry(label).or_default() += 1);
    let path = |(run, label): (&&RunConfig, &String)| {
        let ending = match uses[label] {
            1 => String::new(),
            _ => format!(":config={:08x}", crc32c::crc32c(run.identity().as_bytes())),
        };
        folder.join(format!("{label}{ending}.safetensors"))
    };
    runs.iter().zip(&labels).map(path).collect()
}
