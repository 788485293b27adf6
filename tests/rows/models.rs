//! Networks of every kind: they learn a batch, and threads do not matter. Their numbers are in the suites of `verify`.

use crate::common::networks::{Bench, small};
use crate::{keys, trial};
use libtest_mimic::Trial;
use rayon::ThreadPoolBuilder;
use serde_json::Value;

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (name, kwargs, lr) in small() {
        let mut add = |what: &str, test: fn(&str, &Value, f64)| {
            let kwargs = kwargs.clone();
            trials.push(trial(
                format!("models::{name}::{what}{}", keys(&kwargs)),
                move || {
                    test(name, &kwargs, lr);
                },
            ));
        };
        add("learns_a_batch", learns_a_batch);
        add("same_bits_on_any_number_of_threads", same_bits);
    }
    trials
}

fn learns_a_batch(name: &str, kwargs: &Value, lr: f64) {
    let learned = |losses: &[f32]| losses.last().is_some_and(|last| *last < 0.1 * losses[0]);
    let losses = Bench::new(name, kwargs, 2).fit(lr, learned);
    assert!(learned(&losses), "{losses:?}");
}

fn same_bits(name: &str, kwargs: &Value, lr: f64) {
    let results = [1, 2].map(|threads| {
        let pool = ThreadPoolBuilder::new().num_threads(threads);
        pool.build().unwrap().install(|| {
            let mut bench = Bench::new(name, kwargs, 2);
            let losses = bench.fit(lr, |losses| losses.len() == 2);
            (losses, bench.w.clone(), bench.run(false))
        })
    });
    assert!(results[0] == results[1]);
}
