//! Optimizers on a quadratic.

use serde_json::{Map, Value};
use stepback_native::device::Target;
use stepback_native::optim::Stepper;

pub fn options(name: &str, more: Value) -> Map<String, Value> {
    let mut opt = Map::new();
    opt.insert("name".into(), name.into());
    opt.extend(more.as_object().unwrap().clone());
    opt
}

/// A quadratic with noise on `n` parameters, minimised by `steps` steps from a fixed start.
pub struct Descent {
    lr: f64,
    stepper: Stepper,
    pub w: Vec<f32>,
    k: u32,
}

impl Descent {
    pub fn new(name: &str, more: Value, n: usize) -> Descent {
        let opt = options(name, more);
        Descent {
            lr: opt.get("lr").map_or(1e-3, |lr| lr.as_f64().unwrap()),
            stepper: Stepper::new(&opt, n, Target::CPU).unwrap(),
            w: (0..n).map(|i| (i as f32).sin()).collect(),
            k: 0,
        }
    }

    pub fn run(mut self, steps: u32) -> Descent {
        for _ in 0..steps {
            self.k += 1;
            let noise = |i: usize| 0.3 * ((i as f32) * 0.7 + self.k as f32).cos();
            let pairs = self.w.iter().enumerate();
            let g: Vec<f32> = pairs.map(|(i, w)| w + noise(i)).collect();
            let square: f32 = self.w.iter().map(|w| w * w).sum();
            let loss = square / self.w.len() as f32;
            (self.stepper.step(self.lr, loss, &mut self.w, &g)).unwrap();
            if self.stepper.wants_drawn() {
                self.stepper.take_drawn(&g).unwrap();
            }
        }
        self
    }

    /// The bits of everything that can be seen.
    pub fn bits(&mut self) -> (Vec<u32>, [Option<u64>; 3]) {
        let told = ["step_size_list", "fstar", "h"].map(|name| self.stepper.report(name));
        (
            self.w.iter().map(|w| w.to_bits()).collect(),
            told.map(|report| report.unwrap().map(f64::to_bits)),
        )
    }
}
