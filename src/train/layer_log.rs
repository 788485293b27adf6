//! What a step does to every tensor of the parameters, if somebody wants it, of the steps that are logged.

use std::num::NonZeroUsize;

use crate::cpu;
use crate::device::gpu::kernels::{self, Step, TensorRange};
use crate::device::program::{floats, floats_mut, one};
use crate::device::{Machine, Program, Slot, View};
use crate::error::Result;
use crate::graph::{Range, Tensor};

/// A tensor in a logged step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct LayerStep {
    /// l2 norms: of the weights w before the step, of the loss's gradient there, of w' - w.
    pub weight_norm: f64,
    pub grad_norm: f64,
    pub update_norm: f64,
    /// Between w and w', in radians; 0 where one of them is zero.
    pub angular_update: f64,
}

/// Of one tensor in one step: the squares of |w|, |g|, |w'| and |w' - w|.
const SUMS: usize = 4;

/// The table of an epoch's logged steps, on the machine that trains.
pub(super) struct LayerLog {
    every: usize,
    tensors: Vec<Range>,
    ranges: View<TensorRange>,
    /// The parameters before the step.
    before: View<f32>,
    /// (logged steps, tensors, [`SUMS`])
    pub table: View<f64>,
}

impl LayerLog {
    /// For epochs of this many steps of a network with these parameters.
    pub fn new(
        machine: &mut Machine,
        every: NonZeroUsize,
        steps: usize,
        tensors: &[Tensor],
    ) -> Result<LayerLog> {
        let tensors: Vec<Range> = tensors.iter().map(|tensor| tensor.range).collect();
        let range = |range: &Range| TensorRange {
            start: range.start as i64,
            n: range.len as i64,
            rows: 1,
        };
        let ranges: Vec<TensorRange> = tensors.iter().map(range).collect();
        let parameters = tensors.iter().map(|range| range.start + range.len).max();
        let rows = steps.div_ceil(every.get());
        Ok(LayerLog {
            every: every.get(),
            ranges: machine.alloc_with("ranges of tensors", &ranges)?,
            before: machine.alloc("parameters before a step", parameters.unwrap_or(0))?,
            table: machine.alloc("logged layers", rows * tensors.len() * SUMS)?,
            tensors,
        })
    }

    /// Adds the calls that look at the weights and at their gradient before an update.
    pub fn emit_before(&self, program: &mut Program, now: View<Step>, w: Slot, g: Slot) {
        let (every, table, before) = (self.every, self.table, self.before);
        if !program.on_host() {
            let (blocks, k) = (self.tensors.len(), every as i64);
            return kernels::layers_before(
                program,
                blocks,
                now,
                k,
                self.ranges,
                w,
                g,
                before,
                table,
            );
        }
        let tensors = self.tensors.clone();
        program.host(
            "layers_before",
            [now.into(), w.into(), g.into()],
            [before.into(), table.into()],
            move |[now, w, g], [before, table]| {
                let Some(row) = row(now, every, table, tensors.len()) else {
                    return;
                };
                let (w, g) = (floats(w), floats(g));
                floats_mut(before).copy_from_slice(w);
                for (sums, tensor) in row.iter_mut().zip(&tensors) {
                    let [w, g] = [w, g].map(|vector| part(vector, *tensor));
                    [sums[0], sums[1]] = [cpu::dot(w, w), cpu::dot(g, g)];
                }
            },
        );
    }

    /// Adds the calls that compare the weights with those before the update.
    pub fn emit_after(&self, program: &mut Program, now: View<Step>, w: Slot) {
        let (every, table, before) = (self.every, self.table, self.before);
        if !program.on_host() {
            let (blocks, k) = (self.tensors.len(), every as i64);
            return kernels::layers_after(program, blocks, now, k, self.ranges, w, before, table);
        }
        let tensors = self.tensors.clone();
        program.host(
            "layers_after",
            [now.into(), w.into(), before.into()],
            [table.into()],
            move |[now, w, before], [table]| {
                let Some(row) = row(now, every, table, tensors.len()) else {
                    return;
                };
                let (w, before) = (floats(w), floats(before));
                for (sums, tensor) in row.iter_mut().zip(&tensors) {
                    let [w, before] = [w, before].map(|vector| part(vector, *tensor));
                    sums[2] = cpu::dot(w, w);
                    sums[3] = cpu::sum_of(w, before, |new, old| (new - old) * (new - old));
                }
            },
        );
    }

    /// What an epoch has left: logged steps with all tensors of each, in their order.
    pub fn read(&self, machine: &mut Machine) -> Result<Vec<(usize, Vec<LayerStep>)>> {
        let table = machine.download(self.table)?;
        let rows = table.chunks_exact(self.tensors.len() * SUMS).enumerate();
        let row = |(i, row): (usize, &[f64])| {
            let tensors = row.chunks_exact(SUMS).map(LayerStep::new);
            (i * self.every, tensors.collect())
        };
        Ok(rows.map(row).collect())
    }
}

impl LayerStep {
    fn new(sums: &[f64]) -> LayerStep {
        let [old, grad, new, update] = [0, 1, 2, 3].map(|i| sums[i].sqrt());
        // Of the triangle with these sides. acos <w, w'> / (|w| |w'|) would lose small angles.
        let sine = match old * new {
            0.0 => 0.0,
            both => (sums[3] - (new - old).powi(2)).max(0.0) / (4.0 * both),
        };
        LayerStep {
            weight_norm: old,
            grad_norm: grad,
            update_norm: update,
            angular_update: 2.0 * sine.sqrt().min(1.0).asin(),
        }
    }
}

/// A step's row of the table, if the step is logged.
fn row<'t>(
    now: &[u8],
    every: usize,
    table: &'t mut [u8],
    tensors: usize,
) -> Option<&'t mut [[f64; SUMS]]> {
    let step = one::<Step>(now).slot as usize;
    let first = step / every * tensors;
    let table: &mut [[f64; SUMS]] = bytemuck::cast_slice_mut(table);
    step.is_multiple_of(every)
        .then(|| &mut table[first..first + tensors])
}

fn part(vector: &[f32], range: Range) -> &[f32] {
    &vector[range.start..range.start + range.len]
}

#[cfg(test)]
mod tests {
    use super::LayerStep;

    #[test]
    fn angles_are_those_of_the_vectors() {
        for (w, new) in [
            ([3.0, 4.0], [3.0, 4.0]),
            ([3.0, 4.0], [-4.0, 3.0]),
            ([1.0, 0.0], [-2.0, 0.0]),
            ([1.0, 0.0], [1.0, 1e-7]),
            ([2.0, 1.0], [1.0, 5.0]),
        ] {
            let square = |v: [f64; 2]| v[0] * v[0] + v[1] * v[1];
            let update = [new[0] - w[0], new[1] - w[1]];
            let step = LayerStep::new(&[square(w), 1.0, square(new), square(update)]);
            let cross: f64 = w[0] * new[1] - w[1] * new[0];
            let angle = cross.abs().atan2(w[0] * new[0] + w[1] * new[1]);
            let error = (step.angular_update - angle).abs();
            assert!(error <= 1e-7 * angle.max(1e-2), "{w:?} {new:?}: {step:?}");
        }
        assert_eq!(LayerStep::new(&[0.0, 0.0, 1.0, 1.0]).angular_update, 0.0);
    }
}
