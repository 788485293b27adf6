//! Devices and memory. The only `unsafe` code of the crate is here.

pub mod arena;
pub mod cpu;
mod cuda;
mod emulator;
pub mod gpu;
pub mod map;

pub use arena::{Arena, Slot};
pub use cuda::usable as usable_gpus;
pub use emulator::{Order, Schedule, usable as emulator_usable};

/// Where a plan runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    Cpu,
    /// The kernels, on an emulation of a GPU.
    Emulator,
    /// The GPU of this index.
    Cuda(usize),
}

impl Device {
    pub fn name(self) -> &'static str {
        match self {
            Device::Cpu => "cpu",
            Device::Emulator => "emulator",
            Device::Cuda(_) => "cuda",
        }
    }
}
