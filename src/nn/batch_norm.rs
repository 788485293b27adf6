use crate::graph::{Param, Params, Range, Role, Var};

/// PyTorch's `BatchNorm2d`: weight 1, bias 0, and running averages that start as mean 0 and variance 1.
#[derive(Clone, Copy, Debug)]
pub struct BatchNorm {
    pub weight: Param,
    pub bias: Param,
    /// The running mean and, behind it, the running variance.
    averages: Range,
}

impl BatchNorm {
    /// `name` is PyTorch's name of the layer.
    pub fn new(params: &mut Params, name: &str, channels: usize) -> BatchNorm {
        let weight = params.constant(format!("{name}.weight"), &[channels], 1.0);
        let bias = params.constant(format!("{name}.bias"), &[channels], 0.0);
        params.mark([weight, bias], Role::Norm);
        let mean = params.buffer(format!("{name}.running_mean"), &[channels], 0.0);
        let var = params.buffer(format!("{name}.running_var"), &[channels], 1.0);
        assert_eq!(mean.start + mean.len, var.start);
        BatchNorm {
            weight,
            bias,
            averages: Range {
                start: mean.start,
                len: mean.len + var.len,
            },
        }
    }

    /// Of (..., channels).
    pub fn forward<'t>(&self, x: Var<'t>) -> Var<'t> {
        let (weight, bias) = (x.tape.param(self.weight), x.tape.param(self.bias));
        x.batch_norm(weight, bias, self.averages)
    }
}
