//! One file per subcommand.

pub mod compare;
pub mod output;
pub mod plot;
pub mod record;
pub mod report;
pub mod sources;
pub mod table;
