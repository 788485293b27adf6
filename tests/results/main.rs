//! Outputs, records, and what is made of them.

#[path = "../common/mod.rs"]
mod common;

mod escape;
mod identity;
mod interchange;
mod names;
mod output_tools;
mod plots;
mod records;
mod report;
mod results;
mod statistics;
mod store;
mod tables;
