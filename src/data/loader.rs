//! The order in which a run visits its training samples.

use super::Ahead;
use crate::random::{run_seed, torch::Generator};

/// Shuffles as the reference's loader does, with a generator of its own.
pub struct Loader {
    generator: Generator,
    order: Vec<u32>,
    batch_size: usize,
    started: bool,
    ahead: Option<Ahead<Vec<u32>>>,
}

impl Loader {
    /// `n` samples in batches of `batch_size`; what is left over in the end of an epoch is dropped.
    pub fn new(run_id: u64, n: usize, batch_size: usize) -> Loader {
        assert!(batch_size > 0);
        Loader {
            generator: Generator::new(run_seed(run_id)),
            order: vec![0; n],
            batch_size,
            started: false,
            ahead: None,
        }
    }

    /// The same orders, each made while the one before it is used.
    pub fn ahead(mut self) -> Loader {
        let (order, batch_size) = (self.order.clone(), self.batch_size);
        Loader {
            generator: self.generator.clone(),
            started: self.started,
            ahead: Some(Ahead::new(move || self.next_epoch().to_vec())),
            order,
            batch_size,
        }
    }

    /// Batches per epoch.
    pub fn batches(&self) -> usize {
        self.order.len() / self.batch_size
    }

    /// The order of all samples in the next epoch; batch b is at `b * batch_size`.
    pub fn next_epoch(&mut self) -> &[u32] {
        if let Some(ahead) = &mut self.ahead {
            self.order = ahead.take();
            return &self.order;
        }
        if self.started {
            // The reference's sampler draws one more order when it is asked for a sample too many.
            self.generator.randperm_into(&mut self.order);
        }
        self.started = true;
        // The seed that the reference hands to its worker processes, of which it has none.
        self.generator.random64();
        self.generator.randperm_into(&mut self.order);
        &self.order
    }
}
