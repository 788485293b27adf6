//! Token embedding: rows of a table (V, D) picked by tokens, codes held as floats.

use rayon::prelude::*;

/// Tokens of a chunk in forward.
const TOKENS: usize = 64;
/// Parts of the table, each of which one thread sums alone.
const PARTS: usize = 16;

/// `y[t] = table[tokens[t]]`.
///
/// # Panics
/// If a token is not below V.
pub fn embed(table: &[f32], tokens: &[f32], y: &mut [f32]) {
    let dim = y.len() / tokens.len();
    y.par_chunks_mut(TOKENS * dim)
        .zip(tokens.par_chunks(TOKENS))
        .for_each(|(y, tokens)| {
            for (y, token) in y.chunks_exact_mut(dim).zip(tokens) {
                y.copy_from_slice(&table[*token as usize * dim..][..dim]);
            }
        });
}

/// `dtable[v]` = sum of `dy[t]` over the tokens that are v, in their order. A thread looks through all tokens for those of
/// its part of the table: that is little beside the rows that it adds, and takes no memory.
pub fn embed_backward(tokens: &[f32], dy: &[f32], dtable: &mut [f32]) {
    let dim = dy.len() / tokens.len();
    let codes = (dtable.len() / dim).div_ceil(PARTS);
    dtable
        .par_chunks_mut(codes * dim)
        .enumerate()
        .for_each(|(part, sums)| {
            sums.fill(0.0);
            let (first, end) = (part * codes, part * codes + sums.len() / dim);
            let own = first as f32..end as f32;
            for (token, dy) in tokens.iter().zip(dy.chunks_exact(dim)) {
                if own.contains(token) {
                    let sum = &mut sums[(*token as usize - first) * dim..][..dim];
                    sum.iter_mut().zip(dy).for_each(|(sum, dy)| *sum += dy);
                }
            }
        });
}
