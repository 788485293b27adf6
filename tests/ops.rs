//! Every op of the table: its gradient against finite differences, its forward repeated bit for bit.

mod common;

use common::Draws;
use stepback_native::device::Device;
use stepback_native::graph::{Clock, Memory, Mode, Params, Plan, Range, Targets};
use stepback_native::ops::{Case, Data, ROWS};
use stepback_native::random::torch::Generator;

/// A case recorded as a plan whose differentiable operands are parameters.
struct Bench {
    params: Params,
    plan: Plan,
    data: Vec<f32>,
    upstream: Vec<f32>,
}

impl Bench {
    fn new(case: &Case, seed: u64) -> Bench {
        let mut draws = Draws::new(seed);
        let mut params = Params::new(Generator::new(seed));
        let ranges: Vec<Range> = case
            .inputs
            .iter()
            .map(|shape| params.normal("x", shape, 1.0))
            .collect();
        if case.apart {
            let mut order: Vec<usize> = (0..params.values.len()).collect();
            order.sort_by(|&a, &b| params.values[a].total_cmp(&params.values[b]));
            for (rank, i) in order.into_iter().enumerate() {
                params.values[i] = 0.1 * rank as f32;
            }
        }
        params.buffer("buffers", &[case.buffers], 1.0);
        if case.avoids_zero {
            for v in &mut params.values {
                *v += 0.05f32.copysign(*v);
            }
        }
        let data = match case.data {
            None => Vec::new(),
            Some((shape, Data::Normal)) => draws.normal(shape.iter().product()),
            Some((shape, Data::Signs)) => {
                let normal = draws.normal(shape.iter().product());
                normal.into_iter().map(f32::signum).collect()
            }
            Some((shape, Data::Indices(bounds))) => (0..shape.iter().product())
                .map(|i| draws.below(bounds[i % bounds.len()]) as f32)
                .collect(),
        };
        let plan = Plan::record(&params, Mode::Train, Device::Cpu, |tape| {
            let mut operands: Vec<_> = ranges.iter().map(|r| tape.param(*r)).collect();
            operands.extend(case.data.map(|(shape, _)| tape.input(shape)));
            let y = (case.apply)(&operands);
            Targets {
                outputs: vec![y],
                backward: Some(y),
            }
        });
        let upstream = draws.normal(plan.outputs[0].len);
        Bench {
            params,
            plan,
            data,
            upstream,
        }
    }

    /// Runs the plan at these values: output and gradient.
    fn run(&self, values: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let mut memory = Memory::new(&self.params, &[&self.plan]);
        memory.update().0.copy_from_slice(values);
        for slot in &self.plan.inputs {
            memory.get_mut(*slot).copy_from_slice(&self.data);
        }
        memory
            .get_mut(self.plan.seed)
            .copy_from_slice(&self.upstream);
        let clock = Clock { seed: 3, step: 5 };
        self.plan.run(&mut memory, clock);
        let y = memory.get(self.plan.outputs[0]).to_vec();
        (y, memory.grads().to_vec())
    }

    /// <upstream, y(values)>.
    fn objective(&self, values: &[f32]) -> f64 {
        let y = self.run(values).0;
        let terms = y.iter().zip(&self.upstream);
        terms.map(|(y, u)| f64::from(*y) * f64::from(*u)).sum()
    }
}

#[test]
fn gradients_are_the_slopes() {
    for (row, case) in ROWS
        .iter()
        .flat_map(|r| r.cases.iter().map(move |c| (r, c)))
    {
        let bench = Bench::new(case, 11);
        let (_, grad) = bench.run(&bench.params.values);
        let scale = grad.iter().fold(0.1f32, |m, g| m.max(g.abs()));
        for i in 0..grad.len() {
            // Richardson's extrapolation of two central differences.
            let slope = |h: f32| {
                let mut values = bench.params.values.clone();
                let at = values[i];
                values[i] = at + h;
                let (up, high) = (bench.objective(&values), values[i]);
                values[i] = at - h;
                let (down, low) = (bench.objective(&values), values[i]);
                (up - down) / f64::from(high - low)
            };
            let expected = (4.0 * slope(0.02) - slope(0.04)) / 3.0;
            let error = (f64::from(grad[i]) - expected).abs() / f64::from(scale);
            assert!(
                error < 1e-3,
                "{} ({}): d/dx[{i}] is {}, the slope {expected}",
                row.name,
                case.about,
                grad[i]
            );
        }
    }
}

#[test]
fn a_second_run_gives_the_same_bits() {
    for case in ROWS.iter().flat_map(|r| r.cases) {
        let bench = Bench::new(case, 12);
        let first = bench.run(&bench.params.values);
        let second = bench.run(&bench.params.values);
        assert_eq!(first, second, "{}", case.about);
    }
}

#[test]
fn every_op_has_cases() {
    assert!(ROWS.iter().all(|r| !r.cases.is_empty()));
    let mut names: Vec<_> = ROWS.iter().map(|r| r.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), ROWS.len());
}
