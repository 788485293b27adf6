//! Figures: what is drawn, in every format.

use std::collections::HashSet;

use crate::common::files;
use stepback_native::optim::{self, Look};
use stepback_native::results::plot::canvas::{Canvas, Shape};
use stepback_native::results::plot::{self, Selection};
use stepback_native::results::{Record, record as records};

const ALL: Selection = Selection {
    methods: &[],
    top: 1,
    rank_by: "val_score",
    log_y: None,
};

fn published(id: &str) -> Record {
    let records = records::read_csv(&files::path(&format!("records/{id}.csv")));
    records.unwrap().remove(0)
}

#[test]
fn curves_show_the_best_setting_of_every_method() {
    let record = published("mnist_mlp");
    let chart = plot::curves(&record, "val_score", &ALL).unwrap();
    let labels: Vec<&str> = chart.series.iter().map(|s| s.label.as_str()).collect();
    assert_eq!(
        labels,
        [
            "adabelief, lr=0.001",
            "adabound, lr=0.001",
            "adam, lr=0.001",
            "momo, lr=1",
            "momo-adam, lr=0.01",
            "sgd-m, lr=0.1"
        ]
    );
    let svg = chart.draw(5.0).svg();
    for part in [
        "Validation score",
        "Epoch",
        "#000000",
        ">momo, lr=1</text>",
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
    let record = records::from_outputs("synthetic_small", &outputs)
        .unwrap()
        .remove(0);
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
fn names_are_escaped() {
    let mut record = published("mnist_mlp");
    record.name = "<b>&\"".into();
    let svg = plot::curves(&record, "val_score", &ALL)
        .unwrap()
        .draw(5.0)
        .svg();
    assert!(svg.contains("&lt;b&gt;&amp;&quot;") && !svg.contains("<b>"));
}

/// A record called `name` with the training losses of methods over the epochs, and val_scores that are the same.
fn record(name: &str, losses: &[(&str, Vec<f64>)]) -> Record {
    let mut csv = "id,epoch,train_loss,val_score,train_loss_std,val_score_std,name,lr\n".to_owned();
    for (method, losses) in losses {
        for (epoch, loss) in losses.iter().enumerate() {
            let loss = if loss.is_nan() {
                String::new()
            } else {
                loss.to_string()
            };
            csv += &format!("name={method}:lr=0.1,{epoch},{loss},{loss},,,{method},0.1\n");
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(format!("{name}.csv"));
    std::fs::write(&path, csv).unwrap();
    records::read_csv(&path).unwrap().remove(0)
}

fn curves_of(losses: &[(&str, Vec<f64>)]) -> Canvas {
    let record = record("x", losses);
    plot::curves(&record, "train_loss", &ALL).unwrap().draw(5.0)
}

/// The labels of the axis of epochs (centred) or of the other one (flush right).
fn labels(canvas: &Canvas, wanted: f32) -> Vec<&str> {
    let texts = canvas.shapes.iter().filter_map(|shape| match shape {
        Shape::Text {
            text,
            align,
            upright: false,
            ..
        } if *align == wanted => Some(text.as_str()),
        _ => None,
    });
    texts
        .filter(|t| t.starts_with(|c: char| c.is_ascii_digit() || c == '≤'))
        .collect()
}

const CENTRED: f32 = 0.5;
const FLUSH_RIGHT: f32 = 1.0;

#[test]
fn epochs_are_whole_numbers() {
    for epochs in (1..60).chain([99, 100, 1000, 10_000]) {
        let canvas = curves_of(&[("adam", (1..=epochs).map(|e| 1.0 / f64::from(e)).collect())]);
        let labels = labels(&canvas, CENTRED);
        assert!(
            labels.iter().all(|l| l.parse::<u32>().is_ok()),
            "{epochs}: {labels:?}"
        );
        let fewest = epochs.min(3) as usize;
        assert!((fewest..=9).contains(&labels.len()), "{epochs}: {labels:?}");
    }
}

#[test]
fn other_axes_have_three_labels_too() {
    for losses in [
        vec![0.31, 0.32, 0.39],
        vec![0.7],
        vec![1e9, 1.1e9],
        vec![1e-30, 1.0, 1e30],
        // Steps of 5 would leave two.
        vec![5.85, 16.65],
    ] {
        for log_y in [true, false] {
            let record = record("x", &[("adam", losses.clone())]);
            let selection = Selection {
                log_y: Some(log_y),
                ..ALL
            };
            let canvas = plot::curves(&record, "train_loss", &selection)
                .unwrap()
                .draw(5.0);
            let labels = labels(&canvas, FLUSH_RIGHT);
            let different: HashSet<&&str> = labels.iter().collect();
            assert!(
                (3..=10).contains(&different.len()),
                "{losses:?}: {labels:?}"
            );
            assert_eq!(different.len(), labels.len(), "{losses:?}: {labels:?}");
            assert!(
                labels.iter().all(|l| l.chars().count() < 12),
                "{losses:?}: {labels:?}"
            );
        }
    }
}

#[test]
fn every_method_has_a_marker_of_its_own() {
    let mut markers = HashSet::new();
    for row in optim::ROWS {
        let name = row.entry.name;
        assert!(
            markers.insert(format!("{:?}", row.look.marker)),
            "{name} shares its marker"
        );
        assert_eq!(plot::look(name), row.look);
        assert!(Look::COLOURS.contains(&row.look.colour), "{name}");
    }
    assert!(markers.insert(format!("{:?}", plot::look("another").marker)));
}

#[test]
fn settings_of_one_method_differ_by_their_dashes() {
    let record = published("mnist_mlp");
    let selection = Selection {
        top: 3,
        methods: &["momo".to_owned()],
        ..ALL
    };
    let chart = plot::curves(&record, "val_score", &selection).unwrap();
    let dashes: Vec<usize> = chart.series.iter().map(|s| s.dash).collect();
    assert_eq!(dashes, [0, 1, 2]);
    let lines = |dash: usize| {
        let mut one = chart.clone();
        one.series.truncate(1);
        one.series[0].dash = dash;
        let shapes = one.draw(5.0).shapes;
        shapes
            .iter()
            .filter(|s| matches!(s, Shape::Line { .. }))
            .count()
    };
    assert!(lines(0) < lines(1) && lines(1) < lines(2) && lines(2) < lines(3));
}

/// The curve's corners: the longest line that is drawn.
fn curve(canvas: &Canvas) -> Vec<(f32, f32)> {
    let lines = canvas.shapes.iter().filter_map(|shape| match shape {
        Shape::Line { points, .. } => Some(points),
        _ => None,
    });
    lines.max_by_key(|points| points.len()).unwrap().clone()
}

#[test]
fn a_logarithmic_axis_shows_zeros_at_its_edge() {
    let canvas = curves_of(&[("adam", vec![1.0, 0.1, 0.0, 0.01, 0.0])]);
    assert_eq!(labels(&canvas, FLUSH_RIGHT).last(), Some(&"0"));
    let line = curve(&canvas);
    assert_eq!(line.len(), 5, "zeros do not break the line");
    assert_eq!(line[2].1, line[4].1);
    assert!(line[..4].iter().all(|p| p.1 <= line[2].1), "{line:?}");
    assert!(
        line[2].1 - line[3].1 > 100.0,
        "apart from the smallest of the others"
    );
    // Only zeros; and values that no logarithm has.
    let canvas = curves_of(&[("adam", vec![0.0; 5])]);
    assert_eq!(labels(&canvas, FLUSH_RIGHT), ["0"]);
    assert_eq!(curve(&canvas).len(), 5);
    let canvas = curves_of(&[("adam", vec![1.0, -1.0, 0.5])]);
    assert_eq!(labels(&canvas, FLUSH_RIGHT).last(), Some(&"≤ 0"));
    // Where there are none, there is no such label.
    let canvas = curves_of(&[("adam", vec![1.0, 0.1])]);
    assert!(!labels(&canvas, FLUSH_RIGHT).contains(&"0"));
}

#[test]
fn a_figure_without_values_says_so() {
    let says = |losses: Vec<f64>| {
        let svg = curves_of(&[("adam", losses)]).svg();
        (
            svg.contains(">no finite value</text>"),
            svg.contains(">2</text>"),
        )
    };
    assert_eq!(says(vec![f64::NAN; 3]), (true, true), "and has its epochs");
    assert_eq!(says(vec![f64::NAN, 0.5, f64::NAN]), (false, true));
    assert_eq!(says(vec![0.5]), (false, false));
}

#[test]
fn characters_that_the_font_lacks_are_frames() {
    let chinese = record("实验", &[("adam", vec![1.0])]);
    let canvas = |record| plot::curves(record, "train_loss", &ALL).unwrap().draw(5.0);
    assert_eq!(String::from_iter(canvas(&chinese).lacking()), "实验");
    assert!(canvas(&chinese).svg().contains(">实验</text>"));
    let spaces = record("  ", &[("adam", vec![1.0])]);
    assert_ne!(
        canvas(&chinese).png(72.0),
        canvas(&spaces).png(72.0),
        "no blanks"
    );
    assert!(canvas(&spaces).lacking().is_empty());
}

#[test]
fn long_names_are_cut_to_the_figure() {
    let name = "x".repeat(200);
    let long = record(&name, &[(&name, vec![1.0])]);
    let canvas = plot::curves(&long, "train_loss", &ALL).unwrap().draw(3.0);
    let svg = canvas.svg();
    assert!(!svg.contains(&name));
    assert_eq!(
        svg.matches("xxx…</text>").count(),
        2,
        "the title and the legend"
    );
}

/// A colour as red, green and blue of linear light.
fn light(colour: u32) -> [f64; 3] {
    [16, 8, 0].map(|shift| {
        let c = f64::from(colour >> shift & 255) / 255.0;
        match c <= 0.04045 {
            true => c / 12.92,
            false => ((c + 0.055) / 1.055).powf(2.4),
        }
    })
}

fn times(matrix: [[f64; 3]; 3], x: [f64; 3]) -> [f64; 3] {
    matrix.map(|row| row.iter().zip(x).map(|(a, b)| a * b).sum())
}

/// Oklab: distances in it are about those that eyes see.
fn oklab(light: [f64; 3]) -> [f64; 3] {
    let cones = [
        [0.412_221_470_8, 0.536_332_536_3, 0.051_445_992_9],
        [0.211_903_498_2, 0.680_699_545_1, 0.107_396_956_6],
        [0.088_302_461_9, 0.281_718_837_6, 0.629_978_700_5],
    ];
    let lab = [
        [0.210_454_255_3, 0.793_617_785, -0.004_072_046_8],
        [1.977_998_495_1, -2.428_592_205, 0.450_593_709_9],
        [0.025_904_037_1, 0.782_771_766_2, -0.808_675_766],
    ];
    times(lab, times(cones, light).map(|x| x.max(0.0).cbrt()))
}

/// Matrices of Machado, Oliveira and Fernandes 2009 for whoever lacks one kind of cones.
#[test]
fn colours_stay_apart_for_colour_blind_eyes() {
    let eyes = [
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ],
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ],
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ],
    ];
    let distance = |a: u32, b: u32| {
        let apart = eyes.map(|eye| {
            let [a, b] = [a, b].map(|c| oklab(times(eye, light(c)).map(|x| x.clamp(0.0, 1.0))));
            a.iter()
                .zip(b)
                .map(|(a, b)| (a - b).powi(2))
                .sum::<f64>()
                .sqrt()
        });
        apart.into_iter().fold(f64::INFINITY, f64::min)
    };
    // What the test is for: two of the reference's colours are the same to some.
    assert!(distance(0x7fb285, 0x97bf88) < 0.05);
    for (i, &a) in Look::COLOURS.iter().enumerate() {
        for &b in &Look::COLOURS[..i] {
            assert!(
                distance(a, b) > 0.07,
                "{a:06x} and {b:06x}: {}",
                distance(a, b)
            );
        }
    }
}

#[test]
fn every_method_has_a_look_of_its_own() {
    let carried = optim::formula::rows().into_iter();
    let looks = optim::ROWS.iter().chain(carried).map(|row| row.look);
    let looks: Vec<Look> = looks.collect();
    for (i, look) in looks.iter().enumerate() {
        assert!(!looks[..i].contains(look), "{look:?}");
        let close = |other: &&Look| other.colour == look.colour && other.dash == look.dash;
        let alike = looks[..i.min(optim::ROWS.len())].iter().find(close);
        assert!(i >= optim::ROWS.len() || alike.is_none(), "{look:?}");
        assert!(look.dash < Look::DASHES);
    }
    let many: HashSet<String> = (0..Look::COUNT)
        .map(|n| format!("{:?}", Look::nth(n)))
        .collect();
    assert_eq!(many.len(), Look::COUNT);
}
