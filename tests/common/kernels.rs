//! Examples and runs on the CPU and by the kernels.
#![allow(dead_code)] // each test binary uses its part

use stepback_native::config::RunConfig;
use stepback_native::data::Pair;
use stepback_native::device::gpu::{Gpu, Precision};
use stepback_native::device::{Device, Target};
use stepback_native::ops::Example;
use stepback_native::results::Epoch;
use stepback_native::train::{Watch, run};

/// Output and gradient by the CPU bodies.
pub fn on_cpu(example: &Example) -> (Vec<f32>, Vec<f32>) {
    example.on_cpu(&example.params.values)
}

/// Output and gradient by the kernels, twice: the second run finds what the first left.
pub fn on(example: &Example, gpu: &mut Gpu, precision: Precision) -> [(Vec<f32>, Vec<f32>); 2] {
    let loaded = example.load(gpu, Some(precision)).unwrap();
    let loaded = loaded.expect("an op with kernels");
    assert!(loaded.0.iter().any(|half| half.launches > 0));
    [(); 2].map(|()| example.run(gpu, &loaded).unwrap())
}

struct Unwatched;

impl Watch for Unwatched {}

/// What a run of an epoch tells.
fn numbers(e: &Epoch) -> Vec<f64> {
    let mut all = vec![e.train_loss, e.train_score, e.val_loss, e.val_score];
    all.extend([e.model_norm, e.grad_norm].map(f64::from));
    all.extend(e.step_size_list.iter().flatten());
    all.extend(e.fstar.iter().chain(&e.h));
    all
}

/// A run on the emulator, twice the same, tells within `tolerance` what the CPU tells.
pub fn runs_agree(config: &RunConfig, data: &Pair, tolerance: f64) {
    let trained = |device| {
        let target = Target {
            device,
            precision: Some(Precision::Fp32),
        };
        run(config, data, target, &Unwatched).unwrap().unwrap()
    };
    let (cpu, emulated) = (trained(Device::Cpu), trained(Device::Emulator));
    assert_eq!(emulated.summary["device"], "emulator");
    let again = trained(Device::Emulator);
    let epochs = cpu.history.iter().zip(&emulated.history);
    for ((cpu, ours), again) in epochs.zip(&again.history) {
        assert_eq!(numbers(ours), numbers(again));
        assert_eq!(numbers(ours).len(), numbers(cpu).len());
        for (x, y) in numbers(ours).into_iter().zip(numbers(cpu)) {
            let error = (x - y).abs() / y.abs().max(1e-2);
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
