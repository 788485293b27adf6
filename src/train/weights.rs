//! Weights in and out: safetensors files with PyTorch's names, shapes and layouts, so that `load_state_dict`
//! of the reference's model takes them.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use md5::{Digest, Md5};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::json;

use crate::config::RunConfig;
use crate::data::Vocabulary;
use crate::error::{Error, Kind, Result};
use crate::files;
use crate::graph::{Params, Tensor};
use crate::results::file::{self, Shared};
use crate::results::identity::Identity;
use crate::results::writers::{self, Role};

/// Beside its running averages PyTorch's batch norm counts the batches that went into them, as a scalar of 64
/// bits. Older files lack it: PyTorch takes it for 0 then.
const AVERAGE: &str = "running_mean";
const COUNT: &str = "num_batches_tracked";

/// What PyTorch puts before every name of a model that was wrapped, by DataParallel or by `torch.compile`.
const WRAPPERS: [&str; 2] = ["module.", "_orig_mod."];

/// Problems of one kind that are listed; hundreds would hide what they have in common.
const LISTED: usize = 8;

/// The key of a file's metadata that says whose weights it has.
const RUN: &str = "run";
/// Those that say what the run's config was, and what a language model's tokens stand for.
const CONFIG: &str = "config";
const VOCABULARY: &str = "vocabulary";

/// Names of a lock and of temporary files in a folder of weights.
const NAME: &str = "weights";
const TEMPORARY: &str = ".tmp-weights-";

/// Comes to a folder for weights, which is made, and finds places there. Processes of one output share it; those of
/// others are refused as long as this one has it. `output` is a path without links. What killed ones left half written
/// goes.
pub fn take_folder<T>(
    folder: &Path,
    output: &Path,
    find: impl FnOnce() -> Result<T>,
) -> Result<(Arc<Shared>, T)> {
    let advice = "use another folder with --save-weights=DIR";
    let shared = Shared::join(&folder.join(NAME), advice, writers::SILENCE)?;
    let lock = shared.lock()?;
    let work = json!(output);
    let mut others = lock.others()?;
    if others.is_empty() {
        lock.tidy()?;
    }
    others.retain(|(_, other)| other.work != work);
    if !others.is_empty() {
        return Err(shared.taken(&others));
    }
    let announced = shared.writer().announce(|about| {
        about.work = work;
        about.role = Role::Sharing;
    });
    announced.map_err(|e| Error::cannot_write(folder, &e))?;
    let found = find()?;
    drop(lock);
    Ok((shared, found))
}

/// A file for the final weights of a run.
#[derive(Clone, Debug)]
pub struct Place {
    pub path: PathBuf,
    /// The hash of the run's identity, by which the file says whose weights it has.
    pub run: String,
}

/// A file of weights, read and checked against its own header.
pub struct Weights {
    path: PathBuf,
    bytes: Vec<u8>,
}

/// The tensors of a model at some moment.
pub struct Snapshot<'a> {
    pub params: &'a Params,
    pub values: &'a [f32],
    pub buffers: &'a [f32],
    pub batches_tracked: u64,
    /// Of the texts that a language model was trained on.
    pub vocabulary: Option<&'a Vocabulary>,
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
    pub fn save(&self, config: &RunConfig, place: &Place) -> Result<()> {
        let failed = |e: &dyn std::fmt::Display| {
            let path = place.path.display();
            Error::new(Kind::Io, format!("cannot save weights to {path}: {e}"))
        };
        let bytes = self.encode(config, &place.run).map_err(|e| failed(&e))?;
        let write = file::replace(&place.path, TEMPORARY, |out| out.write_all(&bytes));
        write.map_err(|e| failed(&e))
    }

    fn encode(
        &self,
        config: &RunConfig,
        run: &str,
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
        let mut about = json!({"format": "pt", CONFIG: config, RUN: run});
        if let Some(vocabulary) = self.vocabulary {
            about[VOCABULARY] = serde_json::to_string(vocabulary)
                .expect("characters")
                .into();
        }
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

impl Weights {
    pub fn read(path: &Path) -> Result<Weights> {
        let bytes = files::read(path).map_err(|e| Error::io("read", path, &e))?;
        let weights = Weights {
            path: path.to_owned(),
            bytes,
        };
        weights.tensors()?;
        Ok(weights)
    }

    /// The file's md5, in hexadecimal digits.
    pub fn hash(&self) -> String {
        files::hex(&Md5::digest(&self.bytes))
    }

    /// The hash of the identity of the run whose weights these are, where the file says so.
    fn run(&self) -> Option<String> {
        self.metadata(RUN)
    }

    fn metadata(&self, key: &str) -> Option<String> {
        let (_, metadata) = SafeTensors::read_metadata(&self.bytes).ok()?;
        metadata.metadata().as_ref()?.get(key).cloned()
    }

    fn vocabulary(&self) -> Option<Vocabulary> {
        serde_json::from_str(&self.metadata(VOCABULARY)?).ok()
    }

    /// The config of the run that trained this language model, and what its tokens stand for.
    ///
    /// # Errors
    /// If it is no language model, or the file does not say.
    pub fn language_model(&self) -> Result<(RunConfig, Vocabulary)> {
        let path = self.path.display();
        let config = self.metadata(CONFIG);
        let config = config.and_then(|text| serde_json::from_str::<RunConfig>(&text).ok());
        let Some(config) = config else {
            return Err(Error::usage(format!(
                "the weights in {path} do not say what model they are of; take a file that `train --save-weights` wrote"
            )));
        };
        match self.vocabulary() {
            Some(vocabulary) => Ok((config, vocabulary)),
            None => Err(Error::usage(format!(
                "the weights in {path} are those of {} on {}, which is not a language model",
                config.model, config.dataset
            ))),
        }
    }

    /// An error if these are a language model's whose tokens stand for something else.
    pub fn check_vocabulary(&self, of_data: Option<&Vocabulary>) -> Result<()> {
        match (self.vocabulary(), of_data) {
            (Some(ours), Some(theirs)) if ours != *theirs => Err(Error::usage(format!(
                "the weights in {} are of a language model with another vocabulary",
                self.path.display()
            ))),
            _ => Ok(()),
        }
    }

    fn tensors(&self) -> Result<SafeTensors<'_>> {
        SafeTensors::deserialize(&self.bytes).map_err(|e| {
            let path = self.path.display();
            let hint = match self.bytes.starts_with(b"PK") || self.bytes.starts_with(&[0x80]) {
                true => "; torch.save made it: load it in Python, and save it with safetensors.torch.save_file",
                false => "",
            };
            Error::corrupt(format!("{path} is not a whole safetensors file: {e}{hint}"))
        })
    }

    /// Puts the file's values in the place of the model's, widened where the file has numbers of 16 bits. Returns the
    /// number of batches in its running averages.
    ///
    /// # Errors
    /// Tells which tensors are missing in the file, which ones the model does not have, and which are of another
    /// shape or type. The model is unchanged then.
    pub fn load_into(&self, params: &mut Params, model: &str) -> Result<()> {
        let file = self.tensors()?;
        let file = by_names(&file);
        let problems = misfits(&file, &entries(params));
        if !problems.is_empty() {
            let path = self.path.display();
            let list = problems.join("\n  ");
            return Err(Error::usage(format!(
                "the weights in {path} do not fit model {model}:\n  {list}"
            )));
        }
        let copy = |tensors: &[Tensor], vector: &mut [f32]| {
            for tensor in tensors {
                let range = tensor.range.start..tensor.range.start + tensor.range.len;
                let view = &file[tensor.name.as_str()];
                widen(view.data(), view.dtype(), &mut vector[range]);
            }
        };
        copy(&params.tensors, &mut params.values);
        copy(&params.buffers, &mut params.buffer_values);
        let tracked = counts(params).filter_map(|name| {
            let bytes = file.get(name.as_str())?.data().try_into();
            let count = i64::from_le_bytes(bytes.expect("8 bytes, compared before"));
            Some(count.max(0) as u64)
        });
        params.batches_tracked = tracked.max().unwrap_or(0);
        Ok(())
    }
}

/// The file's tensors by the names that they have without what wrapped the model.
fn by_names<'f>(file: &'f SafeTensors) -> BTreeMap<&'f str, TensorView<'f>> {
    let mut tensors: BTreeMap<&str, TensorView> = file.iter().collect();
    while let Some(wrapper) = WRAPPERS
        .into_iter()
        .find(|w| !tensors.is_empty() && tensors.keys().all(|name| name.starts_with(w)))
    {
        let bare = |(name, view): (&'f str, _)| (&name[wrapper.len()..], view);
        tensors = tensors.into_iter().map(bare).collect();
    }
    tensors
}

/// The numbers as floats of 32 bits, which hold all of 16.
fn widen(bytes: &[u8], dtype: Dtype, out: &mut [f32]) {
    let one: fn([u8; 2]) -> f32 = match dtype {
        Dtype::F16 => |two| half::f16::from_le_bytes(two).to_f32(),
        Dtype::BF16 => |two| half::bf16::from_le_bytes(two).to_f32(),
        // The file's data need not be aligned.
        _ => return bytemuck::cast_slice_mut(out).copy_from_slice(bytes),
    };
    let (halves, _) = bytes.as_chunks();
    for (out, half) in out.iter_mut().zip(halves) {
        *out = one(*half);
    }
}

/// What keeps the file from being the model's, a line for each tensor, or fewer where many have it in common.
fn misfits(file: &BTreeMap<&str, TensorView>, model: &BTreeMap<String, Entry>) -> Vec<String> {
    let known = file
        .keys()
        .filter(|name| model.contains_key(**name))
        .count();
    if known == 0
        && let Some(((found, _), (wanted, _))) = file.iter().next().zip(model.iter().next())
    {
        return vec![format!(
            "none of its {} names is one of the model's: the first is {found:?}, the model's is {wanted:?}",
            file.len()
        )];
    }
    let (mut missing, mut different, mut extra) = (Vec::new(), Vec::new(), Vec::new());
    for (name, wanted) in model {
        let Entry { shape, dtype } = wanted;
        match file.get(name.as_str()) {
            None if name.ends_with(COUNT) => {}
            None => missing.push(format!("{name}: missing in the file")),
            Some(found) => {
                let widened = [Dtype::F16, Dtype::BF16].contains(&found.dtype());
                let fits = found.dtype() == *dtype || (*dtype == Dtype::F32 && widened);
                if found.shape() != *shape || !fits {
                    let (s, d) = (found.shape(), found.dtype());
                    different.push(format!(
                        "{name}: {s:?} of {d} in the file, {shape:?} of {dtype} in the model"
                    ));
                }
            }
        }
    }
    let unknown = file.keys().filter(|name| !model.contains_key(**name));
    extra.extend(unknown.map(|name| format!("{name}: not in the model")));
    let kinds = [
        (missing, "missing in the file"),
        (different, "of another shape or type"),
        (extra, "not in the model"),
    ];
    let mut lines = Vec::new();
    for (mut list, what) in kinds {
        let more = list.len().saturating_sub(LISTED);
        list.truncate(LISTED);
        lines.append(&mut list);
        if more > 0 {
            lines.push(format!("and {more} more that are {what}"));
        }
    }
    lines
}

/// Files for the weights of `pending` runs, whose folder this process holds: `FOLDER/name=adam:lr=0.1:run_id=0.safetensors`.
/// Where that is the name of several runs among `all` of the experiment, or a file of another run has it (or one that does
/// not say whose it is), digits of the run's identity are added.
///
/// # Errors
/// If files that are not the run's have both names.
pub fn places(
    folder: &Path,
    pending: &[(&RunConfig, Identity)],
    all: &[RunConfig],
) -> Result<Vec<Place>> {
    let mut uses: HashMap<String, usize> = HashMap::new();
    let labels = all.iter().map(RunConfig::file_label);
    labels.for_each(|label| *uses.entry(label).or_default() += 1);
    let place = |(config, identity): &(&RunConfig, Identity)| {
        let (label, run) = (config.file_label(), identity.hash().to_owned());
        let own = format!("{label}:run={}", &run[..8]);
        let plain = (uses.get(&label) == Some(&1)).then_some(label);
        let names = plain.into_iter().chain([own]);
        let mut paths = names.map(|name| folder.join(name + ".safetensors"));
        let free = |path: &PathBuf| {
            let absent = fs::symlink_metadata(path).is_err_and(|e| files::absent(&e));
            absent || Weights::read(path).is_ok_and(|there| there.run().as_ref() == Some(&run))
        };
        let Some(path) = paths.find(free) else {
            let (folder, label) = (folder.display(), config.label());
            let text = format!(
                "the weights of {label} have no place in {folder}: their names are those of other files; use another folder \
                 with --save-weights=DIR"
            );
            return Err(Error::new(Kind::CannotCreate, text));
        };
        Ok(Place { path, run })
    };
    pending.iter().map(place).collect()
}
