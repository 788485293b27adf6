//! Every optimizer: the same bits however it is cut up, its kernels against its CPU body.

use crate::common::descent::{Descent, options};
use crate::common::draws::Draws;
use crate::common::kernels::{ALL, machines};
use crate::{keys, trial};
use libtest_mimic::Trial;
use rayon::ThreadPoolBuilder;
use serde_json::{Map, Value, json};
use stepback_native::device::gpu::Precision;
use stepback_native::device::{Device, Machine, Target};
use stepback_native::graph::{Params, Role};
use stepback_native::ops::distance;
use stepback_native::optim::{Optimizer, ROWS, Row, Stepper, formula, row};
use stepback_native::random::torch::Generator;

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
        // Its launches are as many as its tensors have dimensions.
        if name != "soap" {
            add("every_group_has_its_kernels", every_group_has_its_kernels);
        }
        if is_elementwise(row) {
            add("every_coordinate_for_itself", every_coordinate_for_itself);
            add("infinite_weights_stay", infinite_weights_stay);
        }
        // The star variants' lower bound moves once for every group, as in the authors' code.
        if row.reports.epoch.is_empty() {
            trials.push(equal_groups(json!({"name": name, "weight_decay": 0.01})));
        }
        let mut opt = json!({"name": name, "lr": 0.02});
        if name == "soap" {
            // A gradient of 70 rows does not say what all of its bases are, nor what to divide what is near 0 by.
            opt["max_precond_dim"] = 30.into();
            opt["eps"] = 0.1.into();
        }
        let what = "kernels_by_default";
        trials.push(kernels(what, opt.clone(), json!([]), half_square));
        opt["weight_decay"] = 0.1.into();
        let mut groups = json!([{"match": "bias", "lr": 0.01, "weight_decay": 0}, {"match": "^b", "lr_factor": 2}]);
        if let Some(rest) = row.rest {
            groups[0]["name"] = rest.into();
        }
        trials.push(kernels("kernels_of_groups", opt, groups, half_square));
    }
    for row in formula::rows() {
        let name = row.entry.name;
        let same = trial(
            format!("optimizers::{name}::same_bits_on_any_number_of_threads"),
            move || same_bits(name),
        );
        let opt = json!({"name": name, "lr": 0.02, "weight_decay": 0.1});
        let groups = json!([{"match": "bias", "lr": 0.01, "weight_decay": 0}, {"match": "^b", "lr_factor": 2}]);
        trials.extend([
            same,
            kernels("kernels", opt.clone(), json!([]), half_square),
            kernels("kernels_of_groups", opt, groups, half_square),
        ]);
    }
    // A method's numbers for each tensor, and what wraps it.
    for opt in [
        json!({"name": "adamw", "weight_decay": 0.1, "cautious": true, "cautious_weight_decay": true}),
        json!({"name": "lion", "cautious": true, "ema_decay": 0.5}),
        json!({"name": "sgd-m", "lookahead_k": 2, "grad_clip_value": 0.5}),
    ] {
        trials.push(equal_groups(opt));
    }
    let mixed = json!([{"match": "role==bias", "name": "momo-star", "weight_decay": 0.05}, {"match": "^b", "name": "sgd-m"}]);
    let opt = json!({"name": "momo-star", "lr": 0.5, "lb": -10, "lookahead_k": 3});
    trials.push(kernels(
        "kernels_of_groups_and_other_methods",
        opt,
        mixed,
        half_square,
    ));
    let undampened = json!({"name": "sgd-m", "lr": 0.01, "momentum": 0, "dampening": 0.5});
    let wrapped = [
        json!({"name": "adam", "lr": 0.01, "lookahead_k": 3, "lookahead_alpha": 0.8}),
        json!({"name": "adam", "lr": 0.01, "ema_decay": 0.9, "ema_start": 2}),
        json!({"name": "adam", "lr": 0.01, "swa_start": 0, "grad_clip_norm": 1, "grad_clip_value": 0.01}),
        json!({"name": "adamw", "lr": 0.01, "weight_decay": 0.1, "cautious": true}),
        json!({"name": "adamw", "lr": 0.01, "weight_decay": 0.5, "cautious_weight_decay": true}),
        json!({"name": "lion", "lr": 0.01, "weight_decay": 0.1, "cautious": true}),
        json!({"name": "adam", "lr": 0.01, "weight_decay": 0.1, "amsgrad": true}),
        json!({"name": "adamw", "lr": 0.01, "weight_decay": 0.1, "amsgrad": true, "cautious": true}),
        json!({"name": "adabelief", "lr": 0.01, "weight_decay": 0.1, "rectify": false}),
        json!({"name": "adafactor", "lr": 0.05, "weight_decay": 0.1, "beta2_decay": -0.5, "eps": [1e-6, 0.01], "d": 1.5}),
        json!({"name": "sophia-g", "lr": 0.01, "weight_decay": 0.1, "rho": 100, "bs": 4, "hessian_interval": 3}),
        json!({"name": "muon", "nesterov": false, "adjust_lr": "match_rms_adamw", "ns_steps": 2, "aux_lr": 0.05}),
    ];
    let opt = json!({"name": "adam", "lr": 0.01});
    let groups = json!([{"match": "bias", "name": "momo", "lr": 0.5}, {"match": "^b", "name": "prox-sps", "lr": 0.5}]);
    let name = "kernels_of_groups_that_sum";
    trials.push(kernels(name, opt, groups, half_square));
    for opt in golden().into_iter().chain([undampened]).chain(wrapped) {
        trials.push(kernels("kernels", opt, json!([]), half_square));
    }
    for weight_decay in [0.0, 0.1] {
        let opt = json!({"name": "prox-sps", "lr": 0.5, "weight_decay": weight_decay});
        let name = "kernels_where_the_loss_is_nan";
        trials.push(kernels(name, opt, json!([]), |_| f32::NAN));
    }
    trials
}

fn kernels(what: &str, mut opt: Value, groups: Value, loss: Loss) -> Trial {
    let all = opt.as_object().unwrap().clone();
    let groups = serde_json::from_value::<Groups>(groups).unwrap();
    let name = opt.as_object_mut().unwrap().remove("name").unwrap();
    let name = format!(
        "optimizers::{}::{what}{}",
        name.as_str().unwrap(),
        keys(&opt)
    );
    trial(name, move || kernels_agree(&all, &groups, loss))
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

type Groups = Vec<Map<String, Value>>;

/// An optimizer of three tensors, which are laid out for its groups.
fn stepper(
    opt: &Map<String, Value>,
    groups: &[Map<String, Value>],
    machine: Machine,
    target: Target,
) -> (Params, Stepper) {
    let mut params = Params::new(Generator::new(0));
    params.constant("a.weight", &[70, 50], 0.0);
    let bias = params.constant("a.bias", &[1000], 0.0);
    params.constant("b.weight", &[25, 10, 2, 4], 0.0);
    params.mark([bias], Role::Bias);
    let optimizer = Optimizer::new(opt, groups).unwrap();
    params.arrange(&optimizer.order(&params.tensors).unwrap());
    let stepper = Stepper::on(machine, optimizer, &params.tensors, target);
    (params, stepper.unwrap())
}

/// Does a method do to every parameter what its own gradient says?
fn is_elementwise(row: &Row) -> bool {
    row.reports.steps.is_empty()
        && row.rest.is_none()
        && !["adafactor", "soap"].contains(&row.entry.name)
}

/// A step has as many launches for each of two groups as for both together, which is one where nothing is summed. Vectors
/// are left out, which a method for matrices leaves to another one.
fn every_group_has_its_kernels(name: &str) {
    let opt = options(name, json!({}));
    let of = |groups: Value| serde_json::from_value::<Groups>(groups).unwrap();
    let sgd = json!({"match": "bias", "name": "sgd"});
    let [alone, groups] = [of(json!([sgd])), of(json!([sgd, {"match": "^b"}]))];
    for machine in machines(1) {
        let target = machine.target(Precision::Fp32);
        let calls = |groups: &[_]| stepper(&opt, groups, machine.open(), target).1.calls();
        let (alone, grouped) = (calls(&alone) - 1, calls(&groups) - 1);
        assert_eq!(grouped, 2 * alone);
        assert_eq!(alone == 1, is_elementwise(row(name).unwrap()));
    }
}

fn equal_groups(mut opt: Value) -> Trial {
    let all = opt.as_object().unwrap().clone();
    let name = opt.as_object_mut().unwrap().remove("name").unwrap();
    let name = name.as_str().unwrap().to_owned();
    let keys = keys(&opt);
    let what = format!("optimizers::{name}::equal_groups_change_nothing{keys}");
    trial(what, move || equal_groups_change_nothing(&all, &name))
}

/// Two groups that say nothing, of which one lies around the other.
fn equal_groups_change_nothing(opt: &Map<String, Value>, name: &str) {
    let path = |groups: Value| {
        let groups: Groups = serde_json::from_value(groups).unwrap();
        let machine = Machine::open(Device::Cpu).unwrap();
        let (params, mut stepper) = stepper(opt, &groups, machine, Target::CPU);
        let mut w = vec![0.0; params.values.len()];
        let mut draws = Draws::new(5);
        for k in 0..6 {
            let mut g = w.clone();
            for tensor in &params.tensors {
                let values = draws.normal(tensor.range.len);
                let to = if k == 0 { &mut w } else { &mut g };
                to[tensor.range.start..][..tensor.range.len].copy_from_slice(&values);
            }
            stepper
                .step(0.05 / (1 + k) as f64, 1.0, &mut w, &g)
                .unwrap();
        }
        let tensors = params.tensors.iter().map(|tensor| tensor.of(&w));
        (tensors.collect::<Vec<_>>().concat(), stepper)
    };
    let (whole, mut alone) = path(json!([]));
    let (parts, mut grouped) = path(json!([{"match": "weight"}]));
    match row(name).unwrap().reports.steps.first() {
        None => assert!(whole == parts),
        // The order of summation has changed.
        Some(report) => {
            assert!(distance(&whole, &parts) <= 1e-6);
            let [t, other] = [&mut alone, &mut grouped].map(|s| s.report(report).unwrap().unwrap());
            assert!((t / other - 1.0).abs() <= 1e-5, "{t} {other}");
        }
    }
}

/// The optimizer objects of the golden paths: every method, with every key.
fn golden() -> Vec<Value> {
    // In the binary, which may be carried to a machine with a GPU.
    let text = include_str!("../../records/goldens/optimizers.json");
    let file: Value = serde_json::from_str(text).unwrap();
    let cases = file["cases"].as_array().unwrap();
    cases.iter().map(|case| case["opt"].clone()).collect()
}

/// Ten steps by the kernels and by the CPU body, which the suite `optimizers` of `verify` compares with PyTorch.
fn kernels_agree(opt: &Map<String, Value>, groups: &Groups, loss: Loss) {
    const STEPS: usize = 10;
    for machine in machines(ALL) {
        let reports = Optimizer::new(opt, groups).unwrap().reports;
        let target = machine.target(Precision::Fp32);
        let (_, mut ours) = stepper(opt, groups, machine.open(), target);
        let (params, mut cpu) = stepper(
            opt,
            groups,
            Machine::open(Device::Cpu).unwrap(),
            Target::CPU,
        );
        let n = params.values.len();
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
            for stepper in [&mut ours, &mut cpu] {
                if stepper.wants_drawn() {
                    stepper.take_drawn(&noise).unwrap();
                }
            }
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
