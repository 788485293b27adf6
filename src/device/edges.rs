//! Which launches must wait for which. All others may run in any order, and beside each other.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Range;

/// The addresses that a launch reads, and those that it writes.
pub(super) type Touched = [Vec<Range<u64>>; 2];

/// For every launch the earlier ones that it must wait for: what it reads or writes they have written, or what it writes
/// they read. Left out are those that another one of them waits for.
pub(super) fn edges(launches: impl IntoIterator<Item = Touched>) -> Vec<Vec<usize>> {
    let (mut memory, mut chains) = (Memory::new(), Chains::default());
    let of_launch = |(launch, [reads, writes]): (usize, Touched)| {
        let mut before = Vec::new();
        for range in reads {
            memory.read(range, launch, &mut before);
        }
        for range in writes {
            memory.write(range, launch, &mut before);
        }
        // It may name a range twice.
        before.retain(|other| *other != launch);
        before.sort_unstable_by_key(|other| Reverse(*other));
        before.dedup();
        chains.add(&before)
    };
    launches.into_iter().enumerate().map(of_launch).collect()
}

/// Launches of the longest chain in which each waits for the one before it.
pub(super) fn longest_path(edges: &[Vec<usize>]) -> usize {
    let mut depths: Vec<usize> = Vec::with_capacity(edges.len());
    for before in edges {
        let depth = before.iter().map(|launch| depths[*launch]).max();
        depths.push(1 + depth.unwrap_or(0));
    }
    depths.into_iter().max().unwrap_or(0)
}

/// An order of launches in which each comes after those that it waits for. `pick` is asked which of this many comes next.
pub(super) fn order(edges: &[Vec<usize>], mut pick: impl FnMut(usize) -> usize) -> Vec<usize> {
    let mut waits: Vec<usize> = edges.iter().map(Vec::len).collect();
    let mut behind = vec![Vec::new(); edges.len()];
    for (launch, before) in edges.iter().enumerate() {
        before.iter().for_each(|other| behind[*other].push(launch));
    }
    let mut ready: Vec<usize> = (0..edges.len()).filter(|l| waits[*l] == 0).collect();
    let mut order = Vec::with_capacity(edges.len());
    while !ready.is_empty() {
        let next = ready.remove(pick(ready.len()));
        order.push(next);
        for launch in &behind[next] {
            waits[*launch] -= 1;
            ready.extend((waits[*launch] == 0).then_some(launch));
        }
    }
    order
}

/// Who has touched what. A piece ends where the next one begins.
struct Memory(BTreeMap<u64, Piece>);

#[derive(Clone, Default)]
struct Piece {
    writer: Option<usize>,
    /// Since then.
    readers: Vec<usize>,
}

impl Memory {
    fn new() -> Memory {
        Memory(BTreeMap::from([(0, Piece::default())]))
    }

    /// Has a piece begin at an address.
    fn cut(&mut self, at: u64) {
        let (start, piece) = self.0.range(..=at).next_back().expect("a piece at 0");
        if *start != at {
            let piece = piece.clone();
            self.0.insert(at, piece);
        }
    }

    fn read(&mut self, range: Range<u64>, launch: usize, before: &mut Vec<usize>) {
        if range.is_empty() {
            return;
        }
        self.cut(range.start);
        self.cut(range.end);
        for (_, piece) in self.0.range_mut(range) {
            before.extend(piece.writer);
            piece.readers.push(launch);
        }
    }

    fn write(&mut self, range: Range<u64>, launch: usize, before: &mut Vec<usize>) {
        if range.is_empty() {
            return;
        }
        self.cut(range.start);
        self.cut(range.end);
        let pieces: Vec<u64> = self.0.range(range.clone()).map(|(at, _)| *at).collect();
        for at in pieces {
            let piece = self.0.remove(&at).expect("a piece that was just seen");
            before.extend(piece.writer);
            before.extend(piece.readers);
        }
        let written = Piece {
            writer: Some(launch),
            readers: Vec::new(),
        };
        self.0.insert(range.start, written);
    }
}

/// Launches in chains, in which each waits for the one before it, at last: so a number for each chain says all that a
/// launch comes after.
#[derive(Default)]
struct Chains {
    lengths: Vec<u32>,
    /// Of every launch its chain, and its place there from 1.
    places: Vec<(usize, u32)>,
    /// How much of every chain is over when a launch is.
    over: Vec<Vec<u32>>,
}

impl Chains {
    /// Adds a launch that waits for these, the last one first, and gives those that the others do not imply.
    fn add(&mut self, before: &[usize]) -> Vec<usize> {
        let mut over = vec![0; self.lengths.len()];
        let mut needed = Vec::new();
        for launch in before {
            let (chain, place) = self.places[*launch];
            if over[chain] < place {
                needed.push(*launch);
                let theirs = over.iter_mut().zip(&self.over[*launch]);
                theirs.for_each(|(ours, theirs)| *ours = (*ours).max(*theirs));
            }
        }
        let mut lengths = self.lengths.iter().zip(&over);
        let chain = lengths.position(|(length, over)| length == over);
        let chain = chain.unwrap_or_else(|| {
            self.lengths.push(0);
            over.push(0);
            over.len() - 1
        });
        self.lengths[chain] += 1;
        over[chain] = self.lengths[chain];
        self.places.push((chain, over[chain]));
        self.over.push(over);
        needed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::philox::philox4x32_10;

    /// Numbers below a bound, drawn one after the other.
    fn draws(seed: u64) -> impl FnMut(usize) -> usize {
        let mut count = 0;
        move |below| {
            count += 1;
            philox4x32_10(seed, count)[0] as usize % below
        }
    }

    /// Launches over a little memory, so that they clash in every way.
    fn launches(draw: &mut impl FnMut(usize) -> usize) -> Vec<Touched> {
        let n = draw(40);
        let mut ranges = || {
            let mut range = || {
                let start = draw(64) as u64;
                start..start + draw(9) as u64
            };
            let count = range().start % 4;
            (0..count).map(|_| range()).collect()
        };
        (0..n).map(|_| [ranges(), ranges()]).collect()
    }

    fn clash([reads, writes]: &Touched, [r, w]: &Touched) -> bool {
        let overlap = |a: &[Range<u64>], b: &[Range<u64>]| {
            a.iter()
                .any(|a| b.iter().any(|b| a.start.max(b.start) < a.end.min(b.end)))
        };
        overlap(writes, r) || overlap(writes, w) || overlap(reads, w)
    }

    /// Whom each launch comes after, by way of others too.
    fn closure(edges: &[Vec<usize>]) -> Vec<Vec<bool>> {
        let mut all: Vec<Vec<bool>> = Vec::new();
        for before in edges {
            let mut after = vec![false; edges.len()];
            for other in before {
                after[*other] = true;
                let theirs = after.iter_mut().zip(&all[*other]);
                theirs.for_each(|(ours, theirs)| *ours |= theirs);
            }
            all.push(after);
        }
        all
    }

    #[test]
    fn launches_that_clash_are_ordered_by_as_few_edges_as_can_be() {
        for seed in 0..300 {
            let launches = launches(&mut draws(seed));
            let edges = edges(launches.iter().cloned());
            let clashes = |i: usize| -> Vec<usize> {
                let earlier = 0..i;
                earlier
                    .filter(|j| clash(&launches[*j], &launches[i]))
                    .collect()
            };
            let all: Vec<Vec<usize>> = (0..edges.len()).map(clashes).collect();
            let after = closure(&edges);
            assert_eq!(after, closure(&all), "{seed}");
            assert_eq!(longest_path(&edges), longest_path(&all));
            for before in &edges {
                let implied = |j: &usize| before.iter().any(|other| after[*other][*j]);
                assert!(!before.iter().any(implied), "{seed}: {before:?}");
            }
            let order = order(&edges, draws(seed));
            let mut places = vec![usize::MAX; order.len()];
            for (place, launch) in order.iter().enumerate() {
                places[*launch] = place;
                assert!(edges[*launch].iter().all(|other| places[*other] < place));
            }
            assert!(!places.contains(&usize::MAX));
        }
    }

    #[test]
    fn edges_of_long_programs_stay_few() {
        // A step reads the weights, leaves a gradient for each of ten layers, and writes the weights.
        let (weights, gradients) = (0..100, 100..200u64);
        let layer = |i: u64| {
            let gradient = 100 + 10 * i..110 + 10 * i;
            [vec![weights.clone()], vec![gradient]]
        };
        let update = [vec![gradients.clone()], vec![weights.clone()]];
        let step = || (0..10).map(layer).chain([update.clone()]);
        let edges = edges((0..1000).flat_map(|_| step()));
        assert_eq!(edges.iter().map(Vec::len).sum::<usize>(), 1999 * 10);
        assert_eq!(longest_path(&edges), 2000);
    }
}
