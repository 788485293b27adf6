//! Learning-rate schedules: the learning rate of an epoch.

use crate::config::Entry;

/// How the learning rate goes on from its initial value, epoch by epoch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Schedule {
    Constant,
    /// 1 / (e + 1)
    Linear,
    /// 1 / sqrt(e + 1)
    Sqrt,
    /// Times `factor` after every `period` epochs.
    Exponential {
        period: u32,
        factor: f64,
    },
}

const fn entry(name: &'static str, about: &'static str) -> Entry {
    Entry {
        name,
        about,
        paper: "",
        keys: &[],
    }
}

/// The schedules as `list` shows them; e = 0, 1, ... is the epoch.
pub const ENTRIES: &[Entry] = &[
    entry("constant", "lr"),
    entry("linear", "lr / (e + 1)"),
    entry("sqrt", "lr / sqrt(e + 1)"),
    entry(
        "exponential_S_G",
        "lr, multiplied by the number G > 0 after every S >= 1 epochs",
    ),
];

impl Schedule {
    /// Reads a config's `lr_schedule`; `None` if it is none.
    pub fn parse(text: &str) -> Option<Schedule> {
        match text {
            "constant" => Some(Schedule::Constant),
            "linear" => Some(Schedule::Linear),
            "sqrt" => Some(Schedule::Sqrt),
            _ => {
                let (period, factor) = text.strip_prefix("exponential_")?.split_once('_')?;
                let (period, factor) = (period.parse().ok()?, factor.parse().ok()?);
                (period > 0 && factor > 0.0 && f64::is_finite(factor))
                    .then_some(Schedule::Exponential { period, factor })
            }
        }
    }

    /// Whether an epoch's learning rate, counted from 0, is the initial one, nothing having been computed.
    pub fn keeps_initial(self, epoch: u64) -> bool {
        match self {
            Schedule::Constant => true,
            Schedule::Linear | Schedule::Sqrt => false,
            Schedule::Exponential { period, .. } => epoch < u64::from(period),
        }
    }

    /// The learning rate of an epoch, counted from 0.
    pub fn lr(self, initial: f64, epoch: u64) -> f64 {
        let e = (epoch + 1) as f64;
        match self {
            Schedule::Constant => initial,
            Schedule::Linear => initial * (1.0 / e),
            Schedule::Sqrt => initial * e.powf(-0.5),
            // Multiplied once per period, as PyTorch does: a power would round differently.
            Schedule::Exponential { period, factor } => {
                (0..epoch / u64::from(period)).fold(initial, |lr, _| lr * factor)
            }
        }
    }
}
