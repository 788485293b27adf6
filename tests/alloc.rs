//! An update allocates nothing after the first, and a training step keeps nothing of what the crate of the products
//! allocates. In a binary of its own, one test after the other: the allocator is the process's.

use std::alloc::System;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use rayon::ThreadPoolBuilder;
use serde_json::json;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use stepback_native::device::gpu::kernels::Step;
use stepback_native::device::{Device, Target};
use stepback_native::graph::{Mode, Params, Plan, Sample, Session, Targets};
use stepback_native::models::{self, Data};
use stepback_native::nn::loss;
use stepback_native::optim::{ROWS, Stepper};
use stepback_native::random::SEED;
use stepback_native::random::torch::Generator;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let updates = ROWS.iter().map(|row| {
        let name = row.entry.name;
        Trial::test(
            format!("optimizers::{name}::later_steps_allocate_nothing"),
            || {
                later_steps_allocate_nothing(name);
                Ok(())
            },
        )
    });
    let step = Trial::test("models::llama::later_steps_keep_nothing", || {
        later_steps_keep_nothing();
        Ok(())
    });
    libtest_mimic::run(&arguments, updates.chain([step]).collect()).exit_code()
}

fn later_steps_allocate_nothing(name: &str) {
    let n = 100_003;
    let g: Vec<f32> = (0..n).map(|i| (i as f32).sin()).collect();
    let pool = ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    let opt = json!({"name": name, "weight_decay": 0.01});
    let mut stepper = Stepper::new(opt.as_object().unwrap(), n, Target::CPU).unwrap();
    let mut w = vec![0.5; n];
    pool.install(|| {
        stepper.step(1e-3, 1.0, &mut w, &g).unwrap();
        // The smallest of several counts: threads that start beside this one allocate, once.
        let counts: [usize; 5] = std::array::from_fn(|_| {
            let region = Region::new(ALLOCATOR);
            for _ in 0..5 {
                stepper.step(1e-3, 1.0, &mut w, &g).unwrap();
            }
            region.change().allocations
        });
        assert!(counts.contains(&0), "{counts:?}");
    });
}

fn later_steps_keep_nothing() {
    let data = Data {
        sample: Sample::Tokens { length: 16 },
        target: vec![16],
        classes: Some(20),
    };
    let kwargs = json!({"vocab_size": 20, "dim": 32, "expand": 4, "n_layers": 2, "n_heads": 2, "seq_len": 16});
    let mut params = Params::new(Generator::new(SEED));
    let row = models::row("llama").unwrap();
    let model = row
        .build(&mut params, &data, kwargs.as_object().unwrap())
        .unwrap();
    let loss = loss::loss("sequence_cross_entropy").unwrap();
    let plan = Plan::record(&params, Mode::Train, Device::Cpu, |tape| {
        let (x, y) = (tape.input(&[4, 16]), tape.input(&[4, 16]));
        let f = (loss.apply)(model.forward(x), y, 4);
        Targets {
            outputs: vec![f],
            backward: Some(f),
        }
    });
    let tokens: Vec<f32> = (0..64).map(|i| (i % 20) as f32).collect();
    let mut session = Session::new(&params, vec![plan], Target::CPU).unwrap();
    let pool = ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    pool.install(|| {
        session
            .run(0, &[&tokens, &tokens], Step::default())
            .unwrap();
        let kept: [isize; 5] = std::array::from_fn(|_| {
            let region = Region::new(ALLOCATOR);
            for _ in 0..5 {
                session.rerun(0).unwrap();
            }
            let change = region.change();
            change.bytes_allocated as isize - change.bytes_deallocated as isize
        });
        assert!(kept.contains(&0), "{kept:?} bytes");
    });
}
