//! The training step of each of the six experiments, on made-up data.

use serde_json::{Map, Value, json};

use super::Shapes;
use crate::config::RunConfig;
use crate::data::random_bytes;
use crate::device::{Device, Target};
use crate::error::{Kind, Result};
use crate::train::step_time;

/// One of the six experiments.
pub(super) struct Experiment {
    pub name: &'static str,
    config: &'static str,
    /// An image's rows, columns and channels, or one token of a text.
    pub sample: &'static [usize],
    /// Of images, or codes of tokens.
    pub classes: u32,
    /// Of training and validation: images, or windows of a text.
    pub samples: [usize; 2],
    /// The least time of a step on an H200 in TF32, whatever the program: the largest of what arithmetic, DRAM and L2
    /// traffic take ("FLOOR max" of plan "practical", worked out in 2026 from FLOPs and bytes, not measured).
    floor: f64,
}

const CIFAR: &[usize] = &[32, 32, 3];

pub(super) const EXPERIMENTS: &[Experiment] = &[
    Experiment {
        name: "mnist_mlp",
        config: include_str!("../../configs/mnist_mlp.json"),
        sample: &[28, 28, 1],
        classes: 10,
        samples: [60_000, 10_000],
        floor: 0.7e-6,
    },
    Experiment {
        name: "cifar10_resnet20",
        config: include_str!("../../configs/cifar10_resnet20.json"),
        sample: CIFAR,
        classes: 10,
        samples: [50_000, 10_000],
        floor: 187e-6,
    },
    Experiment {
        name: "cifar100_resnet110",
        config: include_str!("../../configs/cifar100_resnet110.json"),
        sample: CIFAR,
        classes: 100,
        samples: [50_000, 10_000],
        floor: 1078e-6,
    },
    Experiment {
        name: "cifar10_vgg16",
        config: include_str!("../../configs/cifar10_vgg16.json"),
        sample: CIFAR,
        classes: 10,
        samples: [50_000, 10_000],
        floor: 601e-6,
    },
    Experiment {
        name: "cifar10_vit",
        config: include_str!("../../configs/cifar10_vit.json"),
        sample: CIFAR,
        classes: 10,
        samples: [50_000, 10_000],
        floor: 5367e-6,
    },
    Experiment {
        name: "shakespeare",
        config: include_str!("../../configs/shakespeare.json"),
        sample: &[1],
        classes: 92,
        samples: [3485, 871],
        floor: 2763e-6,
    },
];

/// Numbers of parameters of the experiments, in their order.
pub(super) const PARAMETERS: [usize; 6] = [
    89_610, 269_722, 1_733_812, 15_253_578, 9_524_842, 10_692_480,
];

/// What distinguishes an experiment's line from others in a report.
pub const ABOUT: &str = "training step with Adam";
pub const PART: &str = "step";

/// An experiment's line.
pub struct StepTime {
    pub name: &'static str,
    pub batch: usize,
    /// Kernels of a step, none on the CPU, and seconds, none on the emulator; or why it cannot be trained.
    pub measured: Result<(usize, Option<f64>), String>,
    /// Of the experiment's own batch on a GPU.
    floor: Option<f64>,
}

impl StepTime {
    pub fn seconds(&self) -> Option<f64> {
        self.measured.as_ref().ok()?.1
    }

    pub fn samples_per_second(&self) -> Option<f64> {
        self.seconds().map(|s| self.batch as f64 / s)
    }

    /// The floor over the time of a step.
    pub fn share_of_floor(&self) -> Option<f64> {
        Some(self.floor? / self.seconds()?)
    }

    pub(super) fn to_json(&self) -> Map<String, Value> {
        let value = json!({
            "name": self.name, "about": ABOUT, "part": PART, "batch": self.batch,
            "kernels": self.measured.as_ref().ok().map(|m| m.0), "seconds": self.seconds(),
            "samples_per_s": self.samples_per_second(), "share_of_floor": self.share_of_floor(),
            "cannot": self.measured.as_ref().err(),
        });
        match value {
            Value::Object(map) => map,
            _ => unreachable!("an object was written"),
        }
    }
}

/// Adds all experiments whose name contains `filter`. Small, a batch is two samples; on the emulator runs are set up alone.
pub(super) fn all(
    target: Target,
    shapes: Shapes,
    filter: &str,
    to: &mut Vec<StepTime>,
) -> Result<()> {
    for experiment in EXPERIMENTS.iter().filter(|e| e.name.contains(filter)) {
        to.push(one(target, shapes, experiment).map_err(|e| super::of(experiment.name, e))?);
    }
    Ok(())
}

fn one(target: Target, shapes: Shapes, experiment: &Experiment) -> Result<StepTime> {
    let mut config = experiment.config();
    let (steps, epochs) = match (target.device, shapes) {
        (Device::Emulator | Device::Plan, _) => (1, 0),
        (_, Shapes::Experiments) => (100, 5),
        (_, Shapes::Small) => (1, 3),
    };
    let at_size = shapes == Shapes::Experiments;
    if !at_size {
        config.batch_size = 2;
    }
    let batch = config.batch_size;
    let samples = [steps * batch, batch];
    let data = random_bytes(&config, experiment.sample, experiment.classes, samples)?;
    let measured = match step_time(&config, &data, target, epochs) {
        Ok(step) => Ok((step.calls, step.seconds)),
        // A shape that the kernels cannot take.
        Err(error) if error.kind == Kind::Usage => Err(error.message),
        Err(error) => return Err(error),
    };
    Ok(StepTime {
        name: experiment.name,
        batch,
        measured,
        floor: at_size.then_some(experiment.floor),
    })
}

impl Experiment {
    /// Its first run, with Adam.
    pub fn config(&self) -> RunConfig {
        let file = serde_json::from_str(self.config);
        let Ok(Value::Object(mut map)) = file else {
            panic!("configs/{}.json is an object", self.name);
        };
        map.remove("n_runs");
        map.insert("opt".into(), json!({"name": "adam", "lr": 1e-3}));
        RunConfig::from_json(&map).expect("a config without choices but that of opt")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Params;
    use crate::models;
    use crate::random::torch::Generator;

    #[test]
    fn experiments_have_their_numbers_of_parameters() {
        for (experiment, expected) in EXPERIMENTS.iter().zip(PARAMETERS) {
            let config = experiment.config();
            let data =
                random_bytes(&config, experiment.sample, experiment.classes, [2, 2]).unwrap();
            let data = models::Data {
                sample: data.train.sample(),
                target: data.train.target_shape().to_vec(),
                classes: data.train.classes(),
            };
            let mut params = Params::new(Generator::new(1));
            let row = models::row(&config.model).unwrap();
            row.build(&mut params, &data, &config.model_kwargs).unwrap();
            assert_eq!(params.values.len(), expected, "{}", experiment.name);
        }
    }

    #[test]
    fn a_step_is_measured_on_the_cpu() {
        let mut paces = Vec::new();
        all(Target::CPU, Shapes::Small, "mnist", &mut paces).unwrap();
        assert_eq!(paces.len(), 1);
        assert!(paces[0].seconds().unwrap() > 0.0 && paces[0].share_of_floor().is_none());
    }

    #[cfg(emulator)]
    #[test]
    fn kernels_of_a_step_are_counted() {
        let target = Target {
            device: Device::Emulator,
            precision: None,
        };
        let mut paces = Vec::new();
        all(target, Shapes::Small, "mnist", &mut paces).unwrap();
        let (kernels, seconds) = paces[0].measured.clone().unwrap();
        // The batch, three layers, the loss, all gradients and the update.
        assert_eq!(kernels, 1);
        assert_eq!(seconds, None);
    }
}
