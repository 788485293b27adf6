//! What several tests share.
#![allow(dead_code)] // each test binary uses its part

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use rand_distr::StandardNormal;
use serde_json::{Map, Value};
use stepback_native::graph::{Params, Sample};
use stepback_native::models::{self, Data, Model};
use stepback_native::random::SEED;
use stepback_native::random::torch::Generator;

/// Random test values.
pub struct Draws(Xoshiro256PlusPlus);

impl Draws {
    pub fn new(seed: u64) -> Draws {
        Draws(Xoshiro256PlusPlus::seed_from_u64(seed))
    }

    pub fn normal(&mut self, n: usize) -> Vec<f32> {
        (&mut self.0).sample_iter(StandardNormal).take(n).collect()
    }

    /// An integer below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0.random_range(0..bound)
    }
}

/// CIFAR's shapes.
pub fn cifar(classes: usize) -> Data {
    Data {
        sample: Sample::of_shape(&[3, 32, 32]),
        target: vec![1],
        classes: Some(classes),
    }
}

/// A model with the run's initial weights, or why it cannot be built.
pub fn build(name: &str, kwargs: &Value, data: &Data) -> Result<(Params, Box<dyn Model>), String> {
    let mut params = Params::new(Generator::new(SEED));
    let empty = Map::new();
    let kwargs = kwargs.as_object().unwrap_or(&empty);
    let row = models::row(name).expect("a model of the table");
    let model = row.build(&mut params, data, kwargs)?;
    Ok((params, model))
}
