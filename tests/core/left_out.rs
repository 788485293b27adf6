//! Rows whose target is -1, which losses and scores leave out: as PyTorch 2.15 does with `ignore_index=-1`, which all
//! numbers here are from.

use crate::common::kernels::machines;
use stepback_native::device::gpu::Precision;
use stepback_native::device::gpu::kernels::Step;
use stepback_native::device::{Device, Machine, Target};
use stepback_native::graph::{Mode, Params, Plan, Session, Targets, Var};
use stepback_native::ops::distance;
use stepback_native::random::torch::Generator;

#[rustfmt::skip]
const LOGITS: [f32; 18] = [
    0.5, -1.0, 2.0,     1.5, 0.25, -0.75,     -2.0, 0.0, 1.0,
    3.0, 1.0, 0.5,      0.125, 0.25, 0.375,   -1.0, -1.5, 2.5,
];
const TARGETS: [f32; 6] = [2.0, -1.0, 0.0, -1.0, 2.0, 1.0];
const NONE: [f32; 6] = [-1.0; 6];

/// A loss or a score of logits and targets.
type Apply = for<'t> fn(Var<'t>, Var<'t>) -> Var<'t>;

/// The outputs of `apply`, and the gradient of the logits, by the CPU and by the kernels.
fn check(apply: Apply, targets: &[f32], expected: &[f32], gradient: Option<&[f32]>) {
    let mut params = Params::new(Generator::new(0));
    let logits = params.constant("logits", &[6, 3], 0.0);
    params.values.copy_from_slice(&LOGITS);
    let kernels = machines(1).into_iter().map(|candidate| {
        let target = candidate.target(Precision::Fp32);
        (candidate.open(), target)
    });
    let cpu = Machine::open(Device::Cpu).unwrap();
    for (machine, target) in [(cpu, Target::CPU)].into_iter().chain(kernels) {
        let plan = Plan::record(&params, Mode::Train, target.device, |tape| {
            let y = apply(tape.param(logits), tape.input(&[6]));
            Targets {
                outputs: vec![y],
                backward: gradient.map(|_| y),
            }
        });
        let mut session = Session::on(machine, &params, vec![plan], target).unwrap();
        let outputs = session.run(0, &[targets], Step::default()).unwrap();
        let close = |ours: &[f32], expected: &[f32]| {
            let nan = |x: &[f32]| x.iter().map(|x| x.is_nan()).collect::<Vec<_>>();
            let finite = |x: &[f32]| -> Vec<f32> {
                x.iter()
                    .map(|x| if x.is_nan() { 0.0 } else { *x })
                    .collect()
            };
            nan(ours) == nan(expected) && distance(&finite(ours), &finite(expected)) < 1e-6
        };
        let device = target.device;
        assert!(close(&outputs[0], expected), "{device:?}: {outputs:?}");
        if let Some(gradient) = gradient {
            let ours = session.grads().unwrap();
            assert!(close(&ours, gradient), "{device:?}: {ours:?}");
        }
    }
}

#[test]
fn cross_entropy_of_the_others() {
    #[rustfmt::skip]
    let gradient = [
        0.0438226, 0.009778143, -0.053600743,    0.0, 0.0, 0.0,   -0.24122025, 0.06487411, 0.17634612,
        0.0, 0.0, 0.0,   0.073159866, 0.08290099, -0.15606087,   0.0072000492, -0.24563295, 0.23843288,
    ];
    let whole: Apply = |x, t| x.cross_entropy(t);
    check(whole, &TARGETS, &[2.1541276], Some(&gradient));
    check(whole, &NONE, &[f32::NAN], Some(&[0.0; 18]));
    let by_2: Apply = |x, t| x.cross_entropy_by_batch(t, 2);
    check(by_2, &TARGETS, &[0.24131133, 3.3490124, 2.5130935], None);
    let by_4: Apply = |x, t| x.cross_entropy_by_batch(t, 4);
    check(by_4, &TARGETS, &[1.7951618, 2.5130935], None);
    let last = [-1.0, -1.0, -1.0, -1.0, 2.0, 1.0];
    check(by_4, &last, &[f32::NAN, 2.5130935], None);
}

#[test]
fn smoothed_cross_entropy_of_the_others() {
    #[rustfmt::skip]
    let gradient = [
        0.035489265, 0.0014448091, -0.036934078,   0.0, 0.0, 0.0,   -0.22455359, 0.05654078, 0.16801278,
        0.0, 0.0, 0.0,   0.06482653, 0.07456766, -0.1393942,   -0.0011332845, -0.22896628, 0.23009954,
    ];
    let smoothed: Apply = |x, t| x.smoothed_cross_entropy(t, 0.1);
    check(smoothed, &TARGETS, &[2.1155858], Some(&gradient));
    check(smoothed, &NONE, &[f32::NAN], Some(&[0.0; 18]));
}

/// PyTorch has no such function: the mean of `argmax(x) == t` over the rows with `t != -1`.
#[test]
fn class_accuracy_of_the_others() {
    let whole: Apply = |x, t| x.class_accuracy(t, 6);
    check(whole, &TARGETS, &[0.5], None);
    check(whole, &NONE, &[f32::NAN], None);
    let by_2: Apply = |x, t| x.class_accuracy(t, 2);
    // The largest output of the fifth row is its last one.
    check(by_2, &TARGETS, &[1.0, 0.0, 0.5], None);
    check(
        by_2,
        &[0.0, -1.0, 2.0, 0.0, -1.0, -1.0],
        &[0.0, 1.0, f32::NAN],
        None,
    );
}

/// Batches of more rows than a block takes.
#[test]
fn class_accuracy_of_many() {
    const ROWS: usize = 5000;
    let targets: Vec<f32> = (0..ROWS).map(|i| (i % 4) as f32 - 1.0).collect();
    let mut params = Params::new(Generator::new(3));
    let logits = params.normal("logits", &[ROWS, 3], 1.0);
    for candidate in machines(1) {
        let target = candidate.target(Precision::Fp32);
        let shares = |machine, target: Target| {
            let plan = Plan::record(&params, Mode::Eval, target.device, |tape| {
                let y = tape.param(logits);
                Targets {
                    outputs: vec![y.class_accuracy(tape.input(&[ROWS, 1]), 2000)],
                    backward: None,
                }
            });
            let mut session = Session::on(machine, &params, vec![plan], target).unwrap();
            session.run(0, &[&targets], Step::default()).unwrap()
        };
        let cpu = shares(Machine::open(Device::Cpu).unwrap(), Target::CPU);
        assert_eq!(shares(candidate.open(), target), cpu);
        assert!(cpu[0].iter().all(|share| (0.3..0.37).contains(share)));
    }
}
