use crate::graph::{Param, Params, Role, Var};

/// PyTorch's `Conv2d` with a square kernel of odd size and as much padding as keeps an image's size:
/// weight (out, in, kernel, kernel) and bias (out), uniform in ±1/sqrt(in kernel²).
#[derive(Clone, Copy, Debug)]
pub struct Conv2d {
    pub weight: Param,
    pub bias: Option<Param>,
    kernel: usize,
    stride: usize,
}

impl Conv2d {
    /// Draws the weight, then the bias. `name` is PyTorch's name of the layer.
    pub fn new(
        params: &mut Params,
        name: &str,
        (inputs, outputs): (usize, usize),
        kernel: usize,
        stride: usize,
        bias: bool,
    ) -> Conv2d {
        let bound = (1.0 / ((inputs * kernel * kernel) as f64).sqrt()) as f32;
        let shape = [outputs, inputs, kernel, kernel];
        let weight = params.uniform(format!("{name}.weight"), &shape, bound);
        let bias = bias.then(|| params.uniform(format!("{name}.bias"), &[outputs], bound));
        params.mark(bias, Role::Bias);
        Conv2d {
            weight,
            bias,
            kernel,
            stride,
        }
    }

    /// Of images (N, H, W, in): (N, ceil(H / stride), ceil(W / stride), out).
    pub fn forward<'t>(&self, x: Var<'t>) -> Var<'t> {
        let bias = self.bias.map(|b| x.tape.param(b));
        let weight = x.tape.param(self.weight);
        x.conv2d(weight, bias, self.stride, self.kernel / 2)
    }
}
