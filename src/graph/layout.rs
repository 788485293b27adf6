//! The arena of a run: the model's vectors first, and the plans' slots behind them.

use super::params::Params;
use super::plan::Plan;
use crate::device::Machine;
use crate::device::arena::{Slot, round_up};
use crate::error::Result;

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

    /// Makes the arena, a machine's first buffer, for these plans of one model, with the model's initial values. The
    /// plans share their slots: running one destroys what another left.
    pub fn alloc<'p>(
        params: &Params,
        plans: impl IntoIterator<Item = &'p Plan>,
        machine: &mut Machine,
    ) -> Result<Layout> {
        let layout = Layout::new(params);
        let floats = plans
            .into_iter()
            .map(Plan::end)
            .fold(layout.end(), usize::max);
        machine.alloc::<f32>("parameters and activations", floats)?;
        machine.upload(layout.values, &params.values)?;
        machine.upload(layout.buffers, &params.buffer_values)?;
        Ok(layout)
    }

    /// The first float behind the model's vectors.
    pub fn end(&self) -> usize {
        self.buffers.start + round_up(self.buffers.len)
    }
}
