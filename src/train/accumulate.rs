//! A step of several batches: their gradients and losses are added up, each divided by their number, as in PyTorch's loop
//! over `(loss / n).backward()`. Running averages of batch norm see every batch.

use crate::cpu::pool;
use crate::device::gpu::{elementwise, kernels};
use crate::device::program::floats_mut;
use crate::device::{Machine, Program, Slot, View};
use crate::error::Result;

/// What the batches of a step leave to the last one, on the machine that trains.
pub(super) struct Accumulation {
    batches: usize,
    gradient: View<f32>,
    loss: View<f32>,
}

impl Accumulation {
    pub fn new(machine: &mut Machine, batches: usize, parameters: usize) -> Result<Accumulation> {
        Ok(Accumulation {
            batches,
            gradient: machine.alloc("sums of gradients", parameters)?,
            loss: machine.alloc("sums of losses", 1)?,
        })
    }

    /// Adds what follows the i-th batch's backward, which began with 1 / batches. After the last batch `loss` is the mean
    /// loss, and `g` its gradient.
    pub fn emit(&self, i: usize, loss: Slot, g: Slot, program: &mut Program) {
        let (first, last) = (i == 0, i + 1 == self.batches);
        let (sum, mean, n) = (self.gradient, self.loss, self.batches as f32);
        if !program.on_host() {
            let (first, last) = (i32::from(first), i32::from(last));
            let (grid, len) = (elementwise(g.len), g.len as i64);
            return kernels::accumulate(program, grid, g, sum, loss, mean, n, first, last, len);
        }
        let writes = [g.into(), sum.into(), loss.into(), mean.into()];
        program.host("accumulate", [], writes, move |[], writes| {
            let [g, sum, loss, mean] = writes.map(floats_mut);
            let before = if first { 0.0 } else { mean[0] };
            mean[0] = before + loss[0] / n;
            match (first, last) {
                (true, _) => sum.copy_from_slice(g),
                (false, false) => pool::add_to(g, sum),
                (false, true) => {
                    pool::add_to(sum, g);
                    loss[0] = mean[0];
                }
            }
        });
    }
}

#[cfg(all(test, emulator))]
mod tests {
    use std::num::NonZeroUsize;

    use serde_json::{Value, json};

    use crate::config::RunConfig;
    use crate::data::{Library, fetch};
    use crate::device::{Device, Machine};
    use crate::error::Result;
    use crate::results::RunResult;
    use crate::results::json::Json;
    use crate::train::{LogSteps, run};

    fn trained(batch_size: usize, opt: Value, device: Device) -> Result<RunResult> {
        let config = json!({
            "dataset": "synthetic_linear", "dataset_kwargs": {"p": 6, "n_samples": 63}, "model": "mlp",
            "model_kwargs": {"output_size": 1, "bias": true}, "loss_func": "squared", "score_func": "squared",
            "opt": opt, "batch_size": batch_size, "max_epoch": 3, "run_id": 0,
        });
        let config = RunConfig::from_json(config.as_object().unwrap()).unwrap();
        let library = Library::new("data", true, fetch::Options::new(Vec::new(), true));
        let data = library.load(&config)?;
        let log = NonZeroUsize::new(2).map(LogSteps::from);
        let run = run(&config, &data, Machine::open(device)?, None, log, &())?;
        Ok(run.expect("nobody stops it"))
    }

    /// 63 samples: three batches of 20, or nine of 7 or 5 and some left over.
    #[test]
    fn a_step_of_several_batches_is_that_of_all_their_samples() {
        for device in [Device::Cpu, Device::Emulator] {
            let opt =
                |n| json!({"name": "momo", "lr": 1e-3, "lookahead_k": 2, "accumulate_steps": n});
            let whole = trained(20, opt(1), device).unwrap();
            for n in [2, 4] {
                let parts = trained(20 / n, opt(n), device).unwrap();
                assert_eq!(parts.summary["num_batches_per_epoch"], 3);
                for (ours, theirs) in parts.history.iter().zip(&whole.history) {
                    let close = |x: f64, y: f64| assert!((x / y - 1.0).abs() < 1e-5, "{x} {y}");
                    close(ours.train_loss, theirs.train_loss);
                    close(ours.grad_norm.into(), theirs.grad_norm.into());
                    assert_eq!(ours.step_logs.len(), 2);
                    for ((_, ours), (_, theirs)) in ours.step_logs.iter().zip(&theirs.step_logs) {
                        for ((step, x), (other, y)) in ours.iter().zip(theirs) {
                            assert_eq!(step, other);
                            let [Json::Float(x), Json::Float(y)] = [x, y] else {
                                panic!("no numbers");
                            };
                            close(*x, *y);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_accumulated_is_refused() {
        let refused = |batch, opt| trained(batch, opt, Device::Cpu).unwrap_err().message;
        let text = refused(
            4,
            json!({"name": "sgd", "sam_rho": 0.1, "accumulate_steps": 2}),
        );
        assert!(
            text.contains("accumulate_steps") && text.contains("sam_rho"),
            "{text}"
        );
        let text = refused(20, json!({"name": "sgd", "accumulate_steps": 4}));
        assert!(
            text.contains("4 batches of 20") && text.contains("63"),
            "{text}"
        );
    }
}
