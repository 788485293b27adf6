//! Networks for images, small ones of every kind, on one batch.

use super::draws::{build, cifar};
use serde_json::{Value, json};
use stepback_native::device::gpu::kernels::Step;
use stepback_native::device::{Device, Target};
use stepback_native::graph::{Mode, Plan, Session, Targets};
use stepback_native::optim::Stepper;

/// Name, keyword arguments, and a learning rate of Adam; together they go through all that the large ones do.
pub fn small() -> Vec<(&'static str, Value, f64)> {
    let swint = |window: usize, relative: bool| {
        json!({"hidden_dim": 8, "layers": [2, 2, 2, 2], "heads": [1, 1, 2, 2], "head_dim": 8, "window_size": window,
               "relative_pos_embedding": relative})
    };
    let vit = json!({"patch_size": 8, "dim": 24, "depth": 2, "heads": 2, "mlp_dim": 32, "dim_head": 8, "dropout": 0.1,
        "emb_dropout": 0.1});
    let mean = json!({"patch_size": 16, "dim": 12, "depth": 1, "heads": 1, "mlp_dim": 20, "dim_head": 12, "pool": "mean"});
    vec![
        ("resnet20", json!({}), 3e-3),
        ("resnet20", json!({"batch_norm": false}), 1e-3),
        ("vgg11", json!({}), 3e-4),
        ("vgg11", json!({"batch_norm": true}), 1e-3),
        ("resnet18-kuangliu", json!({}), 1e-3),
        ("resnet50-kuangliu", json!({}), 1e-3),
        ("vit", vit, 3e-3),
        ("vit", mean, 3e-3),
        ("swint", swint(4, true), 3e-3),
        ("swint", swint(2, false), 3e-3),
        ("swint", swint(1, true), 3e-3),
    ]
}

/// A model with its training and evaluation plans on a batch of images.
pub struct Bench {
    /// The training plan and the one of evaluation.
    session: Session,
    pub w: Vec<f32>,
    batch: usize,
    classes: usize,
    /// Training steps so far, which dropout draws by.
    done: u64,
}

impl Bench {
    pub fn new(name: &str, kwargs: &Value, batch: usize) -> Bench {
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
        let plans = vec![record(Mode::Train), record(Mode::Eval)];
        Bench {
            w: params.values.clone(),
            session: Session::new(&params, plans, Target::CPU).unwrap(),
            batch,
            classes,
            done: 0,
        }
    }

    /// The loss of the images sin(k^2 / 1000) with classes 0, 3, 6, ...
    pub fn run(&mut self, training: bool) -> f32 {
        let x = (0..self.batch * 32 * 32 * 3).map(|k| (1e-3 * (k * k) as f64).sin() as f32);
        let y = (0..self.batch).map(|i| (3 * i % self.classes) as f32);
        let (x, y): (Vec<f32>, Vec<f32>) = (x.collect(), y.collect());
        let plan = usize::from(!training);
        let now = Step {
            batch: self.done,
            done: self.done,
            ..Step::default()
        };
        self.done += u64::from(training);
        self.session.run(plan, &[&x, &y], now).unwrap()[0][0]
    }

    /// Trains with Adam until `enough` says so of the losses so far, 100 steps at most; the losses.
    pub fn fit(&mut self, lr: f64, enough: impl Fn(&[f32]) -> bool) -> Vec<f32> {
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
