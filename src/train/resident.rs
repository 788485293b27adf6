//! A run on a device that runs kernels. Data, parameters and the optimizer's state stay there.
//!
//! Everything that a step needs from the host is drawn once per epoch: the order of the samples, what augmentation makes
//! of them, and a table of [`Step`]s, from which the first kernel of each step takes the next entry. So all steps are the
//! same launches, many of which make a program, and what they report (step sizes, norms, losses and scores) is read after
//! the epoch.

use super::Watch;
use super::checkpoint::Snapshot;
use super::network::Plans;
use super::worker::{Trained, Worker};
use crate::config::RunConfig;
use crate::data::augment::Recipe;
use crate::data::{Pair, Part, Split};
use crate::device::Target;
use crate::device::gpu::{DeviceScalars, Gpu, Program, Queue, Step, View, kernels};
use crate::error::Result;
use crate::graph::{Layout, Params, Plan};
use crate::optim::{Method, Moment, Update, sum_blocks};
use crate::random::SEED;

/// One half of a data set on the device.
struct Half {
    features: Features,
    /// (samples, targets)
    targets: View<f32>,
    len: usize,
}

enum Features {
    /// (samples, features)
    Floats(View<f32>),
    Bytes {
        values: View<u8>,
        /// (channels, 256)
        table: View<f32>,
        channels: usize,
        recipe: Option<Recipe>,
    },
}

/// Where a batch is found: its step, and by it the samples' indices and, for augmented images, their places.
#[derive(Clone, Copy)]
struct Visit {
    now: View<Step>,
    order: View<u32>,
    places: View<u32>,
}

impl Half {
    fn new(gpu: &mut Gpu, split: &Split) -> Result<Half> {
        let (features, targets) = match split.bytes() {
            Some((bytes, tables)) => {
                let features = Features::Bytes {
                    values: gpu.alloc_with("the samples", bytes)?,
                    table: gpu.alloc_with("the table of pixel values", tables.as_flattened())?,
                    channels: tables.len(),
                    recipe: split.augmentation(),
                };
                (features, split.targets())
            }
            None => {
                let width: usize = split.input_shape().iter().product();
                let all: Vec<u32> = (0..split.len() as u32).collect();
                let mut x = vec![0.0; split.len() * width];
                let mut y = split.targets();
                split.gather(&all, &[], &mut x, &mut y);
                let x = gpu.alloc_with("the samples", &x)?;
                (Features::Floats(x), y)
            }
        };
        Ok(Half {
            features,
            targets: gpu.alloc_with("the targets", &targets)?,
            len: split.len(),
        })
    }

    /// Queues the gathering of a plan's inputs, `samples` at the places that `order` names.
    fn gather(&self, plan: &Plan, samples: usize, visit: Visit, q: &mut Queue) {
        let Visit { now, order, places } = visit;
        let [x, y] = [plan.inputs[0], plan.inputs[1]];
        let [width, count] = [x, y].map(|slot| (slot.len / samples) as i32);
        let (grid, targets) = ((samples, (x.len / samples).div_ceil(1024)), self.targets);
        match self.features {
            Features::Floats(data) => {
                kernels::gather_floats(q, grid, data, targets, order, now, x, y, width, count);
            }
            Features::Bytes {
                values,
                table,
                channels,
                recipe: None,
            } => {
                let channels = channels as i32;
                kernels::gather_bytes(
                    q, grid, values, table, channels, targets, order, now, x, y, width, count,
                );
            }
            Features::Bytes {
                values,
                table,
                channels,
                recipe: Some(_),
            } => {
                let side = (x.len / samples / channels).isqrt() as i32;
                kernels::gather_images(
                    q, grid, values, table, places, targets, order, now, x, y, side, count,
                );
            }
        }
    }

    /// How the samples are augmented, if they are.
    fn recipe(&self) -> Option<Recipe> {
        match self.features {
            Features::Bytes { recipe, .. } => recipe,
            Features::Floats(_) => None,
        }
    }
}

/// Programs and how often to run each, in order.
type Schedule = Vec<(Program, usize)>;

/// How many of so many steps, of so many launches each, to put into one program. The device must not wait for the host
/// to start the next one, and programs of very many launches are slow to make.
fn steps_at_once(steps: usize, launches: usize) -> usize {
    const STEPS: usize = 40;
    const LAUNCHES: usize = 4096;
    let most = (LAUNCHES / launches).clamp(1, STEPS).min(steps);
    let starts = |n: &usize| steps / n + steps % n;
    (1..=most).min_by_key(starts).unwrap_or(1)
}

pub(super) struct Resident {
    gpu: Gpu,
    params: Params,
    layout: Layout,
    /// Batches in the running averages before the first step.
    batches_tracked: u64,
    method: Method,
    seed: u64,
    batch_size: usize,
    /// Training steps done.
    clock: u64,
    steps: View<Step>,
    /// How many entries of a table of steps were taken.
    taken: View<i32>,
    order: View<u32>,
    places: View<u32>,
    step_sizes: View<f64>,
    scalars: View<DeviceScalars>,
    sums: View<f64>,
    squares: View<f64>,
    train: Schedule,
    norms: Program,
    /// The training and the validation half, and the evaluation of each.
    halves: [(Half, Schedule); 2],
}

impl Resident {
    /// # Errors
    /// If the device cannot be opened, or an op of the model has no kernels.
    pub fn new(
        plans: Plans,
        config: &RunConfig,
        data: &Pair,
        target: Target,
        batches_tracked: u64,
    ) -> Result<Resident> {
        let method = Method::new(&config.opt)?;
        let mut gpu = Gpu::open(target.device)?;
        let precision = target.precision;
        let layout = Layout::new(&plans.params);
        gpu.alloc::<f32>("parameters and activations", plans.floats())?;
        gpu.upload(layout.values, &plans.params.values)?;
        gpu.upload(layout.buffers, &plans.params.buffer_values)?;
        let halves = [
            Half::new(&mut gpu, &data.train)?,
            Half::new(&mut gpu, &data.val)?,
        ];
        let n = plans.params.values.len();
        let (batch_size, batches) = (config.batch_size, data.train.len() / config.batch_size);
        let longest = data.train.len().max(data.val.len());
        let in_order: Vec<u32> = (0..longest as u32).collect();
        let eval_step = |i: usize| Step {
            first: (i * plans.eval_size) as i64,
            ..Step::default()
        };
        let eval_steps: Vec<Step> = (0..longest.div_ceil(plans.eval_size))
            .map(eval_step)
            .collect();
        let in_order = gpu.alloc_with("the order of evaluation", &in_order)?;
        let eval_steps = gpu.alloc_with("steps of evaluation", &eval_steps)?;
        let now = gpu.alloc_with("the step", &[Step::default()])?;
        let taken = gpu.alloc_with("steps taken", &[0i32])?;
        let steps = gpu.alloc("steps of an epoch", batches)?;
        let order = gpu.alloc("the order of the samples", data.train.len())?;
        let augmented = halves.iter().filter(|half| half.recipe().is_some());
        let visits = augmented.map(|half| half.len).max().unwrap_or(0);
        let places = gpu.alloc("the places of images", visits)?;
        let operands = [layout.values, layout.grads, plans.train.outputs[0]];
        let update = Update::new(&mut gpu, &method, operands, now, batches)?;
        let sums = gpu.alloc("sums of losses and scores", 2)?;
        let squares = gpu.alloc("squares of norms", 2)?;

        let visit = Visit { now, order, places };
        let queue_steps = |n: usize| -> Result<Queue> {
            let mut q = Queue::new(precision);
            let plan = &plans.train;
            for _ in 0..n {
                kernels::begin_step(&mut q, 1, steps, taken, now, plan.seed);
                halves[0].gather(plan, batch_size, visit, &mut q);
                plan.queue(now, &mut q)?;
                method.optimizer.queue(&update, &mut q);
            }
            Ok(q)
        };
        let at_once = steps_at_once(batches, queue_steps(1)?.launches().len());
        let mut train = Schedule::new();
        for (n, times) in [(at_once, batches / at_once), (1, batches % at_once)] {
            if times > 0 {
                train.push((gpu.prepare(queue_steps(n)?)?, times));
            }
        }

        let mut q = Queue::default();
        let blocks = sum_blocks(n);
        kernels::norm_sums(
            &mut q,
            blocks,
            layout.values,
            layout.grads,
            update.partial,
            n as i64,
        );
        kernels::norms(&mut q, 1, update.partial, blocks as i32, squares);
        let norms = gpu.prepare(q)?;

        let mut evaluation = |half: Half| -> Result<(Half, Schedule)> {
            let (whole, left) = (half.len / plans.eval_size, half.len % plans.eval_size);
            let visit = Visit {
                order: in_order,
                ..visit
            };
            let mut programs = Schedule::new();
            for (samples, times) in [(plans.eval_size, whole), (left, 1)] {
                if samples == 0 || times == 0 {
                    continue;
                }
                let mut q = Queue::new(precision);
                let plan = plans.eval(samples);
                // There is no seed to set; the loss is written over by the plan.
                kernels::begin_step(&mut q, 1, eval_steps, taken, now, plan.outputs[0]);
                half.gather(plan, samples, visit, &mut q);
                plan.queue(now, &mut q)?;
                // A loss and a score for each batch, as on the CPU: sums over more samples would overflow earlier.
                let (losses, scores) = (plan.outputs[0], plan.outputs[1]);
                let (n, batch) = (samples as i32, batch_size as i32);
                kernels::add_scores(&mut q, 1, losses, scores, sums, n, batch);
                programs.push((gpu.prepare(q)?, times));
            }
            Ok((half, programs))
        };
        let [train_half, val_half] = halves;
        let halves = [evaluation(train_half)?, evaluation(val_half)?];
        Ok(Resident {
            gpu,
            params: plans.params,
            layout,
            batches_tracked,
            method,
            seed: SEED,
            batch_size,
            clock: 0,
            steps,
            taken,
            order,
            places,
            step_sizes: update.step_sizes,
            scalars: update.scalars,
            sums,
            squares,
            train,
            norms,
            halves,
        })
    }

    /// Draws what becomes of the next `n` samples of a half. Nothing is drawn for data that are not augmented.
    fn place(&mut self, part: Part, n: usize) -> Result<()> {
        let generator = &mut self.params.generator;
        if let Some(recipe) = self.halves[part as usize].0.recipe() {
            let places: Vec<u32> = (0..n).map(|_| recipe.draw(generator).bits()).collect();
            self.gpu.upload(self.places.part(0, n), &places)?;
        }
        Ok(())
    }
}

impl Worker for Resident {
    fn kernels(&self) -> usize {
        let launches = |(program, times): &(Program, usize)| self.gpu.launches(*program) * times;
        self.train.iter().map(launches).sum::<usize>() / self.steps.len
    }

    fn epoch(&mut self, lr: f64, order: &[u32], watch: &dyn Watch) -> Result<Option<Trained>> {
        let step = |i: usize| {
            let at = Moment {
                k: self.clock + i as u64 + 1,
                lr,
                initial_lr: self.method.initial_lr,
            };
            Step {
                seed: self.seed,
                clock: self.clock + i as u64,
                first: (i * self.batch_size) as i64,
                slot: i as i64,
                c: self.method.optimizer.coefficients(at),
            }
        };
        let steps: Vec<Step> = (0..self.steps.len).map(step).collect();
        self.gpu.upload(self.steps, &steps)?;
        self.gpu.upload(self.order, order)?;
        self.place(Part::Train, steps.len() * self.batch_size)?;
        self.gpu.upload(self.taken, &[0])?;
        for (program, times) in &self.train {
            for _ in 0..*times {
                self.gpu.run(*program)?;
                if watch.stop() {
                    return Ok(None);
                }
            }
        }
        self.clock += steps.len() as u64;
        self.gpu.run(self.norms)?;
        let squares = self.gpu.download(self.squares)?;
        let scalars = self.gpu.download(self.scalars)?[0];
        Ok(Some(Trained {
            step_sizes: self.gpu.download(self.step_sizes)?,
            model_norm: (squares[0] as f32).sqrt(),
            grad_norm: (squares[1] as f32).sqrt(),
            lower_bound: scalars.lower_bound,
            h: scalars.h,
        }))
    }

    fn evaluate(&mut self, part: Part, watch: &dyn Watch) -> Result<Option<(f64, f64)>> {
        let n = self.halves[part as usize].0.len;
        // The seed that the reference's loader draws for worker processes, of which it has none.
        self.params.generator.random64();
        self.place(part, n)?;
        self.gpu.upload(self.taken, &[0])?;
        self.gpu.upload(self.sums, &[0.0; 2])?;
        for (program, times) in &self.halves[part as usize].1 {
            for _ in 0..*times {
                self.gpu.run(*program)?;
                if watch.stop() {
                    return Ok(None);
                }
            }
        }
        let sums = self.gpu.download(self.sums)?;
        Ok(Some((sums[0] / n as f64, sums[1] / n as f64)))
    }

    fn finish(&mut self, watch: &dyn Watch) -> Result<()> {
        let values = self.gpu.download::<f32>(self.layout.values)?;
        let buffers = self.gpu.download::<f32>(self.layout.buffers)?;
        watch.trained(&Snapshot {
            params: &self.params,
            values: &values,
            buffers: &buffers,
            batches_tracked: self.batches_tracked + self.clock,
        })
    }
}

#[cfg(all(test, emulator))]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::data::{Library, fetch};
    use crate::device::Device;
    use crate::graph::Mode;

    #[test]
    fn later_epochs_allocate_nothing_and_upload_tables_alone() {
        let config = json!({
            "dataset": "synthetic_linear", "dataset_kwargs": {"p": 5, "n_samples": 40}, "model": "linear",
            "model_kwargs": {"bias": true}, "loss_func": "squared", "score_func": "squared",
            "opt": {"name": "momo", "lr": 0.1}, "batch_size": 4, "max_epoch": 2, "run_id": 0,
        });
        let config = RunConfig::from_json(config.as_object().unwrap()).unwrap();
        let library = Library::new("data", true, fetch::Options::new(Vec::new(), true));
        let data = library.load(&config).unwrap();
        let target = Target {
            device: Device::Emulator,
            precision: None,
        };
        let plans = Plans::new(&config, &data.train, &data.val, target.device, Mode::Train);
        let mut run = Resident::new(plans.unwrap(), &config, &data, target, 0).unwrap();
        let order: Vec<u32> = (0..40).rev().collect();
        let mut epoch = || {
            let before = run.gpu.traffic();
            run.epoch(0.1, &order, &()).unwrap().unwrap();
            run.evaluate(Part::Train, &()).unwrap().unwrap();
            run.evaluate(Part::Val, &()).unwrap().unwrap();
            let after = run.gpu.traffic();
            assert_eq!(after.allocations, before.allocations);
            assert_eq!(after.programs, before.programs);
            // Steps, order and count; a count and sums per half. Norms, scalars and step sizes; sums per half.
            assert_eq!(after.uploads - before.uploads, 3 + 2 * 2);
            assert_eq!(after.downloads - before.downloads, 3 + 2);
        };
        epoch();
        epoch();
    }
}
