//! A method at work: its memory on a device, and what its steps find there.

use bytemuck::Zeroable;
use serde_json::{Map, Value};

use super::{At, COMMON_KEYS, Memory, Method, ROWS, Reports, lookahead, row};
use crate::config::Values;
use crate::cpu::CHUNK;
use crate::device::gpu::kernels::Step;
use crate::device::program::{floats, floats_mut, one, one_mut};
use crate::device::{Machine, Program, Slot, View};
use crate::error::{Error, Result};
use crate::graph::Tensor;

/// Partial sums of a block that a method's kernels need at most.
const SUMS: usize = 3;

/// A method of the table, set up by a run's config.
pub struct Optimizer {
    method: Box<dyn AnyMethod>,
    /// What is done after each of its steps; these have no coefficients and report nothing.
    wrappers: Vec<Box<dyn AnyMethod>>,
    pub reports: Reports,
    initial_lr: f64,
    /// Steps whose coefficients were asked for.
    k: u64,
}

impl Optimizer {
    /// `opt` is a run's optimizer object, checked against the table.
    pub fn new(opt: &Map<String, Value>) -> Result<Optimizer> {
        let name = opt.get("name").and_then(Value::as_str).unwrap_or_default();
        let Some(row) = row(name) else {
            let known: Vec<_> = ROWS.iter().map(|row| row.entry.name).collect();
            return Err(Error::usage(format!(
                "unknown optimizer {name:?}; there are {}",
                known.join(", ")
            )));
        };
        let values = Values::new(row.entry.keys.iter().chain(COMMON_KEYS), opt);
        let method = (row.build)(&values);
        Ok(Optimizer {
            wrappers: lookahead::wrapper(&values).into_iter().collect(),
            ..Optimizer::of(method, row.reports, values.real("lr"))
        })
    }

    /// Any method.
    pub fn of(method: Box<dyn AnyMethod>, reports: Reports, initial_lr: f64) -> Optimizer {
        Optimizer {
            method,
            wrappers: Vec::new(),
            reports,
            initial_lr,
            k: 0,
        }
    }

    /// The number of vectors as long as the parameters that it remembers.
    pub fn vectors(&self, of: &[Tensor]) -> usize {
        let all = self.wrappers.iter().chain([&self.method]);
        all.map(|method| method.memory(of).vectors.len()).sum()
    }

    /// Sets the method up on a machine, for parameters, gradient and loss that are there: memory, and tables for so many
    /// steps. [`Optimizer::start`] comes next.
    pub fn place(
        &self,
        machine: &mut Machine,
        at: [Slot; 3],
        now: View<Step>,
        tensors: &[Tensor],
        steps: usize,
    ) -> Result<Operands> {
        let wrappers = self.wrappers.iter();
        let wrappers = wrappers.map(|wrapper| {
            let none = Reports::NOTHING;
            place(wrapper.as_ref(), none, machine, at, now, tensors, steps)
        });
        let wrappers = wrappers.collect::<Result<_>>()?;
        let method = self.method.as_ref();
        let operands = place(method, self.reports, machine, at, now, tensors, steps)?;
        Ok(Operands {
            wrappers,
            ..operands
        })
    }

    /// Makes the memory what it is before the first step, given the parameters.
    pub fn start(&self, machine: &mut Machine, operands: &Operands) -> Result<()> {
        let wrappers = self.wrappers.iter().zip(&operands.wrappers);
        for (method, at) in wrappers.chain([(&self.method, operands)]) {
            if method.memory(&at.tensors).from_parameters {
                let w = machine.download::<f32>(at.w)?;
                for vector in 0..at.state.len / w.len().max(1) {
                    machine.upload(at.state.part(vector * w.len(), w.len()), &w)?;
                }
            }
        }
        Ok(())
    }

    /// The coefficients of the next step at a learning rate, behind what `to` holds.
    pub fn next_coefficients(&mut self, lr: f64, to: &mut Vec<u8>) {
        self.k += 1;
        let at = At {
            k: self.k,
            lr,
            initial_lr: self.initial_lr,
        };
        self.method.coefficients(at, to);
    }

    /// See [`Method::step`]. `gradient` adds the gradient of the same batch at whatever the parameters then are.
    pub fn step(
        &self,
        operands: &Operands,
        gradient: &dyn Fn(&mut Program) -> Result<()>,
        program: &mut Program,
    ) -> Result<()> {
        self.method.step(operands, gradient, program)?;
        let mut wrappers = self.wrappers.iter().zip(&operands.wrappers);
        wrappers.try_for_each(|(wrapper, at)| wrapper.step(at, gradient, program))
    }

    /// See [`Method::evaluation`].
    pub fn evaluation(
        &self,
        operands: &Operands,
        enter: &mut Program,
        leave: &mut Program,
    ) -> Result<()> {
        self.method.evaluation(operands, enter, leave)?;
        let mut wrappers = self.wrappers.iter().zip(&operands.wrappers);
        wrappers.try_for_each(|(wrapper, at)| wrapper.evaluation(at, enter, leave))
    }

    /// The numbers that [`Reports::epoch`] names, from the scalars as they are on the machine.
    pub fn epoch_reports(&self, scalars: &[u8]) -> Vec<f64> {
        self.method.epoch_reports(scalars)
    }
}

/// Memory and tables of one method.
fn place(
    method: &dyn AnyMethod,
    reports: Reports,
    machine: &mut Machine,
    [w, g, loss]: [Slot; 3],
    now: View<Step>,
    tensors: &[Tensor],
    steps: usize,
) -> Result<Operands> {
    let Memory {
        vectors,
        per_tensor,
        workspace,
        ..
    } = method.memory(tensors);
    let mut zeros = |name, len| machine.alloc_with(name, &vec![0f32; len]);
    let state = zeros("the optimizer's state", vectors.len() * w.len)?;
    let per_tensor = zeros("the optimizer's state", per_tensor * tensors.len())?;
    let scalars = machine.alloc_with("scalars", &method.scalars())?;
    let series = vec![0f64; reports.steps.len() * steps];
    Ok(Operands {
        w,
        g,
        loss,
        now,
        tensors: tensors.to_vec(),
        steps,
        coefficients: machine.alloc("coefficients", steps * method.coefficients_size())?,
        scalars,
        state,
        per_tensor,
        work: machine.alloc("the optimizer's workspace", workspace)?,
        partial: machine.alloc("partial sums", SUMS * sum_blocks(w.len))?,
        series: machine.alloc_with("step sizes", &series)?,
        wrappers: Vec::new(),
    })
}

/// Where the calls of an update find what they read and write.
pub struct Operands {
    pub w: Slot,
    pub g: Slot,
    pub loss: Slot,
    pub now: View<Step>,
    pub tensors: Vec<Tensor>,
    /// Steps of an epoch, which the tables of coefficients and of reports are for.
    pub steps: usize,
    pub coefficients: View<u8>,
    pub scalars: View<u8>,
    state: View<f32>,
    per_tensor: View<f32>,
    work: View<f32>,
    partial: View<f64>,
    pub series: View<f64>,
    /// Those of what wraps the method.
    wrappers: Vec<Operands>,
}

impl Operands {
    /// All that is kept from step to step, by name: what makes the next step what it is, beside parameters and
    /// coefficients.
    pub fn memory(&self) -> Vec<(String, View<u8>)> {
        let own = [
            ("state", self.state.cast()),
            ("per_tensor", self.per_tensor.cast()),
            ("scalars", self.scalars),
        ];
        let own = own.map(|(name, view)| (name.to_owned(), view));
        let wrappers = self.wrappers.iter().enumerate();
        let wrappers = wrappers.flat_map(|(i, wrapper)| {
            let of_wrapper = wrapper.memory().into_iter();
            of_wrapper.map(move |(name, view)| (format!("wrapper.{i}.{name}"), view))
        });
        own.into_iter().chain(wrappers).collect()
    }
}

/// [`Operands`] as a method sees them.
pub struct Update<'a, M: Method + ?Sized> {
    /// The parameters and the gradient.
    pub w: Slot,
    pub g: Slot,
    /// One number.
    pub loss: Slot,
    pub now: View<Step>,
    /// A table; the entry of this step is at `now.slot`.
    pub coefficients: View<M::Coefficients>,
    /// One structure.
    pub scalars: View<M::Scalars>,
    /// (tensors, [`Memory::per_tensor`])
    pub per_tensor: View<f32>,
    /// [`Memory::workspace`] floats.
    pub work: View<f32>,
    /// Room for three partial sums of each of [`Update::sum_blocks`].
    pub partial: View<f64>,
    /// All of [`Update::vectors`], end to end.
    pub state: View<f32>,
    series: View<f64>,
    steps: usize,
    /// Names, shapes and ranges of the parameters.
    pub tensors: &'a [Tensor],
    gradient: &'a dyn Fn(&mut Program) -> Result<()>,
}

impl<'a, M: Method + ?Sized> Update<'a, M> {
    fn new(
        operands: &'a Operands,
        gradient: &'a dyn Fn(&mut Program) -> Result<()>,
    ) -> Update<'a, M> {
        Update {
            w: operands.w,
            g: operands.g,
            loss: operands.loss,
            now: operands.now,
            coefficients: operands.coefficients.cast(),
            scalars: operands.scalars.cast(),
            per_tensor: operands.per_tensor,
            work: operands.work,
            partial: operands.partial,
            state: operands.state,
            series: operands.series,
            steps: operands.steps,
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

    /// Blocks of a pass that sums: they depend on the number of parameters alone.
    pub fn sum_blocks(&self) -> usize {
        sum_blocks(self.w.len)
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
            self.coefficients.into(),
            self.loss.into(),
            self.g.into(),
        ];
        let writes = [
            self.w.into(),
            self.state.into(),
            self.scalars.into(),
            self.series.into(),
        ];
        let steps = self.steps;
        program.host(name, reads, writes, move |reads, writes| {
            let ([now, coefficients, loss, g], [w, state, scalars, series]) = (reads, writes);
            let now: &Step = one(now);
            let slot = now.slot as usize;
            let size = size_of::<M::Coefficients>();
            body(HostStep {
                coefficients: one(&coefficients[slot * size..(slot + 1) * size]),
                loss: floats(loss)[0],
                now: *now,
                w: floats_mut(w),
                g: floats(g),
                state: floats_mut(state),
                scalars: one_mut(scalars),
                series: bytemuck::cast_slice_mut(series),
                steps,
                slot,
            });
        });
    }
}

/// Blocks in which kernels sum over `n` elements.
pub fn sum_blocks(n: usize) -> usize {
    const MOST: usize = 256;
    n.div_ceil(1024).clamp(1, MOST)
}

/// One update on the CPU.
pub struct HostStep<'a, M: Method + ?Sized> {
    pub coefficients: &'a M::Coefficients,
    /// The loss of this batch.
    pub loss: f32,
    pub now: Step,
    pub scalars: &'a mut M::Scalars,
    w: &'a mut [f32],
    g: &'a [f32],
    state: &'a mut [f32],
    series: &'a mut [f64],
    steps: usize,
    slot: usize,
}

impl<M: Method + ?Sized> HostStep<'_, M> {
    /// Parameters, gradient, and the vectors that [`Memory::vectors`] names.
    pub fn vectors<const K: usize>(&mut self) -> Vectors<'_, K> {
        let mut vectors = self.state.chunks_exact_mut(self.g.len().max(1));
        Vectors {
            w: self.w,
            g: self.g,
            state: [(); K].map(|()| vectors.next().unwrap_or_default()),
        }
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

/// A [`Method`] of whatever types.
pub trait AnyMethod: Send {
    fn memory(&self, of: &[Tensor]) -> Memory;
    fn coefficients_size(&self) -> usize;
    fn coefficients(&mut self, at: At, to: &mut Vec<u8>);
    fn scalars(&self) -> Vec<u8>;
    fn step(
        &self,
        operands: &Operands,
        gradient: &dyn Fn(&mut Program) -> Result<()>,
        program: &mut Program,
    ) -> Result<()>;
    fn evaluation(
        &self,
        operands: &Operands,
        enter: &mut Program,
        leave: &mut Program,
    ) -> Result<()>;
    fn epoch_reports(&self, scalars: &[u8]) -> Vec<f64>;
}

impl<M: Method> AnyMethod for M {
    fn memory(&self, of: &[Tensor]) -> Memory {
        Method::memory(self, of)
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

    fn step(
        &self,
        operands: &Operands,
        gradient: &dyn Fn(&mut Program) -> Result<()>,
        program: &mut Program,
    ) -> Result<()> {
        Method::step(self, &Update::new(operands, gradient), program)
    }

    fn evaluation(
        &self,
        operands: &Operands,
        enter: &mut Program,
        leave: &mut Program,
    ) -> Result<()> {
        let none = |_: &mut Program| Err(Error::usage("evaluation has no gradient"));
        Method::evaluation(self, &Update::new(operands, &none), enter, leave)
    }

    fn epoch_reports(&self, scalars: &[u8]) -> Vec<f64> {
        let mut aligned = M::Scalars::zeroed();
        bytemuck::bytes_of_mut(&mut aligned).copy_from_slice(scalars);
        Method::epoch_reports(self, &aligned)
    }
}
