//! Numbers and rules of the library: arithmetic, kernels, models, optimizers, configs.

#[path = "../common/mod.rs"]
mod common;

mod config;
mod cpu_math;
mod files;
mod formula;
mod fusion;
mod kernels;
mod launches;
mod layers;
mod left_out;
mod method_files;
mod models;
mod optim;
mod optim_properties;
mod random;
mod tape;
mod transformers;
