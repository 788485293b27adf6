//! Numbers: one block adds up the sums of the pass before, and computes what rounds and reports want of them.

use std::mem::{offset_of, size_of};

use super::super::places::TensorPlace;
use super::super::plan::{Code, Instruction, Number, Numbers, Pass, Plan, Round};
use super::text::{Class, Operand};
use super::writer::{At, DOUBLE, TOTALS, Writer, parts, places};
use super::{Given, THREADS};

/// What the code reads, once each.
fn reads(code: &Code<Number>) -> Vec<Number> {
    let mut all: Vec<Number> = Vec::new();
    for instruction in &code.instructions {
        if let Instruction::Read(number) = instruction
            && !all.contains(number)
        {
            all.push(*number);
        }
    }
    all
}

/// Is nothing kept of them?
pub fn is_empty(numbers: &Numbers) -> bool {
    numbers.slots.is_empty() && numbers.state.is_empty() && numbers.reports.is_empty()
}

/// The entry of a round's numbers, from the sums of the pass before; `None` if there are none.
pub fn numbers<'a>(plan: &'a Plan, round: &Round, before: Option<&Pass>) -> Option<Writer<'a>> {
    if is_empty(&round.group) && is_empty(&round.tensor) {
        return None;
    }
    let mut writer = Writer::new(plan);
    let w = &mut writer;
    let (group, tensor) = (reads(&round.group.code), reads(&round.tensor.code));
    let both = || group.iter().chain(&tensor);
    let slot = w.step_slot();
    let mut at = At {
        sums: before.map_or(Vec::new(), |pass| w.totals(pass, both())),
        ..At::default()
    };
    if !is_empty(&round.group) {
        w.groups(&round.group, slot, &mut at);
    }
    if !is_empty(&round.tensor) {
        w.text.barrier();
        w.tensors(&round.tensor, &tensor, before, slot, at);
    }
    Some(writer)
}

impl<'a> Writer<'a> {
    /// Puts those of a pass's sums over all parameters that are read into shared memory, and says where.
    fn totals<'n>(
        &mut self,
        pass: &Pass,
        read: impl Iterator<Item = &'n Number>,
    ) -> Vec<(usize, usize)> {
        let read: Vec<&Number> = read.collect();
        let mut totals = Vec::new();
        let places = places(pass);
        let threads = Operand::Integer(THREADS.into());
        for (how, part) in parts(pass, |i| read.contains(&&Number::Sum(i))) {
            let sums = self.zeros(part.len());
            let (start, rows) = (self.thread_index, self.given(Given::Rows));
            self.strided(start, threads, rows, |w, row| {
                let partial = w.given(Given::Partial);
                let row = w
                    .text
                    .address(partial, row, pass.sums.len() as i64 * DOUBLE);
                for (sum, i) in sums.iter().zip(&part) {
                    let offset = places[*i] * size_of::<f64>();
                    let x = w.text.load(Class::Double, "global.f64", row, offset);
                    w.add(*sum, how, x);
                }
            });
            let first = TOTALS + totals.len() * size_of::<f64>();
            totals.extend(part);
            self.reduce(&sums, how, |w, total| {
                let own = w.shared_address(w.thread, 8);
                w.text.store("shared.f64", own, first, total);
            });
        }
        if !totals.is_empty() {
            self.shared = TOTALS + totals.len() * size_of::<f64>();
            self.text.barrier();
        }
        let places = (0..totals.len()).map(|i| TOTALS + i * size_of::<f64>());
        totals.iter().copied().zip(places).collect()
    }

    /// Thread i computes the numbers of group i. All have read before one writes.
    fn groups(&mut self, numbers: &Numbers, slot: Operand, at: &mut At) {
        let (thread, groups, steps) = (
            self.thread_index,
            self.given(Given::Groups),
            self.given(Given::Steps),
        );
        let (none, done) = (self.text.new_label(), self.text.new_label());
        let beyond = self
            .text
            .put(Class::Predicate, "setp.ge.s64", &[thread, groups]);
        self.text.branch_if(beyond, none);
        at.coefficients = Some(self.table_row(thread, steps, slot));
        at.group = Some(thread);
        let values = self.code(&numbers.code, |w, number| w.number(number, at));
        self.text.label(none);
        self.text.barrier();
        self.text.branch_if(beyond, done);
        let width = self.plan.group_slots;
        for (to, value) in &numbers.slots {
            self.put_number(Given::ToSlots, Some(thread), width, *to, values[*value]);
        }
        let last = self.bits64("sub.s64", &[groups, Operand::Integer(1)]);
        let others = self
            .text
            .put(Class::Predicate, "setp.lt.s64", &[thread, last]);
        self.text.branch_if(others, done);
        for (to, value) in &numbers.state {
            self.put_number(Given::ToScalars, None, 0, *to, values[*value]);
        }
        for (report, value) in &numbers.reports {
            let row = self.table_row(Operand::Integer(*report as i64), steps, slot);
            self.put_number(Given::Series, Some(row), 1, 0, values[*value]);
        }
        self.text.label(done);
    }

    /// row * steps + slot
    fn table_row(&mut self, row: Operand, steps: Operand, slot: Operand) -> Operand {
        let start = self.bits64("mul.lo.s64", &[steps, row]);
        self.bits64("add.s64", &[start, slot])
    }

    /// A thread for each tensor.
    fn tensors(
        &mut self,
        numbers: &Numbers,
        read: &[Number],
        before: Option<&Pass>,
        slot: Operand,
        mut at: At,
    ) {
        let plan = self.plan;
        let (start, count, steps) = (
            self.thread_index,
            self.given(Given::TensorCount),
            self.given(Given::Steps),
        );
        let threads = Operand::Integer(THREADS.into());
        self.strided(start, threads, count, |w, tensor| {
            let table = w.given(Given::Tensors);
            let place = w
                .text
                .address(table, tensor, size_of::<TensorPlace>() as i64);
            let group = w.field(place, offset_of!(TensorPlace, group));
            at.coefficients = Some(w.table_row(group, steps, slot));
            (at.group, at.tensor) = (Some(group), Some(tensor));
            let sums: Vec<usize> = read
                .iter()
                .filter_map(|number| match number {
                    Number::TensorSum(i) => Some(*i),
                    _ => None,
                })
                .collect();
            if let (Some(pass), false) = (before, sums.is_empty()) {
                let places = places(pass);
                let first = w.field(place, offset_of!(TensorPlace, first));
                let end = w.field(place, offset_of!(TensorPlace, end));
                let totals = w.zeros(sums.len());
                w.strided(first, Operand::Integer(1), end, |w, row| {
                    let partial = w.given(Given::Partial);
                    let row = w
                        .text
                        .address(partial, row, pass.sums.len() as i64 * DOUBLE);
                    for (sum, i) in totals.iter().zip(&sums) {
                        let offset = places[*i] * size_of::<f64>();
                        let x = w.text.load(Class::Double, "global.f64", row, offset);
                        w.add(*sum, pass.sums[*i].how, x);
                    }
                });
                at.tensor_sums = sums.into_iter().zip(totals).collect();
            }
            let values = w.code(&numbers.code, |w, number| w.number(number, &at));
            for (to, value) in &numbers.slots {
                let width = plan.tensor_slots;
                w.put_number(
                    Given::ToTensorSlots,
                    Some(tensor),
                    width,
                    *to,
                    values[*value],
                );
            }
            for (to, value) in &numbers.state {
                let width = plan.tensors;
                w.put_number(
                    Given::ToTensorState,
                    Some(tensor),
                    width,
                    *to,
                    values[*value],
                );
            }
        });
    }
}
