//! What an op is tested and measured on.

use crate::device::gpu::kernels::Step;
use crate::device::program::Call;
use crate::device::{Device, Machine, Prepared, Program, Target};
use crate::error::{Error, Result};
use crate::graph::{Layout, Mode, Params, Plan, Targets, Var};
use crate::random::torch::Generator;

/// Shapes and values on which an op is tested.
pub struct Case {
    pub about: &'static str,
    /// Shapes of the operands that have gradients.
    pub inputs: &'static [&'static [usize]],
    /// A last operand that is data: its shape, and what it holds.
    pub data: Option<(&'static [usize], Data)>,
    /// Draw inputs no closer to 0 than 0.05, where the op has a kink.
    pub avoids_zero: bool,
    /// Draw inputs that are 0.1 or more apart, where the op picks one of them.
    pub apart: bool,
    /// Length of the model's buffers, all of them the op's.
    pub buffers: usize,
    pub apply: for<'t> fn(&[Var<'t>]) -> Var<'t>,
}

/// Data operands.
#[derive(Clone, Copy, Debug)]
pub enum Data {
    Normal,
    /// -1 or 1.
    Signs,
    /// Integers, those of column j below the j-th bound.
    Indices(&'static [usize]),
    /// Classes below a bound, or -1.
    Targets(usize),
}

impl Case {
    pub const fn new(
        about: &'static str,
        inputs: &'static [&'static [usize]],
        apply: for<'t> fn(&[Var<'t>]) -> Var<'t>,
    ) -> Case {
        Case {
            about,
            inputs,
            data: None,
            avoids_zero: false,
            apart: false,
            buffers: 0,
            apply,
        }
    }

    pub const fn with_data(mut self, shape: &'static [usize], data: Data) -> Case {
        self.data = Some((shape, data));
        self
    }

    pub(crate) const fn avoiding_zero(mut self) -> Case {
        self.avoids_zero = true;
        self
    }

    pub(crate) const fn apart(mut self) -> Case {
        self.apart = true;
        self
    }

    pub(crate) const fn with_buffers(mut self, len: usize) -> Case {
        self.buffers = len;
        self
    }
}

/// A case with values, recorded for a device: its differentiable operands are parameters.
pub struct Example {
    pub params: Params,
    pub plan: Plan,
    /// The data operand.
    pub data: Vec<f32>,
    pub upstream: Vec<f32>,
}

/// An example on a device: forward and backward.
pub struct Loaded(pub [LoadedHalf; 2]);

/// The calls of one half, ready to run.
pub struct LoadedHalf {
    pub program: Prepared,
    pub calls: usize,
    /// That the calls read and write.
    pub bytes: usize,
}

/// Where in a run examples stand: dropout draws by it.
const NOW: Step = Step {
    seed: 3,
    batch: 5,
    done: 5,
    slot: 0,
    mean_of: 0,
};

impl Case {
    /// The case with values that depend on the seed alone.
    pub fn example(&self, seed: u64, device: Device) -> Example {
        let mut draws = Generator::new(seed);
        let mut params = Params::new(Generator::new(seed));
        for shape in self.inputs {
            params.normal("x", shape, 1.0);
        }
        if self.apart {
            let mut order: Vec<usize> = (0..params.values.len()).collect();
            order.sort_by(|&a, &b| params.values[a].total_cmp(&params.values[b]));
            for (rank, i) in order.into_iter().enumerate() {
                params.values[i] = 0.1 * rank as f32;
            }
        }
        params.buffer("buffers", &[self.buffers], 1.0);
        if self.avoids_zero {
            for v in &mut params.values {
                *v += 0.05f32.copysign(*v);
            }
        }
        let data = self.data.map_or(Vec::new(), |(shape, kind)| {
            let n = shape.iter().product();
            match kind {
                Data::Normal => normal(&mut draws, n),
                Data::Signs => (normal(&mut draws, n).into_iter())
                    .map(f32::signum)
                    .collect(),
                Data::Indices(bounds) => (bounds.iter().cycle().take(n))
                    .map(|bound| draws.randint(*bound as u64) as f32)
                    .collect(),
                Data::Targets(bound) => (0..n)
                    .map(|_| draws.randint(bound as u64 + 1) as f32 - 1.0)
                    .collect(),
            }
        });
        let plan = self.plan(&params, device);
        let upstream = normal(&mut draws, plan.outputs[0].len);
        Example {
            params,
            plan,
            data,
            upstream,
        }
    }

    /// Forward and backward on a device, of operands that are in `params`.
    pub fn plan(&self, params: &Params, device: Device) -> Plan {
        Plan::record(params, Mode::Train, device, |tape| {
            let mut operands: Vec<_> = params.all().map(|param| tape.param(param)).collect();
            operands.extend(self.data.map(|(shape, _)| tape.input(shape)));
            let y = (self.apply)(&operands);
            Targets {
                outputs: vec![y],
                backward: Some(y),
            }
        })
    }
}

fn normal(draws: &mut Generator, n: usize) -> Vec<f32> {
    let mut values = vec![0.0; n];
    draws.normal(&mut values, 0.0, 1.0);
    values
}

impl Example {
    /// Output and gradient by the CPU bodies, at these values of the parameters.
    ///
    /// # Panics
    /// If there is no memory.
    pub fn on_cpu(&self, values: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let on_cpu = || {
            let mut cpu = Machine::open(Device::Cpu)?;
            let loaded = self.load(&mut cpu, Target::CPU)?;
            cpu.upload(Layout::new(&self.params).values, values)?;
            self.run(&mut cpu, &loaded)
        };
        on_cpu().unwrap_or_else(|e: Error| panic!("{e}"))
    }

    /// Puts the example on a machine that holds nothing yet. What its calls do not write stays a NaN.
    ///
    /// # Errors
    /// If an op has no kernels for its shapes, or the device fails.
    pub fn load(&self, machine: &mut Machine, target: Target) -> Result<Loaded> {
        let layout = Layout::new(&self.params);
        let floats = self.plan.end().max(layout.end());
        machine.alloc_with("arena", &vec![f32::NAN; floats])?;
        let now = machine.alloc_with("step", &[NOW])?;
        let mut halves = [(); 2].map(|()| Program::new(target));
        let [forward, backward] = &mut halves;
        self.plan.emit_halves(now, [forward, backward])?;
        machine.upload(layout.values, &self.params.values)?;
        machine.upload(layout.buffers, &self.params.buffer_values)?;
        for slot in &self.plan.inputs {
            machine.upload(*slot, &self.data)?;
        }
        let mut half = |program: Program| {
            Ok(LoadedHalf {
                calls: program.calls().len(),
                bytes: program.calls().iter().map(Call::bytes).sum(),
                program: machine.prepare(program)?,
            })
        };
        let [forward, backward] = halves;
        Ok(Loaded([half(forward)?, half(backward)?]))
    }

    /// Output and gradient of a loaded example.
    pub fn run(&self, machine: &mut Machine, loaded: &Loaded) -> Result<(Vec<f32>, Vec<f32>)> {
        machine.upload(self.plan.seed, &self.upstream)?;
        for half in &loaded.0 {
            machine.run(half.program)?;
        }
        let y = machine.download(self.plan.outputs[0])?;
        let layout = Layout::new(&self.params);
        Ok((y, machine.download(layout.grads)?))
    }
}

/// The largest distance of two entries, relative to the largest entry of the second (or 1e-3); NaN if one is.
pub fn distance(ours: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(ours.len(), expected.len());
    let size = expected.iter().fold(1e-3f32, |m, x| m.max(x.abs()));
    let apart = |(x, y): (&f32, &f32)| if x == y { 0.0 } else { (x - y).abs() / size };
    let apart = ours.iter().zip(expected).map(apart);
    apart.fold(0.0, |m: f32, d| if d > m || d.is_nan() { d } else { m })
}
