//! What an optimizer costs: memory, passes over the parameters, and the time of its update.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::device::{Call, Program};
use crate::results::writers::lock;

/// What a run costs.
pub(super) struct Costs {
    /// Of what the optimizer keeps from step to step.
    pub state_bytes_per_parameter: f64,
    /// Of all buffers on the machine: parameters, gradients, activations, the optimizer's memory, tables, and the data where
    /// the machine has a copy.
    pub peak_memory_bytes: usize,
    /// How often an update goes over all parameters, or over vectors of their length, on average of the steps; without
    /// second gradients.
    pub update_passes: f64,
    /// Of a step's update, with a second gradient if the method asks for one; known on the CPU alone.
    pub update_time: Option<UpdateTime>,
}

#[derive(Clone, Copy)]
pub(super) struct UpdateTime {
    /// The mean of a step, in seconds.
    pub seconds: f64,
    /// Of the whole step.
    pub share: f64,
}

/// Passes over `parameters` floats that these calls make: each counts by the longest vector that it names.
pub(super) fn passes(calls: &[Call], parameters: usize) -> f64 {
    let of_call = |call: &Call| (call.longest_range() / size_of::<f32>()).min(parameters);
    let floats: usize = calls.iter().map(of_call).sum();
    floats as f64 / parameters as f64
}

/// Reads the time as a program of the CPU goes by.
#[derive(Clone, Default)]
pub(super) struct Clock(Arc<Mutex<Times>>);

#[derive(Default)]
struct Times {
    /// When the step and its update began.
    began: Option<(Instant, Instant)>,
    steps: u32,
    step: Duration,
    update: Duration,
}

/// Where in a step a clock is read.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Mark {
    Step,
    Update,
    End,
    /// Behind what follows some steps, which a mark of its own began.
    Further,
}

impl Clock {
    /// Adds a reading, where that is possible.
    pub fn emit(&self, mark: Mark, program: &mut Program) {
        if program.on_host() {
            let times = self.0.clone();
            program.host("clock", [], [], move |[], []| {
                lock(&times).read(mark, Instant::now());
            });
        }
    }

    /// The mean of the steps so far.
    pub fn update_time(&self) -> Option<UpdateTime> {
        let times = lock(&self.0);
        (times.steps > 0).then(|| UpdateTime {
            seconds: times.update.as_secs_f64() / f64::from(times.steps),
            share: times.update.as_secs_f64() / times.step.as_secs_f64().max(f64::MIN_POSITIVE),
        })
    }
}

impl Times {
    fn read(&mut self, mark: Mark, now: Instant) {
        match (mark, self.began) {
            (Mark::Step, _) => self.began = Some((now, now)),
            (Mark::Update, Some((step, _))) => self.began = Some((step, now)),
            (Mark::End | Mark::Further, Some((step, update))) => {
                self.steps = self.steps.saturating_add(u32::from(mark == Mark::End));
                self.step += now - step;
                self.update += now - update;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_is_what_a_step_ends_with() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let clock = Clock::default();
        assert!(clock.update_time().is_none());
        for (mark, ms) in [
            (Mark::Step, 0),
            (Mark::Update, 60),
            (Mark::End, 100),
            (Mark::Step, 500),
            (Mark::Update, 540),
            (Mark::End, 600),
        ] {
            lock(&clock.0).read(mark, at(ms));
        }
        let UpdateTime { seconds, share } = clock.update_time().unwrap();
        assert!((seconds - 0.05).abs() < 1e-12 && (share - 0.5).abs() < 1e-12);
    }
}
