//! The update of every optimizer on a million parameters.
//!
//! `cargo bench --bench optim`; RAYON_NUM_THREADS limits the threads. The throughput counts the
//! bytes of the vectors that an update must touch: w read and written, g read, state read and written.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use serde_json::json;
use stepback_native::device::Target;
use stepback_native::graph::Params;
use stepback_native::optim::{Optimizer, ROWS, Stepper};

const N: usize = 1_000_000;

fn updates(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("update");
    let g: Vec<f32> = (0..N).map(|i| 1e-3 * (i as f32).sin()).collect();
    for row in ROWS {
        let opt = json!({"name": row.entry.name, "weight_decay": 1e-4});
        let opt = opt.as_object().expect("an object");
        let (optimizer, whole) = (
            Optimizer::new(opt, &[]).expect("a known name"),
            [Params::vector(N)],
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

criterion_group!(benches, updates);
criterion_main!(benches);
