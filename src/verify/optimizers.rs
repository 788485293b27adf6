//! Suite `optimizers`.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::follow::{Case, Gradient, Problem, given};
use super::goldens::numbers;
use super::{Check, Context};
use crate::config::Values;
use crate::device::Target;
use crate::error::Result;
use crate::optim::{COMMON_KEYS, Stepper};

#[derive(Deserialize)]
struct PathsFile {
    cases: Vec<PathCase>,
}

#[derive(Deserialize)]
struct PathCase {
    opt: Map<String, Value>,
    trajectory: Vec<GoldenStep>,
    /// What an adaptive method reports: the step size t of every step, ...
    step_size_list: Option<Value>,
    /// ... and the lower bound and h after the last.
    fstar: Option<Value>,
    h: Option<Value>,
}

#[derive(Deserialize)]
struct GoldenStep {
    loss: Value,
    p1: Value,
    p2: Value,
}

/// Two parameters and a gradient that turns with the step: p1 has 3x2 entries, p2 has 5.
///
/// grad = a p + 0.3 sin(1.3 k + i), a = 1 for p1 and 3 for p2; loss = |p1|^2 / 2 + 3 |p2|^2 / 2 +
/// 0.25 (1 + cos(0.7 k)).
struct Field {
    w: Vec<f32>,
    g: Vec<f32>,
}

/// Size of p1; p2 follows it.
const P1: usize = 6;

impl Field {
    fn new() -> Field {
        let sines = (1..=6).map(|i| f64::from(i).sin() as f32);
        let cosines = (1..=5).map(|i| f64::from(i).cos() as f32);
        let w: Vec<f32> = sines.chain(cosines).collect();
        Field {
            g: vec![0.0; w.len()],
            w,
        }
    }

    /// Sets the gradient of step `k`, counted from 0, and returns the loss.
    fn evaluate(&mut self, k: usize) -> f32 {
        let (p1, p2) = self.w.split_at(P1);
        let squares = |p: &[f32]| p.iter().map(|x| x * x).sum::<f32>();
        let wave = 0.25 * (1.0 + (0.7 * k as f64).cos());
        let loss = 0.5 * squares(p1) + 1.5 * squares(p2) + wave as f32;
        for (j, (g, w)) in self.g.iter_mut().zip(&self.w).enumerate() {
            let (a, i) = if j < P1 { (1.0, j) } else { (3.0, j - P1) };
            *g = a * w + 0.3 * (1.3 * k as f64 + i as f64).sin() as f32;
        }
        loss
    }
}

pub fn optimizers(context: &Context) -> Result<Vec<Check>> {
    let mut checks = paths(context)?;
    checks.push(wrapped_paths(context)?);
    Ok(checks)
}

/// Paths of methods that are wrapped, or have groups, whose losses and gradients are data.
pub const WRAPPERS: &str = "wrappers.json";

/// See [`WRAPPERS`].
#[derive(Deserialize)]
pub struct WrappersFile {
    shapes: Vec<Vec<usize>>,
    initial: Vec<f32>,
    pub losses: Vec<f32>,
    gradients: Vec<Vec<f32>>,
    /// The steps whose weights were kept, counted from 1.
    pub kept_steps: Vec<usize>,
    cases: Vec<Case>,
    sam: Sam,
}

/// Paths of which a step asks for two gradients of sum (a/2 w^2 + w^4/4 - c w), where c is one of the gradients above.
#[derive(Deserialize)]
struct Sam {
    a: Vec<f32>,
    cases: Vec<Case>,
}

impl WrappersFile {
    fn problem(&self, gradient: Gradient) -> Problem {
        Problem {
            shapes: self.shapes.clone(),
            initial: self.initial.clone(),
            steps: self.losses.len(),
            kept_steps: self.kept_steps.clone(),
            second: gradient.clone(),
            gradient,
        }
    }

    /// The problem whose losses and gradients are data.
    pub fn given(&self) -> Problem {
        self.problem(given(self.losses.clone(), self.gradients.clone()))
    }
}

fn wrapped_paths(context: &Context) -> Result<Check> {
    let Some(file) = context.goldens.read::<WrappersFile>(WRAPPERS)? else {
        return Ok(Check::skip("wrapped methods", format!("no {WRAPPERS}")));
    };
    let mut check = Check::new("wrapped or in groups, relative to it or 0.01", 1e-5);
    let (a, c) = (file.sam.a.clone(), file.gradients.clone());
    let quartic: Gradient = Arc::new(move |k, w| quartic(&a, &c[k], w));
    let (given, quartic) = (file.given(), file.problem(quartic));
    let cases = file.cases.iter().map(|case| (case, &given, context.target));
    // A function that is the gradient runs on the CPU alone.
    let cases = cases.chain(
        file.sam
            .cases
            .iter()
            .map(|case| (case, &quartic, Target::CPU)),
    );
    for (case, problem, target) in cases {
        match case.optimizer() {
            Ok(optimizer) => {
                let path = case.follow(optimizer, problem, target)?;
                case.compare_weights(&path, problem, &mut check);
            }
            Err(e) => check.skip_for(e)?,
        }
    }
    Ok(check)
}

/// Loss and gradient of sum (a/2 w^2 + w^4/4 - c w).
fn quartic(a: &[f32], c: &[f32], w: &[f32]) -> (f32, Vec<f32>) {
    let terms = || a.iter().zip(c).zip(w);
    let losses =
        terms().map(|((a, c), w)| f64::from(0.5 * a * w * w + 0.25 * w * w * w * w - c * w));
    let gradient = terms().map(|((a, c), w)| a * w + w * w * w - c);
    (losses.sum::<f64>() as f32, gradient.collect())
}

fn paths(context: &Context) -> Result<Vec<Check>> {
    const FILE: &str = "optimizers.json";
    let Some(file) = context.goldens.read::<PathsFile>(FILE)? else {
        return Ok(vec![Check::skip("paths", format!("no {FILE}"))]);
    };
    let mut check = Check::new("paths, relative to the largest so far", 1e-5);
    // t is a difference of larger numbers over a square: PyTorch on other processors is up to 3e-4 off.
    let mut reports = Check::new("step sizes, lower bounds and h, likewise", 3e-4);
    for case in &file.cases {
        let name = Value::Object(case.opt.clone());
        let mut field = Field::new();
        let mut optimizer = match Stepper::new(&case.opt, field.w.len(), Target::CPU) {
            Ok(optimizer) => optimizer,
            Err(e) => {
                check.skip_for(e)?;
                continue;
            }
        };
        check.cases += 1;
        let mut step_sizes = Vec::new();
        // Rounding errors are made at the size that the weights have, and stay when the path comes near zero.
        let (mut scale, mut largest_loss) = (0.0f64, 0.0f64);
        let lr = Values::new(COMMON_KEYS, &case.opt).real("lr");
        for (k, step) in case.trajectory.iter().enumerate() {
            let loss = field.evaluate(k);
            optimizer.step(lr, loss, &mut field.w, &field.g)?;
            step_sizes.extend(optimizer.report("step_size_list")?);
            let at = || format!("{name} step {k}");
            let theirs = [numbers(&step.p1), numbers(&step.p2)].concat();
            scale = theirs.iter().fold(scale, |m, x| m.max(x.abs()));
            for (ours, theirs) in field.w.iter().zip(theirs) {
                check.compare(f64::from(*ours), theirs, scale, at);
            }
            for theirs in numbers(&step.loss) {
                largest_loss = largest_loss.max(theirs.abs());
                check.compare(f64::from(loss), theirs, largest_loss, || at() + " loss");
            }
        }
        let bound = Vec::from_iter(optimizer.report("fstar")?);
        let h = Vec::from_iter(optimizer.report("h")?);
        let compared = [
            ("step size", &case.step_size_list, &step_sizes[..]),
            ("fstar", &case.fstar, &bound),
            ("h", &case.h, &h),
        ];
        reports.cases += usize::from(case.step_size_list.is_some());
        for (what, theirs, ours) in compared {
            let mut scale = 0.0f64;
            let theirs = theirs.as_ref().map(numbers).unwrap_or_default();
            for (i, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
                scale = scale.max(theirs.abs());
                reports.compare(*ours, theirs, scale, || format!("{name} {what} {i}"));
            }
        }
    }
    Ok(vec![check, reports])
}
