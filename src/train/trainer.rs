//! A run on its machine: data, parameters and the optimizer's memory, and the programs that train and evaluate.
//!
//! Everything that a step needs from the host is drawn once per epoch: the order of the samples, what augmentation
//! makes of them, and a table of [`Step`]s with the optimizer's coefficients, from which the first call of each step
//! takes the next entry. So all steps are the same program, of which a GPU takes many at a time, and what they report
//! (step sizes, norms, losses and scores) is read after the epoch.

use std::io;

use super::Watch;
use super::accumulate::Accumulation;
use super::costs::{Clock, Costs, Mark, passes};
use super::data::{Batch, Half};
use super::draws::Draws;
use super::layer_log::{LayerLog, LayerStep};
use super::network::Plans;
use super::step_log::{LogSteps, Logged, StepLog};
use super::weights::Snapshot;
use crate::cpu;
use crate::data::augment::Placement;
use crate::data::{Pair, Part};
use crate::device::gpu::kernels::{self, Step};
use crate::device::program::{floats, one_mut};
use crate::device::{Machine, PlannedLaunches, Prepared, Program, Slot, Target, View};
use crate::error::{Error, Result};
use crate::graph::{Layout, Params, Tensor};
use crate::optim::schedule::Rate;
use crate::optim::{After, EpochReport, Operands, Optimizer, sum_blocks};
use crate::random::SEED;

/// What an epoch of training leaves to tell.
pub(super) struct EpochResult {
    /// l2 norms, the sum of squares being an f32: Infinity beyond its range.
    pub model_norm: f32,
    pub grad_norm: f32,
    /// The optimizer's reports by name: a number of every step, and a number of the epoch.
    pub series: Vec<(&'static str, Vec<f64>)>,
    pub values: Vec<(EpochReport, f64)>,
    pub logged: Vec<Logged>,
    /// Of logged steps, by the step's number in its epoch: what it did to each tensor.
    pub layers: Vec<(usize, Vec<LayerStep>)>,
}

/// Programs and how often to run each, in order.
type Sequence = Vec<(Prepared, usize)>;

pub(super) struct Trainer {
    machine: Machine,
    params: Params,
    layout: Layout,
    optimizer: Optimizer,
    operands: Operands,
    clock: Clock,
    update_passes: f64,
    /// Batches of a step.
    accumulated: usize,
    /// Training steps done when this epoch began, and its programs that were run.
    done: u64,
    trained: usize,
    tables: Tables,
    draws: Draws,
    /// The batches of an epoch's steps.
    steps: Vec<Step>,
    /// Programs of this many training steps, the longer one first.
    train: Vec<(Prepared, usize)>,
    /// What is done after some steps only.
    further: Vec<(Prepared, After)>,
    /// This epoch's programs of training steps: places in `train`, and how often to run each.
    sequence: Vec<(usize, usize)>,
    norms: Prepared,
    log: Option<StepLog>,
    layers: Option<LayerLog>,
    /// The last step's, where the optimizer leaves another gradient than the loss's.
    last: Option<StepLog>,
    /// The training and the validation half, and the evaluation of each.
    halves: [(Half, Sequence); 2],
    /// Between training and evaluation, and back.
    evaluation: Option<[Prepared; 2]>,
    recalibration: Option<Recalibration>,
}

/// Running averages of all training batches at the weights that are evaluated.
struct Recalibration {
    /// Forward in training, batch after batch.
    batches: Sequence,
    /// Those of training, while others are in their place.
    trained: Vec<f32>,
}

/// What the host writes for an epoch, and reads after it.
struct Tables {
    /// One for each batch of each step.
    steps: View<Step>,
    /// How many entries of a table of steps were taken, and the last one.
    taken: View<i32>,
    now: View<Step>,
    order: View<u32>,
    placements: View<Placement>,
    /// Sums of losses and scores.
    sums: View<f64>,
    /// Squares of the norms of parameters and gradient.
    squares: View<f64>,
}

impl Trainer {
    /// On a machine that holds nothing yet. Steps of each epoch are logged, if any.
    ///
    /// # Errors
    /// If the device has no memory for it, or an op of the model has no kernels.
    pub fn new(
        plans: Plans,
        optimizer: Optimizer,
        data: &Pair,
        mut machine: Machine,
        log_steps: Option<LogSteps>,
    ) -> Result<Trainer> {
        let target = machine.target();
        let all = plans
            .eval
            .iter()
            .map(|(_, plan)| plan)
            .chain(&plans.rest)
            .chain(&plans.drawn)
            .chain([&plans.train]);
        let layout = Layout::alloc(&plans.params, all, &mut machine)?;
        let halves = [&data.train, &data.val].map(|split| Half::new(&mut machine, split));
        let [train_half, val_half] = halves;
        let halves = [train_half?, val_half?];

        let (batch_size, accumulated) = (plans.batch_size, plans.accumulated);
        let steps = data.train.len() / batch_size / accumulated;
        let longest = data.train.len().max(data.val.len());
        let in_order: Vec<u32> = (0..longest as u32).collect();
        let eval_steps = vec![Step::default(); longest.div_ceil(plans.eval_size)];
        let in_order = machine.alloc_with("the order of evaluation", &in_order)?;
        let eval_steps = machine.alloc_with("steps of evaluation", &eval_steps)?;
        let now = machine.alloc_with("the step", &[Step::default()])?;
        let augmented = halves.iter().filter(|half| half.is_augmented());
        let images = augmented.map(Half::len).max().unwrap_or(0);
        let tables = Tables {
            steps: machine.alloc("steps of an epoch", steps * accumulated)?,
            taken: machine.alloc_with("steps taken", &[0i32])?,
            now,
            order: machine.alloc("the order of the samples", data.train.len())?,
            placements: machine.alloc("flips and crops of images", images)?,
            sums: machine.alloc("sums of losses and scores", 2)?,
            squares: machine.alloc("squares of norms", 2)?,
        };
        let operands = [layout.values, layout.grads, plans.train.outputs[0]];
        let tensors = &plans.params.tensors;
        let operands = optimizer.place(&mut machine, operands, now, tensors, steps)?;
        optimizer.start(&mut machine, &operands)?;

        let batch = Batch {
            steps: tables.steps,
            taken: tables.taken,
            again: false,
            size: batch_size,
            now,
            df: 1.0 / accumulated as f32,
            order: tables.order,
            placements: tables.placements,
        };
        let parameters = layout.values.len;
        let new_log = |log: LogSteps| StepLog::new(&mut machine, log.every, steps, parameters);
        let log = log_steps.map(new_log).transpose()?;
        let layers = log_steps.filter(|log| log.layers);
        let layers = layers.map(|log| LayerLog::new(&mut machine, log.every, steps, tensors));
        let layers = layers.transpose()?;
        let last = match optimizer.changes_gradient() {
            true => Some(StepLog::of_last(&mut machine, steps, parameters)?),
            false => None,
        };
        let sums = match accumulated {
            1 => None,
            n => Some(Accumulation::new(&mut machine, n, parameters)?),
        };
        let clock = Clock::default();
        let one_step = |program: &mut Program| -> Result<()> {
            let plan = &plans.train;
            clock.emit(Mark::Step, program);
            for i in 0..accumulated {
                halves[0].gather(plan, batch_size, batch, program);
                plan.emit(now, program)?;
                if let Some(sums) = &sums {
                    sums.emit(i, operands.loss, operands.g, program);
                }
            }
            for log in log.iter().chain(&last) {
                log.emit(program, now, operands.loss, operands.g);
            }
            if let Some(layers) = &layers {
                layers.emit_before(program, now, operands.w, operands.g);
            }
            let gradient = |program: &mut Program| match accumulated {
                1 => plan.emit_again(now, program),
                _ => Err(Error::usage(
                    "accumulate_steps: a method with a second gradient (sam_rho) takes one batch a step; use a larger \
                     batch_size instead",
                )),
            };
            clock.emit(Mark::Update, program);
            optimizer.step(&operands, &gradient, program)?;
            clock.emit(Mark::End, program);
            if let Some(layers) = &layers {
                layers.emit_after(program, now, operands.w);
            }
            Ok(())
        };
        let mut update = Program::new(target);
        optimizer.step(&operands, &|_| Ok(()), &mut update)?;
        let mut update_passes = passes(update.calls(), parameters);
        let mut program = Program::new(target);
        one_step(&mut program)?;
        let all_after = optimizer.after();
        let between = all_after.iter().map(|after| after.every as usize);
        let between = between.min().map_or(steps, |every| every.min(steps));
        let at_once = machine.steps_at_once(between, program.calls().len());
        (1..at_once).try_for_each(|_| one_step(&mut program))?;
        let mut train = vec![(machine.prepare(program)?, at_once)];
        if at_once > 1 && !(all_after.is_empty() && steps.is_multiple_of(at_once)) {
            let mut program = Program::new(target);
            one_step(&mut program)?;
            train.push((machine.prepare(program)?, 1));
        }
        let mut further = Vec::new();
        for after in all_after {
            let mut program = Program::new(target);
            clock.emit(Mark::Step, &mut program);
            if after.drawn {
                let plan = plans.drawn.as_ref().expect("a plan at drawn labels");
                let batch = Batch {
                    again: true,
                    df: 1.0,
                    ..batch
                };
                halves[0].gather(plan, batch_size, batch, &mut program);
                plan.emit_again(now, &mut program)?;
            }
            let start = program.calls().len();
            optimizer.further(after, &operands, &mut program);
            update_passes += passes(&program.calls()[start..], parameters) / after.every as f64;
            clock.emit(Mark::Further, &mut program);
            further.push((machine.prepare(program)?, after));
        }

        let mut program = Program::new(target);
        let partial = machine.alloc("partial sums", 2 * sum_blocks(layout.values.len))?;
        norms(
            &mut program,
            layout.values,
            layout.grads,
            partial,
            tables.squares,
        );
        let norms = machine.prepare(program)?;

        let batch = Batch {
            steps: eval_steps,
            size: plans.eval_size,
            df: 1.0,
            order: in_order,
            ..batch
        };
        let mut evaluation = |half: Half| -> Result<(Half, Sequence)> {
            let (whole, left) = (half.len() / plans.eval_size, half.len() % plans.eval_size);
            let mut schedule = Sequence::new();
            for (samples, times) in [(plans.eval_size, whole), (left, 1)] {
                if samples == 0 || times == 0 {
                    continue;
                }
                let mut program = Program::new(target);
                let plan = plans.eval(samples);
                half.gather(plan, samples, batch, &mut program);
                plan.emit(now, &mut program)?;
                let outputs = [plan.outputs[0], plan.outputs[1]];
                add_scores(&mut program, outputs, tables.sums, samples, batch_size);
                schedule.push((machine.prepare(program)?, times));
            }
            Ok((half, schedule))
        };
        let [train_half, val_half] = halves;
        let halves = [evaluation(train_half)?, evaluation(val_half)?];

        let [enter, leave] = optimizer.evaluation(&operands, target)?;
        let evaluation = match enter.calls().is_empty() {
            true => None,
            false => Some([machine.prepare(enter)?, machine.prepare(leave)?]),
        };
        let recalibration = match evaluation {
            Some(_) if layout.buffers.len > 0 => {
                let (whole, left) = (data.train.len() / batch_size, data.train.len() % batch_size);
                let step = |i: usize| Step {
                    mean_of: i as i64 + 1,
                    ..Step::default()
                };
                let steps: Vec<Step> = (0..whole + 1).map(step).collect();
                let steps = machine.alloc_with("steps of recalibration", &steps)?;
                let mut batches = Sequence::new();
                let rest = plans.rest.iter().map(|plan| (plan, left, 1));
                for (plan, samples, times) in
                    [(&plans.train, batch_size, whole)].into_iter().chain(rest)
                {
                    let mut program = Program::new(target);
                    let size = batch_size;
                    let batch = Batch {
                        steps,
                        size,
                        ..batch
                    };
                    halves[0].0.gather(plan, samples, batch, &mut program);
                    plan.emit_halves(now, [&mut program, &mut Program::new(target)])?;
                    batches.push((machine.prepare(program)?, times));
                }
                let trained = vec![0.0; layout.buffers.len];
                Some(Recalibration { batches, trained })
            }
            _ => None,
        };
        Ok(Trainer {
            clock,
            update_passes,
            evaluation,
            recalibration,
            layout,
            optimizer,
            operands,
            accumulated,
            done: 0,
            trained: 0,
            draws: Draws::new(data, tables.steps.len * batch_size, !machine.is_host()),
            machine,
            tables,
            steps: Vec::new(),
            train,
            further,
            sequence: Vec::new(),
            norms,
            log,
            layers,
            last,
            halves,
            params: plans.params,
        })
    }

    /// The parameters, in the order of what is logged of them.
    pub fn tensors(&self) -> &[Tensor] {
        &self.params.tensors
    }

    /// Calls of a training step.
    pub fn calls(&self) -> usize {
        let (program, steps) = self.train[0];
        self.machine.calls(program) / steps
    }

    /// On the machine that only plans: the calls of one training step, and the programs of both evaluations with how often
    /// each runs.
    pub fn planned(&self) -> (PlannedLaunches, Vec<(PlannedLaunches, usize)>) {
        let calls = |program| self.machine.planned(program).expect("a machine that plans");
        let (first, _) = self.train[0];
        let evaluation = self.halves.iter().flat_map(|(_, programs)| programs);
        let evaluation = evaluation.map(|(program, times)| (calls(*program), *times));
        (calls(first).first(self.calls()), evaluation.collect())
    }

    pub fn target(&self) -> Target {
        self.machine.target()
    }

    pub fn costs(&self) -> Costs {
        let memory = self.operands.memory();
        let state: usize = memory.iter().map(|(_, view)| view.len).sum();
        Costs {
            state_bytes_per_parameter: state as f64 / self.layout.values.len as f64,
            peak_memory_bytes: self.machine.held(),
            // Sums of a few numbers are no passes.
            update_passes: (10.0 * self.update_passes).round() / 10.0,
            update_time: self.clock.update_time(),
        }
    }

    fn steps_per_epoch(&self) -> usize {
        self.tables.steps.len / self.accumulated
    }

    /// Trains on the whole steps of `order`, each at its own rate.
    pub fn epoch(&mut self, rates: &[Rate], order: &[u32]) -> Result<EpochResult> {
        self.begin_epoch(rates, order)?;
        while self.advance()? {}
        self.end_epoch()
    }

    /// Writes an epoch's tables. [`Trainer::advance`] then trains until it says no, and [`Trainer::end_epoch`] reads
    /// what is to be told.
    pub fn begin_epoch(&mut self, rates: &[Rate], order: &[u32]) -> Result<()> {
        self.trained = 0;
        self.sequence = self.lay_out();
        self.write_tables(rates, order)
    }

    /// The programs of the epoch that comes now: what is done after some steps only comes behind a program.
    fn lay_out(&self) -> Vec<(usize, usize)> {
        let (steps, mut step) = (self.steps_per_epoch(), 0);
        let mut sequence = Vec::new();
        while step < steps {
            let done = self.done + step as u64;
            let next = self.further.iter().map(|(_, after)| after.next(done));
            let next = next.min().map_or(steps, |next| (next - self.done) as usize);
            let end = next.min(steps);
            for (i, (_, n)) in self.train.iter().enumerate() {
                sequence.push((i, (end - step) / n));
                step = end - (end - step) % n;
            }
        }
        sequence
    }

    /// Runs the next of the epoch's programs, of one step or of several, and what comes behind it. Is there another one?
    pub fn advance(&mut self) -> Result<bool> {
        let (mut left, mut step) = (self.trained, 0);
        let next = self.sequence.iter().find_map(|&(i, times)| {
            let (program, n) = self.train[i];
            let before = times.min(left);
            left -= before;
            step += n * before;
            (before < times).then_some((program, n))
        });
        let (program, n) = next.expect("a program of this epoch");
        self.machine.run(program)?;
        step += n;
        for (program, after) in &self.further {
            if after.is_due(self.done + step as u64) {
                self.machine.run(*program)?;
            }
        }
        self.trained += 1;
        Ok(step < self.steps_per_epoch())
    }

    pub fn end_epoch(&mut self) -> Result<EpochResult> {
        self.done += self.steps_per_epoch() as u64;
        self.machine.run(self.norms)?;
        let squares = self.machine.download(self.tables.squares)?;
        let series = self.machine.download(self.operands.series())?;
        let scalars = self.machine.download(self.operands.scalars())?;
        let reports = self.optimizer.reports;
        let series = series
            .chunks_exact(self.steps_per_epoch())
            .map(<[f64]>::to_vec);
        let values = self.optimizer.epoch_reports(&scalars);
        let mut grad_norm = (squares[1] as f32).sqrt();
        if let Some(last) = self.last {
            let last = last.read(&mut self.machine)?;
            grad_norm = last[0].grad_norm;
        }
        Ok(EpochResult {
            model_norm: (squares[0] as f32).sqrt(),
            grad_norm,
            series: reports.steps.iter().copied().zip(series).collect(),
            values: reports.epoch.iter().copied().zip(values).collect(),
            logged: match self.log {
                Some(log) => log.read(&mut self.machine)?,
                None => Vec::new(),
            },
            layers: match &self.layers {
                Some(layers) => layers.read(&mut self.machine)?,
                None => Vec::new(),
            },
        })
    }

    /// Leaves an epoch behind that was trained before, in another process.
    pub fn skip_epoch(&mut self, rates: &[Rate]) -> Result<()> {
        self.done += self.steps_per_epoch() as u64;
        (self.optimizer).write_coefficients(rates, &self.operands, &mut self.machine)
    }

    /// Programs of this epoch that were run.
    pub fn trained(&self) -> usize {
        self.trained
    }

    /// The part of this epoch's programs that were run, from 0 to 1.
    pub fn part(&self) -> f64 {
        let all: usize = self.sequence.iter().map(|(_, times)| times).sum();
        self.trained as f64 / all as f64
    }

    /// Steps of this epoch that were trained.
    pub fn step(&mut self) -> Result<usize> {
        let batches = self.machine.download(self.tables.taken)?[0] as usize;
        Ok(batches / self.accumulated)
    }

    /// What the global generator has drawn.
    pub fn drawn(&self) -> u64 {
        self.params.generator.drawn()
    }

    /// Has it draw until it has drawn so much.
    pub fn draw_until(&mut self, drawn: u64) {
        self.params.generator.skip_to(drawn);
    }

    /// All on the machine that later steps and reports of this epoch depend on: weights, running averages, the
    /// optimizer's memory, and what the epoch has to report so far. A step leaves nothing else to the next one.
    fn state(&self) -> Vec<(String, View<u8>)> {
        let bytes = |slot: Slot| View::<f32>::from(slot).cast();
        let logged = self.log.map_or(View::default(), |log| log.table.cast());
        let layers = self.layers.as_ref();
        let layers = layers.map_or(View::default(), |log| log.table.cast());
        let own = [
            ("parameters", bytes(self.layout.values)),
            ("buffers", bytes(self.layout.buffers)),
            ("batches_taken", self.tables.taken.cast()),
            ("batch", self.tables.now.cast()),
            ("series", self.operands.series().cast()),
            ("logged", logged),
            ("layers", layers),
        ];
        let own = own.map(|(name, view)| (name.to_owned(), view));
        let memory = self.operands.memory().into_iter();
        let memory = memory.map(|(name, view)| (format!("optimizer.{name}"), view));
        let all = own.into_iter().chain(memory);
        all.filter(|(_, view)| view.len > 0).collect()
    }

    /// Names and lengths of what [`Trainer::save`] reads.
    pub fn pieces(&self) -> Vec<(String, usize)> {
        let views = self.state().into_iter();
        views.map(|(name, view)| (name, view.len)).collect()
    }

    /// Hands over the bytes of these, part by part. Faults of the device are within the error.
    pub fn save(&mut self, put: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        const PART: usize = 1 << 20;
        let mut part = vec![0; PART];
        for (_, view) in self.state() {
            for start in (0..view.len).step_by(PART) {
                let part = &mut part[..PART.min(view.len - start)];
                let from = view.part(start, part.len());
                let read = self.machine.download_into(from, part);
                read.map_err(io::Error::other)?;
                put(part)?;
            }
        }
        Ok(())
    }

    /// Makes the machine what it was when this many programs of this epoch were run.
    pub fn restore(&mut self, mut bytes: &[u8], trained: usize) -> Result<()> {
        for (_, view) in self.state() {
            let (piece, behind) = bytes.split_at(view.len);
            self.machine.upload(view, piece)?;
            bytes = behind;
        }
        self.trained = trained;
        Ok(())
    }

    fn write_tables(&mut self, rates: &[Rate], order: &[u32]) -> Result<()> {
        let (n, accumulated) = (self.tables.steps.len, self.accumulated);
        let step = |i: usize| Step {
            seed: SEED,
            batch: self.done * accumulated as u64 + i as u64,
            done: self.done + (i / accumulated) as u64,
            slot: (i / accumulated) as i64,
            mean_of: 0,
        };
        let steps = (0..n).map(step);
        self.steps.clear();
        self.steps.extend(steps);
        self.machine.upload(self.tables.steps, &self.steps)?;
        (self.optimizer).write_coefficients(rates, &self.operands, &mut self.machine)?;
        self.machine.upload(self.tables.order, order)?;
        let placements = self.draws.next(None, &mut self.params.generator);
        self.place(&placements)?;
        self.machine.upload(self.tables.taken, &[0])
    }

    fn place(&mut self, placements: &[Placement]) -> Result<()> {
        if placements.is_empty() {
            return Ok(());
        }
        let to = self.tables.placements.part(0, placements.len());
        self.machine.upload(to, placements)
    }

    /// Puts the weights that are evaluated, where these are others, in place of the trained ones, with running averages
    /// of their own. `None` if the watch ended it.
    pub fn enter_evaluation(&mut self, watch: &dyn Watch) -> Result<Option<()>> {
        if !self.optimizer.evaluates_others(self.done) {
            return Ok(Some(()));
        }
        if let Some([enter, _]) = self.evaluation {
            self.machine.run(enter)?;
        }
        let Some(recalibration) = &mut self.recalibration else {
            return Ok(Some(()));
        };
        (self.machine).download_into(self.layout.buffers, &mut recalibration.trained)?;
        // The stream goes on as if nobody had drawn.
        let mut stream = self.params.generator.clone();
        let train = &self.halves[Part::Train as usize].0.split;
        let placements = train.draw_placements(train.len(), &mut stream);
        self.place(&placements)?;
        self.machine.upload(self.tables.taken, &[0])?;
        let batches = self.recalibration.iter().flat_map(|r| &r.batches);
        run_all(&mut self.machine, batches, watch)
    }

    /// Back to the trained weights and their running averages.
    pub fn leave_evaluation(&mut self) -> Result<()> {
        if !self.optimizer.evaluates_others(self.done) {
            return Ok(());
        }
        if let Some(recalibration) = &self.recalibration {
            (self.machine).upload(self.layout.buffers, &recalibration.trained)?;
        }
        match self.evaluation {
            Some([_, leave]) => self.machine.run(leave),
            None => Ok(()),
        }
    }

    /// Mean loss and score over a half of the data: each batch's mean in f32, weighted by its size and summed in f64.
    /// Training data are augmented here, too. `None` if the watch ended it.
    pub fn evaluate(&mut self, part: Part, watch: &dyn Watch) -> Result<Option<(f64, f64)>> {
        let n = self.halves[part as usize].0.len();
        let placements = self.draws.next(Some(part), &mut self.params.generator);
        self.place(&placements)?;
        self.machine.upload(self.tables.taken, &[0])?;
        self.machine.upload(self.tables.sums, &[0.0; 2])?;
        let batches = &self.halves[part as usize].1;
        if run_all(&mut self.machine, batches, watch)?.is_none() {
            return Ok(None);
        }
        let sums = self.machine.download(self.tables.sums)?;
        Ok(Some((sums[0] / n as f64, sums[1] / n as f64)))
    }

    /// The parameters and buffers that are there.
    pub(super) fn weights(&mut self) -> Result<[Vec<f32>; 2]> {
        let values = self.machine.download(self.layout.values)?;
        Ok([values, self.machine.download(self.layout.buffers)?])
    }

    /// Shows the watch the weights that are there.
    pub fn finish(&mut self, watch: &dyn Watch) -> Result<()> {
        let [values, buffers] = self.weights()?;
        watch.trained(&Snapshot {
            params: &self.params,
            values: &values,
            buffers: &buffers,
            batches_tracked: self.params.batches_tracked + self.done * self.accumulated as u64,
            vocabulary: self.halves[0].0.vocabulary(),
        })
    }
}

/// Runs programs, each as often as it says. `None` if the watch ended it.
fn run_all<'p>(
    machine: &mut Machine,
    programs: impl IntoIterator<Item = &'p (Prepared, usize)>,
    watch: &dyn Watch,
) -> Result<Option<()>> {
    for &(program, times) in programs {
        for _ in 0..times {
            machine.run(program)?;
            if watch.stop() {
                return Ok(None);
            }
        }
    }
    Ok(Some(()))
}

/// sums += the losses and the scores of all batches of `samples`, each times its number of samples.
fn add_scores(
    program: &mut Program,
    outputs: [Slot; 2],
    sums: View<f64>,
    samples: usize,
    batch_size: usize,
) {
    if !program.on_host() {
        let ([losses, scores], n, batch) = (outputs, samples as i32, batch_size as i32);
        return kernels::add_scores(program, 1, losses, scores, sums, n, batch);
    }
    let reads = outputs.map(Into::into);
    program.host(
        "add_scores",
        reads,
        [sums.into()],
        move |outputs, [sums]| {
            let sums: &mut [f64; 2] = one_mut(sums);
            for (sum, means) in sums.iter_mut().zip(outputs) {
                for (batch, mean) in floats(means).iter().enumerate() {
                    let n = batch_size.min(samples - batch * batch_size);
                    *sum += f64::from(*mean) * n as f64;
                }
            }
        },
    );
}

/// |w|^2 and |g|^2.
fn norms(program: &mut Program, w: Slot, g: Slot, partial: View<f64>, squares: View<f64>) {
    if !program.on_host() {
        let blocks = sum_blocks(w.len);
        kernels::norm_sums(program, blocks, w, g, partial, w.len as i64);
        return kernels::norms(program, 1, partial, blocks as i32, squares);
    }
    program.host(
        "norms",
        [w.into(), g.into()],
        [squares.into()],
        |vectors, [squares]| {
            *one_mut(squares) = vectors.map(floats).map(|x| cpu::dot(x, x));
        },
    );
}

#[cfg(all(test, emulator))]
mod tests {
    use std::num::NonZeroUsize;

    use serde_json::json;

    use super::*;
    use crate::config::RunConfig;
    use crate::data::{Library, fetch};
    use crate::device::Device;
    use crate::graph::Mode;

    fn config() -> RunConfig {
        let config = json!({
            "dataset": "synthetic_linear", "dataset_kwargs": {"p": 5, "n_samples": 40}, "model": "linear",
            "model_kwargs": {"bias": true}, "loss_func": "squared", "score_func": "squared",
            "opt": {"name": "momo", "lr": 0.1}, "batch_size": 4, "max_epoch": 2, "run_id": 0,
        });
        RunConfig::from_json(config.as_object().unwrap()).unwrap()
    }

    fn third(layers: bool) -> LogSteps {
        LogSteps {
            every: NonZeroUsize::new(3).unwrap(),
            layers,
        }
    }

    /// Every third of ten steps, and twice; without a log a step has no call for it.
    #[test]
    fn steps_are_logged_alike_on_every_device() {
        let config = config();
        let library = Library::new("data", true, fetch::Options::new(Vec::new(), true));
        let data = library.load(&config).unwrap();
        let order: Vec<u32> = (0..40).collect();
        let [cpu, emulator] = [(Device::Cpu, 1), (Device::Emulator, 2)].map(|(device, calls)| {
            let [plain, mut logged] = [None, Some(third(false))].map(|log| {
                let plans = Plans::new(&config, &data, device, Mode::Train).unwrap();
                let optimizer = Optimizer::new(&config.opt, &config.groups).unwrap();
                Trainer::new(plans, optimizer, &data, Machine::open(device).unwrap(), log).unwrap()
            });
            assert_eq!(logged.calls(), plain.calls() + calls);
            let rates = [Rate::computed(0.1, 1.0); 10];
            let mut epoch = || {
                let epoch = logged.epoch(&rates, &order).unwrap();
                // The last step is logged.
                let last = epoch.logged.last().unwrap();
                assert!((last.grad_norm / epoch.grad_norm - 1.0).abs() < 1e-6);
                epoch.logged
            };
            [epoch(), epoch()].concat()
        });
        let steps: Vec<usize> = cpu.iter().map(|logged| logged.step).collect();
        assert_eq!(steps, [0, 3, 6, 9, 0, 3, 6, 9]);
        assert_ne!(cpu[0], cpu[4]);
        for (ours, theirs) in emulator.iter().zip(&cpu) {
            assert_eq!(ours.step, theirs.step);
            assert!(
                (ours.loss / theirs.loss - 1.0).abs() < 1e-5,
                "{ours:?} {theirs:?}"
            );
            assert!((ours.grad_norm / theirs.grad_norm - 1.0).abs() < 1e-5);
        }
    }

    /// Weight and bias under SGD, whose update is known.
    #[test]
    fn layers_are_logged_alike_on_every_device() {
        let mut config = config();
        config.opt.insert("name".into(), "sgd".into());
        let library = Library::new("data", true, fetch::Options::new(Vec::new(), true));
        let data = library.load(&config).unwrap();
        let order: Vec<u32> = (0..40).collect();
        let [cpu, emulator] = [Device::Cpu, Device::Emulator].map(|device| {
            let [mut plain, mut logged] = [false, true].map(|layers| {
                let plans = Plans::new(&config, &data, device, Mode::Train).unwrap();
                let optimizer = Optimizer::new(&config.opt, &config.groups).unwrap();
                Trainer::new(
                    plans,
                    optimizer,
                    &data,
                    Machine::open(device).unwrap(),
                    Some(third(layers)),
                )
                .unwrap()
            });
            assert_eq!(logged.calls(), plain.calls() + 2);
            let names: Vec<&str> = logged.tensors().iter().map(|t| t.name.as_str()).collect();
            assert_eq!(names, ["0.weight", "0.bias"]);
            let rates = [Rate::computed(0.1, 1.0); 10];
            let mut layers = Vec::new();
            for _ in 0..2 {
                let epoch = logged.epoch(&rates, &order).unwrap();
                assert_eq!(plain.epoch(&rates, &order).unwrap().logged, epoch.logged);
                assert_eq!(epoch.layers.len(), 4);
                for (step, (at, tensors)) in epoch.logged.iter().zip(&epoch.layers) {
                    assert_eq!(step.step, *at);
                    let square: f64 = tensors.iter().map(|t| t.grad_norm.powi(2)).sum();
                    assert!((square.sqrt() / f64::from(step.grad_norm) - 1.0).abs() < 1e-6);
                    for t in tensors {
                        // w' - w is rounded as w is.
                        let error = (t.update_norm - 0.1 * t.grad_norm).abs();
                        assert!(error < 2e-7 * t.weight_norm.max(t.update_norm), "{t:?}");
                        let turned = t.update_norm / t.weight_norm;
                        assert!(turned > 0.5 || t.angular_update <= 1.1 * turned, "{t:?}");
                    }
                }
                layers.extend(epoch.layers);
            }
            layers
        });
        assert_ne!(cpu[0], cpu[4]);
        for ((_, ours), (_, theirs)) in emulator.iter().zip(&cpu) {
            for (a, b) in ours.iter().zip(theirs) {
                for (x, y) in [
                    (a.weight_norm, b.weight_norm),
                    (a.grad_norm, b.grad_norm),
                    (a.update_norm, b.update_norm),
                ] {
                    assert!((x - y).abs() <= 1e-5 * b.weight_norm.max(y), "{a:?} {b:?}");
                }
            }
        }
    }

    #[test]
    fn later_epochs_allocate_nothing_and_upload_tables_alone() {
        let config = config();
        let library = Library::new("data", true, fetch::Options::new(Vec::new(), true));
        let data = library.load(&config).unwrap();
        for device in [Device::Cpu, Device::Emulator] {
            let plans = Plans::new(&config, &data, device, Mode::Train);
            let optimizer = Optimizer::new(&config.opt, &config.groups).unwrap();
            let mut run = Trainer::new(
                plans.unwrap(),
                optimizer,
                &data,
                Machine::open(device).unwrap(),
                None,
            )
            .unwrap();
            let order: Vec<u32> = (0..40).rev().collect();
            let mut epoch = || {
                let before = run.machine.traffic();
                run.epoch(&[Rate::computed(0.1, 1.0); 10], &order).unwrap();
                run.evaluate(Part::Train, &()).unwrap();
                run.evaluate(Part::Val, &()).unwrap();
                let after = run.machine.traffic();
                assert_eq!(after.allocations, before.allocations);
                assert_eq!(after.programs, before.programs);
                // Steps, coefficients, order and count; a count and sums per half. Norms, scalars and step sizes; sums
                // per half.
                assert_eq!(after.uploads - before.uploads, 4 + 2 * 2);
                assert_eq!(after.downloads - before.downloads, 3 + 2);
            };
            epoch();
            epoch();
        }
    }
}
