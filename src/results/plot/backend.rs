//! plotters' way into a [`Canvas`].

use std::convert::Infallible;

use plotters_backend::text_anchor::{HPos, VPos};
use plotters_backend::{
    BackendColor, BackendCoord, BackendStyle, BackendTextStyle, DrawingBackend, DrawingErrorKind,
    FontTransform,
};

use super::canvas::{Canvas, Paint, Point, Shape, text_width};

pub struct Backend<'a>(pub &'a mut Canvas);

type Done = Result<(), DrawingErrorKind<Infallible>>;

fn paint(color: BackendColor) -> Paint {
    Paint {
        rgb: color.rgb,
        alpha: color.alpha as f32,
    }
}

fn point((x, y): BackendCoord) -> Point {
    (x as f32, y as f32)
}

impl Backend<'_> {
    fn push(&mut self, shape: Shape, color: BackendColor) -> Done {
        if color.alpha > 0.0 {
            self.0.shapes.push(shape);
        }
        Ok(())
    }
}

impl DrawingBackend for Backend<'_> {
    type ErrorType = Infallible;

    fn get_size(&self) -> (u32, u32) {
        (self.0.width, self.0.height)
    }

    fn ensure_prepared(&mut self) -> Done {
        Ok(())
    }

    fn present(&mut self) -> Done {
        Ok(())
    }

    fn draw_pixel(&mut self, (x, y): BackendCoord, color: BackendColor) -> Done {
        self.fill_polygon([(x, y), (x + 1, y), (x + 1, y + 1), (x, y + 1)], &color)
    }

    fn draw_line<S: BackendStyle>(
        &mut self,
        from: BackendCoord,
        to: BackendCoord,
        style: &S,
    ) -> Done {
        self.draw_path([from, to], style)
    }

    fn draw_rect<S: BackendStyle>(
        &mut self,
        (x0, y0): BackendCoord,
        (x1, y1): BackendCoord,
        style: &S,
        fill: bool,
    ) -> Done {
        let corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)];
        if fill {
            self.fill_polygon(corners, style)
        } else {
            self.draw_path(corners.into_iter().chain([(x0, y0)]), style)
        }
    }

    fn draw_path<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(
        &mut self,
        path: I,
        style: &S,
    ) -> Done {
        let line = Shape::Line {
            points: path.into_iter().map(point).collect(),
            width: style.stroke_width() as f32,
            paint: paint(style.color()),
        };
        self.push(line, style.color())
    }

    fn draw_circle<S: BackendStyle>(
        &mut self,
        (x, y): BackendCoord,
        radius: u32,
        style: &S,
        fill: bool,
    ) -> Done {
        let corner = |i: u8| {
            let angle = f32::from(i) / 32.0 * std::f32::consts::TAU;
            let (sin, cos) = angle.sin_cos();
            (
                x + (radius as f32 * cos) as i32,
                y + (radius as f32 * sin) as i32,
            )
        };
        if fill {
            self.fill_polygon((0..32).map(corner), style)
        } else {
            self.draw_path((0..=32).map(corner), style)
        }
    }

    fn fill_polygon<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(
        &mut self,
        points: I,
        style: &S,
    ) -> Done {
        let area = Shape::Area {
            contours: vec![points.into_iter().map(point).collect()],
            paint: paint(style.color()),
        };
        self.push(area, style.color())
    }

    fn draw_text<S: BackendTextStyle>(&mut self, text: &str, style: &S, at: BackendCoord) -> Done {
        let size = style.size() as f32;
        let anchor = style.anchor();
        // Capitals and digits are 0.73 of the size high: centred, their feet are half of that below.
        let baseline = match anchor.v_pos {
            VPos::Top => 0.86,
            VPos::Center => 0.36,
            VPos::Bottom => -0.14,
        };
        let text = Shape::Text {
            text: text.to_owned(),
            size,
            at: point(at),
            align: match anchor.h_pos {
                HPos::Left => 0.0,
                HPos::Center => 0.5,
                HPos::Right => 1.0,
            },
            baseline: baseline * size,
            upright: matches!(style.transform(), FontTransform::Rotate270),
            paint: paint(style.color()),
        };
        self.push(text, style.color())
    }

    fn estimate_text_size<S: BackendTextStyle>(
        &self,
        text: &str,
        style: &S,
    ) -> Result<(u32, u32), DrawingErrorKind<Infallible>> {
        let size = style.size() as f32;
        // Descenders reach below the box of size one.
        let height = (1.2 * size).ceil() as u32;
        Ok((text_width(text, size).ceil() as u32, height))
    }
}
