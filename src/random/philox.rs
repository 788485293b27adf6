//! Philox4x32-10, a counter-based generator: any value of any stream without the ones before it.
//!
//! Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as 1, 2, 3 (SC 2011).

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// What is added to the key between rounds: the golden ratio and sqrt(3) - 1.
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// Counters that are worked on at once, in vector registers.
const LANES: usize = 16;

/// Four random words for a key and a counter. Words are little-endian: word 0 of the counter and of
/// the key are their low 32 bits.
pub fn philox4x32_10(key: u64, counter: u128) -> [u32; 4] {
    let word = |i: usize| [(counter >> (32 * i)) as u64];
    rounds(key, std::array::from_fn(word)).map(|[word]| word as u32)
}

/// The four words of `L` counters, word by word. A word is the low half of its 64 bits: what multiplications leave
/// above it need not be cleared, which suits vector registers.
#[inline(always)]
fn rounds<const L: usize>(key: u64, mut c: [[u64; L]; 4]) -> [[u64; L]; 4] {
    let low = |x: u64| x & u64::from(u32::MAX);
    let mut k = [key as u32, (key >> 32) as u32];
    for round in 0..ROUNDS {
        if round > 0 {
            k = [k[0].wrapping_add(WEYL[0]), k[1].wrapping_add(WEYL[1])];
        }
        let p0 = c[0].map(|c| u64::from(MULTIPLIERS[0]) * low(c));
        let p1 = c[2].map(|c| u64::from(MULTIPLIERS[1]) * low(c));
        c[0] = std::array::from_fn(|i| (p1[i] >> 32) ^ c[1][i] ^ u64::from(k[0]));
        c[2] = std::array::from_fn(|i| (p0[i] >> 32) ^ c[3][i] ^ u64::from(k[1]));
        (c[1], c[3]) = (p1, p0);
    }
    c
}

/// The four words that serve the elements `4 * block .. 4 * block + 4` of a mask in step `step`: the key
/// is the seed, the counter's low half the block and its high half the step.
pub fn block(seed: u64, step: u64, block: u64) -> [u32; 4] {
    philox4x32_10(seed, u128::from(step) << 64 | u128::from(block))
}

/// A uniform word for element `index` of a mask in step `step`: word `index % 4` of block `index / 4`.
pub fn at(seed: u64, step: u64, index: u64) -> u32 {
    block(seed, step, index / 4)[(index % 4) as usize]
}

/// `value` of the words of blocks `first`, `first + 1`, ... of step `step`, one for each place of `to`.
pub fn fill(seed: u64, step: u64, first: u64, to: &mut [f32], value: impl Fn(u32) -> f32) {
    let group = |first: u64, to: &mut [f32; 4 * LANES]| {
        let block: [u64; LANES] = std::array::from_fn(|lane| first + lane as u64);
        let words = rounds(
            seed,
            [
                block,
                block.map(|block| block >> 32),
                [step; LANES],
                [step >> 32; LANES],
            ],
        );
        for lane in 0..LANES {
            for word in 0..4 {
                to[4 * lane + word] = value(words[word][lane] as u32);
            }
        }
    };
    let (groups, rest) = to.as_chunks_mut();
    let mut next = first;
    for to in groups {
        group(next, to);
        next += LANES as u64;
    }
    if !rest.is_empty() {
        let mut last = [0.0; 4 * LANES];
        group(next, &mut last);
        rest.copy_from_slice(&last[..rest.len()]);
    }
}
