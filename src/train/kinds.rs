//! Methods of every kind that the contract of [`Method`] has room for, on the CPU and by kernels: what wraps others
//! (a second gradient, other weights in evaluation), numbers of each tensor, products of matrices, five vectors.

use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::network::Plans;
use super::resumed::write_wine;
use super::trainer::Trainer;
use crate::config::RunConfig;
use crate::data::{Library, Loader, Part, fetch};
use crate::device::gpu::elementwise;
use crate::device::gpu::kernels::Step;
use crate::device::product::{Epilogue, Product};
use crate::device::program::{floats, floats_mut, one};
use crate::device::{Device, Machine, Program, Target, View, test_kernels as kernels};
use crate::error::Result;
use crate::graph::{Layout, Mode, Params, Plan, Targets, Tensor};
use crate::nn::BatchNorm;
use crate::optim::schedule::Rate;
use crate::optim::{After, At, Memory, Method, Optimizer, Reports, StateVector, Update};
use crate::random::torch::Generator;

const LR: f32 = 1e-3;

/// Every tensor moves by its own norm.
struct ByNorm;

impl Method for ByNorm {
    type Coefficients = ();
    type Scalars = ();

    fn memory(&self, _: &[Tensor]) -> Memory {
        Memory {
            per_tensor: 1,
            ..Memory::default()
        }
    }

    fn coefficients(&mut self, _: At) {}

    fn step(&self, u: &Update<Self>, program: &mut Program) -> Result<()> {
        for (i, tensor) in u.tensors.iter().enumerate() {
            let (w, g) = (tensor.part(u.w), tensor.part(u.g));
            let norm = u.per_tensor.part(i, 1);
            let n = w.len as i64;
            if program.on_host() {
                program.host("norm", [w.into()], [norm.into()], |[w], [norm]| {
                    let squares = floats(w).iter().map(|w| f64::from(w * w));
                    floats_mut(norm)[0] = (squares.sum::<f64>() as f32).sqrt();
                });
                let reads = [g.into(), norm.into()];
                program.host("step_by_norm", reads, [w.into()], |[g, norm], [w]| {
                    let (w, norm) = (floats_mut(w).iter_mut(), floats(norm)[0]);
                    w.zip(floats(g)).for_each(|(w, g)| *w -= LR * norm * g);
                });
            } else {
                kernels::norm_of_tensor(program, 1, w, norm, n);
                kernels::step_by_norm(program, elementwise(w.len), g, norm, w, LR, n);
            }
        }
        Ok(())
    }
}

/// The sum of the last five gradients.
struct Five;

impl Method for Five {
    type Coefficients = ();
    type Scalars = ();

    fn memory(&self, _: &[Tensor]) -> Memory {
        Memory {
            vectors: StateVector::zeros(["a", "b", "c", "d", "e"]),
            ..Memory::default()
        }
    }

    fn coefficients(&mut self, _: At) {}

    fn host(&self, u: &Update<Self>, program: &mut Program) {
        let n = u.w.len;
        let reads = [u.now.into(), u.g.into()];
        let writes = [u.state.into(), u.w.into()];
        program.host(
            "step_by_five",
            reads,
            writes,
            move |[now, g], [vectors, w]| {
                let (vectors, place) = (floats_mut(vectors), one::<Step>(now).done as usize % 5);
                vectors[place * n..(place + 1) * n].copy_from_slice(floats(g));
                for (i, w) in floats_mut(w).iter_mut().enumerate() {
                    *w -= LR * vectors.iter().skip(i).step_by(n).sum::<f32>();
                }
            },
        );
    }

    fn kernels(&self, u: &Update<Self>, program: &mut Program) {
        let grid = elementwise(u.w.len);
        kernels::step_by_five(program, grid, u.now, u.g, u.state, u.w, LR, u.n());
    }
}

/// Matrices move by g g^T g, which is computed from the left and from the right.
struct Cubic;

impl Cubic {
    /// Of a tensor of two dimensions (r, c): g g^T, g^T g, both products and room for partial sums.
    fn work([r, c]: [usize; 2]) -> [usize; 5] {
        [r * r, c * c, r * c, r * c, Product::new(c, r, c).tn_work()]
    }
}

impl Method for Cubic {
    type Coefficients = ();
    type Scalars = ();

    fn memory(&self, of: &[Tensor]) -> Memory {
        let matrices = of.iter().filter_map(|t| t.shape[..].try_into().ok());
        let largest = matrices.map(|sides| Cubic::work(sides).iter().sum());
        Memory {
            workspace: largest.max().unwrap_or(0),
            ..Memory::default()
        }
    }

    fn coefficients(&mut self, _: At) {}

    fn step(&self, u: &Update<Self>, program: &mut Program) -> Result<()> {
        for tensor in u.tensors {
            let Ok(sides) = <[usize; 2]>::try_from(&tensor.shape[..]) else {
                continue;
            };
            let ([r, c], mut start) = (sides, 0);
            let [left, right, from_left, from_right, work] = Cubic::work(sides).map(|len| {
                start += len;
                u.work.part(start - len, len)
            });
            let (w, g) = (tensor.part(u.w), tensor.part(u.g));
            Product::new(r, c, r).nt(g, g, Epilogue::default(), left, program);
            Product::new(r, r, c).nn(left, g, from_left, program);
            Product::new(c, r, c).tn(g, g, [right, View::default()], work, program);
            Product::new(r, c, c).nn(g, right, from_right, program);
            if program.on_host() {
                let reads = [from_left.into(), from_right.into()];
                program.host("step_by_mean", reads, [w.into()], |reads, [w]| {
                    let [x, y] = reads.map(floats);
                    let means = x.iter().zip(y).map(|(x, y)| 0.5 * (x + y));
                    let w = floats_mut(w).iter_mut();
                    w.zip(means).for_each(|(w, mean)| *w -= LR * mean);
                });
            } else {
                let (grid, n) = (elementwise(w.len), w.len as i64);
                kernels::step_by_mean(program, grid, from_left, from_right, w, LR, n);
            }
        }
        Ok(())
    }
}

/// Losses of evaluation after every epoch, and the gradients' norms.
fn trained(optimizer: Optimizer, device: Device) -> Vec<f64> {
    let config = json!({
        "dataset": "synthetic_linear", "dataset_kwargs": {"p": 6, "n_samples": 60}, "model": "mlp",
        "model_kwargs": {"output_size": 1, "bias": true}, "loss_func": "squared", "score_func": "squared",
        "opt": {"name": "sgd"}, "batch_size": 10, "max_epoch": 3, "run_id": 0,
    });
    trained_on(config, Path::new("data"), optimizer, device)
}

/// The same of a run of six steps in an epoch.
fn trained_on(config: Value, data: &Path, optimizer: Optimizer, device: Device) -> Vec<f64> {
    let config = RunConfig::from_json(config.as_object().unwrap()).unwrap();
    let library = Library::new(data, true, fetch::Options::new(Vec::new(), true));
    let data = library.load(&config).unwrap();
    let plans = Plans::new(&config, &data, device, Mode::Train).unwrap();
    let mut trainer = Trainer::new(
        plans,
        optimizer,
        &data,
        Machine::open(device).unwrap(),
        None,
    )
    .unwrap();
    let mut loader = Loader::new(0, data.train.len(), config.batch_size);
    let mut told = Vec::new();
    for _ in 0..3 {
        let epoch = trainer
            .epoch(&[Rate::computed(0.1, 1.0); 6], loader.next_epoch())
            .unwrap();
        trainer.enter_evaluation(&()).unwrap().unwrap();
        let (loss, _) = trainer.evaluate(Part::Train, &()).unwrap().unwrap();
        trainer.leave_evaluation().unwrap();
        told.extend([loss, epoch.grad_norm.into(), epoch.model_norm.into()]);
    }
    told
}

/// SGD at the rate of the methods above, wrapped as the keys say.
fn wrapped(keys: serde_json::Value) -> Optimizer {
    let mut opt = json!({"name": "sgd", "lr": LR});
    let keys = keys.as_object().unwrap().clone();
    opt.as_object_mut().unwrap().extend(keys);
    Optimizer::new(opt.as_object().unwrap(), &[]).unwrap()
}

/// Notes the steps after which it is given a gradient for drawn labels.
struct Noted(Arc<Mutex<Vec<u64>>>);

impl Method for Noted {
    type Coefficients = ();
    type Scalars = ();

    fn memory(&self, _: &[Tensor]) -> Memory {
        Memory::default()
    }

    fn coefficients(&mut self, _: At) {}

    fn after(&self) -> Option<After> {
        Some(After {
            first: 4,
            every: 4,
            drawn: true,
        })
    }

    fn further(&self, u: &Update<Self>, program: &mut Program) {
        let noted = self.0.clone();
        program.host("note", [u.now.into()], [], move |[now], []| {
            noted.lock().unwrap().push(one::<Step>(now).done + 1);
        });
    }
}

/// After every fourth of six steps; on the emulator several steps are one program.
#[test]
fn labels_are_drawn_after_some_steps() {
    let folder = tempfile::tempdir().unwrap();
    write_wine(folder.path());
    let config = |interval: u64| {
        json!({
            "dataset": "wine", "dataset_kwargs": {"train_size": 0.72}, "model": "mlp",
            "model_kwargs": {"output_size": 3, "hidden_sizes": [8], "dropout": true}, "loss_func": "cross_entropy",
            "score_func": "cross_entropy_accuracy",
            "opt": {"name": "sophia-g", "lr": 0.01, "hessian_interval": interval, "rho": 1000}, "batch_size": 6,
            "max_epoch": 3, "run_id": 0,
        })
    };
    let steps = Arc::default();
    let noted = of(Noted(Arc::clone(&steps)));
    trained_on(config(4), folder.path(), noted, Device::Cpu);
    assert_eq!(*steps.lock().unwrap(), [4, 8, 12, 16]);

    let trained = |interval, device| {
        let config = config(interval);
        let optimizer = Optimizer::new(config["opt"].as_object().unwrap(), &[]).unwrap();
        trained_on(config, folder.path(), optimizer, device)
    };
    let cpu = trained(4, Device::Cpu);
    for (ours, theirs) in trained(4, Device::Emulator).iter().zip(&cpu) {
        assert!((ours / theirs - 1.0).abs() < 1e-5, "{ours} for {theirs}");
    }
    let (seldom, never) = (trained(16, Device::Cpu), trained(100, Device::Cpu));
    assert_eq!(seldom[..6], never[..6]);
    assert!(seldom[6] != never[6] && cpu[0] != never[0]);
}

fn of(method: impl Method) -> Optimizer {
    Optimizer::of(Box::new(method), Reports::NOTHING, 0.1)
}

/// The same numbers on both, which are returned.
fn agreed(method: impl Fn() -> Optimizer) -> Vec<f64> {
    let [cpu, emulator] = [Device::Cpu, Device::Emulator].map(|d| trained(method(), d));
    for (ours, theirs) in emulator.iter().zip(&cpu) {
        assert!(
            (ours / theirs - 1.0).abs() < 1e-5,
            "{emulator:?} for {cpu:?}"
        );
    }
    cpu
}

/// What wraps a method: SAM keeps the norm of the first gradient, clipping that of the whole one.
#[test]
fn wrappers() {
    let plain = agreed(|| wrapped(json!({})));
    for keys in [
        json!({"sam_rho": 0.5}),
        json!({"sam_rho": 0.5, "sam_adaptive": true}),
        json!({"grad_clip_norm": 0.5}),
        json!({"grad_clip_value": 0.01}),
        json!({"sam_rho": 0.5, "grad_clip_norm": 0.5, "grad_clip_value": 0.1, "lookahead_k": 2, "ema_decay": 0.5}),
    ] {
        let other = agreed(|| wrapped(keys.clone()));
        let differ = |i: usize| (other[i] / plain[i] - 1.0).abs() > 1e-4;
        assert!(differ(0), "{keys} {other:?} {plain:?}");
    }
    // An average is evaluated; training is the same.
    let averaged = agreed(|| wrapped(json!({"ema_decay": 0.5})));
    for (averaged, plain) in averaged.chunks(3).zip(plain.chunks(3)) {
        assert_ne!(averaged[0], plain[0], "another loss");
        assert_eq!(averaged[1..], plain[1..]);
    }
}

#[test]
fn numbers_of_each_tensor() {
    assert_ne!(agreed(|| of(ByNorm)), agreed(|| wrapped(json!({}))));
}

#[test]
fn products_of_matrices() {
    assert_ne!(agreed(|| of(Cubic)), agreed(|| wrapped(json!({}))));
}

#[test]
fn five_vectors() {
    assert_ne!(agreed(|| of(Five)), agreed(|| wrapped(json!({}))));
}

/// Batch norm's running averages after forward and backward, and after as many with a second gradient.
#[test]
fn a_second_gradient_leaves_running_averages_alone() {
    for device in [Device::Cpu, Device::Emulator] {
        let mut params = Params::new(Generator::new(7));
        let x = params.normal("x", &[9, 5], 1.0);
        let norm = BatchNorm::new(&mut params, "norm", 5);
        let plan = Plan::record(&params, Mode::Train, device, |tape| {
            let y = norm.forward(tape.param(x));
            Targets {
                outputs: vec![y],
                backward: Some(y),
            }
        });
        let target = Target {
            device,
            precision: None,
        };
        let averages = |again: bool| {
            let mut machine = Machine::open(device).unwrap();
            let layout = Layout::alloc(&params, [&plan], &mut machine).unwrap();
            machine
                .upload(plan.seed, &vec![1.0; plan.seed.len])
                .unwrap();
            let now = machine.alloc_with("the step", &[Step::default()]).unwrap();
            let mut program = Program::new(target);
            plan.emit(now, &mut program).unwrap();
            if again {
                plan.emit_again(now, &mut program).unwrap();
            }
            let program = machine.prepare(program).unwrap();
            machine.run(program).unwrap();
            machine.download::<f32>(layout.buffers).unwrap()
        };
        let once = averages(false);
        assert_ne!(once, params.buffer_values);
        assert_eq!(once, averages(true));
    }
}
