//! First steps of a run, one by one: for goldens that hold no whole epochs.

use crate::config::RunConfig;
use crate::data::{Loader, Pair};
use crate::device::Target;
use crate::device::gpu::kernels::Step;
use crate::error::Result;
use crate::graph::{Mode, Params, Session};
use crate::optim::Stepper;
use crate::optim::schedule::Schedule;
use crate::train::Plans;

/// A step that was made: its loss, and the gradient of all parameters.
pub(super) struct Made<'a> {
    pub step: usize,
    pub loss: f64,
    pub params: &'a Params,
    pub gradient: &'a [f32],
}

/// The order in which a run visits its samples first.
pub(super) fn order(config: &RunConfig, data: &Pair) -> Vec<u32> {
    let mut loader = Loader::new(config.run_id, data.train.len(), config.batch_size);
    loader.next_epoch().to_vec()
}

/// Makes the first steps of a run, without dropout, on the batches of `samples`, and shows each. Returns the parameters
/// after them.
pub(super) fn steps(
    config: &RunConfig,
    data: &Pair,
    samples: &[u32],
    target: Target,
    mut see: impl FnMut(Made),
) -> Result<Vec<f32>> {
    let train = &data.train;
    let mode = Mode::TrainWithoutDropout;
    let Plans {
        mut params,
        train: plan,
        ..
    } = Plans::new(config, data, target.device, mode)?;
    let [mut x, mut y] = [0, 1].map(|i| vec![0.0; plan.inputs[i].len]);
    let mut session = Session::new(&params, vec![plan], target)?;
    let mut w = params.values.clone();
    let mut optimizer = Stepper::new(&config.opt, w.len(), Target::CPU)?;
    let of_epoch = train.len() / config.batch_size;
    let mut schedule = Schedule::new(&config.opt, config.max_epoch, of_epoch)?;
    let rates = schedule.next_epoch();
    for (step, indices) in samples.chunks_exact(config.batch_size).enumerate() {
        let placements = train.draw_placements(indices.len(), &mut params.generator);
        train.gather(indices, &placements, &mut x, &mut y);
        let loss = session.run(0, &[&x, &y], Step::default())?[0][0];
        let gradient = session.grads()?;
        see(Made {
            step,
            loss: loss.into(),
            params: &params,
            gradient: &gradient,
        });
        optimizer.step(rates[step].lr, loss, &mut w, &gradient)?;
        session.set_values(&w)?;
    }
    Ok(w)
}
