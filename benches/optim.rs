//! The update of every optimizer on a million parameters, and that of Muon on the matrices of two networks.
//!
//! `cargo bench --bench optim`; RAYON_NUM_THREADS limits the threads. The throughput counts the
//! bytes of the vectors that an update must touch: w read and written, g read, state read and written.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use serde_json::json;
use stepback_native::device::{Device, Machine, Target};
use stepback_native::graph::Params;
use stepback_native::optim::{Optimizer, Stepper, rows};
use stepback_native::random::SEED;
use stepback_native::random::torch::Generator;

const N: usize = 1_000_000;

fn updates(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("update");
    let g: Vec<f32> = (0..N).map(|i| 1e-3 * (i as f32).sin()).collect();
    for row in rows() {
        let opt = json!({"name": row.entry.name, "weight_decay": 1e-4});
        let opt = opt.as_object().expect("an object");
        let (optimizer, whole) = (
            Optimizer::new(opt, &[]).expect("a known name"),
            [Params::matrix(N)],
        );
        let vectors = 3 + 2 * optimizer.vectors(&whole);
        let mut stepper = Stepper::new(opt, N, Target::CPU).expect("memory");
        let mut w: Vec<f32> = (0..N).map(|i| (i as f32).cos()).collect();
        stepper
            .step(1e-3, 1.0, &mut w, &g)
            .expect("the CPU does not fail");
        let (mut machine, step) = stepper.into_parts();
        group.throughput(Throughput::BytesDecimal(
            (vectors * N * size_of::<f32>()) as u64,
        ));
        group.bench_function(BenchmarkId::from_parameter(row.entry.name), |bencher| {
            bencher.iter(|| machine.run(step));
        });
    }
}

/// Shapes, and how many matrices have each.
type Matrices = &'static [([usize; 2], usize)];

/// The matrices between two layers. Also in peers/muon.py.
const MATRICES: [(&str, Matrices); 2] = [
    (
        "resnet20",
        &[
            ([16, 27], 1),
            ([16, 144], 6),
            ([32, 144], 1),
            ([32, 288], 5),
            ([64, 288], 1),
            ([64, 576], 5),
        ],
    ),
    ("vit", &[([1536, 512], 6), ([512, 512], 18)]),
];

fn muon(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("muon");
    group.sample_size(10);
    for (network, shapes) in MATRICES {
        let mut params = Params::new(Generator::new(SEED));
        for (shape, count) in shapes {
            for _ in 0..*count {
                params.uniform("w", shape, 1.0);
            }
        }
        let opt = json!({"name": "muon", "lr": 0.02});
        let opt = opt.as_object().expect("an object");
        let optimizer = Optimizer::new(opt, &[]).expect("a known name");
        let machine = Machine::open(Device::Cpu).expect("a CPU");
        let stepper = Stepper::on(machine, optimizer, &params.tensors, Target::CPU);
        let mut stepper = stepper.expect("memory");
        let g = params.values.clone();
        stepper
            .step(0.02, 1.0, &mut params.values, &g)
            .expect("the CPU does not fail");
        let (mut machine, step) = stepper.into_parts();
        group.bench_function(network, |bencher| bencher.iter(|| machine.run(step)));
    }
}

criterion_group!(benches, updates, muon);
criterion_main!(benches);
