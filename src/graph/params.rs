//! Parameters and buffers: named contiguous ranges of flat vectors, with PyTorch's names, shapes and
//! layouts.

use crate::device::{Slot, View};
use crate::random::torch::Generator;

/// Index range in a flat vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub start: usize,
    pub len: usize,
}

impl Range {
    /// Its part of a vector of the arena.
    pub fn of(self, vector: Slot) -> Slot {
        assert!(self.start + self.len <= vector.len, "outside of a vector");
        Slot {
            start: vector.start + self.start,
            len: self.len,
        }
    }
}

/// A parameter of a model: its place among [`Params::tensors`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param(usize);

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

impl Role {
    pub const ALL: [Role; 5] = [
        Role::Hidden,
        Role::Bias,
        Role::Norm,
        Role::Embedding,
        Role::Head,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Role::Hidden => "hidden",
            Role::Bias => "bias",
            Role::Norm => "norm",
            Role::Embedding => "embedding",
            Role::Head => "head",
        }
    }
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
    /// In the order in which they were made; where they lie is another matter, see [`Params::arrange`].
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

    /// All of `n` parameters as one matrix, as square as their number allows, where nothing is known of a model.
    pub fn matrix(n: usize) -> Tensor {
        let columns = (1..=n.isqrt())
            .rev()
            .find(|columns| n.is_multiple_of(*columns));
        let columns = columns.unwrap_or(1);
        Tensor {
            name: "w".into(),
            shape: vec![n / columns, columns],
            range: Range { start: 0, len: n },
            role: Role::Hidden,
            normal: false,
        }
    }

    /// A new parameter, filled with `value`.
    pub fn constant(&mut self, name: impl Into<String>, shape: &[usize], value: f32) -> Param {
        let (all, values) = (&mut self.tensors, &mut self.values);
        add(all, values, &mut self.too_large, name, shape, value);
        Param(self.tensors.len() - 1)
    }

    /// A new parameter, uniform in [-bound, bound).
    pub fn uniform(&mut self, name: impl Into<String>, shape: &[usize], bound: f32) -> Param {
        let param = self.constant(name, shape, 0.0);
        let values = slice(&mut self.values, self.tensors[param.0].range);
        self.generator.uniform(values, -bound, bound);
        param
    }

    /// A new parameter, normal with mean 0.
    pub fn normal(&mut self, name: impl Into<String>, shape: &[usize], std: f32) -> Param {
        let param = self.constant(name, shape, 0.0);
        self.redraw_normal(param, std);
        param
    }

    /// Draws a parameter again, normal with mean 0.
    pub fn redraw_normal(&mut self, param: Param, std: f32) {
        let tensor = &mut self.tensors[param.0];
        tensor.normal = true;
        self.generator
            .normal(slice(&mut self.values, tensor.range), 0.0, std);
    }

    /// Takes back the parameter that was made last; what was drawn for it stays drawn.
    pub fn discard_last(&mut self) {
        if let Some(last) = self.tensors.pop() {
            self.values.truncate(last.range.start);
        }
    }

    /// Says what parameters are. Those that nothing is said of are hidden.
    pub fn mark(&mut self, params: impl IntoIterator<Item = Param>, role: Role) {
        for param in params {
            self.tensors[param.0].role = role;
        }
    }

    /// Sets all values of a parameter.
    pub fn fill(&mut self, param: Param, value: f32) {
        slice(&mut self.values, self.tensors[param.0].range).fill(value);
    }

    pub fn all(&self) -> impl Iterator<Item = Param> {
        (0..self.tensors.len()).map(Param)
    }

    pub fn tensor(&self, param: Param) -> &Tensor {
        &self.tensors[param.0]
    }

    /// Lays the parameters out in this order, which names each of [`Params::tensors`] once. Plans are recorded afterwards.
    pub fn arrange(&mut self, order: &[usize]) {
        let mut values = Vec::with_capacity(self.values.len());
        for &i in order {
            let tensor = &mut self.tensors[i];
            let start = values.len();
            values.extend_from_slice(tensor.of(&self.values));
            tensor.range.start = start;
        }
        assert_eq!(values.len(), self.values.len(), "an order of all tensors");
        self.values = values;
    }

    /// A new buffer, filled with `value`.
    pub fn buffer(&mut self, name: impl Into<String>, shape: &[usize], value: f32) -> Range {
        let (all, values) = (&mut self.buffers, &mut self.buffer_values);
        add(all, values, &mut self.too_large, name, shape, value)
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
