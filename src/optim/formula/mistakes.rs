//! What is wrong with a file, each mistake with its place.

use crate::config::position;
use crate::error::{Error, Result};

/// A message names at most this many.
const MAX_SHOWN: usize = 50;

pub(super) struct Mistakes<'t> {
    text: &'t str,
    found: Vec<(usize, String)>,
}

impl<'t> Mistakes<'t> {
    pub fn new(text: &'t str) -> Mistakes<'t> {
        Mistakes {
            text,
            found: Vec::new(),
        }
    }

    /// `at` counts the text's bytes.
    pub fn add(&mut self, at: usize, what: impl Into<String>) {
        self.found.push((at, what.into()));
    }

    pub fn count(&self) -> usize {
        self.found.len()
    }

    pub fn line(&self, at: usize) -> usize {
        position(&self.text.as_bytes()[..at]).0
    }

    /// # Errors
    /// If there is a mistake, with all of them in the text's order.
    pub fn finish(mut self, file: &str) -> Result<()> {
        if self.found.is_empty() {
            return Ok(());
        }
        self.found.sort_by_key(|(at, _)| *at);
        self.found.dedup();
        let shown = self.found.iter().take(MAX_SHOWN).map(|(at, what)| {
            let (line, column) = position(&self.text.as_bytes()[..*at]);
            format!("{file}:{line}:{column}: {what}")
        });
        let mut lines: Vec<String> = shown.collect();
        if self.found.len() > MAX_SHOWN {
            lines.push(format!("{file}: and more mistakes"));
        }
        Err(Error::usage(lines.join("\n")))
    }
}
