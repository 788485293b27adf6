//! One run: the training loop.

use std::time::{Instant, SystemTime};

use serde_json::{Map, Value, json};

use super::network::Network;
use crate::config::{RunConfig, Values};
use crate::data::{Loader, Pair};
use crate::device::{Device, cpu};
use crate::error::{Error, Result};
use crate::optim::schedule::Schedule;
use crate::optim::{self, Reports};
use crate::results::{Epoch, RunResult, timestamp::timestamp};

/// Whoever follows a run, and may end it.
pub trait Watch: Sync {
    /// Asked after every step: true ends the run at once.
    fn stop(&self) -> bool {
        false
    }

    fn epoch(&self, _done: &Epoch) {}

    /// Before the first step.
    fn built(&self, _network: &mut Network) -> Result<()> {
        Ok(())
    }

    /// After the last step.
    fn trained(&self, _network: &Network) -> Result<()> {
        Ok(())
    }
}

/// Trains one config to its end. `None` if the watch ended it.
pub fn run(
    config: &RunConfig,
    data: &Pair,
    device: Device,
    watch: &dyn Watch,
) -> Result<Option<RunResult>> {
    let Pair { train, val } = data;
    let start_time = SystemTime::now();
    let mut network = Network::new(config, train, val, device)?;
    watch.built(&mut network)?;
    let mut optimizer = optim::State::new(&config.opt, network.params.values.len())?;
    let keys = Values::new(optim::COMMON_KEYS, &config.opt);
    let (initial_lr, schedule) = (keys.real("lr"), keys.text("lr_schedule"));
    let schedule = Schedule::parse(&schedule)
        .ok_or_else(|| Error::usage(format!("unknown lr_schedule {schedule}")))?;
    let mut loader = Loader::new(config.run_id, train.len(), config.batch_size);
    let mut history = Vec::with_capacity(config.max_epoch);

    for epoch in 0..config.max_epoch {
        let clock = Instant::now();
        let lr = schedule.lr(initial_lr, epoch as u64);
        let mut step_sizes = Vec::with_capacity(loader.batches());
        for indices in loader.next_epoch().chunks_exact(config.batch_size) {
            let loss = network.train_step(train, indices);
            let (w, g) = network.memory.update();
            optimizer.step(lr, loss, w, g);
            step_sizes.push(optimizer.step_size());
            if watch.stop() {
                return Ok(None);
            }
        }
        let mut done = Epoch {
            epoch,
            learning_rate: lr,
            train_epoch_time: clock.elapsed().as_secs_f64(),
            model_norm: norm(network.memory.values()),
            grad_norm: norm(network.memory.grads()),
            ..Epoch::default()
        };
        (done.train_loss, done.train_score) = network.evaluate(train);
        (done.val_loss, done.val_score) = network.evaluate(val);
        if optimizer.reports() != Reports::Nothing {
            done.step_size_list = Some(step_sizes.iter().map(|t| six_digits(*t)).collect());
        }
        if optimizer.reports() == Reports::StepSizeAndBound {
            done.fstar = Some(optimizer.lower_bound());
            done.h = Some(optimizer.h());
        }
        train.check()?;
        val.check()?;
        watch.epoch(&done);
        history.push(done);
    }
    watch.trained(&network)?;
    Ok(Some(RunResult {
        config: config.to_json(),
        summary: summary(data, device, start_time, &history),
        history,
    }))
}

/// l2 norm, the sum of squares being an f32: Infinity beyond its range.
fn norm(values: &[f32]) -> f32 {
    (cpu::dot(values, values) as f32).sqrt()
}

/// Rounded to six significant digits.
fn six_digits(x: f64) -> f64 {
    format!("{x:.5e}").parse().expect("a number")
}

fn summary(
    data: &Pair,
    device: Device,
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
        "input_dim": data.train.input_shape(),
        "output_dim": data.train.target_shape(),
        "device": device.name(),
        "precision": "fp32",
        "diverged_epoch": diverged.map(|e| e.epoch),
    });
    match entries {
        Value::Object(map) => map,
        _ => unreachable!("an object was written"),
    }
}
