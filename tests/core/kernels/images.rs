//! Kernels of image networks and of what is done with batches, on the emulator against the CPU.

use crate::common::cifar::write_cifar;
use crate::common::draws::Draws;
use crate::common::kernels::{ALL, Tolerances, machines, on, on_cpu, runs_agree};
use serde_json::{Value, json};
use stepback_native::config::RunConfig;
use stepback_native::data::augment::{Placement, Recipe};
use stepback_native::data::{Library, Pair, Request, fetch};
use stepback_native::device::gpu::Precision;
use stepback_native::device::gpu::kernels::{self, Step};
use stepback_native::device::{Device, Machine, Program, Target};
use stepback_native::graph::{Layout, Mode, Params, Plan, Session, Targets};
use stepback_native::nn::BatchNorm;
use stepback_native::nn::loss::{LOSSES, SCORES, Targets as Wanted};
use stepback_native::ops::{Example, distance};
use stepback_native::random::torch::Generator;

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
            let run = |example: &Example, mut machine: Machine, target: Target| {
                let loaded = example.load(&mut machine, target).unwrap();
                let (y, grad) = example.run(&mut machine, &loaded).unwrap();
                let layout = Layout::new(&example.params);
                (y, grad, machine.download::<f32>(layout.buffers).unwrap())
            };
            let cpu = Machine::open(Device::Cpu).unwrap();
            let expected = run(&example, cpu, Target::CPU);
            for machine in machines(ALL) {
                let theirs = record(machine.device);
                let target = machine.target(Precision::Fp32);
                let (y, grad, averages) = run(&theirs, machine.open(), target);
                let y_error = distance(&y, &expected.0);
                assert!(y_error <= 1e-5, "{what}: y is {y_error:.1e} off");
                if pixels > 1 {
                    let error = distance(&averages, &expected.2);
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
                    let error = distance(&used(&grad), &used(&expected.1));
                    assert!(error <= 1e-5, "{what}: gradient is {error:.1e} off");
                }
            }
        }
    }
}

/// Which of equals gets the gradient, and what NaN does.
#[test]
fn max_pool_of_equals_and_nan() {
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
        for machine in machines(1) {
            let [ours, _] = on(&record(machine.device), &machine, Precision::Fp32);
            let zeroed = |v: &[f32]| -> Vec<f32> {
                let one = |x: &f32| if x.is_nan() { -7.0 } else { *x };
                v.iter().map(one).collect()
            };
            assert_eq!(zeroed(&ours.0), zeroed(&y));
            assert_eq!(ours.1, grad);
        }
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
                Wanted::Classes | Wanted::Tokens => {
                    (0..rows).map(|_| draws.below(columns) as f32).collect()
                }
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
                let mut session = Session::new(&params, vec![plan], Target::CPU).unwrap();
                let outputs = session.run(0, &[x, target], Step::default()).unwrap();
                outputs.into_iter().next().unwrap()
            };
            let at_once = on_cpu(&x, &target, BATCH);
            let batches = x.chunks(BATCH * columns).zip(target.chunks(BATCH * width));
            let one_by_one: Vec<f32> = batches
                .flat_map(|(x, target)| on_cpu(x, target, target.len() / width))
                .collect();
            assert_eq!(at_once, one_by_one, "{}", row.name);
            for machine in machines(1) {
                let (params, plan) = record(rows, BATCH, machine.device);
                let precision = machine.target(Precision::Fp32);
                let session = Session::on(machine.open(), &params, vec![plan], precision);
                let outputs = session.unwrap().run(0, &[&x, &target], Step::default());
                let error = distance(&outputs.unwrap()[0], &at_once);
                assert!(error <= 1e-6, "{}: {error:.1e} off", row.name);
            }
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
    let (_dir, library) = images(10, 1);
    let config = image_config("resnet20", json!({}), 5, 1);
    let Pair { train, .. } = library.load(&config).unwrap();
    let all = (0..2 * 81).map(|i| Placement::new(i / 81 == 1, (i / 9 % 9) as u8, (i % 9) as u8));
    let mut places: Vec<Placement> = all.collect();
    let mut generator = Generator::new(5);
    for recipe in [Recipe::FlipThenCrop, Recipe::CropThenFlip] {
        places.extend((0..30).map(|_| recipe.draw(&mut generator)));
    }
    // Behind one visit that is not in this batch.
    let order: Vec<u32> = (0..=places.len()).map(|i| (i * 7 % 10) as u32).collect();
    let all = [&[Placement::new(false, 0, 0)], &places[..]].concat();
    let n = places.len();
    let (mut x, mut y) = (vec![0.0; n * 3072], vec![0.0; n]);
    train.gather(&order[1..], &places, &mut x, &mut y);

    let (bytes, tables) = train.bytes().unwrap();
    for machine in machines(ALL) {
        let mut gpu = machine.open();
        let to = gpu.alloc::<f32>("x", n * 3072).unwrap();
        let classes = gpu.alloc::<f32>("y", n).unwrap();
        let data = gpu.alloc_with("data", bytes).unwrap();
        let table = gpu.alloc_with("table", tables.as_flattened()).unwrap();
        let targets = gpu.alloc_with("targets", &train.targets()).unwrap();
        let places = gpu.alloc_with("places", &all).unwrap().cast();
        let order = gpu.alloc_with("order", &order).unwrap();
        let steps = gpu.alloc_with("steps", &[Step::default(); 2]).unwrap();
        let mut program = Program::new(machine.target(Precision::Fp32));
        let arguments = kernels::GatherImages {
            data,
            table,
            places,
            targets,
            order,
            steps,
            taken: gpu.alloc_with("taken", &[1]).unwrap(),
            again: 0,
            batch_size: 1,
            now: gpu.alloc("now", 1).unwrap(),
            seed: gpu.alloc("seed", 1).unwrap(),
            df: 0.5,
            counter: program.counters(1),
            x: to,
            y: classes,
            side: 32,
            count: 1,
        };
        kernels::gather_images(&mut program, (n, 3), arguments);
        let program = gpu.prepare(program).unwrap();
        gpu.run(program).unwrap();
        let ours = gpu.download(to).unwrap();
        let bits = |v: &[f32]| -> Vec<u32> { v.iter().map(|x| x.to_bits()).collect() };
        assert!(bits(&ours) == bits(&x), "pixels differ");
        assert_eq!(gpu.download(classes).unwrap(), y);
    }
}

/// Windows of several lengths, from below a block's part of a row to several of them: those of the loader.
#[test]
fn windows_of_tokens_are_those_of_the_loader() {
    let dir = tempfile::tempdir().unwrap();
    let text: String = (0..20_000u32)
        .map(|i| char::from(b' ' + (i * i / 7 % 90) as u8))
        .collect();
    std::fs::create_dir(dir.path().join("shakespeare")).unwrap();
    std::fs::write(dir.path().join("shakespeare/input.txt"), text).unwrap();
    let library = Library::new(dir.path(), true, fetch::Options::new(Vec::new(), true));
    for length in [1, 7, 256, 1500] {
        let request = Request {
            name: "shakespeare",
            kwargs: &serde_json::Map::new(),
            loss_func: "",
            run_id: 0,
            seq_len: Some(length),
        };
        let Pair { train, .. } = library.load(request).unwrap();
        // Behind one that is not in this batch; the last window is in it.
        let last = train.len() as u32 - 1;
        let order = [3, last, 0, 2, last, 1];
        let n = order.len() - 1;
        let (mut x, mut y) = (vec![0.0; n * length], vec![0.0; n * length]);
        train.gather(&order[1..], &[], &mut x, &mut y);
        for machine in machines(ALL) {
            let mut gpu = machine.open();
            let [inputs, targets] =
                ["x", "y"].map(|name| gpu.alloc::<f32>(name, n * length).unwrap());
            let tokens = gpu.alloc_with("tokens", train.tokens().unwrap()).unwrap();
            let order = gpu.alloc_with("order", &order).unwrap();
            let steps = gpu.alloc_with("steps", &[Step::default(); 2]).unwrap();
            let mut program = Program::new(machine.target(Precision::Fp32));
            let grid = (n, length.div_ceil(1024));
            let arguments = kernels::GatherTokens {
                tokens,
                order,
                steps,
                taken: gpu.alloc_with("taken", &[1]).unwrap(),
                again: 0,
                batch_size: 1,
                now: gpu.alloc("now", 1).unwrap(),
                seed: gpu.alloc("seed", 1).unwrap(),
                df: 1.0,
                counter: program.counters(1),
                x: inputs,
                y: targets,
                length: length as i32,
            };
            kernels::gather_tokens(&mut program, grid, arguments);
            let program = gpu.prepare(program).unwrap();
            gpu.run(program).unwrap();
            assert!(gpu.download(inputs).unwrap() == x, "windows of {length}");
            assert!(gpu.download(targets).unwrap() == y, "windows of {length}");
        }
    }
}

fn image_config(model: &str, kwargs: Value, batch_size: usize, epochs: usize) -> RunConfig {
    let config = json!({
        "dataset": "cifar10", "model": model, "model_kwargs": kwargs, "loss_func": "cross_entropy",
        "score_func": "cross_entropy_accuracy", "opt": {"name": "sgd-m", "lr": 1e-5}, "batch_size": batch_size,
        "max_epoch": epochs, "run_id": 0,
    });
    RunConfig::from_json(config.as_object().unwrap()).unwrap()
}

/// Networks of augmented images: two steps and an evaluation in each epoch.
///
/// Among a million inputs of ReLUs some are so near zero that rounding decides which side they fall on. A loss does not
/// feel it, a gradient does (by up to 4e-4 here), and steps carry it on into all that follows. So steps are small: they
/// change the losses by 3e-4, thirty times the tolerance, and what a gradient is off by leaves no trace.
#[test]
fn image_networks_by_kernels_are_those_of_the_cpu() {
    let (_dir, library) = images(5, 1);
    let tolerances = Tolerances {
        gradient: 1e-2,
        others: 1e-5,
    };
    // What evaluation draws is seen in the second epoch.
    for (model, kwargs, epochs) in [
        ("resnet20", json!({}), 2),
        ("vgg11", json!({"batch_norm": true}), 1),
    ] {
        let config = image_config(model, kwargs, 2, epochs);
        runs_agree(&config, &library.load(&config).unwrap(), tolerances);
    }
}
