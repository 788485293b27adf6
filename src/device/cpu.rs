//! Arithmetic on the CPU: loops over fixed chunks, so that results do not depend on the number of threads.

pub mod attention;
pub mod batch_norm;
pub mod conv;
pub mod gemm;
pub mod layer_norm;
pub mod math;
mod par;
pub mod pool;
mod simd;

pub use simd::allow_avx512;

use rayon::prelude::*;

/// Elements per chunk. Chunk borders decide the order of summation, so they never move.
pub const CHUNK: usize = 1 << 14;

/// Sum of the `term`s of all chunks, in the order of the chunks.
fn sum_chunks<T: Sync>(a: &[T], b: &[T], term: impl Fn(&[T], &[T]) -> f64 + Sync) -> f64 {
    if a.len() <= CHUNK {
        return term(a, b);
    }
    // Blocks of 64 partial sums keep this free of allocation for any length.
    let mut total = 0.0;
    for (a, b) in a.chunks(64 * CHUNK).zip(b.chunks(64 * CHUNK)) {
        let mut partial = [0.0; 64];
        partial
            .par_iter_mut()
            .zip(a.par_chunks(CHUNK).zip(b.par_chunks(CHUNK)))
            .for_each(|(p, (a, b))| *p = term(a, b));
        total += partial.iter().sum::<f64>();
    }
    total
}

/// <a, b>: products and sums in f64.
pub fn dot(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    sum_chunks(a, b, |a, b| {
        let mut lanes = [0.0f64; 8];
        let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
        let (ra, rb) = (a8.remainder(), b8.remainder());
        for (x, y) in a8.zip(b8) {
            for i in 0..8 {
                lanes[i] += f64::from(x[i]) * f64::from(y[i]);
            }
        }
        let rest: f64 = ra
            .iter()
            .zip(rb)
            .map(|(x, y)| f64::from(*x) * f64::from(*y))
            .sum();
        lanes.iter().sum::<f64>() + rest
    })
}
