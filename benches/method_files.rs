//! Methods that are files beside the same formulas in Rust: updates on the CPU, in turns, and the ratio of their medians.
//!
//! `cargo bench --bench method_files`; RAYON_NUM_THREADS limits the threads.

use std::path::Path;
use std::time::Instant;

use rayon::prelude::*;
use serde_json::json;
use stepback_native::device::Target;
use stepback_native::optim::{Stepper, formula};

/// One update, timed.
type Update = Box<dyn FnMut() -> f64>;

fn stepper(name: &str, n: usize) -> Update {
    let opt = json!({"name": name, "lr": 1e-3, "weight_decay": 1e-4});
    let opt = opt.as_object().expect("an object");
    let mut stepper = Stepper::new(opt, n, Target::CPU).expect("memory");
    let g: Vec<f32> = (0..n).map(|i| 1e-3 * (i as f32).sin()).collect();
    let mut w: Vec<f32> = (0..n).map(|i| (i as f32).cos()).collect();
    stepper.step(1e-3, 1.0, &mut w, &g).expect("a step");
    let (mut machine, step) = stepper.into_parts();
    Box::new(move || {
        let start = Instant::now();
        machine.run(step).expect("the CPU does not fail");
        start.elapsed().as_secs_f64()
    })
}

/// A method of `tests/optimizers`.
fn file(name: &str, n: usize) -> Update {
    let name = format!("tests/optimizers/{name}.toml");
    formula::find(&name, Path::new(env!("CARGO_MANIFEST_DIR"))).expect("a file");
    stepper(&name, n)
}

/// AdEMAMix by hand.
fn ademamix(n: usize) -> Update {
    let g: Vec<f32> = (0..n).map(|i| 1e-3 * (i as f32).sin()).collect();
    let mut w: Vec<f32> = (0..n).map(|i| (i as f32).cos()).collect();
    let mut state = [(); 3].map(|()| vec![0f32; n]);
    let [b1, b2, b3, alpha, eps, lr, wd] = [0.9f32, 0.999, 0.9999, 2.0, 1e-8, 1e-3, 1e-4];
    let (c1, root) = (1.0 - b1, (1.0 - b2).sqrt());
    Box::new(move || {
        const PIECE: usize = 1 << 14;
        let start = Instant::now();
        let [m, slow, v] = &mut state;
        let pieces = w.par_chunks_mut(PIECE).zip(g.par_chunks(PIECE));
        let state = (m.par_chunks_mut(PIECE))
            .zip(slow.par_chunks_mut(PIECE))
            .zip(v.par_chunks_mut(PIECE));
        pieces.zip(state).for_each(|((w, g), ((m, slow), v))| {
            let state = m.iter_mut().zip(slow).zip(v);
            for ((w, &g), ((m, slow), v)) in w.iter_mut().zip(g).zip(state) {
                *m = b1 * *m + (1.0 - b1) * g;
                *slow = b3 * *slow + (1.0 - b3) * g;
                *v = b2 * *v + (1.0 - b2) * (g * g);
                let u = (*m / c1 + alpha * *slow) / (v.sqrt() / root + eps);
                *w -= lr * (u + wd * *w);
            }
        });
        start.elapsed().as_secs_f64()
    })
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() {
    println!(
        "{:12} {:>10} {:>10} {:>10} {:>6}",
        "method", "parameters", "Rust ms", "file ms", "ratio"
    );
    for n in [1_000_000, 15_000_000] {
        let pairs: [(&str, Update, Update); 3] = [
            ("adam", stepper("adam", n), file("adam", n)),
            ("momo", stepper("momo", n), file("momo", n)),
            ("ademamix", ademamix(n), stepper("ademamix", n)),
        ];
        for (name, mut rust, mut file) in pairs {
            let rounds = 60_000_000 / n + 11;
            let mut times = [Vec::new(), Vec::new()];
            for _ in 0..rounds {
                times[0].push(rust());
                times[1].push(file());
            }
            let [rust, file] = times.map(|mut times| 1e3 * median(&mut times));
            println!(
                "{name:12} {n:10} {rust:10.3} {file:10.3} {:6.2}",
                file / rust
            );
        }
    }
}
