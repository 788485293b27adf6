//! A machine that only plans: programs are kept to be looked at, nothing is allocated and nothing runs.

use super::gpu::Argument;
use super::machine::Backend;
use super::program::{ByteRange, Call};
use crate::error::Result;

/// Where its first buffer would be.
const FIRST: u64 = 1 << 20;

pub(super) struct Planner {
    end: u64,
    programs: Vec<Vec<Call>>,
}

impl Planner {
    pub fn new() -> Planner {
        Planner {
            end: FIRST,
            programs: Vec::new(),
        }
    }
}

impl Backend for Planner {
    fn name(&self) -> String {
        "plan".to_owned()
    }

    fn alloc(&mut self, _: &str, bytes: usize) -> Result<Option<u64>> {
        let start = self.end;
        self.end += bytes as u64;
        Ok(Some(start))
    }

    fn memory(&self) -> Option<[usize; 2]> {
        None
    }

    fn upload(&mut self, _: u64, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn download(&mut self, _: u64, bytes: &mut [u8]) -> Result<()> {
        bytes.fill(0);
        Ok(())
    }

    fn prepare(&mut self, calls: Vec<Call>, _: &[u64]) -> Result<usize> {
        self.programs.push(calls);
        Ok(self.programs.len() - 1)
    }

    fn run(&mut self, _: usize) -> Result<()> {
        Ok(())
    }

    fn planned(&self, program: usize) -> Option<&[Call]> {
        Some(&self.programs[program])
    }
}

/// Launches of the longest chain in which each needs what one before it has written, or writes what one before it still
/// reads or has written.
pub fn longest_path(calls: &[Call]) -> usize {
    let all: Vec<[Vec<ByteRange>; 2]> = calls.iter().map(ranges).collect();
    let clash = |one: &[ByteRange], other: &[ByteRange]| {
        one.iter().any(|a| other.iter().any(|b| a.overlaps(*b)))
    };
    let mut depths: Vec<usize> = Vec::with_capacity(all.len());
    for (i, [reads, writes]) in all.iter().enumerate() {
        let waits_for = all[..i]
            .iter()
            .zip(&depths)
            .filter(|([r, w], _)| clash(w, reads) || clash(w, writes) || clash(r, writes));
        depths.push(1 + waits_for.map(|(_, depth)| *depth).max().unwrap_or(0));
    }
    depths.into_iter().max().unwrap_or(0)
}

/// What a call reads, and what it writes.
fn ranges(call: &Call) -> [Vec<ByteRange>; 2] {
    let Call::Launch(launch) = call else {
        panic!("{}: only kernels are planned", call.name());
    };
    let mut ranges = [Vec::new(), Vec::new()];
    for argument in &launch.arguments {
        match argument {
            Argument::Read(range) => ranges[0].push(*range),
            Argument::Write(range) => ranges[1].push(*range),
            Argument::Value(_) => {}
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::gpu::kernels;
    use crate::device::{Device, Program, Slot, Target};

    #[test]
    fn the_longest_path_follows_what_is_read_and_written() {
        let slot = |start| Slot { start, len: 16 };
        let mut program = Program::new(Target {
            device: Device::Plan,
            precision: None,
        });
        let mut relu = |from, to| kernels::relu_fwd(&mut program, 1, slot(from), slot(to), 16);
        relu(0, 16);
        relu(0, 32);
        // Needs the first; writes over what the second has read.
        relu(16, 48);
        relu(64, 0);
        // Writes over what the last but one needs.
        relu(80, 16);
        assert_eq!(longest_path(program.calls()), 3);
        assert_eq!(longest_path(&program.calls()[..2]), 1);
    }
}
