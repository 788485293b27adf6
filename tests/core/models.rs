//! The networks for images: they learn, they have the right size, and threads do not matter.

use crate::common::draws::{build, cifar};
use serde_json::{Value, json};
use stepback_native::device::gpu::kernels::Step;
use stepback_native::device::{Device, Target};
use stepback_native::graph::{Mode, Plan, Role, Session, Targets, Tensor};
use stepback_native::models::Data;
use stepback_native::optim::Stepper;

/// A model with its training and evaluation plans on a batch of images.
struct Bench {
    /// The training plan and the one of evaluation.
    session: Session,
    w: Vec<f32>,
    batch: usize,
    classes: usize,
}

impl Bench {
    fn new(name: &str, kwargs: &Value, batch: usize) -> Bench {
        let classes = 10;
        let (params, model) = build(name, kwargs, &cifar(classes)).unwrap();
        let record = |mode| {
            Plan::record(&params, mode, Device::Cpu, |tape| {
                let logits = model.forward(tape.input(&[batch, 32, 32, 3]));
                let loss = logits.cross_entropy(tape.input(&[batch, 1]));
                Targets {
                    outputs: vec![loss, logits],
                    backward: (mode != Mode::Eval).then_some(loss),
                }
            })
        };
        let plans = vec![record(Mode::TrainWithoutDropout), record(Mode::Eval)];
        Bench {
            w: params.values.clone(),
            session: Session::new(&params, plans, Target::CPU).unwrap(),
            batch,
            classes,
        }
    }

    /// The loss of the images sin(k^2 / 1000) with classes 0, 3, 6, ...
    fn run(&mut self, training: bool) -> f32 {
        let x = (0..self.batch * 32 * 32 * 3).map(|k| (1e-3 * (k * k) as f64).sin() as f32);
        let y = (0..self.batch).map(|i| (3 * i % self.classes) as f32);
        let (x, y): (Vec<f32>, Vec<f32>) = (x.collect(), y.collect());
        let plan = usize::from(!training);
        let outputs = self.session.run(plan, &[&x, &y], Step::default());
        outputs.unwrap()[0][0]
    }

    /// Trains with Adam until `enough` says so of the losses so far, 100 steps at most; the losses.
    fn fit(&mut self, lr: f64, enough: impl Fn(&[f32]) -> bool) -> Vec<f32> {
        let opt = json!({"name": "adam", "lr": lr});
        let n = self.w.len();
        let mut optimizer = Stepper::new(opt.as_object().unwrap(), n, Target::CPU).unwrap();
        let mut losses = Vec::new();
        while losses.len() < 100 && !enough(&losses) {
            losses.push(self.run(true));
            let (loss, g) = (losses[losses.len() - 1], self.session.grads().unwrap());
            optimizer.step(lr, loss, &mut self.w, &g).unwrap();
            self.session.set_values(&self.w).unwrap();
        }
        losses
    }
}

/// Networks of every kind: keyword arguments, learning rate.
fn small() -> Vec<(&'static str, Value, f64)> {
    vec![
        ("resnet20", json!({}), 3e-3),
        ("resnet20", json!({"batch_norm": false}), 1e-3),
        ("vgg11", json!({}), 3e-4),
        ("vgg11", json!({"batch_norm": true}), 1e-3),
        ("resnet18-kuangliu", json!({}), 1e-3),
        ("resnet50-kuangliu", json!({}), 1e-3),
    ]
}

#[test]
fn sizes_that_no_machine_can_hold_are_refused() {
    let most = u64::MAX;
    for (name, kwargs) in [
        ("vit", json!({"dim": most})),
        ("vit", json!({"depth": 1u64 << 36})),
        ("vit", json!({"heads": 1u64 << 37, "dim_head": 1u64 << 37})),
        ("vit", json!({"mlp_dim": 1u64 << 62})),
        ("swint", json!({"hidden_dim": 1u64 << 40})),
        (
            "swint",
            json!({"head_dim": 1u64 << 37, "heads": [1, 1, 1, 1u64 << 37]}),
        ),
        ("swint", json!({"layers": [2, 2, 1u64 << 30, 2]})),
    ] {
        let refused = build(name, &kwargs, &cifar(10)).map(|_| ()).unwrap_err();
        assert!(refused.contains("too large"), "{name} {kwargs}: {refused}");
    }
}

#[test]
fn every_kind_learns_one_batch() {
    for (name, kwargs, lr) in small() {
        let mut bench = Bench::new(name, &kwargs, 2);
        let learned = |losses: &[f32]| losses.last().is_some_and(|last| *last < 0.1 * losses[0]);
        let losses = bench.fit(lr, learned);
        assert!(learned(&losses), "{name} {kwargs}: {losses:?}");
    }
}

/// The running averages follow the batch's, so that evaluation ends near training.
#[test]
fn evaluation_uses_what_training_averaged() {
    let mut bench = Bench::new("resnet20", &json!({}), 4);
    let before = bench.run(false);
    let train = bench.fit(0.0, |losses| losses.len() == 60)[59];
    let after = bench.run(false);
    assert!((before - train).abs() > 0.1, "{before} {train}");
    assert!((after - train).abs() < 1e-2 * train, "{after} {train}");
}

#[test]
fn threads_do_not_matter() {
    for (name, kwargs, lr) in small() {
        let results = [1, 2].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            pool.build().unwrap().install(|| {
                let mut bench = Bench::new(name, &kwargs, 2);
                let losses = bench.fit(lr, |losses| losses.len() == 2);
                (losses, bench.w.clone(), bench.run(false))
            })
        });
        assert!(results[0] == results[1], "{name} {kwargs}");
    }
}

#[test]
fn sizes() {
    let cases = [
        ("resnet20", json!({}), 10, 269_722),
        ("resnet20", json!({"batch_norm": false}), 10, 268_346),
        ("resnet32", json!({}), 10, 464_154),
        ("resnet44", json!({}), 10, 658_586),
        ("resnet56", json!({}), 10, 853_018),
        ("resnet110", json!({}), 100, 1_733_812),
        ("resnet1202", json!({}), 10, 19_421_274),
        ("vgg11", json!({}), 10, 9_750_922),
        ("vgg13", json!({}), 10, 9_935_434),
        ("vgg16", json!({"batch_norm": true}), 10, 15_253_578),
        ("vgg19", json!({}), 10, 20_554_826),
        ("resnet18-kuangliu", json!({}), 10, 11_173_962),
        ("resnet34-kuangliu", json!({}), 10, 21_282_122),
        ("resnet50-kuangliu", json!({}), 10, 23_520_842),
        ("resnet101-kuangliu", json!({}), 10, 42_512_970),
        ("resnet152-kuangliu", json!({}), 10, 58_156_618),
    ];
    for (name, kwargs, classes, size) in cases {
        let (params, _) = build(name, &kwargs, &cifar(classes)).unwrap();
        assert_eq!(params.values.len(), size, "{name}");
    }
}

/// Roles agree with PyTorch's names, and all outputs come from one head.
#[test]
fn parameters_know_their_roles() {
    let kinds = small().into_iter().map(|(name, kwargs, _)| (name, kwargs));
    let transformers = [("vit", json!({"depth": 2})), ("swint", json!({}))];
    for (name, kwargs) in kinds.chain(transformers) {
        let (params, _) = build(name, &kwargs, &cifar(7)).unwrap();
        let mut heads = Vec::new();
        for tensor in &params.tensors {
            let Tensor { name, shape, .. } = tensor;
            let expected = match tensor.role {
                Role::Hidden => name.ends_with(".weight") && shape.len() >= 2,
                Role::Bias => name.ends_with(".bias") && shape.len() == 1 || shape[0] == shape[1],
                Role::Norm => shape.len() == 1,
                Role::Embedding => ["embedding", "cls_token", "stage1.patch_partition"]
                    .iter()
                    .any(|word| name.contains(word)),
                Role::Head => {
                    heads.push(shape[0]);
                    shape.len() == 2
                }
            };
            assert!(expected, "{name} {shape:?}: {:?}", tensor.role);
        }
        assert_eq!(heads, [7], "{name}");
    }
}

#[test]
fn other_data_are_refused() {
    let shaped = |input: &[usize], classes| Data {
        input: input.to_vec(),
        classes,
        ..cifar(10)
    };
    for name in ["resnet20", "vgg16", "resnet18-kuangliu"] {
        for (data, why) in [
            (shaped(&[1, 28, 28], Some(10)), "1x28x28"),
            (shaped(&[784], Some(10)), "[784]"),
            (shaped(&[3, 32, 32], None), "labels"),
        ] {
            let error = build(name, &json!({}), &data).err().unwrap();
            assert!(error.contains(why), "{error}");
        }
    }
}
