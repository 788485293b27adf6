//! stepback-native trains the fixed experiments of the Python package step-back: same configs, same
//! initial weights, same batches, comparable numbers.
//!
//! Modules import downwards only:
//! `cli -> verify | bench -> train -> results -> { models | optim | data } -> nn -> ops -> graph -> device -> cpu`;
//! the three in braces never import one another, and `optim` skips `nn` and `ops`. `config` and `random`
//! import `error`, `files` and `stop` alone, these three nothing, and all others may import the five. `tests/core/layers.rs` checks it.

#![deny(unsafe_code)]

pub mod bench;
pub mod cli;
pub mod config;
#[allow(unsafe_code)]
pub mod cpu;
pub mod data;
#[allow(unsafe_code)]
pub mod device;
pub mod error;
pub mod files;
pub mod graph;
pub mod models;
pub mod nn;
pub mod ops;
pub mod optim;
pub mod random;
pub mod results;
pub mod stop;
pub mod train;
pub mod verify;

pub use error::{Error, Result};
