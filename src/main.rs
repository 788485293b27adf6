use std::process::ExitCode;

use stepback_native::cli::{Cli, note};
use stepback_native::error::Kind;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            if error.kind != Kind::ClosedPipe {
                note(format_args!("error: {error}"));
            }
            ExitCode::from(error.kind.exit_code())
        }
    }
}
