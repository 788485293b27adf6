//! Kernels one op and one optimizer at a time - how long, how much work, how far from the CPU body - and the training
//! step of whole experiments.
//!
//! On a GPU at the shapes of the six experiments; elsewhere, where times say little, at the small shapes of the
//! tables.

mod experiments;
mod machine;
mod model;
mod plan;
mod shapes;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use serde_json::{Map, Value, json};

use crate::device::gpu::Precision;
use crate::device::{self, Device, Machine, Program, Target};
use crate::error::{Error, Result};
use crate::graph::Params;
use crate::ops::{Case, ROWS, distance};
use crate::optim::{self, Optimizer, Stepper};
pub use experiments::{ABOUT as STEP_ABOUT, PART as STEP_PART, StepTime};
use machine::seconds;
pub use model::Gpu;
pub use plan::{Planned, PlannedLaunch};
use shapes::AT_SIZE;

/// Everything that was measured.
#[derive(Default)]
pub struct Report {
    /// What the machine can do: copies, and multiply-adds in each precision; none on the CPU.
    pub peaks: Vec<Measured>,
    pub rows: Vec<Measured>,
    pub experiments: Vec<StepTime>,
    /// What ended the measurements early; what was measured before is there.
    pub fault: Option<Error>,
}

/// One line of the report.
pub struct Measured {
    pub name: String,
    pub about: String,
    /// Which half of an op, or both.
    pub part: &'static str,
    pub launches: usize,
    /// Of all ranges that the launches name, each once a launch.
    pub bytes: usize,
    pub flops: usize,
    /// Of its products, where it has some.
    pub precision: Option<Precision>,
    /// The median of several runs, on a GPU with other data in its L2 cache; none on the emulator.
    pub seconds: Option<f64>,
    /// The same on a GPU with what the run before left in its caches.
    pub hot_seconds: Option<f64>,
    /// The largest distance from the CPU body's numbers, relative to their largest.
    pub error: f32,
}

impl Measured {
    /// Bytes per second.
    pub fn rate(&self) -> Option<f64> {
        self.seconds.map(|s| self.bytes as f64 / s)
    }

    /// Floating-point operations per second.
    pub fn speed(&self) -> Option<f64> {
        self.seconds.map(|s| self.flops as f64 / s)
    }
}

impl Report {
    fn peak(&self, name: &str) -> Option<&Measured> {
        self.peaks.iter().find(|p| p.name == name)
    }

    /// A line's share of what the machine can copy.
    pub fn share_of_copy(&self, line: &Measured) -> Option<f64> {
        Some(line.rate()? / self.peak(machine::COPY)?.rate()?)
    }

    /// A line's share of what the machine can multiply and add in the same precision.
    pub fn share_of_peak(&self, line: &Measured) -> Option<f64> {
        let peak = self.peak(machine::peak_name(line.precision?))?;
        Some(line.speed()? / peak.speed()?).filter(|_| line.flops > 0)
    }

    /// `before` gives a line's seconds in an earlier report.
    pub fn to_json(
        &self,
        target: Target,
        before: impl Fn(&str, &str, &str) -> Option<f64>,
    ) -> Value {
        let line = |m: &Measured| {
            json!({
                "name": m.name, "about": m.about, "part": m.part, "launches": m.launches, "bytes": m.bytes,
                "flops": m.flops, "precision": m.precision.map(Precision::name), "seconds": m.seconds,
                "hot_seconds": m.hot_seconds, "gb_per_s": m.rate().map(|r| r / 1e9), "tflop_per_s": m.speed().map(|s| s / 1e12),
                "share_of_copy": self.share_of_copy(m), "share_of_peak": self.share_of_peak(m), "error": m.error,
                "baseline_seconds": before(&m.name, &m.about, m.part),
            })
        };
        let lines = |rows: &[Measured]| rows.iter().map(line).collect::<Vec<_>>();
        let gpu = match target.device {
            Device::Cuda(index) => device::usable_gpu(index).ok(),
            Device::Cpu | Device::Emulator | Device::Plan => None,
        };
        let experiment = |p: &StepTime| {
            let mut object: Map<String, Value> = p.to_json();
            let before = before(p.name, experiments::ABOUT, experiments::PART);
            object.insert("baseline_seconds".into(), before.into());
            object
        };
        json!({
            "device": target.device.name(), "gpu": gpu, "precision": target.precision_name(),
            "version": env!("CARGO_PKG_VERSION"), "peaks": lines(&self.peaks), "rows": lines(&self.rows),
            "experiments": self.experiments.iter().map(experiment).collect::<Vec<_>>(),
        })
    }
}

/// Plans the experiments whose name contains `filter`, with the times that a model gives these GPUs.
///
/// # Errors
/// If one of them cannot be planned.
pub fn plans(precision: Option<Precision>, filter: &str, gpus: &[Gpu]) -> Result<Vec<Planned>> {
    let named = experiments::EXPERIMENTS
        .iter()
        .filter(|e| e.name.contains(filter));
    let plan =
        |experiment| plan::plan(experiment, precision, gpus).map_err(|e| of(experiment.name, e));
    named.map(plan).collect()
}

/// At which shapes things are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shapes {
    /// Those of the experiments.
    Experiments,
    /// Those of the ops' tests: times mean little, errors are the point.
    Small,
}

impl Shapes {
    /// The shapes of the experiments where they take no minutes.
    pub fn usual(device: Device) -> Shapes {
        match device {
            Device::Cuda(_) => Shapes::Experiments,
            Device::Cpu | Device::Emulator | Device::Plan => Shapes::Small,
        }
    }
}

/// Measures everything whose name contains `filter`.
pub fn measure(target: Target, shapes: Shapes, filter: &str) -> Report {
    let mut report = Report::default();
    report.fault = fill(&mut report, target, shapes, filter).err();
    report
}

fn fill(report: &mut Report, target: Target, shapes: Shapes, filter: &str) -> Result<()> {
    let large = shapes == Shapes::Experiments;
    if target.device != Device::Cpu {
        report.peaks = machine::peaks(target.device, shapes)?;
    }
    let covered = |name: &str| large && AT_SIZE.iter().any(|(n, _)| *n == name);
    let of_tables = ROWS.iter().filter(|row| !covered(row.name));
    let of_tables = of_tables.flat_map(|row| row.cases.iter().map(|c| (row.name, c)));
    let of_experiments = AT_SIZE.iter().filter(|(name, _)| covered(name));
    let of_experiments = of_experiments.map(|(name, case)| (*name, case));
    let mut cases: Vec<(&'static str, &Case)> = of_experiments.chain(of_tables).collect();
    cases.retain(|(name, _)| name.contains(filter));
    // Stable: the cases of an op stay in order.
    cases.sort_by_key(|(name, _)| *name);
    for (name, case) in cases {
        let lines = op(target, shapes, name, case);
        let lines = lines.map_err(|e| of(&format!("{name} ({})", case.about), e))?;
        report.rows.extend(lines);
    }
    let sizes: &[usize] = if large {
        &experiments::PARAMETERS
    } else {
        &[3003]
    };
    for row in optim::rows() {
        let name = row.entry.name;
        for &n in sizes.iter().filter(|_| name.contains(filter)) {
            let line = optimizer(target, shapes, name, n);
            report.rows.push(line.map_err(|e| of(name, e))?);
        }
    }
    experiments::all(target, shapes, filter, &mut report.experiments)
}

/// An error with what it was met at.
fn of(what: &str, mut error: Error) -> Error {
    error.message = format!("{what}: {}", error.message);
    error
}

/// In which precision an op's products are computed.
fn precision(target: Target, name: &str) -> Precision {
    let program = Program::new(target);
    match name {
        "conv2d" if !program.on_host() => program.conv_precision(),
        _ => program.linear_precision(),
    }
}

const SEED: u64 = 1;
const PARTS: [&str; 2] = ["forward", "backward"];

/// Forward and backward of one case.
fn op(target: Target, shapes: Shapes, name: &str, case: &Case) -> Result<Vec<Measured>> {
    let mut example = case.example(SEED, target.device);
    let flops = example.plan.flops_of_halves();
    let mut machine = Machine::open(target)?;
    let loaded = example.load(&mut machine, target)?;
    let ours = example.run(&mut machine, &loaded)?;
    let programs = loaded.0.each_ref().map(|half| half.program);
    let seconds = seconds(&mut machine, target.device, shapes, programs)?;
    drop(machine);
    example.plan = case.plan(&example.params, Device::Cpu);
    let expected = example.on_cpu(&example.params.values);
    let errors = [
        distance(&ours.0, &expected.0),
        distance(&ours.1, &expected.1),
    ];
    let halves = loaded.0.iter().enumerate();
    let halves = halves.filter(|(_, half)| half.calls > 0);
    let measured = halves.map(|(i, half)| Measured {
        name: name.to_owned(),
        about: case.about.to_owned(),
        part: PARTS[i],
        launches: half.calls,
        bytes: half.bytes,
        flops: flops[i],
        precision: Some(precision(target, name)),
        seconds: seconds[i].cold,
        hot_seconds: seconds[i].hot,
        error: errors[i],
    });
    Ok(measured.collect())
}

/// One update of `n` parameters by a method with its default keys.
fn optimizer(target: Target, shapes: Shapes, name: &str, n: usize) -> Result<Measured> {
    let opt = json!({"name": name, "lr": 0.01});
    let opt = opt.as_object().expect("an object");
    let whole = [Params::matrix(n)];
    let vectors = Optimizer::new(opt, &[])?.vectors(&whole);
    let mut draws = Xoshiro256PlusPlus::seed_from_u64(4);
    let [mut w, g] =
        [(); 2].map(|()| -> Vec<f32> { (0..n).map(|_| draws.random_range(-1.0..1.0)).collect() });
    let mut expected = w.clone();
    Stepper::new(opt, n, Target::CPU)?.step(0.01, 1.0, &mut expected, &g)?;
    let mut stepper = Stepper::new(opt, n, target)?;
    stepper.step(0.01, 1.0, &mut w, &g)?;
    let error = distance(&w, &expected);
    let calls = stepper.calls();
    let (mut machine, program) = stepper.into_parts();
    let [seconds] = seconds(&mut machine, target.device, shapes, [program])?;
    Ok(Measured {
        name: name.to_owned(),
        about: format!("{n} parameters"),
        part: "update",
        launches: calls,
        // Weights and state are read and written, the gradient is read.
        bytes: (3 + 2 * vectors) * n * size_of::<f32>(),
        flops: 0,
        precision: None,
        seconds: seconds.cold,
        hot_seconds: seconds.hot,
        error,
    })
}

#[cfg(all(test, emulator))]
mod tests {
    use super::*;
    use crate::random::torch::Generator;

    const EMULATOR: Target = Target {
        device: Device::Emulator,
        precision: None,
    };

    /// The shapes fit the ops.
    #[test]
    fn every_shape_of_the_experiments_can_be_recorded() {
        for (name, case) in AT_SIZE {
            assert!(ROWS.iter().any(|row| row.name == *name), "{name}");
            // Of the shapes alone: values would take minutes to draw.
            let mut params = Params::new(Generator::new(1));
            for shape in case.inputs {
                params.constant("x", shape, 0.0);
            }
            params.buffer("buffers", &[case.buffers], 1.0);
            assert!(case.plan(&params, Device::Emulator).end() > 0, "{name}");
        }
    }

    #[test]
    fn shares_are_of_the_machines_peaks() {
        let line = |name: &str, precision, seconds| Measured {
            name: name.into(),
            about: String::new(),
            part: "",
            launches: 1,
            bytes: 100,
            flops: 1000,
            precision,
            seconds: Some(seconds),
            hot_seconds: None,
            error: 0.0,
        };
        let report = Report {
            peaks: vec![
                line("copy", None, 1.0),
                line("peak_fp32", Some(Precision::Fp32), 2.0),
                line("peak_tf32", Some(Precision::Tf32), 1.0),
            ],
            ..Report::default()
        };
        let measured = line("linear", Some(Precision::Fp32), 4.0);
        assert_eq!(report.share_of_copy(&measured), Some(0.25));
        assert_eq!(report.share_of_peak(&measured), Some(0.5));
        let measured = line("conv2d", Some(Precision::Tf32), 4.0);
        assert_eq!(report.share_of_peak(&measured), Some(0.25));
    }

    #[test]
    fn kernels_that_only_multiply_and_add_do_so() {
        let peaks = machine::peaks(Device::Emulator, Shapes::Small).unwrap();
        assert_eq!(peaks.len(), 5);
        for peak in peaks {
            assert!(peak.error < 1e-6, "{} is {} off", peak.name, peak.error);
        }
    }

    #[test]
    fn every_op_is_measured() {
        let report = measure(EMULATOR, Shapes::Small, "");
        assert!(report.fault.is_none());
        for row in ROWS {
            assert!(
                report.rows.iter().any(|r| r.name == row.name),
                "{}",
                row.name
            );
        }
    }

    #[test]
    fn forward_and_backward_are_measured_apart() {
        let report = measure(EMULATOR, Shapes::Small, "linear");
        assert!(report.fault.is_none());
        let forward: Vec<_> = report.rows.iter().filter(|r| r.part == "forward").collect();
        assert!(!forward.is_empty());
        assert_eq!(2 * forward.len(), report.rows.len());
        assert!(
            report
                .rows
                .iter()
                .all(|r| r.launches > 0 && r.error < 1e-5 && r.seconds.is_none())
        );
        assert_eq!(forward[0].launches, 1);
        assert_eq!(forward[0].flops, 2 * 3 * 5 * 4);
    }
}
