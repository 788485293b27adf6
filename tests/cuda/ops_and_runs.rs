//! The kernels against the CPU bodies: every op of the table, under several schedules of the emulator, and on a GPU
//! where there is one (`REQUIRE_GPU=1` makes its absence a failure).

use std::collections::HashSet;

use crate::common::draws::{Draws, build, cifar};
use crate::common::kernels::{ALL, Candidate, Tolerances, machines, on, on_cpu, runs_agree};
use serde_json::{Map, Value, json};
use stepback_native::config::RunConfig;
use stepback_native::data::{Library, fetch};
use stepback_native::device::gpu::Precision;
use stepback_native::device::gpu::kernels::{self, Step};
use stepback_native::device::{self, Device, Machine, Program, Target};
use stepback_native::graph::{Bwd, Fwd, Mode, Op, Params, Plan, Range, Session, Targets, Var};
use stepback_native::ops::{Case, Example, ROWS, distance};
use stepback_native::optim::{Optimizer, Stepper};
use stepback_native::random::torch::Generator;
use stepback_native::train::run;

/// Every case of every op.
fn every_case_agrees(precision: Precision, tolerance: f32) {
    let cases = ROWS
        .iter()
        .flat_map(|r| r.cases.iter().map(move |c| (r, c)));
    for machine in machines(ALL) {
        for (row, case) in cases.clone() {
            let example = case.example(21, machine.device);
            let [first, second] = on(&example, &machine, precision);
            let (y, grad) = on_cpu(&case.example(21, Device::Cpu));
            let what = format!("{} ({}), {:?}", row.name, case.about, machine.device);
            for (name, ours, expected) in [("y", &first.0, &y), ("gradient", &first.1, &grad)] {
                let error = distance(ours, expected);
                assert!(error <= tolerance, "{what}: {name} is {error:.1e} off");
            }
            let bits = |v: &(Vec<f32>, Vec<f32>)| -> Vec<u32> {
                v.0.iter().chain(&v.1).map(|x| x.to_bits()).collect()
            };
            assert!(
                bits(&first) == bits(&second),
                "{what}: a second run differs"
            );
        }
    }
}

#[test]
fn kernels_compute_what_the_cpu_does() {
    every_case_agrees(Precision::Fp32, 1e-5);
}

#[test]
fn tensor_core_kernels_compute_what_the_cpu_does() {
    every_case_agrees(Precision::Tf32, 2e-3);
}

/// Sizes at which finite differences would take too long: several blocks of everything, those of the experiments, and
/// one too long for the kernels that hold all in shared memory.
const LARGE: &[Case] = &[
    Case::new(
        "layer norm, 70 rows of 512",
        &[&[70, 512], &[512], &[512]],
        |x| x[0].layer_norm(x[1], x[2]),
    ),
    Case::new(
        "layer norm, 19 rows of 768",
        &[&[19, 768], &[768], &[768]],
        |x| x[0].layer_norm(x[1], x[2]),
    ),
    Case::new(
        "layer norm, 3 rows of 1100",
        &[&[3, 1100], &[1100], &[1100]],
        |x| x[0].layer_norm(x[1], x[2]),
    ),
    Case::new(
        "layer norm, 4300 rows of 9",
        &[&[4300, 9], &[9], &[9]],
        |x| x[0].layer_norm(x[1], x[2]),
    ),
    Case::new("GELU, 5003 values", &[&[5003]], |x| x[0].gelu()),
    Case::new(
        "attention, 65 tokens, 2 heads of 64",
        &[&[1, 65, 384]],
        |x| x[0].attention(2, None, 0.1),
    ),
    Case::new(
        "attention, windows of 16, 3 heads of 32",
        &[&[4, 16, 288], &[2, 16, 16]],
        |x| x[0].attention(3, Some(x[1]), 0.0),
    ),
    Case::new(
        "attention, 40 tokens, 2 heads of 12, a bias",
        &[&[2, 40, 72], &[1, 40, 40]],
        |x| x[0].attention(2, Some(x[1]), 0.1),
    ),
    Case::new("attention, 32 tokens of 20", &[&[1, 32, 60]], |x| {
        x[0].attention(1, None, 0.0)
    }),
    Case::new(
        "attention, 197 tokens of 8",
        &[&[1, 197, 24], &[1, 197, 197]],
        |x| x[0].attention(1, Some(x[1]), 0.1),
    ),
    Case::new("attention, 37 tokens of 5", &[&[2, 37, 15]], |x| {
        x[0].attention(1, None, 0.1)
    }),
    Case::new("windows of 8x8 pixels of 96", &[&[3, 8, 8, 96]], |x| {
        x[0].windows(4, 2)
    }),
    Case::new("700 images merged", &[&[700, 2, 2, 3]], |x| {
        x[0].merge_pixels(2)
    }),
    Case::new(
        "tokens of 64 for 20 sequences of 65",
        &[&[20, 64, 64], &[1, 1, 64], &[1, 65, 64]],
        |x| x[0].embed_tokens(x[1], x[2]),
    ),
];

#[test]
fn kernels_compute_what_the_cpu_does_at_large_sizes() {
    for case in LARGE {
        let (y, grad) = on_cpu(&case.example(21, Device::Cpu));
        for (precision, tolerance) in [(Precision::Fp32, 1e-5), (Precision::Tf32, 2e-3)] {
            for machine in machines(ALL) {
                let example = case.example(21, machine.device);
                let [first, second] = on(&example, &machine, precision);
                let errors = [distance(&first.0, &y), distance(&first.1, &grad)];
                assert!(
                    errors.iter().all(|e| *e <= tolerance),
                    "{}, {precision:?}: {errors:?}",
                    case.about
                );
                assert!(first == second, "{}: a second run differs", case.about);
            }
        }
    }
}

/// Every size of a product modulo the tiles, and more than one tile each way.
#[test]
fn linear_layers_of_awkward_sizes() {
    for [rows, inputs, outputs] in [[1, 1, 1], [33, 65, 31], [32, 32, 64], [70, 33, 97]] {
        let record = |device| {
            example(
                device,
                &[&[rows, inputs], &[outputs, inputs], &[outputs]],
                |x| x[0].linear(x[1], Some(x[2])),
            )
        };
        let (y, grad) = on_cpu(&record(Device::Cpu));
        for (precision, tolerance) in [(Precision::Fp32, 1e-5), (Precision::Tf32, 2e-3)] {
            for machine in machines(1) {
                let [ours, _] = on(&record(machine.device), &machine, precision);
                let errors = [distance(&ours.0, &y), distance(&ours.1, &grad)];
                assert!(
                    errors.iter().all(|e| *e <= tolerance),
                    "{rows}x{inputs} to {outputs}, {precision:?}: {errors:?}"
                );
                // TF32 must not be the other kernel under another name.
                if precision == Precision::Tf32 && inputs > 30 {
                    assert!(errors[0] > 1e-6, "{errors:?}");
                }
            }
        }
    }
}

/// An example of one op with random operands of these shapes.
fn example(
    device: Device,
    shapes: &[&[usize]],
    apply: impl for<'t> Fn(&[Var<'t>]) -> Var<'t>,
) -> Example {
    let mut params = Params::new(Generator::new(5));
    let ranges: Vec<Range> = (shapes.iter())
        .map(|shape| params.normal("x", shape, 1.0))
        .collect();
    let plan = Plan::record(&params, Mode::Train, device, |tape| {
        let operands: Vec<Var> = ranges.iter().map(|r| tape.param(*r)).collect();
        let y = apply(&operands);
        Targets {
            outputs: vec![y],
            backward: Some(y),
        }
    });
    let upstream = Draws::new(9).normal(plan.outputs[0].len);
    Example {
        params,
        plan,
        data: Vec::new(),
        upstream,
    }
}

/// The number that makes `expected`, times it, nearest to `ours`.
fn scale(ours: &[f32], expected: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        (a.iter().zip(b))
            .map(|(x, y)| f64::from(*x) * f64::from(*y))
            .sum()
    };
    dot(ours, expected) / dot(expected, expected)
}

/// Every form of the kernels, with tiles that the images fill in part, at strides, with channels that no vector fits.
#[test]
fn convolutions_of_awkward_sizes() {
    let mut used = HashSet::new();
    // Images, height, width, channels in and out, kernel, stride, padding.
    for [n, h, w, i, o, k, stride, pad] in [
        [2, 9, 11, 17, 20, 3, 1, 1],
        [3, 7, 6, 18, 7, 3, 2, 1],
        [20, 2, 2, 40, 66, 3, 1, 1],
        [3, 40, 35, 4, 16, 3, 1, 1],
        [12, 32, 32, 4, 32, 3, 1, 1],
        [12, 32, 32, 32, 4, 3, 1, 1],
        [12, 32, 32, 3, 40, 3, 1, 0],
        [12, 32, 32, 33, 2, 3, 1, 1],
        [2, 5, 5, 17, 33, 1, 1, 0],
        [2, 5, 5, 6, 8, 1, 2, 0],
        [1, 15, 13, 3, 4, 7, 2, 3],
    ] {
        let record = |device| {
            example(device, &[&[n, h, w, i], &[o, i, k, k], &[o]], |x| {
                x[0].conv2d(x[1], Some(x[2]), stride, pad)
            })
        };
        let (y, grad) = on_cpu(&record(Device::Cpu));
        for (precision, tolerance) in [(Precision::Fp32, 1e-5), (Precision::Tf32, 2e-3)] {
            let schedules = if n * h * w < 1000 { ALL } else { 1 };
            for machine in machines(schedules) {
                let record = record(machine.device);
                let [ours, again] = on(&record, &machine, precision);
                let mut program = Program::new(machine.target(precision));
                let now = machine.open().alloc("step", 1).unwrap();
                record.plan.emit(now, &mut program).unwrap();
                used.extend(program.calls().iter().map(|call| call.name()));
                let errors = [distance(&ours.0, &y), distance(&ours.1, &grad)];
                assert!(
                    errors.iter().all(|e| *e <= tolerance),
                    "{n}x{h}x{w}, {i} to {o}, {k}x{k} by {stride}, {precision:?}: {errors:?}"
                );
                assert!(ours == again, "a second run differs");
                if precision == Precision::Tf32 && y.len() > 10_000 {
                    let scales = [scale(&ours.0, &y), scale(&ours.1, &grad)];
                    assert!(
                        scales.iter().all(|s| (s - 1.0).abs() < 1e-4),
                        "operands are cut off, not rounded: {scales:?}"
                    );
                }
            }
        }
    }
    let all = kernels::KERNELS.iter().filter(|k| k.file == "conv2d");
    let unused: Vec<&str> = all.map(|k| k.name).filter(|k| !used.contains(k)).collect();
    assert!(unused.is_empty(), "not tested: {unused:?}");
}

const EMULATOR: Target = Target {
    device: Device::Emulator,
    precision: None,
};

#[test]
fn attention_that_does_not_fit_is_refused() {
    let mut params = Params::new(Generator::new(1));
    let x = params.constant("x", &[1, 8000, 3], 0.0);
    let plan = Plan::record(&params, Mode::Train, Device::Emulator, |tape| {
        let y = tape.param(x).attention(1, None, 0.0);
        Targets {
            outputs: vec![y],
            backward: Some(y),
        }
    });
    if device::emulator_usable().is_err() {
        return;
    }
    let mut machine = Machine::open(Device::Emulator).unwrap();
    let now = machine.alloc("step", 1).unwrap();
    let error = plan.emit(now, &mut Program::new(EMULATOR)).unwrap_err();
    assert!(error.message.contains("attention among 8000 tokens"));
    assert_eq!(error.kind.exit_code(), 2);
}

struct Unported;

impl Op for Unported {
    fn name(&self) -> &'static str {
        "unported"
    }
    fn cpu_fwd(&self, _: Fwd<'_>) {}
    fn cpu_bwd(&self, _: Bwd<'_>) {}
}

#[test]
fn an_op_without_kernels_is_refused_before_anything_runs() {
    let params = Params::new(Generator::new(1));
    let plan = Plan::record(&params, Mode::Eval, Device::Emulator, |tape| {
        let x = tape.input(&[2]);
        Targets {
            outputs: vec![tape.apply(Unported, &[x], &[2])],
            backward: None,
        }
    });
    if device::emulator_usable().is_err() {
        return;
    }
    let mut machine = Machine::open(Device::Emulator).unwrap();
    let now = machine.alloc("step", 1).unwrap();
    let error = plan.emit(now, &mut Program::new(EMULATOR)).unwrap_err();
    assert!(error.message.contains("op unported has no CUDA kernel"));
    assert_eq!(error.kind.exit_code(), 2);
}

/// The optimizer objects of the golden paths: every method, with every key.
fn optimizers() -> Vec<Map<String, Value>> {
    // In the binary, which may be carried to a machine with a GPU.
    let text = include_str!("../../records/goldens/optimizers.json");
    let file: Value = serde_json::from_str(text).unwrap();
    let cases = file["cases"].as_array().unwrap();
    cases
        .iter()
        .map(|c| c["opt"].as_object().unwrap().clone())
        .collect()
}

/// Ten steps of each method by its kernels and by its CPU body, which the suite `optimizers` of `verify` compares with PyTorch.
fn optimizers_agree(
    machine: &Candidate,
    opts: Vec<Map<String, Value>>,
    loss_of: fn(&[f32]) -> f32,
) {
    const STEPS: usize = 10;
    let n = 5000;
    for opt in opts {
        let optimizer = Optimizer::new(&opt).unwrap();
        let reports = optimizer.reports;
        let tensors = [Params::vector(n)];
        let target = machine.target(Precision::Fp32);
        let mut ours = Stepper::on(machine.open(), optimizer, &tensors, target).unwrap();
        let mut cpu = Stepper::new(&opt, n, Target::CPU).unwrap();
        let mut draws = Draws::new(31);
        let mut w = draws.normal(n);
        let mut our_w = w.clone();
        let close = |x: f64, y: f64| (x - y).abs() <= 1e-5 * y.abs().max(1e-3);
        for k in 0..STEPS {
            // The learning rate changes, as a schedule changes it.
            let lr = opt.get("lr").and_then(Value::as_f64).unwrap_or(1e-3) / (1 + k / 4) as f64;
            let noise = draws.normal(n);
            let g: Vec<f32> = w.iter().zip(&noise).map(|(w, x)| w + 0.3 * x).collect();
            let f = loss_of(&w);
            ours.step(lr, f, &mut our_w, &g).unwrap();
            cpu.step(lr, f, &mut w, &g).unwrap();
            let error = distance(&our_w, &w);
            assert!(error <= 1e-5, "{opt:?}: step {k} is {error:.1e} off");
            let of_epoch = reports.epoch.iter().map(|report| &report.name);
            for name in reports.steps.iter().chain(of_epoch) {
                let [x, y] = [&mut ours, &mut cpu].map(|s| s.report(name).unwrap().unwrap());
                assert!(close(x, y), "{opt:?}: {name} of step {k} is {x}, not {y}");
            }
        }
    }
}

#[test]
fn optimizers_step_as_on_the_cpu() {
    let half_square = |w: &[f32]| 0.5 * w.iter().map(|w| w * w).sum::<f32>();
    let cases = |more: &[Value]| -> Vec<Map<String, Value>> {
        more.iter()
            .map(|opt| opt.as_object().unwrap().clone())
            .collect()
    };
    let undampened = [json!({"name": "sgd-m", "lr": 0.01, "momentum": 0, "dampening": 0.5})];
    let prox_sps = [
        json!({"name": "prox-sps", "lr": 0.5}),
        json!({"name": "prox-sps", "lr": 0.5, "weight_decay": 0.1}),
    ];
    for machine in machines(ALL) {
        optimizers_agree(&machine, optimizers(), half_square);
        optimizers_agree(&machine, cases(&undampened), half_square);
        optimizers_agree(&machine, cases(&prox_sps), |_| f32::NAN);
    }
}

/// Three training steps of transformers on a batch, kernel by kernel and on the CPU.
#[test]
fn transformers_learn_as_on_the_cpu() {
    const BATCH: usize = 2;
    let vit = json!({"patch_size": 8, "dim": 24, "depth": 2, "heads": 2, "mlp_dim": 32, "dim_head": 8, "dropout": 0.1,
        "emb_dropout": 0.1});
    let swint = json!({"hidden_dim": 8, "layers": [2, 2, 2, 2], "heads": [1, 1, 2, 2], "head_dim": 8,
        "window_size": 4, "relative_pos_embedding": true});
    let images = Draws::new(1).normal(BATCH * 32 * 32 * 3);
    let inputs = [&images[..], &[3.0, 8.0]];
    for (name, kwargs) in [("vit", vit), ("swint", swint)] {
        let (params, model) = build(name, &kwargs, &cifar(10)).unwrap();
        let open = |device| {
            let plan = Plan::record(&params, Mode::Train, device, |tape| {
                let x = tape.input(&[BATCH, 32, 32, 3]);
                let target = tape.input(&[BATCH, 1]);
                let loss = model.forward(x).cross_entropy(target);
                Targets {
                    outputs: vec![loss],
                    backward: Some(loss),
                }
            });
            let target = Target {
                device,
                precision: Some(Precision::Fp32),
            };
            Session::new(&params, vec![plan], target).unwrap()
        };
        for machine in machines(1) {
            let mut sides = [machine.device, Device::Cpu].map(open);
            let mut values = [(); 2].map(|()| params.values.clone());
            for step in 0..3 {
                let now = Step {
                    seed: 7,
                    done: step,
                    ..Step::default()
                };
                let mut losses = [0.0; 2];
                let mut grads = [vec![], vec![]];
                for (i, side) in sides.iter_mut().enumerate() {
                    losses[i] = side.run(0, &inputs, now).unwrap()[0][0];
                    grads[i] = side.grads().unwrap();
                    let (w, g) = (&mut values[i], &grads[i]);
                    w.iter_mut().zip(g).for_each(|(w, g)| *w -= 0.05 * g);
                    side.set_values(w).unwrap();
                }
                let error = distance(&grads[0], &grads[1]);
                assert!(
                    error < 1e-4,
                    "{name}, step {step}: gradient {error:.1e} off"
                );
                let ratio = losses[0] / losses[1];
                assert!((ratio - 1.0).abs() < 1e-4, "{name}: {losses:?}");
            }
            // Three steps must change something.
            assert!(distance(&values[0], &params.values) > 1e-3);
        }
    }
}

/// Whole runs through loader, plans, kernels and updates.
#[test]
fn runs_by_kernels_are_those_of_the_cpu() {
    let opts = [
        json!({"name": "momo-adam-star", "lr": 0.01, "lb": -1.0}),
        json!({"name": "sgd-m", "lr": 0.1, "weight_decay": 0.01, "lr_schedule": "sqrt"}),
        json!({"name": "prox-sps", "lr": 1.0}),
    ];
    let mut configs: Vec<Value> = opts
        .into_iter()
        .map(|opt| {
            json!({
                "dataset": "synthetic_linear", "dataset_kwargs": {"p": 7, "n_samples": 53},
                "model": "linear", "model_kwargs": {"bias": true}, "loss_func": "logistic",
                "score_func": "logistic_accuracy", "opt": opt, "batch_size": 8, "max_epoch": 3, "run_id": 1,
            })
        })
        .collect();
    // Steps in several programs, the last of fewer steps, and evaluation in two parts of several batches.
    for (p, n, batch_size) in [(7, 43, 1), (200, 4150, 100)] {
        configs.push(json!({
            "dataset": "synthetic_linear", "dataset_kwargs": {"p": p, "n_samples": n}, "model": "linear",
            "model_kwargs": {"bias": true}, "loss_func": "squared", "score_func": "squared",
            "opt": {"name": "momo", "lr": 0.1}, "batch_size": batch_size, "max_epoch": 2, "run_id": 0,
        }));
    }
    configs.push(json!({
        "dataset": "synthetic_matrix_fac", "dataset_kwargs": {"p": 6, "q": 10, "n_samples": 40, "noise": 0.0,
        "condition_number": 1e-5}, "model": "matrix_fac", "model_kwargs": {"rank": 4}, "loss_func": "squared",
        "score_func": "squared", "opt": {"name": "adamw", "lr": 0.01}, "batch_size": 10, "max_epoch": 2, "run_id": 0,
    }));
    let library = Library::new("data", true, fetch::Options::new(Vec::new(), true));
    let tolerances = Tolerances {
        gradient: 1e-4,
        others: 1e-4,
    };
    for config in configs {
        let config = RunConfig::from_json(config.as_object().unwrap()).unwrap();
        let data = library.load(&config).unwrap();
        runs_agree(&config, &data, tolerances);
    }
}

/// Dropout's masks are one stream for all runs: `run_id` changes the order of the samples and nothing else.
#[test]
fn masks_do_not_depend_on_the_run() {
    let library = Library::new("data", true, fetch::Options::new(Vec::new(), true));
    let mut devices = vec![Device::Cpu];
    devices.extend(machines(1).iter().map(|machine| machine.device));
    for device in devices {
        let norm = |run_id: u64| {
            let config = json!({
                "dataset": "synthetic_linear", "dataset_kwargs": {"p": 5, "n_samples": 2}, "model": "mlp",
                "model_kwargs": {"output_size": 1, "hidden_sizes": [16], "dropout": true}, "loss_func": "squared",
                "score_func": "squared", "opt": {"name": "sgd", "lr": 0.1}, "batch_size": 2, "max_epoch": 1,
                "run_id": run_id,
            });
            let config = RunConfig::from_json(config.as_object().unwrap()).unwrap();
            let target = Target {
                device,
                precision: Some(Precision::Fp32),
            };
            let data = library.load(&config).unwrap();
            let done = run(&config, &data, target, None, &()).unwrap().unwrap();
            done.history[0].model_norm.to_bits()
        };
        // Two samples have two orders.
        let norms: HashSet<u32> = (0..8).map(norm).collect();
        assert_eq!(norms.len(), 2, "{device:?}");
    }
}
