//! A drawing as a list of lines, areas and texts, which plotters draws into and which is written as SVG,
//! PNG or PDF. One embedded font (DejaVu Sans, Latin and Greek) measures text and draws it where the
//! format cannot rely on fonts of the system.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::LazyLock;

use ttf_parser::{Face, GlyphId, OutlineBuilder};

use crate::results::escape;

/// Drawing units per point (1/72 inch): plotters counts in whole units.
pub const UNITS: i32 = 20;

static FONT: LazyLock<Face<'static>> = LazyLock::new(|| {
    let bytes = include_bytes!("../../../assets/DejaVuSans.ttf");
    Face::parse(bytes, 0).expect("the embedded font is whole")
});

pub(super) type Point = (f32, f32);

#[derive(Clone, Copy, Debug)]
pub struct Paint {
    pub rgb: (u8, u8, u8),
    pub alpha: f32,
}

#[derive(Clone, Debug)]
pub enum Shape {
    Line {
        points: Vec<Point>,
        width: f32,
        paint: Paint,
    },
    /// Closed contours, filled by the nonzero rule.
    Area {
        contours: Vec<Vec<Point>>,
        paint: Paint,
    },
    Text {
        text: String,
        size: f32,
        at: Point,
        align: f32,
        baseline: f32,
        upright: bool,
        paint: Paint,
    },
}

/// Sizes and coordinates in units from the top left.
#[derive(Clone, Debug)]
pub struct Canvas {
    pub width: u32,
    pub height: u32,
    pub shapes: Vec<Shape>,
}

impl Canvas {
    pub fn new(width: u32, height: u32) -> Canvas {
        Canvas {
            width,
            height,
            shapes: Vec::new(),
        }
    }

    pub fn svg(&self) -> String {
        let Canvas { width, height, .. } = self;
        let points = |units: u32| f64::from(units) / f64::from(UNITS);
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}pt\" height=\"{}pt\" \
             viewBox=\"0 0 {width} {height}\" font-family=\"DejaVu Sans, Verdana, Arial, sans-serif\">\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n",
            points(*width),
            points(*height)
        );
        let path = |points: &[Point]| {
            let points = points.iter().map(|(x, y)| format!("{x},{y}"));
            points.collect::<Vec<_>>().join(" ")
        };
        for shape in &self.shapes {
            match shape {
                Shape::Line { points, width, paint } => writeln!(
                    out,
                    "<polyline fill=\"none\" stroke=\"{}\" stroke-opacity=\"{}\" stroke-width=\"{width}\" \
                     stroke-linejoin=\"round\" points=\"{}\"/>",
                    hex(paint), paint.alpha, path(points)
                ),
                Shape::Area { contours, paint } => {
                    let contours = contours.iter().map(|c| format!("M{}Z", path(c)));
                    writeln!(
                        out,
                        "<path fill=\"{}\" fill-opacity=\"{}\" d=\"{}\"/>",
                        hex(paint), paint.alpha, contours.collect::<String>()
                    )
                }
                Shape::Text { text, size, at, align, baseline, upright, paint } => {
                    let anchor = ["start", "middle", "end"][(align * 2.0) as usize];
                    let turn = if *upright { " rotate(-90)" } else { "" };
                    writeln!(
                        out,
                        "<text transform=\"translate({} {}){turn}\" y=\"{baseline}\" font-size=\"{size}\" \
                         text-anchor=\"{anchor}\" fill=\"{}\">{}</text>",
                        at.0, at.1, hex(paint), escape::xml(text)
                    )
                }
            }
            .expect("writing to a string");
        }
        out + "</svg>\n"
    }

    /// The characters that PNG and PDF show as frames, since the embedded font lacks them.
    pub fn lacking(&self) -> BTreeSet<char> {
        let texts = self.shapes.iter().filter_map(|shape| match shape {
            Shape::Text { text, .. } => Some(text.chars()),
            _ => None,
        });
        texts.flatten().filter(|c| glyph(*c).is_none()).collect()
    }

    /// As pixels, `dpi` of them to the inch.
    pub fn png(&self, dpi: f32) -> Vec<u8> {
        let scale = dpi / 72.0 / UNITS as f32;
        let pixels = |units: u32| (units as f32 * scale).round().max(1.0) as u32;
        let mut pixmap = tiny_skia::Pixmap::new(pixels(self.width), pixels(self.height)).expect(
            "neither empty nor beyond 2^31 pixels: the width is checked on the command line",
        );
        pixmap.fill(tiny_skia::Color::WHITE);
        let transform = tiny_skia::Transform::from_scale(scale, scale);
        for shape in &self.shapes {
            let mut brush = tiny_skia::Paint {
                anti_alias: true,
                ..Default::default()
            };
            let mut color = |p: &Paint| {
                let (r, g, b) = p.rgb;
                brush.set_color_rgba8(r, g, b, (p.alpha * 255.0).round() as u8);
            };
            match shape {
                Shape::Line {
                    points,
                    width,
                    paint,
                } => {
                    color(paint);
                    let stroke = tiny_skia::Stroke {
                        width: *width,
                        line_join: tiny_skia::LineJoin::Round,
                        ..Default::default()
                    };
                    if let Some(path) = skia_path(std::slice::from_ref(points), false) {
                        pixmap.stroke_path(&path, &brush, &stroke, transform, None);
                    }
                }
                Shape::Area { paint, .. } | Shape::Text { paint, .. } => {
                    color(paint);
                    if let Some(path) = skia_path(&shape.contours(), true) {
                        let rule = tiny_skia::FillRule::Winding;
                        pixmap.fill_path(&path, &brush, rule, transform, None);
                    }
                }
            }
        }
        pixmap.encode_png().expect("writing to memory")
    }

    /// One page; text as outlines, so that no font is needed to show or print it.
    pub fn pdf(&self) -> Vec<u8> {
        use std::io::Write;

        use pdf_writer::{Content, Finish, Name, Pdf, Rect, Ref};
        let [catalog, pages, page, contents] = [1, 2, 3, 4].map(Ref::new);
        let scale = 1.0 / UNITS as f32;
        let size = [self.width, self.height].map(|u| u as f32 * scale);
        let mut alphas: Vec<f32> = Vec::new();
        let mut content = Content::new();
        // PDF counts from the bottom left.
        content.transform([scale, 0.0, 0.0, -scale, 0.0, size[1]]);
        content.set_line_join(pdf_writer::types::LineJoinStyle::RoundJoin);
        for shape in &self.shapes {
            let (Shape::Line { paint, .. } | Shape::Area { paint, .. } | Shape::Text { paint, .. }) =
                shape;
            let [r, g, b] = [paint.rgb.0, paint.rgb.1, paint.rgb.2].map(|c| f32::from(c) / 255.0);
            let state = alphas
                .iter()
                .position(|a| *a == paint.alpha)
                .unwrap_or_else(|| {
                    alphas.push(paint.alpha);
                    alphas.len() - 1
                });
            content.set_parameters(Name(format!("G{state}").as_bytes()));
            let (contours, line) = match shape {
                Shape::Line { points, width, .. } => (vec![points.clone()], Some(*width)),
                _ => (shape.contours(), None),
            };
            content.set_fill_rgb(r, g, b).set_stroke_rgb(r, g, b);
            content.set_line_width(line.unwrap_or_default());
            for contour in &contours {
                for (i, &(x, y)) in contour.iter().enumerate() {
                    // A unit is 1/1440 inch: fractions would only make the file longer.
                    let (x, y) = (x.round(), y.round());
                    if i == 0 {
                        content.move_to(x, y)
                    } else {
                        content.line_to(x, y)
                    };
                }
                if line.is_none() {
                    content.close_path();
                }
            }
            match line {
                Some(_) => content.stroke(),
                None => content.fill_nonzero(),
            };
        }
        let mut pdf = Pdf::new();
        pdf.catalog(catalog).pages(pages);
        pdf.pages(pages).kids([page]).count(1);
        let mut leaf = pdf.page(page);
        leaf.media_box(Rect::new(0.0, 0.0, size[0], size[1]));
        leaf.parent(pages).contents(contents);
        let mut resources = leaf.resources();
        let mut states = resources.ext_g_states();
        for (i, _) in alphas.iter().enumerate() {
            states.pair(Name(format!("G{i}").as_bytes()), Ref::new(5 + i as i32));
        }
        states.finish();
        resources.finish();
        leaf.finish();
        for (i, alpha) in alphas.iter().enumerate() {
            let mut state = pdf.ext_graphics(Ref::new(5 + i as i32));
            state.stroking_alpha(*alpha).non_stroking_alpha(*alpha);
        }
        let mut zip = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        zip.write_all(&content.finish()).expect("writing to memory");
        let zipped = zip.finish().expect("writing to memory");
        pdf.stream(contents, &zipped)
            .filter(pdf_writer::Filter::FlateDecode);
        pdf.finish()
    }
}

impl Shape {
    /// What is filled: an area's own contours, a text's outlines; nothing of a line.
    fn contours(&self) -> Vec<Vec<Point>> {
        match self {
            Shape::Line { .. } => Vec::new(),
            Shape::Area { contours, .. } => contours.clone(),
            Shape::Text {
                text,
                size,
                at,
                align,
                baseline,
                upright,
                ..
            } => {
                let scale = size / f32::from(FONT.units_per_em());
                let mut pen = -align * text_width(text, *size);
                let mut outline = Outline::default();
                for c in text.chars() {
                    let mut one = Outline::default();
                    match glyph(c) {
                        Some(glyph) => drop(FONT.outline_glyph(glyph, &mut one)),
                        None => one.contours = frame(),
                    }
                    let place = |(x, y): Point| {
                        let (x, y) = (pen + x * scale, baseline - y * scale);
                        let (x, y) = if *upright { (y, -x) } else { (x, y) };
                        (at.0 + x, at.1 + y)
                    };
                    let contours = one.contours.into_iter();
                    outline
                        .contours
                        .extend(contours.map(|c| c.into_iter().map(place).collect()));
                    pen += advance(c) * scale;
                }
                outline.contours
            }
        }
    }
}

fn glyph(c: char) -> Option<GlyphId> {
    FONT.glyph_index(c)
}

/// In units of the font. Characters that it lacks get room for a wide one.
fn advance(c: char) -> f32 {
    let known = glyph(c).and_then(|glyph| FONT.glyph_hor_advance(glyph));
    known.unwrap_or(FONT.units_per_em()).into()
}

/// In the unit of `size`.
pub fn text_width(text: &str, size: f32) -> f32 {
    text.chars().map(advance).sum::<f32>() / f32::from(FONT.units_per_em()) * size
}

/// The text as one line of visible characters, cut where there is no room for all of it.
pub fn fitted(text: &str, size: f32, room: f32) -> String {
    let mut text = escape::printable(text).into_owned();
    if text_width(&text, size) > room {
        let room = room - text_width("…", size);
        let mut used = 0.0;
        let cut = text.char_indices().find(|(_, c)| {
            used += advance(*c) / f32::from(FONT.units_per_em()) * size;
            used > room
        });
        text.truncate(cut.map_or(0, |(at, _)| at));
        text.push('…');
    }
    text
}

/// A frame, in units of the font, for a character that it lacks.
fn frame() -> Vec<Vec<Point>> {
    let em = f32::from(FONT.units_per_em());
    let rectangle = |inset: f32| {
        let (left, right) = ((0.1 + inset) * em, (0.9 - inset) * em);
        let (foot, head) = (inset * em, (0.73 - inset) * em);
        vec![(left, foot), (left, head), (right, head), (right, foot)]
    };
    // The other way round inside: what is between them is filled.
    let mut inner = rectangle(0.06);
    inner.reverse();
    vec![rectangle(0.0), inner]
}

fn hex(paint: &Paint) -> String {
    let (r, g, b) = paint.rgb;
    format!("#{r:02x}{g:02x}{b:02x}")
}

fn skia_path(contours: &[Vec<Point>], close: bool) -> Option<tiny_skia::Path> {
    let mut path = tiny_skia::PathBuilder::new();
    for contour in contours {
        for (i, &(x, y)) in contour.iter().enumerate() {
            if i == 0 {
                path.move_to(x, y)
            } else {
                path.line_to(x, y)
            }
        }
        if close {
            path.close();
        }
    }
    path.finish()
}

/// Contours of a glyph, curves flattened.
#[derive(Default)]
struct Outline {
    contours: Vec<Vec<Point>>,
}

impl Outline {
    fn curve(&mut self, at: impl Fn(f32, Point) -> Point) {
        const PARTS: u8 = 8;
        let contour = self
            .contours
            .last_mut()
            .expect("a contour starts with a move");
        let from = *contour.last().expect("a contour starts with a move");
        contour.extend((1..=PARTS).map(|i| at(f32::from(i) / f32::from(PARTS), from)));
    }
}

impl OutlineBuilder for Outline {
    fn move_to(&mut self, x: f32, y: f32) {
        self.contours.push(vec![(x, y)]);
    }

    fn line_to(&mut self, x: f32, y: f32) {
        let contour = self.contours.last_mut();
        contour.expect("a contour starts with a move").push((x, y));
    }

    fn quad_to(&mut self, x1: f32, y1: f32, x: f32, y: f32) {
        self.curve(|t, (x0, y0)| {
            let [a, b, c] = [(1.0 - t) * (1.0 - t), 2.0 * t * (1.0 - t), t * t];
            (a * x0 + b * x1 + c * x, a * y0 + b * y1 + c * y)
        });
    }

    fn curve_to(&mut self, x1: f32, y1: f32, x2: f32, y2: f32, x: f32, y: f32) {
        self.curve(|t, (x0, y0)| {
            let s = 1.0 - t;
            let [a, b, c, d] = [s * s * s, 3.0 * s * s * t, 3.0 * s * t * t, t * t * t];
            (
                a * x0 + b * x1 + c * x2 + d * x,
                a * y0 + b * y1 + c * y2 + d * y,
            )
        });
    }

    fn close(&mut self) {}
}
