//! What several tests share.
#![allow(dead_code)] // each test binary uses its part

use stepback_native::random::torch::Generator;

/// Random test values.
pub struct Draws(Generator);

impl Draws {
    pub fn new(seed: u64) -> Draws {
        Draws(Generator::new(seed))
    }

    pub fn normal(&mut self, n: usize) -> Vec<f32> {
        let mut values = vec![0.0; n];
        self.0.normal(&mut values, 0.0, 1.0);
        values
    }

    /// An integer below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0.randint(bound as u64) as usize
    }
}
