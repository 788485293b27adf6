//! Heat maps of what logged steps did to the tensors of the parameters: a row for each tensor, a column for each epoch.

use super::canvas::{Align, Canvas, Paint, Point, Shape};
use super::chart::{Axis, Scale, Style};
use super::draw::{Tones, mixed};
use super::font::{fitted, text_width};
use super::ruler::{Ruler, Tick};
use super::{Selection, best, label, title};
use crate::error::{Error, Result};
use crate::results::escape;
use crate::results::json::repr;
use crate::results::output::Run;
use crate::results::{Record, record::Setting};

/// A number of a tensor in a step, from what was logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Quantity {
    /// l2 norm of the weights' change over that of the weights
    RelativeUpdate,
    /// l2 norm of the weights' change
    UpdateNorm,
    /// l2 norm of the weights
    WeightNorm,
    /// l2 norm of the loss's gradient
    GradNorm,
    /// Angle in radians that the weights turn by
    AngularUpdate,
}

impl Quantity {
    pub fn name(self) -> &'static str {
        match self {
            Quantity::RelativeUpdate => "relative_update",
            Quantity::UpdateNorm => "update_norm",
            Quantity::WeightNorm => "weight_norm",
            Quantity::GradNorm => "grad_norm",
            Quantity::AngularUpdate => "angular_update",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Quantity::RelativeUpdate => "Relative update",
            Quantity::UpdateNorm => "Norm of the update",
            Quantity::WeightNorm => "Norm of the weights",
            Quantity::GradNorm => "Norm of the gradient",
            Quantity::AngularUpdate => "Angle of the update (rad)",
        }
    }

    /// By steps, of all tensors.
    fn of(self, run: &Run) -> Vec<(usize, Vec<f64>)> {
        let logged = |name: &str| {
            let found = run.layer_logs.iter().find(|log| log.0 == name);
            found.map_or(&[][..], |log| &log.1[..])
        };
        if self != Quantity::RelativeUpdate {
            return logged(self.name()).to_vec();
        }
        let both = logged("update_norm").iter().zip(logged("weight_norm"));
        let ratios = both.map(|((step, updates), (_, weights))| {
            let ratios = updates.iter().zip(weights).map(|(u, w)| u / w);
            (*step, ratios.collect())
        });
        ratios.collect()
    }
}

/// One setting's heat map.
#[derive(Clone, Debug)]
pub struct HeatMap {
    /// The setting's method, for the file's name.
    pub method: String,
    title: String,
    caption: String,
    quantity: Quantity,
    tensors: Vec<String>,
    epochs: Vec<usize>,
    /// `values[tensor][epoch]`: the geometric mean over the logged steps of the epoch and over the seeds, NaN where there is
    /// nothing above zero.
    values: Vec<Vec<f64>>,
}

/// The best setting of every method whose layers were logged.
///
/// # Errors
/// A usage error if there is none.
pub fn layers(record: &Record, quantity: Quantity, selection: &Selection) -> Result<Vec<HeatMap>> {
    let mut maps = Vec::new();
    for (_, setting) in best(record, selection)? {
        if setting.runs.iter().any(|run| !run.layer_logs.is_empty()) {
            maps.push(HeatMap::new(record, setting, quantity, selection));
        }
    }
    match maps.is_empty() {
        true => Err(Error::usage(format!(
            "{} has no logged layers: only outputs of `train --log-every-k-steps K --log-layers` hold them",
            record.name
        ))),
        false => Ok(maps),
    }
}

impl HeatMap {
    fn new(
        record: &Record,
        setting: &Setting,
        quantity: Quantity,
        selection: &Selection,
    ) -> HeatMap {
        let logged = setting.runs.iter().filter(|run| !run.layer_logs.is_empty());
        let logged: Vec<&Run> = logged.collect();
        let names = logged[0].summary.get("parameters");
        let names = names
            .and_then(|names| names.as_array())
            .into_iter()
            .flatten();
        let tensors: Vec<String> = names
            .map(|name| name.as_str().unwrap_or("?").into())
            .collect();
        let epochs = setting.epochs.clone();
        // Sums of logarithms, and of how many.
        let mut sums = vec![vec![(0.0, 0u32); epochs.len()]; tensors.len()];
        for run in &logged {
            let batches = run.summary.get("num_batches_per_epoch");
            let batches = batches.and_then(|n| n.as_u64()).unwrap_or(1).max(1) as usize;
            for (step, values) in quantity.of(run) {
                let Ok(column) = epochs.binary_search(&(step / batches)) else {
                    continue;
                };
                for (sums, x) in sums.iter_mut().zip(values) {
                    if x > 0.0 && x.is_finite() {
                        sums[column].0 += x.ln();
                        sums[column].1 += 1;
                    }
                }
            }
        }
        let mean = |(sum, n): (f64, u32)| (sum / f64::from(n)).exp();
        let means = sums.into_iter();
        let means = means.map(|row| row.into_iter().map(mean).collect());
        HeatMap {
            method: setting.method().to_owned(),
            title: title(record, selection),
            caption: format!(
                "{}; geometric mean over the logged steps of an epoch, n = {}",
                label(record, &[setting], &[]),
                logged.len()
            ),
            quantity,
            tensors,
            epochs,
            values: means.collect(),
        }
    }

    /// A row for each tensor and epoch.
    pub fn csv(&self) -> String {
        let mut out = csv::Writer::from_writer(Vec::new());
        out.write_record(["tensor", "epoch", self.quantity.name()])
            .expect("writing to memory");
        for (tensor, values) in self.tensors.iter().zip(&self.values) {
            for (epoch, x) in self.epochs.iter().zip(values) {
                let x = if x.is_finite() {
                    repr(*x)
                } else {
                    String::new()
                };
                out.write_record([escape::csv(tensor), epoch.to_string(), x])
                    .expect("writing to memory");
            }
        }
        String::from_utf8(out.into_inner().expect("writing to memory")).expect("from strings")
    }

    pub fn draw(&self, style: &Style) -> Canvas {
        let tones = Tones::of(style.theme);
        let text = if style.width < 4.0 { 7.0 } else { 9.0f32 };
        let small = 0.88 * text;
        let width = (72.0 * style.width) as f32;
        let top = 3.4 * text;
        let bottom = 3.6 * text;
        let rows = self.tensors.len().max(1) as f32;
        // As high as its labels, but neither flat nor longer than a page.
        let height = match style.height {
            Some(inches) => (72.0 * inches) as f32,
            None => (top + bottom + 1.15 * small * rows).clamp(top + bottom + 6.0 * text, 720.0),
        };
        let mut canvas = Canvas {
            title: escape::printable(&self.title).into_owned(),
            width,
            height,
            paper: tones.paper,
            shapes: Vec::new(),
        };
        let names: Vec<String> = self
            .tensors
            .iter()
            .map(|name| fitted(name, small, 0.35 * width))
            .collect();
        let widest = names
            .iter()
            .map(|name| text_width(name, small))
            .fold(0.0, f32::max);
        let (left, right) = (widest + text, width - 7.5 * text);
        let (low, high) = (top, height - bottom);
        let row_height = (high - low) / rows;
        let column_width = (right - left) / self.epochs.len().max(1) as f32;

        let axis = Axis::new("", Scale::Log);
        let apart = (high - low) as f64;
        let fits = |_: &Tick, _: &Tick, part: f64| part * apart > 1.3 * f64::from(text);
        let values: Vec<f64> = self.values.iter().flatten().copied().collect();
        let scale = Ruler::new(&values, &axis, 0.0, &fits);
        let mut area = |corner: Point, size: Point, paint: Paint| {
            let ((x, y), (w, h)) = (corner, size);
            canvas.shapes.push(Shape::Area {
                contours: vec![vec![(x, y), (x + w, y), (x + w, y + h), (x, y + h)]],
                paint,
            });
        };
        for (row, values) in self.values.iter().enumerate() {
            for (column, x) in values.iter().enumerate().filter(|(_, x)| x.is_finite()) {
                let corner = (
                    left + column as f32 * column_width,
                    low + row as f32 * row_height,
                );
                area(
                    corner,
                    (column_width, row_height),
                    Paint::full(colour(scale.part(*x))),
                );
            }
        }
        let bar = (right + 1.2 * text, 1.2 * text);
        const STEPS: usize = 64;
        for nth in (0..STEPS).rev() {
            let part = (nth as f32 + 0.5) / STEPS as f32;
            let step = (high - low) / STEPS as f32;
            let y = high - (nth + 1) as f32 * step;
            // A little under the next one: seams would be seen.
            let size = (bar.1, (1.5 * step).min(high - y));
            area((bar.0, y), size, Paint::full(colour(part.into())));
        }
        let mut write =
            |text: &str, size: f32, at: Point, align: Align, upright: bool, colour: u32| {
                canvas.shapes.push(Shape::Text {
                    text: fitted(text, size, f32::INFINITY),
                    size,
                    at,
                    align,
                    upright,
                    paint: Paint::full(colour),
                });
            };
        write(
            &self.title,
            1.15 * text,
            (width / 2.0, 1.4 * text),
            Align::Middle,
            false,
            tones.ink,
        );
        let caption = fitted(&self.caption, small, width - text);
        write(
            &caption,
            small,
            (width / 2.0, 2.7 * text),
            Align::Middle,
            false,
            tones.soft,
        );
        let every = (1.1 * small / row_height).ceil().max(1.0) as usize;
        for (row, name) in names.iter().enumerate().step_by(every) {
            let at = (
                left - 0.4 * text,
                low + (row as f32 + 0.5) * row_height + 0.35 * small,
            );
            write(name, small, at, Align::End, false, tones.ink);
        }
        let last = self
            .epochs
            .last()
            .map_or(0, |epoch| epoch.to_string().len());
        let every = (0.8 * text * last as f32 / column_width).ceil().max(1.0) as usize;
        for (column, epoch) in self.epochs.iter().enumerate().step_by(every) {
            let at = (
                left + (column as f32 + 0.5) * column_width,
                high + 1.3 * text,
            );
            write(
                &epoch.to_string(),
                small,
                at,
                Align::Middle,
                false,
                tones.ink,
            );
        }
        write(
            "Epoch",
            text,
            ((left + right) / 2.0, high + 2.8 * text),
            Align::Middle,
            false,
            tones.ink,
        );
        for tick in &scale.ticks {
            let y = high - scale.part_of_place(tick.place) as f32 * (high - low);
            let at = (bar.0 + bar.1 + 0.4 * text, y + 0.35 * small);
            write(&tick.label, small, at, Align::Start, false, tones.ink);
        }
        let at = (width - 0.4 * text, (low + high) / 2.0);
        write(
            self.quantity.title(),
            text,
            at,
            Align::Middle,
            true,
            tones.ink,
        );
        canvas
    }
}

/// A colour of viridis, the map of matplotlib that grows evenly lighter, also in grey and for colour-blind eyes.
fn colour(part: f64) -> u32 {
    const KNOTS: [u32; 9] = [
        0x440154, 0x472c7a, 0x3b518b, 0x2c718e, 0x21908d, 0x27ad81, 0x5cc863, 0xaadc32, 0xfde725,
    ];
    let place = part.clamp(0.0, 1.0) * (KNOTS.len() - 1) as f64;
    let knot = (place as usize).min(KNOTS.len() - 2);
    mixed(KNOTS[knot], KNOTS[knot + 1], place - knot as f64)
}
