//! What figures show: panels with axes, lines with markers and bands, and crosses for what diverged.

use crate::optim::{Look, Marker, Shape};

/// Panels that share a title and a legend.
#[derive(Clone, Debug)]
pub struct Figure {
    pub title: String,
    /// What the lines are: `mean ± std, n = 3`.
    pub caption: String,
    pub panels: Vec<Chart>,
    /// Have all panels the same axes? They are labelled at the outer edge alone then.
    pub shared: bool,
}

#[derive(Clone, Debug)]
pub struct Chart {
    /// Above this panel alone.
    pub title: String,
    pub x: Axis,
    pub y: Axis,
    pub series: Vec<Series>,
    /// The strip of what diverged is at the top (losses) or at the bottom (scores).
    pub diverged_on_top: bool,
}

#[derive(Clone, Debug)]
pub struct Axis {
    pub title: String,
    pub scale: Scale,
    /// Where the axis begins and ends, if not where its values do.
    pub limits: [Option<f64>; 2],
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
    /// Of several lines with this look, the second and the following ones are paler.
    pub nth: usize,
    pub mark: Mark,
    /// x, y, lower and upper end of the band; a NaN breaks the line.
    pub points: Vec<[f64; 4]>,
    /// Where on the x axis it diverged: crosses outside the scale, which a dotted line joins to the points beside them.
    pub diverged: Vec<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    Line,
    LineAndMarkers,
    /// No line.
    Dots,
}

impl Axis {
    pub fn new(title: impl Into<String>, scale: Scale) -> Axis {
        Axis {
            title: title.into(),
            scale,
            limits: [None; 2],
        }
    }
}

impl From<Chart> for Figure {
    fn from(chart: Chart) -> Figure {
        Figure {
            title: String::new(),
            caption: String::new(),
            panels: vec![chart],
            shared: false,
        }
    }
}

/// How a figure is drawn.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// In inches.
    pub width: f64,
    /// In inches, of all; follows from the width if none.
    pub height: Option<f64>,
    pub legend: Legend,
    pub theme: Theme,
    pub colours: Colours,
}

impl Default for Style {
    fn default() -> Style {
        Style {
            width: 5.0,
            height: None,
            legend: Legend::Below,
            theme: Theme::Light,
            colours: Colours::Safe,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Legend {
    /// In the emptiest corner of the first panel; below if it has no room
    Inside,
    Right,
    Below,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Theme {
    Light,
    Dark,
    /// Black on white, without a grid
    Print,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Colours {
    /// Colours that colour-blind eyes tell apart
    Safe,
    /// Those of step-back's figures, where it has one
    Reference,
}

impl Colours {
    pub fn of(self, look: Look) -> u32 {
        match self {
            Colours::Safe => look.colour,
            Colours::Reference => look.reference.unwrap_or(look.colour),
        }
    }
}

/// The pattern of a look's line, dashes and gaps in points; empty for a solid one.
pub fn dashes(dash: u8) -> &'static [f32] {
    const ALL: [&[f32]; Look::DASHES as usize] = [
        &[],
        &[5.0, 2.0],
        &[1.2, 1.6],
        &[5.0, 1.6, 1.2, 1.6],
        &[9.0, 2.5],
        &[5.0, 1.6, 1.2, 1.6, 1.2, 1.6],
        &[2.6, 1.4],
        &[9.0, 2.0, 2.6, 2.0],
    ];
    ALL[usize::from(dash) % ALL.len()]
}

/// The size of the hole in a hollow marker.
pub const HOLLOW: f64 = 0.55;

/// A marker's shape, and whether it is hollow.
pub fn outline(marker: Marker) -> (Shape, bool) {
    match marker {
        Marker::Filled(shape) => (shape, false),
        Marker::Hollow(shape) => (shape, true),
    }
}

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
