//! A model with its loss and score, recorded: the plans of a run.

use super::weights::Weights;
use crate::config::{RunConfig, Values};
use crate::data::Pair;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::graph::{Layout, Mode, Params, Plan, Sample, Tape, Targets, Var};
use crate::models::{self, Model};
use crate::nn::loss::{self, Targets as Wanted};
use crate::optim::{ACCUMULATE, COMMON_KEYS, Optimizer, SMOOTHING};

/// A run's plans.
pub struct Plans {
    pub params: Params,
    pub train: Plan,
    /// Evaluation plans by number of samples: [`Plans::eval_size`] and what is left of each half.
    pub eval: Vec<(usize, Plan)>,
    /// Samples that are evaluated at once: some batches.
    pub eval_size: usize,
    pub batch_size: usize,
    /// Batches of a step.
    pub accumulated: usize,
    /// The training plan of the samples that whole batches leave over, where running averages are to be those of all.
    pub rest: Option<Plan>,
    /// The training plan at labels that are drawn from the model's output, for methods that ask for it.
    pub drawn: Option<Plan>,
}

impl Plans {
    /// Builds the model of a run, with the global generator's initial weights, for these data.
    pub fn new(config: &RunConfig, data: &Pair, device: Device, mode: Mode) -> Result<Plans> {
        let Pair { train, val } = data;
        let data = shapes(data);
        let (mut params, model) = build(config, &data)?;
        let optimizer = Optimizer::new(&config.opt, &config.groups)?;
        params.arrange(&optimizer.order(&params.tensors)?);
        let batch_size = config.batch_size;
        if batch_size > train.len() {
            return Err(Error::usage(format!(
                "batch_size: {batch_size} is above the {} training samples of {}",
                train.len(),
                config.dataset
            )));
        }
        let accumulated = accumulated(config);
        if batch_size.saturating_mul(accumulated) > train.len() {
            return Err(Error::usage(format!(
                "accumulate_steps: {accumulated} batches of {batch_size} are above the {} training samples of {}",
                train.len(),
                config.dataset
            )));
        }
        let recorder = Recorder::new(config, model.as_ref(), &data)?;
        let batches = match device {
            Device::Cpu => eval_batches(batch_size, data.sample),
            Device::Emulator | Device::Cuda(_) | Device::Plan => {
                let plan = recorder.record(&params, Mode::Eval, device, batch_size)?;
                let slots = plan.end() - Layout::new(&params).end();
                resident_eval_batches(batch_size, slots)
            }
        };
        let eval_size = batches * batch_size;
        let mut eval = Vec::new();
        for half in [train, val] {
            for n in [eval_size.min(half.len()), half.len() % eval_size] {
                if n > 0 && eval.iter().all(|(size, _)| *size != n) {
                    eval.push((n, recorder.record(&params, Mode::Eval, device, n)?));
                }
            }
        }
        let recalibrated = !params.buffers.is_empty() && optimizer.evaluates_others(u64::MAX);
        let rest = match train.len() % batch_size {
            n if n > 0 && recalibrated => Some(recorder.record(&params, mode, device, n)?),
            _ => None,
        };
        let train = recorder.record(&params, mode, device, batch_size)?;
        let drawn = match optimizer.draws_labels() {
            true => Some(
                recorder
                    .at_drawn_labels()?
                    .record(&params, mode, device, batch_size)?,
            ),
            false => None,
        };
        Ok(Plans {
            params,
            train,
            rest,
            drawn,
            eval,
            eval_size,
            batch_size,
            accumulated,
        })
    }

    /// Those of a run that starts from the weights of a file, if there is one.
    pub fn from_weights(
        init: Option<&Weights>,
        config: &RunConfig,
        data: &Pair,
        device: Device,
    ) -> Result<Plans> {
        let mut plans = Plans::new(config, data, device, Mode::Train)?;
        if let Some(init) = init {
            init.check_vocabulary(data.vocabulary())?;
            init.load_into(&mut plans.params, &config.model)?;
        }
        Ok(plans)
    }

    /// The evaluation plan for this many samples.
    pub fn eval(&self, samples: usize) -> &Plan {
        let fits = self.eval.iter().find(|(size, _)| *size == samples);
        &fits.expect("a plan for every number of samples").1
    }
}

/// Batches of a step of a run.
fn accumulated(config: &RunConfig) -> usize {
    Values::new(COMMON_KEYS, &config.opt).count(ACCUMULATE)
}

/// Steps of an epoch of a run on this many training samples.
pub fn steps_per_epoch(config: &RunConfig, samples: usize) -> usize {
    samples / config.batch_size / accumulated(config)
}

/// The parameters of a run's model for these data, in the order in which they are made.
///
/// # Errors
/// If the model does not fit the data.
pub fn parameters(config: &RunConfig, data: &Pair) -> Result<Params> {
    Ok(build(config, &shapes(data))?.0)
}

/// What a model must know of these data.
fn shapes(Pair { train, val }: &Pair) -> models::Data {
    models::Data {
        sample: train.sample().and(val.sample()),
        target: train.target_shape().to_vec(),
        classes: train.classes(),
    }
}

/// The model of a run.
///
/// # Errors
/// If it does not fit such data.
pub(super) fn build(config: &RunConfig, data: &models::Data) -> Result<(Params, Box<dyn Model>)> {
    let row = models::row(&config.model)
        .ok_or_else(|| Error::usage(format!("unknown model {}", config.model)))?;
    let built = row.build_seeded(data, &config.model_kwargs);
    built.map_err(|why| {
        Error::usage(format!(
            "model {} does not fit data set {}: {why}",
            config.model, config.dataset
        ))
    })
}

/// How many batches to evaluate at once. Small ones keep few threads busy one by one; large ones gain nothing and cost
/// memory. A token alone keeps a model as busy as a small image.
fn eval_batches(batch_size: usize, sample: Sample) -> usize {
    const NUMBERS: usize = 1 << 19;
    const BATCHES: usize = 64;
    const OF_TOKEN: usize = 1 << 8;
    let numbers = match sample {
        Sample::Tokens { length } => OF_TOKEN * length,
        other => other.len(),
    };
    (NUMBERS / batch_size.saturating_mul(numbers)).clamp(1, BATCHES)
}

/// How many batches of this many samples, of which each needs this many floats of slots, to evaluate at once on a device:
/// small ones take less time than their launches, large ones gain nothing.
fn resident_eval_batches(batch_size: usize, floats: usize) -> usize {
    const FLOATS: usize = 1 << 25;
    const SAMPLES: usize = 1 << 14;
    (FLOATS / floats).min(SAMPLES / batch_size).max(1)
}

/// Records a model, its loss and its score at any batch size.
struct Recorder<'a> {
    config: &'a RunConfig,
    model: &'a dyn Model,
    loss: &'static loss::Row,
    score: &'static loss::Row,
    labels: Labels,
    data: &'a models::Data,
}

/// The labels of the training loss.
enum Labels {
    Given,
    /// How the loss is smoothed, and by how much.
    Smoothed(loss::Smoothed, f32),
    Drawn(loss::Drawn),
}

impl<'a> Recorder<'a> {
    fn new(config: &'a RunConfig, model: &'a dyn Model, data: &'a models::Data) -> Result<Self> {
        let unknown = |what, name: &str| Error::usage(format!("unknown {what} {name}"));
        let (loss, score) = (&config.loss_func, &config.score_func);
        let row = loss::loss(loss).ok_or_else(|| unknown("loss", loss))?;
        let part = Values::new(COMMON_KEYS, &config.opt).real(SMOOTHING) as f32;
        let labels = match row.smoothed {
            _ if part == 0.0 => Labels::Given,
            Some(smoothed) => Labels::Smoothed(smoothed, part),
            None => {
                return Err(Error::usage(format!(
                    "label_smoothing: loss {loss} has no labels to smooth; leave the key out, or take cross_entropy"
                )));
            }
        };
        Ok(Recorder {
            config,
            model,
            data,
            labels,
            loss: row,
            score: loss::score(score).ok_or_else(|| unknown("score", score))?,
        })
    }

    /// The same with drawn labels in training.
    fn at_drawn_labels(&self) -> Result<Recorder<'a>> {
        let drawn = self.loss.drawn.ok_or_else(|| {
            let (opt, loss) = (&self.config.opt, self.loss.name);
            let name = opt.get("name").and_then(|name| name.as_str()).unwrap_or_default();
            Error::usage(format!(
                "{name} draws labels from the model's output, which loss {loss} has none for; take cross_entropy, or another optimizer"
            ))
        })?;
        Ok(Recorder {
            labels: Labels::Drawn(drawn),
            ..*self
        })
    }

    /// A plan for this many samples, with the loss of all of them in training and the losses and scores of all batches
    /// in evaluation.
    fn record(&self, params: &Params, mode: Mode, device: Device, samples: usize) -> Result<Plan> {
        let mut problem = None;
        let plan = Plan::record(params, mode, device, |tape| {
            let (x, target) = self.inputs(tape, samples);
            let output = self.model.forward(x);
            problem = [self.loss, self.score]
                .iter()
                .find_map(|row| self.misfit(row, output.rows_columns(), target));
            if problem.is_some() {
                return Targets {
                    outputs: vec![output],
                    backward: None,
                };
            }
            match mode {
                Mode::Train | Mode::TrainWithoutDropout => {
                    let loss = match self.labels {
                        Labels::Given => (self.loss.apply)(output, target, samples),
                        Labels::Smoothed(smoothed, part) => smoothed(output, target, part),
                        Labels::Drawn(drawn) => drawn(output, target),
                    };
                    Targets {
                        outputs: vec![loss],
                        backward: Some(loss),
                    }
                }
                Mode::Eval => {
                    let batch = self.config.batch_size;
                    let both = [self.loss, self.score];
                    Targets {
                        outputs: both.map(|row| (row.apply)(output, target, batch)).into(),
                        backward: None,
                    }
                }
            }
        });
        match problem {
            None => Ok(plan),
            Some(why) => Err(Error::usage(why)),
        }
    }

    /// Samples and their targets.
    fn inputs<'t>(&self, tape: &'t Tape<'t>, samples: usize) -> (Var<'t>, Var<'t>) {
        let mut shape = vec![samples];
        shape.extend(self.data.sample.shape_on_tape());
        let mut target = vec![samples];
        target.extend(&self.data.target);
        (tape.input(&shape), tape.input(&target))
    }

    /// Why a loss or score cannot be taken of such outputs and these targets.
    fn misfit(
        &self,
        row: &loss::Row,
        (rows, columns): (usize, usize),
        target: Var<'_>,
    ) -> Option<String> {
        let RunConfig { model, dataset, .. } = self.config;
        let name = row.name;
        let is_text = matches!(self.data.sample, Sample::Tokens { .. });
        match (row.targets, self.data.classes) {
            (Wanted::Tokens, _) if !is_text => Some(format!(
                "{name} needs texts, which the samples of data set {dataset} are not"
            )),
            (Wanted::Classes, _) if is_text => Some(format!(
                "{name} takes one class per sample, but data set {dataset} has texts: take sequence_{name}"
            )),
            (Wanted::Classes, None) => Some(format!(
                "{name} needs class labels, which data set {dataset} does not have"
            )),
            (Wanted::Classes | Wanted::Tokens, Some(classes)) if columns < classes => {
                Some(format!(
                    "{name}: model {model} has {columns} outputs, but data set {dataset} has {classes} classes"
                ))
            }
            (Wanted::Signs, Some(_)) => Some(format!(
                "{name} needs -1 and 1 as targets, but those of data set {dataset} are class labels"
            )),
            // Of class labels it takes the number.
            (Wanted::Numbers | Wanted::Signs, _) if rows * columns != target.size() => {
                Some(format!(
                    "{name}: model {model} has {columns} outputs per sample, but data set {dataset} has {} targets",
                    target.size() / rows
                ))
            }
            _ => None,
        }
    }
}
