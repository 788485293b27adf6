//! A method at work: its memory on a device, and what its steps find there.

use bytemuck::Zeroable;
use serde_json::{Map, Value};

use super::groups::{self, Group};
use super::schedule::Rate;
use super::{
    After, At, Course, Initial, Memory, Method, Reports, average, clip, keys, lookahead, sam,
};
use crate::config::Values;
use crate::cpu::CHUNK;
use crate::device::gpu::kernels::{Step, TensorRange};
use crate::device::program::{floats, floats_mut, one, one_mut};
use crate::device::{Machine, Program, Slot, Target, View};
use crate::error::{Error, Result};
use crate::graph::{Range, Tensor};

/// Partial sums of a block that a method's kernels need at most.
const SUMS: usize = 3;

/// The optimizer of a run: a method of the table, or several for groups of parameters, and what wraps them.
pub struct Optimizer {
    groups: Vec<Group>,
    /// The groups of each update, by their places.
    parts: Vec<Vec<usize>>,
    /// The part of the method that the run is named after, whose reports the history has.
    own: usize,
    /// What is done before and after each step; these have no coefficients and report nothing.
    wrappers: Vec<Box<dyn AnyMethod>>,
    pub reports: Reports,
    pub(super) initial_lr: f64,
    run: Course,
    /// Steps whose coefficients were asked for.
    k: u64,
    coefficients: Vec<u8>,
}

impl Optimizer {
    /// `opt` is a run's optimizer object, `groups` are those of its parameters, all checked against the tables.
    ///
    /// # Errors
    /// If a name is none of the table's, or groups of one update differ in what they must share.
    pub fn new(opt: &Map<String, Value>, groups: &[Map<String, Value>]) -> Result<Optimizer> {
        let groups = groups::all(opt, groups)?;
        let values = Values::new(keys(opt), opt);
        // In the order of a step: what SAM's second gradient is gets clipped, and the average takes Lookahead's weights.
        let wrappers = [
            sam::wrapper(&values),
            clip::wrapper(&values),
            lookahead::wrapper(&values),
            average::wrapper(&values)?,
        ];
        let wrappers = wrappers.into_iter().flatten().collect();
        Optimizer::of_groups(groups, wrappers, values.real("lr"))
    }

    /// Any method, for all parameters.
    pub fn of(method: Box<dyn AnyMethod>, reports: Reports, initial_lr: f64) -> Optimizer {
        let groups = vec![Group::rest(method, reports)];
        let made = Optimizer::of_groups(groups, Vec::new(), initial_lr);
        made.expect("one group")
    }

    fn of_groups(
        groups: Vec<Group>,
        wrappers: Vec<Box<dyn AnyMethod>>,
        initial_lr: f64,
    ) -> Result<Optimizer> {
        let parts = groups::parts(&groups)?;
        let rest = groups.len() - 1;
        Ok(Optimizer {
            own: parts
                .iter()
                .position(|part| part.contains(&rest))
                .expect("it is in one"),
            reports: groups[rest].reports,
            groups,
            parts,
            wrappers,
            initial_lr,
            run: Course::default(),
            k: 0,
            coefficients: Vec::new(),
        })
    }

    /// The same for the steps of a run.
    pub fn in_run(self, run: Course) -> Optimizer {
        Optimizer { run, ..self }
    }

    /// What steps a part's groups.
    fn method(&self, part: &[usize]) -> &dyn AnyMethod {
        self.groups[part[0]].method.as_ref()
    }

    /// The methods of all parts, and what wraps them.
    fn all(&self) -> impl Iterator<Item = &dyn AnyMethod> {
        let methods = self.parts.iter().map(|part| self.method(part));
        methods.chain(self.wrappers.iter().map(AsRef::as_ref))
    }

    /// The number of vectors as long as the parameters that it remembers, if it has no groups.
    pub fn vectors(&self, of: &[Tensor]) -> usize {
        let vectors = self.all().map(|method| method.memory(of).vectors.len());
        vectors.sum()
    }

    /// The places in `tensors` of each group's parameters, in the config's order; those that no group takes are last.
    ///
    /// # Errors
    /// If a group takes none of them, or they leave none to the optimizer's own method.
    pub fn members(&self, tensors: &[Tensor]) -> Result<Vec<Vec<usize>>> {
        groups::assign(&self.groups, tensors)
    }

    /// The order in which the parameters' tensors, by their places, are to lie: group by group.
    ///
    /// # Errors
    /// As [`Optimizer::members`].
    pub fn order(&self, tensors: &[Tensor]) -> Result<Vec<usize>> {
        let members = self.members(tensors)?;
        let groups = self.parts.iter().flatten();
        Ok(groups.flat_map(|group| members[*group].clone()).collect())
    }

    /// Sets the methods up on a machine, for parameters, gradient and loss that are there: memory, and tables for this many
    /// steps. [`Optimizer::start`] comes next.
    ///
    /// # Panics
    /// If the tensors do not lie in the order that [`Optimizer::order`] wants.
    pub fn place(
        &self,
        machine: &mut Machine,
        [w, g, loss]: [Slot; 3],
        now: View<Step>,
        tensors: &[Tensor],
        steps: usize,
    ) -> Result<Operands> {
        let mut place = |method: &dyn AnyMethod, reports, share| {
            place(method, reports, machine, share, loss, now, steps)
        };
        let parts = self.parts.iter().zip(self.shares(w, g, tensors)?);
        let parts = parts.map(|(part, share)| {
            let Group {
                method, reports, ..
            } = &self.groups[part[0]];
            place(method.as_ref(), *reports, share)
        });
        let parts = parts.collect::<Result<_>>()?;
        let wrappers = self.wrappers.iter().map(|wrapper| {
            let whole = Share {
                w,
                g,
                tensors: tensors.to_vec(),
                groups: vec![Range {
                    start: 0,
                    len: w.len,
                }],
            };
            place(wrapper.as_ref(), Reports::NOTHING, whole)
        });
        Ok(Operands {
            w,
            g,
            loss,
            parts,
            own: self.own,
            wrappers: wrappers.collect::<Result<_>>()?,
        })
    }

    /// What each part has of the parameters.
    fn shares(&self, w: Slot, g: Slot, tensors: &[Tensor]) -> Result<Vec<Share>> {
        let members = self.members(tensors)?;
        let mut end = 0;
        let share = |part: &Vec<usize>| {
            let start = end;
            let (mut own, mut groups) = (Vec::new(), Vec::new());
            for group in part {
                let first = end;
                for tensor in members[*group].iter().map(|i| &tensors[*i]) {
                    let (name, range) = (&tensor.name, tensor.range);
                    assert_eq!(range.start, end, "{name} lies outside of its group");
                    end += range.len;
                    let mut tensor = tensor.clone();
                    tensor.range.start -= start;
                    own.push(tensor);
                }
                groups.push(Range {
                    start: first - start,
                    len: end - first,
                });
            }
            let all = Range {
                start,
                len: end - start,
            };
            Share {
                w: all.of(w),
                g: all.of(g),
                tensors: own,
                groups,
            }
        };
        Ok(self.parts.iter().map(share).collect())
    }

    /// Makes the memory what it is before the first step, given the parameters.
    pub fn start(&self, machine: &mut Machine, operands: &Operands) -> Result<()> {
        for (method, at) in self.all().zip(operands.all()) {
            for (i, vector) in method.memory(&at.tensors).vectors.iter().enumerate() {
                let initial = match vector.initial {
                    Initial::Number(0.0) => continue,
                    Initial::Number(x) => vec![x; at.w.len],
                    Initial::Parameters => machine.download(at.w)?,
                };
                machine.upload(at.state.part(i * at.w.len, at.w.len), &initial)?;
            }
        }
        Ok(())
    }

    /// Puts the coefficients of the next steps, at these learning rates, into the tables.
    pub fn write_coefficients(
        &mut self,
        rates: &[Rate],
        operands: &Operands,
        machine: &mut Machine,
    ) -> Result<()> {
        for (part, place) in self.parts.iter().zip(&operands.parts) {
            self.coefficients.clear();
            for group in part {
                let Group { method, lr, .. } = &mut self.groups[*group];
                for (k, rate) in (self.k + 1..).zip(rates) {
                    let at = At {
                        k,
                        lr: lr.map_or(rate.lr, |lr| lr * rate.factor),
                        initial_lr: lr.unwrap_or(self.initial_lr),
                        run: self.run,
                        parameters: place.w.len,
                    };
                    method.coefficients(at, &mut self.coefficients);
                }
            }
            machine.upload(place.coefficients, &self.coefficients)?;
        }
        self.k += rates.len() as u64;
        Ok(())
    }

    /// See [`Method::step`]. `gradient` adds the gradient of the same batch at whatever the parameters then are.
    pub fn step(
        &self,
        operands: &Operands,
        gradient: &dyn Fn(&mut Program) -> Result<()>,
        program: &mut Program,
    ) -> Result<()> {
        let wrappers = self.wrappers.iter().zip(&operands.wrappers);
        for (wrapper, at) in wrappers {
            wrapper.before(at, gradient, program)?;
        }
        let mut all = self.all().zip(operands.all());
        all.try_for_each(|(method, at)| method.step(at, gradient, program))
    }

    /// What [`Method::after`] says, of all methods.
    pub fn after(&self) -> Vec<After> {
        let mut all = Vec::new();
        for after in self.all().filter_map(|method| method.after()) {
            if !all.contains(&after) {
                all.push(after);
            }
        }
        all
    }

    /// Does a method ask for gradients at drawn labels?
    pub fn draws_labels(&self) -> bool {
        self.after().iter().any(|after| after.drawn)
    }

    /// Adds what all methods do after these steps.
    pub fn further(&self, after: After, operands: &Operands, program: &mut Program) {
        for (method, at) in self.all().zip(operands.all()) {
            if method.after() == Some(after) {
                method.further(at, program);
            }
        }
    }

    /// See [`Method::changes_gradient`].
    pub fn changes_gradient(&self) -> bool {
        self.all().any(|method| method.changes_gradient())
    }

    /// See [`Method::evaluates_others`].
    pub fn evaluates_others(&self, done: u64) -> bool {
        self.all().any(|method| method.evaluates_others(done))
    }

    /// After this many steps the programs that put the weights in place that are evaluated, and the trained ones back.
    pub fn evaluation(&self, operands: &Operands, target: Target) -> Result<[Program; 2]> {
        let mut enter = Program::new(target);
        let mut leaves = Vec::new();
        for (method, at) in self.all().zip(operands.all()) {
            let mut leave = Program::new(target);
            method.evaluation(at, &mut enter, &mut leave)?;
            leaves.push(leave);
        }
        let mut leave = Program::new(target);
        leaves.into_iter().rev().for_each(|one| leave.append(one));
        Ok([enter, leave])
    }

    /// The numbers that [`Reports::epoch`] names, from the scalars as they are on the machine.
    pub fn epoch_reports(&self, scalars: &[u8]) -> Vec<f64> {
        self.method(&self.parts[self.own]).epoch_reports(scalars)
    }
}

/// Adds the calls that put loss and gradient at whatever the parameters then are in place of the step's.
pub type SecondGradient<'a> = dyn Fn(&Operands, View<Step>, &mut Program) -> Result<()> + 'a;

/// What an update has of the parameters and their gradient: groups that lie one behind the other.
struct Share {
    w: Slot,
    g: Slot,
    tensors: Vec<Tensor>,
    groups: Vec<Range>,
}

/// Memory and tables of one method.
fn place(
    method: &dyn AnyMethod,
    reports: Reports,
    machine: &mut Machine,
    share: Share,
    loss: Slot,
    now: View<Step>,
    steps: usize,
) -> Result<Place> {
    let Share {
        w,
        g,
        tensors,
        groups,
    } = share;
    let Memory {
        vectors,
        per_tensor,
        numbers,
        workspace,
        ranges,
    } = method.memory(&tensors);
    let Tables { constants, doubles } = method.tables(&tensors, &groups);
    let mut zeros = |name, len| machine.alloc_with(name, &vec![0f32; len]);
    let state = zeros("the optimizer's state", vectors.len() * w.len)?;
    let per_tensor = zeros("the optimizer's state", per_tensor * tensors.len())?;
    let numbers = zeros("the optimizer's state", numbers)?;
    let scalars = machine.alloc_with("scalars", &method.scalars())?;
    let ranges: Vec<_> = tensors.iter().filter(|_| ranges).map(range).collect();
    let series = vec![0f64; reports.steps.len() * steps];
    let coefficients = groups.len() * steps * method.coefficients_size();
    let blocks: usize = groups.iter().map(|group| sum_blocks(group.len)).sum();
    Ok(Place {
        w,
        g,
        loss,
        now,
        tensors,
        groups,
        steps,
        coefficients: machine.alloc("coefficients", coefficients)?,
        scalars,
        state,
        per_tensor,
        numbers,
        work: machine.alloc("the optimizer's workspace", workspace)?,
        doubles: machine.alloc("the optimizer's workspace", doubles)?,
        constants: constants
            .iter()
            .map(|table| machine.alloc_with("tables of tensors", table))
            .collect::<Result<_>>()?,
        ranges: machine.alloc_with("ranges of tensors", &ranges)?,
        partial: machine.alloc("partial sums", SUMS * blocks)?,
        series: machine.alloc_with("step sizes", &series)?,
    })
}

fn range(tensor: &Tensor) -> TensorRange {
    TensorRange {
        start: tensor.range.start as i64,
        n: tensor.range.len as i64,
        rows: tensor.shape.first().map_or(1, |rows| *rows as i64),
    }
}

/// An optimizer's memory and tables on a machine.
pub struct Operands {
    pub w: Slot,
    pub g: Slot,
    pub loss: Slot,
    /// Those of each update, and of what wraps them.
    parts: Vec<Place>,
    own: usize,
    wrappers: Vec<Place>,
}

impl Operands {
    fn all(&self) -> impl Iterator<Item = &Place> {
        self.parts.iter().chain(&self.wrappers)
    }

    /// All that is kept from step to step, by name: what makes the next step what it is, beside parameters and
    /// coefficients.
    pub fn memory(&self) -> Vec<(String, View<u8>)> {
        let all = self.all().enumerate().flat_map(|(i, at)| {
            let own = [
                ("state", at.state.cast()),
                ("per_tensor", at.per_tensor.cast()),
                ("numbers", at.numbers.cast()),
                ("scalars", at.scalars),
            ];
            own.map(|(name, view)| (format!("{i}.{name}"), view))
        });
        all.collect()
    }

    /// The tables of [`Reports::steps`], end to end.
    pub fn series(&self) -> View<f64> {
        self.parts[self.own].series
    }

    /// What [`Optimizer::epoch_reports`] takes.
    pub fn scalars(&self) -> View<u8> {
        self.parts[self.own].scalars
    }
}

/// Where the calls of an update find what they read and write.
pub struct Place {
    pub(super) w: Slot,
    pub(super) g: Slot,
    pub(super) loss: Slot,
    pub(super) now: View<Step>,
    pub(super) tensors: Vec<Tensor>,
    /// Where each group lies in `w` and in vectors that are as long.
    pub(super) groups: Vec<Range>,
    /// Steps of an epoch, which the tables of coefficients and of reports are for.
    pub(super) steps: usize,
    /// (groups, steps)
    pub(super) coefficients: View<u8>,
    pub(super) scalars: View<u8>,
    pub(super) state: View<f32>,
    pub(super) per_tensor: View<f32>,
    pub(super) numbers: View<f32>,
    pub(super) work: View<f32>,
    pub(super) doubles: View<f64>,
    pub(super) constants: Vec<View<u8>>,
    pub(super) ranges: View<TensorRange>,
    pub(super) partial: View<f64>,
    pub(super) series: View<f64>,
}

/// A [`Place`] as a method sees it.
pub struct Update<'a, M: Method + ?Sized> {
    /// The parameters and the gradient.
    pub w: Slot,
    pub g: Slot,
    /// One number.
    pub loss: Slot,
    pub now: View<Step>,
    /// A table; the entry of this step is at `now.slot`. Of a method that joins groups it is the first one's.
    pub coefficients: View<M::Coefficients>,
    /// One structure.
    pub scalars: View<M::Scalars>,
    /// (tensors, [`Memory::per_tensor`])
    pub per_tensor: View<f32>,
    /// [`Memory::numbers`] of them.
    pub numbers: View<f32>,
    /// [`Memory::workspace`] floats.
    pub work: View<f32>,
    /// Of [`Update::tensors`], where [`Memory::ranges`] asks for them.
    pub ranges: View<TensorRange>,
    /// [`Tables::doubles`] of them.
    pub doubles: View<f64>,
    /// [`Tables::constants`].
    pub constants: &'a [View<u8>],
    /// Room for three partial sums of each of [`Update::sum_blocks`].
    pub partial: View<f64>,
    /// All of [`Update::vectors`], end to end.
    pub state: View<f32>,
    series: View<f64>,
    steps: usize,
    /// (groups, steps)
    tables: View<M::Coefficients>,
    groups: &'a [Range],
    /// Names, shapes and ranges of the parameters.
    pub tensors: &'a [Tensor],
    gradient: &'a dyn Fn(&mut Program) -> Result<()>,
}

impl<'a, M: Method + ?Sized> Update<'a, M> {
    fn new(operands: &'a Place, gradient: &'a dyn Fn(&mut Program) -> Result<()>) -> Update<'a, M> {
        let tables: View<M::Coefficients> = operands.coefficients.cast();
        Update {
            w: operands.w,
            g: operands.g,
            loss: operands.loss,
            now: operands.now,
            coefficients: tables.part(0, tables.len / operands.groups.len()),
            scalars: operands.scalars.cast(),
            per_tensor: operands.per_tensor,
            numbers: operands.numbers,
            work: operands.work,
            ranges: operands.ranges,
            doubles: operands.doubles,
            constants: &operands.constants,
            partial: operands.partial,
            state: operands.state,
            series: operands.series,
            steps: operands.steps,
            tables,
            groups: &operands.groups,
            tensors: &operands.tensors,
            gradient,
        }
    }

    /// The vectors that [`Memory::vectors`] names.
    pub fn vectors<const K: usize>(&self) -> [View<f32>; K] {
        let n = self.w.len;
        std::array::from_fn(|i| self.state.part(i * n, n))
    }

    /// The table of the i-th of [`Reports::steps`], where the step's own place is `now.slot`.
    pub fn series(&self, i: usize) -> View<f64> {
        self.series.part(i * self.steps, self.steps)
    }

    /// The number of parameters, as kernels take it.
    pub fn n(&self) -> i64 {
        self.w.len as i64
    }

    /// The groups of a method that joins them, in their order. Any other method has an update for each group.
    pub fn groups(&self) -> impl Iterator<Item = GroupUpdate<'_, 'a, M>> {
        let mut first_block = 0;
        let groups = self.groups.iter().enumerate();
        groups
            .filter(|(_, range)| range.len > 0)
            .map(move |(i, &range)| {
                let group = GroupUpdate {
                    update: self,
                    i,
                    range,
                    first_block,
                };
                first_block += group.sum_blocks();
                group
            })
    }

    /// Blocks of a pass that sums over all groups: they depend on the numbers of parameters alone.
    pub fn sum_blocks(&self) -> usize {
        self.groups().map(|group| group.sum_blocks()).sum()
    }

    /// Adds the loss and the gradient of the same batch, with the same masks, at the parameters as they then are.
    /// Running averages of batch norm do not see it.
    pub fn gradient(&self, program: &mut Program) -> Result<()> {
        (self.gradient)(program)
    }

    /// Adds a function on the CPU that sees the whole update.
    pub fn host(
        &self,
        program: &mut Program,
        name: &'static str,
        body: impl Fn(HostStep<'_, M>) + Send + 'static,
    ) {
        let reads = [
            self.now.into(),
            self.tables.into(),
            self.loss.into(),
            self.g.into(),
        ];
        let writes = [
            self.w.into(),
            self.state.into(),
            self.scalars.into(),
            self.series.into(),
            self.work.into(),
            self.numbers.into(),
        ];
        let steps = self.steps;
        let groups: Vec<(usize, Range)> =
            self.groups().map(|group| (group.i, group.range)).collect();
        program.host(name, reads, writes, move |reads, writes| {
            let ([now, tables, loss, g], [w, state, scalars, series, work, numbers]) =
                (reads, writes);
            let now: &Step = one(now);
            let slot = now.slot as usize;
            body(HostStep {
                coefficients: entry::<M>(tables, slot),
                tables,
                groups: &groups,
                loss: floats(loss)[0],
                now: *now,
                w: floats_mut(w),
                g: floats(g),
                state: floats_mut(state),
                work: floats_mut(work),
                numbers: floats_mut(numbers),
                scalars: one_mut(scalars),
                series: bytemuck::cast_slice_mut(series),
                steps,
                slot,
            });
        });
    }
}

/// A group of an update.
pub struct GroupUpdate<'u, 'a, M: Method + ?Sized> {
    update: &'u Update<'a, M>,
    i: usize,
    range: Range,
    first_block: usize,
}

impl<M: Method + ?Sized> GroupUpdate<'_, '_, M> {
    pub fn w(&self) -> Slot {
        self.range.of(self.update.w)
    }

    pub fn g(&self) -> Slot {
        self.range.of(self.update.g)
    }

    /// The number of its parameters, as kernels take it.
    pub fn n(&self) -> i64 {
        self.range.len as i64
    }

    /// See [`Update::coefficients`].
    pub fn coefficients(&self) -> View<M::Coefficients> {
        let steps = self.update.steps;
        self.update.tables.part(self.i * steps, steps)
    }

    /// Its part of [`Update::vectors`].
    pub fn vectors<const K: usize>(&self) -> [View<f32>; K] {
        let Range { start, len } = self.range;
        self.update.vectors().map(|vector| vector.part(start, len))
    }

    /// Blocks of a pass that sums over the group.
    pub fn sum_blocks(&self) -> usize {
        sum_blocks(self.range.len)
    }

    /// Room for this many sums of each of these blocks, behind those of the groups before.
    pub fn partial(&self, sums: usize) -> View<f64> {
        let all = self.update.partial;
        all.part(sums * self.first_block, sums * self.sum_blocks())
    }
}

/// An entry of a table of coefficients.
fn entry<M: Method + ?Sized>(table: &[u8], i: usize) -> &M::Coefficients {
    let size = size_of::<M::Coefficients>();
    one(&table[i * size..(i + 1) * size])
}

/// Blocks in which kernels sum over `n` elements.
pub fn sum_blocks(n: usize) -> usize {
    const MOST: usize = 256;
    n.div_ceil(1024).clamp(1, MOST)
}

/// One update on the CPU.
pub struct HostStep<'a, M: Method + ?Sized> {
    /// Those of the first group, which is the only one unless the method joins groups.
    pub coefficients: &'a M::Coefficients,
    tables: &'a [u8],
    groups: &'a [(usize, Range)],
    /// The loss of this batch.
    pub loss: f32,
    pub now: Step,
    pub scalars: &'a mut M::Scalars,
    w: &'a mut [f32],
    g: &'a [f32],
    state: &'a mut [f32],
    work: &'a mut [f32],
    numbers: &'a mut [f32],
    series: &'a mut [f64],
    steps: usize,
    slot: usize,
}

impl<M: Method + ?Sized> HostStep<'_, M> {
    /// Parameters, gradient, the vectors that [`Memory::vectors`] names, and behind them those of the workspace.
    pub fn vectors<const K: usize>(&mut self) -> Vectors<'_, K> {
        self.vectors_and_numbers().0
    }

    /// The same, and what [`Memory::numbers`] asks for.
    pub fn vectors_and_numbers<const K: usize>(&mut self) -> (Vectors<'_, K>, &mut [f32]) {
        let n = self.g.len().max(1);
        let work = self.work.chunks_exact_mut(n);
        let mut vectors = self.state.chunks_exact_mut(n).chain(work);
        let vectors = Vectors {
            w: self.w,
            g: self.g,
            state: [(); K].map(|()| vectors.next().unwrap_or_default()),
        };
        (vectors, self.numbers)
    }

    /// How many groups there are.
    pub fn groups(&self) -> usize {
        self.groups.len()
    }

    /// The coefficients of the i-th group.
    pub fn coefficients_of(&self, i: usize) -> M::Coefficients {
        *entry::<M>(self.tables, self.groups[i].0 * self.steps + self.slot)
    }

    /// The i-th group's part of [`HostStep::vectors`].
    pub fn vectors_of<const K: usize>(&mut self, i: usize) -> Vectors<'_, K> {
        let Range { start, len } = self.groups[i].1;
        self.vectors().split_at(start).1.split_at(len).0
    }

    /// Adds up what `f` makes of each group.
    pub fn sum_groups<const K: usize, const N: usize>(
        &mut self,
        f: impl Fn(M::Coefficients, Vectors<'_, K>) -> [f64; N],
    ) -> [f64; N] {
        let mut sums = f(self.coefficients_of(0), self.vectors_of(0));
        for i in 1..self.groups() {
            let of_group = f(self.coefficients_of(i), self.vectors_of(i));
            sums.iter_mut().zip(of_group).for_each(|(sum, x)| *sum += x);
        }
        sums
    }

    /// Reports a number of this step, the i-th of [`Reports::steps`].
    pub fn report(&mut self, i: usize, value: f64) {
        self.series[i * self.steps + self.slot] = value;
    }
}

/// Everything of an update that is as long as the parameters, or one piece of it.
pub struct Vectors<'a, const K: usize> {
    pub w: &'a mut [f32],
    pub g: &'a [f32],
    pub state: [&'a mut [f32]; K],
}

impl<const K: usize> Vectors<'_, K> {
    /// Runs `f` on all pieces, in parallel. With scalars moved into `f` the compiler sees that no store to
    /// a vector changes them, and vectorises.
    pub fn for_pieces(self, f: impl Fn(Vectors<'_, K>) + Sync) {
        self.sum_pieces(move |piece| {
            f(piece);
            []
        });
    }

    /// Runs `f` on all pieces, in parallel, and adds up its results. Pieces and order of summation depend
    /// on the length alone. A piece fits into a core's cache: what `f` reads twice comes from memory once.
    pub fn sum_pieces<const N: usize>(
        self,
        f: impl Fn(Vectors<'_, K>) -> [f64; N] + Sync,
    ) -> [f64; N] {
        self.sum_halves(&f)
    }

    fn sum_halves<const N: usize>(
        self,
        f: &(impl Fn(Vectors<'_, K>) -> [f64; N] + Sync),
    ) -> [f64; N] {
        let chunks = self.w.len().div_ceil(CHUNK);
        if chunks <= 1 {
            return f(self);
        }
        let (left, right) = self.split_at(chunks / 2 * CHUNK);
        let (x, y) = rayon::join(|| left.sum_halves(f), || right.sum_halves(f));
        std::array::from_fn(|i| x[i] + y[i])
    }

    /// Runs `f` on each of several tensors that lie one behind the other, in parallel. Each has this many parameters, and so
    /// many of the numbers.
    pub fn for_tensors(
        self,
        numbers: &mut [f32],
        lengths: &[[usize; 2]],
        f: impl Fn(usize, Vectors<'_, K>, &mut [f32]) + Sync,
    ) {
        self.for_tensors_from(0, numbers, lengths, &f);
    }

    fn for_tensors_from(
        self,
        first: usize,
        numbers: &mut [f32],
        lengths: &[[usize; 2]],
        f: &(impl Fn(usize, Vectors<'_, K>, &mut [f32]) + Sync),
    ) {
        if lengths.len() == 1 {
            return f(first, self, numbers);
        }
        let (before, behind) = lengths.split_at(lengths.len() / 2);
        let [length, count] = [0, 1].map(|i| before.iter().map(|lengths| lengths[i]).sum());
        let (left, right) = self.split_at(length);
        let (numbers, others) = numbers.split_at_mut(count);
        rayon::join(
            || left.for_tensors_from(first, numbers, before, f),
            || right.for_tensors_from(first + before.len(), others, behind, f),
        );
    }

    fn split_at(self, at: usize) -> (Self, Self) {
        let (w, w_rest) = self.w.split_at_mut(at);
        let (g, g_rest) = self.g.split_at(at);
        let mut rests = [(); K].map(|()| None);
        let mut rests_left = rests.iter_mut();
        let state = self.state.map(|v| {
            let (v, rest) = v.split_at_mut(at);
            *rests_left.next().expect("as many") = Some(rest);
            v
        });
        let state_rest = rests.map(|rest| rest.expect("one each"));
        (
            Vectors { w, g, state },
            Vectors {
                w: w_rest,
                g: g_rest,
                state: state_rest,
            },
        )
    }
}

/// What a method has beside its memory.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    /// What never changes.
    pub constants: Vec<Vec<u8>>,
    /// Doubles of workspace.
    pub doubles: usize,
}

/// A [`Method`] of whatever types.
pub trait AnyMethod: Send {
    fn memory(&self, of: &[Tensor]) -> Memory;
    /// What it has beside its memory, for groups that lie one behind the other.
    fn tables(&self, of: &[Tensor], groups: &[Range]) -> Tables;
    fn joins_groups(&self) -> bool;
    fn coefficients_size(&self) -> usize;
    fn coefficients(&mut self, at: At, to: &mut Vec<u8>);
    fn scalars(&self) -> Vec<u8>;
    fn before(
        &self,
        operands: &Place,
        gradient: &dyn Fn(&mut Program) -> Result<()>,
        program: &mut Program,
    ) -> Result<()>;
    fn step(
        &self,
        operands: &Place,
        gradient: &dyn Fn(&mut Program) -> Result<()>,
        program: &mut Program,
    ) -> Result<()>;
    fn after(&self) -> Option<After> {
        None
    }
    fn further(&self, _operands: &Place, _program: &mut Program) {}
    fn changes_gradient(&self) -> bool;
    fn evaluates_others(&self, done: u64) -> bool;
    fn evaluation(&self, operands: &Place, enter: &mut Program, leave: &mut Program) -> Result<()>;
    fn epoch_reports(&self, scalars: &[u8]) -> Vec<f64>;
}

impl<M: Method> AnyMethod for M {
    fn memory(&self, of: &[Tensor]) -> Memory {
        Method::memory(self, of)
    }

    fn tables(&self, of: &[Tensor], _: &[Range]) -> Tables {
        Method::tables(self, of)
    }

    fn joins_groups(&self) -> bool {
        Method::joins_groups(self)
    }

    fn coefficients_size(&self) -> usize {
        size_of::<M::Coefficients>()
    }

    fn coefficients(&mut self, at: At, to: &mut Vec<u8>) {
        let coefficients = Method::coefficients(self, at);
        to.extend_from_slice(bytemuck::bytes_of(&coefficients));
    }

    fn scalars(&self) -> Vec<u8> {
        bytemuck::bytes_of(&Method::scalars(self)).to_vec()
    }

    fn before(
        &self,
        operands: &Place,
        gradient: &dyn Fn(&mut Program) -> Result<()>,
        program: &mut Program,
    ) -> Result<()> {
        Method::before(self, &Update::new(operands, gradient), program)
    }

    fn after(&self) -> Option<After> {
        Method::after(self)
    }

    fn further(&self, operands: &Place, program: &mut Program) {
        let none = |_: &mut Program| Err(Error::usage("there is no further gradient here"));
        if operands.w.len > 0 {
            Method::further(self, &Update::new(operands, &none), program);
        }
    }

    fn changes_gradient(&self) -> bool {
        Method::changes_gradient(self)
    }

    fn evaluates_others(&self, done: u64) -> bool {
        Method::evaluates_others(self, done)
    }

    fn step(
        &self,
        operands: &Place,
        gradient: &dyn Fn(&mut Program) -> Result<()>,
        program: &mut Program,
    ) -> Result<()> {
        if operands.w.len == 0 {
            return Ok(());
        }
        Method::step(self, &Update::new(operands, gradient), program)
    }

    fn evaluation(&self, operands: &Place, enter: &mut Program, leave: &mut Program) -> Result<()> {
        let none = |_: &mut Program| Err(Error::usage("evaluation has no gradient"));
        Method::evaluation(self, &Update::new(operands, &none), enter, leave)
    }

    fn epoch_reports(&self, scalars: &[u8]) -> Vec<f64> {
        let mut aligned = M::Scalars::zeroed();
        bytemuck::bytes_of_mut(&mut aligned).copy_from_slice(scalars);
        Method::epoch_reports(self, &aligned)
    }
}
