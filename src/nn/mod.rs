//! Layers made of ops, with PyTorch's initial values and parameter names; losses and scores.

mod batch_norm;
mod conv2d;
mod feed_forward;
mod layer_norm;
pub mod loss;
mod rms_norm;

pub use batch_norm::BatchNorm;
pub use conv2d::Conv2d;
pub use feed_forward::FeedForward;
pub use layer_norm::LayerNorm;
pub use rms_norm::RmsNorm;

use crate::graph::{Param, Params, Role, Var};

/// PyTorch's `Linear`: weight (out, in) and bias (out), uniform in ±1/sqrt(in).
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    pub weight: Param,
    pub bias: Option<Param>,
}

impl Linear {
    /// Draws the weight, then the bias. `name` is PyTorch's name of the layer.
    pub fn new(
        params: &mut Params,
        name: &str,
        inputs: usize,
        outputs: usize,
        bias: bool,
    ) -> Linear {
        let bound = (1.0 / (inputs as f64).sqrt()) as f32;
        let weight = params.uniform(format!("{name}.weight"), &[outputs, inputs], bound);
        let bias = bias.then(|| params.uniform(format!("{name}.bias"), &[outputs], bound));
        params.mark(bias, Role::Bias);
        Linear { weight, bias }
    }

    /// The layer, whose weight has another role than hidden.
    pub fn marked(self, params: &mut Params, role: Role) -> Linear {
        params.mark([self.weight], role);
        self
    }

    pub fn forward<'t>(&self, x: Var<'t>) -> Var<'t> {
        let bias = self.bias.map(|b| x.tape.param(b));
        x.linear(x.tape.param(self.weight), bias)
    }
}
