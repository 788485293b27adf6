//! `--device` and `--precision`; `devices`.

use clap::ValueEnum;
use clap::builder::PossibleValue;

use super::completions::Names;
use super::print;
use crate::device::gpu::Precision;
use crate::device::{self, Device, Target};
use crate::error::{Error, Result};

/// What to compute on, and how.
#[derive(clap::Args, Debug)]
pub struct Choice {
    /// auto, cpu, emulator, cuda, or cuda:N for GPU N; `train` hands its runs out to several: cuda:0,cuda:1. auto is a GPU if
    /// this binary has kernels and the machine a driver, else the CPU [default: auto for bench-kernels, else cpu]
    #[arg(long, value_name = "DEVICE", value_parser = Names(names), hide_possible_values = true)]
    device: Option<String>,
    /// Arithmetic of convolutions, linear layers and attention by kernels [default: fp32 for verify, else tf32 in
    /// convolutions and fp32 in the others]
    #[arg(long, value_enum)]
    precision: Option<PrecisionChoice>,
}

fn names() -> Vec<PossibleValue> {
    ["auto", "cpu", "emulator", "cuda"]
        .map(PossibleValue::new)
        .into()
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PrecisionChoice {
    /// Single precision, every product and every sum
    Fp32,
    /// Tensor cores: operands rounded to TF32
    Tf32,
}

impl Choice {
    /// The device that was asked for, or `default`. What cannot be used is an error, never something else instead.
    pub fn target(&self, default: &str) -> Result<Target> {
        self.named(self.device.as_deref().unwrap_or(default))
    }

    /// Does it ask for plans alone?
    pub fn plans(&self) -> bool {
        self.device.as_deref() == Some("plan")
    }

    /// Of matrix products, where one was chosen.
    pub fn precision(&self) -> Option<Precision> {
        self.precision.map(|choice| match choice {
            PrecisionChoice::Fp32 => Precision::Fp32,
            PrecisionChoice::Tf32 => Precision::Tf32,
        })
    }

    /// As [`Choice::target`], but several GPUs may be named, with commas between them.
    pub fn targets(&self, default: &str) -> Result<Vec<Target>> {
        let names = self.device.as_deref().unwrap_or(default);
        let mut targets: Vec<Target> = Vec::new();
        for name in names.split(',') {
            let target = self.named(name)?;
            let wrong = if targets.iter().any(|other| other.device == target.device) {
                format!("{name} is named twice")
            } else if names != name && !matches!(target.device, Device::Cuda(_)) {
                format!("{name} cannot be one of several devices: only GPUs can")
            } else {
                targets.push(target);
                continue;
            };
            return Err(Error::usage(format!("--device {names}: {wrong}")));
        }
        Ok(targets)
    }

    fn named(&self, name: &str) -> Result<Target> {
        let device = match name {
            "auto" if device::usable_gpus().is_ok() => Device::Cuda(0),
            "auto" | "cpu" => Device::Cpu,
            "emulator" => Device::Emulator,
            "cuda" => Device::Cuda(0),
            "plan" => {
                return Err(Error::usage(
                    "--device plan: nothing runs there; bench-kernels counts what would",
                ));
            }
            _ => match name.strip_prefix("cuda:").map(str::parse) {
                Some(Ok(index)) => Device::Cuda(index),
                _ => {
                    return Err(Error::usage(format!(
                        "unknown device {name:?} (expected auto, cpu, emulator, cuda or cuda:N)"
                    )));
                }
            },
        };
        match device {
            Device::Cpu | Device::Plan => {}
            Device::Emulator => device::emulator_usable()?,
            Device::Cuda(index) => drop(device::usable_gpu(index)?),
        }
        let precision = self.precision();
        if (device, precision) == (Device::Cpu, Some(Precision::Tf32)) {
            return Err(Error::usage("--precision tf32: the CPU computes in fp32"));
        }
        Ok(Target { device, precision })
    }
}

/// List the devices: which can be used, and why the others cannot
#[derive(clap::Args)]
pub struct Devices {}

impl Devices {
    pub fn run(self) -> Result<u8> {
        let mut table = print::table(&["device", "usable", "about"]);
        // What is wrong, without the option that a run would have named.
        let why = |error: Error| match error.message.split_once(": ") {
            Some((_, why)) => why.to_owned(),
            None => error.message,
        };
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        table.add_row(["cpu", "yes", &format!("{threads} threads")]);
        match device::emulator_usable() {
            Ok(()) => table.add_row(["emulator", "yes", "the GPU's kernels on the CPU, slowly"]),
            Err(error) => table.add_row(["emulator", "no", &why(error)]),
        };
        match device::usable_gpus() {
            Ok(gpus) => {
                for (index, name) in gpus.iter().enumerate() {
                    table.add_row([&format!("cuda:{index}"), "yes", name]);
                }
            }
            Err(error) => {
                table.add_row(["cuda", "no", &why(error)]);
            }
        }
        print::println(table)?;
        Ok(0)
    }
}
