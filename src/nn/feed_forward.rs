use super::{LayerNorm, Linear};
use crate::graph::{Params, Var};

/// The feed-forward half of a pre-norm transformer block: x plus layer norm, linear, GELU, linear of x.
#[derive(Clone, Copy, Debug)]
pub struct FeedForward {
    norm: LayerNorm,
    first: Linear,
    second: Linear,
    dropout: f64,
}

impl FeedForward {
    /// Names are those of a `PreNorm` called `name` around a `Sequential` called `net`, in which `dropout`, if it is
    /// there (even as 0), stands after GELU and at the end.
    pub fn new(
        params: &mut Params,
        name: &str,
        dim: usize,
        hidden: usize,
        dropout: Option<f64>,
    ) -> FeedForward {
        let second = if dropout.is_some() { 3 } else { 2 };
        let layer = |i: usize| format!("{name}.fn.net.{i}");
        FeedForward {
            norm: LayerNorm::new(params, &format!("{name}.norm"), dim),
            first: Linear::new(params, &layer(0), dim, hidden, true),
            second: Linear::new(params, &layer(second), hidden, dim, true),
            dropout: dropout.unwrap_or(0.0),
        }
    }

    pub fn forward<'t>(&self, x: Var<'t>) -> Var<'t> {
        let hidden = self.first.forward(self.norm.forward(x)).gelu();
        let y = self.second.forward(hidden.dropout(self.dropout));
        y.dropout(self.dropout).plus(x)
    }
}
