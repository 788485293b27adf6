//! Runs that are ended after any step, and go on from their checkpoint to the same bits, on the CPU and by kernels.

use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::checkpoint::Checkpoints;
use super::network::Plans;
use super::run::{Watch, run_plans};
use super::step_log::LogSteps;
use super::weights::Snapshot;
use crate::config::RunConfig;
use crate::data::{Library, Pair, fetch};
use crate::device::{Device, Machine, Schedule};
use crate::error::Result;
use crate::graph::{Mode, Params, Plan, Targets};
use crate::nn::{BatchNorm, Conv2d, Linear};
use crate::random::SEED;
use crate::random::torch::Generator;
use crate::results::RunResult;
use crate::results::identity::Identity;

const EPOCHS: usize = 2;
const BATCH: usize = 4;

/// Ends the run at the n-th question, and keeps what it is shown.
#[derive(Default)]
struct Patience {
    left: AtomicUsize,
    weights: Mutex<Vec<u32>>,
    resumed: Mutex<Vec<(usize, usize)>>,
    warned: Mutex<Vec<String>>,
}

impl Watch for Patience {
    fn stop(&self) -> bool {
        let left = self.left.load(Ordering::Relaxed);
        self.left.store(left.saturating_sub(1), Ordering::Relaxed);
        left == 1
    }

    fn resumed(&self, epochs: usize, steps: usize) {
        self.resumed.lock().unwrap().push((epochs, steps));
    }

    fn trained(&self, weights: &Snapshot<'_>) -> Result<()> {
        let all = weights.values.iter().chain(weights.buffers);
        *self.weights.lock().unwrap() = all.map(|x| x.to_bits()).collect();
        Ok(())
    }

    fn warned(&self, what: &str) {
        self.warned.lock().unwrap().push(what.to_owned());
    }
}

/// A run of this many batches in each epoch, with these members.
fn config(members: Value, batches: usize) -> RunConfig {
    let mut config = json!({
        "dataset": "synthetic_linear", "dataset_kwargs": {"p": 16, "n_samples": BATCH * batches}, "model": "mlp",
        "model_kwargs": {"output_size": 1, "hidden_sizes": [8], "dropout": true}, "loss_func": "squared",
        "score_func": "squared", "batch_size": BATCH, "max_epoch": EPOCHS, "run_id": 0,
    });
    let Value::Object(members) = members else {
        panic!("an object");
    };
    let config = config.as_object_mut().unwrap();
    config.extend(members);
    RunConfig::from_json(config).unwrap()
}

/// Samples of three classes, of which 40 are for training, in the format of LIBSVM's `wine`.
pub(super) fn write_wine(data: &Path) {
    let samples = (0..50).map(|i| {
        let x = |j: usize| ((i * (j + 3)) as f64).sin();
        format!("{} 1:{:.4} 2:{:.4} 3:{:.4}\n", 1 + i % 3, x(0), x(1), x(2))
    });
    std::fs::create_dir_all(data.join("libsvm")).unwrap();
    std::fs::write(data.join("libsvm/wine.scale"), samples.collect::<String>()).unwrap();
}

/// Two convolutions of 4x4 pixels, each with batch norm.
fn small_network(data: &Pair, device: Device) -> Plans {
    let mut params = Params::new(Generator::new(SEED));
    let convs = [(1, 8), (8, 8)].map(|channels| {
        let (conv, norm) = (format!("conv.{}", channels.0), format!("bn.{}", channels.0));
        let conv = Conv2d::new(&mut params, &conv, channels, 3, 1, false);
        (conv, BatchNorm::new(&mut params, &norm, channels.1))
    });
    let head = Linear::new(&mut params, "head", 8, 1, true);
    let record = |mode: Mode, samples: usize| {
        Plan::record(&params, mode, device, |tape| {
            let (mut x, target) = (tape.input(&[samples, 4, 4, 1]), tape.input(&[samples, 1]));
            for (conv, norm) in convs {
                x = norm.forward(conv.forward(x)).relu();
            }
            let y = head.forward(x.average_pool());
            let loss = y.squared_by_batch(target, BATCH);
            match mode {
                Mode::Eval => Targets {
                    outputs: vec![loss, y.squared_by_batch(target, BATCH)],
                    backward: None,
                },
                _ => Targets {
                    outputs: vec![loss],
                    backward: Some(loss),
                },
            }
        })
    };
    let mut eval = Vec::new();
    let eval_size = 2 * BATCH;
    for samples in [
        eval_size,
        data.train.len() % eval_size,
        data.val.len() % eval_size,
    ] {
        if samples > 0 {
            eval.push((samples, record(Mode::Eval, samples)));
        }
    }
    Plans {
        train: record(Mode::Train, BATCH),
        eval,
        rest: match data.train.len() % BATCH {
            0 => None,
            samples => Some(record(Mode::Train, samples)),
        },
        eval_size,
        batch_size: BATCH,
        accumulated: 1,
        drawn: None,
        params,
    }
}

/// A run in a folder of checkpoints: its result without times, if it was not ended, and the bits of its weights.
fn run(
    folder: &Path,
    config: &RunConfig,
    machine: Machine,
    every: Option<Duration>,
    watch: &Patience,
) -> Option<(RunResult, Vec<u32>)> {
    if config.dataset == "wine" {
        write_wine(folder);
    }
    let library = Library::new(folder, true, fetch::Options::new(Vec::new(), true));
    let data = library.load(config).unwrap();
    let device = machine.target().device;
    let plans = match config.model.as_str() {
        "mlp" => Plans::new(config, &data, device, Mode::Train).unwrap(),
        _ => small_network(&data, device),
    };
    let log = Some(LogSteps {
        every: NonZeroUsize::new(2).unwrap(),
        layers: true,
    });
    let identity = Identity::new(&config.to_json(), &Map::new());
    let folder = folder.join("checkpoints");
    let checkpoints = Checkpoints::open(folder, every, log, vec![identity]).unwrap();
    let place = checkpoints.place(0);
    let mut result = run_plans(plans, config, &data, machine, log, Some(place), watch).unwrap()?;
    for epoch in &mut result.history {
        assert!(epoch.train_epoch_time > 0.0 && epoch.eval_epoch_time > 0.0);
        (epoch.train_epoch_time, epoch.eval_epoch_time) = (0.0, 0.0);
        // A checkpoint has them in alphabetical order.
        epoch.values.sort_by(|a, b| a.0.cmp(&b.0));
        epoch.step_logs.sort_by(|a, b| a.0.cmp(&b.0));
        epoch.layer_logs.sort_by(|a, b| a.0.cmp(&b.0));
    }
    for key in ["start_time", "end_time", "update_seconds", "update_share"] {
        result.summary.remove(key).unwrap();
    }
    Some((result, watch.weights.lock().unwrap().clone()))
}

/// The run is ended at every question once, and another one again and again. On the emulator launches come in another
/// order each time.
fn same_bits_wherever_it_is_ended(members: Value, batches: usize) {
    const LONG: Option<Duration> = Some(Duration::MAX);
    let config = config(members, batches);
    let accumulated = config.opt.get("accumulate_steps").and_then(Value::as_u64);
    let steps = batches / accumulated.unwrap_or(1) as usize;
    for device in [Device::Cpu, Device::Emulator] {
        let schedules = RefCell::new(Schedule::all().into_iter().cycle());
        let run = |folder: &Path, watch: &Patience| {
            let machine = match device {
                Device::Cpu => Machine::open(device),
                _ => Machine::emulator(schedules.borrow_mut().next().unwrap(), None),
            };
            run(folder, &config, machine.unwrap(), LONG, watch)
        };
        let patience = |questions: usize| Patience {
            left: questions.into(),
            ..Patience::default()
        };
        let never = || patience(0);
        let folder = tempfile::tempdir().unwrap();
        let expected = run(folder.path(), &never()).unwrap();
        assert!(!folder.path().join("checkpoints").exists());
        let mut ends = 0;
        for questions in 1.. {
            let folder = tempfile::tempdir().unwrap();
            if run(folder.path(), &patience(questions)).is_some() {
                break;
            }
            ends += 1;
            let watch = never();
            let resumed = run(folder.path(), &watch).unwrap();
            assert!(resumed == expected, "{device:?} after {questions}");
            let [(epoch, step)] = watch.resumed.into_inner().unwrap()[..] else {
                panic!("it starts again after {questions}");
            };
            assert!(
                epoch < EPOCHS && (1..=steps).contains(&step),
                "{epoch} {step}"
            );
            assert_eq!(watch.warned.into_inner().unwrap(), [""; 0]);
        }
        // A program is one step on the CPU. Elsewhere it is several, at most 40.
        let least = if device == Device::Cpu {
            steps
        } else {
            steps.div_ceil(40)
        };
        assert!(ends >= EPOCHS * (least + 2), "{ends}");

        let folder = tempfile::tempdir().unwrap();
        let parts = std::iter::repeat_with(|| run(folder.path(), &patience(ends * 2 / 3 + 1)));
        assert!(parts.take(50).flatten().next().unwrap() == expected);
    }
}

#[test]
fn a_network_with_batch_norm() {
    let opt =
        json!({"name": "sgd-m", "lr": 0.1, "lr_schedule": "cosine", "stepwise_schedule": true});
    same_bits_wherever_it_is_ended(
        json!({"model": "linear", "model_kwargs": {}, "opt": opt}),
        6,
    );
}

/// Whose running averages are those of other weights in evaluation.
#[test]
fn averages_of_the_weights() {
    let opt = json!({"name": "adam", "lr": 0.01, "ema_decay": 0.9, "ema_start": 8});
    same_bits_wherever_it_is_ended(
        json!({"model": "linear", "model_kwargs": {}, "opt": opt}),
        6,
    );
}

#[test]
fn scalars_series_and_estimates() {
    let opt = json!({"name": "momo-star", "lr": 1, "lr_schedule": "exponential_1_0.5"});
    same_bits_wherever_it_is_ended(json!({"opt": opt}), 50);
}

#[test]
fn steps_of_several_batches() {
    let opt = json!({"name": "momo-adam-star", "lr": 0.1, "accumulate_steps": 3});
    same_bits_wherever_it_is_ended(json!({"opt": opt}), 9);
}

#[test]
fn what_wraps_a_method() {
    let opt = json!({
        "name": "adamw", "lr": 0.01, "lookahead_k": 5, "sam_rho": 0.05, "grad_clip_norm": 1, "swa_start": 3,
    });
    same_bits_wherever_it_is_ended(json!({"opt": opt}), 7);
}

#[test]
fn groups_with_methods_of_their_own() {
    let groups = json!([{"match": "^3", "name": "momo", "lr": 0.5}]);
    let opt = json!({"name": "adam", "lr": 0.01});
    same_bits_wherever_it_is_ended(json!({"opt": opt, "groups": groups}), 7);
}

/// Which takes a further gradient after every seventh step, the last of its epoch.
#[test]
fn labels_that_are_drawn() {
    let opt = json!({"name": "sophia-g", "lr": 0.01, "rho": 1000, "hessian_interval": 7});
    let members = json!({
        "dataset": "wine", "dataset_kwargs": {"train_size": 0.56}, "loss_func": "cross_entropy",
        "score_func": "cross_entropy_accuracy",
        "model_kwargs": {"output_size": 3, "hidden_sizes": [8], "dropout": true}, "opt": opt,
    });
    same_bits_wherever_it_is_ended(members, 7);
}

/// Whose bases change in every second step.
#[test]
fn bases_of_matrices() {
    let opt = json!({"name": "soap", "lr": 0.01, "precondition_frequency": 2});
    same_bits_wherever_it_is_ended(json!({"opt": opt}), 7);
}

#[test]
fn a_plateau_of_the_history() {
    let opt = json!({
        "name": "adamw", "lr": 0.1, "lr_schedule": "plateau", "patience": 0, "threshold": 0.9,
    });
    same_bits_wherever_it_is_ended(json!({"opt": opt}), 7);
}
