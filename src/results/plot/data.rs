//! What is in a figure as CSV, and a script that draws it again with matplotlib.

use serde_json::{Value, json};

use super::canvas::Canvas;
use super::chart::{Axis, Chart, Colours, Figure, Mark, Scale, Series, dashes, outline};
use crate::optim::Shape;
use crate::results::escape;
use crate::results::json::repr;

/// A row for each point: the panel's and the line's number, its label, x, y and the ends of the band; what diverged has
/// x alone.
pub fn csv(figure: &Figure) -> String {
    let mut out = csv::Writer::from_writer(Vec::new());
    let header = [
        "panel", "line", "label", "x", "y", "low", "high", "diverged",
    ];
    out.write_record(header).expect("writing to memory");
    let number = |x: f64| match x.is_finite() {
        true => repr(x),
        false => String::new(),
    };
    for (nth, panel) in figure.panels.iter().enumerate() {
        for (line, series) in panel.series.iter().enumerate() {
            let points = series.points.iter().map(|point| (*point, "0"));
            let nowhere = |x: &f64| [*x, f64::NAN, f64::NAN, f64::NAN];
            let crosses = series.diverged.iter().map(|x| (nowhere(x), "1"));
            for (point, diverged) in points.chain(crosses) {
                let start = [
                    nth.to_string(),
                    line.to_string(),
                    escape::csv(&series.label),
                ];
                let row = start.into_iter().chain(point.map(number));
                let row = row.chain([diverged.to_owned()]);
                out.write_record(row).expect("writing to memory");
            }
        }
    }
    String::from_utf8(out.into_inner().expect("writing to memory")).expect("from strings")
}

/// A Python script that reads the [`csv()`] beside it, of the same name, and draws the figure as large as it is here.
pub fn script(figure: &Figure, drawn: &Canvas, colours: Colours) -> String {
    let panels = figure
        .panels
        .iter()
        .map(|panel| self::panel(panel, colours));
    let inches = |points: f32| f64::from((points / 72.0 * 100.0).round()) / 100.0;
    let all = json!({
        "title": escape::printable(&figure.title),
        "caption": escape::printable(&figure.caption),
        "size": [inches(drawn.width), inches(drawn.height)],
        "shared": u8::from(figure.shared),
        "panels": panels.collect::<Vec<_>>(),
    });
    // Texts, numbers, lists and objects are spelled alike in JSON and in Python.
    let all = serde_json::to_string_pretty(&all).expect("JSON can be written");
    include_str!("../../../assets/figure.py").replace("{{FIGURE}}", &all)
}

fn panel(panel: &Chart, colours: Colours) -> Value {
    let series = panel.series.iter();
    json!({
        "title": escape::printable(&panel.title),
        "x": axis(&panel.x),
        "y": axis(&panel.y),
        "diverged": if panel.diverged_on_top { "top" } else { "bottom" },
        "series": series.map(|series| line(series, colours)).collect::<Vec<_>>(),
    })
}

fn axis(axis: &Axis) -> Value {
    let scale = match axis.scale {
        Scale::Linear => "linear",
        Scale::Whole => "whole",
        Scale::Log => "log",
    };
    // An empty text is no limit.
    let limits = axis
        .limits
        .map(|limit| limit.map_or(json!(""), |x| json!(x)));
    json!({"title": escape::printable(&axis.title), "scale": scale, "limits": limits})
}

fn line(series: &Series, colours: Colours) -> Value {
    let (shape, hollow) = outline(series.look.marker);
    let alpha = [1.0, 0.6, 0.4][series.nth.min(2)];
    let marker = match shape {
        Shape::Circle => json!("o"),
        Shape::Square => json!("s"),
        Shape::Diamond => json!("D"),
        Shape::Up => json!("^"),
        Shape::Down => json!("v"),
        Shape::Left => json!("<"),
        Shape::Right => json!(">"),
        Shape::Star => json!("*"),
        Shape::Spark => json!([4, 1, 0]),
        Shape::Cross => json!([4, 1, 45]),
    };
    json!({
        "label": escape::printable(&series.label),
        "colour": format!("#{:06x}", colours.of(series.look)),
        "alpha": alpha,
        "dash": dashes(series.look.dash),
        "marker": marker,
        "hollow": u8::from(hollow),
        "mark": match series.mark {
            Mark::Line => "line",
            Mark::LineAndMarkers => "line and markers",
            Mark::Dots => "dots",
        },
    })
}
