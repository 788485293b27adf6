//! Text from the weights of a language model, a token at a time.

use super::network::build;
use super::weights::Weights;
use crate::data::Vocabulary;
use crate::device::Target;
use crate::device::gpu::kernels::Step;
use crate::error::{Error, Result};
use crate::graph::{Mode, Plan, Sample, Session, Targets};
use crate::models;
use crate::random::torch::Generator;

/// A trained language model that goes on with a text.
pub struct Author {
    session: Session,
    /// Tokens that a plan of the session takes, the fewest first; the last are the model's window.
    lengths: Vec<usize>,
    vocabulary: Vocabulary,
    /// Codes that the model gives logits for.
    codes: usize,
}

impl Author {
    /// # Errors
    /// If the file does not say what model its weights are of, or it is no language model.
    pub fn new(weights: &Weights, target: Target) -> Result<Author> {
        let (config, vocabulary) = weights.language_model()?;
        let window = config.seq_len().unwrap_or_default();
        let data = models::Data {
            sample: Sample::Tokens { length: window },
            target: vec![window],
            classes: Some(1),
        };
        let (mut params, model) = build(&config, &data)?;
        weights.load_into(&mut params, &config.model)?;
        let lengths = lengths(window);
        let plan = |tokens: &usize| {
            Plan::record(&params, Mode::Eval, target.device, |tape| Targets {
                outputs: vec![model.forward(tape.input(&[1, *tokens]))],
                backward: None,
            })
        };
        let plans = lengths.iter().map(plan).collect();
        let codes = config.model_kwargs["vocab_size"].as_u64();
        Ok(Author {
            session: Session::new(&params, plans, target)?,
            lengths,
            codes: codes.unwrap_or_default() as usize,
            vocabulary,
        })
    }

    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// Draws the token that follows such a text, of which it sees no more than the model's window. Logits are divided by
    /// `temperature`; at 0 the likeliest token is taken.
    ///
    /// # Errors
    /// If the logits are not finite.
    ///
    /// # Panics
    /// If the text is empty.
    pub fn next(&mut self, text: &[u8], temperature: f64, draws: &mut Generator) -> Result<u8> {
        let window = self.lengths.last().expect("a window");
        let seen = &text[text.len().saturating_sub(*window)..];
        let fits = |length: &usize| *length >= seen.len();
        let plan = self
            .lengths
            .iter()
            .position(fits)
            .expect("no more than that");
        // No token sees those after it.
        let mut tokens = vec![0.0; self.lengths[plan]];
        let codes = seen.iter().map(|code| f32::from(*code));
        tokens
            .iter_mut()
            .zip(codes)
            .for_each(|(token, code)| *token = code);
        let logits = &self.session.run(plan, &[&tokens], Step::default())?[0];
        let row = &logits[(seen.len() - 1) * self.codes..][..self.codes];
        let row = &row[..self.vocabulary.len().min(self.codes)];
        if !row.iter().all(|x| x.is_finite()) {
            return Err(Error::usage(
                "the model's outputs are not finite: the run that saved these weights diverged",
            ));
        }
        Ok(draw(row, temperature, draws) as u8)
    }
}

/// An index with probability softmax(logits / temperature).
fn draw(logits: &[f32], temperature: f64, draws: &mut Generator) -> usize {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if temperature == 0.0 {
        return logits.iter().position(|x| *x == largest).expect("a logit");
    }
    let weight = |x: &f32| (f64::from(x - largest) / temperature).exp();
    let mut left = f64::from(draws.rand1()) * logits.iter().map(weight).sum::<f64>();
    let found = logits.iter().position(|x| {
        left -= weight(x);
        left < 0.0
    });
    found.unwrap_or(logits.len() - 1)
}

/// Windows that a plan is made for: each twice as long as the one before, so that short texts take little time.
fn lengths(window: usize) -> Vec<usize> {
    const SHORTEST: usize = 16;
    let shorter = std::iter::successors(Some(SHORTEST), |n| Some(2 * n));
    let mut lengths: Vec<usize> = shorter.take_while(|n| *n < window).collect();
    lengths.push(window);
    lengths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_drawn_as_often_as_their_logits_say() {
        let logits = [0.0, 2.0f32.ln(), f32::MIN, 1.0f32.ln()];
        let mut draws = Generator::new(1);
        let mut counts = [0; 4];
        (0..8000).for_each(|_| counts[draw(&logits, 1.0, &mut draws)] += 1);
        // Shares 1/4, 1/2, 0, 1/4; six standard deviations of a count are below 270.
        for (count, expected) in counts.into_iter().zip([2000, 4000, 0, 2000]) {
            assert!(i32::abs_diff(count, expected) < 270, "{counts:?}");
        }
        assert_eq!(counts[2], 0);
        assert_eq!(draw(&logits, 0.0, &mut draws), 1);
        // The colder, the likelier the likeliest.
        let cold = (0..1000).filter(|_| draw(&logits, 0.1, &mut draws) == 1);
        assert!(cold.count() > 990);
    }

    #[test]
    fn there_is_a_plan_for_every_length() {
        assert_eq!(lengths(100), [16, 32, 64, 100]);
        assert_eq!(lengths(16), [16]);
        assert_eq!(lengths(2), [2]);
    }
}
