//! Lines and areas cut to a rectangle.

use super::canvas::Point;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Frame {
    pub left: f32,
    pub top: f32,
    pub right: f32,
    pub bottom: f32,
}

impl Frame {
    pub fn width(&self) -> f32 {
        self.right - self.left
    }

    pub fn height(&self) -> f32 {
        self.bottom - self.top
    }

    pub fn contains(&self, (x, y): Point) -> bool {
        // A hair more: what lies on the edge is inside, whatever the rounding.
        let near = 0.01;
        (self.left - near..=self.right + near).contains(&x)
            && (self.top - near..=self.bottom + near).contains(&y)
    }

    /// How far a point is inside each of the four sides; negative outside.
    fn inside(&self, (x, y): Point) -> [f32; 4] {
        [x - self.left, self.right - x, y - self.top, self.bottom - y]
    }

    /// The parts of a line that are inside.
    pub fn line(&self, points: &[Point]) -> Vec<Vec<Point>> {
        let mut parts: Vec<Vec<Point>> = Vec::new();
        for pair in points.windows(2) {
            let (a, b) = (self.inside(pair[0]), self.inside(pair[1]));
            let (mut enter, mut leave) = (0.0f32, 1.0f32);
            for (a, b) in a.into_iter().zip(b) {
                match (a < 0.0, b < 0.0) {
                    (true, true) => leave = -1.0,
                    (true, false) => enter = enter.max(a / (a - b)),
                    (false, true) => leave = leave.min(a / (a - b)),
                    (false, false) => {}
                }
            }
            if enter > leave {
                continue;
            }
            let (from, to) = (between(pair, enter), between(pair, leave));
            match parts.last_mut() {
                Some(part) if part.last() == Some(&from) => part.push(to),
                _ => parts.push(vec![from, to]),
            }
        }
        parts
    }

    /// What of an area is inside, side by side cut off (Sutherland and Hodgman 1974).
    pub fn area(&self, corners: &[Point]) -> Vec<Point> {
        let mut corners = corners.to_vec();
        for side in 0..4 {
            let mut kept = Vec::with_capacity(corners.len());
            for (i, &to) in corners.iter().enumerate() {
                let from = corners[(i + corners.len() - 1) % corners.len()];
                let (a, b) = (self.inside(from)[side], self.inside(to)[side]);
                if (a < 0.0) != (b < 0.0) {
                    kept.push(between(&[from, to], a / (a - b)));
                }
                if b >= 0.0 {
                    kept.push(to);
                }
            }
            corners = kept;
        }
        corners
    }
}

fn between(ends: &[Point], part: f32) -> Point {
    let ((x0, y0), (x1, y1)) = (ends[0], ends[1]);
    match part {
        0.0 => ends[0],
        1.0 => ends[1],
        _ => (x0 + part * (x1 - x0), y0 + part * (y1 - y0)),
    }
}
