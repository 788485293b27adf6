//! One file per subcommand.

pub mod compare;
pub mod plot;
pub mod record;
pub mod sources;
pub mod table;
