//! An update allocates nothing after the first. In a binary of its own, one test after the other: the allocator is the
//! process's.

use std::alloc::System;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use rayon::ThreadPoolBuilder;
use serde_json::json;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use stepback_native::device::Target;
use stepback_native::optim::{ROWS, Stepper};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let trials = ROWS.iter().map(|row| {
        let name = row.entry.name;
        Trial::test(
            format!("optimizers::{name}::later_steps_allocate_nothing"),
            || {
                later_steps_allocate_nothing(name);
                Ok(())
            },
        )
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
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
