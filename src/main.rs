use std::io::{Write, stderr};
use std::process::ExitCode;

use clap::Parser;
use stepback_native::cli::Cli;
use stepback_native::error::Kind;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            if error.kind != Kind::ClosedPipe {
                // Whoever cannot be told still gets the exit code.
                let _ = writeln!(stderr(), "error: {error}");
            }
            ExitCode::from(error.kind.exit_code())
        }
    }
}
