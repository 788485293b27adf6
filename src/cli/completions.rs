//! `completions`, and names that shells may complete.

use std::ffi::OsStr;

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{Arg, Command, CommandFactory};
use clap_complete::Shell;

use super::{Cli, print};
use crate::error::Result;

/// Print a completion script for a shell
///
/// For bash: source <(stepback-native completions bash), in ~/.bashrc. For zsh: put the output into a file _stepback-native of a
/// folder in $fpath. For fish: into ~/.config/fish/completions/stepback-native.fish.
#[derive(clap::Args)]
pub struct Completions {
    shell: Shell,
}

impl Completions {
    pub fn run(self) -> Result<u8> {
        let mut script = Vec::new();
        // In bash the functions of a name with a dash do not find one another.
        let name = match self.shell {
            Shell::Bash => "stepback_native",
            _ => "stepback-native",
        };
        clap_complete::generate(self.shell, &mut Cli::command(), name, &mut script);
        let script = String::from_utf8_lossy(&script);
        print::print(&script.replace(" stepback_native\n", " stepback-native\n"))?;
        Ok(0)
    }
}

/// An argument for which shells complete these names. Any other word is taken, too: the command says more about it.
#[derive(Clone, Copy)]
pub struct Names(pub fn() -> Vec<PossibleValue>);

impl TypedValueParser for Names {
    type Value = String;

    fn parse_ref(
        &self,
        command: &Command,
        argument: Option<&Arg>,
        value: &OsStr,
    ) -> std::result::Result<String, clap::Error> {
        StringValueParser::new().parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new((self.0)().into_iter()))
    }
}
