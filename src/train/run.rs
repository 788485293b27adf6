//! One run: the training loop.

use std::io;
use std::time::{Instant, SystemTime};

use serde_json::{Map, Value, json};

use super::checkpoint::{Checkpoint, Place, Position};
use super::layer_log::LayerStep;
use super::network::{Plans, steps_per_epoch};
use super::step_log::{LogSteps, Logged};
use super::trainer::Trainer;
use super::weights::{Snapshot, Weights};
use crate::config::RunConfig;
use crate::cpu;
use crate::data::{Loader, Pair, Part, Vocabulary};
use crate::device::Machine;
use crate::error::{Error, Result};
use crate::optim::schedule::{Rate, Schedule};
use crate::optim::{Course, Optimizer};
use crate::results::json::Json;
use crate::results::{BySteps, Epoch, Name, RunResult, timestamp::timestamp};

/// Follows a run, and may end it.
pub trait Watch: Sync {
    /// Asked after every step, of training and of evaluation: true ends the run at once.
    fn stop(&self) -> bool {
        false
    }

    /// The run goes on from a checkpoint: how many epochs are done, and how many steps of the next one.
    fn resumed(&self, _epochs: usize, _steps: usize) {}

    /// This part, from 0 to 1, of an epoch's steps is trained.
    fn part(&self, _epoch: usize, _part: f64) {}

    fn epoch(&self, _done: &Epoch) {}

    /// Those that were trained, even where others were evaluated?
    fn wants_trained_weights(&self) -> bool {
        false
    }

    /// Something went wrong, and the run goes on.
    fn warned(&self, _what: &str) {}

    /// After the last step.
    fn trained(&self, _weights: &Snapshot<'_>) -> Result<()> {
        Ok(())
    }
}

/// Nobody follows.
impl Watch for () {}

/// Trains one config to its end on a machine that holds nothing yet, from the weights of a file or those that are drawn; steps
/// are logged if there is to be a log. `None` if the watch ended it.
pub fn run(
    config: &RunConfig,
    data: &Pair,
    machine: Machine,
    init: Option<&Weights>,
    log: Option<LogSteps>,
    watch: &dyn Watch,
) -> Result<Option<RunResult>> {
    let plans = Plans::from_weights(init, config, data, machine.target().device)?;
    run_plans(plans, config, data, machine, log, None, watch)
}

/// As [`run`], by plans that are there. The run goes on from the checkpoint in its place, and writes checkpoints there.
pub(super) fn run_plans(
    plans: Plans,
    config: &RunConfig,
    data: &Pair,
    machine: Machine,
    log: Option<LogSteps>,
    place: Option<Place<'_>>,
    watch: &dyn Watch,
) -> Result<Option<RunResult>> {
    let Pair { train, val } = data;
    let initial = &plans.params.values;
    let initial_norm = (cpu::dot(initial, initial) as f32).sqrt();
    let steps = steps_per_epoch(config, train.len());
    let optimizer = Optimizer::new(&config.opt, &config.groups)?.in_run(Course {
        epochs: config.max_epoch,
        steps_per_epoch: steps,
        batch_size: config.batch_size * plans.accumulated,
        labels: config.batch_size * train.target_shape().iter().product::<usize>(),
    });
    let loader = Loader::new(config.run_id, train.len(), config.batch_size);
    let mut run = Run {
        config,
        log,
        loader: match machine.is_host() {
            true => loader,
            false => loader.ahead(),
        },
        trainer: Trainer::new(plans, optimizer, data, machine, log)?,
        schedule: Schedule::new(&config.opt, config.max_epoch, steps)?,
        steps,
        start_time: timestamp(SystemTime::now()),
        history: Vec::new(),
        place,
        saved: Instant::now(),
        watch,
    };
    let mut checkpoint = run.checkpoint()?;
    while run.history.len() < config.max_epoch {
        let Some(done) = run.epoch(checkpoint.take())? else {
            return Ok(None);
        };
        train.check()?;
        val.check()?;
        watch.epoch(&done);
        run.history.push(done);
        if run.history.len() < config.max_epoch || watch.wants_trained_weights() {
            run.trainer.leave_evaluation()?;
        }
    }
    train.check_all()?;
    val.check_all()?;
    run.trainer.finish(watch)?;
    let mut summary = summary(data, &run);
    summary.insert("init_model_norm".to_owned(), initial_norm.into());
    if log.is_some_and(|log| log.layers) {
        let names = run.trainer.tensors().iter().map(|tensor| &*tensor.name);
        summary.insert("parameters".to_owned(), names.collect());
    }
    Ok(Some(RunResult {
        config: config.to_json(),
        summary,
        history: run.history,
    }))
}

/// A run under way.
struct Run<'a> {
    config: &'a RunConfig,
    log: Option<LogSteps>,
    trainer: Trainer,
    loader: Loader,
    schedule: Schedule,
    /// Of an epoch.
    steps: usize,
    start_time: String,
    history: Vec<Epoch>,
    place: Option<Place<'a>>,
    /// When a checkpoint was written; the run's start before the first one.
    saved: Instant,
    watch: &'a dyn Watch,
}

impl Run<'_> {
    /// The run's checkpoint, if there is one. All that was before its epoch is done then.
    fn checkpoint(&mut self) -> Result<Option<Checkpoint>> {
        let Some(place) = self.place else {
            return Ok(None);
        };
        let mut checkpoint = match place.read(&self.trainer.pieces()) {
            Ok(Some(checkpoint)) => checkpoint,
            Ok(None) => return Ok(None),
            Err(e) => {
                self.watch.warned(&format!("{e}; the run starts again"));
                return Ok(None);
            }
        };
        self.start_time.clone_from(&checkpoint.position.start_time);
        self.history = std::mem::take(&mut checkpoint.history);
        for done in &self.history {
            let rates = self.schedule.next_epoch();
            self.loader.next_epoch();
            self.trainer.skip_epoch(&rates)?;
            self.schedule.evaluated(done.val_loss);
        }
        self.trainer.draw_until(checkpoint.position.drawn);
        let step = checkpoint.position.step;
        self.watch.resumed(self.history.len(), step);
        Ok(Some(checkpoint))
    }

    /// Trains and evaluates an epoch, or what a checkpoint has left of it. `None` if the watch ended the run.
    fn epoch(&mut self, checkpoint: Option<Checkpoint>) -> Result<Option<Epoch>> {
        let Some(done) = self.train(checkpoint)? else {
            return Ok(None);
        };
        let Some(done) = self.evaluate(done)? else {
            return Ok(None);
        };
        self.schedule.evaluated(done.val_loss);
        Ok(Some(done))
    }

    fn train(&mut self, checkpoint: Option<Checkpoint>) -> Result<Option<Epoch>> {
        let mut clock = Instant::now();
        let rates = &self.schedule.next_epoch();
        let order = self.loader.next_epoch();
        let mut done = Epoch {
            epoch: self.history.len(),
            learning_rate: spelled(self.config, rates[0].lr, "lr", rates[0].as_given),
            ..Epoch::default()
        };
        let drawn = self.trainer.drawn();
        match checkpoint {
            None => self.trainer.begin_epoch(rates, order)?,
            Some(Checkpoint {
                position,
                epoch,
                state,
                ..
            }) => {
                done = epoch;
                let Some(trained) = position.trained else {
                    self.trainer.skip_epoch(rates)?;
                    self.trainer.restore(&state, 0)?;
                    return Ok(Some(done));
                };
                self.trainer.begin_epoch(rates, order)?;
                self.trainer.restore(&state, trained)?;
                clock = Instant::now();
            }
        }
        self.watch.part(done.epoch, self.trainer.part());
        while self.trainer.advance()? {
            self.watch.part(done.epoch, self.trainer.part());
            let stop = self.watch.stop();
            if stop || self.is_due() {
                done.train_epoch_time += clock.elapsed().as_secs_f64();
                self.save(&done, Some(self.trainer.trained()), drawn)?;
                clock = Instant::now();
            }
            if stop {
                return Ok(None);
            }
        }
        let trained = self.trainer.end_epoch()?;
        done.train_epoch_time += clock.elapsed().as_secs_f64();
        done.model_norm = trained.model_norm;
        done.grad_norm = trained.grad_norm;
        if self.log.is_some() {
            let first = done.epoch * self.steps;
            done.layer_logs = layer_logs(first, &trained.layers);
            done.step_logs = step_logs(first, &trained.logged, |step| {
                let Rate { lr, as_given, .. } = rates[step];
                let stepwise = self.schedule.stepwise();
                stepwise.then(|| spelled(self.config, lr, "lr", as_given))
            });
        }
        for (name, values) in trained.series {
            let values = values.into_iter().map(six_digits);
            done.series.push((name.into(), values.collect()));
        }
        for (report, value) in trained.values {
            let limit = report.limited_by.unwrap_or_default();
            let limited = self.config.opt.get(limit).and_then(Value::as_f64) == Some(value);
            let value = spelled(self.config, value, limit, limited);
            done.values.push((report.name.into(), value));
        }
        Ok(Some(done))
    }

    /// Of an epoch that was trained.
    fn evaluate(&mut self, mut done: Epoch) -> Result<Option<Epoch>> {
        let drawn = self.trainer.drawn();
        let stop = self.watch.stop();
        if stop || self.is_due() {
            self.save(&done, None, drawn)?;
        }
        if stop {
            return Ok(None);
        }
        let clock = Instant::now();
        let Some(means) = self.means()? else {
            // It is done again from its start.
            self.trainer.leave_evaluation()?;
            self.save(&done, None, drawn)?;
            return Ok(None);
        };
        done.eval_epoch_time = clock.elapsed().as_secs_f64();
        [
            (done.train_loss, done.train_score),
            (done.val_loss, done.val_score),
        ] = means;
        Ok(Some(done))
    }

    /// Losses and scores of both halves at the weights that are evaluated. `None` if the watch ended the run.
    fn means(&mut self) -> Result<Option<[(f64, f64); 2]>> {
        if self.trainer.enter_evaluation(self.watch)?.is_none() {
            return Ok(None);
        }
        let mut means = [(0.0, 0.0); 2];
        for (part, means) in [Part::Train, Part::Val].into_iter().zip(&mut means) {
            let Some(of_part) = self.trainer.evaluate(part, self.watch)? else {
                return Ok(None);
            };
            *means = of_part;
        }
        Ok(Some(means))
    }

    /// Is it time for a checkpoint?
    fn is_due(&self) -> bool {
        let every = self.place.and_then(|place| place.every());
        every.is_some_and(|every| self.saved.elapsed() >= every)
    }

    /// Writes a checkpoint, if there are to be any. That it cannot be written is told, and is no reason to give up what
    /// was trained.
    fn save(&mut self, under_way: &Epoch, trained: Option<usize>, drawn: u64) -> Result<()> {
        let Some(place) = self.place.filter(|place| place.every().is_some()) else {
            return Ok(());
        };
        let position = Position {
            start_time: self.start_time.clone(),
            step: match trained {
                Some(_) => self.trainer.step()?,
                None => self.steps,
            },
            trained,
            drawn,
        };
        self.history.push(under_way.clone());
        let written = place.write(&position, &self.history, &mut self.trainer);
        self.history.pop();
        match written.map_err(io::Error::downcast::<Error>) {
            Ok(()) => {}
            Err(Ok(fault)) => return Err(fault),
            Err(Err(e)) => self
                .watch
                .warned(&format!("cannot write a checkpoint: {e}")),
        }
        self.saved = Instant::now();
        Ok(())
    }
}

/// Python keeps an integer of the config an integer where it computes nothing with it.
fn spelled(config: &RunConfig, x: f64, key: &str, as_given: bool) -> Json<'static> {
    match config.opt.get(key) {
        Some(Value::Number(n)) if as_given && !n.is_f64() => Json::Int(n.to_string().into()),
        _ => Json::Float(x),
    }
}

/// What a history says of logged steps, by their numbers in the run, of which the epoch's first one is `first`; of rates
/// where there are any.
fn step_logs(
    first: usize,
    logged: &[Logged],
    rate: impl Fn(usize) -> Option<Json<'static>>,
) -> Vec<(Name, BySteps<Json<'static>>)> {
    let by_step = |value: &dyn Fn(&Logged) -> Option<Json<'static>>| -> Vec<_> {
        let values = logged
            .iter()
            .filter_map(|l| Some((first + l.step, value(l)?)));
        values.collect()
    };
    let mut logs = vec![
        (
            "loss".into(),
            by_step(&|l| Some(Json::Float(l.loss.into()))),
        ),
        (
            "grad_norm".into(),
            by_step(&|l| Some(Json::Float(l.grad_norm.into()))),
        ),
        ("lr".into(), by_step(&|l| rate(l.step))),
    ];
    logs.retain(|(_, values)| !values.is_empty());
    logs
}

/// By names: what logged steps did to the tensors, in the order of the parameters.
fn layer_logs(first: usize, logged: &[(usize, Vec<LayerStep>)]) -> Vec<(Name, BySteps<Vec<f64>>)> {
    let by_step = |number: fn(&LayerStep) -> f64| -> BySteps<Vec<f64>> {
        let steps = logged.iter().map(|(step, tensors)| {
            let values = tensors.iter().map(number).map(six_digits);
            (first + step, values.collect())
        });
        steps.collect()
    };
    let mut logs = vec![
        ("weight_norm".into(), by_step(|l| l.weight_norm)),
        ("grad_norm".into(), by_step(|l| l.grad_norm)),
        ("update_norm".into(), by_step(|l| l.update_norm)),
        ("angular_update".into(), by_step(|l| l.angular_update)),
    ];
    logs.retain(|(_, values)| !values.is_empty());
    logs
}

/// Rounded to six significant digits.
fn six_digits(x: f64) -> f64 {
    format!("{x:.5e}").parse().expect("a number")
}

fn summary(data: &Pair, run: &Run) -> Map<String, Value> {
    let Run {
        history,
        start_time,
        ..
    } = run;
    let diverged = history.iter().find(|e| {
        let numbers = [e.train_loss, e.val_loss, e.train_score, e.val_score];
        !(numbers.iter().all(|x| x.is_finite()) && e.model_norm.is_finite())
    });
    let costs = run.trainer.costs();
    let target = run.trainer.target();
    let entries = json!({
        "start_time": start_time,
        "end_time": timestamp(SystemTime::now()),
        "num_workers": 0,
        "data_parallel": "false",
        "input_dim": data.train.sample().shape(),
        "output_dim": data.train.target_shape(),
        "device": target.device.name(),
        "precision": target.precision_name(),
        "diverged_epoch": diverged.map(|e| e.epoch),
        "final_model_norm": history.last().map(|epoch| epoch.model_norm),
        "num_batches_per_epoch": run.steps,
        "step_scheduler_on_epoch": !run.schedule.stepwise(),
        "state_bytes_per_parameter": costs.state_bytes_per_parameter,
        "peak_memory_bytes": costs.peak_memory_bytes,
        "update_passes": costs.update_passes,
        "update_seconds": costs.update_time.map(|time| six_digits(time.seconds)),
        "update_share": costs.update_time.map(|time| six_digits(time.share)),
    });
    let Value::Object(mut map) = entries else {
        unreachable!("an object was written");
    };
    let vocabulary = data.vocabulary().and_then(Vocabulary::characters);
    map.extend(vocabulary.map(|characters| ("vocabulary".to_owned(), characters.into())));
    map
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::data::{Library, fetch};
    use crate::device::Device;

    /// Says stop from the n-th question on.
    struct Patience {
        left: AtomicUsize,
        epochs: AtomicUsize,
    }

    impl Watch for Patience {
        fn stop(&self) -> bool {
            let left = self.left.load(Ordering::Relaxed);
            self.left.store(left.saturating_sub(1), Ordering::Relaxed);
            left == 0
        }

        fn epoch(&self, _: &Epoch) {
            self.epochs.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn evaluation_can_be_stopped() {
        let config = json!({
            "dataset": "synthetic_linear", "dataset_kwargs": {"p": 5, "n_samples": 40}, "model": "linear",
            "loss_func": "squared", "score_func": "squared", "opt": {"name": "sgd", "lr": 0.1}, "batch_size": 4,
            "max_epoch": 2, "run_id": 0,
        });
        let config = RunConfig::from_json(config.as_object().unwrap()).unwrap();
        let library = Library::new("data", true, fetch::Options::new(Vec::new(), true));
        let data = library.load(&config).unwrap();
        // Ten steps, then the evaluation of each half.
        for (questions, epochs) in [(10, 0), (11, 0), (12, 1)] {
            let watch = Patience {
                left: AtomicUsize::new(questions),
                epochs: AtomicUsize::new(0),
            };
            let outcome = run(
                &config,
                &data,
                Machine::open(Device::Cpu).unwrap(),
                None,
                None,
                &watch,
            )
            .unwrap();
            assert!(outcome.is_none());
            assert_eq!(
                watch.epochs.into_inner(),
                epochs,
                "after {questions} questions"
            );
        }
    }

    /// Keeps the weights.
    #[derive(Default)]
    struct Kept(std::sync::Mutex<Vec<u32>>);

    impl Watch for Kept {
        fn trained(&self, weights: &Snapshot<'_>) -> Result<()> {
            let bits = weights.values.iter().map(|x| x.to_bits());
            *self.0.lock().unwrap() = bits.collect();
            Ok(())
        }
    }

    /// Steps that are logged read the gradient before the update, which is a launch of its own then.
    #[cfg(emulator)]
    #[test]
    fn adam_updates_layers_where_their_gradients_are_computed() {
        use crate::data::random_bytes;
        use crate::device::Schedule;

        let adam = json!({"name": "adam", "lr": 0.01, "weight_decay": 0.1});
        let clipped = json!({"name": "adam", "lr": 0.01, "grad_clip_norm": 1.0});
        let (whole, halves) = (json!([]), json!([{"match": "bias", "weight_decay": 0}]));
        let adamw = json!({"name": "adamw", "lr": 0.01, "weight_decay": 0.1});
        let sgd = json!({"name": "sgd", "lr": 0.01});
        let cases = [
            (&adam, &whole, 18, "layers"),
            (&adamw, &whole, 18, "layers"),
            // More rows than are gathered there.
            (&adam, &whole, 257, "layers"),
            // Two updates, or a gradient that is clipped before.
            (&adam, &halves, 18, "adam"),
            (&clipped, &whole, 18, "adam"),
            (&sgd, &whole, 18, "sgd"),
        ];
        for (opt, groups, batch_size, last) in cases {
            let config = json!({
                "dataset": "mnist", "dataset_kwargs": {"as_image": false}, "model": "mlp",
                "model_kwargs": {"output_size": 7, "hidden_sizes": [33, 10], "bias": true},
                "loss_func": "cross_entropy", "score_func": "cross_entropy_accuracy", "opt": opt, "groups": groups,
                "batch_size": batch_size, "max_epoch": 1, "run_id": 0,
            });
            let config = RunConfig::from_json(config.as_object().unwrap()).unwrap();
            let samples = [300.min(2 * batch_size), 2];
            let data = random_bytes(&config, &[784], 7, samples).unwrap();
            let plan = crate::train::EpochPlan::new(&config, &data, None).unwrap();
            let step = plan.step();
            assert_eq!(step.launches().last().unwrap().kernel.name, last, "{opt}");
            if last != "layers" {
                continue;
            }
            let trained = |schedule, log| {
                let machine = Machine::emulator(schedule, None).unwrap();
                let kept = Kept::default();
                run(&config, &data, machine, None, log, &kept).unwrap();
                kept.0.into_inner().unwrap()
            };
            let every = std::num::NonZeroUsize::MIN.into();
            let expected = trained(Schedule::default(), Some(every));
            for schedule in Schedule::all() {
                assert!(trained(schedule, None) == expected, "{opt}, {schedule:?}");
            }
        }
    }
}
