//! Methods that are files of formulas.

mod check;
mod code;
mod mistakes;
pub mod plan;
mod read;
pub mod syntax;

pub use read::{MAX_BYTES, read};
