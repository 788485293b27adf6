//! One chart: axes, lines with markers and bands, and a legend below them, never on the data.

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::backend::Backend;
use super::canvas::{Canvas, UNITS, fitted, text_width};
use crate::optim::{Look, Marker, Shape};

#[derive(Clone, Debug)]
pub struct Axis {
    pub title: String,
    pub scale: Scale,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    Linear,
    /// Linear, with whole numbers as labels.
    Whole,
    /// Logarithmic. What is not above zero stands at the lower edge, at a label of its own.
    Log,
}

/// One line of a chart.
#[derive(Clone, Debug)]
pub struct Series {
    pub label: String,
    pub look: Look,
    /// Does the line carry markers?
    pub marked: bool,
    /// 0 is a solid line; the others are dashed, differently up to 3.
    pub dash: usize,
    /// x, y, lower and upper end of the band; a NaN breaks the line.
    pub points: Vec<[f64; 4]>,
    /// Crosses at (x, y); on the edge of the chart where y is not finite.
    pub diverged: Vec<[f64; 2]>,
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
const CAPTION: i32 = TEXT * 11 / 10;
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
        let rows = legend.last().map_or(0, |entry| entry.row + 1);
        let plot_height = (f64::from(width) * 0.68) as i32;
        let height = plot_height + rows * ROW + 3 * PAD / 2;
        let mut canvas = Canvas::new(width as u32, height as u32);
        {
            let root = Backend(&mut canvas).into_drawing_area();
            let (plot, below) = root.split_vertically(plot_height);
            let drawn = self.plot(&plot).and_then(|()| {
                for entry in &legend {
                    entry.draw(&below)?;
                }
                Ok(())
            });
            drawn.expect("drawing into memory");
        }
        canvas
    }

    fn legend(&self, width: i32) -> Vec<Entry<'_>> {
        let (mut x, mut row) = (PAD, 0);
        let mut entries = Vec::new();
        let room = width - KEY - 3 * PAD;
        for series in self.series.iter().filter(|s| !s.label.is_empty()) {
            let label = fitted(&series.label, SMALL as f32, room as f32);
            let wide = KEY + PAD + text_width(&label, SMALL as f32) as i32;
            if x + wide > width && x > PAD {
                (x, row) = (PAD, row + 1);
            }
            entries.push(Entry {
                x,
                row,
                label,
                series,
            });
            x += wide + 2 * PAD;
        }
        entries
    }

    fn plot<'a>(&self, area: &Area<'a>) -> Drawn<'a> {
        let (x, y) = (self.ruler(&self.x, 0), self.ruler(&self.y, 1));
        let (width, height) = area.dim_in_pixel();
        let caption = fitted(&self.title, CAPTION as f32, 0.9 * width as f32);
        let y_title = fitted(&self.y.title, TEXT as f32, 0.7 * height as f32);
        let labels = y
            .ticks
            .iter()
            .map(|tick| text_width(&tick.1, TEXT as f32) as i32);
        let labels = labels.max().unwrap_or(0);
        let mut chart = ChartBuilder::on(area)
            .caption(caption, font(CAPTION).color(&INK))
            .margin_top(PAD)
            .margin_right(PAD * 3)
            .margin_left(PAD / 2)
            .x_label_area_size(TEXT * 3)
            .y_label_area_size(labels + TEXT * 5 / 2)
            .build_cartesian_2d(x.clone(), y.clone())?;
        chart
            .configure_mesh()
            .x_desc(&self.x.title)
            .y_desc(y_title)
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
        for series in &self.series {
            let color = rgb(series.look.colour);
            for part in series.points.split(|p| !p[1].is_finite()) {
                let top = part
                    .iter()
                    .map(|p| at(p[0], if p[3].is_finite() { p[3] } else { p[1] }));
                // A band that reaches below zero on a log axis ends at its lower edge.
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
        let mut values = self.series.iter().flat_map(|s| &s.points);
        if !values.any(|p| p[1].is_finite()) {
            let middle = |range: std::ops::Range<i32>| range.start + (range.end - range.start) / 2;
            let (across, down) = chart.plotting_area().get_pixel_range();
            let place = (middle(across) - offset.0, middle(down) - offset.1);
            let style = font(TEXT).color(&INK);
            let style = style.pos(Pos::new(HPos::Center, VPos::Center));
            area.draw(&Text::new("no finite value", place, style))?;
        }
        let mut marked: Vec<(i32, i32)> = Vec::new();
        for (nth, series) in self.series.iter().enumerate() {
            let color = rgb(series.look.colour);
            for part in series.points.split(|p| !p[1].is_finite()) {
                let points: Vec<_> = part.iter().map(|p| at(p[0], p[1])).collect();
                line(area, points, color, series.dash)?;
            }
            let points: Vec<_> = series.points.iter().filter(|p| p[1].is_finite()).collect();
            // Few points each carry a marker; of many, about eight, not all at the same places.
            let every = points.len().div_ceil(8).max(1);
            let every = if points.len() <= 16 { 1 } else { every };
            let crossed = |p: &[f64; 4]| series.diverged.iter().any(|d| d[0] == p[0]);
            let places = points.iter().skip(nth % every).step_by(every);
            let places = places.filter(|_| series.marked);
            let places = places.filter(|p| !crossed(p)).map(|p| at(p[0], p[1]));
            for (i, place) in places.enumerate() {
                // Where lines coincide, their markers take turns.
                let near =
                    |m: &&(i32, i32)| (m.0 - place.0).abs().max((m.1 - place.1).abs()) < UNITS;
                if i % (1 + marked.iter().filter(near).count()) == 0 {
                    marker(area, place, series.look)?;
                }
                marked.push(place);
            }
            for &[vx, vy] in &series.diverged {
                let r = UNITS * 5 / 2;
                let (px, py) = if vy.is_finite() {
                    at(vx, vy)
                } else {
                    // One above the other where several methods diverge.
                    let before = self.series[..nth].iter().flat_map(|s| &s.diverged);
                    let before = before.filter(|d| d[0] == vx && !d[1].is_finite()).count() as i32;
                    let (edge, inwards) = if self.diverged_on_top {
                        (y.high, 1)
                    } else {
                        (y.low, -1)
                    };
                    let (px, py) = clamp(chart.backend_coord(&(x.place(vx), edge)));
                    (px, py + inwards * r * (2 + 3 * before))
                };
                for s in [-1, 1] {
                    let ends = vec![(px - r, py - s * r), (px + r, py + s * r)];
                    line(area, ends, color, 0)?;
                }
            }
        }
        Ok(())
    }

    fn ruler(&self, axis: &Axis, which: usize) -> Ruler {
        let crosses = self
            .series
            .iter()
            .flat_map(|s| s.diverged.iter().map(|d| d[0]));
        let points = self.series.iter().flat_map(|s| &s.points);
        // Epochs without a value are shown as such.
        let points = points.filter(|p| which == 0 || p[1].is_finite());
        let mut values: Vec<f64> = points.clone().map(|p| p[which]).collect();
        if which == 0 {
            values.extend(crosses);
        } else if axis.scale != Scale::Log {
            // Bands are shown too, if they are not much wider than what the means span.
            let low = values.iter().copied().fold(f64::INFINITY, f64::min);
            let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let room = 0.25 * (high - low);
            let ends = points.flat_map(|p| [p[2], p[3]]).filter(|v| v.is_finite());
            let ends: Vec<f64> = ends.map(|v| v.clamp(low - room, high + room)).collect();
            values.extend(ends);
        }
        Ruler::new(&values, axis.scale, which == 0)
    }
}

const KEY: i32 = 20 * UNITS;

type Area<'a> = DrawingArea<Backend<'a>, plotters::coord::Shift>;
type Drawn<'a> = Result<(), DrawingAreaErrorKind<<Backend<'a> as DrawingBackend>::ErrorType>>;

fn font(size: i32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().into()
}

fn rgb(colour: u32) -> RGBColor {
    let [_, r, g, b] = colour.to_be_bytes();
    RGBColor(r, g, b)
}

/// An entry of the legend.
struct Entry<'a> {
    x: i32,
    row: i32,
    label: String,
    series: &'a Series,
}

impl Entry<'_> {
    fn draw<'a>(&self, area: &Area<'a>) -> Drawn<'a> {
        let Entry { x, row, series, .. } = *self;
        let y = PAD / 2 + row * ROW + ROW / 2;
        let ends = vec![(x, y), (x + KEY, y)];
        line(area, ends, rgb(series.look.colour), series.dash)?;
        if series.marked {
            marker(area, (x + KEY / 2, y), series.look)?;
        }
        let style = font(SMALL).color(&INK);
        let style = style.pos(Pos::new(HPos::Left, VPos::Center));
        let place = (x + KEY + PAD, y);
        area.draw(&Text::new(self.label.as_str(), place, style))
    }
}

fn line<'a>(area: &Area<'a>, points: Vec<(i32, i32)>, color: RGBColor, dash: usize) -> Drawn<'a> {
    let style = color.stroke_width((UNITS * 6 / 5) as u32);
    let [on, off] = match dash {
        0 => return area.draw(&PathElement::new(points, style)),
        1 => [4, 3],
        2 => [2, 2],
        _ => [1, 2],
    }
    .map(|length| length * UNITS);
    area.draw(&plotters::element::DashedPathElement::new(
        points, on, off, style,
    ))
}

/// A shape with a white rim, so that it stands out from lines of any colour.
fn marker<'a>(area: &Area<'a>, (x, y): (i32, i32), look: Look) -> Drawn<'a> {
    let (shape, inside) = match look.marker {
        Marker::Filled(shape) => (shape, None),
        Marker::Hollow(shape) => (shape, Some(HOLLOW)),
    };
    let polygon = |scale: f64, style: ShapeStyle| {
        let size = scale * 3.0 * f64::from(UNITS);
        let corners = corners(shape).into_iter();
        let corners = corners.map(|[dx, dy]| (x + (size * dx) as i32, y + (size * dy) as i32));
        area.draw(&Polygon::new(corners.collect::<Vec<_>>(), style))
    };
    polygon(1.25, WHITE.filled())?;
    polygon(1.0, rgb(look.colour).filled())?;
    inside.map_or(Ok(()), |scale| polygon(scale, WHITE.filled()))
}

/// The size of the hole in a hollow marker.
pub const HOLLOW: f64 = 0.55;

/// The outline of a shape about as large as a circle of radius 1; y counts downwards.
pub fn corners(shape: Shape) -> Vec<[f64; 2]> {
    const INNER: f64 = 0.38;
    let (rays, first, radius, inner) = match shape {
        Shape::Circle => (24, 0, 1.0, None),
        Shape::Square => (4, 45, 1.2, None),
        Shape::Diamond => (4, -90, 1.25, None),
        Shape::Up => (3, -90, 1.25, None),
        Shape::Down => (3, 90, 1.25, None),
        Shape::Left => (3, 180, 1.25, None),
        Shape::Right => (3, 0, 1.25, None),
        Shape::Star => (5, -90, 1.5, Some(INNER)),
        Shape::Spark => (4, -90, 1.6, Some(INNER)),
        Shape::Cross => (4, 45, 1.6, Some(INNER)),
    };
    let corner = |part: f64, radius: f64| {
        let angle = f64::from(first) + 360.0 * part / f64::from(rays);
        let (sin, cos) = angle.to_radians().sin_cos();
        [radius * cos, radius * sin]
    };
    let tips = (0..rays).flat_map(|ray| {
        let notch = inner.map(|inner| corner(f64::from(ray) + 0.5, inner * radius));
        std::iter::once(corner(ray.into(), radius)).chain(notch)
    });
    tips.collect()
}

/// Where values lie on an axis: at themselves, or at their decimal logarithm.
#[derive(Clone)]
struct Ruler {
    scale: Scale,
    low: f64,
    high: f64,
    /// On a log axis, the place of all that is not above zero.
    zero: Option<f64>,
    ticks: Vec<(f64, String)>,
    minor: Vec<f64>,
}

impl Ruler {
    /// A ruler for values; an `exact` one has less room around them.
    fn new(values: &[f64], scale: Scale, exact: bool) -> Ruler {
        let log = scale == Scale::Log;
        let finite = values.iter().copied().filter(|v| v.is_finite());
        // Room around the largest must not overflow.
        let finite = finite.map(|v| v.clamp(-1e300, 1e300));
        let under: Vec<f64> = finite.clone().filter(|v| log && *v <= 0.0).collect();
        let placed = finite.filter(|v| !log || *v > 0.0);
        let placed = placed.map(|v| if log { v.log10() } else { v });
        let (mut low, mut high) = placed.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| {
            (a.min(v), b.max(v))
        });
        let empty = low > high;
        if empty {
            (low, high) = (0.0, 1.0);
        }
        let pad = match (high > low, scale) {
            (true, _) => (high - low) * if exact { 0.03 } else { 0.06 },
            (false, Scale::Linear) if low != 0.0 => (0.1 * low.abs()).max(f64::MIN_POSITIVE),
            (false, _) => 0.5,
        };
        let gap = if high > low { 0.12 * (high - low) } else { 1.0 };
        let zero = (!under.is_empty()).then_some(low - gap);
        let lowest_tick = if zero.is_some() { low } else { low - pad };
        (low, high) = (zero.unwrap_or(low) - pad, high + pad);

        let (mut ticks, mut minor) = match empty {
            true => (Vec::new(), Vec::new()),
            false if log => decades(lowest_tick, high),
            false => (multiples(lowest_tick, high, scale), Vec::new()),
        };
        let exactly = under.iter().all(|v| *v == 0.0);
        ticks.extend(zero.map(|zero| (zero, if exactly { "0" } else { "≤ 0" }.into())));
        minor.extend(ticks.iter().map(|tick| tick.0));
        Ruler {
            scale,
            low,
            high,
            zero,
            ticks,
            minor,
        }
    }

    fn place(&self, value: f64) -> f64 {
        if self.scale != Scale::Log {
            value
        } else if value > 0.0 {
            value.log10()
        } else {
            self.zero.unwrap_or(self.low)
        }
    }

    fn label(&self, place: f64) -> String {
        let tick = self.ticks.iter().find(|tick| tick.0 == place);
        tick.map_or_else(String::new, |tick| tick.1.clone())
    }
}

/// The multiples of 1, 2 or 5 times a power of ten between two ends: about six of them, and at least three
/// unless they would not be whole any more.
fn multiples(low: f64, high: f64, scale: Scale) -> Vec<(f64, String)> {
    let least = if scale == Scale::Linear { i32::MIN } else { 0 };
    let step =
        |nth: i32| [1.0, 2.0, 5.0][nth.rem_euclid(3) as usize] * 10f64.powi(nth.div_euclid(3));
    let all = |nth: i32| {
        let step = step(nth);
        let range = (low / step).ceil() as i64..=(high / step).floor() as i64;
        range.map(move |i| i as f64 * step)
    };
    let rough = (high - low) / 6.0;
    let mut nth = (3.0 * rough.log10()).floor() as i32 - 1;
    while step(nth) < rough * 0.999 {
        nth += 1;
    }
    nth = nth.max(least);
    while nth > least && all(nth).count() < 3 {
        nth -= 1;
    }
    let power = nth.div_euclid(3);
    let largest = low.abs().max(high.abs());
    let label = |value: f64| {
        if value != 0.0 && !(1e-3..1e6).contains(&largest) {
            let digits = (value.abs().log10().floor() as i32 - power).clamp(0, 12) as usize;
            let text = format!("{value:.digits$e}");
            let (factor, exponent) = text.split_once('e').expect("an exponent");
            return format!("{factor}×{}", power_of_ten(exponent)).replace('-', "−");
        }
        let digits = (-power).clamp(0, 12) as usize;
        // A zero has no sign.
        format!("{:.digits$}", value + 0.0).replace('-', "−")
    };
    all(nth).map(|value| (value, label(value))).collect()
}

/// Ticks between two logarithms, and the places of lines between them: decades; where they are few, twice and
/// five times them as well; within a decade, values with even spaces.
fn decades(low: f64, high: f64) -> (Vec<(f64, String)>, Vec<f64>) {
    let whole = multiples(low, high, Scale::Whole).into_iter();
    let mut ticks: Vec<(f64, String)> = whole
        .map(|(place, exponent)| (place, power_of_ten(&exponent)))
        .collect();
    let mut minor = Vec::new();
    if ticks.windows(2).all(|pair| pair[1].0 - pair[0].0 == 1.0) {
        for decade in low.floor() as i64..=high.floor() as i64 {
            for factor in 2..10 {
                let place = decade as f64 + f64::from(factor).log10();
                minor.push((place, factor, decade));
            }
        }
        minor.retain(|(place, ..)| (low..=high).contains(place));
    }
    if ticks.len() < 3 {
        let coarse = minor
            .iter()
            .filter(|(_, factor, _)| [2, 5].contains(factor));
        ticks.extend(coarse.map(|(place, factor, decade)| {
            let label = format!("{factor}×{}", power_of_ten(&decade.to_string()));
            (*place, label)
        }));
    }
    if ticks.len() < 3 {
        let values = multiples(10f64.powf(low), 10f64.powf(high), Scale::Linear);
        ticks = values
            .into_iter()
            .map(|(v, label)| (v.log10(), label))
            .collect();
    }
    (ticks, minor.into_iter().map(|line| line.0).collect())
}

/// 10 with an exponent, which may be one of Unicode's minus signs and digits.
fn power_of_ten(exponent: &str) -> String {
    let raised = |c: char| match c {
        '-' | '−' => '⁻',
        '1' => '¹',
        '2' => '²',
        '3' => '³',
        digit => char::from_u32(0x2070 + digit.to_digit(10).unwrap_or(0)).expect("a superscript"),
    };
    std::iter::once("10".to_owned())
        .chain(exponent.chars().map(|c| raised(c).into()))
        .collect()
}

impl Ranged for Ruler {
    type ValueType = f64;
    type FormatOption = DefaultFormatting;

    fn map(&self, value: &f64, (start, end): (i32, i32)) -> i32 {
        let part = (value - self.low) / (self.high - self.low);
        start + (part * f64::from(end - start)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        match hint.weight().allow_light_points() {
            true => self.minor.clone(),
            false => self.ticks.iter().map(|tick| tick.0).collect(),
        }
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.low..self.high
    }
}
