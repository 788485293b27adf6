//! What several tests share.
#![allow(dead_code)] // each test binary uses its part

pub mod browser;
pub mod cifar;
pub mod descent;
pub mod draws;
pub mod files;
pub mod formulas;
pub mod kernels;
pub mod networks;
pub mod program;
pub mod skip;
