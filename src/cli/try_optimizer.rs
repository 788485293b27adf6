//! `optimizer try`: steps on two small functions that are hard for methods, and the path as text.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::plot::{DPI, Format};
use super::print::{self, println, six_digits};
use super::sources::Overwrite;
use crate::config::{Key, suggestion};
use crate::device::program::{floats, floats_mut};
use crate::device::{Machine, Program, Target, View};
use crate::error::{Error, Result};
use crate::graph::Params;
use crate::optim::{self, AUX, COMMON_KEYS, Look, Operands, Optimizer, Row, Stepper, formula};
use crate::random::SEED;
use crate::random::torch::Generator;
use crate::results::file;
use crate::results::json::repr;
use crate::results::plot::chart::{Axis, Chart, Figure, Mark, Scale, Series, Style};

/// Learning rates where nobody gives one.
const RATES: [f64; 11] = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0];

#[derive(clap::Args, Debug)]
pub struct Try {
    /// A file, or the name of an optimizer
    #[arg(value_name = "FILE.toml|NAME")]
    method: String,
    /// Learning rate [default: several, of which the best one is drawn]
    #[arg(long)]
    lr: Option<f64>,
    /// A key of the optimizer, such as betas=[0.9,0.99]
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Number of steps
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    steps: u32,
    /// Draw the losses of the steps into FILE.svg, FILE.png or FILE.pdf
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    overwrite: Overwrite,
}

/// A function of a few numbers.
struct Problem {
    name: &'static str,
    shape: &'static [usize],
    start: &'static [f32],
    minimum: &'static [f64],
    /// Value and gradient.
    function: fn(&[f64]) -> (f64, Vec<f64>),
    /// What is drawn: two of the numbers, each from and to.
    axes: [(usize, f64, f64); 2],
}

const PROBLEMS: [Problem; 2] = [
    Problem {
        name: "quadratic",
        shape: &[2, 2],
        start: &[1.0, -0.9, 0.8, 0.7],
        minimum: &[0.0; 4],
        function: |x| {
            // The condition is 100.
            const CURVATURES: [f64; 4] = [1.0, 4.0, 25.0, 100.0];
            let pairs = || CURVATURES.iter().zip(x);
            let value = pairs().map(|(c, x)| c * x * x / 2.0).sum();
            (value, pairs().map(|(c, x)| c * x).collect())
        },
        axes: [(0, -1.3, 1.3), (3, -1.3, 1.3)],
    },
    Problem {
        name: "Rosenbrock",
        shape: &[1, 2],
        start: &[-1.2, 1.0],
        minimum: &[1.0; 2],
        function: |x| {
            let (a, b) = (1.0 - x[0], x[1] - x[0] * x[0]);
            let gradient = vec![-2.0 * a - 400.0 * x[0] * b, 200.0 * b];
            (a * a + 100.0 * b * b, gradient)
        },
        axes: [(0, -2.0, 2.0), (1, -1.0, 3.0)],
    },
];

/// The weights before and after each step, those to be evaluated where these are others, and their losses.
struct Steps {
    weights: Vec<Vec<f64>>,
    losses: Vec<f64>,
}

impl Steps {
    fn last(&self) -> f64 {
        *self.losses.last().expect("the loss at the start")
    }
}

impl Try {
    pub fn run(self) -> Result<u8> {
        let format = self.out.as_deref().map(Format::of).transpose()?;
        let row = self.row()?;
        let opt = self.options(row)?;
        let rates = self.lr.map_or(RATES.to_vec(), |lr| vec![lr]);
        let mut table = print::table(&["lr", PROBLEMS[0].name, PROBLEMS[1].name]);
        let mut best: [Option<(f64, Steps)>; 2] = [None, None];
        for lr in rates {
            let mut cells = vec![repr(lr)];
            for (problem, best) in PROBLEMS.iter().zip(&mut best) {
                let steps = problem.take(row, &opt, lr, self.steps)?;
                cells.push(six_digits(steps.last()));
                let before = best.as_ref().map_or(f64::NAN, |(_, other)| other.last());
                if before.is_nan() || steps.last() < before {
                    *best = Some((lr, steps));
                }
            }
            table.add_row(cells);
        }
        let best = best.map(|best| best.expect("at least one learning rate"));
        let name = row.entry.name;
        println(format_args!("{name}: losses after {} steps", self.steps))?;
        println(table)?;
        if let Some(rest) = row.rest {
            println(format_args!(
                "Both are functions of a matrix: {rest}, which has the rest of a model, does nothing here."
            ))?;
        }
        for (problem, (lr, steps)) in PROBLEMS.iter().zip(&best) {
            let start = six_digits(steps.losses[0]);
            println(format_args!(
                "\n{}, lr {}: from o, loss {start}, to x, loss {}; the minimum is +",
                problem.name,
                repr(*lr),
                six_digits(steps.last()),
            ))?;
            println(problem.draw(steps))?;
        }
        if let (Some(path), Some(format)) = (&self.out, format) {
            let canvas = figure(name, &best).draw(&Style::default());
            file::write(path, &format.encode(&canvas, DPI), self.overwrite.into())?;
            println(path.display())?;
        }
        Ok(0)
    }

    /// What the method's name or file says.
    fn row(&self) -> Result<&'static Row> {
        formula::find(&self.method, Path::new(""))?;
        optim::row(&self.method).ok_or_else(|| {
            let known = optim::rows().map(|row| row.entry.name);
            let known: Vec<&str> = known.collect();
            let hint = suggestion(&self.method, &known);
            Error::usage(format!("unknown optimizer {:?} {hint}", self.method))
        })
    }

    /// The optimizer's object but for its learning rate.
    fn options(&self, row: &'static Row) -> Result<Map<String, Value>> {
        let mut opt = Map::new();
        for text in &self.set {
            let wrong = |what: String| Error::usage(format!("--set {text}: {what}"));
            let Some((name, value)) = text.split_once('=') else {
                return Err(wrong("no KEY=VALUE".into()));
            };
            let keys = || keys(row).filter(|key| key.name != "lr");
            let Some(key) = keys().find(|key| key.name == name) else {
                let known: Vec<&str> = keys().map(|key| key.name).collect();
                let hint = suggestion(name, &known);
                return Err(wrong(format!("{} has no such key {hint}", row.entry.name)));
            };
            let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
            if !key.kind.accepts(&value) {
                return Err(wrong(format!("expected {}", key.kind.describe())));
            }
            opt.insert(name.to_owned(), value);
        }
        Ok(opt)
    }
}

/// The method's own keys, and those two that all methods have by themselves. Both functions are of a matrix: those for
/// what is none say nothing.
fn keys(row: &'static Row) -> impl Iterator<Item = &'static Key> {
    let of_rest = |key: &&Key| row.rest.is_some() && key.name.starts_with(AUX);
    let own = row.entry.keys;
    let common = COMMON_KEYS
        .iter()
        .filter(|key| matches!(key.name, "lr" | "weight_decay"));
    let others = common.filter(|key| own.iter().all(|other| other.name != key.name));
    own.iter().filter(move |key| !of_rest(key)).chain(others)
}

impl Problem {
    fn take(
        &self,
        row: &'static Row,
        opt: &Map<String, Value>,
        lr: f64,
        steps: u32,
    ) -> Result<Steps> {
        let mut opt = opt.clone();
        opt.insert("lr".into(), lr.into());
        opt.insert("name".into(), row.entry.name.into());
        let optimizer = Optimizer::new(&opt, &[])?;
        if optimizer.draws_labels() {
            return Err(Error::usage(format!(
                "{}: it draws labels from a model's output, which these functions do not have; train with it",
                row.entry.name
            )));
        }
        let mut params = Params::new(Generator::new(SEED));
        params.constant("x", self.shape, 0.0);
        let function = self.function;
        let second = move |at: &Operands, _: View<_>, program: &mut Program| {
            program.host("gradient", [at.w.into()], [at.g.into()], move |[w], [g]| {
                floats_mut(g).copy_from_slice(&single(&function(&double(floats(w))).1));
            });
            Ok(())
        };
        let machine = Machine::open(Target::CPU.device)?;
        let mut stepper =
            Stepper::with_gradient(machine, optimizer, &params.tensors, Target::CPU, &second)?;
        let mut w = self.start.to_vec();
        let mut taken = Steps {
            weights: Vec::new(),
            losses: Vec::new(),
        };
        let mut note = |w: &[f32]| {
            taken.losses.push(function(&double(w)).0);
            taken.weights.push(double(w));
        };
        note(&w);
        for _ in 0..steps {
            let (loss, gradient) = function(&double(&w));
            stepper.step(lr, loss as f32, &mut w, &single(&gradient))?;
            match stepper.evaluated()? {
                Some(evaluated) => note(&evaluated),
                None => note(&w),
            }
        }
        Ok(taken)
    }

    fn draw(&self, steps: &Steps) -> Picture {
        let mut picture = Picture::new();
        let [x, y] = self.axes;
        let place = |weights: &[f64]| {
            let part = |(i, from, to): (usize, f64, f64)| (weights[i] - from) / (to - from);
            (part(x), part(y))
        };
        for pair in steps.weights.windows(2) {
            picture.line(place(&pair[0]), place(&pair[1]));
        }
        picture.letter(place(self.minimum), '+');
        picture.letter(place(&steps.weights[0]), 'o');
        picture.letter(place(&steps.weights[steps.weights.len() - 1]), 'x');
        picture
    }
}

/// Dots in a frame: a character of Braille has two columns of four.
struct Picture {
    /// Bits of the dots, row by row.
    cells: Vec<u8>,
    letters: Vec<(usize, char)>,
}

impl Picture {
    const COLUMNS: usize = 64;
    const ROWS: usize = 20;

    fn new() -> Picture {
        Picture {
            cells: vec![0; Picture::COLUMNS * Picture::ROWS],
            letters: Vec::new(),
        }
    }

    /// The cell and the dot in it at a place in [0, 1) x [0, 1), y upwards.
    fn dot((x, y): (f64, f64)) -> Option<(usize, u8)> {
        const DOTS: [[u8; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];
        if !((0.0..1.0).contains(&x) && (0.0..1.0).contains(&y)) {
            return None;
        }
        let column = (x * (2 * Picture::COLUMNS) as f64) as usize;
        let row = 4 * Picture::ROWS - 1 - (y * (4 * Picture::ROWS) as f64) as usize;
        let cell = row / 4 * Picture::COLUMNS + column / 2;
        Some((cell, DOTS[row % 4][column % 2]))
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64)) {
        // As many as there are dots on the way, within reason: a step may lead far out.
        let length = (to.0 - from.0).abs().max((to.1 - from.1).abs());
        let n = (length * (4 * Picture::COLUMNS) as f64).clamp(1.0, 10_000.0) as usize;
        for i in 0..=n {
            let part = i as f64 / n as f64;
            let between = |from: f64, to: f64| from + part * (to - from);
            let place = (between(from.0, to.0), between(from.1, to.1));
            if let Some((cell, dot)) = Picture::dot(place) {
                self.cells[cell] |= dot;
            }
        }
    }

    fn letter(&mut self, place: (f64, f64), letter: char) {
        let cell = Picture::dot(place).map(|(cell, _)| (cell, letter));
        self.letters.extend(cell);
    }
}

impl std::fmt::Display for Picture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let edge = "─".repeat(Picture::COLUMNS);
        writeln!(f, "┌{edge}┐")?;
        for (row, cells) in self.cells.chunks(Picture::COLUMNS).enumerate() {
            let first = row * Picture::COLUMNS;
            let characters = cells.iter().enumerate().map(|(column, dots)| {
                let letter = self.letters.iter().rev();
                let mut letter = letter.filter(|(cell, _)| *cell == first + column);
                match (letter.next(), dots) {
                    (Some((_, letter)), _) => *letter,
                    (None, 0) => ' ',
                    (None, dots) => char::from_u32(0x2800 + u32::from(*dots)).unwrap_or(' '),
                }
            });
            writeln!(f, "│{}│", characters.collect::<String>())?;
        }
        write!(f, "└{edge}┘")
    }
}

fn figure(name: &str, best: &[(f64, Steps); 2]) -> Figure {
    let series = PROBLEMS.iter().zip(best).enumerate();
    let series = series.map(|(nth, (problem, (lr, steps)))| {
        let points = steps.losses.iter().enumerate();
        Series {
            label: format!("{}, lr {}", problem.name, repr(*lr)),
            look: Look::nth(nth),
            nth: 0,
            mark: Mark::Line,
            points: points
                .map(|(k, loss)| [k as f64, *loss, f64::NAN, f64::NAN])
                .collect(),
            diverged: Vec::new(),
        }
    });
    Figure {
        title: format!("{name} on small functions"),
        ..Figure::from(Chart {
            title: String::new(),
            x: Axis::new("Step", Scale::Whole),
            y: Axis::new("Loss", Scale::Log),
            series: series.collect(),
            diverged_on_top: true,
        })
    }
}

fn double(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

fn single(x: &[f64]) -> Vec<f32> {
    x.iter().map(|x| *x as f32).collect()
}
