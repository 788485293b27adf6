//! A figure on a canvas: where its parts stand, and how they look.

use super::canvas::{Align, Canvas, Paint, Point, Shape};
use super::chart::{
    Axis, Chart, Figure, HOLLOW, Legend, Mark, Scale, Series, Style, Theme, corners, dashes,
    outline,
};
use super::clip::Frame;
use super::font::{fitted, text_width};
use super::ruler::{Ruler, Tick};
use crate::optim::Look;
use crate::results::escape;

impl Figure {
    pub fn draw(&self, style: &Style) -> Canvas {
        let pen = Pen::new(self, style);
        let mut layout = Layout::new(self, &pen, style.legend);
        if style.legend == Legend::Inside && layout.inside(&pen).is_none() {
            layout = Layout::new(self, &pen, Legend::Below);
        }
        layout.draw(pen)
    }
}

/// Colours of all that is no line.
#[derive(Clone, Copy)]
pub(super) struct Tones {
    pub paper: u32,
    pub ink: u32,
    pub soft: u32,
    grid: Option<Paint>,
}

impl Tones {
    pub fn of(theme: Theme) -> Tones {
        let grid = |colour, alpha| Some(Paint { colour, alpha });
        match theme {
            Theme::Light => Tones {
                paper: 0xffffff,
                ink: 0x282828,
                soft: 0x606060,
                grid: grid(0x000000, 0.1),
            },
            Theme::Dark => Tones {
                paper: 0x16181b,
                ink: 0xe6e6e6,
                soft: 0xa8acb0,
                grid: grid(0xffffff, 0.13),
            },
            Theme::Print => Tones {
                paper: 0xffffff,
                ink: 0x000000,
                soft: 0x000000,
                grid: None,
            },
        }
    }
}

/// `part` of the way from one colour to another.
pub(super) fn mixed(from: u32, to: u32, part: f64) -> u32 {
    let [_, from @ ..] = from.to_be_bytes();
    let [_, to @ ..] = to.to_be_bytes();
    let mix =
        |i: usize| (f64::from(from[i]) * (1.0 - part) + f64::from(to[i]) * part).round() as u8;
    u32::from_be_bytes([0, mix(0), mix(1), mix(2)])
}

struct Pen<'a> {
    canvas: Canvas,
    style: &'a Style,
    tones: Tones,
    /// Size of the text.
    text: f32,
}

impl<'a> Pen<'a> {
    fn new(figure: &Figure, style: &'a Style) -> Pen<'a> {
        let tones = Tones::of(style.theme);
        // A column of a paper has smaller letters than a page, and that smaller ones than a slide.
        let text = match style.width {
            w if w < 4.0 => 7.0,
            w if w < 10.0 => 9.0,
            _ => 13.0,
        };
        let canvas = Canvas {
            title: escape::printable(&figure.title).into_owned(),
            width: (72.0 * style.width) as f32,
            height: 0.0,
            paper: tones.paper,
            shapes: Vec::new(),
        };
        Pen {
            canvas,
            style,
            tones,
            text,
        }
    }

    fn small(&self) -> f32 {
        0.88 * self.text
    }

    fn key(&self) -> f32 {
        2.6 * self.text
    }

    fn colour(&self, series: &Series) -> u32 {
        let mut colour = self.style.colours.of(series.look);
        let [_, r, g, b] = colour.to_be_bytes().map(f64::from);
        // Dark colours vanish on a dark ground.
        if self.style.theme == Theme::Dark && 0.3 * r + 0.6 * g + 0.1 * b < 80.0 {
            colour = mixed(colour, 0xffffff, 0.6);
        }
        let paler = [0.0, 0.4, 0.6][series.nth.min(2)];
        mixed(colour, self.tones.paper, paler)
    }

    fn line(&mut self, points: Vec<Point>, width: f32, dash: &'static [f32], paint: Paint) {
        if points.len() > 1 {
            self.canvas.shapes.push(Shape::Line {
                points,
                width,
                dash,
                paint,
            });
        }
    }

    fn area(&mut self, contours: Vec<Vec<Point>>, paint: Paint) {
        if contours.iter().any(|c| c.len() > 2) {
            self.canvas.shapes.push(Shape::Area { contours, paint });
        }
    }

    fn text(&mut self, text: &str, size: f32, at: Point, align: Align, colour: u32) {
        self.write(text, size, at, align, colour, false);
    }

    fn write(
        &mut self,
        text: &str,
        size: f32,
        at: Point,
        align: Align,
        colour: u32,
        upright: bool,
    ) {
        let text = fitted(text, size, f32::INFINITY);
        let paint = Paint::full(colour);
        self.canvas.shapes.push(Shape::Text {
            text,
            size,
            at,
            align,
            upright,
            paint,
        });
    }

    /// A shape with a rim in the ground's colour, so that it stands out from lines of any colour.
    fn marker(&mut self, (x, y): Point, look: Look, colour: u32) {
        let (shape, hollow) = outline(look.marker);
        let size = 0.31 * self.text;
        let polygon = |scale: f32| {
            let size = size * scale;
            let corners = corners(shape).into_iter();
            let corners = corners.map(|[dx, dy]| (x + size * dx as f32, y + size * dy as f32));
            vec![corners.collect::<Vec<Point>>()]
        };
        let paper = self.tones.paper;
        self.area(polygon(1.25), Paint::full(paper));
        self.area(polygon(1.0), Paint::full(colour));
        if hollow {
            self.area(polygon(HOLLOW as f32), Paint::full(paper));
        }
    }

    fn cross(&mut self, (x, y): Point, colour: u32) {
        let r = 0.27 * self.text;
        for s in [-1.0, 1.0] {
            let ends = vec![(x - r, y - s * r), (x + r, y + s * r)];
            self.line(ends, 0.13 * self.text, &[], Paint::full(colour));
        }
    }

    fn stroke(&self, series: &Series) -> f32 {
        let width = 0.14 * self.text;
        if series.nth == 0 { width } else { 0.75 * width }
    }
}

/// How capitals and digits are centred: they are 0.73 of the size high.
const CENTRE: f32 = 0.36;

/// An entry of the legend and where it stands.
struct Entry<'a> {
    series: &'a Series,
    label: String,
    width: f32,
    /// From the legend's corner to the entry's left end, in its middle.
    at: Point,
}

struct Layout<'a> {
    figure: &'a Figure,
    height: f32,
    /// The height of title and caption.
    head: f32,
    panels: Vec<Panel<'a>>,
    legend: Legend,
    entries: Vec<Entry<'a>>,
    /// The size of the legend, and its corner if it is not inside.
    size: Point,
    corner: Point,
}

struct Panel<'a> {
    chart: &'a Chart,
    x: Ruler,
    y: Ruler,
    /// The scale's.
    frame: Frame,
    /// Height of the strip for what diverged.
    strip: f32,
    /// Are the axes labelled?
    left: bool,
    bottom: bool,
}

impl<'a> Layout<'a> {
    fn new(figure: &'a Figure, pen: &Pen, legend: Legend) -> Layout<'a> {
        let (text, width) = (pen.text, pen.canvas.width);
        let pad = 0.6 * text;
        let title = if figure.title.is_empty() {
            0.0
        } else {
            1.7 * text
        };
        let caption = if figure.caption.is_empty() {
            0.0
        } else {
            1.2 * text
        };
        let head = pad + title + caption;
        let (entries, size) = Entry::all(figure, pen, legend);
        let right = if legend == Legend::Right {
            size.0 + pad
        } else {
            0.0
        };
        let below = if legend == Legend::Below {
            size.1 + pad
        } else {
            0.0
        };
        let room = width - right;

        let count = figure.panels.len();
        let least = if figure.shared { 1.25 } else { 2.2 } * 72.0;
        let fitting = ((room / least) as usize).clamp(1, count);
        let columns = match figure.shared {
            // About as many rows as columns.
            true => fitting.min((1..).find(|n| n * n >= count).expect("there is one")),
            false => fitting,
        };
        let rows = count.div_ceil(columns);
        let named = figure.panels.iter().any(|panel| !panel.title.is_empty());
        let top = if named { 1.6 * text } else { 0.3 * text };
        let bottom = 3.0 * text;
        let between = if figure.shared { 0.4 * text } else { bottom };
        let around =
            head + below + pad / 2.0 + rows as f32 * top + (rows - 1) as f32 * between + bottom;
        let aspect = if figure.shared { 0.72 } else { 0.62 };
        let ground = match pen.style.height {
            Some(height) => ((72.0 * height) as f32 - around) / rows as f32,
            None => aspect * room / columns as f32 - if figure.shared { 0.0 } else { top },
        };
        // Not lower than a legend beside it.
        let beside = if right > 0.0 {
            size.1 / rows as f32
        } else {
            0.0
        };
        let ground = ground.max(6.0 * text).max(beside);

        let strips: Vec<f32> = figure
            .panels
            .iter()
            .map(|panel| strip(panel, text))
            .collect();
        let charts: Vec<&[Chart]> = match figure.shared {
            true => vec![&figure.panels[..]; count],
            false => figure.panels.iter().map(std::slice::from_ref).collect(),
        };
        let y: Vec<Ruler> = charts
            .iter()
            .zip(&strips)
            .map(|(charts, strip)| {
                let length = (ground - strip) as f64;
                let near =
                    move |_: &Tick, _: &Tick, part: f64| part * length >= 1.3 * f64::from(text);
                ruler(charts, |chart| &chart.y, 1, &near)
            })
            .collect();
        let labels = y
            .iter()
            .flat_map(|y| &y.ticks)
            .map(|tick| text_width(&tick.label, text));
        let labels = labels.fold(0.0, f32::max);
        let crossed = strips.iter().any(|strip| *strip > 0.0);
        let labels = if crossed {
            labels.max(text_width(DIVERGED, 0.8 * text))
        } else {
            labels
        };
        let left = labels + 2.9 * text;
        let margin = 1.2 * text;
        let (inner, shift) = match figure.shared {
            true => {
                let gap = 0.8 * text;
                let gaps = (columns - 1) as f32 * gap;
                let inner = (room - left - margin - gaps) / columns as f32;
                (inner, inner + gap)
            }
            false => (room / columns as f32 - left - margin, room / columns as f32),
        };
        let inner = inner.max(2.0 * text);
        let panels = figure
            .panels
            .iter()
            .zip(charts)
            .zip(y)
            .zip(strips)
            .enumerate();
        let panels = panels.map(|(nth, (((chart, charts), y), strip))| {
            let (row, column) = (nth / columns, nth % columns);
            let x0 = left + column as f32 * shift;
            let y0 = head + top + row as f32 * (ground + top + between);
            let above = if chart.diverged_on_top { strip } else { 0.0 };
            let near = |a: &Tick, b: &Tick, part: f64| {
                let widths = text_width(&a.label, text) + text_width(&b.label, text);
                part * f64::from(inner) >= f64::from(widths / 2.0 + 0.7 * text)
            };
            Panel {
                chart,
                x: ruler(charts, |chart| &chart.x, 0, &near),
                y,
                frame: Frame {
                    left: x0,
                    top: y0 + above,
                    right: x0 + inner,
                    bottom: y0 + ground - (strip - above),
                },
                strip,
                left: column == 0 || !figure.shared,
                bottom: nth + columns >= count || !figure.shared,
            }
        });
        let panels: Vec<Panel> = panels.collect();
        let end = head + rows as f32 * (ground + top) + (rows - 1) as f32 * between + bottom;
        let corner = match legend {
            Legend::Right => (room, head + top),
            _ => ((width - size.0) / 2.0, end + pad / 2.0),
        };
        let side = if legend == Legend::Right {
            head + top + size.1
        } else {
            0.0
        };
        Layout {
            figure,
            height: (end + below + pad / 2.0).max(side + pad),
            head,
            panels,
            legend,
            entries,
            size,
            corner,
        }
    }

    /// The corner of the first panel where a legend hides least; none if it has no room there.
    fn inside(&self, pen: &Pen) -> Option<Point> {
        let panel = &self.panels[0];
        let frame = panel.frame;
        let gap = 0.5 * pen.text;
        let (width, height) = (self.size.0 + gap, self.size.1 + gap);
        if width > 0.7 * frame.width() || height > 0.7 * frame.height() {
            return None;
        }
        let (right, bottom) = (frame.right - width - gap, frame.bottom - height - gap);
        let (left, top) = (frame.left + gap, frame.top + gap);
        let hidden = |&(x, y): &Point| {
            let here = Frame {
                left: x,
                top: y,
                right: x + width,
                bottom: y + height,
            };
            let lines = panel.chart.series.iter().map(|series| panel.places(series));
            let lines = lines.flat_map(|line| here.line(&line));
            let length = |part: Vec<Point>| -> f32 {
                let steps = part.windows(2);
                steps
                    .map(|ab| (ab[0].0 - ab[1].0).hypot(ab[0].1 - ab[1].1))
                    .sum()
            };
            lines.map(length).sum::<f32>()
        };
        let corners = [(right, top), (right, bottom), (left, bottom), (left, top)];
        corners
            .into_iter()
            .min_by(|a, b| hidden(a).total_cmp(&hidden(b)))
    }

    fn draw(&self, mut pen: Pen) -> Canvas {
        pen.canvas.height = self.height;
        let (text, width) = (pen.text, pen.canvas.width);
        let Tones { ink, soft, .. } = pen.tones;
        let room = width - text;
        let middle = width / 2.0;
        let caption = fitted(&self.figure.caption, pen.small(), room);
        let mut line = self.head - 0.2 * text;
        if !caption.is_empty() {
            pen.text(&caption, pen.small(), (middle, line), Align::Middle, soft);
            line -= 1.35 * text;
        }
        if !self.figure.title.is_empty() {
            let title = fitted(&self.figure.title, 1.15 * text, room);
            pen.text(&title, 1.15 * text, (middle, line), Align::Middle, ink);
        }
        for panel in &self.panels {
            panel.draw(&mut pen);
        }
        let corner = match self.legend {
            Legend::None => return pen.canvas,
            Legend::Inside => {
                let (x, y) = self.inside(&pen).expect("asked before");
                let gap = 0.5 * text;
                let (right, bottom) = (x + self.size.0 + gap, y + self.size.1 + gap);
                let corners = vec![(x, y), (right, y), (right, bottom), (x, bottom)];
                let ground = Paint {
                    colour: pen.tones.paper,
                    alpha: 0.85,
                };
                pen.area(vec![corners], ground);
                (x + gap, y + gap / 2.0)
            }
            _ => self.corner,
        };
        for entry in &self.entries {
            entry.draw(&mut pen, corner);
        }
        pen.canvas
    }
}

impl<'a> Entry<'a> {
    /// Entries for all labels of a figure, in a legend of this size.
    fn all(figure: &'a Figure, pen: &Pen, legend: Legend) -> (Vec<Entry<'a>>, Point) {
        let (text, width) = (pen.text, pen.canvas.width);
        let room = match legend {
            Legend::Right => 0.48 * width,
            Legend::Inside => 0.65 * width,
            _ => width - 1.2 * text,
        };
        let before = pen.key() + 0.6 * text;
        let mut entries: Vec<Entry> = Vec::new();
        for series in figure.panels.iter().flat_map(|panel| &panel.series) {
            if series.label.is_empty() || entries.iter().any(|e| e.series.label == series.label) {
                continue;
            }
            let label = fitted(&series.label, pen.small(), room - before);
            let width = before + text_width(&label, pen.small());
            entries.push(Entry {
                series,
                label,
                width,
                at: (0.0, 0.0),
            });
        }
        let gap = 1.6 * text;
        let row = 1.45 * text;
        let widest = entries.iter().map(|e| e.width).fold(0.0, f32::max);
        let columns = match legend {
            Legend::Right | Legend::Inside => 1,
            _ => (((room + gap) / (widest + gap)) as usize).clamp(1, entries.len().max(1)),
        };
        let rows = entries.len().div_ceil(columns);
        // As even as it gets.
        let columns = entries.len().div_ceil(rows.max(1)).max(1);
        for (nth, entry) in entries.iter_mut().enumerate() {
            let (line, column) = (nth / columns, nth % columns);
            let x = column as f32 * (widest + gap);
            entry.at = (x, row * (line as f32 + 0.5));
        }
        let width = columns as f32 * (widest + gap) - gap;
        (entries, (width.max(0.0), rows as f32 * row))
    }

    fn draw(&self, pen: &mut Pen, corner: Point) {
        let (x, y) = (corner.0 + self.at.0, corner.1 + self.at.1);
        let (key, colour) = (pen.key(), pen.colour(self.series));
        let look = self.series.look;
        let stroke = pen.stroke(self.series);
        match self.series.mark {
            Mark::Dots => {
                let dots = dots(
                    [(x + 0.3 * key, y), (x + 0.5 * key, y), (x + 0.7 * key, y)],
                    pen.text,
                );
                pen.area(dots, Paint::full(colour));
            }
            mark => {
                let ends = vec![(x, y), (x + key, y)];
                pen.line(ends, stroke, dashes(look.dash), Paint::full(colour));
                if mark == Mark::LineAndMarkers {
                    pen.marker((x + key / 2.0, y), look, colour);
                }
            }
        }
        let size = pen.small();
        let place = (x + key + 0.6 * pen.text, y + CENTRE * size);
        let ink = pen.tones.ink;
        pen.text(&self.label, size, place, Align::Start, ink);
    }
}

const DIVERGED: &str = "diverged";

/// How many of a chart's lines diverged at one place, at most.
fn most_crosses(chart: &Chart) -> usize {
    let all = || chart.series.iter().flat_map(|series| &series.diverged);
    let here = |x: &f64| all().filter(|other| *other == x).count();
    all().map(here).max().unwrap_or(0)
}

/// The distance of crosses one above the other.
fn pitch(crosses: usize, text: f32) -> f32 {
    (5.0 / crosses as f32).min(0.75) * text
}

/// The height of the strip for what diverged.
fn strip(chart: &Chart, text: f32) -> f32 {
    match most_crosses(chart) {
        0 => 0.0,
        n => n as f32 * pitch(n, text) + 0.6 * text,
    }
}

/// A common ruler for an axis of charts.
fn ruler(
    charts: &[Chart],
    axis: impl Fn(&Chart) -> &Axis,
    which: usize,
    fits: &dyn Fn(&Tick, &Tick, f64) -> bool,
) -> Ruler {
    let series = || charts.iter().flat_map(|chart| &chart.series);
    let axis = axis(&charts[0]);
    let points = series().flat_map(|s| &s.points);
    // Epochs without a value are shown as such.
    let points = points.filter(|p| which == 0 || p[1].is_finite());
    let mut values: Vec<f64> = points.clone().map(|p| p[which]).collect();
    if which == 0 {
        values.extend(series().flat_map(|s| &s.diverged));
        return Ruler::new(&values, axis, 0.03, fits);
    }
    // Bands are shown too, if they are not much wider than what the lines span.
    let log = axis.scale == Scale::Log;
    let (place, value) = match log {
        true => (f64::ln as fn(f64) -> f64, f64::exp as fn(f64) -> f64),
        false => ((|v| v) as fn(f64) -> f64, (|v| v) as fn(f64) -> f64),
    };
    let from = axis.limits[0].unwrap_or(f64::NEG_INFINITY);
    let placed = values.iter().filter(|v| (!log || **v > 0.0) && **v >= from);
    let placed = placed.map(|v| place(*v));
    let (low, high) = placed.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| {
        (a.min(v), b.max(v))
    });
    if low <= high {
        let room = 0.25 * (high - low);
        let ends = points.flat_map(|p| [p[2], p[3]]);
        let ends = ends.filter(|v| v.is_finite() && (!log || *v > 0.0));
        let ends: Vec<f64> = ends
            .map(|v| value(place(v).clamp(low - room, high + room)))
            .collect();
        values.extend(ends);
    }
    Ruler::new(&values, axis, 0.06, fits)
}

fn dots(places: impl IntoIterator<Item = Point>, text: f32) -> Vec<Vec<Point>> {
    let r = 0.11 * text;
    let dot = |(x, y): Point| {
        let corner = |i: u8| {
            let (sin, cos) = (f32::from(i) / 6.0 * std::f32::consts::TAU).sin_cos();
            (x + r * cos, y + r * sin)
        };
        (0..6).map(corner).collect()
    };
    places.into_iter().map(dot).collect()
}

impl Panel<'_> {
    fn x_at(&self, value: f64) -> f32 {
        self.frame.left + self.x.part(value) as f32 * self.frame.width()
    }

    fn y_at(&self, value: f64) -> f32 {
        // Far outside, where it is cut, single precision still knows what to do.
        let part = self.y.part(value).clamp(-1e4, 1e4) as f32;
        self.frame.bottom - part * self.frame.height()
    }

    fn at(&self, x: f64, y: f64) -> Point {
        (self.x_at(x), self.y_at(y))
    }

    /// Where a line's values are.
    fn places(&self, series: &Series) -> Vec<Point> {
        let values = series.points.iter().filter(|p| p[1].is_finite());
        values.map(|p| self.at(p[0], p[1])).collect()
    }

    /// Where this series has crosses: one above the other where several lines diverged.
    fn crosses(&self, nth: usize, text: f32) -> Vec<(f64, Point)> {
        let pitch = pitch(most_crosses(self.chart).max(1), text);
        let (edge, away) = match self.chart.diverged_on_top {
            true => (self.frame.top, -1.0),
            false => (self.frame.bottom, 1.0),
        };
        let series = &self.chart.series;
        let place = |x: &f64| {
            let before = series[..nth].iter().flat_map(|s| &s.diverged);
            let before = before.filter(|other| *other == x).count();
            let y = edge + away * (0.3 * text + (before as f32 + 0.5) * pitch);
            (*x, (self.x_at(*x), y))
        };
        series[nth].diverged.iter().map(place).collect()
    }

    fn draw(&self, pen: &mut Pen) {
        self.axes(pen);
        let chart = self.chart;
        let parts = |series: &Series| -> Vec<Vec<[f64; 4]>> {
            let parts = series.points.split(|p| !p[1].is_finite());
            parts
                .filter(|part| !part.is_empty())
                .map(<[_]>::to_vec)
                .collect()
        };
        for series in &chart.series {
            let paint = Paint {
                colour: pen.colour(series),
                alpha: 0.15,
            };
            for part in parts(series) {
                if part.len() < 2 || !part.iter().any(|p| p[2] < p[3]) {
                    continue;
                }
                let end = |p: &[f64; 4], end: usize| if p[end].is_nan() { p[1] } else { p[end] };
                let top = part.iter().map(|p| self.at(p[0], end(p, 3)));
                let bottom = part.iter().rev().map(|p| self.at(p[0], end(p, 2)));
                let band: Vec<Point> = top.chain(bottom).collect();
                pen.area(vec![self.frame.area(&band)], paint);
            }
        }
        let scattered = chart.series.iter().filter(|s| s.mark == Mark::Dots);
        for series in scattered {
            let inside = self
                .places(series)
                .into_iter()
                .filter(|at| self.frame.contains(*at));
            let paint = Paint {
                colour: pen.colour(series),
                alpha: 0.4,
            };
            pen.area(dots(inside, pen.text), paint);
        }
        let mut values = chart.series.iter().flat_map(|s| &s.points);
        if !values.any(|p| p[1].is_finite()) {
            let middle = |a: f32, b: f32| (a + b) / 2.0;
            let at = (
                middle(self.frame.left, self.frame.right),
                middle(self.frame.top, self.frame.bottom),
            );
            let colour = pen.tones.ink;
            pen.text("no finite value", pen.text, at, Align::Middle, colour);
        }
        let mut marked: Vec<Point> = Vec::new();
        for (nth, series) in chart.series.iter().enumerate() {
            let colour = pen.colour(series);
            let paint = Paint::full(colour);
            let crosses = self.crosses(nth, pen.text);
            self.joints(
                pen,
                series,
                &crosses,
                Paint {
                    alpha: 0.7,
                    ..paint
                },
            );
            if series.mark == Mark::Dots {
                continue;
            }
            let stroke = pen.stroke(series);
            for part in parts(series) {
                let points: Vec<Point> = part.iter().map(|p| self.at(p[0], p[1])).collect();
                for points in self.frame.line(&points) {
                    pen.line(points, stroke, dashes(series.look.dash), paint);
                }
            }
            if series.mark == Mark::LineAndMarkers {
                self.markers(pen, nth, &mut marked);
            }
            for (_, at) in crosses {
                pen.cross(at, colour);
            }
        }
    }

    /// Dotted lines from crosses to the points, or the crosses, beside them.
    fn joints(&self, pen: &mut Pen, series: &Series, crosses: &[(f64, Point)], paint: Paint) {
        let values = series.points.iter().filter(|p| p[1].is_finite());
        let values = values.map(|p| (p[0], self.at(p[0], p[1]), false));
        let crosses = crosses.iter().map(|(x, at)| (*x, *at, true));
        let mut all: Vec<(f64, Point, bool)> = values.chain(crosses).collect();
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        // The strip belongs to it.
        let all_of_it = Frame {
            top: self.frame.top - self.strip,
            bottom: self.frame.bottom + self.strip,
            ..self.frame
        };
        for pair in all.windows(2).filter(|pair| pair[0].2 || pair[1].2) {
            for points in all_of_it.line(&[pair[0].1, pair[1].1]) {
                pen.line(points, 0.09 * pen.text, &[0.9, 1.8], paint);
            }
        }
    }

    /// Few points each carry a marker; of many, about eight, not all at the same places.
    fn markers(&self, pen: &mut Pen, nth: usize, marked: &mut Vec<Point>) {
        let series = &self.chart.series[nth];
        let colour = pen.colour(series);
        let places = self.places(series);
        let every = match places.len() {
            0..=16 => 1,
            many => many.div_ceil(8),
        };
        let places = places.into_iter().skip(nth % every).step_by(every);
        let places = places.filter(|at| self.frame.contains(*at));
        for (i, place) in places.enumerate() {
            // Where lines coincide, their markers take turns.
            let near = |m: &&Point| (m.0 - place.0).abs().max((m.1 - place.1).abs()) < 1.0;
            if i % (1 + marked.iter().filter(near).count()) == 0 {
                pen.marker(place, series.look, colour);
            }
            marked.push(place);
        }
    }

    fn axes(&self, pen: &mut Pen) {
        let text = pen.text;
        let Frame {
            left,
            top,
            right,
            bottom,
        } = self.frame;
        let Tones {
            ink, soft, grid, ..
        } = pen.tones;
        let (thin, tick) = (0.05 * text, 0.35 * text);
        let up = if self.chart.diverged_on_top {
            self.strip
        } else {
            0.0
        };
        let down = self.strip - up;
        let across = |place: f64| left + self.x.part_of_place(place) as f32 * (right - left);
        let along = |place: f64| bottom - self.y.part_of_place(place) as f32 * (bottom - top);
        if let Some(paint) = grid {
            let faint = Paint {
                alpha: 0.4 * paint.alpha,
                ..paint
            };
            let minor = |places: &[f64]| places.iter().map(|p| (*p, faint)).collect::<Vec<_>>();
            let major = |ticks: &[Tick]| ticks.iter().map(|t| (t.place, paint)).collect::<Vec<_>>();
            for (place, paint) in [minor(&self.x.minor), major(&self.x.ticks)].concat() {
                let x = across(place);
                pen.line(vec![(x, top), (x, bottom)], thin, &[], paint);
            }
            for (place, paint) in [minor(&self.y.minor), major(&self.y.ticks)].concat() {
                let y = along(place);
                pen.line(vec![(left, y), (right, y)], thin, &[], paint);
            }
        }
        let solid = Paint::full(ink);
        let width = 0.08 * text;
        let floor = bottom + down;
        let mut sides = vec![(left, top - up), (left, floor), (right, floor)];
        if pen.style.theme == Theme::Print {
            sides.extend([(right, top - up), (left, top - up)]);
        }
        pen.line(sides, width, &[], solid);
        if self.strip > 0.0 {
            let edge = if up > 0.0 { top } else { bottom };
            let middle = if up > 0.0 {
                top - up / 2.0
            } else {
                bottom + down / 2.0
            };
            pen.line(
                vec![(left, edge), (right, edge)],
                thin,
                &[],
                Paint {
                    alpha: 0.5,
                    ..solid
                },
            );
            if self.left {
                let size = 0.8 * text;
                let at = (left - 1.3 * tick, middle + CENTRE * size);
                pen.text(DIVERGED, size, at, Align::End, soft);
            }
        }
        for mark in &self.x.ticks {
            let x = across(mark.place);
            pen.line(vec![(x, floor), (x, floor + tick)], width, &[], solid);
            if self.bottom {
                pen.text(
                    &mark.label,
                    text,
                    (x, floor + tick + text),
                    Align::Middle,
                    ink,
                );
            }
        }
        for mark in &self.y.ticks {
            let y = along(mark.place);
            pen.line(vec![(left - tick, y), (left, y)], width, &[], solid);
            if self.left {
                let at = (left - 1.8 * tick, y + CENTRE * text);
                pen.text(&mark.label, text, at, Align::End, ink);
            }
        }
        let half = |a: f32, b: f32| (a + b) / 2.0;
        if self.bottom {
            let title = fitted(&self.chart.x.title, text, right - left + 2.0 * text);
            pen.text(
                &title,
                text,
                (half(left, right), floor + 2.75 * text),
                Align::Middle,
                ink,
            );
        }
        if self.left {
            let widest = self
                .y
                .ticks
                .iter()
                .map(|t| text_width(&t.label, text))
                .fold(0.0, f32::max);
            let widest = if self.strip > 0.0 {
                widest.max(text_width(DIVERGED, 0.8 * text))
            } else {
                widest
            };
            let title = fitted(&self.chart.y.title, text, floor - top + up + text);
            let at = (left - widest - 1.55 * text, half(top - up, floor));
            pen.write(&title, text, at, Align::Middle, ink, true);
        }
        if !self.chart.title.is_empty() {
            let title = fitted(&self.chart.title, text, right - left);
            let at = (half(left, right), top - up - 0.45 * text);
            pen.text(&title, text, at, Align::Middle, ink);
        }
    }
}
