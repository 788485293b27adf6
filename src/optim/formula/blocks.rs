//! A pass over a block of elements that stays in cache: each operator one loop.

use std::ops::Range;

use super::evaluate::Context;
use super::plan::{Adding, Cell, Element, Instruction, Number, Pass};
use super::syntax::Operator;

/// Elements that an operator treats at once: so few that processors look ahead into the next block.
pub const BLOCK: usize = 192;

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
}

/// A loop over a block: numbers, up to three operands, and where the result goes. If that is where the first operand was, the
/// first operand is empty.
type Loop = fn(&[f32; 4], [&[f32]; 3], &mut [f32]);

/// An operator with its places.
struct Operation {
    run: Loop,
    operands: [Source; 3],
    /// Which uniforms its numbers are; 1 where there is none.
    numbers: [Option<usize>; 4],
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
    /// The uniforms that the first registers hold, where an operator takes them as operands.
    spread: Vec<usize>,
    operations: Vec<Operation>,
    /// Copies from registers when all else is done.
    copies: Vec<(usize, usize)>,
    pub sums: Vec<Adding>,
    /// What they add up; of two, their products.
    addends: Vec<(Source, Option<Source>)>,
    registers: usize,
}

/// What a pass does not compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Given {
    Vector(Source),
    Uniform(usize),
}

/// A value of a pass before it has a place.
struct Value {
    operator: Option<Operator>,
    operands: Vec<usize>,
    scales: [Option<usize>; 3],
    with: Option<With>,
    /// Where it is from the start, if it is not computed.
    source: Option<Given>,
    /// How often it is read, stored, or summed up.
    uses: usize,
}

impl Value {
    fn read(source: Given) -> Value {
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
            Instruction::Read(Element::Cell(i)) => Value::read(Given::Vector(cell(*i))),
            Instruction::Read(Element::Uniform(i)) => Value::read(Given::Uniform(*i)),
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
        Some(Given::Uniform(i)) => Some(i),
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
            if !matches!(own.operator, Some(Multiply | Divide)) || own.uses != 1 {
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
    let vector = |x: &usize| uniform(values, *x).is_none();
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
    spread: Vec<usize>,
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
        let computed = |value: &Value| value.source.is_none() && value.uses > 0;
        // When each value is read for the last time.
        let mut last = vec![0; end];
        for (i, value) in values.iter().enumerate().filter(|(_, x)| computed(x)) {
            value.operands.iter().for_each(|x| last[*x] = i);
        }
        for (x, y) in addends {
            last[*x] = end;
            y.iter().for_each(|y| last[*y] = end);
        }
        let mut all = Places {
            places: vec![None; end],
            spread: Vec::new(),
            operations: Vec::new(),
            copies: Vec::new(),
            registers: 0,
        };
        for (i, value) in values.iter().enumerate() {
            all.places[i] = match value.source {
                Some(Given::Vector(source)) => Some(source),
                Some(Given::Uniform(uniform)) if last[i] > 0 => {
                    all.spread.push(uniform);
                    all.registers += 1;
                    Some(Source::Register(all.registers - 1))
                }
                _ => None,
            };
        }
        // Is what a vector holds before the pass read after an operation?
        let reads: Vec<(Option<Source>, usize)> =
            all.places.iter().copied().zip(last.clone()).collect();
        let read_after = |source: Source, i: usize| {
            let mut reads = reads.iter();
            reads.any(|(own, last)| *own == Some(source) && *last > i)
        };
        let mut free: Vec<usize> = Vec::new();
        for (i, value) in values.iter().enumerate().filter(|(_, x)| computed(x)) {
            let mut operands = [Source::Read(0); 3];
            for (operand, x) in operands.iter_mut().zip(&value.operands) {
                *operand = all.places[*x].expect("computed before");
            }
            let others = 1..value.operands.len();
            let stored = stores.iter().find(|(_, stored)| *stored == i);
            // A result goes to its vector at once where that is not read any more, or as the first operand alone.
            let direct = stored.map(|(to, _)| *to);
            let direct = direct.filter(|to| !read_after(*to, i) && !operands[others].contains(to));
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
            all.places[i] = Some(to);
            let (loops, numbers) = value.loops();
            all.operations.push(Operation {
                run: loops[usize::from(operands[0] == to)],
                operands,
                numbers,
                to,
            });
            for x in &value.operands {
                if let (Some(Source::Register(r)), None, true) =
                    (all.places[*x], values[*x].source, last[*x] == i)
                    && !free.contains(&r)
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
        Ready {
            uniforms: pass.uniforms.clone(),
            spread: self.spread,
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
    /// Of each operation.
    numbers: Vec<[f32; 4]>,
}

impl Registers {
    pub fn prepare(&mut self, pass: &Ready, context: &Context) {
        let more = pass.registers.saturating_sub(self.at.len());
        self.at.extend((0..more).map(|_| vec![0.0; BLOCK]));
        self.uniforms.clear();
        let uniforms = pass.uniforms.iter();
        self.uniforms
            .extend(uniforms.map(|number| context.number(*number) as f32));
        for (register, uniform) in self.at.iter_mut().zip(&pass.spread) {
            register.fill(self.uniforms[*uniform]);
        }
        let number = |i: Option<usize>| i.map_or(1.0, |i| self.uniforms[i]);
        self.numbers.clear();
        let operations = pass.operations.iter();
        self.numbers
            .extend(operations.map(|operation| operation.numbers.map(number)));
    }

    /// A block's part of an operand; empty for one that is being written.
    #[inline(always)]
    fn operand<'a>(
        &'a self,
        source: Source,
        read: [&'a [f32]; 1],
        write: &'a Slices,
        block: &Range<usize>,
    ) -> &'a [f32] {
        match source {
            Source::Read(i) => &read[i][block.clone()],
            Source::Write(i) => write.at[i].get(block.clone()).unwrap_or_default(),
            Source::Register(r) => self.at[r].get(..block.len()).unwrap_or_default(),
        }
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
        for (operation, numbers) in pass.operations.iter().zip(&self.numbers) {
            // What it writes is not among what it reads meanwhile.
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
                Source::Read(_) => unreachable!("a result in what is read alone"),
            };
            let [x, y, z] = operation.operands;
            let operand = |source| self.operand(source, read, write, &block);
            (operation.run)(numbers, [operand(x), operand(y), operand(z)], to);
            match operation.to {
                Source::Register(r) => self.at[r] = register,
                Source::Write(i) => write.at[i] = vector,
                Source::Read(_) => {}
            }
        }
        let values = |source: Source| self.operand(source, read, write, &block);
        for ((sum, how), addends) in sums.iter_mut().zip(&pass.sums).zip(&pass.addends) {
            let of_block = match *addends {
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

/// Two loops over a block: the second one has its first operand where the result goes.
macro_rules! loops {
    (|$n:pat_param, $x:ident| $value:expr) => {
        [
            |$n: &[f32; 4], [x, ..]: [&[f32]; 3], to: &mut [f32]| {
                let value = |$x: f32| $value;
                to.iter_mut().zip(x).for_each(|(to, x)| *to = value(*x));
            },
            |$n: &[f32; 4], _: [&[f32]; 3], to: &mut [f32]| {
                let value = |$x: f32| $value;
                to.iter_mut().for_each(|to| *to = value(*to));
            },
        ]
    };
    (|$n:pat_param, $x:ident, $y:ident| $value:expr) => {
        [
            |$n: &[f32; 4], [x, y, _]: [&[f32]; 3], to: &mut [f32]| {
                let value = |$x: f32, $y: f32| $value;
                let all = to.iter_mut().zip(x).zip(y);
                all.for_each(|((to, x), y)| *to = value(*x, *y));
            },
            |$n: &[f32; 4], [_, y, _]: [&[f32]; 3], to: &mut [f32]| {
                let value = |$x: f32, $y: f32| $value;
                to.iter_mut()
                    .zip(y)
                    .for_each(|(to, y)| *to = value(*to, *y));
            },
        ]
    };
    (|$n:pat_param, $x:ident, $y:ident, $z:ident| $value:expr) => {
        [
            |$n: &[f32; 4], [x, y, z]: [&[f32]; 3], to: &mut [f32]| {
                let value = |$x: f32, $y: f32, $z: f32| $value;
                let all = to.iter_mut().zip(x).zip(y).zip(z);
                all.for_each(|(((to, x), y), z)| *to = value(*x, *y, *z));
            },
            |$n: &[f32; 4], [_, y, z]: [&[f32]; 3], to: &mut [f32]| {
                let value = |$x: f32, $y: f32, $z: f32| $value;
                let all = to.iter_mut().zip(y).zip(z);
                all.for_each(|((to, y), z)| *to = value(*to, *y, *z));
            },
        ]
    };
}

impl Value {
    /// Its loops, and which uniforms are their numbers.
    fn loops(&self) -> ([Loop; 2], [Option<usize>; 4]) {
        let [sx, sy, sz] = self.scales;
        match self.with {
            None => (of_operator(self.operator), [sx, sy, sz, None]),
            Some(With::Root([a, b, c])) => {
                let used = [a, b, c].map(|number| number.is_some());
                (of_root(used), [a, b, c, None])
            }
            Some(With::Inner {
                operator,
                first,
                scale,
            }) => {
                let outer = self.operator.expect("a sum or a difference");
                (of_inner(outer, operator, first), [sx, sy, sz, scale])
            }
        }
    }
}

fn truth(x: bool) -> f32 {
    if x { 1.0 } else { 0.0 }
}

fn of_operator(operator: Option<Operator>) -> [Loop; 2] {
    use Operator::*;
    let Some(operator) = operator else {
        return loops!(|_, x| x);
    };
    match operator {
        Negate => loops!(|_, x| -x),
        Not => loops!(|_, x| truth(x == 0.0)),
        Sqrt => loops!(|_, x| x.sqrt()),
        Abs => loops!(|_, x| x.abs()),
        Sign => loops!(|_, x| match x == 0.0 || x.is_nan() {
            true => x,
            false => 1f32.copysign(x),
        }),
        Exp => loops!(|_, x| x.exp()),
        Log => loops!(|_, x| x.ln()),
        Floor => loops!(|_, x| x.floor()),
        Add => loops!(|&[sx, sy, ..], x, y| sx * x + sy * y),
        Subtract => loops!(|&[sx, sy, ..], x, y| sx * x - sy * y),
        Multiply => loops!(|&[sx, sy, ..], x, y| (sx * x) * (sy * y)),
        Divide => loops!(|&[sx, sy, ..], x, y| (sx * x) / (sy * y)),
        Power => loops!(|_, x, y| x.powf(y)),
        Less => loops!(|_, x, y| truth(x < y)),
        LessEqual => loops!(|_, x, y| truth(x <= y)),
        Greater => loops!(|_, x, y| truth(x > y)),
        GreaterEqual => loops!(|_, x, y| truth(x >= y)),
        Equal => loops!(|_, x, y| truth(x == y)),
        NotEqual => loops!(|_, x, y| truth(x != y)),
        And => loops!(|_, x, y| truth(x != 0.0 && y != 0.0)),
        Or => loops!(|_, x, y| truth(x != 0.0 || y != 0.0)),
        Min => loops!(|_, x, y| match x < y || x.is_nan() {
            true => x,
            false => y,
        }),
        Max => loops!(|_, x, y| match x > y || x.is_nan() {
            true => x,
            false => y,
        }),
        Where => loops!(|_, c, x, y| if c != 0.0 { x } else { y }),
        MultiplyAdd => loops!(|&[sx, sy, sz, _], x, y, z| (sx * x).mul_add(sy * y, sz * z)),
    }
}

/// See [`With::Root`]: which of its numbers there are.
fn of_root(used: [bool; 3]) -> [Loop; 2] {
    match used {
        [false, false, false] => loops!(|_, x| x.sqrt()),
        [false, false, true] => loops!(|&[_, _, c, _], x| x.sqrt() + c),
        [false, true, false] => loops!(|&[_, b, ..], x| x.sqrt() / b),
        [false, true, true] => loops!(|&[_, b, c, _], x| x.sqrt() / b + c),
        [true, false, false] => loops!(|&[a, ..], x| (x / a).sqrt()),
        [true, false, true] => loops!(|&[a, _, c, _], x| (x / a).sqrt() + c),
        [true, true, false] => loops!(|&[a, b, ..], x| (x / a).sqrt() / b),
        [true, true, true] => loops!(|&[a, b, c, _], x| (x / a).sqrt() / b + c),
    }
}

/// See [`With::Inner`]: does the inner operator come first?
fn of_inner(outer: Operator, inner: Operator, first: bool) -> [Loop; 2] {
    use Operator::{Add, Divide};
    match (outer, inner, first) {
        (Add, Divide, _) => {
            loops!(|&[sx, sy, sz, s], x, y, z| sx * x + s * ((sy * y) / (sz * z)))
        }
        (Add, ..) => loops!(|&[sx, sy, sz, s], x, y, z| sx * x + s * ((sy * y) * (sz * z))),
        (_, Divide, false) => {
            loops!(|&[sx, sy, sz, s], x, y, z| sx * x - s * ((sy * y) / (sz * z)))
        }
        (_, _, false) => loops!(|&[sx, sy, sz, s], x, y, z| sx * x - s * ((sy * y) * (sz * z))),
        (_, Divide, true) => {
            loops!(|&[sx, sy, sz, s], x, y, z| s * ((sy * y) / (sz * z)) - sx * x)
        }
        (_, _, true) => loops!(|&[sx, sy, sz, s], x, y, z| s * ((sy * y) * (sz * z)) - sx * x),
    }
}
