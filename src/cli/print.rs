//! Printing on stdout: a reader that has gone ends the program quietly, a full disk does not.

use std::io::{ErrorKind, IsTerminal, Write, stderr, stdout};

use crate::error::{Error, Kind, Result};
use crate::results::escape;
use crate::results::json::repr;

/// Prints a text as it is.
pub fn print(text: &str) -> Result<()> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|e| match e.kind() {
            ErrorKind::BrokenPipe => Error::new(Kind::ClosedPipe, "stdout is closed"),
            _ => Error::new(Kind::Io, format!("cannot write to stdout: {e}")),
        })
}

/// Prints text for people and a line feed: names in it cannot control the terminal.
pub fn println(text: impl std::fmt::Display) -> Result<()> {
    print(&(escape::printable_lines(&text.to_string()) + "\n"))
}

/// Prints JSON and a line feed.
pub fn json(value: &serde_json::Value) -> Result<()> {
    print(&(escape::json(&value.to_string()) + "\n"))
}

/// Prints a line on stderr. Nobody may be there to read it: results, and exit codes, matter more than messages.
pub fn note(text: impl std::fmt::Display) {
    let text = escape::printable_lines(&text.to_string());
    let _ = writeln!(stderr().lock(), "{text}");
}

/// A word in green or red for [`print`], where stdout is a terminal, unless the user wants no colour (https://no-color.org).
pub fn coloured(word: &str, good: bool) -> String {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if unwanted || !stdout().is_terminal() {
        return word.to_owned();
    }
    let colour = if good { 32 } else { 31 };
    format!("\x1b[{colour}m{word}\x1b[0m")
}

/// "1 run", "2 runs".
pub fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// A number as Python prints it, rounded to six digits.
pub fn six_digits(x: f64) -> String {
    repr(format!("{x:.5e}").parse().expect("a number"))
}

/// A table without borders for stdout, its header in bold where colour is wanted.
pub fn table(header: &[&str]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(header.to_vec());
    table
}
