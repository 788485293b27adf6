//! Every optimizer: the same bits however it is cut up, its kernels against its CPU body.

use crate::common::descent::{Descent, options};
use crate::common::draws::Draws;
use crate::common::kernels::{ALL, machines};
use crate::{keys, trial};
use libtest_mimic::Trial;
use rayon::ThreadPoolBuilder;
use serde_json::{Map, Value, json};
use stepback_native::device::Target;
use stepback_native::device::gpu::Precision;
use stepback_native::graph::Params;
use stepback_native::ops::distance;
use stepback_native::optim::{Optimizer, ROWS, Stepper};

pub fn trials() -> Vec<Trial> {
    let half_square: Loss = |w| 0.5 * w.iter().map(|w| w * w).sum::<f32>();
    let mut trials = Vec::new();
    for row in ROWS {
        let name = row.entry.name;
        let mut add = |what: &str, test: fn(&str)| {
            trials.push(trial(format!("optimizers::{name}::{what}"), move || {
                test(name);
            }));
        };
        add("same_bits_on_any_number_of_threads", same_bits);
        if row.reports.steps.is_empty() {
            add("every_coordinate_for_itself", every_coordinate_for_itself);
            add("infinite_weights_stay", infinite_weights_stay);
        }
        let defaults = json!({"name": name, "lr": 0.02});
        trials.push(kernels("kernels_by_default", defaults, half_square));
    }
    let undampened = json!({"name": "sgd-m", "lr": 0.01, "momentum": 0, "dampening": 0.5});
    let wrapped = json!({"name": "adam", "lr": 0.01, "lookahead_k": 3, "lookahead_alpha": 0.8});
    for opt in golden().into_iter().chain([undampened, wrapped]) {
        trials.push(kernels("kernels", opt, half_square));
    }
    for weight_decay in [0.0, 0.1] {
        let opt = json!({"name": "prox-sps", "lr": 0.5, "weight_decay": weight_decay});
        trials.push(kernels("kernels_where_the_loss_is_nan", opt, |_| f32::NAN));
    }
    trials
}

fn kernels(what: &str, mut opt: Value, loss: Loss) -> Trial {
    let all = opt.as_object().unwrap().clone();
    let name = opt.as_object_mut().unwrap().remove("name").unwrap();
    let name = format!(
        "optimizers::{}::{what}{}",
        name.as_str().unwrap(),
        keys(&opt)
    );
    trial(name, move || kernels_agree(&all, loss))
}

fn same_bits(name: &str) {
    let on = |threads| {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build();
        let more = json!({"lr": 0.05, "weight_decay": 0.01});
        let descent = Descent::new(name, more, 100_003);
        pool.unwrap().install(|| descent.run(5)).bits()
    };
    let one = on(1);
    assert!(one.0.iter().all(|&w| f32::from_bits(w).is_finite()));
    assert!(one == on(2) && one == on(5));
}

/// The elementwise methods do to 40,000 parameters what they do to each of them alone.
fn every_coordinate_for_itself(name: &str) {
    let more = json!({"lr": 0.05, "weight_decay": 0.01});
    let many = Descent::new(name, more.clone(), 40_000).run(3).w;
    let few = Descent::new(name, more, 100).run(3).w;
    assert_eq!(many[..100], few);
}

/// Without weight decay.
fn infinite_weights_stay(name: &str) {
    let mut stepper = Stepper::new(&options(name, json!({})), 2, Target::CPU).unwrap();
    let mut w = [f32::INFINITY, 0.0];
    stepper.step(1e-3, 1.0, &mut w, &[0.0, 1.0]).unwrap();
    assert_eq!(w[0], f32::INFINITY);
}

type Loss = fn(&[f32]) -> f32;

/// The optimizer objects of the golden paths: every method, with every key.
fn golden() -> Vec<Value> {
    // In the binary, which may be carried to a machine with a GPU.
    let text = include_str!("../../records/goldens/optimizers.json");
    let file: Value = serde_json::from_str(text).unwrap();
    let cases = file["cases"].as_array().unwrap();
    cases.iter().map(|case| case["opt"].clone()).collect()
}

/// Ten steps by the kernels and by the CPU body, which the suite `optimizers` of `verify` compares with PyTorch.
fn kernels_agree(opt: &Map<String, Value>, loss: Loss) {
    const STEPS: usize = 10;
    let n = 5000;
    for machine in machines(ALL) {
        let optimizer = Optimizer::new(opt).unwrap();
        let reports = optimizer.reports;
        let tensors = [Params::vector(n)];
        let target = machine.target(Precision::Fp32);
        let mut ours = Stepper::on(machine.open(), optimizer, &tensors, target).unwrap();
        let mut cpu = Stepper::new(opt, n, Target::CPU).unwrap();
        let mut draws = Draws::new(31);
        let mut w = draws.normal(n);
        let mut our_w = w.clone();
        let close = |x: f64, y: f64| (x - y).abs() <= 1e-5 * y.abs().max(1e-3);
        for k in 0..STEPS {
            // The learning rate changes, as a schedule changes it.
            let lr = opt.get("lr").and_then(Value::as_f64).unwrap_or(1e-3) / (1 + k / 4) as f64;
            let noise = draws.normal(n);
            let g: Vec<f32> = w.iter().zip(&noise).map(|(w, x)| w + 0.3 * x).collect();
            let f = loss(&w);
            ours.step(lr, f, &mut our_w, &g).unwrap();
            cpu.step(lr, f, &mut w, &g).unwrap();
            let error = distance(&our_w, &w);
            assert!(error <= 1e-5, "step {k} is {error:.1e} off");
            let of_epoch = reports.epoch.iter().map(|report| &report.name);
            for name in reports.steps.iter().chain(of_epoch) {
                let [x, y] = [&mut ours, &mut cpu].map(|s| s.report(name).unwrap().unwrap());
                assert!(close(x, y), "{name} of step {k} is {x}, not {y}");
            }
        }
    }
}
