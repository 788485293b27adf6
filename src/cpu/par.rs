//! Work shared out to threads, each with scratch memory of its own.

use super::simd::LANES;
use rayon::prelude::*;
use std::marker::PhantomData;
use std::sync::{Mutex, PoisonError};

/// Calls `f(task, scratch)` for every task. Each of the `scratch.len() / scratch_len` strands takes the next
/// task when it is done with one. Which strand does a task must not matter to its result.
pub fn for_each<T: Send>(
    tasks: impl Iterator<Item = T> + Send,
    scratch: &mut [f32],
    scratch_len: usize,
    f: impl Fn(T, &mut [f32]) + Sync,
) {
    assert!(scratch.len() >= scratch_len, "workspace too small");
    let tasks = Mutex::new(tasks);
    scratch
        .par_chunks_exact_mut(scratch_len)
        .for_each(|scratch| {
            loop {
                let next = tasks.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some(task) = next else { break };
                f(task, scratch);
            }
        });
}

/// Floats by which [`aligned`] may shorten a slice.
pub const ALIGN: usize = LANES;

/// The part of `ws` that starts at a cache line: vectors across two lines load at half the speed.
pub fn aligned(ws: &mut [f32]) -> &mut [f32] {
    let skip = ws.as_ptr().align_offset(LANES * size_of::<f32>());
    &mut ws[skip..]
}

/// Memory of which every task writes places of its own, not one behind the other.
pub struct Parts<'a> {
    data: *mut f32,
    len: usize,
    borrowed: PhantomData<&'a mut [f32]>,
}

// SAFETY: the caller that takes a part promises that no other has it.
unsafe impl Sync for Parts<'_> {}

impl<'a> Parts<'a> {
    pub fn new(all: &'a mut [f32]) -> Parts<'a> {
        Parts {
            data: all.as_mut_ptr(),
            len: all.len(),
            borrowed: PhantomData,
        }
    }

    /// `len` floats from place `at` on.
    ///
    /// # Safety
    /// Nobody has a part that overlaps this one at the same time.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn part(&self, at: usize, len: usize) -> &mut [f32] {
        assert!(at <= self.len && len <= self.len - at);
        // SAFETY: inside of what was borrowed; the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(at), len) }
    }
}
