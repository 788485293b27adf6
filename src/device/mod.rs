//! Devices and memory. The only unsafe code of the crate is here.

pub mod cpu;
pub mod map;
