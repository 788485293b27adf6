//! Methods that are files of formulas.

mod blocks;
mod check;
mod code;
mod cost;
mod evaluate;
mod graph;
mod host;
mod method;
mod mistakes;
mod operator;
pub mod places;
pub mod plan;
pub mod ptx;
mod random;
mod read;
mod rounds;
pub mod syntax;
mod table;

pub use cost::StateBytes;
pub use method::FileMethod;
pub use random::random_program;
pub use read::{load, read};
pub use table::{MethodFile, file, find, look, row, rows, texts};
