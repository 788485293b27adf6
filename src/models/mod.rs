//! Models: a table of rows, one file per family.
//!
//! A model is built once per run: it creates its parameters, drawing them in the reference's order, and
//! is then recorded on as many tapes as the run needs.

mod completion;
mod kuangliu;
mod linear;
mod llama;
mod resnet;
mod swint;
mod vgg;
mod vit;

use serde_json::{Map, Value};

use crate::config::{Entry, Values};
use crate::graph::{Params, Sample, Var};
use crate::random::SEED;
use crate::random::torch::Generator;

pub trait Model: Send + Sync {
    /// Records the forward pass of a batch (N, input shape...): (N, output shape...).
    fn forward<'t>(&self, x: Var<'t>) -> Var<'t>;
}

/// What a model must know of its data set.
#[derive(Clone, Debug)]
pub struct Data {
    pub sample: Sample,
    /// Shape of one target.
    pub target: Vec<usize>,
    /// Number of classes, where the targets are class indices.
    pub classes: Option<usize>,
}

/// Builds a model, or says why it does not fit its data or its own keys.
type Build = fn(&mut Params, &Data, &Values) -> Result<Box<dyn Model>, String>;

/// A row of the table of models.
pub struct Row {
    pub entry: Entry,
    /// Is it one linear layer, the least value of whose training objective can be found otherwise?
    pub linear: bool,
    /// The data set and the keys that an experiment has it with: part of a config.
    pub example: &'static str,
    build: Build,
}

pub const ROWS: &[Row] = &[
    linear::LINEAR,
    linear::MLP,
    linear::MATRIX_FAC,
    completion::MATRIX_COMPLETION,
    resnet::row::<20>("resnet20"),
    resnet::row::<32>("resnet32"),
    resnet::row::<44>("resnet44"),
    resnet::row::<56>("resnet56"),
    resnet::row::<110>("resnet110"),
    resnet::row::<1202>("resnet1202"),
    vgg::row::<11>("vgg11"),
    vgg::row::<13>("vgg13"),
    vgg::row::<16>("vgg16"),
    vgg::row::<19>("vgg19"),
    kuangliu::row::<18>("resnet18-kuangliu"),
    kuangliu::row::<34>("resnet34-kuangliu"),
    kuangliu::row::<50>("resnet50-kuangliu"),
    kuangliu::row::<101>("resnet101-kuangliu"),
    kuangliu::row::<152>("resnet152-kuangliu"),
    vit::VIT,
    swint::SWINT,
    llama::LLAMA,
];

impl Row {
    /// Creates the model and its parameters, if there is memory for them. `kwargs` have been checked against the
    /// entry's keys.
    pub fn build(
        &self,
        params: &mut Params,
        data: &Data,
        kwargs: &Map<String, Value>,
    ) -> Result<Box<dyn Model>, String> {
        let whole = |v: &Value| v.as_u64().is_some_and(|n| n > LARGEST);
        let of_list = |v: &Value| v.as_array().is_some_and(|list| list.iter().any(whole));
        if let Some((key, value)) = kwargs.iter().find(|(_, v)| whole(v) || of_list(v)) {
            return Err(format!("model_kwargs.{key} is {value}: too large"));
        }
        let model = (self.build)(params, data, &Values::new(self.entry.keys, kwargs))?;
        params.check().map(|()| model)
    }

    /// The model with the initial weights that every run starts from.
    pub fn build_seeded(
        &self,
        data: &Data,
        kwargs: &Map<String, Value>,
    ) -> Result<(Params, Box<dyn Model>), String> {
        let mut params = Params::new(Generator::new(SEED));
        let model = self.build(&mut params, data, kwargs)?;
        Ok((params, model))
    }
}

pub fn row(name: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.entry.name == name)
}

/// No machine has memory for a model with a larger number than this in its keys, and the product of two dimensions would
/// leave the range of addresses.
const LARGEST: u64 = 1 << 37;

/// A number of layers, if it is one that can be built.
fn depth(key: &str, layers: usize) -> Result<usize, String> {
    const MOST: usize = 10_000;
    if layers > MOST {
        return Err(format!(
            "model_kwargs.{key} is {layers}: too large (at most {MOST})"
        ));
    }
    Ok(layers)
}

/// The number of features of flat samples.
fn features(data: &Data) -> Result<usize, String> {
    match data.sample {
        Sample::Vector(n) => Ok(n),
        Sample::IndexPair { .. } => Ok(2),
        Sample::Tokens { .. } => Err("it takes vectors, not texts".into()),
        image @ Sample::Image { .. } => Err(format!(
            "it takes flat samples, not samples of shape {:?} (for mnist: \"as_image\": false)",
            image.shape()
        )),
    }
}

/// The (channels, height, width) of samples that are images.
fn images(data: &Data) -> Result<[usize; 3], String> {
    match data.sample {
        Sample::Image {
            channels,
            height,
            width,
        } => Ok([channels, height, width]),
        other => Err(format!(
            "it takes images, not samples of shape {:?}",
            other.shape()
        )),
    }
}

/// The number of classes of 32x32 images in colour.
fn images_of_cifar(data: &Data) -> Result<usize, String> {
    match (images(data)?, data.classes) {
        ([3, 32, 32], Some(classes)) => Ok(classes),
        ([3, 32, 32], None) => Err("its targets must be class labels".into()),
        ([channels, height, width], _) => Err(format!(
            "it takes images of 3x32x32, not {channels}x{height}x{width}"
        )),
    }
}
