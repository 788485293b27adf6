//! A method that is a file on two machines. A fuzz target includes it.
#![allow(dead_code)] // each test binary uses its part

use stepback_native::device::gpu::kernels;
use stepback_native::device::program::{floats, floats_mut};
use stepback_native::device::{Machine, Program, Target};
use stepback_native::graph::Params;
use stepback_native::optim::formula::{FileMethod, read};
use stepback_native::optim::{Operands, Optimizer, Reports, Stepper};
use stepback_native::random::torch::Generator;

/// How well the machines could be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Bit by bit: there are no sums and no functions of which machines round their own way.
    Exact,
    /// Up to roundings.
    Close,
    /// Not at all: on one and the same machine other roundings lead elsewhere.
    Unsettled,
}

/// Words of what rounds differently.
const INEXACT: [&str; 7] = [
    "sum(",
    "mean(",
    "norm(",
    "exp(",
    "log(",
    "^",
    "orthogonalize(",
];

/// Takes steps on the CPU and elsewhere.
///
/// # Panics
/// If they differ.
pub fn compare(text: &str, open: impl Fn() -> Machine, target: Target) -> Comparison {
    let cpu = || Machine::open(Target::CPU.device).unwrap();
    let ours = path(text, cpu(), Target::CPU, false);
    let theirs = path(text, open(), target, false);
    let same = |(x, y): (&f64, &f64)| x == y || x.is_nan() && y.is_nan();
    let both = || ours.iter().zip(&theirs);
    assert_eq!(ours.len(), theirs.len());
    if !INEXACT.iter().any(|word| text.contains(word)) {
        let wrong = both().position(|pair| !same(pair));
        let at = wrong.map(|i| (i, ours[i], theirs[i]));
        assert!(wrong.is_none(), "{at:?} differ in\n{text}");
        return Comparison::Exact;
    }
    let nudged = path(text, cpu(), Target::CPU, true);
    let near = |(x, y): (&f64, &f64)| same((x, y)) || (x - y).abs() <= 1e-3 * x.abs().max(1e-3);
    let share = |other: &[f64]| {
        let near = ours.iter().zip(other).filter(|(x, y)| near((x, y)));
        near.count() as f64 / ours.len() as f64
    };
    if share(&nudged) < 0.995 {
        return Comparison::Unsettled;
    }
    let wrong = both().position(|pair| !near(pair));
    let at = wrong.map(|i| (i, ours[i], theirs[i]));
    assert!(
        share(&theirs) >= 0.98,
        "{at:?} and others differ in\n{text}"
    );
    Comparison::Close
}

/// Weights after three steps and what was reported, with numbers that are nudged by more than a rounding or not.
fn path(text: &str, machine: Machine, target: Target, nudged: bool) -> Vec<f64> {
    let definition = read(text.as_bytes(), "x.toml").unwrap_or_else(|e| panic!("{e}\n{text}"));
    let method = FileMethod::of(&definition, |_| None, 0.0625);
    let names = definition.reports.iter().map(|name| &*name.clone().leak());
    let reports = Reports {
        steps: Vec::leak(names.collect()),
        epoch: &[],
    };
    let optimizer = Optimizer::of(Box::new(method), reports, 0.125);
    let mut params = Params::new(Generator::new(0));
    for (i, shape) in [&[5, 13][..], &[3], &[263, 17]].iter().enumerate() {
        params.constant(i.to_string(), shape, 0.0);
    }
    // What a second gradient gives: the positive weights.
    let second = |at: &Operands, _, program: &mut Program| {
        if program.on_host() {
            program.host("second", [at.w.into()], [at.g.into()], |[w], [g]| {
                let both = floats_mut(g).iter_mut().zip(floats(w));
                both.for_each(|(g, w)| *g = if *w < 0.0 { 0.0 } else { *w });
            });
        } else {
            kernels::relu_fwd(program, 1, at.w, at.g, at.w.len as i64);
        }
        Ok(())
    };
    let tensors = &params.tensors;
    let stepper = Stepper::with_gradient(machine, optimizer, tensors, target, &second);
    let mut stepper = stepper.unwrap();
    let mut state = 7u32;
    let mut draw = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // Some are zero, and of some there are two.
        let x = (state >> 24) as f32 / 64.0 - 2.0;
        let nudge = if nudged {
            (state >> 8 & 7) as f32 * 2f32.powi(-20)
        } else {
            0.0
        };
        x * (1.0 + nudge)
    };
    let n = params.values.len();
    let mut draws = || (0..n).map(|_| draw()).collect::<Vec<f32>>();
    let mut w = draws();
    let mut all = Vec::new();
    for lr in [0.125, 0.125, 0.0625] {
        let g = draws();
        stepper.step(lr, 1.25, &mut w, &g).unwrap();
        all.extend(w.iter().map(|w| f64::from(*w)));
        let reported = reports
            .steps
            .iter()
            .map(|name| stepper.report(name).unwrap().unwrap());
        all.extend(reported);
    }
    all.extend(
        stepper
            .evaluated()
            .unwrap()
            .unwrap_or_default()
            .into_iter()
            .map(f64::from),
    );
    all
}
