//! Random number generators, bit for bit as the reference's: torch's CPU generator and numpy's
//! RandomState, and the counter-based Philox4x32-10.

pub mod numpy;
pub mod philox;
pub mod torch;

/// Seed of whatever all runs of an experiment share: training sets, initial weights, augmentation, dropout masks.
pub const SEED: u64 = 1_234_567;

/// Seed of whatever one run has of its own, for the run with id 0: validation sets, order of batches.
pub const RUN_SEED: u64 = 456_789;

/// [`RUN_SEED`] for any run.
pub fn run_seed(run_id: u64) -> u64 {
    RUN_SEED.wrapping_add(run_id)
}
