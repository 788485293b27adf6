//! Devices, their memory, and the programs that run there.

pub mod arena;
mod cuda;
mod edges;
mod emulator;
pub mod gpu;
mod host;
pub(crate) mod machine;
mod planner;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod processor;
pub mod product;
pub mod program;
mod shared;

pub use arena::Slot;
pub use cuda::{usable as usable_gpus, usable_at as usable_gpu};
#[cfg(all(test, emulator))]
pub(crate) use emulator::tests::planted as test_kernels;
pub use emulator::{Order, Schedule, usable as emulator_usable};
pub use machine::{Machine, Prepared};
pub use planner::PlannedLaunches;
pub use program::{Call, Program, View};
pub use shared::SharedDevice;

/// Where a plan runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    Cpu,
    /// The kernels, on an emulation of a GPU.
    Emulator,
    /// The GPU of this index.
    Cuda(usize),
    /// None: programs for a GPU are made and looked at, nothing runs.
    Plan,
}

impl Device {
    pub fn name(self) -> &'static str {
        match self {
            Device::Cpu => "cpu",
            Device::Emulator => "emulator",
            Device::Cuda(_) => "cuda",
            Device::Plan => "plan",
        }
    }
}

/// Where and how a run computes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub device: Device,
    /// Of matrix products, where the user has chosen one.
    pub precision: Option<gpu::Precision>,
}

/// Where the user has chosen no precision.
impl From<Device> for Target {
    fn from(device: Device) -> Target {
        Target {
            device,
            precision: None,
        }
    }
}

impl Target {
    pub const CPU: Target = Target {
        device: Device::Cpu,
        precision: None,
    };

    /// With this precision where the user has chosen none.
    pub fn or_precision(self, precision: gpu::Precision) -> Target {
        let precision = self.precision.or(Some(precision));
        Target { precision, ..self }
    }

    /// What the results say of it.
    pub fn precision_name(self) -> &'static str {
        match (self.device, self.precision) {
            (Device::Cpu, _) => gpu::Precision::Fp32.name(),
            (_, Some(precision)) => precision.name(),
            (_, None) => "tf32 convolutions, fp32 linear layers",
        }
    }
}
