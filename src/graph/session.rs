//! Plans of one model on any device, run one at a time with operands from the host: what comparisons need. A training
//! run keeps its operands where they are computed instead (`train/resident.rs`).

use super::memory::{Layout, Memory};
use super::op::Clock;
use super::params::Params;
use super::plan::Plan;
use crate::device::gpu::{Gpu, Program, Queue, Step, View};
use crate::device::{Device, Slot, Target};
use crate::error::Result;

/// Plans, which were recorded for the session's device, and the model's vectors.
pub struct Session {
    plans: Vec<Plan>,
    layout: Layout,
    side: Side,
}

enum Side {
    Cpu(Memory),
    Kernels {
        gpu: Gpu,
        now: View<Step>,
        programs: Vec<Program>,
    },
}

impl Session {
    /// Starts with the model's initial values.
    ///
    /// # Errors
    /// If the device cannot be opened, or an op has no kernels.
    pub fn new(params: &Params, plans: Vec<Plan>, target: Target) -> Result<Session> {
        let layout = Layout::new(params);
        let side = match target.device {
            Device::Cpu => {
                let all: Vec<&Plan> = plans.iter().collect();
                Side::Cpu(Memory::new(params, &all))
            }
            device => {
                let mut gpu = Gpu::open(device)?;
                let floats = plans.iter().map(Plan::end).fold(layout.end(), usize::max);
                gpu.alloc::<f32>("parameters and activations", floats)?;
                let now = gpu.alloc_with("the step", &[Step::default()])?;
                gpu.upload(layout.values, &params.values)?;
                gpu.upload(layout.buffers, &params.buffer_values)?;
                let programs = plans.iter().map(|plan| {
                    let mut queue = Queue::new(target.precision);
                    plan.queue(now, &mut queue)?;
                    gpu.prepare(queue)
                });
                let programs = programs.collect::<Result<_>>()?;
                Side::Kernels { gpu, now, programs }
            }
        };
        Ok(Session {
            plans,
            layout,
            side,
        })
    }

    /// Runs a plan on these inputs, with gradient 1 where it goes back from. Returns its outputs.
    pub fn run(&mut self, plan: usize, inputs: &[&[f32]], clock: Clock) -> Result<Vec<Vec<f32>>> {
        let Plan {
            inputs: slots,
            outputs,
            seed,
            ..
        } = &self.plans[plan];
        let ones = vec![1.0; seed.len];
        let operands = slots.iter().copied().zip(inputs.iter().copied());
        let operands = operands.chain([(*seed, &ones[..])]);
        match &mut self.side {
            Side::Cpu(memory) => {
                for (slot, values) in operands {
                    memory.get_mut(slot).copy_from_slice(values);
                }
                self.plans[plan].run(memory, clock);
            }
            Side::Kernels { gpu, now, programs } => {
                let Clock { seed, step: clock } = clock;
                let step = Step {
                    seed,
                    clock,
                    ..Step::default()
                };
                gpu.upload(*now, &[step])?;
                for (slot, values) in operands.filter(|(slot, _)| slot.len > 0) {
                    gpu.upload(slot, values)?;
                }
                gpu.run(programs[plan])?;
            }
        }
        let outputs = outputs.clone();
        outputs.into_iter().map(|slot| self.read(slot)).collect()
    }

    fn read(&mut self, slot: Slot) -> Result<Vec<f32>> {
        match &mut self.side {
            Side::Cpu(memory) => Ok(memory.get(slot).to_vec()),
            Side::Kernels { gpu, .. } => gpu.download(slot),
        }
    }

    /// The gradient of the last run that went back.
    pub fn grads(&mut self) -> Result<Vec<f32>> {
        self.read(self.layout.grads)
    }

    /// The running averages.
    pub fn buffers(&mut self) -> Result<Vec<f32>> {
        self.read(self.layout.buffers)
    }

    /// Overwrites all parameters.
    pub fn set_values(&mut self, values: &[f32]) -> Result<()> {
        match &mut self.side {
            Side::Cpu(memory) => {
                memory.update().0.copy_from_slice(values);
                Ok(())
            }
            Side::Kernels { gpu, .. } => gpu.upload(self.layout.values, values),
        }
    }
}
