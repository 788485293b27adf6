//! A pass over a block of elements that stays in cache: each operator one loop.

use super::evaluate::Context;
use super::plan::{Adding, Cell, Element, Instruction, Number, Pass};
use super::syntax::Operator;
use crate::cpu::blocks::{self, Calls, Place, Register, Slices, for_blocks};

/// The place of a cell that is not the gradient among the vectors that a step may write.
pub fn write_place(cells: &[Cell], cell: usize) -> usize {
    let before = |cell: &&Cell| **cell != Cell::Gradient;
    cells[..cell].iter().filter(before).count()
}

/// If the first operand lies where the result goes, it is not among a loop's operands.
type Loop = blocks::Loop<Numbers<f32>>;

/// The numbers of a loop. One that an operation does not have changes nothing.
#[derive(Clone, Copy, Default)]
struct Numbers<T> {
    /// Factors of the operands.
    scales: [T; 3],
    /// What a value within another is multiplied by, or what a fused multiply-add is divided by.
    by: T,
    /// See [`Root`].
    root: [T; 3],
}

/// `sqrt(x/before)/after + plus`: which uniforms these three are.
type Root = [Option<usize>; 3];

/// An operator with its places.
struct Operation {
    run: Loop,
    operands: Vec<Place>,
    /// Which uniforms its numbers are.
    numbers: Numbers<Option<usize>>,
    to: Place,
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
        /// Of a quotient: its divisor is this of the last operand.
        root: Option<Root>,
    },
    /// A root is of what was divided by a uniform, then divided by one, then one is added. A quotient's divisor is such a root.
    Root(Root),
    /// A fused multiply-add is divided by a uniform.
    Divided(usize),
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
    addends: Vec<(Place, Option<Place>)>,
    registers: usize,
}

/// What a pass does not compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Given {
    Vector(Place),
    Uniform(usize),
}

/// A value of a pass before it has a place.
#[derive(Clone)]
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
            Cell::Gradient => Place::Read,
            _ => Place::Write(write_place(cells, i)),
        };
        let instructions = pass.code.instructions.iter();
        let values = instructions.map(|instruction| match instruction {
            Instruction::Read(Element::Cell(i)) => Value::read(Given::Vector(cell(*i))),
            Instruction::Read(Element::Uniform(i)) => Value::read(Given::Uniform(*i)),
            Instruction::Apply(operator, operands) => {
                let mut operands = operands.clone();
                // The addend comes first: it is the operand where the result most often goes.
                if *operator == Operator::MultiplyAdd {
                    operands.rotate_right(1);
                }
                Value::apply(Some(*operator), operands)
            }
        });
        let mut values: Vec<Value> = values.collect();
        let mut stores: Vec<(Place, usize)> = Vec::new();
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
        divided(&mut values);
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

/// A root that is the divisor of one quotient alone becomes part of its loop, as does the division of a fused multiply-add by a
/// uniform.
fn divided(values: &mut [Value]) {
    use Operator::{Divide, MultiplyAdd, Sqrt};
    for i in 0..values.len() {
        let (Some(Divide), &[x, y]) = (values[i].operator, &values[i].operands[..]) else {
            continue;
        };
        let once = |x: usize, operator| values[x].operator == Some(operator) && values[x].uses == 1;
        if values[i].uses == 0 {
            continue;
        }
        let [sx, sy, _] = values[i].scales;
        match (values[y].with, uniform(values, y)) {
            (Some(With::Root(root)), _) if once(y, Sqrt) && sy.is_none() => {
                values[i].operands[1] = values[y].operands[0];
                values[i].with = Some(With::Root(root));
                values[y].uses = 0;
            }
            (_, Some(by)) if once(x, MultiplyAdd) && sx.is_none() && sy.is_none() => {
                values[i] = Value {
                    with: Some(With::Divided(by)),
                    uses: values[i].uses,
                    ..values[x].clone()
                };
                values[x].uses = 0;
            }
            _ => {}
        }
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
                root: match own.with {
                    Some(With::Root(root)) => Some(root),
                    _ => None,
                },
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
    places: Vec<Option<Place>>,
    spread: Vec<usize>,
    operations: Vec<Operation>,
    copies: Vec<(usize, usize)>,
    registers: usize,
}

impl Places {
    fn new(
        values: &[Value],
        stores: &[(Place, usize)],
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
                    Some(Place::Register(all.registers - 1))
                }
                _ => None,
            };
        }
        // Is what a vector holds before the pass read after an operation?
        let reads: Vec<(Option<Place>, usize)> =
            all.places.iter().copied().zip(last.clone()).collect();
        let read_after = |source: Place, i: usize| {
            let mut reads = reads.iter();
            reads.any(|(own, last)| *own == Some(source) && *last > i)
        };
        let mut free: Vec<usize> = Vec::new();
        for (i, value) in values.iter().enumerate().filter(|(_, x)| computed(x)) {
            let operands = value.operands.iter();
            let mut operands: Vec<Place> = operands
                .map(|x| all.places[*x].expect("computed before"))
                .collect();
            let stored = stores.iter().find(|(_, stored)| *stored == i);
            // A result goes to its vector at once where that is not read any more, or as the first operand alone.
            let direct = stored.map(|(to, _)| *to);
            let direct = direct.filter(|to| !read_after(*to, i) && !operands[1..].contains(to));
            let to = direct.unwrap_or_else(|| {
                let register = free.pop().unwrap_or_else(|| {
                    all.registers += 1;
                    all.registers - 1
                });
                if let Some((Place::Write(to), _)) = stored {
                    all.copies.push((register, *to));
                    last[i] = end;
                }
                Place::Register(register)
            });
            all.places[i] = Some(to);
            let (loops, numbers) = value.loops();
            let in_place = operands[0] == to;
            operands.drain(..usize::from(in_place));
            all.operations.push(Operation {
                run: loops[usize::from(in_place)],
                operands,
                numbers,
                to,
            });
            for x in &value.operands {
                if let (Some(Place::Register(r)), None, true) =
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
pub struct Workspace {
    registers: Vec<Register>,
    uniforms: Vec<f32>,
    calls: Calls<Numbers<f32>>,
}

impl Workspace {
    /// Runs a pass over a piece of the gradient and of the vectors that it writes, and adds to its sums.
    pub fn run(
        &mut self,
        pass: &Ready,
        context: &Context,
        gradient: &[f32],
        write: Slices,
        sums: &mut [f64],
    ) {
        let Workspace {
            registers,
            uniforms,
            calls,
        } = self;
        uniforms.clear();
        uniforms.extend((pass.uniforms.iter()).map(|number| context.number(*number) as f32));
        registers.resize(registers.len().max(pass.registers), [0.0; _]);
        for (register, uniform) in registers.iter_mut().zip(&pass.spread) {
            register.fill(uniforms[*uniform]);
        }
        let number = |i: Option<usize>, none: f32| i.map_or(none, |i| uniforms[i]);
        let operations = pass.operations.iter().map(|operation| {
            let Numbers { scales, by, root } = operation.numbers;
            let [before, after, plus] = root;
            blocks::Operation {
                run: operation.run,
                numbers: Numbers {
                    scales: scales.map(|scale| number(scale, 1.0)),
                    by: number(by, 1.0),
                    // x + -0 is x, and -0 for -0.
                    root: [number(before, 1.0), number(after, 1.0), number(plus, -0.0)],
                },
                operands: &operation.operands,
                to: operation.to,
            }
        });
        for_blocks(
            gradient,
            write,
            registers,
            operations,
            &pass.copies,
            calls,
            |block| {
                let values = |place| block.values(place);
                for ((sum, how), addends) in sums.iter_mut().zip(&pass.sums).zip(&pass.addends) {
                    let of_block = match *addends {
                        (x, None) => how.of_block(values(x)),
                        (x, Some(y)) => products(values(x), values(y)),
                    };
                    *sum = how.join(*sum, of_block);
                }
            },
        );
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
    total(&lanes)
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
    total(&lanes)
}

/// Not inlined: compilers that see its order arrange the lanes of the loop before it accordingly, for every element anew.
#[inline(never)]
fn total([a, b, c, d, e, f, g, h]: &[f64; 8]) -> f64 {
    ((a + b) + (c + d)) + ((e + f) + (g + h))
}

/// Two loops over a block: the second one has its first operand where the result goes.
macro_rules! loops {
    (|$n:pat_param, $x:ident| $value:expr) => {
        [
            |$n: &Numbers<f32>, [x, ..]: [&[f32]; 3], to: &mut [f32]| {
                let value = |$x: f32| $value;
                to.iter_mut().zip(x).for_each(|(to, x)| *to = value(*x));
            },
            |$n: &Numbers<f32>, _: [&[f32]; 3], to: &mut [f32]| {
                let value = |$x: f32| $value;
                to.iter_mut().for_each(|to| *to = value(*to));
            },
        ]
    };
    (|$n:pat_param, $x:ident, $y:ident| $value:expr) => {
        [
            |$n: &Numbers<f32>, [x, y, _]: [&[f32]; 3], to: &mut [f32]| {
                let value = |$x: f32, $y: f32| $value;
                let all = to.iter_mut().zip(x).zip(y);
                all.for_each(|((to, x), y)| *to = value(*x, *y));
            },
            |$n: &Numbers<f32>, [y, ..]: [&[f32]; 3], to: &mut [f32]| {
                let value = |$x: f32, $y: f32| $value;
                to.iter_mut()
                    .zip(y)
                    .for_each(|(to, y)| *to = value(*to, *y));
            },
        ]
    };
    (|$n:pat_param, $x:ident, $y:ident, $z:ident| $value:expr) => {
        [
            |$n: &Numbers<f32>, [x, y, z]: [&[f32]; 3], to: &mut [f32]| {
                let value = |$x: f32, $y: f32, $z: f32| $value;
                let all = to.iter_mut().zip(x).zip(y).zip(z);
                all.for_each(|(((to, x), y), z)| *to = value(*x, *y, *z));
            },
            |$n: &Numbers<f32>, [y, z, _]: [&[f32]; 3], to: &mut [f32]| {
                let value = |$x: f32, $y: f32, $z: f32| $value;
                let all = to.iter_mut().zip(y).zip(z);
                all.for_each(|((to, y), z)| *to = value(*to, *y, *z));
            },
        ]
    };
}

impl Value {
    /// Its loops, and which uniforms are their numbers.
    fn loops(&self) -> ([Loop; 2], Numbers<Option<usize>>) {
        let mut numbers = Numbers {
            scales: self.scales,
            ..Numbers::default()
        };
        let loops = match self.with {
            None => of_operator(self.operator),
            Some(With::Root(root)) => {
                numbers.root = root;
                of_root(self.operator, root)
            }
            Some(With::Divided(by)) => {
                numbers.by = Some(by);
                loops!(|n, x, y, z| n.multiply_add(x, y, z) / n.by)
            }
            Some(With::Inner {
                operator,
                first,
                scale,
                root,
            }) => {
                numbers.by = scale;
                numbers.root = root.unwrap_or_default();
                let outer = self.operator.expect("a sum or a difference");
                of_inner(outer, operator, first, root)
            }
        };
        (loops, numbers)
    }
}

fn truth(x: bool) -> f32 {
    if x { 1.0 } else { 0.0 }
}

impl Numbers<f32> {
    #[inline(always)]
    fn multiply_add(&self, x: f32, y: f32, z: f32) -> f32 {
        let [sx, sy, sz] = self.scales;
        (sy * y).mul_add(sz * z, sx * x)
    }

    /// See [`Root`].
    #[inline(always)]
    fn root(&self, x: f32) -> f32 {
        let [_, after, plus] = self.root;
        quotient(x.sqrt(), after) + plus
    }

    #[inline(always)]
    fn root_of_quotient(&self, x: f32) -> f32 {
        self.root(x / self.root[0])
    }
}

/// `x / y` for a root x and any y, without a division for every x.
///
/// q = x (1/y), rounded, and a correction by the remainder x - q y: rounded as x / y is, where nothing underflows (N. Brisebarre,
/// J.-M. Muller, S. K. Raina, Accelerating correctly rounded floating-point division when the divisor is known in advance, IEEE
/// Transactions on Computers 53, 2004). A root is 0, infinite, no number, or between 2^-75 and 2^64.
#[inline(always)]
fn quotient(x: f32, y: f32) -> f32 {
    const LEAST: f32 = 1.0 / (1u64 << 40) as f32;
    if !cfg!(target_feature = "fma") || !(LEAST..1.0 / LEAST).contains(&y) {
        return x / y;
    }
    let inverse = 1.0 / y;
    let q = x * inverse;
    let rest = (-q).mul_add(y, x);
    // It is 0 or NaN where q is right.
    if rest.abs() > 0.0 {
        rest.mul_add(inverse, q)
    } else {
        q
    }
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
        Add => loops!(|n, x, y| n.scales[0] * x + n.scales[1] * y),
        Subtract => loops!(|n, x, y| n.scales[0] * x - n.scales[1] * y),
        Multiply => loops!(|n, x, y| (n.scales[0] * x) * (n.scales[1] * y)),
        Divide => loops!(|n, x, y| (n.scales[0] * x) / (n.scales[1] * y)),
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
        MultiplyAdd => loops!(|n, x, y, z| n.multiply_add(x, y, z)),
    }
}

/// See [`With::Root`].
fn of_root(operator: Option<Operator>, [before, ..]: Root) -> [Loop; 2] {
    match (operator, before) {
        (Some(Operator::Divide), None) => loops!(|n, x, y| (n.scales[0] * x) / n.root(y)),
        (Some(Operator::Divide), Some(_)) => {
            loops!(|n, x, y| (n.scales[0] * x) / n.root_of_quotient(y))
        }
        (_, None) => loops!(|n, x| n.root(x)),
        (_, Some(_)) => loops!(|n, x| n.root_of_quotient(x)),
    }
}

/// See [`With::Inner`].
fn of_inner(outer: Operator, inner: Operator, first: bool, root: Option<Root>) -> [Loop; 2] {
    macro_rules! within {
        (|$n:ident, $y:ident, $z:ident| $value:expr) => {
            match (outer, first) {
                (Operator::Add, _) => {
                    loops!(|$n, x, $y, $z| $n.scales[0] * x + $n.by * $value)
                }
                (_, false) => loops!(|$n, x, $y, $z| $n.scales[0] * x - $n.by * $value),
                (_, true) => loops!(|$n, x, $y, $z| $n.by * $value - $n.scales[0] * x),
            }
        };
    }
    match (inner, root) {
        (Operator::Divide, Some([None, ..])) => {
            within!(|n, y, z| (n.scales[1] * y) / n.root(z))
        }
        (Operator::Divide, Some(_)) => {
            within!(|n, y, z| (n.scales[1] * y) / n.root_of_quotient(z))
        }
        (Operator::Divide, None) => within!(|n, y, z| (n.scales[1] * y) / (n.scales[2] * z)),
        _ => within!(|n, y, z| (n.scales[1] * y) * (n.scales[2] * z)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotients_of_roots_are_rounded_as_divisions_are() {
        let mut state = 1u32;
        let mut draw = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state
        };
        let two = |n: i32| 2f32.powi(n);
        let mut divisors = vec![0.0, -0.9, two(-149), two(-40), two(40), f32::MAX];
        divisors.extend([0.999_999_94, 1.999_999_9, f32::INFINITY, f32::NAN]);
        let divisor =
            |bits: u32| two((bits >> 8) as i32 % 80 - 40) * (1.0 + bits as f32 * two(-32));
        divisors.extend((0..200).map(|_| divisor(draw())));
        let mut roots = vec![0.0, -0.0, two(-149), f32::MAX, f32::INFINITY, f32::NAN];
        roots.extend((0..20_000).map(|_| f32::from_bits(draw() >> 1)));
        for root in &mut roots {
            *root = root.sqrt();
        }
        for y in divisors {
            for x in &roots {
                let (ours, exact) = (quotient(*x, y), x / y);
                let same = ours.to_bits() == exact.to_bits() || ours.is_nan() && exact.is_nan();
                assert!(same, "{x:e} / {y:e}: {ours:e} for {exact:e}");
            }
        }
    }
}
