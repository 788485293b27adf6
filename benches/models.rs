//! A training step (forward, backward, momentum SGD) of each model on a batch of its experiment's size, and
//! for the networks an evaluation batch (forward, loss, score).

use criterion::{Criterion, criterion_group, criterion_main};
use serde_json::{Value, json};
use stepback_native::device::gpu::kernels::Step;
use stepback_native::device::{Device, Target};
use stepback_native::graph::{Mode, Params, Plan, Sample, Session, Targets};
use stepback_native::models::{self, Data};
use stepback_native::nn::loss;
use stepback_native::optim::Stepper;
use stepback_native::random::SEED;
use stepback_native::random::torch::Generator;

struct Setting {
    /// Of the benchmark, where it is not the model's.
    name: Option<&'static str>,
    model: &'static str,
    kwargs: Value,
    data: Data,
    loss: &'static str,
    batch: usize,
}

fn settings() -> Vec<Setting> {
    let data = |input: &[usize], target: &[usize], classes| Data {
        sample: match input {
            [2] => Sample::IndexPair { bounds: [7, 7] },
            shape => Sample::of_shape(shape),
        },
        target: target.to_vec(),
        classes,
    };
    let network = |model, kwargs, classes| Setting {
        name: None,
        model,
        kwargs,
        data: data(&[3, 32, 32], &[1], Some(classes)),
        loss: "cross_entropy",
        batch: 128,
    };
    let llama = |name, batch| Setting {
        name: Some(name),
        model: "llama",
        kwargs: json!({"vocab_size": 92, "dim": 384, "expand": 4, "n_layers": 6, "n_heads": 6, "seq_len": 256}),
        data: Data {
            sample: Sample::Tokens { length: 256 },
            target: vec![256],
            classes: Some(92),
        },
        loss: "sequence_cross_entropy",
        batch,
    };
    vec![
        Setting {
            name: None,
            model: "linear",
            kwargs: json!({}),
            data: data(&[10], &[1], None),
            loss: "squared",
            batch: 20,
        },
        Setting {
            name: None,
            model: "mlp",
            kwargs: json!({"output_size": 10, "hidden_sizes": [100, 100], "bias": true}),
            data: data(&[784], &[1], Some(10)),
            loss: "cross_entropy",
            batch: 128,
        },
        Setting {
            name: None,
            model: "matrix_fac",
            kwargs: json!({"rank": 4}),
            data: data(&[6], &[10], None),
            loss: "squared",
            batch: 20,
        },
        Setting {
            name: None,
            model: "matrix_completion",
            kwargs: json!({"dim": [130, 720], "rank": 24}),
            data: data(&[2], &[1], None),
            loss: "squared",
            batch: 128,
        },
        network("resnet20", json!({}), 10),
        network("resnet110", json!({}), 100),
        network("vgg16", json!({"batch_norm": true}), 10),
        network("resnet18-kuangliu", json!({}), 1000),
        Setting {
            batch: 64,
            ..network(
                "vit",
                json!({"patch_size": 4, "dim": 512, "depth": 6, "heads": 8, "mlp_dim": 512, "dropout": 0.1,
                       "emb_dropout": 0.1}),
                10,
            )
        },
        llama("llama4", 4),
        llama("llama16", 16),
    ]
}

fn steps(c: &mut Criterion) {
    for Setting {
        name,
        model,
        kwargs,
        data,
        loss,
        batch,
    } in settings()
    {
        let mut params = Params::new(Generator::new(SEED));
        let kwargs = kwargs.as_object().expect("an object");
        let row = models::row(model).expect("a model of the table");
        let built = row.build(&mut params, &data, kwargs).expect("it fits");
        let title = name.unwrap_or(model);
        let score = loss::score(&format!("{loss}_accuracy"));
        let loss = loss::loss(loss).expect("a loss of the table");
        let sample = data.sample.shape_on_tape();
        let record = |mode| {
            Plan::record(&params, mode, Device::Cpu, |tape| {
                let x = tape.input(&[&[batch], &sample[..]].concat());
                let y = tape.input(&[&[batch], &data.target[..]].concat());
                let output = built.forward(x);
                let f = (loss.apply)(output, y, batch);
                match mode {
                    Mode::Eval => Targets {
                        outputs: score
                            .iter()
                            .map(|score| (score.apply)(output, y, batch))
                            .chain([f])
                            .collect(),
                        backward: None,
                    },
                    _ => Targets {
                        outputs: vec![f],
                        backward: Some(f),
                    },
                }
            })
        };
        let mut run = |plan: Plan, name: &str, train: bool| {
            // Small integers: valid as features, classes and indices alike.
            let integers = |n: usize| (0..n).map(|i| (i % 7) as f32).collect::<Vec<f32>>();
            let inputs: Vec<Vec<f32>> = plan.inputs.iter().map(|s| integers(s.len)).collect();
            let inputs: Vec<&[f32]> = inputs.iter().map(|x| &x[..]).collect();
            let session = Session::new(&params, vec![plan], Target::CPU);
            let mut session = session.expect("memory");
            session
                .run(0, &inputs, Step::default())
                .expect("the CPU does not fail");
            let opt = json!({"name": "sgd-m", "lr": 1e-3, "dampening": 0.9});
            let opt = opt.as_object().expect("an object");
            let n = params.values.len();
            let optimizer = Stepper::new(opt, n, Target::CPU).expect("an optimizer");
            let (mut machine, update) = optimizer.into_parts();
            let mut iterate = || {
                session.rerun(0).expect("the CPU does not fail");
                if train {
                    machine.run(update).expect("the CPU does not fail");
                }
            };
            let mut group = c.benchmark_group(title);
            group.sample_size(10);
            group.bench_function(name, |b| rayon::scope(|_| b.iter(&mut iterate)));
        };
        run(record(Mode::Train), "step", true);
        if let Sample::Image { .. } | Sample::Tokens { .. } = data.sample {
            run(record(Mode::Eval), "evaluation", false);
        }
    }
}

criterion_group!(benches, steps);
criterion_main!(benches);
