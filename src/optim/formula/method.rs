//! A file's method at work.

use std::sync::{Arc, OnceLock};

use super::evaluate::Coefficients;
use super::graph::{Graph, Setting, settings};
use super::places::{Cuts, Places};
use super::plan::{Cell, MOST_STEPS, Plan};
use super::ptx::Kernels;
use super::syntax::{Definition, Expr, Over};
use super::{host, rounds};
use crate::config::Values;
use crate::cpu::blocks::MOST;
use crate::device::{Program, View};
use crate::error::{Error, Result};
use crate::graph::{Range, Role, Tensor};
use crate::optim::update::{Place, Tables};
use crate::optim::{AnyMethod, At, Initial, Memory, StateVector, average};

/// A method that a file defines.
pub struct FileMethod {
    name: String,
    plan: Arc<Plan>,
    kernels: OnceLock<Kernels>,
    weight_decay: f64,
    coefficients: Coefficients,
}

impl FileMethod {
    /// Wants values that were checked against the file's keys.
    pub fn new(definition: &Definition, values: &Values) -> FileMethod {
        let set = |name: &str| {
            let value = values.get(name);
            let flag = value.as_bool().map(|flag| f64::from(u8::from(flag)));
            let list = value.as_array().map(|list| {
                let numbers = list.iter().map(|x| x.as_f64().expect("a list of numbers"));
                Setting::List(numbers.collect())
            });
            list.or(value.as_f64().or(flag).map(Setting::Number))
        };
        FileMethod::of(definition, set, values.real("weight_decay"))
    }

    /// `set` gives the keys that differ from the file's defaults.
    pub fn of(
        definition: &Definition,
        set: impl Fn(&str) -> Option<Setting>,
        weight_decay: f64,
    ) -> FileMethod {
        let mut settings = settings(definition, set);
        settings.insert("weight_decay".into(), Setting::Number(weight_decay));
        let graph = Graph::new(definition, &settings, joins_groups(definition));
        let plan = Arc::new(rounds::plan(&graph));
        FileMethod {
            coefficients: Coefficients::new(plan.host.clone()),
            kernels: OnceLock::new(),
            name: definition.name.clone(),
            weight_decay,
            plan,
        }
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// # Errors
    /// If a step has more vectors than there is room for.
    pub fn check(&self) -> Result<()> {
        let mut iterations = self.plan.rounds.iter().flat_map(|round| &round.orthogonal);
        if iterations.any(|iteration| iteration.steps == 0) {
            return Err(Error::usage(format!(
                "{}: the steps of orthogonalize are no whole number from 1 to {MOST_STEPS}",
                self.name
            )));
        }
        let cells = self.plan.cells.iter();
        let vectors = cells.filter(|cell| **cell != Cell::Gradient).count();
        if vectors <= MOST {
            return Ok(());
        }
        let name = &self.name;
        Err(Error::usage(format!(
            "{name}: a step has {vectors} vectors at once, and {MOST} are the most: w, those of [state], and values that are \
             needed after a sum or a gradient, and four of orthogonalize (keep fewer of them)"
        )))
    }

    /// Made when a GPU or the emulator asks for them.
    pub fn kernels(&self) -> &Kernels {
        self.kernels
            .get_or_init(|| Kernels::new(&self.plan, &self.name))
    }

    /// Runs `f` on the plan's places.
    fn with_places<R>(&self, at: &Place, f: impl FnOnce(&Places) -> R) -> R {
        let plan = &*self.plan;
        let (n, tensors) = (at.w.len, at.tensors.len());
        let cuts = Cuts::new(&at.groups, &at.tensors);
        let (mut state, mut work) = (0, 0);
        let next = |vectors: View<f32>, i: &mut usize| {
            *i += n;
            vectors.part(*i - n, n)
        };
        let cells = plan.cells.iter().map(|cell| match cell {
            Cell::Parameters => at.w.into(),
            Cell::Gradient => at.g.into(),
            Cell::State(_) | Cell::Start => next(at.state, &mut state),
            Cell::Work => next(at.work, &mut work),
        });
        let cells = cells.collect();
        let mut used = 0;
        let mut doubles = |len| {
            used += len;
            at.doubles.part(used - len, len)
        };
        let [shapes, pieces, places] = at.constants[..] else {
            unreachable!("the tables that it asked for")
        };
        f(&Places {
            now: at.now,
            loss: at.loss,
            cells,
            groups: &at.groups,
            steps: at.steps,
            coefficients: at.coefficients.cast(),
            scalars: at.scalars.cast(),
            tensor_state: at.per_tensor.cast(),
            group_slots: doubles(at.groups.len() * plan.group_slots),
            tensor_slots: doubles(tensors * plan.tensor_slots),
            partial: doubles(cuts.partial(plan)),
            parameters: &at.tensors,
            ranges: at.ranges,
            shapes: shapes.cast(),
            pieces: pieces.cast(),
            tensors: places.cast(),
            cuts: &cuts,
            series: at.series,
        })
    }
}

/// Does the step sum over all parameters, or ask for another gradient, whatever its keys are?
fn joins_groups(definition: &Definition) -> bool {
    fn joins(expr: &Expr) -> bool {
        match expr {
            Expr::Number(_) | Expr::Name(_) | Expr::Entry(..) => false,
            Expr::Apply(_, arguments) => arguments.iter().any(joins),
            Expr::Clip(arguments) | Expr::Orthogonalize(arguments) => arguments.iter().any(joins),
            Expr::Sum(_, over, x) => *over == Over::All || joins(x),
            Expr::Gradient(_) => true,
        }
    }
    definition
        .step
        .iter()
        .any(|statement| joins(&statement.value))
}

impl AnyMethod for FileMethod {
    fn memory(&self, of: &[Tensor]) -> Memory {
        let n: usize = of.iter().map(|tensor| tensor.range.len).sum();
        let cells = || self.plan.cells.iter();
        let vectors = cells().filter_map(|cell| match cell {
            Cell::State(initial) => Some(StateVector {
                name: "state",
                initial: Initial::Number(*initial as f32),
            }),
            Cell::Start => Some(StateVector::of_parameters("start")),
            _ => None,
        });
        let work = cells().filter(|cell| **cell == Cell::Work).count();
        Memory {
            vectors: vectors.collect(),
            per_tensor: size_of::<f64>() / size_of::<f32>() * self.plan.tensors,
            workspace: work * n,
            ranges: self.plan.orthogonalizations() > 0,
            ..Memory::default()
        }
    }

    fn tables(&self, of: &[Tensor], groups: &[Range]) -> Tables {
        let cuts = Cuts::new(groups, of);
        let shapes = of.iter().flat_map(|tensor| {
            let size = tensor.range.len;
            let rows = tensor.shape.first().copied().unwrap_or(1).max(1);
            let head = u8::from(tensor.role == Role::Head);
            let [size, rows, columns] = [size, rows, size / rows].map(|n| n as f64);
            [size, rows, columns, tensor.shape.len() as f64, head.into()]
        });
        let shapes: Vec<f64> = shapes.collect();
        let plan = &self.plan;
        let doubles =
            groups.len() * plan.group_slots + of.len() * plan.tensor_slots + cuts.partial(plan);
        Tables {
            constants: vec![
                bytemuck::cast_slice(&shapes).to_vec(),
                bytemuck::cast_slice(&cuts.pieces).to_vec(),
                bytemuck::cast_slice(&cuts.tensors).to_vec(),
            ],
            doubles,
        }
    }

    fn joins_groups(&self) -> bool {
        self.plan.joins_groups
    }

    fn coefficients_size(&self) -> usize {
        size_of::<f64>() * self.plan.host.coefficients.len()
    }

    fn coefficients(&mut self, at: At, to: &mut Vec<u8>) {
        self.coefficients.next(at, self.weight_decay, to);
    }

    fn scalars(&self) -> Vec<u8> {
        bytemuck::cast_slice(&self.plan.scalars).to_vec()
    }

    fn before(
        &self,
        _: &Place,
        _: &dyn Fn(&mut Program) -> Result<()>,
        _: &mut Program,
    ) -> Result<()> {
        Ok(())
    }

    fn step(
        &self,
        at: &Place,
        gradient: &dyn Fn(&mut Program) -> Result<()>,
        program: &mut Program,
    ) -> Result<()> {
        if at.w.len == 0 {
            return Ok(());
        }
        self.check()?;
        self.with_places(at, |places| match program.on_host() {
            true => host::step(&self.plan, places, program, gradient),
            false => self.kernels().step(&self.plan, places, program, gradient),
        })
    }

    fn changes_gradient(&self) -> bool {
        self.plan.rounds.iter().any(|round| round.gradient)
    }

    fn evaluates_others(&self, done: u64) -> bool {
        self.plan.evaluation.is_some() && done > 0
    }

    fn evaluation(&self, at: &Place, enter: &mut Program, leave: &mut Program) -> Result<()> {
        let Some(pass) = &self.plan.evaluation else {
            return Ok(());
        };
        self.with_places(at, |places| {
            match enter.on_host() {
                true => host::evaluation(&self.plan, places, enter),
                false => self.kernels().evaluation(&self.plan, places, enter),
            }
            // What the pass has written and the trained weights change places, and back.
            let (evaluated, _) = pass.stores[0];
            for program in [enter, leave] {
                average::swap(at.w, places.cells[evaluated], program);
            }
            Ok(())
        })
    }

    fn epoch_reports(&self, _: &[u8]) -> Vec<f64> {
        Vec::new()
    }
}
