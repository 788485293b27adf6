//! The CPU as a machine: its buffers are memory of this process, its programs lists of functions.

use std::alloc::{Layout, alloc, dealloc};
use std::ptr::NonNull;

use super::machine::Backend;
use super::program::{Call, HostCall};
use crate::error::Result;

/// Buffers begin at cache lines, large ones at huge pages.
const CACHE_LINE: usize = 64;
const HUGE_PAGE: usize = 1 << 21;

#[derive(Default)]
pub(super) struct Host {
    buffers: Vec<Block>,
    /// Functions, and where their ranges are.
    programs: Vec<Vec<(HostCall, Vec<u64>)>>,
}

/// An allocation.
struct Block {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: a block is owned memory.
unsafe impl Send for Block {}

impl Block {
    /// Zeros; none if there is no memory.
    fn new(bytes: usize) -> Option<Block> {
        let align = match bytes {
            HUGE_PAGE.. => HUGE_PAGE,
            _ => CACHE_LINE,
        };
        let layout = Layout::from_size_align(bytes.max(1), align).ok()?;
        // SAFETY: not of size 0.
        let start = NonNull::new(unsafe { alloc(layout) })?;
        // Products read rows that are far apart: with a page for each they wait for addresses. It is as good as a system
        // that knows no huge pages.
        #[cfg(target_os = "linux")]
        if align == HUGE_PAGE {
            // SAFETY: advice about memory that is ours.
            unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
        }
        // SAFETY: it has this size.
        unsafe { start.write_bytes(0, layout.size()) };
        Some(Block { start, layout })
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and nobody has its address any more.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

impl Host {
    /// The bytes at an address inside of a buffer.
    fn bytes(&mut self, address: u64, len: usize) -> &mut [u8] {
        // SAFETY: `Machine` asks for ranges of its buffers alone, and nothing else uses them while `self` is borrowed.
        unsafe { std::slice::from_raw_parts_mut(address as *mut u8, len) }
    }
}

impl Backend for Host {
    fn name(&self) -> String {
        "cpu".into()
    }

    fn alloc(&mut self, _: &str, bytes: usize) -> Result<Option<u64>> {
        Ok(Block::new(bytes).map(|block| {
            let address = block.start.as_ptr() as u64;
            self.buffers.push(block);
            address
        }))
    }

    fn memory(&self) -> Option<[usize; 2]> {
        None
    }

    fn upload(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
        self.bytes(address, bytes.len()).copy_from_slice(bytes);
        Ok(())
    }

    fn download(&mut self, address: u64, bytes: &mut [u8]) -> Result<()> {
        bytes.copy_from_slice(self.bytes(address, bytes.len()));
        Ok(())
    }

    fn prepare(&mut self, calls: Vec<Call>, addresses: &[u64]) -> Result<usize> {
        let functions = calls.into_iter().map(|call| match call {
            Call::Host(call) => {
                let starts = call.ranges().map(|range| range.address(addresses));
                let starts = starts.collect();
                (call, starts)
            }
            Call::Launch(launch) => panic!("{}: a kernel for the CPU", launch.kernel.name),
        });
        let functions: Vec<(HostCall, Vec<u64>)> = functions.collect();
        for (call, _) in &functions {
            for range in call.ranges().filter(|r| r.len > 0) {
                let size = self.buffers[range.buffer.0].layout.size();
                assert!(
                    range.start + range.len <= size,
                    "{}: {range:?} of {size} bytes",
                    call.name
                );
            }
        }
        self.programs.push(functions);
        Ok(self.programs.len() - 1)
    }

    fn run(&mut self, program: usize) -> Result<()> {
        for (call, starts) in &self.programs[program] {
            (call.body)(starts);
        }
        Ok(())
    }
}
