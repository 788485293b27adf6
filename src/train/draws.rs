//! What becomes of a run's samples, which the global generator draws: in an epoch first for those of its steps, then for the
//! evaluation of each half.

use std::sync::Arc;

use crate::data::augment::Placement;
use crate::data::{Ahead, Pair, Part, Split};
use crate::random::torch::Generator;

/// Draws by turns; for a GPU on a thread of its own, while that works.
pub(super) struct Draws {
    recipe: Recipe,
    ahead: Option<Ahead<Drawn>>,
    is_ahead: bool,
}

#[derive(Clone)]
struct Recipe {
    halves: [Arc<Split>; 2],
    /// Samples of an epoch's steps.
    trained: usize,
}

/// Of which turn, and the generator after it.
struct Drawn {
    turn: usize,
    placements: Vec<Placement>,
    generator: Generator,
}

/// Training, and the evaluation of both halves.
const TURNS: usize = 3;

impl Recipe {
    fn draw(&self, turn: usize, generator: &mut Generator) -> Vec<Placement> {
        let Some(part) = turn.checked_sub(1) else {
            return self.halves[0].draw_placements(self.trained, generator);
        };
        // The seed that the reference's loader draws for worker processes, of which it has none.
        generator.random64();
        let half = &self.halves[part];
        half.draw_placements(half.len(), generator)
    }
}

impl Draws {
    /// For this many samples of an epoch's steps.
    pub fn new(data: &Pair, trained: usize, is_ahead: bool) -> Draws {
        let halves = [data.train.clone(), data.val.clone()];
        Draws {
            recipe: Recipe { halves, trained },
            ahead: None,
            is_ahead,
        }
    }

    /// For training, or for the evaluation of a half, all by the same generator. Nothing is drawn for data that are not
    /// augmented.
    pub fn next(&mut self, evaluated: Option<Part>, generator: &mut Generator) -> Vec<Placement> {
        let turn = evaluated.map_or(0, |part| 1 + part as usize);
        if !self.is_ahead {
            return self.recipe.draw(turn, generator);
        }
        loop {
            let ahead = self.ahead.get_or_insert_with(|| {
                let (recipe, mut generator) = (self.recipe.clone(), generator.clone());
                let mut turns = (turn..).map(|turn| turn % TURNS);
                Ahead::new(move || {
                    let turn = turns.next().expect("there is no end");
                    Drawn {
                        turn,
                        placements: recipe.draw(turn, &mut generator),
                        generator: generator.clone(),
                    }
                })
            });
            let drawn = ahead.take();
            if drawn.turn == turn {
                *generator = drawn.generator;
                return drawn.placements;
            }
            // Asked for out of turn.
            self.ahead = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::RunConfig;
    use crate::data::random_bytes;

    /// The same placements, and the same generator after each turn, also where turns are left out.
    #[test]
    fn what_is_drawn_ahead_is_what_is_drawn_by_turns() {
        let config = json!({
            "dataset": "cifar10", "model": "resnet20", "loss_func": "cross_entropy", "batch_size": 4, "max_epoch": 1,
            "score_func": "cross_entropy_accuracy", "opt": {"name": "sgd", "lr": 0.1}, "run_id": 0,
        });
        let config = RunConfig::from_json(config.as_object().unwrap()).unwrap();
        let data = random_bytes(&config, &[32, 32, 3], 10, [30, 9]).unwrap();
        let mut both = [false, true].map(|ahead| (Draws::new(&data, 28, ahead), Generator::new(3)));
        let (train, val) = (Some(Part::Train), Some(Part::Val));
        for turn in [None, train, val, None, train, val, None, None, train, None] {
            let drawn = both.each_mut().map(|(draws, generator)| {
                let placements = draws.next(turn, generator);
                (placements, generator.drawn())
            });
            assert_eq!(drawn[0], drawn[1], "{turn:?}");
            assert_eq!(drawn[0].0.is_empty(), turn == val, "{turn:?}");
        }
    }
}
