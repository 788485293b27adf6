//! Reading a large output file, and figures and reports of large records.
//!
//! `cargo bench --bench results`. The output is the published one of `synthetic_small` 25 times over, 50 MB.

use std::fs;
use std::hint::black_box;
use std::path::PathBuf;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use stepback_native::results::plot::chart::Style;
use stepback_native::results::plot::{self, Selection};
use stepback_native::results::{Record, output, record, report};

fn path(relative: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(relative)
}

fn record(id: &str) -> Record {
    let records = record::read_csv(&path(&format!("records/{id}.csv")));
    records.expect("a published record").remove(0)
}

fn reading(criterion: &mut Criterion) {
    let published = path("records/reference/outputs/synthetic_small.json");
    let text = fs::read_to_string(published).expect("a published output");
    let runs = text.trim().trim_start_matches('[').trim_end_matches(']');
    let text = format!("[{}]", vec![runs; 25].join(","));
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("large.json");
    fs::write(&file, &text).expect("a temporary file");
    let mut group = criterion.benchmark_group("read");
    group.sample_size(10);
    group.throughput(Throughput::BytesDecimal(text.len() as u64));
    group.bench_function("output of 50 MB", |bencher| {
        bencher.iter(|| output::read(black_box(&file)).expect("a whole output"));
    });
    group.finish();
    criterion.bench_function("read/record of cifar100_resnet110", |bencher| {
        bencher.iter(|| record(black_box("cifar100_resnet110")));
    });
}

fn drawing(criterion: &mut Criterion) {
    let selection = Selection::default();
    let style = Style::default();
    let large = record("cifar100_resnet110");
    let mut group = criterion.benchmark_group("draw");
    group.bench_function("all figures of cifar100_resnet110 as SVG", |bencher| {
        bencher.iter(|| {
            for metric in ["train_loss", "val_score"] {
                let curves = plot::curves(&large, metric, &selection).expect("a metric");
                let stability = plot::stability(&large, metric, &selection).expect("a metric");
                black_box((curves.draw(&style).svg(), stability.draw(&style).svg()));
            }
        });
    });
    group.bench_function("one figure of cifar100_resnet110 as PNG", |bencher| {
        let chart = plot::curves(&large, "val_score", &selection).expect("a metric");
        bencher.iter(|| black_box(chart.draw(&style).png(300)));
    });
    let vit = [record("cifar10_vit")];
    group.bench_function("report of cifar10_vit", |bencher| {
        bencher.iter(|| report::html(black_box(&vit), "val_score", None).expect("a report"));
    });
}

criterion_group!(benches, reading, drawing);
criterion_main!(benches);
