//! One allocation that holds everything a run touches: parameters, gradients, buffers and the slots
//! of its plans.

use bytemuck::{Pod, Zeroable};

/// A range of floats in an arena.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    pub start: usize,
    pub len: usize,
}

impl Slot {
    pub fn end(self) -> usize {
        self.start + self.len
    }

    /// Takes `len` floats off its front.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn take(&mut self, len: usize) -> Slot {
        assert!(len <= self.len, "{len} of {} floats", self.len);
        let front = Slot { len, ..*self };
        self.start += len;
        self.len -= len;
        front
    }

    fn overlaps(self, other: Slot) -> bool {
        self.len > 0 && other.len > 0 && self.start < other.end() && other.start < self.end()
    }
}

/// Slots begin at cache lines.
pub const ALIGN: usize = 16;

pub fn round_up(len: usize) -> usize {
    len.next_multiple_of(ALIGN)
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([f32; ALIGN]);

pub struct Arena {
    lines: Vec<Line>,
}

impl Arena {
    /// Zeros.
    pub fn new(floats: usize) -> Arena {
        Arena {
            lines: vec![Line::zeroed(); floats.div_ceil(ALIGN)],
        }
    }

    pub fn get(&self, slot: Slot) -> &[f32] {
        &bytemuck::cast_slice(&self.lines)[slot.start..slot.end()]
    }

    pub fn get_mut(&mut self, slot: Slot) -> &mut [f32] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[slot.start..slot.end()]
    }

    /// Several slots at once, to read and to write.
    ///
    /// # Panics
    /// If a slot to write overlaps any other slot, or one lies outside.
    pub fn views<const R: usize, const W: usize>(
        &mut self,
        reads: [Slot; R],
        writes: [Slot; W],
    ) -> ([&[f32]; R], [&mut [f32]; W]) {
        let floats: &mut [f32] = bytemuck::cast_slice_mut(&mut self.lines);
        for (i, w) in writes.iter().enumerate() {
            let clash = reads.iter().chain(&writes[i + 1..]).any(|o| w.overlaps(*o));
            assert!(!clash, "slots overlap: {w:?} in {reads:?} {writes:?}");
        }
        let inside = |s: &Slot| s.end() <= floats.len();
        assert!(reads.iter().all(inside) && writes.iter().all(inside));
        let base = floats.as_mut_ptr();
        // SAFETY: every slot lies inside the allocation, which is borrowed mutably for as long as the
        // views live; no slot to write overlaps any other one, so no two views alias mutably.
        unsafe {
            (
                reads.map(|s| std::slice::from_raw_parts(base.add(s.start), s.len)),
                writes.map(|s| std::slice::from_raw_parts_mut(base.add(s.start), s.len)),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(start: usize, len: usize) -> Slot {
        Slot { start, len }
    }

    #[test]
    fn views_are_the_slots() {
        let mut arena = Arena::new(40);
        arena.get_mut(slot(0, 2)).copy_from_slice(&[1.0, 2.0]);
        let ([x, y], [z]) = arena.views([slot(0, 2), slot(1, 1)], [slot(2, 2)]);
        z.copy_from_slice(&[x[0] + y[0], 7.0]);
        assert_eq!(arena.get(slot(0, 4)), [1.0, 2.0, 3.0, 7.0]);
        assert_eq!(arena.get(slot(0, 1)).as_ptr() as usize % 64, 0);
    }

    #[test]
    #[should_panic(expected = "slots overlap")]
    fn a_written_slot_is_alone() {
        Arena::new(32).views([slot(0, 8)], [slot(7, 2)]);
    }

    #[test]
    #[should_panic]
    fn a_slot_outside_is_refused() {
        Arena::new(32).views([slot(30, 8)], []);
    }
}
