//! Products of awkward sizes, what has no kernels, whole steps and runs: by kernels and on the CPU.

use std::collections::HashSet;

use crate::common::draws::{Draws, build, cifar};
use crate::common::kernels::{ALL, Tolerances, machines, on, on_cpu, runs_agree};
use serde_json::{Value, json};
use stepback_native::config::RunConfig;
use stepback_native::data::{Library, fetch};
use stepback_native::device::gpu::Precision;
use stepback_native::device::gpu::kernels::{self, Step};
use stepback_native::device::{self, Device, Machine, Program, Target};
use stepback_native::graph::{
    Bwd, Fwd, Mode, Op, Param, Params, Plan, Sample, Session, Targets, Var,
};
use stepback_native::models;
use stepback_native::nn::loss::loss;
use stepback_native::ops::{Example, distance};
use stepback_native::random::torch::Generator;
use stepback_native::train::run;

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
    let made: Vec<Param> = (shapes.iter())
        .map(|shape| params.normal("x", shape, 1.0))
        .collect();
    let plan = Plan::record(&params, Mode::Train, device, |tape| {
        let operands: Vec<Var> = made.iter().map(|p| tape.param(*p)).collect();
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
    // Images, height, width, channels in and out, kernel, stride, padding; is there a bias?
    for ([n, h, w, i, o, k, stride, pad], biased) in [
        ([2, 9, 11, 17, 20, 3, 1, 1], true),
        ([3, 7, 6, 18, 7, 3, 2, 1], true),
        ([20, 2, 2, 40, 66, 3, 1, 1], true),
        ([3, 40, 35, 4, 16, 3, 1, 1], false),
        ([12, 32, 32, 4, 32, 3, 1, 1], true),
        ([12, 32, 32, 32, 4, 3, 1, 1], true),
        ([12, 32, 32, 3, 40, 3, 1, 0], true),
        ([12, 32, 32, 33, 2, 3, 1, 1], true),
        ([2, 5, 5, 17, 33, 1, 1, 0], true),
        ([2, 5, 5, 6, 8, 1, 2, 0], true),
        ([1, 15, 13, 3, 4, 7, 2, 3], true),
        // Many channels, of which blocks take more at a time.
        ([1, 4, 5, 130, 140, 3, 1, 1], true),
        ([1, 4, 5, 130, 260, 3, 1, 1], true),
        // On tensor cores both halves of backward in one launch.
        ([3, 7, 6, 20, 8, 3, 2, 1], false),
        ([12, 32, 32, 20, 2, 3, 1, 1], false),
        ([3, 16, 32, 520, 33, 3, 2, 1], true),
    ] {
        let record = |device| {
            let shapes: [&[usize]; 3] = [&[n, h, w, i], &[o, i, k, k], &[o]];
            example(device, &shapes[..2 + usize::from(biased)], |x| {
                x[0].conv2d(x[1], x.get(2).copied(), stride, pad)
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
                used.extend(program.calls().iter().map(|call| call.name().to_owned()));
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
    let all = kernels::KERNELS
        .iter()
        .filter(|k| k.file() == Some("conv2d"));
    let unused: Vec<&str> = all
        .map(|k| &*k.name)
        .filter(|k| !used.contains(*k))
        .collect();
    assert!(unused.is_empty(), "not tested: {unused:?}");
}

const EMULATOR: Target = Target {
    device: Device::Emulator,
    precision: None,
};

#[test]
fn attention_that_does_not_fit_is_refused() {
    for (shape, apply, says) in [
        (
            [1, 8000, 3],
            (|x| x.attention(1, None, 0.0)) as for<'t> fn(Var<'t>) -> Var<'t>,
            "attention among 8000 tokens",
        ),
        (
            [1, 2, 774],
            |x| x.causal_attention(1, None),
            "heads of 258 dimensions",
        ),
    ] {
        let mut params = Params::new(Generator::new(1));
        let x = params.constant("x", &shape, 0.0);
        let plan = Plan::record(&params, Mode::Train, Device::Emulator, |tape| {
            let y = apply(tape.param(x));
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
        assert!(error.message.contains(says), "{}", error.message);
        assert_eq!(error.kind.exit_code(), 2);
    }
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

/// Three training steps of transformers on a batch, kernel by kernel and on the CPU; the last one once more with all launches,
/// blocks and threads in another order.
#[test]
fn transformers_learn_as_on_the_cpu() {
    const BATCH: usize = 2;
    const LENGTH: usize = 12;
    let vit = json!({"patch_size": 8, "dim": 24, "depth": 2, "heads": 2, "mlp_dim": 32, "dim_head": 8, "dropout": 0.1,
        "emb_dropout": 0.1});
    let swint = json!({"hidden_dim": 8, "layers": [2, 2, 2, 2], "heads": [1, 1, 2, 2], "head_dim": 8,
        "window_size": 4, "relative_pos_embedding": true});
    let llama = json!({"vocab_size": 11, "dim": 16, "expand": 1, "n_layers": 2, "n_heads": 2, "seq_len": LENGTH});
    let images = Draws::new(1).normal(BATCH * 32 * 32 * 3);
    let codes: Vec<f32> = (0..=BATCH * LENGTH).map(|i| (i * i % 11) as f32).collect();
    let texts = models::Data {
        sample: Sample::Tokens { length: LENGTH },
        target: vec![LENGTH],
        classes: Some(11),
    };
    let of_images = (
        cifar(10),
        vec![BATCH, 32, 32, 3],
        [&images[..], &[3.0, 8.0]],
    );
    let of_texts = (
        texts,
        vec![BATCH, LENGTH],
        [&codes[1..], &codes[..BATCH * LENGTH]],
    );
    for (name, kwargs, (data, shape, inputs)) in [
        ("vit", vit, &of_images),
        ("swint", swint, &of_images),
        ("llama", llama, &of_texts),
    ] {
        let (params, model) = build(name, &kwargs, data).unwrap();
        let loss = loss(if name == "llama" {
            "sequence_cross_entropy"
        } else {
            "cross_entropy"
        });
        let open = |machine: Machine| {
            let device = machine.target().device;
            let plan = Plan::record(&params, Mode::Train, device, |tape| {
                let x = tape.input(shape);
                let target = tape.input(&[&[BATCH], &*data.target].concat());
                let loss = (loss.unwrap().apply)(model.forward(x), target, BATCH);
                Targets {
                    outputs: vec![loss],
                    backward: Some(loss),
                }
            });
            let target = Target {
                device,
                precision: Some(Precision::Fp32),
            };
            Session::on(machine, &params, vec![plan], target).unwrap()
        };
        for machine in machines(1) {
            let cpu = Machine::open(Device::Cpu).unwrap();
            let mut sides = [machine.open(), cpu].map(open);
            let mut shuffled = open(machine.shuffled().open());
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
                    losses[i] = side.run(0, inputs, now).unwrap()[0][0];
                    grads[i] = side.grads().unwrap();
                    if (i, step) == (0, 2) {
                        shuffled.set_values(&values[0]).unwrap();
                        let again = shuffled.run(0, inputs, now).unwrap();
                        assert_eq!(again[0][0], losses[0], "{name}");
                        assert!(shuffled.grads().unwrap() == grads[0], "{name}");
                    }
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
            let machine = Machine::open(target).unwrap();
            let done = run(&config, &data, machine, None, None, &())
                .unwrap()
                .unwrap();
            done.history[0].model_norm.to_bits()
        };
        // Two samples have two orders.
        let norms: HashSet<u32> = (0..8).map(norm).collect();
        assert_eq!(norms.len(), 2, "{device:?}");
    }
}
