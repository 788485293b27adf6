//! What an epoch of an experiment would ask of a GPU: launches, bytes, and the time that a model gives them.

use serde_json::{Map, Value, json};

use super::experiments::Experiment;
use super::model::{Gpu, traffic};
use crate::data::random_bytes;
use crate::device::PlannedLaunches;
use crate::device::gpu::{Launch, Precision};
use crate::error::Result;
use crate::train::EpochPlan;

/// An experiment's counts, at its own batch size and on data of its own size.
pub struct Planned {
    pub name: &'static str,
    pub batch: usize,
    /// Of a training step.
    pub launches: Vec<PlannedLaunch>,
    /// Of both evaluations of an epoch.
    pub eval_launches: usize,
    pub flops: usize,
    /// The most launches of a step of which each needs the one before it.
    pub path: usize,
    /// Of each of the model's GPUs.
    pub modelled: Vec<Modelled>,
}

pub struct Modelled {
    pub gpu: String,
    /// Microseconds of a training step.
    pub step: f64,
    /// Seconds of an epoch, evaluation included.
    pub epoch: f64,
}

/// A launch of a step.
pub struct PlannedLaunch {
    pub kernel: String,
    pub blocks: [u32; 3],
    pub threads: u32,
    /// Dynamic shared memory of a block.
    pub shared: u32,
    /// Bytes of the ranges that it names to read, and to write.
    pub traffic: [usize; 2],
    /// Microseconds on the first of the model's GPUs.
    pub modelled: f64,
}

impl Planned {
    /// Bytes that a step's launches name to read, and to write.
    pub fn traffic(&self) -> [usize; 2] {
        [0, 1].map(|i| self.launches.iter().map(|launch| launch.traffic[i]).sum())
    }

    pub fn to_json(&self) -> Map<String, Value> {
        let [read, written] = self.traffic().map(|bytes| bytes as f64 / 1e6);
        let of_gpu = |m: &Modelled| {
            [
                ("model_us", rounded(m.step, 1)),
                ("model_epoch_s", rounded(m.epoch, 4)),
            ]
        };
        let others = self.modelled[1..].iter();
        let others = others.map(|m| (m.gpu.clone(), Value::from_iter(of_gpu(m))));
        let value = json!({
            "name": self.name, "batch": self.batch, "launches": self.launches.len(),
            "eval_launches": self.eval_launches, "mb_read": rounded(read, 3), "mb_written": rounded(written, 3),
            "gflop": rounded(self.flops as f64 / 1e9, 3), "path": self.path, "model_gpu": self.modelled[0].gpu,
            "other_gpus": Map::from_iter(others),
        });
        let Value::Object(mut map) = value else {
            unreachable!("an object was written");
        };
        map.extend(of_gpu(&self.modelled[0]).map(|(key, x)| (key.to_owned(), x.into())));
        map
    }
}

fn rounded(x: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (x * scale).round() / scale
}

/// Plans an experiment, with the times of these GPUs, of which there is one at least.
///
/// # Errors
/// If the kernels cannot take it, or made-up data cannot be written.
pub(super) fn plan(
    experiment: &Experiment,
    precision: Option<Precision>,
    gpus: &[Gpu],
) -> Result<Planned> {
    let config = experiment.config();
    let Experiment {
        sample,
        classes,
        samples,
        ..
    } = experiment;
    let data = random_bytes(&config, sample, *classes, *samples)?;
    let epoch = EpochPlan::new(&config, &data, precision)?;
    let (step, evaluation) = (epoch.step(), epoch.evaluation());
    let modelled = gpus.iter().map(|gpu| {
        let time = |calls: &PlannedLaunches| {
            calls
                .launches()
                .iter()
                .map(|launch| gpu.time(launch))
                .sum::<f64>()
        };
        let step = time(&step);
        let of_evaluation = evaluation
            .iter()
            .map(|(calls, times)| time(calls) * *times as f64);
        Modelled {
            gpu: gpu.name.clone(),
            step,
            epoch: (step * epoch.steps as f64 + of_evaluation.sum::<f64>()) / 1e6,
        }
    });
    let planned = |launch: &Launch| PlannedLaunch {
        kernel: launch.kernel.name.to_string(),
        blocks: launch.grid.blocks,
        threads: launch.kernel.threads,
        shared: launch.grid.shared,
        traffic: traffic(launch),
        modelled: gpus[0].time(launch),
    };
    Ok(Planned {
        name: experiment.name,
        batch: config.batch_size,
        launches: step.launches().iter().map(planned).collect(),
        eval_launches: evaluation
            .iter()
            .map(|(program, times)| program.launches().len() * times)
            .sum(),
        flops: epoch.flops,
        path: PlannedLaunches::longest_path([&step]),
        modelled: modelled.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::experiments::EXPERIMENTS;
    use crate::device::{Device, Machine, SharedDevice};

    /// However many matrices there are.
    #[test]
    fn muon_takes_thirteen_launches() {
        for name in ["cifar10_resnet20", "cifar10_vit", "shakespeare"] {
            let experiment = EXPERIMENTS.iter().find(|e| e.name == name);
            let experiment = experiment.expect("one of the experiments");
            let mut config = experiment.config();
            let opt = json!({"name": "muon", "lr": 0.02});
            config.opt = opt.as_object().expect("an object").clone();
            let (sample, classes) = (experiment.sample, experiment.classes);
            let data = random_bytes(&config, sample, classes, [512, 512]).unwrap();
            let epoch = EpochPlan::new(&config, &data, None).unwrap();
            let step = epoch.step();
            let of_update = step
                .launches()
                .iter()
                .filter(|launch| [Some("muon"), Some("adam")].contains(&launch.kernel.file()));
            // Two to begin with, two for each step of Newton-Schulz, one for AdamW.
            assert_eq!(of_update.count(), 13, "{name}");
        }
    }

    /// What runs side by side on one device ask of it.
    #[test]
    fn two_runs_have_the_launches_of_two_and_the_path_of_one() {
        let experiment = EXPERIMENTS.iter().find(|e| e.name == "mnist_mlp");
        let experiment = experiment.expect("one of the experiments");
        let (config, sample) = (experiment.config(), experiment.sample);
        let data = random_bytes(&config, sample, experiment.classes, [512, 512]).unwrap();
        let device = SharedDevice::new(Machine::open(Device::Plan).unwrap());
        let step = || {
            let epoch = EpochPlan::on(device.machine(), &config, &data).unwrap();
            epoch.step()
        };
        let both = [step(), step()];
        let launches = both.each_ref().map(|step| step.launches().len());
        assert_eq!(launches[0], launches[1]);
        let path = PlannedLaunches::longest_path(&both[..1]);
        assert_eq!(PlannedLaunches::longest_path(&both), path);
        // A step behind a step of the same run needs all of it.
        let twice = [&both[0], &both[0]];
        assert_eq!(PlannedLaunches::longest_path(twice), 2 * path);
    }
}
