use crate::graph::{Param, Params, Role, Var};

/// PyTorch's `RMSNorm` over the last dimension: weight 1, no bias.
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm {
    pub weight: Param,
    eps: f32,
}

impl RmsNorm {
    /// `name` is PyTorch's name of the layer.
    pub fn new(params: &mut Params, name: &str, width: usize, eps: f32) -> RmsNorm {
        let weight = params.constant(format!("{name}.weight"), &[width], 1.0);
        params.mark([weight], Role::Norm);
        RmsNorm { weight, eps }
    }

    pub fn forward<'t>(&self, x: Var<'t>) -> Var<'t> {
        x.rms_norm(x.tape.param(self.weight), self.eps)
    }
}
