//! Averages of the weights as torch.optim.swa_utils has them, with running averages of their own, on the CPU and by
//! kernels.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;

use super::network::Plans;
use super::step_log::LogSteps;
use super::trainer::Trainer;
use crate::data::{Pair, Part, Split};
use crate::device::gpu::Precision;
use crate::device::{Device, Machine, Target};
use crate::graph::{Mode, Params, Plan, Sample, Tape, Targets, Tensor};
use crate::nn::{BatchNorm, Conv2d, Linear};
use crate::optim::Optimizer;
use crate::optim::schedule::Rate;
use crate::random::torch::Generator;

const IMAGES: usize = 20;
const BATCH: usize = 8;
const SIDE: usize = 6;

type Named = BTreeMap<String, Vec<f32>>;

#[derive(Deserialize)]
struct File {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    kind: String,
    decay: Option<f64>,
    start: u64,
    initial: Named,
    losses: Vec<f32>,
    weights: State,
    average_before_recalibration: State,
    average_after_recalibration: State,
}

#[derive(Deserialize)]
struct State {
    #[serde(default)]
    parameters: Named,
    buffers: Named,
    eval_loss: f64,
}

/// Two convolutions with batch norm, an average over the pixels, and a linear layer.
struct Net {
    layers: [(Conv2d, BatchNorm); 2],
    head: Linear,
}

impl Net {
    fn new(params: &mut Params) -> Net {
        let mut layer = |n: usize, channels, stride| {
            let conv = Conv2d::new(params, &n.to_string(), channels, 3, stride, false);
            (
                conv,
                BatchNorm::new(params, &(n + 1).to_string(), channels.1),
            )
        };
        Net {
            layers: [layer(0, (3, 4), 1), layer(3, (4, 5), 2)],
            head: Linear::new(params, "8", 5, 3, true),
        }
    }

    fn record(&self, params: &Params, mode: Mode, device: Device, images: usize) -> Plan {
        Plan::record(params, mode, device, |tape: &Tape| {
            let x = tape.input(&[images, SIDE, SIDE, 3]);
            let target = tape.input(&[images, 1]);
            let hidden = self
                .layers
                .iter()
                .fold(x, |x, (conv, norm)| norm.forward(conv.forward(x)).relu());
            let logits = self.head.forward(hidden.average_pool());
            let loss = logits.cross_entropy_by_batch(target, BATCH);
            match mode {
                Mode::Eval => Targets {
                    outputs: vec![loss, logits.class_accuracy(target, BATCH)],
                    backward: None,
                },
                _ => Targets {
                    outputs: vec![logits.cross_entropy(target)],
                    backward: Some(logits.cross_entropy(target)),
                },
            }
        })
    }
}

/// x[i] = sin(0.61 i) (1 + 0.1 n) in image n, all images flat and channel by channel; target (2 n + n^2) mod 3.
fn images() -> Split {
    const PIXELS: usize = SIDE * SIDE;
    let number =
        |i: usize| ((0.61 * i as f64).sin() * (1.0 + 0.1 * (i / (3 * PIXELS)) as f64)) as f32;
    let place = |i: usize| i / (3 * PIXELS) * 3 * PIXELS + i % 3 * PIXELS + i / 3 % PIXELS;
    let x = (0..IMAGES * 3 * PIXELS).map(|i| number(place(i)));
    let y = (0..IMAGES).map(|n| ((2 * n + n * n) % 3) as f32);
    let sample = Sample::Image {
        channels: 3,
        height: SIDE,
        width: SIDE,
    };
    Split::in_memory(x.collect(), y.collect(), sample, vec![1])
}

fn assert_close(tensors: &[Tensor], ours: &[f32], theirs: &Named, what: &str) {
    assert_eq!(tensors.len(), theirs.len());
    for tensor in tensors {
        for (ours, theirs) in tensor.of(ours).iter().zip(&theirs[&tensor.name]) {
            // Small numbers carry the rounding of the gradients that made them.
            let close = (ours - theirs).abs() <= 1e-5 * theirs.abs().max(0.1);
            assert!(close, "{what}: {} {ours} {theirs}", tensor.name);
        }
    }
}

fn follow(case: &Case, device: Device) {
    let mut params = Params::new(Generator::new(1));
    let net = Net::new(&mut params);
    for tensor in params.tensors.clone() {
        let at = tensor.range.start..tensor.range.start + tensor.range.len;
        params.values[at].copy_from_slice(&case.initial[&tensor.name]);
    }
    let record = |mode, images| net.record(&params, mode, device, images);
    let plans = Plans {
        train: record(Mode::Train, BATCH),
        rest: Some(record(Mode::Train, IMAGES % BATCH)),
        eval: vec![(IMAGES, record(Mode::Eval, IMAGES))],
        eval_size: IMAGES,
        batch_size: BATCH,
        accumulated: 1,
        drawn: None,
        params,
    };
    let (tensors, buffers) = (plans.params.tensors.clone(), plans.params.buffers.clone());
    let images = Arc::new(images());
    let data = Pair {
        train: images.clone(),
        val: images,
    };
    let average = match case.kind.as_str() {
        "ema" => {
            json!({"name": "sgd-m", "momentum": 0.9, "ema_decay": case.decay, "ema_start": case.start})
        }
        _ => json!({"name": "sgd-m", "momentum": 0.9, "swa_start": case.start}),
    };
    let optimizer = Optimizer::new(average.as_object().unwrap(), &[]).unwrap();
    let target = Target {
        device,
        precision: Some(Precision::Fp32),
    };
    let log = NonZeroUsize::new(1).map(LogSteps::from);
    let mut trainer =
        Trainer::new(plans, optimizer, &data, Machine::open(target).unwrap(), log).unwrap();
    let order: Vec<u32> = (0..IMAGES as u32).collect();
    let mut losses = Vec::new();
    for _ in 0..4 {
        let epoch = trainer.epoch(&[Rate::computed(0.2, 1.0); 2], &order);
        losses.extend(epoch.unwrap().logged.iter().map(|logged| logged.loss));
    }
    for (ours, theirs) in losses.iter().zip(&case.losses) {
        assert!((ours - theirs).abs() <= 1e-5 * theirs, "{losses:?}");
    }
    let trained = &case.weights;
    let [w, averages] = trainer.weights().unwrap();
    assert_close(&tensors, &w, &trained.parameters, "trained");
    assert_close(&buffers, &averages, &trained.buffers, "trained");

    trainer.enter_evaluation(&()).unwrap().unwrap();
    let [average, recalibrated] = trainer.weights().unwrap();
    let theirs = &case.average_before_recalibration.parameters;
    assert_close(&tensors, &average, theirs, "average");
    let theirs = &case.average_after_recalibration;
    assert_close(&buffers, &recalibrated, &theirs.buffers, "recalibrated");
    let (loss, _) = trainer.evaluate(Part::Train, &()).unwrap().unwrap();
    assert!((loss / theirs.eval_loss - 1.0).abs() < 1e-5, "{loss}");
    trainer.leave_evaluation().unwrap();
    assert_eq!(trainer.weights().unwrap(), [w, averages]);
}

#[test]
fn averages_follow_pytorch() {
    let text = include_str!("../../records/goldens/averages.json");
    let file: File = serde_json::from_str(text).unwrap();
    for case in &file.cases {
        for device in [Device::Cpu, Device::Emulator] {
            follow(case, device);
        }
    }
}
