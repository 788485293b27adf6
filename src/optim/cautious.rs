//! Cautious updates: what would go against the gradient is left out, and the rest is made longer in turn.
//!
//! Paper: K. Liang et al., "Cautious Optimizers: Improving Training with One Line of Code", 2024, arXiv:2411.16085.
//!
//! A method leaves its update u, which is to be subtracted from the weights, in its workspace. Then for every tensor
//!
//! ```text
//! M = [u g > 0]
//! w = w - u M numel / (sum M + 1)
//! ```

use rayon::prelude::*;

use super::{Method, Update};
use crate::config::{Key, Kind};
use crate::cpu::CHUNK;
use crate::device::Program;
use crate::device::gpu::kernels;
use crate::device::program::{floats, floats_mut};
use crate::graph::Tensor;

pub(super) const CAUTIOUS: Key = Key {
    name: "cautious",
    kind: Kind::Flag,
    default: Some("false"),
    about: "updates that go against the gradient are left out (Liang et al. 2024, arXiv:2411.16085)",
};

/// Blocks of kernels for each tensor.
const BLOCKS: usize = 32;

/// Floats of workspace: the update, and behind it counts.
pub(super) fn workspace(of: &[Tensor]) -> usize {
    of.iter().map(|tensor| tensor.range.len).sum::<usize>() + BLOCKS * of.len()
}

/// Adds the update that lies in the workspace; all of it if it is not masked.
pub(super) fn apply<M: Method>(u: &Update<M>, masked: bool, program: &mut Program) {
    let (update, counts) = (
        u.work.part(0, u.w.len),
        u.work.part(u.w.len, BLOCKS * u.tensors.len()),
    );
    if !program.on_host() {
        let (grid, flag) = ((BLOCKS, u.tensors.len()), i32::from(masked));
        if masked {
            kernels::cautious_counts(program, grid, u.ranges, update, u.g, counts);
        }
        return kernels::cautious_update(program, grid, u.ranges, update, u.g, counts, u.w, flag);
    }
    let ranges: Vec<_> = u.tensors.iter().map(|tensor| tensor.range).collect();
    let reads = [update.into(), u.g.into()];
    program.host("cautious_update", reads, [u.w.into()], move |reads, [w]| {
        let ([update, g], w) = (reads.map(floats), floats_mut(w));
        let keeps = |(u, g): &(&f32, &f32)| !masked || *u * *g > 0.0;
        for range in &ranges {
            let at = range.start..range.start + range.len;
            let pieces = update[at.clone()]
                .par_chunks(CHUNK)
                .zip(g[at.clone()].par_chunks(CHUNK));
            let factor = match masked {
                true => {
                    let kept = pieces
                        .clone()
                        .map(|(u, g)| u.iter().zip(g).filter(keeps).count());
                    range.len as f32 / (kept.sum::<usize>() + 1) as f32
                }
                false => 1.0,
            };
            w[at]
                .par_chunks_mut(CHUNK)
                .zip(pieces)
                .for_each(|(w, (update, g))| {
                    for (w, (u, g)) in w.iter_mut().zip(update.iter().zip(g)) {
                        let part = if keeps(&(u, g)) { factor } else { 0.0 };
                        *w -= u * part;
                    }
                });
        }
    });
}
