//! A [`Canvas`] as one page of PDF. Texts are texts, in the embedded font; a character that it lacks is a frame.

use std::collections::BTreeMap;
use std::io::Write;

use pdf_writer::types::{CidFontType, FontFlags, LineJoinStyle, SystemInfo, UnicodeCmap};
use pdf_writer::{Content, Finish, Name, Pdf, Rect, Ref, Str, TextStr};

use super::canvas::{CREATOR, Canvas, Paint, Point, Shape, short};
use super::font::{self, FONT};

const FONT_NAME: Name = Name(b"DejaVuSans");
const IDENTITY: SystemInfo = SystemInfo {
    registry: Str(b"Adobe"),
    ordering: Str(b"Identity"),
    supplement: 0,
};

impl Canvas {
    pub fn pdf(&self) -> Vec<u8> {
        let mut refs = (1..).map(Ref::new);
        let mut next = || refs.next().expect("there are many");
        let [catalog, pages, page, contents, info, font] = [(); 6].map(|()| next());
        let mut page_content = PageContent::new(self.height);
        self.shapes.iter().for_each(|shape| page_content.add(shape));

        let mut pdf = Pdf::new();
        pdf.catalog(catalog).pages(pages);
        pdf.pages(pages).kids([page]).count(1);
        pdf.document_info(info)
            .title(TextStr(&self.title))
            .creator(TextStr(CREATOR));
        let states: Vec<(Ref, f32)> = page_content.alphas.iter().map(|a| (next(), *a)).collect();
        let mut leaf = pdf.page(page);
        leaf.media_box(Rect::new(0.0, 0.0, self.width, self.height));
        leaf.parent(pages).contents(contents);
        let mut resources = leaf.resources();
        resources.fonts().pair(Name(b"F"), font);
        let mut names = resources.ext_g_states();
        for (i, (state, _)) in states.iter().enumerate() {
            names.pair(Name(format!("G{i}").as_bytes()), *state);
        }
        names.finish();
        resources.finish();
        leaf.finish();
        for (state, alpha) in states {
            let mut state = pdf.ext_graphics(state);
            state.stroking_alpha(alpha).non_stroking_alpha(alpha);
        }
        let zipped = zipped(&page_content.content.finish());
        pdf.stream(contents, &zipped)
            .filter(pdf_writer::Filter::FlateDecode);
        write_font(
            &mut pdf,
            font,
            [(); 4].map(|()| next()),
            &page_content.glyphs,
        );
        pdf.finish()
    }
}

/// What a page shows, and what it needs for that.
struct PageContent {
    content: Content,
    height: f32,
    alphas: Vec<f32>,
    /// The glyphs in use, each with its character.
    glyphs: BTreeMap<u16, char>,
}

impl PageContent {
    fn new(height: f32) -> PageContent {
        let mut content = Content::new();
        content.set_line_join(LineJoinStyle::RoundJoin);
        PageContent {
            content,
            height,
            alphas: Vec::new(),
            glyphs: BTreeMap::new(),
        }
    }

    /// PDF counts from the bottom left.
    fn place(&self, (x, y): Point) -> Point {
        (short(x), short(self.height - y))
    }

    fn add(&mut self, shape: &Shape) {
        self.paint(shape.paint());
        match shape {
            Shape::Line {
                points,
                width,
                dash,
                ..
            } => {
                self.path(points);
                self.content.set_line_width(*width);
                self.content.set_dash_pattern(dash.iter().copied(), 0.0);
                self.content.stroke();
            }
            Shape::Area { contours, .. } => self.fill(contours),
            Shape::Text {
                text,
                size,
                at,
                align,
                upright,
                ..
            } => {
                let mut pen = align.before(text, *size);
                let turned = |x: f32, y: f32| match upright {
                    true => (at.0 + y, at.1 - x),
                    false => (at.0 + x, at.1 + y),
                };
                // As long as the font has the characters, they are one text.
                let mut rest = text.as_str();
                while let Some(first) = rest.chars().next() {
                    let known = font::glyph(first).is_some();
                    let end = rest.find(|c| font::glyph(c).is_some() != known);
                    let (part, after) = rest.split_at(end.unwrap_or(rest.len()));
                    if known {
                        self.text(part, *size, self.place(turned(pen, 0.0)), *upright);
                    } else {
                        let mut frames = font::outlines(part, *size);
                        for point in frames.iter_mut().flatten() {
                            *point = turned(pen + point.0, point.1);
                        }
                        self.fill(&frames);
                    }
                    pen += font::text_width(part, *size);
                    rest = after;
                }
            }
        }
    }

    fn paint(&mut self, paint: Paint) {
        let [r, g, b] = paint.rgb().map(|c| f32::from(c) / 255.0);
        let known = self.alphas.iter().position(|a| *a == paint.alpha);
        let state = known.unwrap_or_else(|| {
            self.alphas.push(paint.alpha);
            self.alphas.len() - 1
        });
        self.content
            .set_parameters(Name(format!("G{state}").as_bytes()))
            .set_fill_rgb(r, g, b)
            .set_stroke_rgb(r, g, b);
    }

    fn path(&mut self, points: &[Point]) {
        for (i, &point) in points.iter().enumerate() {
            let (x, y) = self.place(point);
            if i == 0 {
                self.content.move_to(x, y)
            } else {
                self.content.line_to(x, y)
            };
        }
    }

    fn fill(&mut self, contours: &[Vec<Point>]) {
        for contour in contours {
            self.path(contour);
            self.content.close_path();
        }
        self.content.fill_nonzero();
    }

    fn text(&mut self, text: &str, size: f32, (x, y): Point, upright: bool) {
        let mut codes = Vec::new();
        for c in text.chars() {
            let glyph = font::glyph(c).expect("only what the font has").0;
            self.glyphs.insert(glyph, c);
            codes.extend(glyph.to_be_bytes());
        }
        let [a, b, c, d] = match upright {
            true => [0.0, 1.0, -1.0, 0.0],
            false => [1.0, 0.0, 0.0, 1.0],
        };
        self.content
            .begin_text()
            .set_font(Name(b"F"), size)
            .set_text_matrix([a, b, c, d, x, y])
            .show(Str(&codes))
            .end_text();
    }
}

/// The embedded font, whole: it is small. Texts are numbers of glyphs; a table says which characters they are.
fn write_font(pdf: &mut Pdf, font: Ref, refs: [Ref; 4], glyphs: &BTreeMap<u16, char>) {
    let [descendant, descriptor, file, cmap] = refs;
    pdf.type0_font(font)
        .base_font(FONT_NAME)
        .encoding_predefined(Name(b"Identity-H"))
        .descendant_font(descendant)
        .to_unicode(cmap);
    // PDF wants thousandths of the size.
    let thousandth = 1000.0 / f32::from(FONT.units_per_em());
    let mut one = pdf.cid_font(descendant);
    one.subtype(CidFontType::Type2)
        .base_font(FONT_NAME)
        .system_info(IDENTITY)
        .font_descriptor(descriptor)
        .cid_to_gid_map_predefined(Name(b"Identity"));
    let mut widths = one.widths();
    for (glyph, c) in glyphs {
        widths.consecutive(*glyph, [1000.0 * font::advance(*c)]);
    }
    widths.finish();
    one.finish();
    let size = FONT.global_bounding_box();
    let [left, bottom, right, top] =
        [size.x_min, size.y_min, size.x_max, size.y_max].map(|x| f32::from(x) * thousandth);
    pdf.font_descriptor(descriptor)
        .name(FONT_NAME)
        .flags(FontFlags::NON_SYMBOLIC)
        .bbox(Rect::new(left, bottom, right, top))
        .italic_angle(0.0)
        .ascent(f32::from(FONT.ascender()) * thousandth)
        .descent(f32::from(FONT.descender()) * thousandth)
        .cap_height(f32::from(FONT.capital_height().unwrap_or(FONT.ascender())) * thousandth)
        .stem_v(80.0)
        .font_file2(file);
    let zipped_font = zipped(font::BYTES);
    let length = i32::try_from(font::BYTES.len()).expect("it is small");
    let mut stream = pdf.stream(file, &zipped_font);
    stream.filter(pdf_writer::Filter::FlateDecode);
    stream.pair(Name(b"Length1"), length);
    stream.finish();
    let mut characters = UnicodeCmap::new(Name(b"Custom"), IDENTITY);
    for (glyph, c) in glyphs {
        characters.pair(*glyph, *c);
    }
    pdf.cmap(cmap, &characters.finish());
}

fn zipped(bytes: &[u8]) -> Vec<u8> {
    let mut zip = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    zip.write_all(bytes).expect("writing to memory");
    zip.finish().expect("writing to memory")
}
