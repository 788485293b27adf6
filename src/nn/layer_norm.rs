use crate::graph::{Param, Params, Role, Var};

/// PyTorch's `LayerNorm` over the last dimension: weight 1 and bias 0.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm {
    pub weight: Param,
    pub bias: Param,
}

impl LayerNorm {
    /// `name` is PyTorch's name of the layer.
    pub fn new(params: &mut Params, name: &str, width: usize) -> LayerNorm {
        let weight = params.constant(format!("{name}.weight"), &[width], 1.0);
        let bias = params.constant(format!("{name}.bias"), &[width], 0.0);
        params.mark([weight, bias], Role::Norm);
        LayerNorm { weight, bias }
    }

    pub fn forward<'t>(&self, x: Var<'t>) -> Var<'t> {
        x.layer_norm(x.tape.param(self.weight), x.tape.param(self.bias))
    }
}
