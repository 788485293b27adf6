//! One chart: axes, lines with markers and bands, and a legend below them, never on the data.

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::backend::Backend;
use super::canvas::{Canvas, UNITS, text_width};

#[derive(Clone, Debug, Default)]
pub struct Axis {
    pub title: String,
    pub log: bool,
}

/// One line of a chart.
#[derive(Clone, Debug)]
pub struct Series {
    pub label: String,
    pub color: (u8, u8, u8),
    pub marker: Marker,
    pub dashed: bool,
    /// x, y, lower and upper end of the band; a NaN breaks the line.
    pub points: Vec<[f64; 4]>,
    /// Crosses at (x, y); on the edge of the chart where y is not finite.
    pub diverged: Vec<[f64; 2]>,
}

/// Markers tell the methods apart in black and white.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marker {
    None,
    /// A polygon of so many corners, the first one at this angle in degrees (0 is right, 90 is down).
    Polygon(u8, i16),
}

#[derive(Clone, Debug)]
pub struct Chart {
    pub title: String,
    pub x: Axis,
    pub y: Axis,
    pub series: Vec<Series>,
    /// Crosses of diverged settings stand at the top (losses) or at the bottom (scores).
    pub diverged_on_top: bool,
}

const TEXT: i32 = 9 * UNITS;
/// The legend's text and the height of its rows.
const SMALL: i32 = 8 * UNITS;
const ROW: i32 = 13 * UNITS;
const PAD: i32 = 6 * UNITS;
const INK: RGBColor = RGBColor(40, 40, 40);

impl Chart {
    /// Draws the chart `width` inches wide.
    pub fn draw(&self, width: f64) -> Canvas {
        let width = (width * 72.0) as i32 * UNITS;
        let legend = self.legend(width);
        let rows = legend.last().map_or(0, |entry| entry.1 + 1);
        let plot_height = (f64::from(width) * 0.68) as i32;
        let height = plot_height + rows * ROW + 3 * PAD / 2;
        let mut canvas = Canvas::new(width as u32, height as u32);
        {
            let root = Backend(&mut canvas).into_drawing_area();
            let (plot, below) = root.split_vertically(plot_height);
            let drawn = self.plot(&plot).and_then(|()| {
                for (x, row, series) in &legend {
                    self.key(&below, *x, PAD / 2 + row * ROW + ROW / 2, series)?;
                }
                Ok(())
            });
            drawn.expect("drawing into memory");
        }
        canvas
    }

    /// Left end and row of every legend entry.
    fn legend(&self, width: i32) -> Vec<(i32, i32, &Series)> {
        let (mut x, mut row) = (PAD, 0);
        let mut entries = Vec::new();
        for series in self.series.iter().filter(|s| !s.label.is_empty()) {
            let wide = KEY + PAD + text_width(&series.label, SMALL as f32) as i32;
            if x + wide > width && x > PAD {
                (x, row) = (PAD, row + 1);
            }
            entries.push((x, row, series));
            x += wide + 2 * PAD;
        }
        entries
    }

    fn key<'a>(&self, area: &Area<'a>, x: i32, y: i32, series: &Series) -> Drawn<'a> {
        let color = rgb(series.color);
        let ends = [(x, y), (x + KEY, y)];
        line(area, &ends, color, series.dashed)?;
        marker(area, (x + KEY / 2, y), color, series.marker)?;
        let style = font(SMALL)
            .color(&INK)
            .pos(Pos::new(HPos::Left, VPos::Center));
        area.draw(&Text::new(series.label.as_str(), (x + KEY + PAD, y), style))
    }

    fn plot<'a>(&self, area: &Area<'a>) -> Drawn<'a> {
        let (x, y) = (self.scale(&self.x, 0), self.scale(&self.y, 1));
        let labels = y
            .ticks
            .iter()
            .map(|t| text_width(&y.label(*t), TEXT as f32) as i32);
        let labels = labels.max().unwrap_or(0);
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, font(TEXT * 11 / 10).color(&INK))
            .margin_top(PAD)
            .margin_right(PAD * 3)
            .margin_left(PAD / 2)
            .x_label_area_size(TEXT * 3)
            .y_label_area_size(labels + TEXT * 5 / 2)
            .build_cartesian_2d(x.clone(), y.clone())?;
        chart
            .configure_mesh()
            .x_desc(&self.x.title)
            .y_desc(&self.y.title)
            .x_label_formatter(&|t| x.label(*t))
            .y_label_formatter(&|t| y.label(*t))
            .label_style(font(TEXT).color(&INK))
            .axis_desc_style(font(TEXT).color(&INK))
            .axis_style(INK.stroke_width((UNITS * 3 / 4) as u32))
            .bold_line_style(BLACK.mix(0.13).stroke_width((UNITS / 2) as u32))
            .light_line_style(BLACK.mix(0.05).stroke_width((UNITS / 2) as u32))
            .set_all_tick_mark_size(UNITS * 3)
            .draw()?;
        let (left_right, top_bottom) = chart.plotting_area().get_pixel_range();
        let offset = area.get_pixel_range();
        let offset = (offset.0.start, offset.1.start);
        let clamp = move |(px, py): (i32, i32)| {
            let px = px.clamp(left_right.start, left_right.end) - offset.0;
            (px, py.clamp(top_bottom.start, top_bottom.end) - offset.1)
        };
        let at = |vx: f64, vy: f64| clamp(chart.backend_coord(&(x.place(vx), y.place(vy))));
        let visible = |v: f64| v.is_finite() && (!y.log || v > 0.0);
        for series in &self.series {
            let color = rgb(series.color);
            for part in series.points.split(|p| !visible(p[1])) {
                let top = part
                    .iter()
                    .map(|p| at(p[0], if visible(p[3]) { p[3] } else { p[1] }));
                // A band that reaches below zero on a log axis ends at the axis.
                let bottom = part.iter().rev().map(|p| {
                    let low = if p[2].is_nan() { p[1] } else { p[2] };
                    at(p[0], low)
                });
                if part.len() > 1 && part.iter().any(|p| p[2] < p[3]) {
                    let band: Vec<_> = top.chain(bottom).collect();
                    area.draw(&Polygon::new(band, color.mix(0.15).filled()))?;
                }
            }
        }
        let mut marked: Vec<(i32, i32)> = Vec::new();
        for (nth, series) in self.series.iter().enumerate() {
            let color = rgb(series.color);
            for part in series.points.split(|p| !visible(p[1])) {
                let points: Vec<_> = part.iter().map(|p| at(p[0], p[1])).collect();
                line(area, &points, color, series.dashed)?;
            }
            let points: Vec<_> = series.points.iter().filter(|p| visible(p[1])).collect();
            // Few points each carry a marker; of many, about eight, not all at the same places.
            let every = points.len().div_ceil(8).max(1);
            let every = if points.len() <= 16 { 1 } else { every };
            let crossed = |p: &[f64; 4]| series.diverged.iter().any(|d| d[0] == p[0]);
            let places = points.iter().skip(nth % every).step_by(every);
            let places = places.filter(|p| !crossed(p)).map(|p| at(p[0], p[1]));
            for (i, place) in places.enumerate() {
                // Where lines coincide, their markers take turns.
                let near =
                    |m: &&(i32, i32)| (m.0 - place.0).abs().max((m.1 - place.1).abs()) < UNITS;
                if i % (1 + marked.iter().filter(near).count()) == 0 {
                    marker(area, place, color, series.marker)?;
                }
                marked.push(place);
            }
            for &[vx, vy] in &series.diverged {
                let r = UNITS * 5 / 2;
                let (px, py) = if visible(vy) {
                    at(vx, vy)
                } else {
                    // One above the other where several methods diverge.
                    let before = self.series[..nth].iter().flat_map(|s| &s.diverged);
                    let before = before.filter(|d| d[0] == vx && !visible(d[1])).count() as i32;
                    let (edge, inwards) = if self.diverged_on_top {
                        (y.high, 1)
                    } else {
                        (y.low, -1)
                    };
                    let (px, py) = clamp(chart.backend_coord(&(x.place(vx), edge)));
                    (px, py + inwards * r * (2 + 3 * before))
                };
                for s in [-1, 1] {
                    let ends = [(px - r, py - s * r), (px + r, py + s * r)];
                    line(area, &ends, color, false)?;
                }
            }
        }
        Ok(())
    }

    fn scale(&self, axis: &Axis, which: usize) -> Scale {
        let crosses = self
            .series
            .iter()
            .flat_map(|s| s.diverged.iter().map(|d| d[0]));
        let points = self.series.iter().flat_map(|s| &s.points);
        let points = points.filter(|p| p[1].is_finite());
        let mut values: Vec<f64> = points.clone().map(|p| p[which]).collect();
        if which == 0 {
            values.extend(crosses);
        } else if !axis.log {
            // Bands are shown too, if they are not much wider than what the means span.
            let low = values.iter().copied().fold(f64::INFINITY, f64::min);
            let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let room = 0.25 * (high - low);
            let ends = points.flat_map(|p| [p[2], p[3]]).filter(|v| v.is_finite());
            let ends: Vec<f64> = ends.map(|v| v.clamp(low - room, high + room)).collect();
            values.extend(ends);
        }
        Scale::new(&values, axis.log, which == 0)
    }
}

const KEY: i32 = 20 * UNITS;

type Area<'a> = DrawingArea<Backend<'a>, plotters::coord::Shift>;
type Drawn<'a> = Result<(), DrawingAreaErrorKind<<Backend<'a> as DrawingBackend>::ErrorType>>;

fn font(size: i32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().into()
}

fn rgb((r, g, b): (u8, u8, u8)) -> RGBColor {
    RGBColor(r, g, b)
}

fn line<'a>(area: &Area<'a>, points: &[(i32, i32)], color: RGBColor, dashed: bool) -> Drawn<'a> {
    let style = color.stroke_width((UNITS * 6 / 5) as u32);
    if !dashed || points.len() < 2 {
        return area.draw(&PathElement::new(points.to_vec(), style));
    }
    for ends in points.windows(2) {
        let [a, b] = [ends[0], ends[1]].map(|(x, y)| (f64::from(x), f64::from(y)));
        let length = (b.0 - a.0).hypot(b.1 - a.1);
        let dash = f64::from(4 * UNITS);
        let on = |d: f64| {
            let t = (d / length).min(1.0);
            (
                (a.0 + t * (b.0 - a.0)) as i32,
                (a.1 + t * (b.1 - a.1)) as i32,
            )
        };
        for i in 0..(length / dash / 2.0).ceil() as u32 {
            let start = f64::from(2 * i) * dash;
            area.draw(&PathElement::new(vec![on(start), on(start + dash)], style))?;
        }
    }
    Ok(())
}

/// A filled shape with a white rim, so that it stands out from lines of any colour.
fn marker<'a>(area: &Area<'a>, (x, y): (i32, i32), color: RGBColor, kind: Marker) -> Drawn<'a> {
    let Marker::Polygon(corners, first) = kind else {
        return Ok(());
    };
    let corner = |i: u8, r: f64| {
        let angle = f64::from(first) + 360.0 * f64::from(i) / f64::from(corners);
        let (sin, cos) = angle.to_radians().sin_cos();
        (x + (r * cos) as i32, y + (r * sin) as i32)
    };
    let shape = |r: f64| {
        (0..corners)
            .map(|i| corner(i, r * f64::from(UNITS)))
            .collect::<Vec<_>>()
    };
    let size = if corners == 3 { 3.6 } else { 3.0 };
    area.draw(&Polygon::new(shape(size + 0.7), WHITE.filled()))?;
    area.draw(&Polygon::new(shape(size), color.filled()))
}

/// Where values lie on an axis: at themselves, or at their decimal logarithm.
#[derive(Clone)]
struct Scale {
    log: bool,
    low: f64,
    high: f64,
    ticks: Vec<f64>,
    minor: Vec<f64>,
}

impl Scale {
    fn new(values: &[f64], log: bool, exact: bool) -> Scale {
        let values = values
            .iter()
            .filter(|v| v.is_finite() && (!log || **v > 0.0));
        let values = values.map(|v| if log { v.log10() } else { *v });
        let (mut low, mut high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| {
            (a.min(v), b.max(v))
        });
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        let pad = if high > low {
            (high - low) * if exact { 0.03 } else { 0.06 }
        } else {
            0.5
        };
        (low, high) = (low - pad, high + pad);
        let step = if log {
            ((high - low) / 6.0).ceil().max(1.0)
        } else {
            nice_step((high - low) / 6.0)
        };
        let multiples = |step: f64| -> Vec<f64> {
            ((low / step).ceil() as i64..=(high / step).floor() as i64)
                .map(|i| i as f64 * step)
                .collect()
        };
        let mut ticks = multiples(step);
        let mut minor = ticks.clone();
        if log && step == 1.0 {
            let parts = (low.floor() as i64..=high.floor() as i64)
                .flat_map(|d| (2..10).map(move |m| d as f64 + f64::from(m).log10()));
            minor.extend(parts.filter(|v| (low..=high).contains(v)));
            if ticks.len() < 2 {
                let coarse = [2.0f64, 5.0].map(f64::log10);
                let extra = minor
                    .iter()
                    .filter(|v| coarse.iter().any(|c| (**v - v.floor() - c).abs() < 1e-9));
                ticks.extend(extra.copied().collect::<Vec<_>>());
            }
        }
        Scale {
            log,
            low,
            high,
            ticks,
            minor,
        }
    }

    fn place(&self, value: f64) -> f64 {
        if !self.log {
            value
        } else if value > 0.0 {
            value.log10()
        } else {
            self.low
        }
    }

    fn label(&self, tick: f64) -> String {
        if !self.log {
            let step = self.ticks.windows(2).next().map_or(1.0, |t| t[1] - t[0]);
            let digits = (-step.log10().floor()).clamp(0.0, 12.0) as usize;
            return format!("{:.*}", digits, if tick == 0.0 { 0.0 } else { tick })
                .replace('-', "−");
        }
        let decade = tick.floor();
        let factor = 10f64.powf(tick - decade).round() as i64;
        let power: String = format!("{decade}").chars().map(superscript).collect();
        if factor == 1 {
            format!("10{power}")
        } else {
            format!("{factor}×10{power}")
        }
    }
}

impl Ranged for Scale {
    type ValueType = f64;
    type FormatOption = DefaultFormatting;

    fn map(&self, value: &f64, (start, end): (i32, i32)) -> i32 {
        let part = (value - self.low) / (self.high - self.low);
        start + (part * f64::from(end - start)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        let light = hint.weight().allow_light_points();
        if light {
            self.minor.clone()
        } else {
            self.ticks.clone()
        }
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.low..self.high
    }
}

fn superscript(c: char) -> char {
    match c {
        '-' => '⁻',
        '1' => '¹',
        '2' => '²',
        '3' => '³',
        digit => char::from_u32(0x2070 + digit.to_digit(10).unwrap_or(0)).expect("a superscript"),
    }
}

/// 1, 2 or 5 times a power of ten, at least `step`.
fn nice_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let factors = [1.0, 2.0, 5.0, 10.0];
    power
        * factors
            .into_iter()
            .find(|f| f * power >= step * 0.999)
            .unwrap_or(10.0)
}
