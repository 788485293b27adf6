//! A drawing as a list of lines, areas and texts, which is written as SVG, PNG or PDF.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::font;
use crate::results::escape;

/// In points (1/72 inch) from the top left.
pub type Point = (f32, f32);

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Paint {
    /// 0xRRGGBB
    pub colour: u32,
    pub alpha: f32,
}

impl Paint {
    pub const fn full(colour: u32) -> Paint {
        Paint { colour, alpha: 1.0 }
    }

    pub(super) fn rgb(self) -> [u8; 3] {
        let [_, rgb @ ..] = self.colour.to_be_bytes();
        rgb
    }
}

#[derive(Clone, Debug)]
pub enum Shape {
    Line {
        points: Vec<Point>,
        width: f32,
        /// Lengths of dashes and gaps in turn; none for a solid line.
        dash: &'static [f32],
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
        /// On the baseline: where the text begins, its middle, or its end, as `align` says.
        at: Point,
        align: Align,
        /// Does it run from below upwards?
        upright: bool,
        paint: Paint,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    Start,
    Middle,
    End,
}

/// Sizes in points.
#[derive(Clone, Debug)]
pub struct Canvas {
    /// For the file's metadata.
    pub title: String,
    pub width: f32,
    pub height: f32,
    /// Colour of the ground.
    pub paper: u32,
    pub shapes: Vec<Shape>,
}

/// Who made a file, for its metadata.
pub(super) const CREATOR: &str = concat!("stepback-native ", env!("CARGO_PKG_VERSION"));

impl Canvas {
    pub fn svg(&self) -> String {
        let (width, height) = (short(self.width), short(self.height));
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}pt\" height=\"{height}pt\" \
             viewBox=\"0 0 {width} {height}\" font-family=\"DejaVu Sans, Verdana, Arial, sans-serif\">\n\
             <title>{}</title>\n<desc>{CREATOR}</desc>\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"#{:06x}\"/>\n",
            escape::xml(&self.title),
            self.paper
        );
        let path = |points: &[Point]| {
            let points = points.iter();
            let points = points.map(|(x, y)| format!("{},{}", short(*x), short(*y)));
            points.collect::<Vec<_>>().join(" ")
        };
        for shape in &self.shapes {
            let Paint { colour, alpha } = shape.paint();
            match shape {
                Shape::Line { points, width, dash, .. } => {
                    let dash: Vec<String> = dash.iter().map(f32::to_string).collect();
                    let dash = match dash.is_empty() {
                        true => String::new(),
                        false => format!(" stroke-dasharray=\"{}\"", dash.join(" ")),
                    };
                    writeln!(
                        out,
                        "<polyline fill=\"none\" stroke=\"#{colour:06x}\" stroke-opacity=\"{alpha}\" \
                         stroke-width=\"{}\" stroke-linejoin=\"round\"{dash} points=\"{}\"/>",
                        short(*width),
                        path(points)
                    )
                }
                Shape::Area { contours, .. } => {
                    let contours = contours.iter().map(|c| format!("M{}Z", path(c)));
                    writeln!(
                        out,
                        "<path fill=\"#{colour:06x}\" fill-opacity=\"{alpha}\" d=\"{}\"/>",
                        contours.collect::<String>()
                    )
                }
                Shape::Text { text, size, at, align, upright, .. } => {
                    let anchor = match align {
                        Align::Start => "start",
                        Align::Middle => "middle",
                        Align::End => "end",
                    };
                    let turn = if *upright { " rotate(-90)" } else { "" };
                    writeln!(
                        out,
                        "<text transform=\"translate({} {}){turn}\" font-size=\"{}\" \
                         text-anchor=\"{anchor}\" fill=\"#{colour:06x}\">{}</text>",
                        short(at.0), short(at.1), short(*size), escape::xml(text)
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
        texts
            .flatten()
            .filter(|c| font::glyph(*c).is_none())
            .collect()
    }

    /// As pixels, `dpi` of them to the inch.
    pub fn png(&self, dpi: u32) -> Vec<u8> {
        let scale = dpi as f32 / 72.0;
        let pixels = |points: f32| (points * scale).round().max(1.0) as u32;
        let mut pixmap = tiny_skia::Pixmap::new(pixels(self.width), pixels(self.height))
            .expect("neither empty nor beyond 2^31 pixels: sizes are checked on the command line");
        let [r, g, b] = Paint::full(self.paper).rgb();
        pixmap.fill(tiny_skia::Color::from_rgba8(r, g, b, 255));
        let transform = tiny_skia::Transform::from_scale(scale, scale);
        for shape in &self.shapes {
            let paint = shape.paint();
            let [r, g, b] = paint.rgb();
            let mut brush = tiny_skia::Paint {
                anti_alias: true,
                ..Default::default()
            };
            brush.set_color_rgba8(r, g, b, (paint.alpha * 255.0).round() as u8);
            match shape {
                Shape::Line {
                    points,
                    width,
                    dash,
                    ..
                } => {
                    let stroke = tiny_skia::Stroke {
                        width: *width,
                        line_join: tiny_skia::LineJoin::Round,
                        dash: tiny_skia::StrokeDash::new(dash.to_vec(), 0.0),
                        ..Default::default()
                    };
                    if let Some(path) = skia_path(std::slice::from_ref(points), false) {
                        pixmap.stroke_path(&path, &brush, &stroke, transform, None);
                    }
                }
                _ => {
                    if let Some(path) = skia_path(&shape.contours(), true) {
                        let rule = tiny_skia::FillRule::Winding;
                        pixmap.fill_path(&path, &brush, rule, transform, None);
                    }
                }
            }
        }
        encoded(&pixmap, &self.title, dpi)
    }
}

/// Pixels on an opaque ground as PNG, with what programs want to know to print them as large as they are meant.
fn encoded(pixmap: &tiny_skia::Pixmap, title: &str, dpi: u32) -> Vec<u8> {
    let rgb = pixmap.data().chunks_exact(4).flat_map(|rgba| &rgba[..3]);
    let rgb: Vec<u8> = rgb.copied().collect();
    let mut info = png::Info::with_size(pixmap.width(), pixmap.height());
    info.color_type = png::ColorType::Rgb;
    info.bit_depth = png::BitDepth::Eight;
    let per_metre = (f64::from(dpi) / 0.0254).round() as u32;
    info.pixel_dims = Some(png::PixelDimensions {
        xppu: per_metre,
        yppu: per_metre,
        unit: png::Unit::Meter,
    });
    let text = |keyword: &str, text: &str| png::text_metadata::ITXtChunk::new(keyword, text);
    info.utf8_text = vec![text("Title", title), text("Software", CREATOR)];
    let mut out = Vec::new();
    let encoder = png::Encoder::with_info(&mut out, info).expect("no animation");
    let written = encoder.write_header().and_then(|mut writer| {
        writer.write_image_data(&rgb)?;
        writer.finish()
    });
    written.expect("writing to memory");
    out
}

impl Shape {
    pub(super) fn paint(&self) -> Paint {
        let (Shape::Line { paint, .. } | Shape::Area { paint, .. } | Shape::Text { paint, .. }) =
            self;
        *paint
    }

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
                upright,
                ..
            } => {
                let mut contours = font::outlines(text, *size);
                let start = align.before(text, *size);
                for point in contours.iter_mut().flatten() {
                    let (x, y) = (start + point.0, point.1);
                    let (x, y) = if *upright { (y, -x) } else { (x, y) };
                    *point = (at.0 + x, at.1 + y);
                }
                contours
            }
        }
    }
}

impl Align {
    /// Where a text starts, seen from the point that it is aligned to.
    pub(super) fn before(self, text: &str, size: f32) -> f32 {
        let part = match self {
            Align::Start => return 0.0,
            Align::Middle => 0.5,
            Align::End => 1.0,
        };
        -part * font::text_width(text, size)
    }
}

/// Hundredths of a point: more would only make files longer.
pub(super) fn short(x: f32) -> f32 {
    (x * 100.0).round() / 100.0
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
