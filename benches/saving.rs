//! How much of a sweep of many short runs is saving: of 20,000 that take less than a millisecond, and of 4,000 of some milliseconds.
//!
//! `cargo bench --bench saving`. The output is in the temporary folder, which should be on a disk. The seconds want a quiet machine;
//! seconds of processors, which leave out waiting for the disk and what one thread does at the end, suffer less from others.

use std::fs;
use std::hint::black_box;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::{Value, json};
use stepback_native::config::RunConfig;
use stepback_native::data::{Library, fetch};
use stepback_native::device::{Device, Machine, Target};
use stepback_native::results::{Options, Store};
use stepback_native::train;
use stepback_native::train::sweep::{self, Choices, Pending, Progress};

/// Nobody follows.
struct Quiet;

impl Progress for Quiet {}

/// Least squares with this many features and samples, 100 learning rates and this many seeds.
fn short_runs(target: Target, [features, samples]: [usize; 2], seeds: usize) -> Vec<Pending> {
    let chosen = sweep::chosen(target, &Choices::default());
    let one = |index: usize| {
        let config = json!({
            "dataset": "synthetic_linear", "dataset_kwargs": {"p": features, "n_samples": samples}, "model": "linear",
            "loss_func": "squared", "score_func": "squared", "batch_size": 20, "max_epoch": 20, "run_id": index % seeds,
            "opt": {"name": "sgd-m", "lr": 0.001 * 1.05f64.powi((index / seeds) as i32), "weight_decay": 0,
                    "momentum": 0.9, "dampening": 0.9, "lr_schedule": "constant"},
        });
        let config = config.as_object().and_then(RunConfig::from_json);
        let config = config.expect("a whole config");
        Pending {
            index,
            identity: sweep::identity(&config, &chosen, Some(Value::Null)),
            config,
        }
    };
    (0..100 * seeds).map(one).collect()
}

/// Trains runs as a sweep does, and keeps nothing of them.
fn train_alone(pending: &[Pending], library: &Library, target: Target) {
    let next = AtomicUsize::new(0);
    let work = || {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1);
        let _pool = pool.use_current_thread().build();
        while let Some(run) = pending.get(next.fetch_add(1, Ordering::Relaxed)) {
            let data = library.load(&run.config).expect("data");
            let machine = Machine::open(target).expect("a machine");
            black_box(train::run(&run.config, &data, machine, None, None, &()).expect("a run"));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..rayon::current_num_threads() {
            scope.spawn(work);
        }
    });
}

fn main() {
    let target = Target::from(Device::Cpu);
    measure(target, &short_runs(target, [10, 200], 200));
    measure(target, &short_runs(target, [100, 1000], 40));
}

/// Seconds since this program began: by the clock, and of processors.
fn now() -> [f64; 2] {
    static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    let of_process = fs::read_to_string("/proc/self/stat").expect("Linux");
    let (_, fields) = of_process.rsplit_once(')').expect("a name in brackets");
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: f64 = ticks.map(|n| n.parse::<f64>().expect("a number")).sum();
    // Linux counts 100 a second, whatever it uses itself.
    [BEGIN.elapsed().as_secs_f64(), ticks / 100.0]
}

/// Runs with and without saving in turn; the best of each counts.
fn measure(target: Target, pending: &[Pending]) {
    let library = Library::new("data", true, fetch::Options::new(Vec::new(), true));
    let mut best = [[f64::INFINITY; 2]; 2];
    let mut keep = |which: usize, begin: [f64; 2]| {
        let times = now().into_iter().zip(begin);
        for (best, (end, begin)) in best[which].iter_mut().zip(times) {
            *best = best.min(end - begin);
        }
    };
    for _ in 0..7 {
        let begin = now();
        train_alone(pending, &library, target);
        keep(0, begin);
        let dir = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(dir.path(), "short", Options::default()).expect("an output");
        let identities: Vec<_> = pending.iter().map(|run| run.identity.clone()).collect();
        store.settle(&identities, &[]);
        let (choices, stop) = (Choices::default(), AtomicBool::new(false));
        let begin = now();
        let swept = sweep::sweep(
            pending,
            &library,
            &store,
            &[target],
            &choices,
            &stop,
            &Quiet,
        );
        keep(1, begin);
        assert_eq!(swept.expect("a sweep"), None);
    }
    let [alone, swept] = best;
    for (i, what) in ["s", "s of processors"].into_iter().enumerate() {
        let share = 100.0 * (1.0 - alone[i] / swept[i]);
        println!(
            "{} runs trained in {:.2} {what}, as a sweep in {:.2}: {share:.1} % is saving",
            pending.len(),
            alone[i],
            swept[i]
        );
    }
}
