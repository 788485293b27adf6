//! Numbers and rules of the library: arithmetic, ops, models, optimizers, configs.

#[path = "../common/mod.rs"]
mod common;

mod config;
mod cpu_math;
mod files;
mod fusion;
mod layers;
mod models;
mod ops;
mod optim;
mod optim_properties;
mod random;
mod transformers;
