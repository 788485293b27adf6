//! The embedded font, DejaVu Sans with Latin and Greek letters: it measures text, and draws it where the format cannot
//! rely on fonts of the system.

use std::sync::LazyLock;

use ttf_parser::{Face, GlyphId, OutlineBuilder};

use super::canvas::Point;
use crate::results::escape;

pub(super) const BYTES: &[u8] = include_bytes!("../../../assets/DejaVuSans.ttf");

pub(super) static FONT: LazyLock<Face<'static>> =
    LazyLock::new(|| Face::parse(BYTES, 0).expect("the embedded font is whole"));

pub(super) fn glyph(c: char) -> Option<GlyphId> {
    FONT.glyph_index(c)
}

/// How far a character moves the pen, in parts of the text's size. One that the font lacks gets room for a wide one.
pub(super) fn advance(c: char) -> f32 {
    let known = glyph(c).and_then(|glyph| FONT.glyph_hor_advance(glyph));
    let units = FONT.units_per_em();
    f32::from(known.unwrap_or(units)) / f32::from(units)
}

/// In the unit of `size`.
pub fn text_width(text: &str, size: f32) -> f32 {
    text.chars().map(advance).sum::<f32>() * size
}

/// The text as one line of visible characters, cut where there is no room for all of it.
pub fn fitted(text: &str, size: f32, room: f32) -> String {
    let mut text = escape::printable(text).into_owned();
    if text_width(&text, size) > room {
        let room = room - text_width("…", size);
        let mut used = 0.0;
        let cut = text.char_indices().find(|(_, c)| {
            used += advance(*c) * size;
            used > room
        });
        text.truncate(cut.map_or(0, |(at, _)| at));
        text.push('…');
    }
    text
}

/// The outlines of a text whose first letter stands at (0, 0), on its baseline; y counts downwards.
pub(super) fn outlines(text: &str, size: f32) -> Vec<Vec<Point>> {
    let mut pen = 0.0;
    let mut all = Vec::new();
    for c in text.chars() {
        all.extend(outline(c).into_iter().map(|contour| {
            let points = contour.into_iter();
            let place = |(x, y): Point| (pen + x * size, -y * size);
            points.map(place).collect::<Vec<_>>()
        }));
        pen += advance(c) * size;
    }
    all
}

/// A character of size 1, upwards from its baseline: a frame if the font lacks it.
fn outline(c: char) -> Vec<Vec<Point>> {
    let Some(glyph) = glyph(c) else {
        return frame();
    };
    let mut outline = Outline {
        contours: Vec::new(),
        scale: 1.0 / f32::from(FONT.units_per_em()),
    };
    FONT.outline_glyph(glyph, &mut outline);
    outline.contours
}

fn frame() -> Vec<Vec<Point>> {
    let rectangle = |inset: f32| {
        let (left, right) = (0.1 + inset, 0.9 - inset);
        let (foot, head) = (inset, 0.73 - inset);
        vec![(left, foot), (left, head), (right, head), (right, foot)]
    };
    // The other way round inside: what is between them is filled.
    let mut inner = rectangle(0.06);
    inner.reverse();
    vec![rectangle(0.0), inner]
}

/// Contours of a glyph, curves flattened.
struct Outline {
    contours: Vec<Vec<Point>>,
    scale: f32,
}

impl Outline {
    fn contour(&mut self) -> &mut Vec<Point> {
        let last = self.contours.last_mut();
        last.expect("a contour starts with a move")
    }

    fn curve(&mut self, at: impl Fn(f32, Point) -> Point) {
        const PARTS: u8 = 8;
        let from = *self.contour().last().expect("a contour starts with a move");
        let points = (1..=PARTS).map(|i| at(f32::from(i) / f32::from(PARTS), from));
        self.contour().extend(points);
    }
}

impl OutlineBuilder for Outline {
    fn move_to(&mut self, x: f32, y: f32) {
        self.contours.push(vec![(x * self.scale, y * self.scale)]);
    }

    fn line_to(&mut self, x: f32, y: f32) {
        let to = (x * self.scale, y * self.scale);
        self.contour().push(to);
    }

    fn quad_to(&mut self, x1: f32, y1: f32, x: f32, y: f32) {
        let k = self.scale;
        self.curve(|t, (x0, y0)| {
            let [a, b, c] = [(1.0 - t) * (1.0 - t), 2.0 * t * (1.0 - t) * k, t * t * k];
            (a * x0 + b * x1 + c * x, a * y0 + b * y1 + c * y)
        });
    }

    fn curve_to(&mut self, x1: f32, y1: f32, x2: f32, y2: f32, x: f32, y: f32) {
        let k = self.scale;
        self.curve(|t, (x0, y0)| {
            let s = 1.0 - t;
            let [a, b, c, d] = [
                s * s * s,
                3.0 * s * s * t * k,
                3.0 * s * t * t * k,
                t * t * t * k,
            ];
            (
                a * x0 + b * x1 + c * x2 + d * x,
                a * y0 + b * y1 + c * y2 + d * y,
            )
        });
    }

    fn close(&mut self) {}
}
