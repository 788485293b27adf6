//! A method alone, on vectors of the host: for comparisons and measurements. A training run keeps them on its device.

use serde_json::{Map, Value};

use super::schedule::Rate;
use super::{After, Operands, Optimizer, Reports, SecondGradient};
use crate::device::gpu::kernels::Step;
use crate::device::{Machine, Prepared, Program, Slot, Target, View};
use crate::error::{Error, Result};
use crate::graph::{Params, Tensor};

/// A method with its memory on a machine, and its step as a program.
pub struct Stepper {
    optimizer: Optimizer,
    operands: Operands,
    machine: Machine,
    step: Prepared,
    /// What comes after some steps only.
    further: Vec<(After, Prepared)>,
    /// Put the weights in place that are evaluated, and the trained ones back.
    evaluation: [Prepared; 2],
    now: View<Step>,
    /// Steps done.
    done: u64,
}

impl Stepper {
    /// Before the first step on `n` parameters. `opt` is a run's optimizer object, checked against the table.
    pub fn new(opt: &Map<String, Value>, n: usize, target: Target) -> Result<Stepper> {
        let (machine, optimizer) = (Machine::open(target)?, Optimizer::new(opt, &[])?);
        Stepper::on(machine, optimizer, &[Params::matrix(n)], target)
    }

    /// The same on parameters with tensors, and on a machine that holds nothing yet.
    pub fn on(
        machine: Machine,
        optimizer: Optimizer,
        tensors: &[Tensor],
        target: Target,
    ) -> Result<Stepper> {
        let no_more = |_: &Operands, _: View<Step>, _: &mut Program| {
            Err(Error::usage("there is one gradient a step here"))
        };
        Stepper::with_gradient(machine, optimizer, tensors, target, &no_more)
    }

    /// The same for methods with a second gradient.
    pub fn with_gradient(
        mut machine: Machine,
        optimizer: Optimizer,
        tensors: &[Tensor],
        target: Target,
        gradient: &SecondGradient,
    ) -> Result<Stepper> {
        let n = tensors.iter().map(|t| t.range.len).sum();
        let slot = |start, len| Slot { start, len };
        let [w, g, loss] = [slot(0, n), slot(n, n), slot(2 * n, 1)];
        machine.alloc::<f32>("parameters and gradient", 2 * n + 1)?;
        let now = machine.alloc_with("the step", &[Step::default()])?;
        let operands = optimizer.place(&mut machine, [w, g, loss], now, tensors, 1)?;
        let mut program = Program::new(target);
        let gradient = |program: &mut Program| gradient(&operands, now, program);
        optimizer.step(&operands, &gradient, &mut program)?;
        let further = optimizer.after().into_iter().map(|after| {
            let mut program = Program::new(target);
            optimizer.further(after, &operands, &mut program);
            Ok((after, machine.prepare(program)?))
        });
        let further = further.collect::<Result<_>>()?;
        let [enter, leave] = optimizer.evaluation(&operands, target)?;
        Ok(Stepper {
            further,
            step: machine.prepare(program)?,
            evaluation: [machine.prepare(enter)?, machine.prepare(leave)?],
            now,
            done: 0,
            optimizer,
            operands,
            machine,
        })
    }

    /// One update of the parameters `w` at learning rate `lr`, from a batch's loss and gradient.
    ///
    /// On the CPU it allocates nothing where it runs inside a rayon pool (handing work to a pool from outside does).
    ///
    /// # Panics
    /// If `w` or `g` is not as long as the stepper was made for.
    pub fn step(&mut self, lr: f64, loss: f32, w: &mut [f32], g: &[f32]) -> Result<()> {
        self.load(lr, loss, w, g)?;
        self.machine.run(self.step)?;
        self.run_further(false)?;
        self.machine.download_into(self.operands.w, w)
    }

    /// What comes after the last step, with the gradient for drawn labels or without one.
    fn due(&self, drawn: bool) -> impl Iterator<Item = Prepared> {
        let due = move |after: After| after.drawn == drawn && after.is_due(self.done);
        let further = self.further.iter();
        further.filter_map(move |(after, program)| due(*after).then_some(*program))
    }

    fn run_further(&mut self, drawn: bool) -> Result<()> {
        let due: Vec<Prepared> = self.due(drawn).collect();
        due.into_iter()
            .try_for_each(|program| self.machine.run(program))
    }

    /// Does the method want the gradient for drawn labels after the last step ([`After::drawn`])?
    pub fn wants_drawn(&self) -> bool {
        self.due(true).next().is_some()
    }

    /// Gives it that gradient.
    ///
    /// # Panics
    /// If it does not want one.
    pub fn take_drawn(&mut self, g: &[f32]) -> Result<()> {
        assert!(self.wants_drawn(), "no step that asks for it");
        self.machine.upload(self.operands.g, g)?;
        self.run_further(true)
    }

    /// The weights that are evaluated after the steps so far, if they are not the trained ones.
    pub fn evaluated(&mut self) -> Result<Option<Vec<f32>>> {
        if !self.optimizer.evaluates_others(self.done) {
            return Ok(None);
        }
        let [enter, leave] = self.evaluation;
        self.machine.run(enter)?;
        let w = self.machine.download(self.operands.w)?;
        self.machine.run(leave)?;
        Ok(Some(w))
    }

    /// The machine and the program of a step, to be measured.
    pub fn into_parts(self) -> (Machine, Prepared) {
        (self.machine, self.step)
    }

    fn load(&mut self, lr: f64, loss: f32, w: &[f32], g: &[f32]) -> Result<()> {
        self.machine.upload(self.operands.w, w)?;
        self.machine.upload(self.operands.g, g)?;
        self.machine.upload(self.operands.loss, &[loss])?;
        self.next(lr)
    }

    fn next(&mut self, lr: f64) -> Result<()> {
        if self.done == 0 {
            self.optimizer.start(&mut self.machine, &self.operands)?;
        }
        let now = Step {
            batch: self.done,
            done: self.done,
            ..Step::default()
        };
        self.machine.upload(self.now, &[now])?;
        self.done += 1;
        let initial = self.optimizer.initial_lr;
        let rate = Rate {
            lr,
            factor: if lr == initial { 1.0 } else { lr / initial },
            as_given: false,
        };
        (self.optimizer).write_coefficients(&[rate], &self.operands, &mut self.machine)
    }

    /// Calls of a step.
    pub fn calls(&self) -> usize {
        self.machine.calls(self.step)
    }

    pub fn reports(&self) -> Reports {
        self.optimizer.reports
    }

    /// What the last step reported under a name of [`Reports`]; none if the method has no such report.
    pub fn report(&mut self, name: &str) -> Result<Option<f64>> {
        let Reports { steps, epoch } = self.optimizer.reports;
        if let Some(i) = steps.iter().position(|n| *n == name) {
            let series = self.machine.download(self.operands.series())?;
            return Ok(Some(series[i]));
        }
        let Some(i) = epoch.iter().position(|r| r.name == name) else {
            return Ok(None);
        };
        let scalars = self.machine.download(self.operands.scalars())?;
        Ok(Some(self.optimizer.epoch_reports(&scalars)[i]))
    }
}
