//! A pass over a block of elements that stays in cache: each operator one loop.

use std::ops::Range;

use super::evaluate::Context;
use super::plan::{Adding, Cell, Element, Instruction, Number, Pass};
use super::syntax::Operator;
use crate::cpu::prefetch;

/// Elements that an operator treats at once.
pub const BLOCK: usize = 1024;

/// Vectors that a step may write.
pub const MOST: usize = 64;

/// Vectors that a step writes, or one part of each.
pub struct Slices<'a> {
    count: usize,
    pub at: [&'a mut [f32]; MOST],
}

impl Default for Slices<'_> {
    fn default() -> Self {
        let at = [(); MOST].map(|()| Default::default());
        Slices { count: 0, at }
    }
}

impl<'a> Slices<'a> {
    pub fn push(&mut self, vector: &'a mut [f32]) {
        self.at[self.count] = vector;
        self.count += 1;
    }

    pub fn part(&mut self, start: usize, end: usize) -> Slices<'_> {
        let mut part = Slices::default();
        let vectors = self.at[..self.count].iter_mut();
        vectors.for_each(|vector| part.push(&mut vector[start..end]));
        part
    }

    pub fn split_at(&mut self, at: usize) -> (Slices<'_>, Slices<'_>) {
        let (mut left, mut right) = (Slices::default(), Slices::default());
        for vector in &mut self.at[..self.count] {
            let (x, y) = vector.split_at_mut(at);
            left.push(x);
            right.push(y);
        }
        (left, right)
    }
}

/// The place among them of a cell that is not the gradient.
pub fn write_place(cells: &[Cell], cell: usize) -> usize {
    let before = |cell: &&Cell| **cell != Cell::Gradient;
    cells[..cell].iter().filter(before).count()
}

/// Where an operand of a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// Of the vectors that are only read, and of those that may be written.
    Read(usize),
    Write(usize),
    Register(usize),
    Uniform(usize),
}

/// An operator with its places; `None` copies its operand.
struct Operation {
    operator: Option<Operator>,
    operands: [Source; 3],
    /// Uniforms that operands are multiplied by, rounded, before all else.
    scales: [Option<usize>; 3],
    with: Option<With>,
    to: Source,
}

/// What an operator does in the same loop, rounding as if it did not.
#[derive(Clone, Copy, Debug, PartialEq)]
enum With {
    /// Of a sum or a difference the second operand, or the first one, is a product or a quotient of the last two operands, and
    /// then multiplied by a uniform.
    Inner {
        operator: Operator,
        first: bool,
        scale: Option<usize>,
    },
    /// A root is of what was divided by a uniform, then divided by one, then one is added.
    Root([Option<usize>; 3]),
}

/// A pass made ready: where every value lies. Operators write to vectors directly where nothing reads the old values after
/// them.
pub struct Ready {
    uniforms: Vec<Number>,
    operations: Vec<Operation>,
    /// Copies from registers when all else is done.
    copies: Vec<(usize, usize)>,
    pub sums: Vec<Adding>,
    /// What they add up; of two, their products.
    addends: Vec<(Source, Option<Source>)>,
    registers: usize,
    /// The vectors that it reads or writes.
    vectors: Vec<Source>,
}

/// A value of a pass before it has a place.
struct Value {
    operator: Option<Operator>,
    operands: Vec<usize>,
    scales: [Option<usize>; 3],
    with: Option<With>,
    /// Where it is from the start, if it is not computed.
    source: Option<Source>,
    /// How often it is read, stored, or summed up.
    uses: usize,
}

impl Value {
    fn read(source: Source) -> Value {
        Value {
            source: Some(source),
            ..Value::apply(None, Vec::new())
        }
    }

    fn apply(operator: Option<Operator>, operands: Vec<usize>) -> Value {
        Value {
            operator,
            operands,
            scales: [None; 3],
            with: None,
            source: None,
            uses: 0,
        }
    }

    /// Is it this operator's, read once, and nothing is done to its operands before?
    fn alone(&self, operator: Operator) -> bool {
        self.operator == Some(operator) && self.uses == 1 && self.scales == [None; 3]
    }

    /// Can its operands be scaled?
    fn scales(&self) -> bool {
        use Operator::*;
        let operators = [Add, Subtract, Multiply, Divide, MultiplyAdd];
        self.operator.is_some_and(|own| operators.contains(&own))
    }
}

impl Ready {
    pub fn new(pass: &Pass, cells: &[Cell]) -> Ready {
        // The gradient is read alone; all others lie in the order of cells: parameters, state, work.
        let cell = |i: usize| match cells[i] {
            Cell::Gradient => Source::Read(0),
            _ => Source::Write(write_place(cells, i)),
        };
        let instructions = pass.code.instructions.iter();
        let values = instructions.map(|instruction| match instruction {
            Instruction::Read(Element::Cell(i)) => Value::read(cell(*i)),
            Instruction::Read(Element::Uniform(i)) => Value::read(Source::Uniform(*i)),
            Instruction::Apply(operator, operands) => {
                Value::apply(Some(*operator), operands.clone())
            }
        });
        let mut values: Vec<Value> = values.collect();
        let mut stores: Vec<(Source, usize)> = Vec::new();
        for (to, value) in &pass.stores {
            // What is no operator's fresh result is copied.
            let taken = stores.iter().any(|(_, other)| other == value);
            let value = match values[*value].source.is_some() || taken {
                false => *value,
                true => {
                    values.push(Value::apply(None, vec![*value]));
                    values.len() - 1
                }
            };
            stores.push((cell(*to), value));
        }
        let operands: Vec<usize> = values
            .iter()
            .flat_map(|value| value.operands.clone())
            .collect();
        let stored = stores.iter().map(|(_, value)| *value);
        let summed = pass.sums.iter().map(|sum| sum.value);
        for read in operands.into_iter().chain(stored).chain(summed) {
            values[read].uses += 1;
        }
        scale(&mut values);
        roots(&mut values);
        let addends: Vec<(usize, Option<usize>)> = (pass.sums.iter())
            .map(|sum| addends(&mut values, sum.how, sum.value))
            .collect();
        inner(&mut values);
        Places::new(&values, &stores, &addends).ready(pass, &addends)
    }
}

/// Products with a uniform that one operator alone reads become scales of its operands: one loop in place of two.
fn scale(values: &mut [Value]) {
    for i in 0..values.len() {
        if !values[i].scales() {
            continue;
        }
        for j in 0..values[i].operands.len() {
            let product = &values[values[i].operands[j]];
            let plain = product.scales == [None; 3];
            if product.operator != Some(Operator::Multiply) || product.uses != 1 || !plain {
                continue;
            }
            let (x, y) = (product.operands[0], product.operands[1]);
            let (scale, other) = match (uniform(values, x), uniform(values, y)) {
                (Some(scale), None) => (scale, y),
                (None, Some(scale)) => (scale, x),
                _ => continue,
            };
            let own = values[i].operands[j];
            values[own].uses = 0;
            values[i].operands[j] = other;
            values[i].scales[j] = Some(scale);
        }
    }
}

/// The uniform that a value is.
fn uniform(values: &[Value], x: usize) -> Option<usize> {
    match values[x].source {
        Some(Source::Uniform(i)) => Some(i),
        _ => None,
    }
}

/// `sqrt(x/a)/b + c` with uniforms becomes one loop.
fn roots(values: &mut [Value]) {
    use Operator::{Add, Divide, Sqrt};
    for i in 0..values.len() {
        if values[i].scales != [None; 3] || values[i].with.is_some() {
            continue;
        }
        let (x, by) = match (values[i].operator, &values[i].operands[..]) {
            (Some(Sqrt), &[x]) => (x, None),
            (Some(Divide), &[x, y]) => (x, uniform(values, y)),
            (Some(Add), &[x, y]) => match uniform(values, y) {
                Some(by) => (x, Some(by)),
                None => (y, uniform(values, x)),
            },
            _ => continue,
        };
        let root = match (values[i].operator, values[x].with, by) {
            // What is divided before.
            (Some(Sqrt), None, None) if values[x].alone(Divide) => {
                let by = uniform(values, values[x].operands[1]);
                [by, None, None]
            }
            (Some(Sqrt), ..) => [None; 3],
            (Some(Divide), Some(With::Root([before, None, None])), Some(by)) => {
                [before, Some(by), None]
            }
            (Some(Add), Some(With::Root([before, after, None])), Some(by)) => {
                [before, after, Some(by)]
            }
            _ => continue,
        };
        let absorbed = match values[i].operator {
            Some(Sqrt) => root[0].is_some(),
            _ => values[x].alone(Sqrt),
        };
        if absorbed {
            let below = values[x].operands[0];
            values[x].uses = 0;
            values[i].operands = vec![below];
        } else if values[i].operator != Some(Sqrt) {
            continue;
        }
        values[i].operator = Some(Sqrt);
        values[i].with = Some(With::Root(root));
    }
}

/// A product or a quotient that one sum or difference alone reads becomes part of its loop.
fn inner(values: &mut [Value]) {
    use Operator::{Add, Divide, Multiply, Subtract};
    for i in 0..values.len() {
        let outer = values[i].operator;
        if !matches!(outer, Some(Add | Subtract)) || values[i].uses == 0 {
            continue;
        }
        for j in [1, 0] {
            let (x, y) = (values[i].operands[1 - j], values[i].operands[j]);
            let own = &values[y];
            let fits = matches!(own.operator, Some(Multiply | Divide)) && own.uses == 1;
            let is_uniform = |x: &usize| uniform(values, *x).is_some();
            if !fits || is_uniform(&x) || own.operands.iter().any(is_uniform) {
                continue;
            }
            let operands = vec![x, own.operands[0], own.operands[1]];
            let scales = [values[i].scales[1 - j], own.scales[0], own.scales[1]];
            let with = With::Inner {
                operator: own.operator.expect("it fits"),
                first: j == 0,
                scale: values[i].scales[j],
            };
            values[y].uses = 0;
            let value = &mut values[i];
            (value.operands, value.scales, value.with) = (operands, scales, Some(with));
            break;
        }
    }
}

/// What a sum adds up: of a product that nothing else reads, its factors.
fn addends(values: &mut [Value], how: Adding, value: usize) -> (usize, Option<usize>) {
    let product = &values[value];
    let vector = |x: &usize| !matches!(values[*x].source, Some(Source::Uniform(_)));
    let is_product = product.operator == Some(Operator::Multiply) && product.uses == 1;
    if !(how == Adding::Values
        && is_product
        && product.scales == [None; 3]
        && product.operands.iter().all(vector))
    {
        return (value, None);
    }
    let (x, y) = (product.operands[0], product.operands[1]);
    values[value].uses = 0;
    (x, Some(y))
}

/// The places of values, given in the order in which they are computed.
struct Places {
    places: Vec<Option<Source>>,
    operations: Vec<Operation>,
    copies: Vec<(usize, usize)>,
    registers: usize,
}

impl Places {
    fn new(
        values: &[Value],
        stores: &[(Source, usize)],
        addends: &[(usize, Option<usize>)],
    ) -> Places {
        let end = values.len();
        // When each value is read for the last time.
        let mut last = vec![0; end];
        for (i, value) in values
            .iter()
            .enumerate()
            .filter(|(_, value)| value.uses > 0)
        {
            value.operands.iter().for_each(|x| last[*x] = i);
        }
        for (x, y) in addends {
            last[*x] = end;
            y.iter().for_each(|y| last[*y] = end);
        }
        // Is what a vector holds before the pass read after an operation?
        let reads: Vec<(Option<Source>, usize)> = (values.iter().zip(&last))
            .map(|(value, last)| (value.source, *last))
            .collect();
        let read_after = |source: Source, i: usize| {
            let mut reads = reads.iter();
            reads.any(|(own, last)| *own == Some(source) && *last > i)
        };
        let mut all = Places {
            places: values.iter().map(|value| value.source).collect(),
            operations: Vec::new(),
            copies: Vec::new(),
            registers: 0,
        };
        let mut free: Vec<usize> = Vec::new();
        let computed = |value: &Value| value.source.is_none() && value.uses > 0;
        for (i, value) in values
            .iter()
            .enumerate()
            .filter(|(_, value)| computed(value))
        {
            let stored = stores.iter().find(|(_, stored)| *stored == i);
            let direct = stored.map(|(to, _)| *to).filter(|to| !read_after(*to, i));
            // An operand's register may take the result; of three, the first one's, which is changed in place.
            let in_place = match value.operands.len() {
                3 => &value.operands[..1],
                _ => &value.operands[..],
            };
            for x in in_place {
                if let (Some(Source::Register(r)), true) = (all.places[*x], last[*x] == i)
                    && !free.contains(&r)
                {
                    free.push(r);
                }
            }
            let to = direct.unwrap_or_else(|| {
                let register = free.pop().unwrap_or_else(|| {
                    all.registers += 1;
                    all.registers - 1
                });
                if let Some((Source::Write(to), _)) = stored {
                    all.copies.push((register, *to));
                    last[i] = end;
                }
                Source::Register(register)
            });
            let mut operands = [Source::Uniform(0); 3];
            for (operand, x) in operands.iter_mut().zip(&value.operands) {
                *operand = all.places[*x].expect("computed before");
            }
            all.places[i] = Some(to);
            all.operations.push(Operation {
                operator: value.operator,
                operands,
                scales: value.scales,
                with: value.with,
                to,
            });
            for x in &value.operands {
                if let (Some(Source::Register(r)), true) = (all.places[*x], last[*x] == i)
                    && !free.contains(&r)
                    && to != Source::Register(r)
                {
                    free.push(r);
                }
            }
        }
        all
    }

    fn ready(self, pass: &Pass, addends: &[(usize, Option<usize>)]) -> Ready {
        let place = |value: usize| self.places[value].expect("computed");
        let addends = addends.iter().map(|(x, y)| (place(*x), y.map(place)));
        let mut vectors = Vec::new();
        let stored = self.copies.iter().map(|(_, to)| Source::Write(*to));
        let written = self.operations.iter().map(|operation| operation.to);
        for source in self
            .places
            .iter()
            .flatten()
            .copied()
            .chain(stored)
            .chain(written)
        {
            if matches!(source, Source::Read(_) | Source::Write(_)) && !vectors.contains(&source) {
                vectors.push(source);
            }
        }
        Ready {
            vectors,
            uniforms: pass.uniforms.clone(),
            sums: pass.sums.iter().map(|sum| sum.how).collect(),
            addends: addends.collect(),
            operations: self.operations,
            copies: self.copies,
            registers: self.registers,
        }
    }
}

/// A thread's workspace.
#[derive(Default)]
pub struct Registers {
    at: Vec<Vec<f32>>,
    uniforms: Vec<f32>,
    /// Operands of operators of three, spread.
    spread: [Vec<f32>; 3],
}

/// An operand of a block.
#[derive(Clone, Copy)]
enum Operand<'a> {
    Block(&'a [f32]),
    Uniform(f32),
    /// What the result replaces.
    Same,
}

impl Registers {
    pub fn prepare(&mut self, pass: &Ready, context: &Context) {
        let more = pass.registers.saturating_sub(self.at.len());
        self.at.extend((0..more).map(|_| vec![0.0; BLOCK]));
        self.uniforms.clear();
        let uniforms = pass.uniforms.iter();
        self.uniforms
            .extend(uniforms.map(|number| context.number(*number) as f32));
    }

    pub fn block(
        &mut self,
        pass: &Ready,
        read: [&[f32]; 1],
        write: &mut Slices,
        block: Range<usize>,
        sums: &mut [f64],
    ) {
        let len = block.len();
        let share = len.div_ceil(pass.operations.len().max(1));
        for (i, operation) in pass.operations.iter().enumerate() {
            // A part of the next block comes to the cache while this one is computed.
            let next = block.end + i * share..block.end + (i + 1) * share;
            for source in &pass.vectors {
                let vector: &[f32] = match *source {
                    Source::Read(i) => read[i],
                    Source::Write(i) => write.at[i],
                    _ => continue,
                };
                let [start, end] = [next.start, next.end].map(|at| at.min(vector.len()));
                prefetch(&vector[start..end]);
            }
            let (mut register, mut vector) = (Vec::new(), Default::default());
            let to: &mut [f32] = match operation.to {
                Source::Register(r) => {
                    register = std::mem::take(&mut self.at[r]);
                    &mut register[..len]
                }
                Source::Write(i) => {
                    vector = std::mem::take(&mut write.at[i]);
                    &mut vector[block.clone()]
                }
                other => unreachable!("a result in {other:?}"),
            };
            let operands = operation.operands.map(|source| match source {
                source if source == operation.to => Operand::Same,
                Source::Read(i) => Operand::Block(&read[i][block.clone()]),
                Source::Write(i) => Operand::Block(&write.at[i][block.clone()]),
                Source::Register(r) => Operand::Block(&self.at[r][..len]),
                Source::Uniform(i) => {
                    Operand::Uniform(self.uniforms.get(i).copied().unwrap_or_default())
                }
            });
            let scales = operation
                .scales
                .map(|scale| scale.map_or(1.0, |i| self.uniforms[i]));
            let value = |i: Option<usize>| i.map(|i| self.uniforms[i]);
            match operation.with {
                None => apply(operation.operator, operands, scales, to, &mut self.spread),
                Some(With::Root(root)) => roots_of(operands[0], root.map(value), to),
                Some(With::Inner {
                    operator,
                    first,
                    scale,
                }) => {
                    let how = (operation.operator, operator, first);
                    let scale = value(scale).unwrap_or(1.0);
                    sums_of(how, operands, scales, scale, to, &mut self.spread);
                }
            }
            match operation.to {
                Source::Register(r) => self.at[r] = register,
                Source::Write(i) => write.at[i] = vector,
                _ => {}
            }
        }
        let values = |source: Source| match source {
            Source::Read(i) => &read[i][block.clone()],
            Source::Write(i) => &write.at[i][block.clone()],
            Source::Register(r) => &self.at[r][..len],
            Source::Uniform(_) => unreachable!("no vector"),
        };
        for ((sum, how), addends) in sums.iter_mut().zip(&pass.sums).zip(&pass.addends) {
            let of_block = match *addends {
                (Source::Uniform(i), _) => {
                    self.spread[0].clear();
                    self.spread[0].resize(len, self.uniforms[i]);
                    how.of_block(&self.spread[0])
                }
                (x, None) => how.of_block(values(x)),
                (x, Some(y)) => products(values(x), values(y)),
            };
            *sum = how.join(*sum, of_block);
        }
        for (register, to) in &pass.copies {
            write.at[*to][block.clone()].copy_from_slice(&self.at[*register][..len]);
        }
    }
}

impl Adding {
    pub fn join(self, x: f64, y: f64) -> f64 {
        match self {
            Adding::Values | Adding::Squares => x + y,
            Adding::LargestAbsolute => match x {
                x if x > y || x.is_nan() => x,
                _ => y,
            },
        }
    }

    fn of_block(self, values: &[f32]) -> f64 {
        match self {
            Adding::Values => lanes(values, f64::from),
            Adding::Squares => lanes(values, |x| f64::from(x) * f64::from(x)),
            Adding::LargestAbsolute => {
                let largest = |most: f64, x: &f32| self.join(most, f64::from(x.abs()));
                values.iter().fold(0.0, largest)
            }
        }
    }
}

/// A sum in eight lanes.
#[inline(always)]
fn lanes(values: &[f32], addend: impl Fn(f32) -> f64) -> f64 {
    let mut lanes = [0.0; 8];
    let blocks = values.chunks_exact(8);
    let rest = blocks.remainder();
    for block in blocks {
        for (lane, x) in lanes.iter_mut().zip(block) {
            *lane += addend(*x);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane += addend(*x);
    }
    total(lanes)
}

/// The sum of products, each rounded to single.
fn products(x: &[f32], y: &[f32]) -> f64 {
    let mut lanes = [0.0; 8];
    let (x, y) = (x.chunks_exact(8), y.chunks_exact(8));
    let rest = x.remainder().iter().zip(y.remainder());
    for (x, y) in x.zip(y) {
        for (lane, (x, y)) in lanes.iter_mut().zip(x.iter().zip(y)) {
            *lane += f64::from(x * y);
        }
    }
    for (lane, (x, y)) in lanes.iter_mut().zip(rest) {
        *lane += f64::from(x * y);
    }
    total(lanes)
}

fn total([a, b, c, d, e, f, g, h]: [f64; 8]) -> f64 {
    ((a + b) + (c + d)) + ((e + f) + (g + h))
}

#[inline(always)]
fn unary(x: Operand, to: &mut [f32], f: impl Fn(f32) -> f32) {
    match x {
        Operand::Block(x) => to.iter_mut().zip(x).for_each(|(to, x)| *to = f(*x)),
        Operand::Uniform(x) => to.fill(f(x)),
        Operand::Same => to.iter_mut().for_each(|to| *to = f(*to)),
    }
}

#[inline(always)]
fn binary([x, y]: [Operand; 2], to: &mut [f32], f: impl Fn(f32, f32) -> f32) {
    use Operand::*;
    match (x, y) {
        (Block(x), Block(y)) => {
            let operands = x.iter().zip(y);
            to.iter_mut()
                .zip(operands)
                .for_each(|(to, (x, y))| *to = f(*x, *y));
        }
        (Block(x), Uniform(y)) => to.iter_mut().zip(x).for_each(|(to, x)| *to = f(*x, y)),
        (Uniform(x), Block(y)) => to.iter_mut().zip(y).for_each(|(to, y)| *to = f(x, *y)),
        (Same, Block(y)) => to.iter_mut().zip(y).for_each(|(to, y)| *to = f(*to, *y)),
        (Block(x), Same) => to.iter_mut().zip(x).for_each(|(to, x)| *to = f(*x, *to)),
        (Same, Uniform(y)) => to.iter_mut().for_each(|to| *to = f(*to, y)),
        (Uniform(x), Same) => to.iter_mut().for_each(|to| *to = f(x, *to)),
        (Same, Same) => to.iter_mut().for_each(|to| *to = f(*to, *to)),
        (Uniform(x), Uniform(y)) => to.fill(f(x, y)),
    }
}

fn apply(
    operator: Option<Operator>,
    operands: [Operand; 3],
    scales: [f32; 3],
    to: &mut [f32],
    spread: &mut [Vec<f32>; 3],
) {
    use Operator::*;
    let [x, y, z] = operands;
    let [sx, sy, sz] = scales;
    let two = [x, y];
    let truth = |x: bool| if x { 1.0 } else { 0.0 };
    match operator {
        None => unary(x, to, |x| x),
        Some(Negate) => unary(x, to, |x| -x),
        Some(Not) => unary(x, to, |x| truth(x == 0.0)),
        Some(Sqrt) => unary(x, to, f32::sqrt),
        Some(Abs) => unary(x, to, f32::abs),
        Some(Sign) => unary(x, to, |x| match x == 0.0 || x.is_nan() {
            true => x,
            false => 1f32.copysign(x),
        }),
        Some(Exp) => unary(x, to, f32::exp),
        Some(Log) => unary(x, to, f32::ln),
        Some(Floor) => unary(x, to, f32::floor),
        Some(Add) => binary(two, to, |x, y| sx * x + sy * y),
        Some(Subtract) => binary(two, to, |x, y| sx * x - sy * y),
        Some(Multiply) => binary(two, to, |x, y| (sx * x) * (sy * y)),
        Some(Divide) => binary(two, to, |x, y| (sx * x) / (sy * y)),
        Some(Power) => binary(two, to, f32::powf),
        Some(Less) => binary(two, to, |x, y| truth(x < y)),
        Some(LessEqual) => binary(two, to, |x, y| truth(x <= y)),
        Some(Greater) => binary(two, to, |x, y| truth(x > y)),
        Some(GreaterEqual) => binary(two, to, |x, y| truth(x >= y)),
        Some(Equal) => binary(two, to, |x, y| truth(x == y)),
        Some(NotEqual) => binary(two, to, |x, y| truth(x != y)),
        Some(And) => binary(two, to, |x, y| truth(x != 0.0 && y != 0.0)),
        Some(Or) => binary(two, to, |x, y| truth(x != 0.0 || y != 0.0)),
        Some(Min) => binary(two, to, |x, y| match x < y || x.is_nan() {
            true => x,
            false => y,
        }),
        Some(Max) => binary(two, to, |x, y| match x > y || x.is_nan() {
            true => x,
            false => y,
        }),
        Some(Where) => match x {
            Operand::Uniform(condition) => {
                unary(if condition != 0.0 { y } else { z }, to, |x| x);
            }
            _ => ternary(operands, to, spread, |c, a, b| if c != 0.0 { a } else { b }),
        },
        Some(MultiplyAdd) => match (x, y) {
            (Operand::Uniform(factor), _) => {
                binary([y, z], to, |y, z| (sx * factor).mul_add(sy * y, sz * z));
            }
            (_, Operand::Uniform(factor)) => {
                binary([x, z], to, |x, z| (sx * x).mul_add(sy * factor, sz * z));
            }
            _ => ternary(operands, to, spread, |x, y, z| {
                (sx * x).mul_add(sy * y, sz * z)
            }),
        },
    }
}

/// See [`With::Root`].
fn roots_of(x: Operand, root: [Option<f32>; 3], to: &mut [f32]) {
    match root {
        [None, None, None] => unary(x, to, f32::sqrt),
        [None, None, Some(c)] => unary(x, to, |x| x.sqrt() + c),
        [None, Some(b), None] => unary(x, to, |x| x.sqrt() / b),
        [None, Some(b), Some(c)] => unary(x, to, |x| x.sqrt() / b + c),
        [Some(a), None, None] => unary(x, to, |x| (x / a).sqrt()),
        [Some(a), None, Some(c)] => unary(x, to, |x| (x / a).sqrt() + c),
        [Some(a), Some(b), None] => unary(x, to, |x| (x / a).sqrt() / b),
        [Some(a), Some(b), Some(c)] => unary(x, to, |x| (x / a).sqrt() / b + c),
    }
}

/// See [`With::Inner`]: operator, the inner one, and whether that comes first.
fn sums_of(
    how: (Option<Operator>, Operator, bool),
    operands: [Operand; 3],
    [sx, sy, sz]: [f32; 3],
    scale: f32,
    to: &mut [f32],
    spread: &mut [Vec<f32>; 3],
) {
    use Operator::{Add, Divide};
    match how {
        (Some(Add), Divide, _) => {
            ternary(operands, to, spread, |x, y, z| {
                sx * x + scale * ((sy * y) / (sz * z))
            });
        }
        (Some(Add), ..) => {
            ternary(operands, to, spread, |x, y, z| {
                sx * x + scale * ((sy * y) * (sz * z))
            });
        }
        (_, Divide, false) => {
            ternary(operands, to, spread, |x, y, z| {
                sx * x - scale * ((sy * y) / (sz * z))
            });
        }
        (_, _, false) => {
            ternary(operands, to, spread, |x, y, z| {
                sx * x - scale * ((sy * y) * (sz * z))
            });
        }
        (_, Divide, true) => {
            ternary(operands, to, spread, |x, y, z| {
                scale * ((sy * y) / (sz * z)) - sx * x
            });
        }
        (_, _, true) => {
            ternary(operands, to, spread, |x, y, z| {
                scale * ((sy * y) * (sz * z)) - sx * x
            });
        }
    }
}

#[inline(always)]
fn ternary(
    operands: [Operand; 3],
    to: &mut [f32],
    spread: &mut [Vec<f32>; 3],
    f: impl Fn(f32, f32, f32) -> f32,
) {
    let in_place = matches!(operands[0], Operand::Same);
    let [x, y, z] = operands;
    let [for_x, for_y, for_z] = spread;
    let (y, z) = (spread_out(y, to, for_y), spread_out(z, to, for_z));
    match in_place {
        true => {
            let operands = y.iter().zip(z);
            to.iter_mut()
                .zip(operands)
                .for_each(|(to, (y, z))| *to = f(*to, *y, *z));
        }
        false => {
            let x = spread_out(x, to, for_x);
            let operands = x.iter().zip(y).zip(z);
            to.iter_mut()
                .zip(operands)
                .for_each(|(to, ((x, y), z))| *to = f(*x, *y, *z));
        }
    }
}

/// An operand as a block of its own.
fn spread_out<'a>(operand: Operand<'a>, to: &[f32], spread: &'a mut Vec<f32>) -> &'a [f32] {
    spread.clear();
    match operand {
        Operand::Block(block) => return block,
        Operand::Uniform(x) => spread.resize(to.len(), x),
        Operand::Same => spread.extend_from_slice(to),
    }
    spread
}
