//! Figures: what is drawn, in every format.

use crate::common::files;
use stepback_native::results::Record;
use stepback_native::results::plot::{self, Selection};

const ALL: Selection = Selection {
    methods: &[],
    top: 1,
    rank_by: "val_score",
    log_y: None,
};

fn published(id: &str) -> Record {
    Record::read_csv(&files::path(&format!("records/{id}.csv"))).unwrap()
}

#[test]
fn curves_show_the_best_setting_of_every_method() {
    let record = published("mnist_mlp");
    let chart = plot::curves(&record, "val_score", &ALL).unwrap();
    let labels: Vec<&str> = chart.series.iter().map(|s| s.label.as_str()).collect();
    assert_eq!(
        labels,
        [
            "adabelief, lr 0.001",
            "adabound, lr 0.001",
            "adam, lr 0.001",
            "momo, lr 1",
            "momo-adam, lr 0.01",
            "sgd-m, lr 0.1"
        ]
    );
    let svg = chart.draw(5.0).svg();
    for part in [
        "Validation score",
        "Epoch",
        "#023047",
        ">momo, lr 1</text>",
        "width=\"360pt\"",
    ] {
        assert!(svg.contains(part), "no {part} in the figure");
    }
    let two = Selection {
        top: 2,
        methods: &["momo".to_owned()],
        ..ALL
    };
    assert_eq!(
        plot::curves(&record, "val_score", &two)
            .unwrap()
            .series
            .len(),
        2
    );
    let unknown = Selection {
        methods: &["momi".to_owned()],
        ..ALL
    };
    let error = plot::curves(&record, "val_score", &unknown).unwrap_err();
    assert!(
        error.message.contains("it has adabelief, adabound"),
        "{error}"
    );
}

#[test]
fn diverged_settings_are_drawn_as_crosses() {
    let record = published("mnist_mlp");
    let chart = plot::stability(&record, "train_loss", &ALL).unwrap();
    let sgd = chart
        .series
        .iter()
        .find(|s| s.label == "sgd-m (× diverged)")
        .unwrap();
    let rates: Vec<f64> = sgd.diverged.iter().map(|d| d[0]).collect();
    assert_eq!(rates, [10.0, 100.0]);
    assert_eq!(sgd.points.len(), 6, "every learning rate has its place");
    // An accuracy is finite then, and the setting is marked all the same.
    let chart = plot::stability(&record, "val_score", &ALL).unwrap();
    let sgd = chart
        .series
        .iter()
        .find(|s| s.label == "sgd-m (× diverged)")
        .unwrap();
    assert!(
        sgd.diverged.iter().all(|d| (d[1] - 0.098).abs() < 1e-3),
        "{:?}",
        sgd.diverged
    );
}

#[test]
fn steps_need_outputs_of_adaptive_methods() {
    let outputs = files::path("records/reference/outputs");
    let record = Record::from_outputs("synthetic_small", &outputs).unwrap();
    let chart = plot::steps(&record, &ALL).unwrap();
    let labels: Vec<&str> = chart.series.iter().map(|s| s.label.as_str()).collect();
    assert_eq!(
        labels,
        [
            "momo",
            "momo-adam",
            "momo-adam-star",
            "momo-star",
            "learning rate"
        ]
    );
    for p in chart.series[..4].iter().flat_map(|s| &s.points) {
        assert!(p[2] <= p[1] && p[1] <= p[3], "{p:?}");
    }
    let error = plot::steps(&published("mnist_mlp"), &ALL).unwrap_err();
    assert!(error.message.contains("no step sizes"), "{error}");
}

#[test]
fn every_format_is_written_and_repeatable() {
    let chart = plot::stability(&published("mnist_mlp"), "val_score", &ALL).unwrap();
    let (canvas, again) = (chart.draw(3.0), chart.draw(3.0));
    assert_eq!(canvas.svg(), again.svg());
    let png = canvas.png(300.0);
    assert_eq!(png, again.png(300.0));
    assert!(png.starts_with(b"\x89PNG\r\n\x1a\n"));
    // 3 inches at 300 dots.
    assert_eq!(png[16..20], 900u32.to_be_bytes());
    let pdf = canvas.pdf();
    assert!(
        pdf.starts_with(b"%PDF-") && pdf.len() < 100_000,
        "{} bytes",
        pdf.len()
    );
    assert!(
        pdf.windows(9)
            .any(|w| w == b"MediaBox[" || w == b"MediaBox ")
    );
}

#[test]
fn a_large_record_is_fast() {
    let start = std::time::Instant::now();
    let record = published("cifar100_resnet110");
    for metric in ["train_loss", "val_score"] {
        plot::curves(&record, metric, &ALL).unwrap().draw(5.0).svg();
        plot::stability(&record, metric, &ALL)
            .unwrap()
            .draw(5.0)
            .svg();
    }
    // 0.05 s; the bound leaves room for a busy machine.
    assert!(start.elapsed().as_secs_f64() < 0.5, "{:?}", start.elapsed());
}

#[test]
fn names_are_escaped() {
    let mut record = published("mnist_mlp");
    record.name = "<b>&\"".into();
    let svg = plot::curves(&record, "val_score", &ALL)
        .unwrap()
        .draw(5.0)
        .svg();
    assert!(svg.contains("&lt;b&gt;&amp;&quot;") && !svg.contains("<b>"));
}
