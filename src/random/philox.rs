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
    let word = |i: usize| [(counter >> (32 * i)) as u32];
    rounds(key, std::array::from_fn(word)).map(|[word]| word)
}

/// The four words of `L` counters, word by word.
#[inline(always)]
fn rounds<const L: usize>(key: u64, mut c: [[u32; L]; 4]) -> [[u32; L]; 4] {
    let mut k = [key as u32, (key >> 32) as u32];
    for round in 0..ROUNDS {
        if round > 0 {
            k = [k[0].wrapping_add(WEYL[0]), k[1].wrapping_add(WEYL[1])];
        }
        for lane in 0..L {
            let p0 = u64::from(MULTIPLIERS[0]) * u64::from(c[0][lane]);
            let p1 = u64::from(MULTIPLIERS[1]) * u64::from(c[2][lane]);
            c[0][lane] = (p1 >> 32) as u32 ^ c[1][lane] ^ k[0];
            c[2][lane] = (p0 >> 32) as u32 ^ c[3][lane] ^ k[1];
            c[1][lane] = p1 as u32;
            c[3][lane] = p0 as u32;
        }
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
    let step = [step as u32, (step >> 32) as u32];
    for (group, to) in to.chunks_mut(4 * LANES).enumerate() {
        let mut counters = [[0; LANES], [0; LANES], [step[0]; LANES], [step[1]; LANES]];
        for lane in 0..LANES {
            let block = first + (group * LANES + lane) as u64;
            counters[0][lane] = block as u32;
            counters[1][lane] = (block >> 32) as u32;
        }
        let words = rounds(seed, counters);
        for (lane, to) in to.chunks_mut(4).enumerate() {
            for (to, words) in to.iter_mut().zip(words) {
                *to = value(words[lane]);
            }
        }
    }
}
