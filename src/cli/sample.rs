//! `sample`: text from the weights of a language model.

use std::path::PathBuf;

use serde_json::json;

use super::{device, print, use_threads};
use crate::error::{Error, Result};
use crate::random::torch::Generator;
use crate::results::escape;
use crate::train::Author;
use crate::train::weights::Weights;

/// Print a text that a trained language model writes
#[derive(clap::Args, Debug)]
pub struct Sample {
    /// Weights that `train --save-weights` wrote
    weights: PathBuf,
    /// What the text begins with
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "\n",
        hide_default_value = true
    )]
    prompt: String,
    /// How many tokens to add
    #[arg(long, value_name = "N", default_value_t = 400)]
    tokens: usize,
    /// The lower, the likelier are likely tokens; at 0 always the likeliest is taken
    #[arg(long, value_name = "T", default_value_t = 0.8)]
    temperature: f64,
    /// Of the draws: the same text for the same seed
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    choice: device::Choice,
    /// Threads of the CPU [default: one per core]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Print one JSON object, when all is there
    #[arg(long)]
    json: bool,
}

impl Sample {
    pub fn run(&self) -> Result<u8> {
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return Err(Error::usage(format!(
                "--temperature: {} (expected a finite number, 0 or more)",
                self.temperature
            )));
        }
        use_threads(self.threads)?;
        let mut author = Author::new(&Weights::read(&self.weights)?, self.choice.target("cpu")?)?;
        let mut text = self.prompt(&author)?;
        let start = text.len();
        let mut draws = Generator::new(self.seed);
        let mut out = Out::default();
        if !self.json {
            out.print(&author.vocabulary().decode(&text))?;
        }
        for _ in 0..self.tokens {
            let token = author.next(&text, self.temperature, &mut draws)?;
            text.push(token);
            if !self.json {
                out.print(&author.vocabulary().decode(&[token]))?;
            }
        }
        let spelled = author.vocabulary().decode(&text[start..]);
        match self.json {
            true => print::json(&json!({
                "weights": self.weights, "prompt": self.prompt, "tokens": self.tokens, "temperature": self.temperature,
                "seed": self.seed, "text": String::from_utf8_lossy(&spelled),
            }))?,
            false => print::println("")?,
        }
        Ok(0)
    }

    fn prompt(&self, author: &Author) -> Result<Vec<u8>> {
        if self.prompt.is_empty() {
            return Err(Error::usage(
                "--prompt: it is empty; a model goes on with at least one character",
            ));
        }
        let (codes, skipped) = author.vocabulary().encode(&self.prompt);
        if skipped > 0 {
            let lacks = |c: &char| author.vocabulary().encode(&c.to_string()).1 > 0;
            let unknown: String = self.prompt.chars().filter(lacks).collect();
            return Err(Error::usage(format!(
                "--prompt: the model's vocabulary lacks {unknown:?}"
            )));
        }
        Ok(codes)
    }
}

/// Prints a text that comes in pieces of characters.
#[derive(Default)]
struct Out {
    /// The start of a character.
    pending: Vec<u8>,
}

impl Out {
    fn print(&mut self, bytes: &[u8]) -> Result<()> {
        self.pending.extend(bytes);
        let whole = match std::str::from_utf8(&self.pending) {
            Err(e) if e.error_len().is_none() => e.valid_up_to(),
            _ => self.pending.len(),
        };
        let rest = self.pending.split_off(whole);
        let text = String::from_utf8_lossy(&self.pending);
        print::print(&escape::printable_lines(&text))?;
        self.pending = rest;
        Ok(())
    }
}
