//! Tapes: what a model records, and the gradients that follow from it.

use crate::common::draws::Draws;
use stepback_native::device::gpu::kernels::Step;
use stepback_native::device::{Device, Target};
use stepback_native::graph::{Mode, Param, Params, Plan, Session, Targets};
use stepback_native::random::torch::Generator;

const WIDTH: usize = 4;
const ROWS: usize = 3;

/// The gradient of |second(first(x))|^2 of two linear layers, which may be one.
fn gradient(params: &Params, [first, second]: [Param; 2]) -> Vec<f32> {
    let plan = Plan::record(params, Mode::Train, Device::Cpu, |tape| {
        let x = tape.input(&[ROWS, WIDTH]);
        let y = x.linear(tape.param(first), None);
        let y = y.linear(tape.param(second), None);
        let loss = y.squared(tape.input(&[ROWS, WIDTH]));
        Targets {
            outputs: vec![loss],
            backward: Some(loss),
        }
    });
    let x = Draws::new(5).normal(ROWS * WIDTH);
    let mut session = Session::new(params, vec![plan], Target::CPU).unwrap();
    session
        .run(0, &[&x, &[0.0; ROWS * WIDTH]], Step::default())
        .unwrap();
    session.grads().unwrap()
}

#[test]
fn a_parameter_that_is_used_twice_gets_both_gradients() {
    const N: usize = WIDTH * WIDTH;
    let shape = [WIDTH, WIDTH];
    let mut two = Params::new(Generator::new(1));
    let first = two.normal("first", &shape, 1.0);
    let second = two.constant("second", &shape, 0.0);
    let values = two.values[..N].to_vec();
    two.values[N..].copy_from_slice(&values);
    let mut one = Params::new(Generator::new(1));
    let shared = one.normal("shared", &shape, 1.0);
    assert_eq!(one.values, values);

    let apart = gradient(&two, [first, second]);
    let together = gradient(&one, [shared, shared]);
    assert_eq!(together.len(), N);
    for i in 0..N {
        let sum = apart[i] + apart[N + i];
        assert!(
            (together[i] - sum).abs() <= 1e-5 * sum.abs().max(1.0),
            "{i}"
        );
        assert!(
            apart[i].abs().min(apart[N + i].abs()) > 1e-4,
            "{i}: nothing to sum"
        );
    }
}

#[test]
fn cheap_outputs_are_computed_again_instead_of_kept() {
    const LAYERS: usize = 6;
    let mut params = Params::new(Generator::new(1));
    let weights = [(); LAYERS].map(|()| params.normal("w", &[WIDTH, WIDTH], 1.0));
    // As an output of the plan, what a layer gives is kept.
    let plan = |kept: bool| {
        Plan::record(&params, Mode::Train, Device::Cpu, |tape| {
            let mut outputs = Vec::new();
            let mut x = tape.input(&[ROWS, WIDTH]);
            for weight in weights {
                x = x.linear(tape.param(weight), None).silu();
                outputs.push(x);
            }
            let loss = x.squared(tape.input(&[ROWS, WIDTH]));
            outputs.retain(|_| kept);
            outputs.push(loss);
            Targets {
                outputs,
                backward: Some(loss),
            }
        })
    };
    let plans = [false, true].map(plan);
    let [again, kept] = plans.each_ref().map(Plan::end);
    assert!(
        again + (LAYERS - 2) * ROWS * WIDTH <= kept,
        "{again} {kept}"
    );
    let x = Draws::new(5).normal(ROWS * WIDTH);
    let mut session = Session::new(&params, plans.into(), Target::CPU).unwrap();
    let gradients = [0, 1].map(|plan| {
        let inputs: [&[f32]; 2] = [&x, &[0.0; ROWS * WIDTH]];
        session.run(plan, &inputs, Step::default()).unwrap();
        session.grads().unwrap()
    });
    assert_eq!(gradients[0], gradients[1]);
}
