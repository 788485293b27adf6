//! Methods that are files of formulas.

mod check;
mod code;
mod mistakes;
pub mod places;
pub mod plan;
pub mod ptx;
mod random;
mod read;
pub mod syntax;

pub use random::random_program;
pub use read::{load, read};
