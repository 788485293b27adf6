//! Parameters and buffers: named contiguous ranges of flat vectors, with PyTorch's names, shapes and
//! layouts.

use crate::device::View;
use crate::random::torch::Generator;

/// Index range in a flat vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub start: usize,
    pub len: usize,
}

/// What a parameter is in its network. Recipes of optimizers treat them differently.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// A weight between two layers.
    #[default]
    Hidden,
    Bias,
    /// Scale and shift of a normalisation.
    Norm,
    /// What turns input into vectors: embeddings of patches, tokens, positions and indices.
    Embedding,
    /// The weight of the layer that gives a network's outputs.
    Head,
}

/// A named tensor in a flat vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    pub name: String,
    pub shape: Vec<usize>,
    pub range: Range,
    pub role: Role,
    /// Drawn from the normal distribution, whose values depend on the machine's logarithm.
    pub normal: bool,
}

impl Tensor {
    /// This tensor's part of a flat vector.
    pub fn of<'v>(&self, vector: &'v [f32]) -> &'v [f32] {
        &vector[self.range.start..self.range.start + self.range.len]
    }

    /// Where it lies in the parameters, in their gradient, or in a vector that is as long.
    pub fn part(&self, vector: impl Into<View<f32>>) -> View<f32> {
        vector.into().part(self.range.start, self.range.len)
    }
}

/// The parameters (trained) and buffers (running averages) of a model, while it is built and after.
/// Layers draw their initial values from the generator in the order in which they are made.
pub struct Params {
    pub generator: Generator,
    pub tensors: Vec<Tensor>,
    pub values: Vec<f32>,
    pub buffers: Vec<Tensor>,
    pub buffer_values: Vec<f32>,
    /// Batches that the running averages hold already.
    pub batches_tracked: u64,
    /// The first tensor that there was no memory for. It is empty, whatever its shape.
    too_large: Option<String>,
}

impl Params {
    pub fn new(generator: Generator) -> Params {
        Params {
            generator,
            tensors: Vec::new(),
            values: Vec::new(),
            buffers: Vec::new(),
            buffer_values: Vec::new(),
            batches_tracked: 0,
            too_large: None,
        }
    }

    /// An error if there was no memory for a tensor.
    pub fn check(&self) -> Result<(), String> {
        self.too_large.clone().map_or(Ok(()), Err)
    }

    /// All of `n` parameters as one tensor, where nothing is known of a model.
    pub fn vector(n: usize) -> Tensor {
        Tensor {
            name: "w".into(),
            shape: vec![n],
            range: Range { start: 0, len: n },
            role: Role::Hidden,
            normal: false,
        }
    }

    /// A new parameter, filled with `value`.
    pub fn constant(&mut self, name: impl Into<String>, shape: &[usize], value: f32) -> Range {
        let (all, values) = (&mut self.tensors, &mut self.values);
        add(all, values, &mut self.too_large, name, shape, value)
    }

    /// A new parameter, uniform in [-bound, bound).
    pub fn uniform(&mut self, name: impl Into<String>, shape: &[usize], bound: f32) -> Range {
        let range = self.constant(name, shape, 0.0);
        self.generator
            .uniform(slice(&mut self.values, range), -bound, bound);
        range
    }

    /// A new parameter, normal with mean 0.
    pub fn normal(&mut self, name: impl Into<String>, shape: &[usize], std: f32) -> Range {
        let range = self.constant(name, shape, 0.0);
        self.redraw_normal(range, std);
        range
    }

    /// Draws a parameter again, normal with mean 0.
    pub fn redraw_normal(&mut self, range: Range, std: f32) {
        self.generator
            .normal(slice(&mut self.values, range), 0.0, std);
        self.tensor(range).normal = true;
    }

    /// Says what parameters are. Those that nothing is said of are hidden.
    pub fn mark(&mut self, ranges: impl IntoIterator<Item = Range>, role: Role) {
        for range in ranges {
            self.tensor(range).role = role;
        }
    }

    fn tensor(&mut self, range: Range) -> &mut Tensor {
        let tensor = self.tensors.iter_mut().find(|t| t.range == range);
        tensor.expect("a parameter of this model")
    }

    /// Sets all values of a parameter.
    pub fn fill(&mut self, range: Range, value: f32) {
        slice(&mut self.values, range).fill(value);
    }

    /// A new buffer, filled with `value`.
    pub fn buffer(&mut self, name: impl Into<String>, shape: &[usize], value: f32) -> Range {
        let (all, values) = (&mut self.buffers, &mut self.buffer_values);
        add(all, values, &mut self.too_large, name, shape, value)
    }

    pub fn shape(&self, range: Range) -> &[usize] {
        let tensor = self.tensors.iter().find(|t| t.range == range);
        &tensor.expect("a parameter of this model").shape
    }
}

fn slice(values: &mut [f32], range: Range) -> &mut [f32] {
    &mut values[range.start..range.start + range.len]
}

fn add(
    tensors: &mut Vec<Tensor>,
    values: &mut Vec<f32>,
    too_large: &mut Option<String>,
    name: impl Into<String>,
    shape: &[usize],
    value: f32,
) -> Range {
    let name = name.into();
    let len = shape.iter().try_fold(1usize, |len, n| len.checked_mul(*n));
    let len = len.filter(|len| values.try_reserve(*len).is_ok());
    if len.is_none() {
        let bytes = shape.iter().fold(4.0, |bytes, n| bytes * *n as f64);
        let text = format!(
            "too large: {name} of shape {shape:?} alone takes {:.1} GB",
            bytes / 1e9
        );
        too_large.get_or_insert(text);
    }
    let range = Range {
        start: values.len(),
        len: len.unwrap_or(0),
    };
    values.resize(range.start + range.len, value);
    tensors.push(Tensor {
        name,
        shape: shape.to_vec(),
        range,
        role: Role::default(),
        normal: false,
    });
    range
}
