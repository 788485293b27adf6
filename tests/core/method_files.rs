//! Methods that are files, on the CPU: those that are written in Rust, too, must follow these.

use std::path::Path;

use serde_json::{Map, Value, json};
use stepback_native::device::gpu::Precision;
use stepback_native::device::{Device, Machine, Target, emulator_usable};
use stepback_native::graph::Params;
use stepback_native::optim::{self, Optimizer, Stepper, formula};
use stepback_native::random::torch::Generator;

use crate::common::kernels::machines;

/// Thirty steps of a method on a gradient that turns, with losses that fall: the weights after each, and its step sizes.
fn path(opt: &Map<String, Value>, n: usize, threads: usize) -> (Vec<Vec<f32>>, Vec<f64>) {
    let run = || {
        let target = Target::CPU;
        assert_eq!(target.device, Device::Cpu);
        let mut stepper = Stepper::new(opt, n, target).unwrap();
        let mut w: Vec<f32> = (0..n).map(|i| (0.7 * i as f32).sin()).collect();
        let (mut weights, mut sizes) = (Vec::new(), Vec::new());
        for k in 0..30 {
            let wave = |(i, w): (usize, &f32)| 0.8 * w + 0.3 * (1.3 * k as f32 + i as f32).sin();
            let g: Vec<f32> = w.iter().enumerate().map(wave).collect();
            let loss = 0.4 * w.iter().map(|w| w * w).sum::<f32>() / n as f32 + 0.1;
            stepper.step(0.02, loss, &mut w, &g).unwrap();
            sizes.extend(stepper.report("step_size_list").unwrap());
            weights.push(w.clone());
        }
        (weights, sizes)
    };
    let pool = rayon_pool(threads);
    pool.install(run)
}

fn rayon_pool(threads: usize) -> rayon::ThreadPool {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    pool.build().unwrap()
}

fn file(name: &str) -> String {
    let name = format!("tests/optimizers/{name}.toml");
    formula::find(&name, Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
    name
}

#[test]
fn methods_in_rust_follow_their_files() {
    let variants = [
        json!({}),
        json!({"weight_decay": 0.1}),
        json!({"betas": [0.8, 0.95], "momentum": 0.7, "beta": 0.7, "weight_decay": 0.01}),
        json!({"bias_correction": true, "divide": false, "lb": -0.2, "dampening": 0.5, "weight_decay": 0.1}),
    ];
    for row in optim::ROWS.iter().filter(|row| has_file(row.entry.name)) {
        let name = row.entry.name;
        for variant in &variants {
            let mut opt = Map::from_iter([("lr".to_owned(), json!(0.02))]);
            // Nesterov's momentum goes without dampening.
            let wanted = |key: &str| {
                key == "weight_decay"
                    || row.entry.has(key) && (name, key) != ("sgd-nesterov", "dampening")
            };
            let given = variant.as_object().unwrap().clone().into_iter();
            opt.extend(given.filter(|(key, _)| wanted(key)));
            let named = |name: String| {
                let mut opt = opt.clone();
                opt.insert("name".into(), name.into());
                opt
            };
            let (rust, file) = (named(name.to_owned()), named(file(name)));
            let ((ours, sizes), (theirs, their_sizes)) = (path(&rust, 37, 2), path(&file, 37, 2));
            for (k, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
                for (x, y) in ours.iter().zip(theirs) {
                    let error = (x - y).abs() / x.abs().max(0.1);
                    assert!(error < 1e-5, "{file:?}, step {k}: {x} for {y}");
                }
            }
            assert_eq!(sizes.len(), their_sizes.len(), "{name}");
            // A step size is a difference of larger numbers.
            let mut scale = 0.0f64;
            for (x, y) in sizes.iter().zip(&their_sizes) {
                scale = scale.max(x.abs());
                assert!((x - y).abs() <= 1e-5 * scale, "{file:?}: {x} for {y}");
            }
        }
    }
}

fn has_file(name: &str) -> bool {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.join(format!("tests/optimizers/{name}.toml")).exists()
}

#[test]
fn muon_and_each_of_the_first_thirteen_have_a_file() {
    let with = optim::ROWS.iter().filter(|row| has_file(row.entry.name));
    assert_eq!(with.count(), 14);
}

/// Matrices wide, tall and of several tiles, a filter, and a vector, which AdamW has.
#[test]
fn muon_in_rust_follows_its_file_on_every_machine() {
    let shapes = [&[70, 33][..], &[40, 90], &[8, 3, 3, 3], &[3, 5], &[70]];
    let path = |opt: &Value, machine: Machine, target| {
        let mut params = Params::new(Generator::new(3));
        for (i, shape) in shapes.iter().enumerate() {
            params.uniform(i.to_string(), shape, 1.0);
        }
        let optimizer = Optimizer::new(opt.as_object().unwrap(), &[]).unwrap();
        params.arrange(&optimizer.order(&params.tensors).unwrap());
        let mut stepper = Stepper::on(machine, optimizer, &params.tensors, target).unwrap();
        let mut w = params.values;
        let mut g = vec![0.0; w.len()];
        let mut weights = Vec::new();
        for lr in [0.1, 0.1, 0.05] {
            params.generator.uniform(&mut g, -1.0, 1.0);
            stepper.step(lr, 1.0, &mut w, &g).unwrap();
            weights.extend_from_slice(&w);
        }
        weights
    };
    let cpu = || Machine::open(Target::CPU).unwrap();
    for (rust, keys) in [
        (json!({}), json!({})),
        (
            json!({"nesterov": false, "weight_decay": 0.1, "ns_steps": 4}),
            json!({}),
        ),
        (
            json!({"adjust_lr": "match_rms_adamw"}),
            json!({"match_rms_adamw": true}),
        ),
    ] {
        let mut muon = json!({"name": "muon", "lr": 0.1, "aux_lr": 0.01});
        let own = muon.as_object_mut().unwrap();
        own.extend(rust.as_object().unwrap().clone());
        let mut like = own.clone();
        like.insert("name".into(), file("muon").into());
        like.remove("adjust_lr");
        like.extend(keys.as_object().unwrap().clone());
        let like = Value::Object(like);
        let expected = path(&muon, cpu(), Target::CPU);
        let follows = |ours: Vec<f32>| {
            for (i, (x, y)) in ours.iter().zip(&expected).enumerate() {
                let error = (x - y).abs() / y.abs().max(0.1);
                assert!(error < 1e-5, "{muon}, {i}: {x} for {y}");
            }
        };
        follows(path(&like, cpu(), Target::CPU));
        for machine in machines(1) {
            let target = machine.target(Precision::Fp32);
            follows(path(&like, machine.open(), target));
        }
    }
}

#[test]
fn steps_of_an_iteration_are_counted() {
    let steps = |n: f64| {
        let opt = json!({"name": file("muon"), "lr": 0.1, "ns_steps": n});
        Stepper::new(opt.as_object().unwrap(), 12, Target::CPU)
    };
    assert!(steps(100.0).is_ok());
    for n in [0.0, 2.5, 101.0, -1.0] {
        let said = steps(n).err().unwrap().message;
        assert_eq!(
            said,
            "muon: the steps of orthogonalize are no whole number from 1 to 100"
        );
    }
}

/// Several pieces, sums over all of them, on any number of threads.
#[test]
fn files_give_the_same_bits_for_any_number_of_threads() {
    for name in ["momo", "lamb", "adan"] {
        let name = if name == "momo" {
            file(name)
        } else {
            name.to_owned()
        };
        let opt = json!({"name": name, "lr": 0.02, "weight_decay": 0.1});
        let bits = |threads| {
            let (weights, _) = path(opt.as_object().unwrap(), 100_003, threads);
            let last = weights.last().unwrap().iter();
            last.map(|w| w.to_bits()).collect::<Vec<_>>()
        };
        assert!(bits(1) == bits(3), "{name}");
    }
}

/// A formula for `w` of three vectors, and the same in Rust, each operator rounding to single.
type Form = (&'static str, fn(f32, f32, f32) -> f32);

/// What the CPU does in one loop, and beside it what looks alike.
const FORMS: [Form; 28] = [
    ("w + x/g", |w, g, x| w + x / g),
    ("w - x/g", |w, g, x| w - x / g),
    ("x/g - w", |w, g, x| x / g - w),
    ("x*g + w", |w, g, x| x * g + w),
    ("w - x*g", |w, g, x| w - x * g),
    ("x*g - w", |w, g, x| x * g - w),
    ("w*g - w/x", |w, g, x| w * g - w / x),
    ("0.7*w - 0.3*((1.1*x)/(0.9*g))", |w, g, x| {
        0.7 * w - 0.3 * ((1.1 * x) / (0.9 * g))
    }),
    ("0.3*((1.1*x)/(0.9*g)) - 0.7*w", |w, g, x| {
        0.3 * ((1.1 * x) / (0.9 * g)) - 0.7 * w
    }),
    ("0.3*((1.1*x)*(0.9*g)) - 0.7*w", |w, g, x| {
        0.3 * ((1.1 * x) * (0.9 * g)) - 0.7 * w
    }),
    ("0.7*w + 0.3*((1.1*x)*(0.9*g))", |w, g, x| {
        0.7 * w + 0.3 * ((1.1 * x) * (0.9 * g))
    }),
    ("(0.7*w)/(0.3*x) + 0*g", |w, _, x| (0.7 * w) / (0.3 * x)),
    ("w + sqrt(x)", |w, _, x| w + x.sqrt()),
    ("w*(sqrt(x) + 0.2)", |w, _, x| w * (x.sqrt() + 0.2)),
    ("w*(0.2 + sqrt(x))", |w, _, x| w * (0.2 + x.sqrt())),
    ("w/(sqrt(x)/0.3)", |w, _, x| w / (x.sqrt() / 0.3)),
    ("w/(sqrt(x)/0.3 + 0.2)", |w, _, x| {
        w / (x.sqrt() / 0.3 + 0.2)
    }),
    ("w/sqrt(x/0.7)", |w, _, x| w / (x / 0.7).sqrt()),
    ("w/(sqrt(x/0.7) + 0.2)", |w, _, x| {
        w / ((x / 0.7).sqrt() + 0.2)
    }),
    ("w/(sqrt(x/0.7)/0.3)", |w, _, x| {
        w / ((x / 0.7).sqrt() / 0.3)
    }),
    ("w/(sqrt(x/0.7)/0.3 + 0.2)", |w, _, x| {
        w / ((x / 0.7).sqrt() / 0.3 + 0.2)
    }),
    ("w/(sqrt(0.7*x)/(0.3*g) + 0.2)", |w, g, x| {
        w / ((0.7 * x).sqrt() / (0.3 * g) + 0.2)
    }),
    ("sqrt(x)*w + sqrt(x)/0.3", |w, _, x| {
        x.sqrt() * w + x.sqrt() / 0.3
    }),
    ("fma(0.7, w, g)", |w, g, _| 0.7f32.mul_add(w, g)),
    ("fma(0.3*w, 0.7, 1.1*g)", |w, g, _| {
        (0.3 * w).mul_add(0.7, 1.1 * g)
    }),
    ("fma(x, w, g)", |w, g, x| x.mul_add(w, g)),
    ("fma(0.7*x, g, 0.3*w)", |w, g, x| {
        (0.7 * x).mul_add(g, 0.3 * w)
    }),
    ("where(w > g, w/x, x*g) - w", |w, g, x| {
        (if w > g { w / x } else { x * g }) - w
    }),
];

#[test]
fn what_is_done_in_one_loop_rounds_as_if_it_were_not() {
    // Several blocks, the last one short.
    const N: usize = 2500;
    let folder = tempfile::tempdir().unwrap();
    let mut targets = vec![Target::CPU];
    targets.extend(emulator_usable().map(|()| Target {
        device: Device::Emulator,
        precision: None,
    }));
    for (i, (form, rust)) in FORMS.into_iter().enumerate() {
        let name = format!("form{i}.toml");
        // w0 is the one vector beside w and g that a file has for nothing.
        let code = form.replace('x', "w0");
        let file = format!("name = 'form{i}'\n[step]\ncode = 'w = {code}'\n");
        std::fs::write(folder.path().join(&name), file).unwrap();
        formula::find(&name, folder.path()).unwrap();
        let opt = json!({"name": name, "lr": 1});
        for target in &targets {
            let mut stepper = Stepper::new(opt.as_object().unwrap(), N, *target).unwrap();
            let x: Vec<f32> = (0..N).map(|i| 1.3 + (i as f32).sin()).collect();
            let mut w = x.clone();
            let mut expected = x.clone();
            for k in 0..2 {
                let g: Vec<f32> = (0..N)
                    .map(|i| 1.7 + (k as f32 + 0.3 * i as f32).cos())
                    .collect();
                stepper.step(1.0, 1.0, &mut w, &g).unwrap();
                for (i, w) in expected.iter_mut().enumerate() {
                    *w = rust(*w, g[i], x[i]);
                }
                let bits = |w: &[f32]| w.iter().map(|w| w.to_bits()).collect::<Vec<_>>();
                assert!(
                    bits(&w) == bits(&expected),
                    "{form}, step {k}, {:?}",
                    target.device
                );
            }
        }
    }
}
