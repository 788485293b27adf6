//! Kernels of plans that are written by hand, interpreted, against plain loops; and what the real compiler says of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::super::places::{Cuts, Places};
use super::super::plan::*;
use super::super::syntax::Operator::{self, *};
use super::super::{FileMethod, file, rows};
use super::Kernels;
use crate::device::gpu::kernels::Step;
use crate::device::{Call, Device, Machine, Program, Schedule, Slot, Target, View};
use crate::graph::{Range, Role, Tensor};

use Instruction::{Apply, Read};

/// Code under construction.
struct Builder<I>(Vec<Instruction<I>>);

impl<I> Builder<I> {
    fn new() -> Builder<I> {
        Builder(Vec::new())
    }

    fn read(&mut self, input: I) -> usize {
        self.0.push(Read(input));
        self.0.len() - 1
    }

    fn apply<const N: usize>(&mut self, operator: Operator, from: [usize; N]) -> usize {
        self.0.push(Apply(operator, from.to_vec()));
        self.0.len() - 1
    }

    fn code(self) -> Code<I> {
        Code {
            instructions: self.0,
        }
    }
}

fn no_numbers() -> Numbers {
    Numbers {
        code: Builder::new().code(),
        slots: Vec::new(),
        state: Vec::new(),
        reports: Vec::new(),
    }
}

fn round(pass: Pass) -> Round {
    Round {
        group: no_numbers(),
        tensor: no_numbers(),
        pass: Some(pass),
        orthogonal: Vec::new(),
        gradient: false,
    }
}

fn plan(cells: &[Cell], coefficients: usize, rounds: Vec<Round>) -> Plan {
    Plan {
        host: Host {
            code: Builder::new().code(),
            coefficients: vec![0; coefficients],
            initial: Vec::new(),
            state: Vec::new(),
        },
        cells: cells.to_vec(),
        scalars: Vec::new(),
        tensors: 0,
        group_slots: 0,
        tensor_slots: 0,
        rounds,
        evaluation: None,
        joins_groups: true,
    }
}

const W_G: [Cell; 2] = [Cell::Parameters, Cell::Gradient];

/// Coefficients: lr / (1 - b1^k), sqrt(1 - b2^k), eps, b1, 1 - b1, b2, 1 - b2.
fn adam() -> Plan {
    let mut c = Builder::new();
    let [w, g, m, v] = [0, 1, 2, 3].map(|i| c.read(Element::Cell(i)));
    let [lr, root, eps, b1, a1, b2, a2] =
        [0, 1, 2, 3, 4, 5, 6].map(|i| c.read(Element::Uniform(i)));
    let [kept, new] = [c.apply(Multiply, [b1, m]), c.apply(Multiply, [a1, g])];
    let m = c.apply(Add, [kept, new]);
    let kept = c.apply(Multiply, [b2, v]);
    let square = c.apply(Multiply, [g, g]);
    let v = c.apply(MultiplyAdd, [a2, square, kept]);
    let d = c.apply(Sqrt, [v]);
    let d = c.apply(Divide, [d, root]);
    let d = c.apply(Add, [d, eps]);
    let u = c.apply(Multiply, [lr, m]);
    let u = c.apply(Divide, [u, d]);
    let w = c.apply(Subtract, [w, u]);
    let pass = Pass {
        uniforms: (0..7).map(Number::Coefficient).collect(),
        code: c.code(),
        stores: vec![(2, m), (3, v), (0, w)],
        sums: Vec::new(),
        by_tensor: false,
    };
    let state = [Cell::State(0.0); 2];
    plan(&[&W_G[..], &state].concat(), 7, vec![round(pass)])
}

fn sum(how: Adding, by_tensor: bool, value: usize) -> PassSum {
    PassSum {
        how,
        by_tensor,
        value,
    }
}

/// Sums over all parameters, numbers with state, slots and a report, then an update.
fn momo() -> Plan {
    let mut c = Builder::new();
    let [w, g, d] = [0, 1, 2].map(|i| c.read(Element::Cell(i)));
    let beta = c.read(Element::Uniform(0));
    let old = c.apply(Subtract, [d, g]);
    let d = c.apply(MultiplyAdd, [beta, old, g]);
    let slope = c.apply(Multiply, [w, g]);
    let inner = c.apply(Multiply, [w, d]);
    let first = Pass {
        uniforms: vec![Number::Coefficient(0)],
        code: c.code(),
        stores: vec![(2, d)],
        sums: vec![
            sum(Adding::Values, false, slope),
            sum(Adding::LargestAbsolute, false, d),
            sum(Adding::Values, false, inner),
            sum(Adding::Squares, false, d),
        ],
        by_tensor: false,
    };
    let mut c = Builder::new();
    let [slope, largest, inner, norm] = [0, 1, 2, 3].map(|i| c.read(Number::Sum(i)));
    let [old, loss, lr] =
        [Number::State(0), Number::Loss, Number::Coefficient(1)].map(|n| c.read(n));
    let half = c.read(Number::Constant(0.5));
    let kept = c.apply(Multiply, [half, old]);
    let average = c.apply(MultiplyAdd, [half, loss, kept]);
    let top = c.apply(Add, [average, inner]);
    let top = c.apply(Subtract, [top, slope]);
    let zero = c.read(Number::Constant(0.0));
    let top = c.apply(Max, [top, zero]);
    let t = c.apply(Divide, [top, norm]);
    let tau = c.apply(Min, [t, lr]);
    let numbers = Numbers {
        code: c.code(),
        slots: vec![(1, tau), (0, zero)],
        state: vec![(0, average), (1, largest)],
        reports: vec![(0, t), (1, half)],
    };
    let mut c = Builder::new();
    let [w, d] = [0, 2].map(|i| c.read(Element::Cell(i)));
    let tau = c.read(Element::Uniform(0));
    let step = c.apply(Multiply, [tau, d]);
    let w = c.apply(Subtract, [w, step]);
    let second = Pass {
        uniforms: vec![Number::Slot(1)],
        code: c.code(),
        stores: vec![(0, w)],
        sums: Vec::new(),
        by_tensor: false,
    };
    let second = Round {
        group: numbers,
        ..round(second)
    };
    let mut plan = plan(
        &[Cell::Parameters, Cell::Gradient, Cell::State(0.0)],
        2,
        vec![round(first), second],
    );
    (plan.scalars, plan.group_slots) = (vec![1.5, 0.0], 2);
    plan
}

/// Norms of tensors beside a sum over all, tensors' state and shapes.
fn lamb() -> Plan {
    let mut c = Builder::new();
    let [w, g] = [0, 1].map(|i| c.read(Element::Cell(i)));
    let decay = c.read(Element::Uniform(0));
    let size = c.read(Element::Uniform(1));
    let u = c.apply(MultiplyAdd, [decay, w, g]);
    let u = c.apply(Multiply, [u, size]);
    let first = Pass {
        uniforms: vec![Number::Coefficient(0), Number::TensorState(1)],
        code: c.code(),
        stores: vec![(2, u)],
        sums: vec![
            sum(Adding::Squares, true, w),
            sum(Adding::LargestAbsolute, true, u),
            sum(Adding::Values, false, g),
            sum(Adding::Squares, true, u),
        ],
        by_tensor: true,
    };
    let mut c = Builder::new();
    let all = c.read(Number::Sum(2));
    let old = c.read(Number::State(0));
    let new = c.apply(Add, [all, old]);
    let group = Numbers {
        code: c.code(),
        slots: vec![(0, all)],
        state: vec![(0, new)],
        reports: Vec::new(),
    };
    let mut c = Builder::new();
    let [w, u, largest] = [0, 3, 1].map(|i| c.read(Number::TensorSum(i)));
    let [old, size, all] = [
        Number::TensorState(0),
        Number::Shape(Shape::Size),
        Number::Slot(0),
    ]
    .map(|n| c.read(n));
    let mean = c.apply(Divide, [u, size]);
    let state = c.apply(Add, [old, mean]);
    let ratio = c.apply(Divide, [w, u]);
    let ratio = c.apply(Sqrt, [ratio]);
    let shift = c.apply(Multiply, [all, all]);
    let before = c.read(Number::State(0));
    let tensor = Numbers {
        code: c.code(),
        slots: vec![(0, ratio), (1, shift), (2, before)],
        state: vec![(0, state), (1, largest)],
        reports: Vec::new(),
    };
    let mut c = Builder::new();
    let [w, u] = [0, 2].map(|i| c.read(Element::Cell(i)));
    let [lr, ratio, shift, before] = [0, 1, 2, 3].map(|i| c.read(Element::Uniform(i)));
    let step = c.apply(Multiply, [ratio, u]);
    let step = c.apply(MultiplyAdd, [shift, before, step]);
    let step = c.apply(Multiply, [lr, step]);
    let w = c.apply(Subtract, [w, step]);
    let second = Pass {
        uniforms: vec![
            Number::Coefficient(1),
            Number::TensorSlot(0),
            Number::TensorSlot(1),
            Number::TensorSlot(2),
        ],
        code: c.code(),
        stores: vec![(0, w)],
        sums: Vec::new(),
        by_tensor: true,
    };
    let second = Round {
        group,
        tensor,
        ..round(second)
    };
    let mut plan = plan(
        &[Cell::Parameters, Cell::Gradient, Cell::Work],
        2,
        vec![round(first), second],
    );
    (plan.scalars, plan.group_slots) = (vec![0.25], 1);
    (plan.tensors, plan.tensor_slots) = (2, 3);
    plan
}

const UNARY: [Operator; 8] = [Negate, Not, Sqrt, Abs, Sign, Exp, Log, Floor];
const BINARY: [Operator; 15] = [
    Add,
    Subtract,
    Multiply,
    Divide,
    Power,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    Equal,
    NotEqual,
    And,
    Or,
    Min,
    Max,
];

/// Every operator: of vectors, and of numbers, whose results become slots.
fn operators() -> Plan {
    let all = |c: &mut Builder<_>, a, b, two| {
        let mut results: Vec<usize> = UNARY.map(|op| c.apply(op, [a])).to_vec();
        results.extend(BINARY.map(|op| c.apply(op, [a, b])));
        results.push(c.apply(Where, [a, b, two]));
        results.push(c.apply(MultiplyAdd, [a, b, two]));
        results
    };
    let mut c = Builder::new();
    let [w, g] = [0, 1].map(|i| c.read(Element::Cell(i)));
    let mut results: Vec<usize> = UNARY.map(|op| c.apply(op, [w])).to_vec();
    results.extend(BINARY.map(|op| c.apply(op, [w, g])));
    let two = c.read(Element::Uniform(0));
    results.push(c.apply(Where, [w, g, two]));
    results.push(c.apply(MultiplyAdd, [w, g, two]));
    let pass = Pass {
        uniforms: vec![Number::Constant(2.5)],
        code: c.code(),
        stores: results
            .iter()
            .enumerate()
            .map(|(i, value)| (i + 2, *value))
            .collect(),
        sums: Vec::new(),
        by_tensor: false,
    };
    let mut cells = W_G.to_vec();
    cells.extend(results.iter().map(|_| Cell::Work));
    let mut c = Builder::new();
    let [a, b] = [0, 1].map(|i| c.read(Number::Coefficient(i)));
    let two = c.read(Number::Constant(2.5));
    let results = all(&mut c, a, b, two);
    let slots: Vec<(usize, usize)> = results.into_iter().enumerate().collect();
    let count = slots.len();
    let numbers = Numbers {
        code: c.code(),
        slots,
        ..no_numbers()
    };
    let only = Round {
        group: numbers,
        ..round(pass)
    };
    let mut plan = plan(&cells, 2, vec![only]);
    plan.group_slots = count;
    plan
}

fn by_loops<T: Float>(operator: Operator, from: &[T]) -> T {
    let x = from[0];
    let y = from.get(1).copied().unwrap_or(x);
    let truth = |yes: bool| T::of(if yes { 1.0 } else { 0.0 });
    let (a, b) = (x.wide(), y.wide());
    match operator {
        Negate => T::of(-a),
        Not => truth(a == 0.0),
        Sqrt => T::of(a.sqrt()),
        Abs => T::of(a.abs()),
        Sign if a.is_nan() || a == 0.0 => x,
        Sign => T::of(a.signum()),
        Exp => T::of(a.exp()),
        Log => T::of(a.ln()),
        Floor => T::of(a.floor()),
        Add => T::of(a + b),
        Subtract => T::of(a - b),
        Multiply => T::of(a * b),
        Divide => T::of(a / b),
        Power => T::of(a.powf(b)),
        Less => truth(a < b),
        LessEqual => truth(a <= b),
        Greater => truth(a > b),
        GreaterEqual => truth(a >= b),
        Equal => truth(a == b),
        NotEqual => truth(a != b),
        And => truth(a != 0.0 && b != 0.0),
        Or => truth(a != 0.0 || b != 0.0),
        Min => {
            if a < b || a.is_nan() {
                x
            } else {
                y
            }
        }
        Max => {
            if a > b || a.is_nan() {
                x
            } else {
                y
            }
        }
        Where => {
            if a != 0.0 {
                y
            } else {
                from[2]
            }
        }
        MultiplyAdd => x.fused(y, from[2]),
    }
}

/// Single and double: what one operation makes of doubles, rounded once, is right for both.
trait Float: Copy {
    fn of(x: f64) -> Self;
    fn wide(self) -> f64;
    fn fused(self, b: Self, c: Self) -> Self;
}

impl Float for f32 {
    fn of(x: f64) -> f32 {
        x as f32
    }
    fn wide(self) -> f64 {
        self.into()
    }
    fn fused(self, b: f32, c: f32) -> f32 {
        self.mul_add(b, c)
    }
}

impl Float for f64 {
    fn of(x: f64) -> f64 {
        x
    }
    fn wide(self) -> f64 {
        self
    }
    fn fused(self, b: f64, c: f64) -> f64 {
        self.mul_add(b, c)
    }
}

fn values<I: Copy, T: Float>(code: &Code<I>, read: impl Fn(I) -> T) -> Vec<T> {
    let mut values: Vec<T> = Vec::new();
    for instruction in &code.instructions {
        let value = match instruction {
            Read(input) => read(*input),
            Apply(operator, from) => {
                let from: Vec<T> = from.iter().map(|i| values[*i]).collect();
                by_loops(*operator, &from)
            }
        };
        values.push(value);
    }
    values
}

/// All that a plan has on a machine, here.
#[derive(Clone)]
struct Memory {
    groups: Vec<Range>,
    tensors: Vec<Tensor>,
    steps: usize,
    loss: f32,
    cells: Vec<Vec<f32>>,
    coefficients: Vec<f64>,
    scalars: Vec<f64>,
    tensor_state: Vec<f64>,
    group_slots: Vec<f64>,
    tensor_slots: Vec<f64>,
    shapes: Vec<f64>,
    series: Vec<f64>,
}

impl Memory {
    /// Tensors of these lengths, a group for each list. Vectors hold small odd numbers.
    fn new(plan: &Plan, lengths: &[&[usize]]) -> Memory {
        let (mut tensors, mut groups, mut end) = (Vec::new(), Vec::new(), 0);
        for group in lengths {
            let start = end;
            for &len in *group {
                tensors.push(Tensor {
                    name: format!("t{}", tensors.len()),
                    shape: vec![len],
                    range: Range { start: end, len },
                    role: Role::Hidden,
                    normal: false,
                });
                end += len;
            }
            groups.push(Range {
                start,
                len: end - start,
            });
        }
        let mut x = 1u32;
        let mut draw = || {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (x >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let cells = plan.cells.iter().map(|cell| match cell {
            Cell::State(value) => vec![*value as f32; end],
            Cell::Work => vec![f32::NAN; end],
            _ => (0..end).map(|_| draw()).collect(),
        });
        let cells = cells.collect();
        let steps = 3;
        let count = groups.len() * steps * plan.host.coefficients.len();
        let sizes = tensors.iter().map(|t| t.range.len as f64);
        Memory {
            steps,
            loss: 0.75,
            cells,
            coefficients: (0..count).map(|i| 0.1 + 0.07 * (i % 9) as f64).collect(),
            scalars: plan.scalars.clone(),
            tensor_state: (tensors.iter())
                .flat_map(|_| (0..plan.tensors).map(|i| 2.0 * i as f64))
                .collect(),
            group_slots: vec![f64::NAN; plan.group_slots * groups.len()],
            tensor_slots: vec![f64::NAN; plan.tensor_slots * tensors.len()],
            shapes: sizes.flat_map(|size| [size, 1.0, size, 1.0, 0.0]).collect(),
            series: vec![0.0; 2 * steps],
            groups,
            tensors,
        }
    }

    /// A step by plain loops.
    fn step(&mut self, plan: &Plan, slot: usize) {
        let mut sums: Vec<f64> = Vec::new();
        let mut tensor_sums: Vec<Vec<f64>> = Vec::new();
        for round in &plan.rounds {
            self.numbers(plan, round, slot, &sums, &tensor_sums);
            let Some(pass) = &round.pass else { continue };
            sums = vec![0.0; pass.sums.len()];
            tensor_sums = vec![sums.clone(); self.tensors.len()];
            self.pass(plan, pass, slot, &mut sums, &mut tensor_sums);
        }
    }

    fn number(&self, plan: &Plan, number: Number, slot: usize, g: usize, t: usize) -> f64 {
        let row = g * self.steps + slot;
        match number {
            Number::Constant(value) => value,
            Number::Coefficient(i) => self.coefficients[row * plan.host.coefficients.len() + i],
            Number::Loss => self.loss.into(),
            Number::State(i) => self.scalars[i],
            Number::Slot(i) => self.group_slots[g * plan.group_slots + i],
            Number::TensorState(i) => self.tensor_state[t * plan.tensors + i],
            Number::TensorSlot(i) => self.tensor_slots[t * plan.tensor_slots + i],
            Number::Shape(shape) => {
                self.shapes[t * 5 + Shape::ALL.iter().position(|s| *s == shape).unwrap()]
            }
            Number::Sum(_) | Number::TensorSum(_) => panic!("a sum"),
        }
    }

    fn numbers(
        &mut self,
        plan: &Plan,
        round: &Round,
        slot: usize,
        sums: &[f64],
        tensor_sums: &[Vec<f64>],
    ) {
        let of = |at: &Memory, code: &Code<Number>, g: usize, t: usize| {
            values(code, |number| match number {
                Number::Sum(i) => sums[i],
                Number::TensorSum(i) => tensor_sums[t][i],
                number => at.number(plan, number, slot, g, t),
            })
        };
        let Numbers {
            code,
            slots,
            state,
            reports,
        } = &round.group;
        let all: Vec<Vec<f64>> = (0..self.groups.len())
            .map(|g| of(self, code, g, 0))
            .collect();
        for (g, values) in all.iter().enumerate() {
            for (to, value) in slots {
                self.group_slots[g * plan.group_slots + to] = values[*value];
            }
        }
        let last = all.last().unwrap();
        for (to, value) in state {
            self.scalars[*to] = last[*value];
        }
        for (to, value) in reports {
            self.series[to * self.steps + slot] = last[*value];
        }
        let Numbers {
            code, slots, state, ..
        } = &round.tensor;
        for t in 0..self.tensors.len() {
            let start = self.tensors[t].range.start;
            let holds = |g: &Range| (g.start..g.start + g.len).contains(&start);
            let g = self.groups.iter().position(holds).unwrap();
            let values = of(self, code, g, t);
            for (to, value) in slots {
                self.tensor_slots[t * plan.tensor_slots + to] = values[*value];
            }
            for (to, value) in state {
                self.tensor_state[t * plan.tensors + to] = values[*value];
            }
        }
    }

    fn pass(
        &mut self,
        plan: &Plan,
        pass: &Pass,
        slot: usize,
        sums: &mut [f64],
        tensor_sums: &mut [Vec<f64>],
    ) {
        for (t, tensor_sums) in tensor_sums.iter_mut().enumerate() {
            let Range { start, len } = self.tensors[t].range;
            let holds = |g: &Range| (g.start..g.start + g.len).contains(&start);
            let g = self.groups.iter().position(holds).unwrap();
            let uniforms = pass.uniforms.iter();
            let uniforms: Vec<f32> = uniforms
                .map(|n| self.number(plan, *n, slot, g, t) as f32)
                .collect();
            for e in start..start + len {
                let of_element = values(&pass.code, |input| match input {
                    Element::Cell(cell) => self.cells[cell][e],
                    Element::Uniform(i) => uniforms[i],
                });
                for (cell, value) in &pass.stores {
                    self.cells[*cell][e] = of_element[*value];
                }
                for (i, PassSum { how, value, .. }) in pass.sums.iter().enumerate() {
                    let x = f64::from(of_element[*value]);
                    for sum in [&mut sums[i], &mut tensor_sums[i]] {
                        match how {
                            Adding::Values => *sum += x,
                            Adding::Squares => *sum += x * x,
                            Adding::LargestAbsolute if x.abs() <= *sum || sum.is_nan() => {}
                            Adding::LargestAbsolute => *sum = x.abs(),
                        }
                    }
                }
            }
        }
    }

    /// Steps on a machine, from what is here, in whose place what is there then comes. Cells begin this many floats behind an
    /// aligned address.
    /// Gives the bytes that the launches of a step name of vectors.
    fn run(&mut self, plan: &Plan, schedule: Schedule, starts: &[usize]) -> usize {
        let mut machine = Machine::emulator(schedule, None).unwrap();
        let cuts = Cuts::new(&self.groups, &self.tensors);
        let n: usize = self.groups.iter().map(|g| g.len).sum();
        let room = n.next_multiple_of(32) + 32;
        let room_of_cells = room * self.cells.len();
        let arena: View<f32> = machine.alloc("arena", room_of_cells + 1).unwrap();
        let loss = Slot {
            start: room_of_cells,
            len: 1,
        };
        machine.upload(loss, &[self.loss]).unwrap();
        let cells: Vec<View<f32>> = (0..self.cells.len())
            .map(|i| arena.part(i * room + starts[i % starts.len()], n))
            .collect();
        for (view, values) in cells.iter().zip(&self.cells) {
            machine.upload(*view, values).unwrap();
        }
        let slots: Vec<Step> = (0..self.steps)
            .map(|slot| Step {
                slot: slot as i64,
                ..bytemuck::Zeroable::zeroed()
            })
            .collect();
        let table = machine.alloc_with("steps", &slots).unwrap();
        let mut doubles = |values: &[f64]| machine.alloc_with("numbers", values).unwrap();
        let coefficients = doubles(&self.coefficients);
        let scalars = doubles(&self.scalars);
        let tensor_state = doubles(&self.tensor_state);
        let group_slots = doubles(&self.group_slots);
        let tensor_slots = doubles(&self.tensor_slots);
        let shapes = doubles(&self.shapes);
        let series = doubles(&self.series);
        let pieces = machine.alloc_with("pieces", &cuts.pieces).unwrap();
        let tensors = machine.alloc_with("tensors", &cuts.tensors).unwrap();
        let partial = machine.alloc("partial sums", cuts.partial(plan)).unwrap();
        let kernels = Kernels::new(plan, "of tests");
        let (mut launches, mut bytes) = (0, 0);
        for slot in 0..self.steps {
            let places = Places {
                now: table.part(slot, 1),
                loss,
                cells: cells.clone(),
                groups: &self.groups,
                steps: self.steps,
                coefficients,
                scalars,
                tensor_state,
                group_slots,
                tensor_slots,
                parameters: &[],
                ranges: View::default(),
                shapes,
                cuts: &cuts,
                pieces,
                tensors,
                partial,
                series,
            };
            let mut program = Program::new(Target {
                device: Device::Emulator,
                precision: None,
            });
            let none = |_: &mut Program| unreachable!("no second gradient");
            kernels.step(plan, &places, &mut program, &none).unwrap();
            launches = program.calls().len();
            let all = program.calls().iter().filter_map(Call::as_launch);
            bytes = all
                .map(|launch| launch.traffic().iter().sum::<usize>())
                .sum();
            let program = machine.prepare(program).unwrap();
            machine.run(program).unwrap();
        }
        for (view, values) in cells.iter().zip(&mut self.cells) {
            *values = machine.download(*view).unwrap();
        }
        self.scalars = machine.download(scalars).unwrap();
        self.tensor_state = machine.download(tensor_state).unwrap();
        self.group_slots = machine.download(group_slots).unwrap();
        self.tensor_slots = machine.download(tensor_slots).unwrap();
        self.series = machine.download(series).unwrap();
        let numbers = plan.rounds.iter().filter(|r| {
            !super::numbers::is_empty(&r.group) || !super::numbers::is_empty(&r.tensor)
        });
        let passes = plan
            .rounds
            .iter()
            .filter(|round| round.pass.is_some())
            .count();
        assert_eq!(launches, numbers.count() + passes * self.groups.len());
        bytes
    }

    fn numbers_there(&self) -> [&[f64]; 5] {
        [
            &self.scalars,
            &self.tensor_state,
            &self.group_slots,
            &self.tensor_slots,
            &self.series,
        ]
    }
}

fn schedules() -> Vec<Schedule> {
    match crate::device::emulator_usable() {
        Ok(()) => Schedule::all().into(),
        Err(why) => {
            eprintln!("skipped: {}", why.message);
            Vec::new()
        }
    }
}

const TWO_GROUPS: [&[usize]; 2] = [&[5000, 3, 1, 9000], &[130, 4099, 2]];

/// Steps by kernels and by loops, whose sums are rounded elsewhere: vectors and numbers may differ by so much.
fn agree(plan: &Plan, lengths: &[&[usize]], starts: &[usize], tolerance: f64) {
    let start = Memory::new(plan, lengths);
    let mut expected = start.clone();
    (0..expected.steps).for_each(|slot| expected.step(plan, slot));
    let mut bits: Option<Vec<Vec<u32>>> = None;
    for schedule in schedules() {
        let mut ours = start.clone();
        ours.run(plan, schedule, starts);
        for (cell, (ours, expected)) in ours.cells.iter().zip(&expected.cells).enumerate() {
            for (i, (a, b)) in ours.iter().zip(expected).enumerate() {
                let near = f64::from((a - b).abs()) <= tolerance * f64::from(b.abs().max(1e-2));
                assert!(
                    a.to_bits() == b.to_bits() || near,
                    "cell {cell}, {i}: {a} for {b}"
                );
            }
        }
        for (ours, expected) in ours
            .numbers_there()
            .into_iter()
            .zip(expected.numbers_there())
        {
            for (i, (a, b)) in ours.iter().zip(expected).enumerate() {
                let near = (a - b).abs() <= tolerance.max(1e-12) * b.abs().max(1e-2);
                assert!(
                    a.to_bits() == b.to_bits() || near,
                    "number {i}: {a} for {b}"
                );
            }
        }
        // The same bits whatever the order of threads.
        let now: Vec<Vec<u32>> = ours
            .cells
            .iter()
            .map(|v| v.iter().map(|x| x.to_bits()).collect())
            .collect();
        assert!(bits.is_none_or(|bits| bits == now), "other bits");
        bits = Some(now);
    }
}

#[test]
fn elementwise_steps_have_the_bits_of_loops() {
    for starts in [&[0][..], &[3], &[0, 1]] {
        agree(&adam(), &TWO_GROUPS, starts, 0.0);
    }
    agree(&adam(), &[&[100_003]], &[0], 0.0);
    for n in 1..10 {
        agree(&adam(), &[&[n]], &[n % 4], 0.0);
    }
}

/// As the hand-written kernels: every cell is read once and written once.
#[test]
fn a_pass_names_what_it_reads_and_writes() {
    for schedule in schedules().into_iter().take(1) {
        let n = 10_000;
        let bytes = |plan: &Plan| Memory::new(plan, &[&[n]]).run(plan, schedule, &[0]);
        let tables = size_of::<Step>() + 3 * 7 * size_of::<f64>();
        assert_eq!(bytes(&adam()), 28 * n + tables);
        // w, g and d, then d; then w and d, then w. What is left are numbers.
        assert_eq!(bytes(&momo()) / n, 28);
    }
}

#[test]
fn sums_over_all_parameters_and_numbers() {
    agree(&momo(), &TWO_GROUPS, &[0], 1e-6);
    agree(&momo(), &[&[70_001]], &[1, 2], 1e-6);
}

#[test]
fn sums_over_tensors_and_their_numbers() {
    agree(&lamb(), &TWO_GROUPS, &[0], 1e-6);
    agree(&lamb(), &[&[600_001], &[5, 700]], &[1], 1e-6);
}

const SPECIAL: [f64; 30] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    2.0,
    -2.0,
    0.5,
    -0.5,
    3.0,
    -3.0,
    2.5,
    -2.5,
    1e-3,
    7.7,
    -7.3,
    88.6,
    -87.2,
    -103.5,
    1e-40,
    -1e-40,
    1e-30,
    3e38,
    -3e38,
    f64::INFINITY,
    f64::NEG_INFINITY,
    f64::NAN,
    16_777_215.0,
    0.999_999_9,
    1.000_000_2,
    40.0,
];

/// All pairs of special values. Exact but for exp, log and pow.
#[test]
fn every_operator_of_vectors() {
    let plan = operators();
    for schedule in schedules().into_iter().take(1) {
        let pairs = SPECIAL
            .iter()
            .flat_map(|a| SPECIAL.map(|b| (*a as f32, b as f32)));
        let (a, b): (Vec<f32>, Vec<f32>) = pairs.unzip();
        let mut ours = Memory::new(&plan, &[&[a.len()]]);
        (ours.steps, ours.cells[0], ours.cells[1]) = (1, a, b);
        let mut expected = ours.clone();
        expected.step(&plan, 0);
        ours.run(&plan, schedule, &[0]);
        for (cell, (of_cell, expected)) in ours.cells.iter().zip(&expected.cells).enumerate() {
            for (i, (x, y)) in of_cell.iter().zip(expected).enumerate() {
                let (a, b) = (ours.cells[0][i], ours.cells[1][i]);
                let same = x.to_bits() == y.to_bits() || x.is_nan() && y.is_nan();
                let near = (x.to_bits().abs_diff(y.to_bits())) <= 1;
                let close = near && [5 + 2, 6 + 2, 12 + 2].contains(&cell);
                assert!(
                    same || close,
                    "operator {} of {a:e} and {b:e}: {x:e} for {y:e}",
                    cell - 2
                );
            }
        }
    }
}

#[test]
fn every_operator_of_numbers() {
    let plan = operators();
    let more = [700.0, -740.0, 1e-310, 1e300, -1e300, 0.2, 1.0 - 1e-9];
    let special: Vec<f64> = SPECIAL.iter().chain(&more).copied().collect();
    for schedule in schedules().into_iter().take(1) {
        let lengths = vec![&[1usize][..]; special.len()];
        for a in &special {
            let mut ours = Memory::new(&plan, &lengths);
            ours.steps = 1;
            ours.coefficients = special.iter().flat_map(|b| [*a, *b]).collect();
            let mut expected = ours.clone();
            expected.step(&plan, 0);
            ours.run(&plan, schedule, &[0]);
            let both = ours
                .group_slots
                .iter()
                .zip(&expected.group_slots)
                .enumerate();
            for (i, (x, y)) in both {
                let (operator, b) = (i % plan.group_slots, special[i / plan.group_slots]);
                let tolerance = match operator {
                    5 | 6 => 1e-15,
                    // Relative to the exponent.
                    12 => 1e-15 * (b * a.abs().ln()).abs().max(1.0),
                    _ => 0.0,
                };
                let same = x == y && x.is_sign_positive() == y.is_sign_positive();
                // Below the normal numbers the last bit is all that counts.
                let near = (x - y).abs() <= tolerance * y.abs() + 5e-324;
                assert!(
                    same || x.is_nan() && y.is_nan() || tolerance > 0.0 && near,
                    "operator {operator} of {a:e} and {b:e}: {x:e} for {y:e}"
                );
            }
        }
    }
}

/// ptxas, beside the nvcc that `NVCC` names or on the path.
fn ptxas() -> Option<PathBuf> {
    let beside = std::env::var_os("NVCC").map(|nvcc| Path::new(&nvcc).with_file_name("ptxas"));
    let ptxas = beside.unwrap_or_else(|| "ptxas".into());
    let runs = Command::new(&ptxas).arg("--version").output();
    runs.is_ok_and(|output| output.status.success())
        .then_some(ptxas)
}

/// The entries of several texts as one.
fn joined(texts: &[String]) -> String {
    let bodies = texts.iter().map(|text| &text[super::HEADER.len()..]);
    super::HEADER.to_owned() + &bodies.collect::<String>()
}

/// Compiles a text for a GPU: what each entry takes, by name, as `records/formulas.json` has it.
fn compiled(ptxas: &Path, text: &str, target: &str) -> BTreeMap<String, Value> {
    let folder = tempfile::tempdir().unwrap();
    let [from, to] = ["in.ptx", "out"].map(|name| folder.path().join(name));
    std::fs::write(&from, text).unwrap();
    let mut command = Command::new(ptxas);
    let command = command.args(["-v", "-arch", target, "-o"]).args([to, from]);
    let output = command.output().unwrap();
    let says = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "for {target}: {says}");
    let entries = regex::Regex::new(
        r"properties for (\w+)\s+(\d+) bytes stack frame.*\s+ptxas info\s+: Used (\d+) registers",
    );
    let entries = entries.unwrap();
    let entries = entries.captures_iter(&says).map(|found| {
        let number = |i: usize| found[i].parse::<u32>().unwrap();
        let taken = json!({"registers": number(3), "spilled": number(2)});
        (found[1].to_owned(), taken)
    });
    entries.collect()
}

#[test]
fn the_real_compiler_takes_every_entry() {
    let Some(ptxas) = ptxas() else {
        return eprintln!("skipped: there is no ptxas");
    };
    let carried = rows().into_iter().map(|row| {
        let file = file(row.entry.name).expect("its file");
        let method = FileMethod::of(&file.definition, |_| None, 0.1);
        method.kernels().text().to_owned()
    });
    let carried = joined(&carried.collect::<Vec<_>>());
    let by_hand = [
        ("adam", adam()),
        ("momo", momo()),
        ("lamb", lamb()),
        ("operators", operators()),
    ];
    let by_hand = by_hand.map(|(name, plan)| {
        let name = format!("test {name}");
        Kernels::new(&plan, &name).text().to_owned()
    });
    let all = joined(&[carried.clone(), joined(&by_hand)]);
    let entries = all.matches(".visible .entry").count();
    let (_, taken) = rayon::join(
        || {
            for target in ["sm_80", "sm_100"] {
                assert_eq!(compiled(&ptxas, &all, target).len(), entries);
            }
        },
        || compiled(&ptxas, &all, "sm_90a"),
    );
    assert_eq!(taken.len(), entries);
    // What the carried methods take is on record, by one version of the compiler.
    let version = Command::new(&ptxas).arg("--version").output().unwrap();
    let record: Value =
        serde_json::from_str(include_str!("../../../../records/formulas.json")).unwrap();
    let recorded = record["ptxas"].as_str().unwrap();
    if !String::from_utf8_lossy(&version.stdout).contains(recorded) {
        return eprintln!("skipped: {} is not {recorded}", ptxas.display());
    }
    let of_tests = |name: &String| name.starts_with("formula_test_");
    let now: BTreeMap<_, _> = taken
        .into_iter()
        .filter(|(name, _)| !of_tests(name))
        .collect();
    let lines = now.iter().map(|(name, taken)| format!("{name:?}: {taken}"));
    assert!(
        json!(now) == record["entries"],
        "records/formulas.json says otherwise. If this is meant, its entries become\n{}",
        lines.collect::<Vec<_>>().join(",\n")
    );
}
