//! Examples and runs on the CPU and by the kernels.
#![allow(dead_code)] // each test binary uses its part

use std::sync::Once;

use super::skip::skip;
use stepback_native::config::RunConfig;
use stepback_native::data::Pair;
use stepback_native::device::gpu::Precision;
use stepback_native::device::{self, Device, Machine, Schedule, Target};
use stepback_native::ops::Example;
use stepback_native::results::{Epoch, RunResult};
use stepback_native::train::run;

/// What runs kernels.
pub struct Candidate {
    pub device: Device,
    /// Of the emulator.
    schedule: Schedule,
}

impl Candidate {
    /// With nothing on it.
    pub fn open(&self) -> Machine {
        self.open_at(None)
    }

    fn open_at(&self, precision: Option<Precision>) -> Machine {
        let device = self.device;
        let machine = match device {
            Device::Emulator => Machine::emulator(self.schedule, precision),
            _ => Machine::open(Target { device, precision }),
        };
        machine.unwrap()
    }

    /// The same under another schedule, if it has one: launches, blocks and threads in any order that is allowed.
    pub fn shuffled(&self) -> Candidate {
        let [.., schedule] = Schedule::all();
        Candidate { schedule, ..*self }
    }

    pub fn target(&self, precision: Precision) -> Target {
        Target {
            device: self.device,
            precision: Some(precision),
        }
    }
}

// What is not there is said once.
static EMULATOR: Once = Once::new();
static GPU: Once = Once::new();

/// The emulator under its first schedules, as many as `schedules`, and the GPU if there is one: `REQUIRE_GPU=1` makes its
/// absence a failure.
pub fn machines(schedules: usize) -> Vec<Candidate> {
    let mut machines = Vec::new();
    match device::emulator_usable() {
        Err(why) => EMULATOR.call_once(|| skip("on the emulator", &why.message)),
        Ok(()) => {
            let schedules = Schedule::all().into_iter().take(schedules);
            machines.extend(schedules.map(|schedule| Candidate {
                device: Device::Emulator,
                schedule,
            }));
        }
    }
    match device::usable_gpus() {
        Err(why) => {
            let required = std::env::var_os("REQUIRE_GPU").is_some();
            assert!(!required, "REQUIRE_GPU is set, but {}", why.message);
            GPU.call_once(|| skip("on a GPU", &why.message));
        }
        Ok(_) => machines.push(Candidate {
            device: Device::Cuda(0),
            schedule: Schedule::default(),
        }),
    }
    machines
}

/// All schedules of the emulator.
pub const ALL: usize = usize::MAX;

/// Output and gradient by the CPU bodies.
pub fn on_cpu(example: &Example) -> (Vec<f32>, Vec<f32>) {
    example.on_cpu(&example.params.values)
}

/// Output and gradient by the kernels, twice: the second run finds what the first left.
pub fn on(
    example: &Example,
    machine: &Candidate,
    precision: Precision,
) -> [(Vec<f32>, Vec<f32>); 2] {
    let mut gpu = machine.open();
    let loaded = example.load(&mut gpu, machine.target(precision)).unwrap();
    assert!(loaded.0.iter().any(|half| half.calls > 0));
    [(); 2].map(|()| example.run(&mut gpu, &loaded).unwrap())
}

/// What a run of an epoch tells, the gradient's norm first.
fn numbers(e: &Epoch) -> Vec<f64> {
    let mut all = [e.grad_norm, e.model_norm].map(f64::from).to_vec();
    all.extend([e.train_loss, e.train_score, e.val_loss, e.val_score]);
    all.extend(e.series.iter().flat_map(|(_, list)| list));
    all.extend(e.values.iter().filter_map(|(_, x)| x.number()));
    all
}

/// How far numbers may be apart, relative to them or to 0.01.
#[derive(Clone, Copy)]
pub struct Tolerances {
    pub gradient: f64,
    pub others: f64,
}

/// A run by kernels, twice the same in whatever order they run, tells what the CPU tells.
pub fn runs_agree(config: &RunConfig, data: &Pair, tolerances: Tolerances) {
    let trained = |machine| run(config, data, machine, None, None, &());
    let trained = |machine| trained(machine).unwrap().unwrap();
    let cpu = trained(Machine::open(Target::CPU).unwrap());
    for candidate in machines(1) {
        let [ours, again] = [&candidate, &candidate.shuffled()]
            .map(|machine| trained(machine.open_at(Some(Precision::Fp32))));
        assert_eq!(ours.summary["device"], candidate.device.name());
        same_runs(config, &cpu, &ours, &again, tolerances);
    }
}

fn same_runs(
    config: &RunConfig,
    cpu: &RunResult,
    ours: &RunResult,
    again: &RunResult,
    tolerances: Tolerances,
) {
    let epochs = cpu.history.iter().zip(&ours.history);
    for ((cpu, ours), again) in epochs.zip(&again.history) {
        assert_eq!(numbers(ours), numbers(again));
        assert_eq!(numbers(ours).len(), numbers(cpu).len());
        for (i, (x, y)) in numbers(ours).into_iter().zip(numbers(cpu)).enumerate() {
            let error = (x - y).abs() / y.abs().max(1e-2);
            let tolerance = match i {
                0 => tolerances.gradient,
                _ => tolerances.others,
            };
            assert!(
                error < tolerance,
                "{} {:?} epoch {}: {x} for {y}",
                config.model,
                config.opt,
                cpu.epoch
            );
        }
    }
}
