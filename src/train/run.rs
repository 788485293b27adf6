//! One run: the training loop.

use std::num::NonZeroUsize;
use std::time::{Instant, SystemTime};

use serde_json::{Map, Value, json};

use super::network::{Plans, steps_per_epoch};
use super::step_log::Logged;
use super::trainer::Trainer;
use super::weights::{Snapshot, Weights};
use crate::config::RunConfig;
use crate::cpu;
use crate::data::{Loader, Pair, Part};
use crate::device::Target;
use crate::error::Result;
use crate::optim::Optimizer;
use crate::optim::schedule::{Rate, Schedule};
use crate::results::json::Json;
use crate::results::{Epoch, RunResult, timestamp::timestamp};

/// Whoever follows a run, and may end it.
pub trait Watch: Sync {
    /// Asked after every step, of training and of evaluation: true ends the run at once.
    fn stop(&self) -> bool {
        false
    }

    fn epoch(&self, _done: &Epoch) {}

    /// Those that were trained, even where others were evaluated?
    fn wants_trained_weights(&self) -> bool {
        false
    }

    /// After the last step.
    fn trained(&self, _weights: &Snapshot<'_>) -> Result<()> {
        Ok(())
    }
}

/// Nobody follows.
impl Watch for () {}

/// Trains one config to its end, from the weights of a file or those that are drawn; loss and gradient of every so many
/// steps of an epoch are logged. `None` if the watch ended it.
pub fn run(
    config: &RunConfig,
    data: &Pair,
    target: Target,
    init: Option<&Weights>,
    log_every: Option<NonZeroUsize>,
    watch: &dyn Watch,
) -> Result<Option<RunResult>> {
    let plans = Plans::from_weights(init, config, data, target.device)?;
    run_plans(plans, config, data, target, log_every, watch)
}

/// As [`run`], by plans that are there.
pub(super) fn run_plans(
    plans: Plans,
    config: &RunConfig,
    data: &Pair,
    target: Target,
    log_every: Option<NonZeroUsize>,
    watch: &dyn Watch,
) -> Result<Option<RunResult>> {
    let Pair { train, val } = data;
    let start_time = SystemTime::now();
    let initial = &plans.params.values;
    let initial_norm = (cpu::dot(initial, initial) as f32).sqrt();
    let optimizer = Optimizer::new(&config.opt, &config.groups)?;
    let mut trainer = Trainer::new(plans, optimizer, data, target, log_every)?;
    // Python keeps an integer of the config an integer where it computes nothing with it.
    let spelled = |x: f64, key: &str, as_given: bool| match config.opt.get(key) {
        Some(Value::Number(n)) if as_given && !n.is_f64() => Json::Int(n.to_string().into()),
        _ => Json::Float(x),
    };
    let mut loader = Loader::new(config.run_id, train.len(), config.batch_size);
    let steps = steps_per_epoch(config, train.len());
    let mut schedule = Schedule::new(&config.opt, config.max_epoch, steps)?;
    let mut history: Vec<Epoch> = Vec::new();

    for epoch in 0..config.max_epoch {
        let clock = Instant::now();
        let rates = schedule.next_epoch();
        let Some(trained) = trainer.epoch(&rates, loader.next_epoch(), watch)? else {
            return Ok(None);
        };
        let mut done = Epoch {
            epoch,
            learning_rate: spelled(rates[0].lr, "lr", rates[0].as_given),
            train_epoch_time: clock.elapsed().as_secs_f64(),
            model_norm: trained.model_norm,
            grad_norm: trained.grad_norm,
            ..Epoch::default()
        };
        let clock = Instant::now();
        if trainer.enter_evaluation(watch)?.is_none() {
            return Ok(None);
        }
        let Some(on_train) = trainer.evaluate(Part::Train, watch)? else {
            return Ok(None);
        };
        let Some(on_val) = trainer.evaluate(Part::Val, watch)? else {
            return Ok(None);
        };
        done.eval_epoch_time = clock.elapsed().as_secs_f64();
        (done.train_loss, done.train_score) = on_train;
        (done.val_loss, done.val_score) = on_val;
        schedule.evaluated(done.val_loss);
        if log_every.is_some() {
            done.step_logs = step_logs(epoch * steps, &trained.logged, |step| {
                let Rate { lr, as_given, .. } = rates[step];
                schedule.stepwise().then(|| spelled(lr, "lr", as_given))
            });
        }
        for (name, values) in trained.series {
            done.series
                .push((name, values.into_iter().map(six_digits).collect()));
        }
        for (report, value) in trained.values {
            let limit = report.limited_by.unwrap_or_default();
            let limited = config.opt.get(limit).and_then(Value::as_f64) == Some(value);
            done.values
                .push((report.name, spelled(value, limit, limited)));
        }
        train.check()?;
        val.check()?;
        watch.epoch(&done);
        history.push(done);
        if epoch + 1 < config.max_epoch || watch.wants_trained_weights() {
            trainer.leave_evaluation()?;
        }
    }
    train.check_all()?;
    val.check_all()?;
    trainer.finish(watch)?;
    let mut summary = summary(data, target, start_time, &history);
    let last = history.last().map(|epoch| epoch.model_norm);
    let costs = trainer.costs();
    summary.extend([
        ("init_model_norm".to_owned(), initial_norm.into()),
        ("final_model_norm".to_owned(), last.into()),
        ("num_batches_per_epoch".to_owned(), steps.into()),
        (
            "step_scheduler_on_epoch".to_owned(),
            (!schedule.stepwise()).into(),
        ),
        (
            "state_bytes_per_parameter".to_owned(),
            costs.state_bytes_per_parameter.into(),
        ),
        (
            "peak_memory_bytes".to_owned(),
            costs.peak_memory_bytes.into(),
        ),
    ]);
    Ok(Some(RunResult {
        config: config.to_json(),
        summary,
        history,
    }))
}

/// What a history says of logged steps, by their numbers in the run, of which the epoch's first one is `first`; of rates
/// where there are any.
fn step_logs(
    first: usize,
    logged: &[Logged],
    rate: impl Fn(usize) -> Option<Json<'static>>,
) -> Vec<(&'static str, Vec<(usize, Json<'static>)>)> {
    let by_step = |value: &dyn Fn(&Logged) -> Option<Json<'static>>| -> Vec<_> {
        let values = logged
            .iter()
            .filter_map(|l| Some((first + l.step, value(l)?)));
        values.collect()
    };
    let mut logs = vec![
        ("loss", by_step(&|l| Some(Json::Float(l.loss.into())))),
        (
            "grad_norm",
            by_step(&|l| Some(Json::Float(l.grad_norm.into()))),
        ),
        ("lr", by_step(&|l| rate(l.step))),
    ];
    logs.retain(|(_, values)| !values.is_empty());
    logs
}

/// Rounded to six significant digits.
fn six_digits(x: f64) -> f64 {
    format!("{x:.5e}").parse().expect("a number")
}

fn summary(
    data: &Pair,
    target: Target,
    start_time: SystemTime,
    history: &[Epoch],
) -> Map<String, Value> {
    let diverged = history.iter().find(|e| {
        let numbers = [e.train_loss, e.val_loss, e.train_score, e.val_score];
        !(numbers.iter().all(|x| x.is_finite()) && e.model_norm.is_finite())
    });
    let entries = json!({
        "start_time": timestamp(start_time),
        "end_time": timestamp(SystemTime::now()),
        "num_workers": 0,
        "data_parallel": "false",
        "input_dim": data.train.sample().shape(),
        "output_dim": data.train.target_shape(),
        "device": target.device.name(),
        "precision": target.precision_name(),
        "diverged_epoch": diverged.map(|e| e.epoch),
    });
    match entries {
        Value::Object(map) => map,
        _ => unreachable!("an object was written"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::data::{Library, fetch};

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
            let outcome = run(&config, &data, Target::CPU, None, None, &watch).unwrap();
            assert!(outcome.is_none());
            assert_eq!(
                watch.epochs.into_inner(),
                epochs,
                "after {questions} questions"
            );
        }
    }
}
