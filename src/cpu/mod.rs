//! Arithmetic on the CPU: loops over fixed chunks, so that results do not depend on the number of threads.

pub mod attention;
pub mod batch_norm;
pub mod blocks;
pub mod causal_attention;
pub mod conv;
pub mod gemm;
pub mod linalg;
pub mod math;
pub mod norm;
mod par;
pub mod pool;
mod simd;
pub mod tokens;

pub use simd::avx512;

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

/// Sum of `term(a[i], b[i])`: terms in f32, sums in f64. A term that overflows counts as infinite.
pub fn sum_of(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32 + Sync) -> f64 {
    assert_eq!(a.len(), b.len());
    sum_chunks(a, b, |a, b| {
        let mut lanes = [0.0f64; 8];
        let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
        for (x, y) in a.iter().zip(b) {
            for i in 0..8 {
                lanes[i] += f64::from(term(x[i], y[i]));
            }
        }
        let rest = a_rest.iter().zip(b_rest);
        let rest: f64 = rest.map(|(&x, &y)| f64::from(term(x, y))).sum();
        lanes.iter().sum::<f64>() + rest
    })
}

/// The mean of `n` terms from their sum, rounded to f32 first: Infinity once the sum leaves its range, as
/// it is where sums are kept in f32.
pub fn mean(sum: f64, n: usize) -> f32 {
    sum as f32 / n as f32
}

/// `means[i]`: the mean of `term(a, b)` over the i-th `batch` elements; the last ones are those that are left.
pub fn means_of(
    a: &[f32],
    b: &[f32],
    batch: usize,
    means: &mut [f32],
    term: impl Fn(f32, f32) -> f32 + Sync,
) {
    let batches = a.chunks(batch).zip(b.chunks(batch));
    for (to, (a, b)) in means.iter_mut().zip(batches) {
        *to = mean(sum_of(a, b, &term), a.len());
    }
}

/// <a, b>: products in f32, sums in f64.
pub fn dot(a: &[f32], b: &[f32]) -> f64 {
    sum_of(a, b, |x, y| x * y)
}

/// y = f(x), element by element.
pub fn map(y: &mut [f32], x: &[f32], f: impl Fn(f32) -> f32 + Sync) {
    y.par_chunks_mut(CHUNK)
        .zip(x.par_chunks(CHUNK))
        .for_each(|(y, x)| y.iter_mut().zip(x).for_each(|(y, x)| *y = f(*x)));
}

/// y = f(a, b), element by element.
pub fn map2(y: &mut [f32], a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32 + Sync) {
    y.par_chunks_mut(CHUNK)
        .zip(a.par_chunks(CHUNK).zip(b.par_chunks(CHUNK)))
        .for_each(|(y, (a, b))| {
            for (y, (a, b)) in y.iter_mut().zip(a.iter().zip(b)) {
                *y = f(*a, *b);
            }
        });
}

/// Every row of y is `row`.
pub fn fill_rows(y: &mut [f32], row: &[f32]) {
    let rows = CHUNK.div_ceil(row.len());
    y.par_chunks_mut(rows * row.len()).for_each(|y| {
        for y in y.chunks_exact_mut(row.len()) {
            y.copy_from_slice(row);
        }
    });
}

/// `sums[j]` = sum over the rows of x (rows, sums.len()): in f64, in the order of the rows.
pub fn sum_rows(sums: &mut [f32], x: &[f32]) {
    const LANES: usize = 16;
    let columns = sums.len();
    let sum_block = |(block, sums): (usize, &mut [f32])| {
        let mut totals = [0.0f64; LANES];
        for row in x.chunks_exact(columns) {
            let row = &row[block * LANES..][..sums.len()];
            for (total, x) in totals.iter_mut().zip(row) {
                *total += f64::from(*x);
            }
        }
        for (sum, total) in sums.iter_mut().zip(totals) {
            *sum = total as f32;
        }
    };
    if x.len() > CHUNK {
        sums.par_chunks_mut(LANES).enumerate().for_each(sum_block);
    } else {
        sums.chunks_mut(LANES).enumerate().for_each(sum_block);
    }
}
