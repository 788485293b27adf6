//! Methods that are files of formulas.

pub mod plan;
pub mod syntax;
