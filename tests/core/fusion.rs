//! Fused ops compute what the ops that they replace do. Asking a plan for what lies between two ops keeps
//! them apart.

use crate::common::draws::Draws;
use stepback_native::device::gpu::kernels::Step;
use stepback_native::device::{Device, Target};
use stepback_native::graph::{Mode, Param, Params, Plan, Range, Session, Targets, Var};
use stepback_native::random::torch::Generator;

/// A residual block of the kind of the models: parameters, and the tensors of its forward pass in order.
struct Block {
    params: Params,
    conv1: Param,
    conv2: Param,
    bias: Param,
    norms: Option<[(Param, Param, Range); 2]>,
}

const CHANNELS: usize = 5;

impl Block {
    fn new(batch_norm: bool) -> Block {
        let mut params = Params::new(Generator::new(1));
        let shape = [CHANNELS, CHANNELS, 3, 3];
        let conv1 = params.normal("conv1", &shape, 0.2);
        let conv2 = params.normal("conv2", &shape, 0.2);
        let bias = params.normal("bias", &[CHANNELS], 1.0);
        let norms = batch_norm.then(|| {
            ["bn1", "bn2"].map(|name| {
                (
                    params.normal(format!("{name}.weight"), &[CHANNELS], 1.0),
                    params.normal(format!("{name}.bias"), &[CHANNELS], 1.0),
                    params.buffer(name, &[2 * CHANNELS], 1.5),
                )
            })
        });
        Block {
            params,
            conv1,
            conv2,
            bias,
            norms,
        }
    }

    /// Everything that the block computes, its output last.
    fn forward<'t>(&self, x: Var<'t>) -> Vec<Var<'t>> {
        let param = |param| x.tape.param(param);
        let norm = |y: Var<'t>, i: usize| match &self.norms {
            None => y,
            Some(norms) => {
                let (weight, bias, averages) = norms[i];
                y.batch_norm(param(weight), param(bias), averages)
            }
        };
        // The first ReLU makes `x` a tensor with a gradient that two ops use.
        let start = x.conv2d(param(self.conv1), Some(param(self.bias)), 1, 1);
        let x = start.relu();
        let a = x.conv2d(param(self.conv1), Some(param(self.bias)), 1, 1);
        let b = norm(a, 0);
        let c = b.relu();
        let d = c.conv2d(param(self.conv2), None, 1, 1);
        let e = norm(d, 1);
        let f = e.plus(x);
        vec![start, x, a, b, c, d, e, f, f.relu()]
    }

    /// Output, gradient and running averages after a run, with ops apart or not.
    fn run(&self, mode: Mode, apart: bool) -> [Vec<f32>; 3] {
        let backward = mode == Mode::Train;
        let plan = Plan::record(&self.params, mode, Device::Cpu, |tape| {
            let mut all = self.forward(tape.input(&[2, 4, 3, CHANNELS]));
            let y = all.pop().unwrap();
            let mut outputs = vec![y];
            if apart {
                outputs.extend(all);
            }
            Targets {
                outputs,
                backward: backward.then_some(y),
            }
        });
        let mut draws = Draws::new(2);
        let x = draws.normal(plan.inputs[0].len);
        let upstream = draws.normal(plan.seed.len);
        let mut session = Session::new(&self.params, vec![plan], Target::CPU).unwrap();
        let outputs = session.run_from(0, &[&x], &upstream, Step::default());
        let y = outputs.unwrap().swap_remove(0);
        [y, session.grads().unwrap(), session.buffers().unwrap()]
    }
}

#[test]
fn fused_training_gives_the_same_bits() {
    for batch_norm in [false, true] {
        let block = Block::new(batch_norm);
        let (fused, apart) = (block.run(Mode::Train, false), block.run(Mode::Train, true));
        assert_eq!(fused, apart);
        let [y, gradient, averages] = fused;
        assert!(y.contains(&0.0) && y.iter().any(|y| *y > 0.0));
        assert!(gradient.iter().filter(|g| **g != 0.0).count() > gradient.len() / 2);
        assert!(!averages.contains(&1.5));
    }
}

/// Folding batch norm into a convolution rounds elsewhere.
#[test]
fn fused_evaluation_agrees() {
    for batch_norm in [false, true] {
        let block = Block::new(batch_norm);
        let ([fused, _, after], [apart, ..]) =
            (block.run(Mode::Eval, false), block.run(Mode::Eval, true));
        let scale = apart.iter().fold(0.0f32, |m, y| m.max(y.abs()));
        for (fused, apart) in fused.iter().zip(&apart) {
            assert!((fused - apart).abs() < 1e-6 * scale, "{fused} {apart}");
        }
        assert_eq!(after, block.params.buffer_values);
    }
}

/// Parameters of two linear layers: the weights of both, and the bias of one.
fn layers() -> (Params, [Param; 3]) {
    let mut params = Params::new(Generator::new(3));
    let [first, second] = ["first", "second"].map(|name| params.normal(name, &[6, 6], 1.0));
    let bias = params.normal("bias", &[6], 1.0);
    (params, [first, second, bias])
}

/// The last of some tensors, which `forward` makes of data and the parameters, and the gradient. With `apart` a plan is asked
/// for all of them.
fn run(
    apart: bool,
    forward: for<'t> fn(Var<'t>, [Var<'t>; 3]) -> Vec<Var<'t>>,
) -> (Vec<f32>, Vec<f32>) {
    let (params, names) = layers();
    let plan = Plan::record(&params, Mode::Train, Device::Cpu, |tape| {
        let mut outputs = forward(tape.input(&[7, 6]), names.map(|name| tape.param(name)));
        let y = outputs.pop().expect("a tensor");
        outputs.insert(0, y);
        outputs.truncate(if apart { outputs.len() } else { 1 });
        Targets {
            outputs,
            backward: Some(y),
        }
    });
    let mut draws = Draws::new(2);
    let [x, upstream] = [plan.inputs[0], plan.seed].map(|slot| draws.normal(slot.len));
    let mut session = Session::new(&params, vec![plan], Target::CPU).unwrap();
    let outputs = session.run_from(0, &[&x], &upstream, Step::default());
    (outputs.unwrap().swap_remove(0), session.grads().unwrap())
}

/// As in an MLP: linear layers with a ReLU behind them, one of which is of data.
#[test]
fn linear_layers_take_relu() {
    let run = |apart| {
        run(apart, |x, [first, second, bias]| {
            let a = x.linear(first, Some(bias));
            let c = a.relu().linear(second, None);
            vec![a, c, c.relu()]
        })
    };
    let (y, gradient) = run(false);
    assert!(y.contains(&0.0) && gradient.iter().any(|g| *g != 0.0));
    assert_eq!((y, gradient), run(true));
}

/// As in a transformer: sums behind linear layers, of which one hands its gradient on.
#[test]
fn linear_layers_take_a_residual() {
    let run = |apart| {
        run(apart, |x, [first, second, bias]| {
            let x = x.linear(first, None).gelu();
            let a = x.gelu().linear(first, Some(bias));
            let b = a.plus(x);
            let c = b.gelu().linear(second, None);
            vec![a, c, b.plus(c)]
        })
    };
    let (y, gradient) = run(false);
    assert!(y.iter().chain(&gradient).all(|x| *x != 0.0));
    assert_eq!((y, gradient), run(true));
}
