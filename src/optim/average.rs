//! Averages of the weights, which are evaluated and saved in place of the trained ones: exponential, or the plain mean.
//!
//! Papers: B. Polyak, A. Juditsky, "Acceleration of Stochastic Approximation by Averaging", SIAM J. Control Optim. 1992;
//! P. Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018, arXiv:1803.05407.
//!
//! State: average. After step k = 1, 2, ... of the method, with the first one averaged being step start + 1:
//!
//! ```text
//! average = w                                    k <= start + 1
//! average = average + (1 - decay) (w - average)   later, exponential
//! average = average + (w - average) / (k - start)  later, mean
//! ```
//!
//! Up to step `start` the trained weights are evaluated.

use super::{AnyMethod, At, Memory, Method, StateVector, Update, Vectors, lerp};
use crate::config::{Key, Kind, Values};
use crate::device::gpu::{elementwise, kernels};
use crate::device::program::floats_mut;
use crate::device::{Program, Slot, View};
use crate::error::{Error, Result};
use crate::graph::Tensor;

pub(super) const DECAY: Key = Key {
    name: "ema_decay",
    kind: Kind::Fraction,
    default: Some("0"),
    about: "an exponential average of the weights is evaluated, which keeps this part of itself in a step (0.999 is usual); 0: none",
};

pub(super) const START: Key = Key {
    name: "ema_start",
    kind: super::NO_LESS_THAN_0,
    default: Some("0"),
    about: "steps before the exponential average begins",
};

pub(super) const MEAN_START: Key = Key {
    name: "swa_start",
    kind: Kind::Checked("an integer of 0 or more, or null", |value| {
        value.is_null() || value.is_u64()
    }),
    default: Some("null"),
    about: "steps before the plain mean of the weights begins, which is evaluated; null: none (Izmailov et al. 2018, arXiv:1803.05407)",
};

struct Average {
    /// The part of itself that it keeps; 0 for the plain mean.
    decay: f64,
    start: u64,
}

/// What a run's optimizer object asks for.
///
/// # Errors
/// If it asks for both averages.
pub(super) fn wrapper(values: &Values) -> Result<Option<Box<dyn AnyMethod>>> {
    let decay = values.real(DECAY.name);
    let average = match (decay > 0.0, values.get(MEAN_START.name).as_u64()) {
        (true, Some(_)) => {
            return Err(Error::usage(
                "ema_decay and swa_start: one average of the weights can be evaluated; leave one of them out",
            ));
        }
        (true, None) => Average {
            decay,
            start: values.count(START.name) as u64,
        },
        (false, Some(start)) => Average { decay: 0.0, start },
        (false, None) => return Ok(None),
    };
    Ok(Some(Box::new(average)))
}

/// The parameters and other weights change places.
pub(super) fn swap(w: Slot, other: View<f32>, program: &mut Program) {
    if !program.on_host() {
        return kernels::weights_swap(program, elementwise(w.len), w, other, w.len as i64);
    }
    let both = [w.into(), other.into()];
    program.host("weights_swap", [], both, |[], [w, other]| {
        floats_mut(w).swap_with_slice(floats_mut(other));
    });
}

impl Method for Average {
    type Coefficients = ();
    type Scalars = ();

    fn memory(&self, _: &[Tensor]) -> Memory {
        Memory {
            vectors: StateVector::zeros(["average"]),
            ..Memory::default()
        }
    }

    fn coefficients(&mut self, _: At) {}

    fn kernels(&self, u: &Update<Self>, program: &mut Program) {
        let (grid, [average], start) = (elementwise(u.w.len), u.vectors(), self.start as i64);
        let (weight, mean) = ((1.0 - self.decay) as f32, i32::from(self.decay == 0.0));
        kernels::weights_average(
            program,
            grid,
            u.now,
            u.w,
            average,
            start,
            weight,
            mean,
            u.n(),
        );
    }

    fn host(&self, u: &Update<Self>, program: &mut Program) {
        let Average { decay, start } = *self;
        u.host(program, "weights_average", move |mut step| {
            let averaged = (step.now.done + 1).saturating_sub(start);
            let weight = match averaged {
                0 | 1 => 1.0,
                _ if decay > 0.0 => (1.0 - decay) as f32,
                n => 1.0 / n as f32,
            };
            let vectors = step.vectors();
            vectors.for_pieces(
                move |Vectors {
                          w,
                          state: [average],
                          ..
                      }| {
                    for (w, average) in w.iter().zip(average) {
                        *average = lerp(*average, *w, weight);
                    }
                },
            );
        });
    }

    fn evaluates_others(&self, done: u64) -> bool {
        done > self.start
    }

    fn evaluation(&self, u: &Update<Self>, enter: &mut Program, leave: &mut Program) -> Result<()> {
        let [average] = u.vectors();
        swap(u.w, average, enter);
        swap(u.w, average, leave);
        Ok(())
    }
}
