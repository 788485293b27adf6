//! Loops over short blocks of vectors: all of them over one block, while it is in a core's cache, then over the next one.
//!
//! Loops are short, so it must cost little to begin one: its operands are checked once for all blocks, and reached by address.

use std::ops::Range;

/// Elements that a loop treats at once: so few that processors look ahead into the next block. Sums depend on it.
const BLOCK: usize = 192;

/// Vectors that may be written.
pub const MOST: usize = 64;

/// Vectors that are written, or one part of each.
pub struct Slices<'a> {
    count: usize,
    pub at: [&'a mut [f32]; MOST],
}

impl Default for Slices<'_> {
    fn default() -> Self {
        let at = [(); MOST].map(|()| Default::default());
        Slices { count: 0, at }
    }
}

impl<'a> Slices<'a> {
    pub fn push(&mut self, vector: &'a mut [f32]) {
        self.at[self.count] = vector;
        self.count += 1;
    }

    pub fn part(&mut self, start: usize, end: usize) -> Slices<'_> {
        let mut part = Slices::default();
        let vectors = self.at[..self.count].iter_mut();
        vectors.for_each(|vector| part.push(&mut vector[start..end]));
        part
    }

    pub fn split_at(&mut self, at: usize) -> (Slices<'_>, Slices<'_>) {
        let (mut left, mut right) = (Slices::default(), Slices::default());
        for vector in &mut self.at[..self.count] {
            let (x, y) = vector.split_at_mut(at);
            left.push(x);
            right.push(y);
        }
        (left, right)
    }
}

/// Where an operand of a loop is, or its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The vector that is only read.
    Read,
    /// One of those that may be written.
    Write(usize),
    /// Holds a block's values only.
    Register(usize),
}

/// A block's values.
pub type Register = [f32; BLOCK];

/// A loop over a block: numbers, operands, and where the result goes. It does not read operands that it was not given.
pub type Loop<N> = fn(&N, [&[f32]; 3], &mut [f32]);

/// A loop with its places. The result goes to none of its operands.
pub struct Operation<'a, N> {
    pub run: Loop<N>,
    pub numbers: N,
    /// At most three.
    pub operands: &'a [Place],
    pub to: Place,
}

/// What [`for_blocks`] works with, kept so that it need not allocate.
pub struct Calls<N>(Vec<Call<N>>);

impl<N> Default for Calls<N> {
    fn default() -> Self {
        Calls(Vec::new())
    }
}

struct Call<N> {
    run: Loop<N>,
    numbers: N,
    operands: [Address; 3],
    to: Address,
}

/// Where a place is in memory.
#[derive(Clone, Copy)]
struct Address {
    first: *mut f32,
    /// All bits for a vector, none for a register: every block is at the same place there.
    moves: usize,
}

impl Address {
    fn of_block(self, block: &Range<usize>) -> *mut f32 {
        self.first.wrapping_add(block.start & self.moves)
    }
}

/// A block of vectors and the registers.
pub struct Block<'a> {
    elements: Range<usize>,
    address: &'a dyn Fn(Place) -> Address,
}

impl Block<'_> {
    /// The values that a place holds now.
    pub fn values(&self, place: Place) -> &[f32] {
        let first = (self.address)(place).of_block(&self.elements);
        // SAFETY: the block lies within the vectors, and is no longer than a register. Nothing writes to a
        // place while its values are borrowed.
        unsafe { std::slice::from_raw_parts(first, self.elements.len()) }
    }
}

/// Runs operations on vectors of one length, block by block. `seen` sees each block after them, and then come the `copies` of
/// registers, the first ones, to vectors, the second ones.
pub fn for_blocks<'o, N>(
    read: &[f32],
    mut write: Slices,
    registers: &mut [Register],
    operations: impl Iterator<Item = Operation<'o, N>>,
    copies: &[(usize, usize)],
    Calls(calls): &mut Calls<N>,
    mut seen: impl FnMut(&Block),
) {
    let count = registers.len();
    // From here on memory is reached by these addresses alone.
    let registers = registers.as_mut_ptr();
    let vectors = &mut write.at[..write.count];
    let same_length = vectors.iter().all(|vector| vector.len() == read.len());
    assert!(same_length, "vectors of one length");
    let mut firsts = [std::ptr::null_mut(); MOST];
    for (first, vector) in firsts.iter_mut().zip(&mut *vectors) {
        *first = vector.as_mut_ptr();
    }
    let firsts = &firsts[..vectors.len()];
    let address = |place: Place| match place {
        Place::Read => Address {
            first: read.as_ptr().cast_mut(),
            moves: usize::MAX,
        },
        Place::Write(i) => Address {
            first: firsts[i],
            moves: usize::MAX,
        },
        Place::Register(r) => {
            assert!(r < count, "a register that is there");
            Address {
                first: registers.wrapping_add(r).cast(),
                moves: 0,
            }
        }
    };
    calls.clear();
    calls.extend(operations.map(|operation| {
        let Operation {
            run,
            numbers,
            operands,
            to,
        } = operation;
        assert!(to != Place::Read && operands.len() <= 3);
        assert!(!operands.contains(&to), "a result beside its operands");
        let operand = |i| *operands.get(i).unwrap_or(&Place::Read);
        Call {
            run,
            numbers,
            operands: std::array::from_fn(|i| address(operand(i))),
            to: address(to),
        }
    }));
    for start in (0..read.len()).step_by(BLOCK) {
        let elements = start..(start + BLOCK).min(read.len());
        for call in &*calls {
            // SAFETY: the block lies within the vectors, which are all as long as `read`, and is no longer than a register. All
            // are borrowed until the end, and those that are written are nowhere twice. The result goes to none of the operands.
            let (operands, to) = unsafe {
                let operands = call.operands.map(|operand| {
                    std::slice::from_raw_parts(operand.of_block(&elements), elements.len())
                });
                let to = call.to.of_block(&elements);
                let to = std::slice::from_raw_parts_mut(to, elements.len());
                (operands, to)
            };
            (call.run)(&call.numbers, operands, to);
        }
        let block = Block {
            elements,
            address: &address,
        };
        seen(&block);
        for (register, vector) in copies {
            let from = block.values(Place::Register(*register));
            let to = address(Place::Write(*vector)).of_block(&block.elements);
            // SAFETY: as above. A vector is no register.
            unsafe { std::slice::from_raw_parts_mut(to, from.len()) }.copy_from_slice(from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `to = a x + y`, or `to = a to + x`.
    const APART: Loop<f32> = |a, [x, y, _], to| {
        for (to, (x, y)) in to.iter_mut().zip(x.iter().zip(y)) {
            *to = a * x + y;
        }
    };
    const IN_PLACE: Loop<f32> = |a, [x, ..], to| {
        for (to, x) in to.iter_mut().zip(x) {
            *to = a * *to + x;
        }
    };

    fn run(lengths: [usize; 3], operations: &[(Loop<f32>, &[Place], Place)]) -> [Vec<f32>; 3] {
        let mut vectors = lengths.map(|n| (0..n).map(|i| i as f32).collect::<Vec<_>>());
        let [read, v, w] = &mut vectors;
        let mut write = Slices::default();
        write.push(v);
        write.push(w);
        let operations = operations.iter().map(|&(run, operands, to)| Operation {
            run,
            numbers: 2.0,
            operands,
            to,
        });
        let mut registers = [[0.0; BLOCK]; 1];
        let mut sum = 0.0;
        for_blocks(
            read,
            write,
            &mut registers,
            operations,
            &[(0, 1)],
            &mut Calls::default(),
            |block| sum += block.values(Place::Write(1)).iter().sum::<f32>(),
        );
        let n = lengths[0];
        assert_eq!(sum, (n * n.saturating_sub(1) / 2) as f32, "before the copy");
        vectors
    }

    #[test]
    fn all_blocks_are_treated() {
        use Place::{Read, Register, Write};
        for n in [0, 1, BLOCK, 3 * BLOCK + 7] {
            let operations: [(Loop<f32>, &[Place], Place); 2] = [
                (APART, &[Read, Write(1)], Register(0)),
                (IN_PLACE, &[Register(0)], Write(0)),
            ];
            let [_, v, w] = run([n; 3], &operations);
            let multiples = |k: usize| (0..n).map(move |i| (k * i) as f32);
            assert!(v.into_iter().eq(multiples(5)));
            assert!(w.into_iter().eq(multiples(3)));
        }
    }

    #[test]
    #[should_panic(expected = "a result beside its operands")]
    fn a_result_goes_to_no_operand() {
        run([9; 3], &[(IN_PLACE, &[Place::Write(0)], Place::Write(0))]);
    }

    #[test]
    #[should_panic(expected = "vectors of one length")]
    fn vectors_are_as_long_as_one_another() {
        run([9, 9, 8], &[]);
    }

    #[test]
    #[should_panic(expected = "a register that is there")]
    fn a_register_must_be_there() {
        run([9; 3], &[(APART, &[Place::Register(1)], Place::Write(0))]);
    }
}
