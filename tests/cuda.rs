//! The kernels against the CPU bodies: every op of the table, under several schedules of the emulator, and on a GPU
//! where there is one (`REQUIRE_GPU=1` makes its absence a failure).

#[path = "common/cifar.rs"]
mod cifar;
mod common;

use cifar::write_cifar;
use common::Draws;
use serde_json::{Map, Value, json};
use stepback_native::config::RunConfig;
use stepback_native::data::augment::{Placement, Recipe};
use stepback_native::data::{Library, Pair, fetch};
use stepback_native::device::gpu::{Gpu, Precision, Queue, Step, kernels};
use stepback_native::device::{self, Device, Schedule, Slot, Target};
use stepback_native::graph::{Bwd, Fwd, Layout, Memory, Mode, Op, Params, Plan, Targets};
use stepback_native::nn::BatchNorm;
use stepback_native::nn::loss::{LOSSES, SCORES, Targets as Wanted};
use stepback_native::ops::{Example, ROWS, distance};
use stepback_native::optim::{Method, Moment, State, Update};
use stepback_native::random::torch::Generator;
use stepback_native::train::{Watch, run};

/// Output and gradient by the CPU bodies.
fn on_cpu(example: &Example) -> (Vec<f32>, Vec<f32>) {
    example.on_cpu(&example.params.values)
}

/// Output and gradient by the kernels, twice: the second run finds what the first left. None if an op has
/// no kernels.
fn on(example: &Example, gpu: &mut Gpu, precision: Precision) -> Option<[(Vec<f32>, Vec<f32>); 2]> {
    let loaded = example.load(gpu, Some(precision)).unwrap()?;
    assert!(loaded.launches > 0);
    Some([(); 2].map(|()| example.run(gpu, &loaded).unwrap()))
}

/// The ops that have kernels.
const PORTED: &[&str] = &[
    "add",
    "average_pool",
    "batch_norm",
    "conv2d",
    "cross_entropy",
    "dropout",
    "embedding",
    "linear",
    "logistic",
    "max_pool",
    "relu",
    "row_dot",
    "shortcut",
    "squared",
];

/// Runs every case of every op that is ported on machines that `open` makes.
fn compare_all(device: Device, precision: Precision, tolerance: f32, open: &dyn Fn() -> Gpu) {
    for (row, case) in ROWS
        .iter()
        .flat_map(|r| r.cases.iter().map(move |c| (r, c)))
    {
        let results = on(&case.example(21, device), &mut open(), precision);
        assert_eq!(
            results.is_some(),
            PORTED.contains(&row.name),
            "{}",
            row.name
        );
        let Some([first, second]) = results else {
            continue;
        };
        let (y, grad) = on_cpu(&case.example(21, Device::Cpu));
        let what = format!("{} ({})", row.name, case.about);
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

fn emulated(precision: Precision, tolerance: f32) {
    if device::emulator_usable().is_err() {
        eprintln!("skipped: no emulator in this build");
        return;
    }
    for schedule in Schedule::all() {
        let open = || Gpu::emulator(schedule).unwrap();
        compare_all(Device::Emulator, precision, tolerance, &open);
    }
}

#[test]
fn kernels_compute_what_the_cpu_does() {
    emulated(Precision::Fp32, 1e-5);
}

#[test]
fn tensor_core_kernels_compute_what_the_cpu_does() {
    emulated(Precision::Tf32, 2e-3);
}

#[test]
fn on_a_gpu_too() {
    if let Err(why) = device::usable_gpus() {
        let required = std::env::var_os("REQUIRE_GPU").is_some();
        assert!(!required, "REQUIRE_GPU is set, but {}", why.message);
        eprintln!("skipped: {}", why.message);
        return;
    }
    let open = || Gpu::open(Device::Cuda(0)).unwrap();
    compare_all(Device::Cuda(0), Precision::Fp32, 1e-5, &open);
    compare_all(Device::Cuda(0), Precision::Tf32, 2e-3, &open);
}

/// Every size of a product modulo the tiles, and more than one tile each way.
#[test]
fn linear_layers_of_awkward_sizes() {
    if device::emulator_usable().is_err() {
        return;
    }
    for [rows, inputs, outputs] in [[1, 1, 1], [33, 65, 31], [32, 32, 64], [70, 33, 97]] {
        let record = |device| {
            let mut params = Params::new(Generator::new(5));
            let x = params.normal("x", &[rows, inputs], 1.0);
            let w = params.normal("w", &[outputs, inputs], 1.0);
            let b = params.normal("b", &[outputs], 1.0);
            let plan = Plan::record(&params, Mode::Train, device, |tape| {
                let [x, w, b] = [x, w, b].map(|r| tape.param(r));
                let y = x.linear(w, Some(b));
                Targets {
                    outputs: vec![y],
                    backward: Some(y),
                }
            });
            let upstream = Draws::new(9).normal(rows * outputs);
            Example {
                params,
                plan,
                data: Vec::new(),
                upstream,
            }
        };
        let (y, grad) = on_cpu(&record(Device::Cpu));
        for (precision, tolerance) in [(Precision::Fp32, 1e-5), (Precision::Tf32, 2e-3)] {
            let mut gpu = Gpu::open(Device::Emulator).unwrap();
            let [ours, _] = on(&record(Device::Emulator), &mut gpu, precision).unwrap();
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

/// Pixels and channels: packs of four channels and of one, one block and several, more packs than a block has threads.
const NORMED: [[usize; 2]; 7] = [
    [1, 4],
    [9, 3],
    [70, 16],
    [900, 16],
    [129, 65],
    [5, 1028],
    [3, 300],
];

/// Batch norm with what can follow it, the running averages and evaluation: forward, and backward of training.
#[test]
fn batch_norm_and_what_follows_it() {
    if device::emulator_usable().is_err() {
        return;
    }
    for [pixels, channels] in NORMED {
        for (residual, relu, mode) in [
            (false, false, Mode::Train),
            (false, true, Mode::Train),
            (true, false, Mode::Train),
            (true, true, Mode::Train),
            (false, true, Mode::Eval),
            (true, true, Mode::Eval),
        ] {
            let record = |device| {
                let mut params = Params::new(Generator::new(7));
                let shape = [pixels, channels];
                let [x, r] = ["x", "r"].map(|name| params.normal(name, &shape, 1.0));
                let norm = BatchNorm::new(&mut params, "norm", channels);
                let mut draws = Draws::new(3);
                // Channels away from 0, by what leaves their variances five digits in f32; layers after some training.
                for (i, v) in params.values[..pixels * channels].iter_mut().enumerate() {
                    *v += 5.0 * (i % channels % 3) as f32;
                }
                let n = params.values.len();
                params.values[n - 2 * channels..].copy_from_slice(&draws.normal(2 * channels));
                for v in &mut params.buffer_values {
                    *v += draws.normal(1)[0].abs();
                }
                let plan = Plan::record(&params, mode, device, |tape| {
                    let mut y = norm.forward(tape.param(x));
                    if residual {
                        y = y.plus(tape.param(r));
                    }
                    if relu {
                        y = y.relu();
                    }
                    Targets {
                        outputs: vec![y],
                        backward: (mode == Mode::Train).then_some(y),
                    }
                });
                let upstream = Draws::new(9).normal(plan.seed.len);
                Example {
                    params,
                    plan,
                    data: Vec::new(),
                    upstream,
                }
            };
            let what = format!("{pixels}x{channels}, residual {residual}, relu {relu}, {mode:?}");
            let example = record(Device::Cpu);
            let mut memory = Memory::new(&example.params, &[&example.plan]);
            memory
                .get_mut(example.plan.seed)
                .copy_from_slice(&example.upstream);
            example.plan.run(&mut memory, Default::default());
            let theirs = record(Device::Emulator);
            for schedule in Schedule::all() {
                let mut gpu = Gpu::emulator(schedule).unwrap();
                let loaded = theirs.load(&mut gpu, None).unwrap().unwrap();
                let layout = Layout::new(&theirs.params);
                gpu.upload(layout.buffers, &theirs.params.buffer_values)
                    .unwrap();
                let (y, grad) = theirs.run(&mut gpu, &loaded).unwrap();
                let averages = gpu.download::<f32>(layout.buffers).unwrap();
                let y_error = distance(&y, memory.get(example.plan.outputs[0]));
                assert!(y_error <= 1e-5, "{what}: y is {y_error:.1e} off");
                if pixels > 1 {
                    let error = distance(&averages, memory.buffers());
                    assert!(error <= 1e-5, "{what}: averages are {error:.1e} off");
                }
                // What an op does not reach: the residual without one.
                let used =
                    |i: &usize| residual || !(pixels * channels..2 * pixels * channels).contains(i);
                let used = |g: &[f32]| -> Vec<f32> {
                    let used = (0..g.len()).filter(used);
                    used.map(|i| g[i]).collect()
                };
                if mode == Mode::Train {
                    let error = distance(&used(&grad), &used(memory.grads()));
                    assert!(error <= 1e-5, "{what}: gradient is {error:.1e} off");
                }
            }
        }
    }
}

/// Which of equals gets the gradient, and what NaN does.
#[test]
fn max_pool_of_equals_and_nan() {
    if device::emulator_usable().is_err() {
        return;
    }
    for channels in [3, 4] {
        let record = |device| {
            let mut params = Params::new(Generator::new(5));
            let x = params.normal("x", &[2, 7, 6, channels], 1.0);
            let mut draws = Draws::new(8);
            for v in &mut params.values {
                *v = [0.0, 1.0, 2.0, f32::NAN][draws.below(13) / 4];
            }
            let plan = Plan::record(&params, Mode::Train, device, |tape| {
                let y = tape.param(x).max_pool();
                Targets {
                    outputs: vec![y],
                    backward: Some(y),
                }
            });
            let upstream = Draws::new(9).normal(plan.seed.len);
            Example {
                params,
                plan,
                data: Vec::new(),
                upstream,
            }
        };
        let (y, grad) = on_cpu(&record(Device::Cpu));
        assert!(y.iter().any(|y| y.is_nan()) && y.contains(&1.0) && grad.contains(&0.0));
        let mut gpu = Gpu::open(Device::Emulator).unwrap();
        let [ours, _] = on(&record(Device::Emulator), &mut gpu, Precision::Fp32).unwrap();
        let zeroed = |v: &[f32]| -> Vec<f32> {
            let one = |x: &f32| if x.is_nan() { -7.0 } else { *x };
            v.iter().map(one).collect()
        };
        assert_eq!(zeroed(&ours.0), zeroed(&y));
        assert_eq!(ours.1, grad);
    }
}

/// Losses and scores of several batches at once, the last one smaller: on the CPU the bits of each batch by itself, on
/// the emulator the same numbers.
#[test]
fn losses_and_scores_of_several_batches() {
    const BATCH: usize = 5;
    for row in LOSSES.iter().chain(SCORES) {
        for (rows, columns) in [(23, 3), (5, 3), (300, 1)] {
            let mut draws = Draws::new(17);
            let x = draws.normal(rows * columns);
            let target: Vec<f32> = match row.targets {
                Wanted::Classes => (0..rows).map(|_| draws.below(columns) as f32).collect(),
                Wanted::Signs => draws
                    .normal(rows * columns)
                    .iter()
                    .map(|x| x.signum())
                    .collect(),
                Wanted::Numbers => draws.normal(rows * columns),
            };
            let width = target.len() / rows;
            let record = |n: usize, batch: usize, device| {
                let params = Params::new(Generator::new(1));
                let plan = Plan::record(&params, Mode::Eval, device, |tape| Targets {
                    outputs: vec![(row.apply)(
                        tape.input(&[n, columns]),
                        tape.input(&[n, width]),
                        batch,
                    )],
                    backward: None,
                });
                (params, plan)
            };
            let on_cpu = |x: &[f32], target: &[f32], batch: usize| {
                let (params, plan) = record(target.len() / width, batch, Device::Cpu);
                let mut memory = Memory::new(&params, &[&plan]);
                memory.get_mut(plan.inputs[0]).copy_from_slice(x);
                memory.get_mut(plan.inputs[1]).copy_from_slice(target);
                plan.run(&mut memory, Default::default());
                memory.get(plan.outputs[0]).to_vec()
            };
            let at_once = on_cpu(&x, &target, BATCH);
            let batches = x.chunks(BATCH * columns).zip(target.chunks(BATCH * width));
            let one_by_one: Vec<f32> = batches
                .flat_map(|(x, target)| on_cpu(x, target, target.len() / width))
                .collect();
            assert_eq!(at_once, one_by_one, "{}", row.name);
            if device::emulator_usable().is_err() {
                continue;
            }
            let (_, plan) = record(rows, BATCH, Device::Emulator);
            let mut gpu = Gpu::open(Device::Emulator).unwrap();
            gpu.alloc::<f32>("arena", plan.end()).unwrap();
            let now = gpu.alloc("step", 1).unwrap();
            let mut queue = Queue::default();
            plan.queue(now, &mut queue).unwrap();
            let program = gpu.prepare(queue).unwrap();
            gpu.upload(plan.inputs[0], &x).unwrap();
            gpu.upload(plan.inputs[1], &target).unwrap();
            gpu.run(program).unwrap();
            let error = distance(&gpu.download(plan.outputs[0]).unwrap(), &at_once);
            assert!(error <= 1e-6, "{}: {error:.1e} off", row.name);
        }
    }
}

/// A small CIFAR-10 and CIFAR-100.
fn images(train: usize, val: usize) -> (tempfile::TempDir, Library) {
    let dir = tempfile::tempdir().unwrap();
    write_cifar(dir.path(), train, val);
    let library = Library::new(dir.path(), true, fetch::Options::new(Vec::new(), true));
    (dir, library)
}

/// Every place that an image can have, and what both recipes draw: the very pixels of the CPU's loader.
#[test]
fn augmented_images_are_those_of_the_loader() {
    if device::emulator_usable().is_err() {
        return;
    }
    let (_dir, library) = images(10, 1);
    let config = image_config("resnet20", json!({}), 5, 1);
    let Pair { train, .. } = library.load(&config).unwrap();
    let all = (0..2 * 81).map(|i| Placement {
        flip: i / 81 == 1,
        top: (i / 9 % 9) as u8,
        left: (i % 9) as u8,
    });
    let mut places: Vec<Placement> = all.collect();
    let mut generator = Generator::new(5);
    for recipe in [Recipe::FlipThenCrop, Recipe::CropThenFlip] {
        places.extend((0..30).map(|_| recipe.draw(&mut generator)));
    }
    // Behind one visit that is not in this batch.
    let order: Vec<u32> = (0..=places.len()).map(|i| (i * 7 % 10) as u32).collect();
    let bits: Vec<u32> = std::iter::once(0)
        .chain(places.iter().map(|p| p.bits()))
        .collect();
    let n = places.len();
    let (mut x, mut y) = (vec![0.0; n * 3072], vec![0.0; n]);
    train.gather(&order[1..], &places, &mut x, &mut y);

    let (bytes, tables) = train.bytes().unwrap();
    for schedule in Schedule::all() {
        let mut gpu = Gpu::emulator(schedule).unwrap();
        let to = gpu.alloc::<f32>("x", n * 3072).unwrap();
        let classes = gpu.alloc::<f32>("y", n).unwrap();
        let data = gpu.alloc_with("data", bytes).unwrap();
        let table = gpu.alloc_with("table", tables.as_flattened()).unwrap();
        let targets = gpu.alloc_with("targets", &train.targets()).unwrap();
        let places = gpu.alloc_with("places", &bits).unwrap();
        let order = gpu.alloc_with("order", &order).unwrap();
        let now = Step {
            first: 1,
            ..Step::default()
        };
        let now = gpu.alloc_with("step", &[now]).unwrap();
        let (mut queue, grid) = (Queue::default(), (n, 3));
        kernels::gather_images(
            &mut queue, grid, data, table, places, targets, order, now, to, classes, 32, 1,
        );
        let program = gpu.prepare(queue).unwrap();
        gpu.run(program).unwrap();
        let ours = gpu.download(to).unwrap();
        let bits = |v: &[f32]| -> Vec<u32> { v.iter().map(|x| x.to_bits()).collect() };
        assert!(bits(&ours) == bits(&x), "pixels differ");
        assert_eq!(gpu.download(classes).unwrap(), y);
    }
}

fn image_config(model: &str, kwargs: Value, batch_size: usize, epochs: usize) -> RunConfig {
    let config = json!({
        "dataset": "cifar10", "model": model, "model_kwargs": kwargs, "loss_func": "cross_entropy",
        "score_func": "cross_entropy_accuracy", "opt": {"name": "sgd-m", "lr": 0.01}, "batch_size": batch_size,
        "max_epoch": epochs, "run_id": 0,
    });
    RunConfig::from_json(config.as_object().unwrap()).unwrap()
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
    let mut gpu = Gpu::open(Device::Emulator).unwrap();
    let now = gpu.alloc("step", 1).unwrap();
    let error = plan.queue(now, &mut Queue::default()).unwrap_err();
    assert!(error.message.contains("op unported has no CUDA kernel"));
    assert_eq!(error.kind.exit_code(), 2);
}

/// The optimizer objects of the golden paths: every method, with every key.
fn optimizers() -> Vec<Map<String, Value>> {
    // In the binary, which may be carried to a machine with a GPU.
    let text = include_str!("../records/goldens/optimizers.json");
    let file: Value = serde_json::from_str(text).unwrap();
    let cases = file["cases"].as_array().unwrap();
    cases
        .iter()
        .map(|c| c["opt"].as_object().unwrap().clone())
        .collect()
}

/// Ten steps of each method by its kernels and by its CPU body, which the suite `optimizers` of `verify` compares with PyTorch.
fn optimizers_agree(open: &dyn Fn() -> Gpu) {
    const STEPS: usize = 10;
    let n = 5000;
    for opt in optimizers() {
        let method = Method::new(&opt).unwrap();
        let mut state = State::new(&opt, n).unwrap();
        let mut draws = Draws::new(31);
        let mut w = draws.normal(n);
        let mut gpu = open();
        let slot = |i: usize, len| Slot { start: i * n, len };
        let (dw, dg, loss) = (slot(0, n), slot(1, n), slot(2, 1));
        gpu.alloc_with("arena", &vec![0f32; 2 * n + 1]).unwrap();
        let now = gpu.alloc("step", 1).unwrap();
        let update = Update::new(&mut gpu, &method, [dw, dg, loss], now, STEPS).unwrap();
        let mut queue = Queue::default();
        method.optimizer.queue(&update, &mut queue);
        let program = gpu.prepare(queue).unwrap();
        gpu.upload(dw, &w).unwrap();
        let mut sizes = Vec::new();
        for k in 0..STEPS {
            // The learning rate changes, as a schedule changes it.
            let lr = method.initial_lr / (1 + k / 4) as f64;
            let noise = draws.normal(n);
            let g: Vec<f32> = w.iter().zip(&noise).map(|(w, x)| w + 0.3 * x).collect();
            let f = 0.5 * w.iter().map(|w| w * w).sum::<f32>();
            let at = Moment {
                k: k as u64 + 1,
                lr,
                initial_lr: method.initial_lr,
            };
            let step = Step {
                slot: k as i64,
                c: method.optimizer.coefficients(at),
                ..Step::default()
            };
            gpu.upload(now, &[step]).unwrap();
            gpu.upload(dg, &g).unwrap();
            gpu.upload(loss, &[f]).unwrap();
            gpu.run(program).unwrap();
            state.step(lr, f, &mut w, &g);
            sizes.push(state.step_size());
            let error = distance(&gpu.download::<f32>(dw).unwrap(), &w);
            assert!(error <= 1e-5, "{opt:?}: step {k} is {error:.1e} off");
        }
        let theirs = gpu.download(update.step_sizes).unwrap();
        let close = |x: f64, y: f64| (x - y).abs() <= 1e-5 * y.abs().max(1e-3);
        for (k, (x, y)) in theirs.iter().zip(&sizes).enumerate() {
            assert!(close(*x, *y), "{opt:?}: step size {k} is {x}, not {y}");
        }
        let last = gpu.download(update.scalars).unwrap()[0];
        assert!(close(last.lower_bound, state.lower_bound()), "{opt:?}");
        assert!(
            close(last.h, state.h()),
            "{opt:?}: {} {}",
            last.h,
            state.h()
        );
    }
}

#[test]
fn optimizers_step_as_on_the_cpu() {
    if device::emulator_usable().is_err() {
        return;
    }
    for schedule in Schedule::all() {
        optimizers_agree(&|| Gpu::emulator(schedule).unwrap());
    }
    if device::usable_gpus().is_ok() {
        optimizers_agree(&|| Gpu::open(Device::Cuda(0)).unwrap());
    }
}

struct Unwatched;

impl Watch for Unwatched {}

/// What a run of an epoch tells.
fn numbers(e: &stepback_native::results::Epoch) -> Vec<f64> {
    let mut all = vec![e.train_loss, e.train_score, e.val_loss, e.val_score];
    all.extend([e.model_norm, e.grad_norm].map(f64::from));
    all.extend(e.step_size_list.iter().flatten());
    all.extend(e.fstar.iter().chain(&e.h));
    all
}

/// A run on the emulator, twice the same, tells within `tolerance` what the CPU tells.
fn runs_agree(config: &RunConfig, data: &Pair, tolerance: f64) {
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

/// Networks of augmented images: two steps and an evaluation in each epoch.
#[test]
fn image_networks_on_the_emulator_are_those_of_the_cpu() {
    if device::emulator_usable().is_err() {
        return;
    }
    let (_dir, library) = images(5, 1);
    // What evaluation draws is seen in the second epoch.
    for (model, kwargs, epochs) in [
        ("resnet20", json!({}), 2),
        ("vgg11", json!({"batch_norm": true}), 1),
    ] {
        let config = image_config(model, kwargs, 2, epochs);
        runs_agree(&config, &library.load(&config).unwrap(), 1e-4);
    }
}

/// Whole runs through loader, plans, kernels and updates.
#[test]
fn runs_on_the_emulator_are_those_of_the_cpu() {
    if device::emulator_usable().is_err() {
        return;
    }
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
    for config in configs {
        let config = RunConfig::from_json(config.as_object().unwrap()).unwrap();
        let data = library.load(&config).unwrap();
        runs_agree(&config, &data, 1e-4);
    }
}
