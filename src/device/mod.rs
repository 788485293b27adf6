//! Devices and memory. The only `unsafe` code of the crate is here.

pub mod arena;
pub mod cpu;
pub mod map;

pub use arena::{Arena, Slot};

/// Where a plan runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    Cpu,
}

impl Device {
    pub fn name(self) -> &'static str {
        match self {
            Device::Cpu => "cpu",
        }
    }
}
