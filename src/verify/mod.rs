//! `verify`: this build against the numbers that the reference printed, suite by suite.

mod augment;
mod catalogue;
mod datasets;
mod ensemble;
mod follow;
mod goldens;
mod histories;
mod images;
mod language;
mod libsvm;
mod made;
mod networks;
mod optimizers;
mod random;
mod runs;
mod schedules;
mod statistics;
mod steps;
mod tally;

use std::path::PathBuf;

pub use goldens::Goldens;
pub use tally::{Check, Verdict};

use crate::data::Library;
use crate::device::Target;
use crate::error::Result;

/// What the suites work with.
pub struct Context {
    pub goldens: Goldens,
    /// Where data sets are; nothing is downloaded.
    pub data_dir: PathBuf,
    /// What models, whole runs, and methods on given gradients are computed on; everything else is computed on the CPU.
    pub target: Target,
}

impl Context {
    fn library(&self) -> Library {
        made::library(&self.data_dir)
    }
}

/// A row of the table of suites.
pub struct Suite {
    pub name: &'static str,
    pub about: &'static str,
    pub run: fn(&Context) -> Result<Vec<Check>>,
}

pub const SUITES: &[Suite] = &[
    Suite {
        name: "random",
        about: "draws of torch's CPU generator and of numpy's RandomState",
        run: random::generators,
    },
    Suite {
        name: "sampler",
        about: "the order of the training samples",
        run: random::sampler,
    },
    Suite {
        name: "datasets",
        about: "synthetic data sets, and sets of classes in LIBSVM's form",
        run: datasets::datasets,
    },
    Suite {
        name: "init",
        about: "initial parameters",
        run: networks::init,
    },
    Suite {
        name: "models",
        about: "forward, backward and four SGD steps of each model on one batch",
        run: networks::models,
    },
    Suite {
        name: "optimizers",
        about: "thirty steps of each optimizer on a fixed gradient field",
        run: optimizers::optimizers,
    },
    Suite {
        name: "catalogue",
        about: "thirty steps of methods beyond the reference's, whose gradients are data",
        run: catalogue::catalogue,
    },
    Suite {
        name: "schedules",
        about: "learning rates of epochs and of steps",
        run: schedules::schedules,
    },
    Suite {
        name: "runs",
        about: "whole runs on small problems, and the authors' published outputs of 2023",
        run: runs::runs,
    },
    Suite {
        name: "step-logs",
        about: "whole runs with logs of their steps, on schedules by epochs and by steps",
        run: runs::step_logs,
    },
    Suite {
        name: "mnist",
        about: "two epochs of the MNIST MLP",
        run: runs::mnist,
    },
    Suite {
        name: "augment",
        about: "draws and pixels of augmented images",
        run: augment::augment,
    },
    Suite {
        name: "networks",
        about: "whole runs of image networks on 310 images made by a formula",
        run: images::networks,
    },
    Suite {
        name: "cifar",
        about: "losses of the first steps on CIFAR-10",
        run: images::cifar,
    },
    Suite {
        name: "language",
        about: "the language model: a batch and six steps, whole runs, and first steps on Shakespeare's works",
        run: language::language,
    },
    Suite {
        name: "statistics",
        about: "tests, resamples, performance profiles, and steps to a target",
        run: statistics::statistics,
    },
];
