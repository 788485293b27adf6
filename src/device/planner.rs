//! A machine that only plans: programs are kept to be looked at, nothing is allocated and nothing runs.

use std::sync::Arc;

use super::edges;
use super::gpu::Launch;
use super::machine::Backend;
use super::program::Call;
use crate::error::Result;

/// Where its first buffer would be.
const FIRST: u64 = 1 << 20;

pub(super) struct Planner {
    end: u64,
    programs: Vec<PlannedLaunches>,
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

    fn prepare(&mut self, calls: Vec<Call>, addresses: &[u64]) -> Result<usize> {
        let launches: Vec<Launch> = calls.into_iter().map(Call::into_launch).collect();
        self.programs.push(PlannedLaunches {
            count: launches.len(),
            launches: launches.into(),
            addresses: addresses.into(),
        });
        Ok(self.programs.len() - 1)
    }

    fn run(&mut self, _: usize) -> Result<()> {
        Ok(())
    }

    fn planned(&self, program: usize) -> Option<PlannedLaunches> {
        Some(self.programs[program].clone())
    }
}

/// The launches of a program that was planned.
#[derive(Clone)]
pub struct PlannedLaunches {
    launches: Arc<[Launch]>,
    /// Of the buffers.
    addresses: Arc<[u64]>,
    count: usize,
}

impl PlannedLaunches {
    /// Its first ones alone.
    pub fn first(self, count: usize) -> PlannedLaunches {
        assert!(count <= self.count, "{count} of {} launches", self.count);
        PlannedLaunches { count, ..self }
    }

    pub fn launches(&self) -> &[Launch] {
        &self.launches[..self.count]
    }

    /// Launches of the longest chain in which each must wait for the one before it, where programs are one graph.
    pub fn longest_path<'a>(programs: impl IntoIterator<Item = &'a PlannedLaunches>) -> usize {
        let touched = programs.into_iter().flat_map(|program| {
            let launches = program.launches().iter();
            launches.map(|launch| launch.touches(&program.addresses))
        });
        edges::longest_path(&edges::edges(touched))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::gpu::kernels;
    use crate::device::{Device, Machine, Program, Slot, Target};

    #[test]
    fn the_longest_path_follows_what_is_read_and_written() {
        let slot = |start| Slot { start, len: 16 };
        let mut machine = Machine::open(Device::Plan).unwrap();
        machine.alloc::<f32>("arena", 96).unwrap();
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
        let program = machine.prepare(program).unwrap();
        let planned = machine.planned(program).unwrap();
        assert_eq!(PlannedLaunches::longest_path([&planned]), 3);
        assert_eq!(PlannedLaunches::longest_path([&planned.first(2)]), 1);
    }
}
