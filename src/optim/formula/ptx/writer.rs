//! An entry while it is written, in terms of plans: numbers and where they lie, code, loops, sums over a block.

use std::mem::{offset_of, size_of};

use super::super::plan::{Adding, Code, Instruction, Number, Pass, Plan, Shape};
use super::text::{Class, Operand, Text};
use super::{Given, THREADS, arithmetic};
use crate::device::gpu::kernels::Step;

/// Sums that a block adds up at once, each in as many places of shared memory as it has threads, and then in this many.
const AT_ONCE: usize = 8;
const PLACES: usize = 16;

/// An entry under way.
pub struct Writer<'a> {
    pub plan: &'a Plan,
    /// What it is given, and the registers that hold it.
    given: Vec<(Given, Operand)>,
    pub text: Text,
    /// This thread of the block, and its number as one of 64 bits.
    pub thread: Operand,
    pub thread_index: Operand,
    /// Bytes of shared memory.
    pub shared: usize,
}

/// Where numbers are found: rows of tables, and sums.
#[derive(Default)]
pub struct At {
    pub coefficients: Option<Operand>,
    pub group: Option<Operand>,
    pub tensor: Option<Operand>,
    /// Places of sums over all parameters in shared memory.
    pub sums: Vec<(usize, usize)>,
    pub tensor_sums: Vec<(usize, Operand)>,
}

/// The value that goes with a key.
fn of<K: PartialEq, V: Copy>(list: &[(K, V)], key: K) -> Option<V> {
    list.iter()
        .find(|(k, _)| *k == key)
        .map(|(_, value)| *value)
}

pub const SINGLE: i64 = size_of::<f32>() as i64;
pub const DOUBLE: i64 = size_of::<f64>() as i64;
/// Bytes of shared memory behind which there are the sums over places, and those behind which there are the totals.
const OF_PLACES: usize = AT_ONCE * THREADS as usize * size_of::<f64>();
pub const TOTALS: usize = OF_PLACES + AT_ONCE * PLACES * size_of::<f64>();

impl<'a> Writer<'a> {
    pub fn new(plan: &'a Plan) -> Writer<'a> {
        let mut text = Text::default();
        let thread = text.put(Class::Bits32, "mov.u32", &[Operand::Named("%tid.x")]);
        Writer {
            plan,
            given: Vec::new(),
            thread_index: text.put(Class::Bits64, "cvt.u64.u32", &[thread]),
            thread,
            text,
            shared: 0,
        }
    }

    pub fn finish(self, name: &str) -> (String, Vec<Given>) {
        let text = self.text.finish(name, THREADS, self.shared);
        (
            text,
            self.given.into_iter().map(|(given, _)| given).collect(),
        )
    }

    pub fn given(&mut self, given: Given) -> Operand {
        of(&self.given, given).unwrap_or_else(|| {
            let register = self.text.parameter(given.name(self.plan));
            self.given.push((given, register));
            register
        })
    }

    pub fn bits64(&mut self, mnemonic: &str, from: &[Operand]) -> Operand {
        self.text.put(Class::Bits64, mnemonic, from)
    }

    /// A field of 32 bits, as one of 64.
    pub fn field(&mut self, address: Operand, offset: usize) -> Operand {
        let value = self.text.load(Class::Bits32, "global.u32", address, offset);
        self.bits64("cvt.s64.s32", &[value])
    }

    /// The step's place in the tables.
    pub fn step_slot(&mut self) -> Operand {
        let now = self.given(Given::Now);
        self.text
            .load(Class::Bits64, "global.u64", now, offset_of!(Step, slot))
    }

    /// An address in a table of doubles.
    fn row(&mut self, table: Given, row: Option<Operand>, width: usize) -> Operand {
        let base = self.given(table);
        match row {
            Some(row) => self.text.address(base, row, width as i64 * DOUBLE),
            None => base,
        }
    }

    fn entry(&mut self, table: Given, row: Option<Operand>, width: usize, i: usize) -> Operand {
        let row = self.row(table, row, width);
        self.text
            .load(Class::Double, "global.f64", row, i * size_of::<f64>())
    }

    /// A number, in double.
    pub fn number(&mut self, number: Number, at: &At) -> Operand {
        let plan = self.plan;
        match number {
            Number::Constant(value) => Operand::Double(value),
            Number::Coefficient(i) => {
                let width = plan.host.coefficients.len();
                self.entry(Given::Coefficients, at.coefficients, width, i)
            }
            Number::Loss => {
                let loss = self.given(Given::Loss);
                let loss = self.text.load(Class::Single, "global.f32", loss, 0);
                self.text.double(loss)
            }
            Number::State(i) => self.entry(Given::Scalars, None, 0, i),
            Number::Slot(i) => self.entry(Given::Slots, at.group, plan.group_slots, i),
            Number::Sum(i) => {
                let place = of(&at.sums, i).expect("numbers read sums of the pass before");
                self.text.load(Class::Double, "shared.f64", SHARED, place)
            }
            Number::TensorState(i) => self.entry(Given::TensorState, at.tensor, plan.tensors, i),
            Number::TensorSlot(i) => {
                self.entry(Given::TensorSlots, at.tensor, plan.tensor_slots, i)
            }
            Number::TensorSum(i) => {
                of(&at.tensor_sums, i).expect("numbers of tensors read their sums")
            }
            Number::Shape(shape) => {
                let i = Shape::ALL.iter().position(|s| *s == shape);
                let i = i.expect("all are there");
                self.entry(Given::Shapes, at.tensor, Shape::ALL.len(), i)
            }
        }
    }

    /// The values of code.
    pub fn code<I: Copy>(
        &mut self,
        code: &Code<I>,
        mut read: impl FnMut(&mut Writer<'a>, I) -> Operand,
    ) -> Vec<Operand> {
        let mut values: Vec<Operand> = Vec::with_capacity(code.instructions.len());
        for instruction in &code.instructions {
            let value = match instruction {
                Instruction::Read(input) => read(self, *input),
                Instruction::Apply(operator, from) => {
                    let from: Vec<Operand> = from.iter().map(|i| values[*i]).collect();
                    arithmetic::apply(&mut self.text, *operator, &from)
                }
            };
            values.push(value);
        }
        values
    }

    /// Runs `body` for `i` from a start, in equal strides, while it is below an end.
    pub fn strided(
        &mut self,
        start: Operand,
        stride: Operand,
        end: Operand,
        body: impl FnOnce(&mut Writer<'a>, Operand),
    ) {
        let (again, done) = (self.text.new_label(), self.text.new_label());
        let i = self.bits64("mov.u64", &[start]);
        self.text.label(again);
        let over = self.text.put(Class::Predicate, "setp.ge.s64", &[i, end]);
        self.text.branch_if(over, done);
        body(self, i);
        self.text.set(i, "add.s64", &[i, stride]);
        self.text.branch(again);
        self.text.label(done);
    }

    /// Registers that start at 0.
    pub fn zeros(&mut self, count: usize) -> Vec<Operand> {
        let zero = |_| {
            self.text
                .put(Class::Double, "mov.f64", &[Operand::Double(0.0)])
        };
        (0..count).map(zero).collect()
    }

    /// sum += x, or what takes its place.
    pub fn add(&mut self, sum: Operand, how: Adding, x: Operand) {
        match how {
            Adding::LargestAbsolute => {
                let largest = arithmetic::extreme(&mut self.text, "gt", sum, x);
                // A NaN of x is neither greater nor less.
                self.text.set(sum, "mov.f64", &[largest]);
            }
            _ => self.text.set(sum, "add.rn.f64", &[sum, x]),
        }
    }

    /// Adds up what the threads of the block have, of at most [`AT_ONCE`] sums: thread i gets the i-th total, and `store`
    /// says where to put it.
    pub fn reduce(
        &mut self,
        sums: &[Operand],
        how: Adding,
        store: impl FnOnce(&mut Writer<'a>, Operand),
    ) {
        const EACH: usize = size_of::<f64>();
        let threads = THREADS as usize;
        self.shared = self.shared.max(TOTALS);
        let own = self.shared_address(self.thread, EACH);
        for (i, sum) in sums.iter().enumerate() {
            self.text.store("shared.f64", own, i * threads * EACH, *sum);
        }
        self.text.barrier();
        // Of each sum some threads add up every sixteenth value.
        let beyond = |writer: &mut Writer, count: usize| {
            let count = Operand::Integer(count as i64);
            let text = &mut writer.text;
            let beyond = text.put(Class::Predicate, "setp.ge.s32", &[writer.thread, count]);
            let label = text.new_label();
            text.branch_if(beyond, label);
            label
        };
        let few = beyond(self, PLACES * sums.len());
        let which = Operand::Integer(PLACES.ilog2().into());
        let which = self
            .text
            .put(Class::Bits32, "shr.u32", &[self.thread, which]);
        let start = self.shared_address(which, threads * EACH);
        let mask = Operand::Integer(PLACES as i64 - 1);
        let place = self
            .text
            .put(Class::Bits32, "and.b32", &[self.thread, mask]);
        let place = self
            .text
            .put(Class::Bits32, "shl.b32", &[place, Operand::Integer(3)]);
        let start = self.text.put(Class::Bits32, "add.s32", &[start, place]);
        let total = self.gather(start, threads / PLACES, PLACES * EACH, how);
        self.text.store("shared.f64", own, OF_PLACES, total);
        self.text.label(few);
        self.text.barrier();
        let rest = beyond(self, sums.len());
        let start = self.shared_address(self.thread, PLACES * EACH);
        let start = self.text.put(
            Class::Bits32,
            "add.s32",
            &[start, Operand::Integer(OF_PLACES as i64)],
        );
        let total = self.gather(start, PLACES, EACH, how);
        store(self, total);
        self.text.label(rest);
    }

    /// Where an entry of this many bytes lies in shared memory, a power of two.
    pub fn shared_address(&mut self, index: Operand, size: usize) -> Operand {
        let shared = self.text.put(Class::Bits32, "mov.u32", &[SHARED]);
        let log = Operand::Integer(size.ilog2().into());
        let bytes = self.text.put(Class::Bits32, "shl.b32", &[index, log]);
        self.text.put(Class::Bits32, "add.s32", &[shared, bytes])
    }

    /// Adds up values in shared memory that are this many bytes apart.
    fn gather(&mut self, start: Operand, count: usize, apart: usize, how: Adding) -> Operand {
        let sum = self.text.load(Class::Double, "shared.f64", start, 0);
        for i in 1..count {
            let x = self
                .text
                .load(Class::Double, "shared.f64", start, i * apart);
            self.add(sum, how, x);
        }
        sum
    }

    /// Stores a number.
    pub fn put_number(
        &mut self,
        table: Given,
        row: Option<Operand>,
        width: usize,
        i: usize,
        value: Operand,
    ) {
        let row = self.row(table, row, width);
        let value = match value {
            Operand::Register(..) => value,
            constant => self.text.put(Class::Double, "mov.f64", &[constant]),
        };
        self.text
            .store("global.f64", row, i * size_of::<f64>(), value);
    }
}

/// The array in shared memory.
const SHARED: Operand = Operand::Named("sums");

/// Sums in the order in which they lie in a row of partial sums, in parts that are added up at once.
pub fn parts(pass: &Pass, among: impl Fn(usize) -> bool) -> Vec<(Adding, Vec<usize>)> {
    let largest = |i: &usize| pass.sums[*i].how == Adding::LargestAbsolute;
    let all = (0..pass.sums.len()).filter(|i| among(*i));
    let (largest, added): (Vec<usize>, Vec<usize>) = all.partition(largest);
    let cut = |how, list: Vec<usize>| {
        let parts: Vec<_> = list
            .chunks(AT_ONCE)
            .map(|part| (how, part.to_vec()))
            .collect();
        parts
    };
    let mut parts = cut(Adding::Values, added);
    parts.extend(cut(Adding::LargestAbsolute, largest));
    parts
}

/// The place of each sum in a row of partial sums.
pub fn places(pass: &Pass) -> Vec<usize> {
    let order = parts(pass, |_| true).into_iter().flat_map(|(_, part)| part);
    let mut places = vec![0; pass.sums.len()];
    order.enumerate().for_each(|(place, i)| places[i] = place);
    places
}
