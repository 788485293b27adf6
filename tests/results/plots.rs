//! Figures: what is drawn, in every format.

use std::collections::HashSet;

use crate::common::files;
use stepback_native::error::Error;
use stepback_native::optim::{self, Look};
use stepback_native::results::plot::canvas::{Align, Canvas, Shape};
use stepback_native::results::plot::chart::{Colours, Figure, Legend, Mark, Scale, Style, Theme};
use stepback_native::results::plot::font::text_width;
use stepback_native::results::plot::{self, Selection};
use stepback_native::results::profile::{Clock, Query, profiles};
use stepback_native::results::record::Cutoff;
use stepback_native::results::{Record, record as records};

fn all() -> Selection<'static> {
    Selection::default()
}

fn wide(width: f64) -> Style {
    Style {
        width,
        ..Style::default()
    }
}

fn published(id: &str) -> Record {
    let records = records::read_csv(&files::path(&format!("records/{id}.csv")));
    records.unwrap().remove(0)
}

/// Outputs of the reference, which hold runs.
fn outputs(id: &str) -> Record {
    let found = records::Found::outputs(id, &files::path("records/reference/outputs"));
    found.unwrap().records().unwrap().remove(0)
}

#[test]
fn curves_show_the_best_setting_of_every_method() {
    let record = published("mnist_mlp");
    let chart = plot::curves(&record, "val_score", &all()).unwrap();
    let labels: Vec<&str> = chart.panels[0]
        .series
        .iter()
        .map(|s| s.label.as_str())
        .collect();
    assert_eq!(
        labels,
        [
            "AdaBelief, lr = 0.001",
            "AdaBound, lr = 0.001",
            "Adam, lr = 0.001",
            "MoMo, lr = 1",
            "MoMo-Adam, lr = 0.01",
            "SGD-M, lr = 0.1"
        ]
    );
    let svg = chart.draw(&wide(5.0)).svg();
    for part in [
        ">MNIST, MLP</text>",
        ">Validation accuracy (%)</text>",
        ">mean ± std over the seeds</text>",
        ">Epoch</text>",
        "#000000",
        ">MoMo, lr = 1</text>",
        "width=\"360pt\"",
    ] {
        assert!(svg.contains(part), "no {part} in the figure");
    }
    let two = Selection {
        top: 2,
        methods: &["momo".to_owned()],
        ..all()
    };
    assert_eq!(
        plot::curves(&record, "val_score", &two).unwrap().panels[0]
            .series
            .len(),
        2
    );
    let unknown = Selection {
        methods: &["momi".to_owned()],
        ..all()
    };
    let error = plot::curves(&record, "val_score", &unknown).unwrap_err();
    assert!(
        error.message.contains("it has adabelief, adabound"),
        "{error}"
    );
}

/// Lines as thin as those that join crosses to their neighbours.
fn joints(canvas: &Canvas) -> Vec<Vec<(f32, f32)>> {
    let lines = canvas.shapes.iter().filter_map(|shape| match shape {
        Shape::Line { points, dash, .. } if *dash == [0.9, 1.8] => Some(points.clone()),
        _ => None,
    });
    lines.collect()
}

/// Where crosses are: the middles of lines that rise to the right.
fn crosses(canvas: &Canvas) -> Vec<(f32, f32)> {
    let lines = canvas.shapes.iter().filter_map(|shape| match shape {
        Shape::Line {
            points, dash: [], ..
        } => Some(points),
        _ => None,
    });
    let falling = lines.filter(|p| p.len() == 2 && p[0].0 < p[1].0 && p[0].1 > p[1].1);
    falling
        .map(|p| ((p[0].0 + p[1].0) / 2.0, (p[0].1 + p[1].1) / 2.0))
        .collect()
}

#[test]
fn what_diverged_has_a_cross_outside_the_scale() {
    let record = published("mnist_mlp");
    for (metric, on_top) in [("train_loss", true), ("val_score", false)] {
        let figure = plot::stability(&record, metric, &all()).unwrap();
        let chart = &figure.panels[0];
        let sgd = chart.series.iter().find(|s| s.label == "SGD-M").unwrap();
        assert_eq!(sgd.diverged, [10.0, 100.0], "{metric}");
        let finite = sgd.points.iter().filter(|p| p[1].is_finite());
        assert_eq!(finite.count(), 4, "an accuracy of guessing is no value");
        assert_eq!(chart.diverged_on_top, on_top);
        let canvas = figure.draw(&Style {
            legend: Legend::None,
            ..wide(5.0)
        });
        let crosses = crosses(&canvas);
        let diverged: usize = chart.series.iter().map(|s| s.diverged.len()).sum();
        assert_eq!(crosses.len(), diverged);
        let curves = canvas.shapes.iter().filter_map(|shape| match shape {
            Shape::Line { points, width, .. } if *width > 1.2 => Some(points),
            _ => None,
        });
        let heights: Vec<f32> = curves.flatten().map(|p| p.1).collect();
        for (_, y) in &crosses {
            let beyond = heights.iter().all(|h| if on_top { y < h } else { y > h });
            assert!(beyond, "{metric}: a cross at {y} among values");
        }
        // Each is joined to what is beside it.
        let joints = joints(&canvas);
        let touched = crosses.iter().all(|cross| {
            let near = |p: &(f32, f32)| (p.0 - cross.0).abs() < 0.1 && (p.1 - cross.1).abs() < 0.1;
            joints.iter().flatten().any(near)
        });
        assert!(touched && !joints.is_empty());
        assert!(canvas.svg().contains(">diverged</text>"));
    }
    // Curves end where their settings diverge.
    let losses = [
        ("adam", vec![1.0, 0.5, f64::NAN]),
        ("sgd", vec![1.0, 0.9, 0.8]),
    ];
    let figure = plot::curves(&self::record("x", &losses), "val_score", &all()).unwrap();
    let adam = &figure.panels[0].series[0];
    let finite = adam.points.iter().filter(|p| p[1].is_finite());
    assert_eq!((finite.count(), &adam.diverged[..]), (2, &[2.0][..]));
    assert_eq!(adam.label, "Adam, lr = 0.1 (diverged)");
}

#[test]
fn steps_need_outputs_of_adaptive_methods() {
    let record = outputs("synthetic_small");
    let chart = plot::steps(&record, &all()).unwrap();
    let labels: Vec<&str> = chart.panels[0]
        .series
        .iter()
        .map(|s| s.label.as_str())
        .collect();
    assert_eq!(
        labels,
        ["MoMo", "MoMo-Adam", "MoMo-Adam*", "MoMo*", "Learning rate"]
    );
    for p in chart.panels[0].series[..4].iter().flat_map(|s| &s.points) {
        assert!(p[2] <= p[1] && p[1] <= p[3], "{p:?}");
    }
    let error = plot::steps(&published("mnist_mlp"), &all()).unwrap_err();
    assert!(error.message.contains("no step sizes"), "{error}");
}

#[test]
fn every_format_is_written_and_repeatable() {
    let chart = plot::stability(&published("mnist_mlp"), "val_score", &all()).unwrap();
    let (canvas, again) = (chart.draw(&wide(3.0)), chart.draw(&wide(3.0)));
    assert_eq!(canvas.svg(), again.svg());
    let png = canvas.png(300);
    assert_eq!(png, again.png(300));
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
    let svg = plot::curves(&record, "val_score", &all())
        .unwrap()
        .draw(&wide(5.0))
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
    plot::curves(&record, "train_loss", &all())
        .unwrap()
        .draw(&wide(5.0))
}

/// The labels of the axis of epochs (centred) or of the other one (flush right).
fn labels(canvas: &Canvas, wanted: Align) -> Vec<&str> {
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

const CENTRED: Align = Align::Middle;
const FLUSH_RIGHT: Align = Align::End;

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
                ..all()
            };
            let canvas = plot::curves(&record, "train_loss", &selection)
                .unwrap()
                .draw(&wide(5.0));
            let labels = labels(&canvas, FLUSH_RIGHT);
            let different: HashSet<&&str> = labels.iter().collect();
            assert!(
                (3..=12).contains(&different.len()),
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
fn settings_of_one_method_differ_by_their_shade() {
    let record = published("mnist_mlp");
    let selection = Selection {
        top: 3,
        methods: &["momo".to_owned()],
        ..all()
    };
    let figure = plot::curves(&record, "val_score", &selection).unwrap();
    let nth: Vec<usize> = figure.panels[0].series.iter().map(|s| s.nth).collect();
    assert_eq!(nth, [0, 1, 2]);
    let canvas = figure.draw(&wide(5.0));
    let colours: HashSet<u32> = canvas
        .shapes
        .iter()
        .filter_map(|shape| match shape {
            Shape::Line { points, paint, .. } if points.len() > 5 => Some(paint.colour),
            _ => None,
        })
        .collect();
    assert_eq!(colours.len(), 3, "{colours:x?}");
}

/// The patterns of the long lines of a figure.
fn dashes(figure: &Figure) -> HashSet<String> {
    let canvas = figure.draw(&wide(5.0));
    let lines = canvas.shapes.iter().filter_map(|shape| match shape {
        Shape::Line { points, dash, .. } if points.len() > 5 => Some(format!("{dash:?}")),
        _ => None,
    });
    lines.collect()
}

#[test]
fn methods_differ_by_their_dashes_too() {
    let record = published("mnist_mlp");
    let figure = plot::curves(&record, "val_score", &all()).unwrap();
    assert_eq!(dashes(&figure).len(), 6);
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
        line[2].1 - line[3].1 > 5.0,
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
    let canvas = |record| {
        plot::curves(record, "train_loss", &all())
            .unwrap()
            .draw(&wide(5.0))
    };
    assert_eq!(String::from_iter(canvas(&chinese).lacking()), "实验");
    assert!(canvas(&chinese).svg().contains(">实验</text>"));
    let spaces = record("  ", &[("adam", vec![1.0])]);
    assert_ne!(
        canvas(&chinese).png(72),
        canvas(&spaces).png(72),
        "no blanks"
    );
    assert!(canvas(&spaces).lacking().is_empty());
}

#[test]
fn long_names_are_cut_to_the_figure() {
    let name = "x".repeat(200);
    let long = record(&name, &[(&name, vec![1.0])]);
    let canvas = plot::curves(&long, "train_loss", &all())
        .unwrap()
        .draw(&wide(3.0));
    let svg = canvas.svg();
    assert!(!svg.contains(&format!("{name}</text>")));
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

/// A record of 13 methods, some of which diverge, over these epochs.
fn crowd(name: &str, epochs: usize) -> Record {
    let methods: Vec<&str> = optim::ROWS
        .iter()
        .map(|row| row.entry.name)
        .take(13)
        .collect();
    let losses = methods.iter().enumerate().map(|(nth, method)| {
        let loss = |epoch: usize| match nth % 5 == 4 && epoch > 0 {
            true => f64::NAN,
            false => 1.0 / (1 + epoch + nth) as f64,
        };
        (*method, (0..epochs).map(loss).collect())
    });
    record(name, &losses.collect::<Vec<_>>())
}

/// The corners of everything that is drawn.
fn corners(canvas: &Canvas) -> Vec<(f32, f32)> {
    let of = |shape: &Shape| match shape {
        Shape::Line { points, .. } => points.clone(),
        Shape::Area { contours, .. } => contours.concat(),
        Shape::Text {
            text,
            size,
            at,
            align,
            upright,
            ..
        } => {
            let width = text_width(text, *size);
            let start = match align {
                Align::Start => 0.0,
                Align::Middle => -width / 2.0,
                Align::End => -width,
            };
            match upright {
                false => vec![
                    (at.0 + start, at.1 - 0.73 * size),
                    (at.0 + start + width, at.1),
                ],
                true => vec![
                    (at.0 - 0.73 * size, at.1 - start),
                    (at.0, at.1 - start - width),
                ],
            }
        }
    };
    canvas.shapes.iter().flat_map(of).collect()
}

#[test]
fn all_of_a_figure_is_on_its_canvas() {
    let long = "a title that is much too long for a column ".repeat(3);
    let figures = |record: &Record| {
        let curves = plot::curves(record, "train_loss", &all()).unwrap();
        let stability = plot::stability(record, "val_score", &all()).unwrap();
        vec![
            Figure::beside(vec![curves.clone(), stability.clone()]),
            curves,
            stability,
        ]
    };
    let mut figures = [crowd(&long, 2), crowd("实验", 50)]
        .iter()
        .flat_map(figures)
        .collect::<Vec<_>>();
    figures.extend(figures_of_steps());
    for figure in &figures {
        for legend in [Legend::Inside, Legend::Right, Legend::Below, Legend::None] {
            for (width, height) in [(2.0, None), (3.3, None), (5.0, Some(1.0)), (6.8, Some(6.0))] {
                let style = Style {
                    width,
                    height,
                    legend,
                    ..Style::default()
                };
                let canvas = figure.draw(&style);
                let outside = corners(&canvas).into_iter().find(|&(x, y)| {
                    !(0.0..=canvas.width).contains(&x) || !(0.0..=canvas.height).contains(&y)
                });
                assert_eq!(
                    outside, None,
                    "{legend:?}, {width} by {height:?}: {}",
                    figure.title
                );
                let wanted = height.map_or(canvas.height, |height| (72.0 * height) as f32);
                assert!(canvas.height >= wanted - 0.1);
            }
        }
    }
    // A height that is enough is kept.
    let style = Style {
        height: Some(6.0),
        ..wide(5.0)
    };
    assert!((figures[1].draw(&style).height - 432.0).abs() < 0.1);
}

#[test]
fn a_legend_inside_hides_no_more_than_it_must() {
    let figure = plot::curves(&published("cifar10_vit"), "val_score", &all()).unwrap();
    let at = |legend| {
        let canvas = figure.draw(&Style {
            legend,
            ..wide(5.0)
        });
        let label = canvas.shapes.iter().find_map(|shape| match shape {
            Shape::Text { text, at, .. } if text.starts_with("AdaBelief") => Some(*at),
            _ => None,
        });
        (label, canvas)
    };
    let (inside, canvas) = at(Legend::Inside);
    let (x, y) = inside.unwrap();
    // Accuracies rise: the lower right is free.
    assert!(
        x > canvas.width / 2.0 && y > canvas.height / 2.0,
        "{x}, {y}"
    );
    assert!(canvas.height < at(Legend::Below).1.height);
    assert!(at(Legend::Right).0.unwrap().0 > 0.6 * canvas.width);
    assert_eq!(at(Legend::None).0, None);
    // One beside the panel is not higher than it.
    let many = plot::stability(&crowd("x", 2), "train_loss", &all()).unwrap();
    let canvas = many.draw(&Style {
        legend: Legend::Right,
        ..wide(5.0)
    });
    let axis = canvas.shapes.iter().find_map(|shape| match shape {
        Shape::Text { text, at, .. } if text == "Learning rate" => Some(at.1),
        _ => None,
    });
    let lowest = canvas.shapes.iter().filter_map(|shape| match shape {
        Shape::Text {
            at,
            align: Align::Start,
            ..
        } => Some(at.1),
        _ => None,
    });
    assert!(lowest.fold(0.0, f32::max) < axis.unwrap());
    // Thirteen entries have no room in a column: they are below.
    let many = plot::curves(&crowd("x", 9), "train_loss", &all()).unwrap();
    let draw = |legend| {
        many.draw(&Style {
            legend,
            ..wide(2.5)
        })
    };
    assert_eq!(draw(Legend::Inside).svg(), draw(Legend::Below).svg());
}

#[test]
fn every_decade_has_a_label_where_there_is_room() {
    let losses = (0..9).map(|power| 10f64.powi(-power)).collect::<Vec<_>>();
    let canvas = curves_of(&[("adam", losses)]);
    let decades = [
        "10⁰", "10⁻¹", "10⁻²", "10⁻³", "10⁻⁴", "10⁻⁵", "10⁻⁶", "10⁻⁷", "10⁻⁸",
    ];
    let found = labels(&canvas, FLUSH_RIGHT);
    for decade in decades {
        assert!(found.contains(&decade), "no {decade}: {found:?}");
    }
    // Where not, every second or third one.
    let losses = (0..60).map(|power| 10f64.powi(-power)).collect::<Vec<_>>();
    let canvas = curves_of(&[("adam", losses)]);
    assert!((3..20).contains(&labels(&canvas, FLUSH_RIGHT).len()));
}

#[test]
fn accuracies_are_per_cent_from_where_most_of_them_are() {
    let record = published("cifar10_resnet20");
    let figure = plot::curves(&record, "val_score", &all()).unwrap();
    let axis = &figure.panels[0].y;
    assert_eq!(axis.title, "Validation accuracy (%)");
    let low = axis.limits[0].unwrap();
    assert!((60.0..80.0).contains(&low), "{low}");
    // What is below is cut off, not moved to the edge.
    let canvas = figure.draw(&wide(5.0));
    let lines = canvas.shapes.iter().filter_map(|shape| match shape {
        Shape::Line { points, width, .. } if *width > 1.2 => Some(points),
        _ => None,
    });
    for line in lines {
        let lowest = line.iter().map(|p| p.1).fold(0.0, f32::max);
        let there = line.iter().filter(|p| p.1 == lowest && p.1 > 200.0).count();
        assert!(there <= 2, "{there} points of a line at the edge");
    }
    let own = Selection {
        y_limits: [Some(0.0), Some(100.0)],
        ..all()
    };
    let figure = plot::curves(&record, "val_score", &own).unwrap();
    assert_eq!(figure.panels[0].y.limits, [Some(0.0), Some(100.0)]);
    assert_eq!(
        labels(&figure.draw(&wide(5.0)), FLUSH_RIGHT).first(),
        Some(&"0")
    );
    // A loss has no zero on a log axis.
    let wrong = Selection {
        y_limits: [Some(0.0), None],
        ..all()
    };
    let error = plot::curves(&record, "train_loss", &wrong).unwrap_err();
    assert!(error.message.contains("--logy false"), "{error}");
    // Values that are spread evenly are all shown.
    let even = self::record(
        "x",
        &[("adam", (0..20).map(|i| f64::from(i) / 20.0).collect())],
    );
    let figure = plot::curves(&even, "val_score", &all()).unwrap();
    assert_eq!(figure.panels[0].y.limits, [None, None]);
}

#[test]
fn bands_stay_where_values_can_be() {
    let mut record = published("mnist_mlp");
    let score = record.metric("val_score").unwrap();
    let loss = record.metric("train_loss").unwrap();
    for setting in &mut record.settings {
        setting.curves[score].std.fill(0.5);
        setting.curves[loss].std.fill(3.0);
    }
    let points = |figure: Figure| -> Vec<[f64; 4]> {
        let series = figure.panels.into_iter().flat_map(|p| p.series);
        series
            .flat_map(|s| s.points)
            .filter(|p| p[1].is_finite())
            .collect()
    };
    for p in points(plot::curves(&record, "val_score", &all()).unwrap()) {
        assert!(
            p[2] >= 0.0 && p[3] <= 100.0 && p[2] < p[1] && p[1] <= p[3],
            "{p:?}"
        );
    }
    // On a log axis as wide downwards as upwards.
    for p in points(plot::curves(&record, "train_loss", &all()).unwrap()) {
        assert!(
            p[2] > 0.0 && (p[1] / p[2] / (p[3] / p[1]) - 1.0).abs() < 1e-9,
            "{p:?}"
        );
    }
    let linear = Selection {
        log_y: Some(false),
        ..all()
    };
    for p in points(plot::curves(&record, "train_loss", &linear).unwrap()) {
        assert!(p[2] == 0.0 && p[3] == p[1] + 3.0, "{p:?}");
    }
    let twice = Selection {
        sigma: 2.0,
        log_y: Some(false),
        ..all()
    };
    let figure = plot::curves(&record, "train_loss", &twice).unwrap();
    assert_eq!(figure.caption, "mean ± 2 std over the seeds");
    assert!(points(figure).iter().all(|p| p[3] == p[1] + 6.0));
    let none = Selection {
        sigma: 0.0,
        ..all()
    };
    let figure = plot::curves(&record, "train_loss", &none).unwrap();
    assert_eq!(figure.caption, "mean over the seeds");
    assert!(
        points(figure)
            .iter()
            .all(|p| p[2].is_nan() && p[3].is_nan())
    );
}

#[test]
fn captions_say_how_many_seeds() {
    let caption = |record: &Record| plot::curves(record, "val_score", &all()).unwrap().caption;
    assert_eq!(
        caption(&outputs("synthetic_small")),
        "mean ± std (log axes: of the logarithm), n = 3"
    );
    assert_eq!(caption(&outputs("test")), "mean ± std, n = 2");
    assert_eq!(caption(&published("imagenet32_resnet18")), "one seed");
    let cut = Selection {
        cutoff: Some(Cutoff {
            from: 3,
            to: Some(5),
        }),
        ..all()
    };
    let record = published("mnist_mlp");
    let figure = plot::stability(&record, "val_score", &cut).unwrap();
    assert_eq!(figure.caption, "epochs 3 to 5: mean ± std over the seeds");
    let last = plot::stability(&record, "val_score", &all()).unwrap();
    assert_eq!(last.caption, "last epoch: mean ± std over the seeds");
    let first = |figure: &Figure| figure.panels[0].series[0].points[0][1];
    assert_ne!(first(&figure), first(&last));
}

/// A record of one method with two keys beside the learning rate.
fn grid() -> Record {
    let mut csv = "id,epoch,train_loss,val_score,train_loss_std,val_score_std,name,lr,weight_decay,momentum\n".to_owned();
    for lr in ["0.001", "0.01", "0.1"] {
        for decay in ["0", "0.0001", "0.01"] {
            for momentum in ["0.5", "0.9"] {
                let score = 0.5
                    + 0.1 * (lr.len() + decay.len()) as f64 / 10.0
                    + if momentum == "0.9" { 0.1 } else { 0.0 };
                csv += &format!(
                    "name=sgd-m:lr={lr}:weight_decay={decay}:momentum={momentum},0,1.0,{score},0.1,0.01,\
                     sgd-m,{lr},{decay},{momentum}\n"
                );
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("grid.csv");
    std::fs::write(&path, csv).unwrap();
    records::read_csv(&path).unwrap().remove(0)
}

#[test]
fn any_key_is_an_axis_and_others_are_lines_or_ignored() {
    let record = grid();
    let stability =
        |selection: &Selection| plot::stability(&record, "val_score", selection).unwrap();
    let labels = |figure: &Figure| -> Vec<String> {
        let mut labels: Vec<String> = figure.panels[0]
            .series
            .iter()
            .map(|s| s.label.clone())
            .collect();
        labels.sort();
        labels
    };
    let figure = stability(&all());
    assert_eq!(figure.panels[0].series.len(), 6);
    assert_eq!(
        labels(&figure)[0],
        "SGD-M, weight decay = 0, momentum = 0.5"
    );
    let ignore = ["momentum".to_owned()];
    let figure = stability(&Selection {
        ignore: &ignore,
        ..all()
    });
    assert_eq!(
        labels(&figure),
        [
            "SGD-M, weight decay = 0",
            "SGD-M, weight decay = 0.0001",
            "SGD-M, weight decay = 0.01"
        ]
    );
    let scores = figure.panels[0]
        .series
        .iter()
        .flat_map(|s| &s.points)
        .map(|p| p[1]);
    assert!(
        scores.min_by(f64::total_cmp).unwrap() > 60.0,
        "the best over what is ignored"
    );
    let figure = stability(&Selection {
        x: "weight_decay",
        ignore: &ignore,
        ..all()
    });
    let axis = &figure.panels[0].x;
    assert_eq!(
        (axis.title.as_str(), axis.scale),
        ("Weight decay", Scale::Log)
    );
    assert_eq!(labels(&figure)[0], "SGD-M, lr = 0.001");
    let xs: Vec<f64> = figure.panels[0].series[0]
        .points
        .iter()
        .map(|p| p[0])
        .collect();
    assert_eq!(xs, [0.0, 1e-4, 1e-2]);
    let figure = stability(&Selection {
        x: "momentum",
        ..all()
    });
    assert_eq!(figure.panels[0].x.scale, Scale::Linear);
    let unknown = Selection { x: "beta", ..all() };
    let error = plot::stability(&record, "val_score", &unknown).unwrap_err();
    assert!(
        error
            .message
            .contains("its keys are name, lr, weight_decay, momentum"),
        "{error}"
    );
    // Every setting with a look of its own.
    let figure = plot::curves(
        &record,
        "val_score",
        &Selection {
            per_setting: true,
            ..all()
        },
    )
    .unwrap();
    let looks: HashSet<String> = figure.panels[0]
        .series
        .iter()
        .map(|s| format!("{:?}", s.look))
        .collect();
    assert_eq!(looks.len(), 18);
}

#[test]
fn more_lines_than_can_be_told_apart_are_refused() {
    let many: Vec<(String, Vec<f64>)> = (0..200)
        .map(|i| (format!("m{i}"), vec![1.0, 0.5]))
        .collect();
    let many: Vec<(&str, Vec<f64>)> = many.iter().map(|(m, l)| (m.as_str(), l.clone())).collect();
    let record = record("x", &many);
    let refused = |outcome: Result<Figure, Error>, advice: &str| {
        let error = outcome.unwrap_err();
        assert!(error.message.contains("200 lines are too many"), "{error}");
        assert!(error.message.contains(advice), "{error}");
    };
    refused(plot::curves(&record, "train_loss", &all()), "--methods");
    refused(
        plot::stability(&record, "train_loss", &all()),
        "--ignore KEY",
    );
    let top = Selection { top: 2, ..all() };
    refused(plot::curves(&record, "train_loss", &top), "a smaller --top");
    let each = Selection {
        per_setting: true,
        ..all()
    };
    refused(
        plot::curves(&record, "train_loss", &each),
        "leave out --per-setting",
    );
    // Who follows it gets a figure.
    let methods = ["m1".to_owned(), "m7".to_owned()];
    let some = Selection {
        methods: &methods,
        ..all()
    };
    assert!(plot::curves(&record, "train_loss", &some).is_ok());
}

fn figures_of_steps() -> Vec<Figure> {
    let record = outputs("synthetic_small");
    let methods = plot::adaptive(&record, &all()).unwrap().into_iter();
    methods
        .map(|method| plot::step_sizes(&record, method, &all()).unwrap())
        .collect()
}

#[test]
fn step_sizes_have_a_panel_for_each_learning_rate() {
    let figures = figures_of_steps();
    let titles: Vec<&str> = figures.iter().map(|f| f.title.as_str()).collect();
    assert_eq!(titles[0], "Synthetic linear, linear model, MoMo");
    assert_eq!(titles.len(), 4);
    let record = outputs("synthetic_small");
    for (figure, method, corrected) in [
        (&figures[0], "momo", false),
        (&figures[1], "momo-adam", true),
    ] {
        let rates: HashSet<String> = (record.settings.iter())
            .filter(|s| s.method() == method)
            .filter_map(|s| Some(format!("lr = {}", s.option("lr")?)))
            .collect();
        let panels: HashSet<String> = figure.panels.iter().map(|p| p.title.clone()).collect();
        assert_eq!(panels, rates);
        for panel in &figure.panels {
            let [dots, cap, median] = &panel.series[..] else {
                panic!()
            };
            assert_eq!(
                (dots.mark, cap.mark, median.mark),
                (Mark::Dots, Mark::Line, Mark::LineAndMarkers)
            );
            let lr: f64 = panel.title[5..].parse().unwrap();
            let (first, last) = (cap.points[0][1], cap.points[cap.points.len() - 1][1]);
            // 1 - 0.9^1 is a tenth.
            let wanted = if corrected { 10.0 * lr } else { lr };
            assert!(
                (first / wanted - 1.0).abs() < 1e-9,
                "{method}, lr {lr}: {first}"
            );
            assert!((last / lr - 1.0).abs() < 1e-3, "{method}, lr {lr}: {last}");
            assert_eq!(median.points.len(), 20);
            let (low, high) = dots
                .points
                .iter()
                .fold((f64::INFINITY, 0.0f64), |(a, b), p| {
                    (a.min(p[1]), b.max(p[1]))
                });
            assert!(median.points.iter().all(|p| (low..=high).contains(&p[1])));
        }
    }
    let text = figures[1].draw(&wide(5.0)).svg();
    assert_eq!(
        text.matches(">Epoch</text>").count(),
        3,
        "below the lowest panels alone"
    );
    assert!(text.contains(">α/ρ</text>"));
}

#[test]
fn scores_over_time_and_profiles() {
    let record = outputs("synthetic_small");
    let figure = plot::time(&record, "val_score", Clock::Seconds, &all()).unwrap();
    let chart = &figure.panels[0];
    assert_eq!(chart.x.title, "Training time (s)");
    for series in &chart.series {
        assert_eq!(series.points.len(), 20);
        assert!(
            series.points.windows(2).all(|p| p[0][0] < p[1][0]),
            "time goes on"
        );
    }
    let error =
        plot::time(&published("mnist_mlp"), "val_score", Clock::Seconds, &all()).unwrap_err();
    assert!(error.message.contains("how many seconds"), "{error}");

    let both = [published("mnist_mlp"), published("cifar10_resnet20")];
    let targets = ["mnist_mlp=0.97".parse().unwrap(), "0.85".parse().unwrap()];
    let query = Query {
        score: "val_score",
        targets: &targets,
        clock: Clock::Epochs,
    };
    let profiles = profiles(&both, &query).unwrap();
    let figure = plot::profile(&profiles, "val_score", true, &all());
    let chart = &figure.panels[0];
    assert_eq!(chart.series.len(), profiles.methods.len());
    for (series, profile) in chart.series.iter().zip(&profiles.methods) {
        for p in &series.points {
            assert!((0.0..=100.0).contains(&p[1]) && (1.0..=4.0).contains(&p[0]));
        }
        let last = series.points[series.points.len() - 1];
        assert_eq!(last[..2], [4.0, 100.0 * profile.share(4.0)]);
    }
    assert!(
        figure.caption.contains("validation accuracy"),
        "{}",
        figure.caption
    );
    let momo = Selection {
        methods: &["momo".to_owned()],
        ..all()
    };
    assert_eq!(
        plot::profile(&profiles, "val_score", true, &momo).panels[0]
            .series
            .len(),
        1
    );
}

#[test]
fn themes_and_colours_are_as_told() {
    let figure = plot::curves(&published("mnist_mlp"), "val_score", &all()).unwrap();
    let svg = |theme, colours| {
        figure
            .draw(&Style {
                theme,
                colours,
                ..wide(3.3)
            })
            .svg()
    };
    let light = svg(Theme::Light, Colours::Safe);
    assert!(light.contains("fill=\"#ffffff\"/>") && light.contains("stroke=\"#d55e00\""));
    let reference = svg(Theme::Light, Colours::Reference);
    assert!(reference.contains("stroke=\"#f34213\"") && !reference.contains("stroke=\"#d55e00\""));
    let dark = svg(Theme::Dark, Colours::Safe);
    assert!(
        dark.contains("fill=\"#16181b\"/>")
            && !dark.contains("stroke=\"#000000\" stroke-opacity=\"1\"")
    );
    // A grid has many faint lines.
    let faint = |svg: &str| svg.matches("stroke-opacity=\"0.1").count();
    assert!(faint(&light) > 5 && faint(&svg(Theme::Print, Colours::Safe)) == 0);
}

/// The streams of a PDF, unpacked.
fn streams(pdf: &[u8]) -> Vec<Vec<u8>> {
    use std::io::Read;
    let find = |from: usize, what: &[u8]| {
        let at = pdf[from..].windows(what.len()).position(|w| w == what);
        at.map(|at| from + at)
    };
    let (mut found, mut from) = (Vec::new(), 0);
    while let Some(start) = find(from, b"\nstream\n") {
        let start = start + b"\nstream\n".len();
        let end = find(start, b"\nendstream").unwrap();
        let mut unpacked = Vec::new();
        match flate2::read::ZlibDecoder::new(&pdf[start..end]).read_to_end(&mut unpacked) {
            Ok(_) => found.push(unpacked),
            Err(_) => found.push(pdf[start..end].to_vec()),
        }
        from = end;
    }
    found
}

#[test]
fn texts_of_a_pdf_are_texts() {
    let contains =
        |bytes: &[u8], what: &str| bytes.windows(what.len()).any(|w| w == what.as_bytes());
    let figure = plot::curves(
        &record("aéb", &[("adam", vec![1.0, 0.5])]),
        "train_loss",
        &all(),
    )
    .unwrap();
    let canvas = figure.draw(&wide(3.3));
    let pdf = canvas.pdf();
    assert!(contains(&pdf, "/ToUnicode") && contains(&pdf, "/FontFile2"));
    assert!(
        contains(&pdf, "/Title") && contains(&pdf, "(stepback-native "),
        "metadata"
    );
    let streams = streams(&pdf);
    let page = &streams[0];
    let texts = canvas
        .shapes
        .iter()
        .filter(|s| matches!(s, Shape::Text { .. }))
        .count();
    let shown = page
        .windows(3)
        .filter(|w| w == b"Tj\n" || w == b"Tj ")
        .count();
    assert!(texts > 5 && shown >= texts, "{shown} of {texts}");
    // The table of characters has those of the texts: "E" of "Epoch".
    assert!(
        streams
            .iter()
            .any(|s| contains(s, "beginbfchar") && contains(s, "<0045>"))
    );
    // What the font lacks is drawn between the parts that it has.
    let mixed = plot::curves(
        &record("a实b", &[("adam", vec![1.0, 0.5])]),
        "train_loss",
        &all(),
    )
    .unwrap();
    let mixed_streams = self::streams(&mixed.draw(&wide(3.3)).pdf());
    let again = mixed_streams[0]
        .windows(3)
        .filter(|w| w == b"Tj\n" || w == b"Tj ")
        .count();
    assert_eq!(again, shown + 1, "one text became two");
}

#[test]
fn little_data_makes_figures_too() {
    let nan = f64::NAN;
    for losses in [
        vec![0.5],
        vec![0.0],
        vec![nan],
        vec![nan, nan],
        vec![0.0, 0.0],
        vec![-1.0, 1e300],
        vec![1e-320],
    ] {
        let record = record("x", &[("adam", losses.clone())]);
        for figure in [
            plot::curves(&record, "train_loss", &all()).unwrap(),
            plot::stability(&record, "train_loss", &all()).unwrap(),
            plot::stability(&record, "val_score", &all()).unwrap(),
        ] {
            for (x, y) in corners(&figure.draw(&wide(3.3))) {
                assert!(x.is_finite() && y.is_finite(), "{losses:?}");
            }
        }
    }
}
