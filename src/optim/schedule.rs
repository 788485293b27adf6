//! Learning-rate schedules: the learning rates of a run, epoch by epoch.
//!
//! A schedule goes by ticks t = 0, 1, ..., which are epochs or, with `stepwise_schedule`, training steps. After a
//! warm-up of W ticks it starts at u = t - W = 0. A rate is the initial one times a factor in double; `exponential`,
//! `step` and `plateau` multiply again and again what they have come to, as PyTorch does: a power would round differently.

use std::f64::consts::PI;

use serde_json::{Map, Value};

use super::{COMMON_KEYS, NO_LESS_THAN_0, keys};
use crate::config::{Entry, Key, Kind, Values};
use crate::error::{Error, Result};

/// A learning rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    pub lr: f64,
    /// What it is of the initial one: groups of parameters have initial rates of their own.
    pub factor: f64,
    /// The config's own number, nothing having been computed.
    pub as_given: bool,
}

impl Rate {
    /// An initial one times a factor.
    pub fn computed(initial: f64, factor: f64) -> Rate {
        Rate {
            lr: initial * factor,
            factor,
            as_given: false,
        }
    }

    /// This one times a factor.
    fn times(self, factor: f64) -> Rate {
        Rate {
            lr: self.lr * factor,
            factor: self.factor * factor,
            as_given: false,
        }
    }
}

/// The learning rates of a run. It is asked for every epoch once, in their order.
#[derive(Clone, Debug)]
pub struct Schedule {
    shape: Shape,
    initial: f64,
    warmup: u64,
    stepwise: bool,
    /// Training steps of an epoch.
    steps: usize,
    /// Ticks of the whole run.
    ticks: u64,
    /// The next tick.
    tick: u64,
    /// The initial rate, or what shapes that multiply have made of it.
    current: Rate,
}

#[derive(Clone, Debug)]
enum Shape {
    Constant,
    Linear,
    Sqrt,
    Exponential {
        period: u64,
        factor: f64,
    },
    Wsd {
        /// Ticks.
        cooldown: u64,
        /// From 1 to 0, as its argument goes from 0 to 1.
        fall: fn(f64) -> f64,
        min: f64,
    },
    Cosine {
        min: f64,
    },
    Polynomial {
        power: f64,
        min: f64,
    },
    Step {
        milestones: Vec<usize>,
        gamma: f64,
    },
    Plateau(Plateau),
}

/// Reduces the rate when a metric has stopped falling.
#[derive(Clone, Debug)]
struct Plateau {
    factor: f64,
    patience: u64,
    threshold: f64,
    cooldown_epochs: u64,
    /// No rate is below it.
    min: f64,
    best: f64,
    /// Epochs without an improvement.
    bad: u64,
    cooling: u64,
}

const FROM_0_TO_1: Kind = Kind::Checked("a number in [0, 1]", |value| {
    value.as_f64().is_some_and(|x| (0.0..=1.0).contains(&x))
});

const WARMUP: Key = Key {
    name: "warmup_steps",
    kind: NO_LESS_THAN_0,
    default: Some("0"),
    about: "ticks in which the rate rises from nearly 0 to lr",
};
const STEPWISE: Key = Key {
    name: "stepwise_schedule",
    kind: Kind::Flag,
    default: Some("false"),
    about: "ticks are training steps, not epochs",
};
const MIN: Key = Key {
    name: "min_lr_ratio",
    kind: FROM_0_TO_1,
    default: Some("0"),
    about: "where the factor ends, the rate's smallest part of lr",
};

const TICKS: &[Key] = &[WARMUP, STEPWISE];
const WSD: &[Key] = &[
    WARMUP,
    STEPWISE,
    Key {
        name: "cooldown",
        kind: FROM_0_TO_1,
        default: Some("0.2"),
        about: "the part of all ticks in which the rate falls, at the end",
    },
    Key {
        name: "cooldown_type",
        kind: Kind::Choice(&["linear", "1-sqrt", "cosine"]),
        default: Some("\"linear\""),
        about: "how it falls",
    },
    MIN,
];
const COSINE: &[Key] = &[WARMUP, STEPWISE, MIN];
const POLYNOMIAL: &[Key] = &[
    WARMUP,
    STEPWISE,
    Key {
        name: "power",
        kind: Kind::Positive,
        default: Some("1"),
        about: "the exponent",
    },
    MIN,
];
const STEP: &[Key] = &[
    WARMUP,
    STEPWISE,
    Key {
        name: "milestones",
        kind: Kind::Checked(
            "a list of integers of 1 or more in ascending order",
            |value| {
                Kind::Counts.accepts(value)
                    && value
                        .as_array()
                        .is_some_and(|all| all.is_sorted_by_key(Value::as_u64))
            },
        ),
        default: None,
        about: "ticks after the warm-up at which the rate is multiplied; inside `opt` a list of lists",
    },
    Key {
        name: "gamma",
        kind: Kind::Positive,
        default: Some("0.1"),
        about: "what it is multiplied by",
    },
];
const PLATEAU: &[Key] = &[
    Key {
        name: "factor",
        kind: Kind::Fraction,
        default: Some("0.1"),
        about: "what the rate is multiplied by",
    },
    Key {
        name: "patience",
        kind: NO_LESS_THAN_0,
        default: Some("10"),
        about: "epochs without improvement before the rate is reduced",
    },
    Key {
        name: "threshold",
        kind: Kind::Fraction,
        default: Some("1e-4"),
        about: "how far below the best val_loss, as a part of it, an improvement is",
    },
    Key {
        name: "cooldown_epochs",
        kind: NO_LESS_THAN_0,
        default: Some("0"),
        about: "epochs after a reduction that do not count",
    },
    MIN,
    Key {
        kind: Kind::Checked("0: plateau has no warm-up", |value| *value == 0),
        about: "plateau has none",
        ..WARMUP
    },
    Key {
        kind: Kind::Checked("false: plateau waits for an epoch's val_loss", |value| {
            *value == false
        }),
        about: "plateau goes by epochs",
        ..STEPWISE
    },
];

const fn entry(name: &'static str, about: &'static str, keys: &'static [Key]) -> Entry {
    Entry {
        name,
        about,
        paper: "",
        keys,
    }
}

/// The schedules, as `list` shows them.
pub const ENTRIES: &[Entry] = &[
    entry("constant", "lr", TICKS),
    entry("linear", "lr / (u + 1)", TICKS),
    entry("sqrt", "lr / sqrt(u + 1)", TICKS),
    entry(
        EXPONENTIAL,
        "lr, multiplied by the number G > 0 after every S >= 1 ticks",
        TICKS,
    ),
    entry(
        "wsd",
        "lr, and a cooldown at the end (warm-up, stable, decay)",
        WSD,
    ),
    entry(
        "cosine",
        "half a cosine from lr down to 0 or min_lr_ratio lr",
        COSINE,
    ),
    entry(
        "polynomial",
        "lr (1 - u/n)^power, n being the ticks after the warm-up",
        POLYNOMIAL,
    ),
    entry("step", "lr, multiplied by gamma at every milestone", STEP),
    entry(
        "plateau",
        "lr, multiplied by factor where val_loss has stopped falling",
        PLATEAU,
    ),
];

const EXPONENTIAL: &str = "exponential_S_G";

/// The schedule that a config's `lr_schedule` names.
pub fn named(text: &str) -> Option<&'static Entry> {
    let name = match exponential(text) {
        Some(_) => EXPONENTIAL,
        None if text == EXPONENTIAL => return None,
        None => text,
    };
    ENTRIES.iter().find(|entry| entry.name == name)
}

/// S and G of `exponential_S_G`.
fn exponential(text: &str) -> Option<(u64, f64)> {
    let (period, factor) = text.strip_prefix("exponential_")?.split_once('_')?;
    let (period, factor) = (period.parse::<u32>().ok()?, factor.parse().ok()?);
    (period > 0 && factor > 0.0 && f64::is_finite(factor)).then_some((period.into(), factor))
}

/// 1 at 0, 0 at 1.
fn half_cosine(x: f64) -> f64 {
    0.5 * (1.0 + (PI * x).cos())
}

impl Schedule {
    /// Of a run of this many epochs of this many steps each. `opt` is its optimizer object, checked against the tables.
    pub fn new(opt: &Map<String, Value>, epochs: usize, steps: usize) -> Result<Schedule> {
        let initial = Values::new(keys(opt), opt).real("lr");
        // What the method has under the same name is the method's.
        let method = opt.get("name").and_then(Value::as_str).unwrap_or_default();
        let own = super::row(method).map_or(&[][..], |row| row.entry.keys);
        let mut opt = opt.clone();
        opt.retain(|name, _| own.iter().all(|key| key.name != name));

        let text = Values::new(COMMON_KEYS, &opt).text("lr_schedule");
        let entry =
            named(&text).ok_or_else(|| Error::usage(format!("unknown lr_schedule {text}")))?;
        let values = Values::new(COMMON_KEYS.iter().chain(entry.keys), &opt);
        let min = || values.real("min_lr_ratio");
        let stepwise = values.flag("stepwise_schedule");
        let ticks = epochs as u64 * if stepwise { steps as u64 } else { 1 };
        let shape = match (entry.name, exponential(&text)) {
            (_, Some((period, factor))) => Shape::Exponential { period, factor },
            ("linear", _) => Shape::Linear,
            ("sqrt", _) => Shape::Sqrt,
            ("wsd", _) => Shape::Wsd {
                cooldown: (values.real("cooldown") * ticks as f64) as u64,
                fall: match values.text("cooldown_type").as_str() {
                    "1-sqrt" => |x| 1.0 - x.sqrt(),
                    "cosine" => half_cosine,
                    _ => |x| 1.0 - x,
                },
                min: min(),
            },
            ("cosine", _) => Shape::Cosine { min: min() },
            ("polynomial", _) => Shape::Polynomial {
                power: values.real("power"),
                min: min(),
            },
            ("step", _) => Shape::Step {
                milestones: values.counts("milestones"),
                gamma: values.real("gamma"),
            },
            ("plateau", _) => Shape::Plateau(Plateau {
                factor: values.real("factor"),
                patience: values.count("patience") as u64,
                threshold: values.real("threshold"),
                cooldown_epochs: values.count("cooldown_epochs") as u64,
                min: min() * initial,
                best: f64::INFINITY,
                bad: 0,
                cooling: 0,
            }),
            _ => Shape::Constant,
        };
        let warmup = values.count("warmup_steps") as u64;
        let as_given = warmup == 0 || matches!(shape, Shape::Constant);
        Ok(Schedule {
            shape,
            initial,
            warmup,
            stepwise,
            steps,
            ticks,
            tick: 0,
            current: Rate {
                lr: initial,
                factor: 1.0,
                as_given,
            },
        })
    }

    /// Whether ticks are training steps, not epochs.
    pub fn stepwise(&self) -> bool {
        self.stepwise
    }

    /// Ticks of the whole run.
    pub fn ticks(&self) -> u64 {
        self.ticks
    }

    /// Refuses a warm-up or a cooldown for which the run is too short.
    pub fn check(&self) -> Result<()> {
        let (all, unit) = (self.ticks, if self.stepwise { "step" } else { "epoch" });
        let cooldown = match self.shape {
            Shape::Wsd { cooldown, .. } => cooldown,
            _ => 0,
        };
        let left = all.saturating_sub(cooldown);
        if self.warmup <= left {
            return Ok(());
        }
        let warmup = self.warmup;
        Err(Error::usage(match cooldown {
            0 => format!(
                "warmup_steps: a warm-up of {warmup} {unit}s is longer than the run, which has {all}"
            ),
            _ => format!(
                "cooldown: a warm-up of {warmup} {unit}s and a cooldown of {cooldown} are longer than the run, which has {all}"
            ),
        }))
    }

    /// The learning rates of the next epoch's steps.
    pub fn next_epoch(&mut self) -> Vec<Rate> {
        match self.stepwise {
            true => (0..self.steps).map(|_| self.next_tick()).collect(),
            false => vec![self.next_tick(); self.steps],
        }
    }

    /// To be told after every epoch, for schedules that wait for a plateau of it.
    pub fn evaluated(&mut self, val_loss: f64) {
        if let Shape::Plateau(plateau) = &mut self.shape
            && let Some(lr) = plateau.reduced(self.current.lr, val_loss)
        {
            self.current = Rate {
                lr,
                factor: lr / self.initial,
                as_given: false,
            };
        }
    }

    fn next_tick(&mut self) -> Rate {
        let t = self.tick;
        self.tick += 1;
        if t < self.warmup {
            const START: f64 = 1e-10;
            let factor = START + ((1.0 - START) * t as f64) / self.warmup as f64;
            return Rate::computed(self.initial, factor);
        }
        self.after_warmup(t - self.warmup)
    }

    /// The rate at tick u after the warm-up.
    fn after_warmup(&mut self, u: u64) -> Rate {
        let part = |x: u64, of: u64| x as f64 / of as f64;
        // From 1 to 0, raised to end at `min`.
        let raised = |min: f64, d: f64| min + (1.0 - min) * d;
        let n = self.ticks - self.warmup;
        let factor = match &self.shape {
            Shape::Constant | Shape::Plateau(_) => return self.current,
            Shape::Exponential { period, factor } => {
                if u > 0 && u.is_multiple_of(*period) {
                    self.current = self.current.times(*factor);
                }
                return self.current;
            }
            Shape::Step { milestones, gamma } => {
                let times = milestones.iter().filter(|m| **m as u64 == u).count();
                if times > 0 {
                    self.current = self.current.times(gamma.powf(times as f64));
                }
                return self.current;
            }
            Shape::Linear => 1.0 / (u + 1) as f64,
            Shape::Sqrt => ((u + 1) as f64).powf(-0.5),
            Shape::Cosine { min } => raised(*min, 0.5 * (1.0 + (PI * u as f64 / n as f64).cos())),
            Shape::Polynomial { power, min } => raised(*min, (1.0 - part(u, n)).powf(*power)),
            Shape::Wsd {
                cooldown,
                fall,
                min,
            } => match n - u {
                left if left > *cooldown => 1.0,
                left => raised(*min, fall(part(cooldown - left, *cooldown))),
            },
        };
        Rate::computed(self.initial, factor)
    }
}

impl Plateau {
    /// The rate of the next epoch, where it is another one.
    fn reduced(&mut self, rate: f64, metric: f64) -> Option<f64> {
        /// A smaller reduction is none.
        const LEAST: f64 = 1e-8;
        if metric < self.best * (1.0 - self.threshold) {
            (self.best, self.bad) = (metric, 0);
        } else {
            self.bad += 1;
        }
        if self.cooling > 0 {
            (self.cooling, self.bad) = (self.cooling - 1, 0);
        }
        if self.bad <= self.patience {
            return None;
        }
        (self.cooling, self.bad) = (self.cooldown_epochs, 0);
        let reduced = (rate * self.factor).max(self.min);
        (rate - reduced > LEAST).then_some(reduced)
    }
}
