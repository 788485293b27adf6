//! Plans of one model on any device, run one at a time with operands from the host: what comparisons need. A training
//! run keeps its operands where they are computed instead (`train/trainer.rs`).

use super::layout::Layout;
use super::params::Params;
use super::plan::Plan;
use crate::device::gpu::kernels::Step;
use crate::device::{Machine, Prepared, Program, Slot, Target, View};
use crate::error::Result;

/// Plans, which were recorded for the session's device, and the model's vectors.
pub struct Session {
    plans: Vec<(Plan, Prepared)>,
    layout: Layout,
    machine: Machine,
    now: View<Step>,
}

impl Session {
    /// Starts with the model's initial values.
    ///
    /// # Errors
    /// If the device cannot be opened, or an op has no kernels.
    pub fn new(params: &Params, plans: Vec<Plan>, target: Target) -> Result<Session> {
        Session::on(Machine::open(target)?, params, plans, target)
    }

    /// The same on a machine that holds nothing yet.
    pub fn on(
        mut machine: Machine,
        params: &Params,
        plans: Vec<Plan>,
        target: Target,
    ) -> Result<Session> {
        let layout = Layout::alloc(params, &plans, &mut machine)?;
        let now = machine.alloc_with("the step", &[Step::default()])?;
        let prepared = plans.into_iter().map(|plan| {
            let mut program = Program::new(target);
            plan.emit(now, &mut program)?;
            let prepared = machine.prepare(program)?;
            Ok((plan, prepared))
        });
        Ok(Session {
            plans: prepared.collect::<Result<_>>()?,
            layout,
            machine,
            now,
        })
    }

    /// Runs a plan on these inputs, with gradient 1 where it goes back from. Returns its outputs.
    pub fn run(&mut self, plan: usize, inputs: &[&[f32]], now: Step) -> Result<Vec<Vec<f32>>> {
        let ones = vec![1.0; self.plans[plan].0.seed.len];
        self.run_from(plan, inputs, &ones, now)
    }

    /// The same with a gradient of its own where it goes back from.
    pub fn run_from(
        &mut self,
        plan: usize,
        inputs: &[&[f32]],
        upstream: &[f32],
        now: Step,
    ) -> Result<Vec<Vec<f32>>> {
        let (plan, prepared) = &self.plans[plan];
        self.machine.upload(self.now, &[now])?;
        let operands = plan.inputs.iter().zip(inputs.iter().copied());
        for (slot, values) in operands.chain([(&plan.seed, upstream)]) {
            self.machine.upload(*slot, values)?;
        }
        self.machine.run(*prepared)?;
        let outputs = plan.outputs.iter();
        outputs.map(|slot| self.machine.download(*slot)).collect()
    }

    /// Starts a plan again on what its inputs hold, and waits for nothing.
    pub fn rerun(&mut self, plan: usize) -> Result<()> {
        self.machine.run(self.plans[plan].1)
    }

    /// What lies in a slot of the plans.
    pub fn read(&mut self, slot: Slot) -> Result<Vec<f32>> {
        self.machine.download(slot)
    }

    /// The parameters.
    pub fn values(&mut self) -> Result<Vec<f32>> {
        self.machine.download(self.layout.values)
    }

    /// The gradient of the last run that went back.
    pub fn grads(&mut self) -> Result<Vec<f32>> {
        self.machine.download(self.layout.grads)
    }

    /// The running averages.
    pub fn buffers(&mut self) -> Result<Vec<f32>> {
        self.machine.download(self.layout.buffers)
    }

    /// Overwrites all parameters.
    pub fn set_values(&mut self, values: &[f32]) -> Result<()> {
        self.machine.upload(self.layout.values, values)
    }
}
