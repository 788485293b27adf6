//! Paths of a method on gradients that are given.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::Check;
use crate::config::Values;
use crate::device::gpu::kernels::Step;
use crate::device::program::{floats, floats_mut, one};
use crate::device::{Machine, Program, Target, View};
use crate::error::{Error, Result};
use crate::graph::Params;
use crate::optim::{self, Operands, Optimizer, Stepper};
use crate::random::SEED;
use crate::random::torch::Generator;

/// Errors are relative to a weight, or to this where it is smaller: rounding errors of small weights are those of the
/// steps that made them.
const SMALL: f64 = 0.01;

/// Loss and gradient of step k, counted from 0, at some weights.
pub type Gradient = Arc<dyn Fn(usize, &[f32]) -> (f32, Vec<f32>) + Send + Sync>;

/// Losses and gradients that do not depend on the weights.
pub fn given(losses: Vec<f32>, gradients: Vec<Vec<f32>>) -> Gradient {
    Arc::new(move |k, _| (losses[k], gradients[k].clone()))
}

/// Where paths lie. Tensors are called by their places, and lie end to end in their order.
pub struct Problem {
    pub shapes: Vec<Vec<usize>>,
    pub initial: Vec<f32>,
    pub steps: usize,
    /// The steps whose weights were kept, counted from 1.
    pub kept_steps: Vec<usize>,
    pub gradient: Gradient,
    /// What a method gets that asks for another gradient.
    pub second: Gradient,
}

/// A golden path.
#[derive(Deserialize)]
pub struct Case {
    pub opt: Map<String, Value>,
    #[serde(default)]
    pub groups: Vec<Map<String, Value>>,
    lr_per_step: Option<Vec<f64>>,
    /// The places of the tensors that have one path alone; all of them if it is left out.
    unique: Option<Vec<usize>>,
    weights: Vec<Vec<f64>>,
    /// Those that are evaluated, where they are not the trained ones.
    eval_weights: Option<Vec<Vec<f64>>>,
    /// What a method reports, by name, after every step; null where it does not yet.
    #[serde(default)]
    scalars: BTreeMap<String, Vec<Option<f64>>>,
}

/// Our path.
pub struct Path {
    /// After the kept steps.
    weights: Vec<Vec<f32>>,
    evaluated: Vec<Vec<f32>>,
    /// After every step, those that the golden path has as well.
    scalars: BTreeMap<String, Vec<f64>>,
}

impl Case {
    /// Its optimizer.
    ///
    /// # Errors
    /// If this build has no such method, or the method no such key.
    pub fn optimizer(&self) -> Result<Optimizer> {
        let optimizer = Optimizer::new(&self.opt, &self.groups)?;
        let known = optim::keys(&self.opt);
        let is_known = |name: &str| name == "name" || known.iter().any(|key| key.name == name);
        match self.opt.keys().find(|name| !is_known(name)) {
            None => Ok(optimizer),
            Some(key) => Err(Error::usage(format!("{} has no key {key:?}", self.name()))),
        }
    }

    pub fn name(&self) -> &str {
        self.opt
            .get("name")
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// Compares weights, and those that are evaluated.
    pub fn compare_weights(&self, path: &Path, problem: &Problem, check: &mut Check) {
        check.cases += 1;
        let evaluated = self.eval_weights.iter().flatten();
        let theirs = self.weights.iter().chain(evaluated);
        let ours = path.weights.iter().chain(&path.evaluated);
        let what = ["", " evaluated"].map(|what| problem.kept_steps.iter().map(move |k| (k, what)));
        if theirs.clone().count() != ours.clone().count() {
            check.fail(format!("{}: it evaluates other weights", self.text()));
        }
        for ((ours, theirs), (k, what)) in ours.zip(theirs).zip(what.into_iter().flatten()) {
            for i in self.compared(problem) {
                let at = || format!("{} step {k} weight {i}{what}", self.text());
                let scale = theirs[i].abs().max(SMALL);
                check.compare(f64::from(ours[i]), theirs[i], scale, at);
            }
        }
    }

    /// Compares the norms of tensors alone.
    pub fn compare_norms(&self, path: &Path, problem: &Problem, check: &mut Check) {
        check.cases += 1;
        for ((ours, theirs), k) in (path.weights.iter().zip(&self.weights)).zip(&problem.kept_steps)
        {
            for (i, range) in ranges(&problem.shapes).enumerate() {
                let theirs = norm(theirs[range.clone()].iter().copied());
                let ours = norm(ours[range].iter().map(|w| f64::from(*w)));
                let at = || format!("{} step {k} tensor {i}", self.text());
                check.compare(ours, theirs, theirs, at);
            }
        }
    }

    /// Compares what the method reports, relative to the largest of it so far.
    pub fn compare_scalars(&self, path: &Path, check: &mut Check) {
        check.cases += usize::from(!self.scalars.is_empty());
        if path.scalars.is_empty() && !self.scalars.is_empty() {
            check.fail(format!("{}: it reports nothing", self.text()));
        }
        for (name, ours) in &path.scalars {
            let mut scale = 0.0f64;
            for (k, (ours, theirs)) in ours.iter().zip(&self.scalars[name]).enumerate() {
                let Some(theirs) = *theirs else {
                    continue;
                };
                scale = scale.max(theirs.abs());
                let at = || format!("{} step {} {name}", self.text(), k + 1);
                check.compare(*ours, theirs, scale, at);
            }
        }
    }

    /// The weights to be compared.
    fn compared(&self, problem: &Problem) -> Vec<usize> {
        let unique = |i: usize| (self.unique.as_ref()).is_none_or(|unique| unique.contains(&i));
        let ranges = ranges(&problem.shapes).enumerate();
        let ranges = ranges.filter(|(i, _)| unique(*i));
        ranges.flat_map(|(_, range)| range).collect()
    }

    fn text(&self) -> Value {
        Value::Object(self.opt.clone())
    }

    /// Takes the steps of a path.
    pub fn follow(&self, optimizer: Optimizer, problem: &Problem, target: Target) -> Result<Path> {
        let mut params = Params::new(Generator::new(SEED));
        for (i, shape) in problem.shapes.iter().enumerate() {
            params.constant(i.to_string(), shape, 0.0);
        }
        // Groups lie elsewhere than in the file.
        (params.values.iter_mut().enumerate()).for_each(|(i, place)| *place = i as f32);
        params.arrange(&optimizer.order(&params.tensors)?);
        let places = params.values.iter().map(|place| *place as usize);
        let places: Arc<[usize]> = places.collect();
        let second = |at: &Operands, now: View<Step>, program: &mut Program| {
            let (second, places) = (problem.second.clone(), places.clone());
            let (reads, writes) = ([at.w.into(), now.into()], [at.g.into(), at.loss.into()]);
            program.host("second", reads, writes, move |[w, now], [g, loss]| {
                let k = one::<Step>(now).done as usize;
                let (f, gradient) = second(k, &as_in_file(&places, floats(w)));
                floats_mut(g).copy_from_slice(&laid(&places, &gradient));
                floats_mut(loss)[0] = f;
            });
            Ok(())
        };
        let machine = Machine::open(target)?;
        let tensors = &params.tensors;
        let mut stepper = Stepper::with_gradient(machine, optimizer, tensors, target, &second)?;
        let lr = Values::new(optim::keys(&self.opt), &self.opt).real("lr");
        let mut w = laid(&places, &problem.initial);
        let mut path = Path {
            weights: Vec::new(),
            evaluated: Vec::new(),
            scalars: BTreeMap::new(),
        };
        for k in 0..problem.steps {
            let (loss, g) = (problem.gradient)(k, &as_in_file(&places, &w));
            let lr = self.lr_per_step.as_ref().map_or(lr, |rates| rates[k]);
            stepper.step(lr, loss, &mut w, &laid(&places, &g))?;
            if stepper.wants_drawn() {
                let (_, g) = (problem.second)(k, &as_in_file(&places, &w));
                stepper.take_drawn(&laid(&places, &g))?;
            }
            for name in self.scalars.keys() {
                if let Some(x) = stepper.report(name)? {
                    path.scalars.entry(name.clone()).or_default().push(x);
                }
            }
            if problem.kept_steps.contains(&(k + 1)) {
                path.weights.push(as_in_file(&places, &w));
                let evaluated = stepper.evaluated()?;
                let evaluated = evaluated.map(|w| as_in_file(&places, &w));
                path.evaluated.extend(evaluated);
            }
        }
        Ok(path)
    }
}

/// Values in a file's order as they lie here: `places[i]` is where the i-th comes from.
fn laid(places: &[usize], values: &[f32]) -> Vec<f32> {
    places.iter().map(|i| values[*i]).collect()
}

/// The other way round.
fn as_in_file(places: &[usize], values: &[f32]) -> Vec<f32> {
    let mut to = vec![0.0; values.len()];
    for (i, value) in places.iter().zip(values) {
        to[*i] = *value;
    }
    to
}

/// Where tensors of these shapes lie.
fn ranges(shapes: &[Vec<usize>]) -> impl Iterator<Item = std::ops::Range<usize>> {
    let lengths = shapes.iter().map(|shape| shape.iter().product());
    lengths.scan(0, |end, len: usize| {
        let start = *end;
        *end += len;
        Some(start..*end)
    })
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|x| x * x).sum::<f64>().sqrt()
}
