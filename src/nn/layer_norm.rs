use crate::graph::{Params, Range, Var};

/// PyTorch's `LayerNorm` over the last dimension: weight 1 and bias 0.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm {
    pub weight: Range,
    pub bias: Range,
}

impl LayerNorm {
    /// `name` is PyTorch's name of the layer.
    pub fn new(params: &mut Params, name: &str, width: usize) -> LayerNorm {
        LayerNorm {
            weight: params.constant(format!("{name}.weight"), &[width], 1.0),
            bias: params.constant(format!("{name}.bias"), &[width], 0.0),
        }
    }

    pub fn forward<'t>(&self, x: Var<'t>) -> Var<'t> {
        x.layer_norm(x.tape.param(self.weight), x.tape.param(self.bias))
    }
}
