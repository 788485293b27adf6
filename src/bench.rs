//! Kernels one op and one optimizer at a time: how long, how much work, how far from the CPU body.
//!
//! On a GPU at the shapes of the MNIST experiment and some larger ones, on the emulator, whose times mean nothing, at
//! the small shapes of the tables.

use serde_json::{Value, json};

use crate::device::gpu::{Gpu, Program, Queue, Step, View, elementwise, kernels};
use crate::device::{Device, Slot, Target};
use crate::error::Result;
use crate::ops::{Case, Data, ROWS, distance};
use crate::optim::{self, Method, Moment, State, Update};
use crate::random::torch::Generator;

/// One line of the report.
pub struct Measured {
    pub name: String,
    pub about: String,
    pub launches: usize,
    /// Of all ranges that the launches name.
    pub bytes: usize,
    pub flops: usize,
    /// Median of [`RUNS`]; none on the emulator.
    pub seconds: Option<f64>,
    /// The largest distance from the CPU body's numbers, relative to their largest.
    pub error: f32,
}

impl Measured {
    pub fn to_json(&self) -> Value {
        json!({
            "name": self.name, "about": self.about, "launches": self.launches, "bytes": self.bytes,
            "flops": self.flops, "seconds": self.seconds, "error": self.error,
        })
    }
}

/// Runs of which the median is taken, after a few that warm up.
pub const RUNS: usize = 31;
const WARM_UP: usize = 5;

/// Floats that are written between runs, so that the L2 cache holds nothing of the last one.
const FLUSH: usize = 64 << 20;

/// Batch, pixels, hidden units and classes of the MNIST experiment, and its parameters.
const MLP: [&[usize]; 4] = [&[128, 784], &[100, 784], &[100], &[128, 100]];
const MLP_PARAMETERS: usize = 89_610;

/// The ops of the MNIST experiment at its shapes, and linear layers of VGG and ViT.
const AT_SIZE: &[(&str, Case)] = &[
    (
        "linear",
        Case::new("128x784 to 100, ReLU", &[MLP[0], MLP[1], MLP[2]], |x| {
            x[0].linear(x[1], Some(x[2])).relu()
        }),
    ),
    (
        "linear",
        Case::new(
            "128x100 to 100, ReLU",
            &[MLP[3], &[100, 100], MLP[2]],
            |x| x[0].linear(x[1], Some(x[2])).relu(),
        ),
    ),
    (
        "linear",
        Case::new("128x100 to 10", &[MLP[3], &[10, 100], &[10]], |x| {
            x[0].linear(x[1], Some(x[2]))
        }),
    ),
    (
        "linear",
        Case::new("128x512 to 512", &[&[128, 512], &[512, 512], &[512]], |x| {
            x[0].linear(x[1], Some(x[2]))
        }),
    ),
    (
        "linear",
        Case::new("33280x512 to 1536", &[&[33280, 512], &[1536, 512]], |x| {
            x[0].linear(x[1], None)
        }),
    ),
    ("relu", Case::new("128x100", &[MLP[3]], |x| x[0].relu())),
    (
        "dropout",
        Case::new("128x100, half", &[MLP[3]], |x| x[0].dropout(0.5)),
    ),
    (
        "cross_entropy",
        Case::new("128 rows, 10 classes", &[&[128, 10]], |x| {
            x[0].cross_entropy(x[1])
        })
        .with_data(&[128, 1], Data::Indices(&[10])),
    ),
];

/// Measures everything whose name contains `filter` and that has kernels.
pub fn measure(target: Target, filter: &str) -> Result<Vec<Measured>> {
    let timed = matches!(target.device, Device::Cuda(_));
    let mut lines = Vec::new();
    if timed && "copy".contains(filter) {
        lines.push(copy(target)?);
    }
    let small = ROWS
        .iter()
        .flat_map(|r| r.cases.iter().map(|c| (r.name, c)));
    let cases: Vec<(&str, &Case)> = match timed {
        true => AT_SIZE.iter().map(|(name, case)| (*name, case)).collect(),
        false => small.collect(),
    };
    for (name, case) in cases.into_iter().filter(|(name, _)| name.contains(filter)) {
        lines.extend(op(target, name, case)?);
    }
    let n = if timed { MLP_PARAMETERS } else { 3001 };
    for row in optim::ROWS.iter().filter(|r| r.entry.name.contains(filter)) {
        lines.push(optimizer(target, row.entry.name, n)?);
    }
    Ok(lines)
}

/// The machine's copy bandwidth, which bounds every other line.
fn copy(target: Target) -> Result<Measured> {
    let mut gpu = Gpu::open(target.device)?;
    gpu.alloc::<f32>("arena", 2 * FLUSH)?;
    let half = |i| Slot {
        start: i * FLUSH,
        len: FLUSH,
    };
    let mut queue = Queue::default();
    kernels::add_bwd(
        &mut queue,
        elementwise(FLUSH),
        half(0),
        half(1),
        FLUSH as i64,
    );
    let bytes = 2 * FLUSH * size_of::<f32>();
    let program = gpu.prepare(queue)?;
    Ok(Measured {
        name: "copy".into(),
        about: format!("{} MiB", bytes >> 21),
        launches: 1,
        bytes,
        flops: 0,
        seconds: median(&mut gpu, program, None)?,
        error: 0.0,
    })
}

/// The median time of a program, between runs of `flush`.
fn median(gpu: &mut Gpu, program: Program, flush: Option<Program>) -> Result<Option<f64>> {
    let mut times = Vec::with_capacity(RUNS);
    for i in 0..WARM_UP + RUNS {
        if let Some(flush) = flush {
            gpu.run(flush)?;
        }
        let time = gpu.time(program)?;
        if i >= WARM_UP {
            times.push(time);
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(Some(times[RUNS / 2]))
}

/// A program that fills the L2 cache with other data.
fn flush(gpu: &mut Gpu) -> Result<Program> {
    let other: View<f32> = gpu.alloc("flush", FLUSH)?;
    let mut queue = Queue::default();
    let half = FLUSH / 2;
    let (from, to) = (other.part(0, half), other.part(half, half));
    kernels::add_bwd(&mut queue, elementwise(half), from, to, half as i64);
    gpu.prepare(queue)
}

/// The time of a program on a GPU; nothing on the emulator.
fn timed(gpu: &mut Gpu, program: Program, device: Device) -> Result<Option<f64>> {
    match device {
        Device::Cuda(_) => {
            let flush = flush(gpu)?;
            median(gpu, program, Some(flush))
        }
        Device::Cpu | Device::Emulator => Ok(None),
    }
}

/// Forward and gradient of one case; `None` where the op has no kernels.
fn op(target: Target, name: &str, case: &Case) -> Result<Option<Measured>> {
    const SEED: u64 = 1;
    let example = case.example(SEED, target.device);
    let mut gpu = Gpu::open(target.device)?;
    let Some(loaded) = example.load(&mut gpu, target.precision)? else {
        return Ok(None);
    };
    let (y, grad) = example.run(&mut gpu, &loaded)?;
    let on_cpu = case.example(SEED, Device::Cpu);
    let (cpu_y, cpu_grad) = on_cpu.on_cpu(&on_cpu.params.values);
    Ok(Some(Measured {
        name: name.to_owned(),
        about: case.about.to_owned(),
        launches: loaded.launches,
        bytes: loaded.bytes,
        flops: example.plan.flops(),
        seconds: timed(&mut gpu, loaded.program, target.device)?,
        error: distance(&y, &cpu_y).max(distance(&grad, &cpu_grad)),
    }))
}

/// One update of `n` parameters by a method with its default keys.
fn optimizer(target: Target, name: &str, n: usize) -> Result<Measured> {
    let opt = json!({"name": name, "lr": 0.01});
    let opt = opt.as_object().expect("an object");
    let method = Method::new(opt)?;
    let mut state = State::new(opt, n)?;
    let (mut w, mut g) = (vec![0.0; n], vec![0.0; n]);
    let mut generator = Generator::new(4);
    generator.normal(&mut w, 0.0, 1.0);
    generator.normal(&mut g, 0.0, 1.0);
    let mut gpu = Gpu::open(target.device)?;
    gpu.alloc::<f32>("arena", 2 * n + 1)?;
    let slot = |start, len| Slot { start, len };
    let (dw, dg, loss) = (slot(0, n), slot(n, n), slot(2 * n, 1));
    let at = Moment {
        k: 1,
        lr: 0.01,
        initial_lr: 0.01,
    };
    let now = gpu.alloc_with(
        "step",
        &[Step {
            c: method.optimizer.coefficients(at),
            ..Step::default()
        }],
    )?;
    let update = Update::new(&mut gpu, &method, [dw, dg, loss], now, 1)?;
    let mut queue = Queue::default();
    method.optimizer.queue(&update, &mut queue);
    let launches = queue.launches().len();
    let program = gpu.prepare(queue)?;
    gpu.upload(dw, &w)?;
    gpu.upload(dg, &g)?;
    gpu.upload(loss, &[1.0])?;
    gpu.run(program)?;
    let ours: Vec<f32> = gpu.download(dw)?;
    state.step(0.01, 1.0, &mut w, &g);
    Ok(Measured {
        name: name.to_owned(),
        about: format!("{n} parameters"),
        launches,
        // Weights and state are read and written, the gradient is read.
        bytes: (3 + 2 * method.vectors) * n * size_of::<f32>(),
        flops: 0,
        seconds: timed(&mut gpu, program, target.device)?,
        error: distance(&ours, &w),
    })
}
