//! Numbers of a plan, in double, on the host.

use super::plan::{Code, Given, Host, HostInput, Instruction, Number, Plan, Shape};
use super::syntax::Operator;
use crate::optim::At;

/// What code over numbers reads.
#[derive(Clone, Copy, Default)]
pub struct Context<'a> {
    pub coefficients: &'a [f64],
    pub loss: f32,
    pub scalars: &'a [f64],
    pub slots: &'a [f64],
    pub sums: &'a [f64],
    pub tensor_state: &'a [f64],
    pub tensor_slots: &'a [f64],
    pub tensor_sums: &'a [f64],
    pub shape: &'a [f64],
}

impl Context<'_> {
    /// With the i-th of `n` rows of the tensors' tables.
    pub fn of_tensor(&self, i: usize, n: usize) -> Self {
        let row = |table: &'_ [f64]| {
            let wide = table.len() / n.max(1);
            i * wide..(i + 1) * wide
        };
        Context {
            tensor_state: &self.tensor_state[row(self.tensor_state)],
            tensor_slots: &self.tensor_slots[row(self.tensor_slots)],
            shape: &self.shape[row(self.shape)],
            ..*self
        }
    }

    pub fn number(&self, number: Number) -> f64 {
        match number {
            Number::Constant(x) => x,
            Number::Coefficient(i) => self.coefficients[i],
            Number::Loss => self.loss.into(),
            Number::State(i) => self.scalars[i],
            Number::Slot(i) => self.slots[i],
            Number::Sum(i) => self.sums[i],
            Number::TensorState(i) => self.tensor_state[i],
            Number::TensorSlot(i) => self.tensor_slots[i],
            Number::TensorSum(i) => self.tensor_sums[i],
            Number::Shape(shape) => {
                let place = Shape::ALL.iter().position(|other| *other == shape);
                self.shape[place.expect("one of all")]
            }
        }
    }
}

/// The values of code, kept so that no step allocates.
pub struct Values(Vec<f64>);

impl Values {
    /// Room for the numbers of any round.
    pub fn of(plan: &Plan) -> Values {
        let numbers = plan
            .rounds
            .iter()
            .flat_map(|round| [&round.group, &round.tensor]);
        let most = numbers.map(|numbers| numbers.code.instructions.len()).max();
        Values(Vec::with_capacity(most.unwrap_or(0)))
    }

    pub fn run(&mut self, code: &Code<Number>, context: &Context) -> &[f64] {
        run(&mut self.0, code, |number| context.number(*number))
    }
}

fn run<'v, I>(values: &'v mut Vec<f64>, code: &Code<I>, read: impl Fn(&I) -> f64) -> &'v [f64] {
    values.clear();
    for instruction in &code.instructions {
        let value = match instruction {
            Instruction::Read(input) => read(input),
            Instruction::Apply(operator, operands) => apply(*operator, operands, values),
        };
        values.push(value);
    }
    values
}

fn apply(operator: Operator, operands: &[usize], values: &[f64]) -> f64 {
    let mut x = [0.0; 3];
    for (x, operand) in x.iter_mut().zip(operands) {
        *x = values[*operand];
    }
    operator.of_doubles(&x[..operands.len()])
}

/// What the host computes for one step after the other.
pub struct Coefficients {
    host: Host,
    state: Vec<f64>,
    values: Vec<f64>,
}

impl Coefficients {
    pub fn new(host: Host) -> Coefficients {
        Coefficients {
            state: host.initial.clone(),
            values: Vec::new(),
            host,
        }
    }

    /// Those of the next step, appended.
    pub fn next(&mut self, at: At, weight_decay: f64, to: &mut Vec<u8>) {
        let epoch = (at.k - 1).checked_div(at.run.steps_per_epoch as u64);
        let state = &self.state;
        let values = run(&mut self.values, &self.host.code, |input| match *input {
            HostInput::Constant(x) => x,
            HostInput::State(i) => state[i],
            HostInput::Given(given) => match given {
                Given::Rate => at.lr,
                Given::InitialRate => at.initial_lr,
                Given::Step => at.k as f64,
                Given::Steps => (at.run.epochs * at.run.steps_per_epoch) as f64,
                Given::Epoch => epoch.unwrap_or(0) as f64,
                Given::BatchSize => at.run.batch_size as f64,
                Given::WeightDecay => weight_decay,
                Given::Parameters => at.parameters as f64,
            },
        });
        for value in &self.host.coefficients {
            to.extend_from_slice(bytemuck::bytes_of(&values[*value]));
        }
        let next: Vec<f64> = self.host.state.iter().map(|value| values[*value]).collect();
        self.state = next;
    }
}
