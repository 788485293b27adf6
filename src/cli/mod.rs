//! One file per subcommand.

pub mod record;
pub mod sources;
