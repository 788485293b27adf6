//! The program, run in a folder of its own.

#[path = "../common/mod.rs"]
mod common;

mod checkpoints;
mod config_command;
mod dashboard;
mod data_folders;
mod devices;
mod driver;
mod groups;
mod identity;
mod images;
mod interrupted;
mod language;
mod optimizer;
mod processors;
mod results_cli;
mod runs;
mod several;
mod slurm;
mod statistics;
mod status;
mod step_logs;
mod train;
mod verify;
mod weights;
