//! Places in the arena, the one buffer that holds what a run's plans touch: parameters, gradients, running averages and
//! the plans' slots.

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
}

/// Slots begin at cache lines.
pub const ALIGN: usize = 16;

pub fn round_up(len: usize) -> usize {
    len.next_multiple_of(ALIGN)
}
