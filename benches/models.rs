//! A training step of each model, forward and backward, on batches of its experiment's size.

use criterion::{Criterion, criterion_group, criterion_main};
use serde_json::{Value, json};
use stepback_native::device::Device;
use stepback_native::graph::{Clock, Memory, Mode, Params, Plan, Targets};
use stepback_native::models::{self, Data};
use stepback_native::nn::loss;
use stepback_native::random::SEED;
use stepback_native::random::torch::Generator;

struct Setting {
    model: &'static str,
    kwargs: Value,
    data: Data,
    loss: &'static str,
    batch: usize,
}

fn settings() -> Vec<Setting> {
    let data = |input: &[usize], target: &[usize], classes| Data {
        input: input.to_vec(),
        target: target.to_vec(),
        classes,
        index_bounds: (input == [2]).then_some([7, 7]),
    };
    vec![
        Setting {
            model: "linear",
            kwargs: json!({}),
            data: data(&[10], &[1], None),
            loss: "squared",
            batch: 20,
        },
        Setting {
            model: "mlp",
            kwargs: json!({"output_size": 10, "hidden_sizes": [100, 100], "bias": true}),
            data: data(&[784], &[1], Some(10)),
            loss: "cross_entropy",
            batch: 128,
        },
        Setting {
            model: "matrix_fac",
            kwargs: json!({"rank": 4}),
            data: data(&[6], &[10], None),
            loss: "squared",
            batch: 20,
        },
        Setting {
            model: "matrix_completion",
            kwargs: json!({"dim": [130, 720], "rank": 24}),
            data: data(&[2], &[1], None),
            loss: "squared",
            batch: 128,
        },
    ]
}

fn steps(c: &mut Criterion) {
    for Setting {
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
        let loss = loss::loss(loss).expect("a loss of the table");
        let plan = Plan::record(&params, Mode::Train, Device::Cpu, |tape| {
            let x = tape.input(&[&[batch], &data.input[..]].concat());
            let y = tape.input(&[&[batch], &data.target[..]].concat());
            let f = (loss.apply)(built.forward(x), y);
            Targets {
                outputs: vec![f],
                backward: Some(f),
            }
        });
        let mut memory = Memory::new(&params, &[&plan]);
        // Small integers: valid as features, classes and indices alike.
        for slot in &plan.inputs {
            let values = memory.get_mut(*slot).iter_mut().enumerate();
            values.for_each(|(i, v)| *v = (i % 7) as f32);
        }
        memory.get_mut(plan.seed).fill(1.0);
        c.bench_function(&format!("{model} step"), |b| {
            rayon::scope(|_| b.iter(|| plan.run(&mut memory, Clock::default())));
        });
    }
}

criterion_group!(benches, steps);
criterion_main!(benches);
