//! The memory of a run: one arena with the model's vectors first and the plans' slots behind them.

use super::params::{Params, Range};
use super::plan::Plan;
use crate::device::arena::{Arena, Slot, round_up};

/// Where the model's vectors lie in the arena.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub values: Slot,
    pub grads: Slot,
    pub buffers: Slot,
}

impl Layout {
    pub fn new(params: &Params) -> Layout {
        let mut start = 0;
        let mut take = |len| {
            let slot = Slot { start, len };
            start += round_up(len);
            slot
        };
        Layout {
            values: take(params.values.len()),
            grads: take(params.values.len()),
            buffers: take(params.buffer_values.len()),
        }
    }

    /// The first float behind the model's vectors.
    pub fn end(&self) -> usize {
        self.buffers.start + round_up(self.buffers.len)
    }
}

pub(super) fn part(vector: Slot, range: Range) -> Slot {
    Slot {
        start: vector.start + range.start,
        len: range.len,
    }
}

pub struct Memory {
    pub(super) arena: Arena,
    layout: Layout,
}

impl Memory {
    /// Memory for these plans of one model, holding its initial values. The plans share their slots:
    /// running one destroys what another left.
    pub fn new(params: &Params, plans: &[&Plan]) -> Memory {
        let layout = Layout::new(params);
        let floats = plans.iter().map(|p| p.end()).max().unwrap_or(0);
        let mut arena = Arena::new(floats.max(layout.end()));
        arena.get_mut(layout.values).copy_from_slice(&params.values);
        arena
            .get_mut(layout.buffers)
            .copy_from_slice(&params.buffer_values);
        Memory { arena, layout }
    }

    /// All parameters, in the order of [`Params::tensors`].
    pub fn values(&self) -> &[f32] {
        self.arena.get(self.layout.values)
    }

    /// The gradient of the last run of a training plan.
    pub fn grads(&self) -> &[f32] {
        self.arena.get(self.layout.grads)
    }

    pub fn buffers(&self) -> &[f32] {
        self.arena.get(self.layout.buffers)
    }

    /// Parameters to be updated, and their gradient.
    pub fn update(&mut self) -> (&mut [f32], &[f32]) {
        let ([g], [w]) = self.arena.views([self.layout.grads], [self.layout.values]);
        (w, g)
    }

    pub fn get(&self, slot: Slot) -> &[f32] {
        self.arena.get(slot)
    }

    pub fn get_mut(&mut self, slot: Slot) -> &mut [f32] {
        self.arena.get_mut(slot)
    }

    /// Two slots to be written (a batch and its targets).
    pub fn pair_mut(&mut self, a: Slot, b: Slot) -> (&mut [f32], &mut [f32]) {
        let ([], [a, b]) = self.arena.views([], [a, b]);
        (a, b)
    }
}
