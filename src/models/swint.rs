//! The Swin transformer `swint`: attention in windows, every second time in shifted ones.

use super::{Model, Row, depth, images_of_cifar};
use crate::config::{Entry, Key, Kind};
use crate::graph::{Param, Params, Role, Var};
use crate::nn::{FeedForward, LayerNorm, Linear};
use crate::ops::window_bias::apart;

/// By how much each stage shrinks the images.
const FACTORS: [usize; 4] = [2, 2, 2, 1];

struct Swin {
    stages: Vec<Stage>,
    norm: LayerNorm,
    head: Linear,
}

struct Stage {
    factor: usize,
    merge: Linear,
    blocks: Vec<(Attention, FeedForward)>,
}

/// The attention half of a block.
struct Attention {
    norm: LayerNorm,
    bias: Param,
    to_qkv: Linear,
    to_out: Linear,
    heads: usize,
    window: usize,
    shift: usize,
}

/// What all attention of a network has in common.
struct Shape {
    head_dim: usize,
    window: usize,
    /// Is the bias by distances, not by pairs of pixels?
    relative: bool,
}

impl Attention {
    fn new(
        params: &mut Params,
        name: &str,
        (dim, heads): (usize, usize),
        shape: &Shape,
        shifted: bool,
    ) -> Attention {
        let (inner, window) = (heads.saturating_mul(shape.head_dim), shape.window);
        let shift = if shifted { window / 2 } else { 0 };
        let norm = LayerNorm::new(params, &format!("{name}.norm"), dim);
        let name = format!("{name}.fn");
        if shifted {
            for (mask, rows) in [("upper_lower_mask", true), ("left_right_mask", false)] {
                add_mask(params, &format!("{name}.{mask}"), (window, shift), rows);
            }
        }
        let side = if shape.relative {
            2 * window - 1
        } else {
            window * window
        };
        // Listed first, drawn after the next layer.
        let bias = params.constant(format!("{name}.pos_embedding"), &[side, side], 0.0);
        let to_qkv = Linear::new(
            params,
            &format!("{name}.to_qkv"),
            dim,
            inner.saturating_mul(3),
            false,
        );
        params.redraw_normal(bias, 1.0);
        params.mark([bias], Role::Bias);
        Attention {
            norm,
            bias,
            to_qkv,
            to_out: Linear::new(params, &format!("{name}.to_out"), inner, dim, true),
            heads,
            window,
            shift,
        }
    }

    fn forward<'t>(&self, x: Var<'t>) -> Var<'t> {
        let [_, height, width, _] = x.shape()[..] else {
            panic!("swint: {:?} is not (N, H, W, C)", x.shape());
        };
        let windows = [height / self.window, width / self.window];
        let bias = x.tape.param(self.bias);
        let bias = bias.window_bias(self.window, windows, self.shift);
        let tokens = self.norm.forward(x).windows(self.window, self.shift);
        let qkv = self.to_qkv.forward(tokens);
        let y = qkv.attention(self.heads, Some(bias), 0.0);
        let y = self.to_out.forward(y);
        y.from_windows([height, width], self.shift).plus(x)
    }
}

/// Adds one of the masks that PyTorch's model carries along with its weights; attention has them from
/// `window_bias`.
fn add_mask(params: &mut Params, name: &str, (window, shift): (usize, usize), rows: bool) {
    let pixels = window * window;
    let range = params.buffer(name, &[pixels, pixels], 0.0);
    let values = &mut params.buffer_values[range.start..range.start + range.len];
    for (pair, value) in values.iter_mut().enumerate() {
        if apart(window, shift, rows, [pair / pixels, pair % pixels]) {
            *value = f32::NEG_INFINITY;
        }
    }
}

impl Model for Swin {
    fn forward<'t>(&self, x: Var<'t>) -> Var<'t> {
        let x = self.stages.iter().fold(x, |x, stage| {
            let x = match stage.factor {
                1 => x,
                factor => x.merge_pixels(factor),
            };
            let x = stage.merge.forward(x);
            let blocks = stage.blocks.iter();
            blocks.fold(x, |x, (attention, mlp)| mlp.forward(attention.forward(x)))
        });
        self.head.forward(self.norm.forward(x.average_pool()))
    }
}

pub const SWINT: Row = Row {
    entry: Entry {
        name: "swint",
        about: "Swin transformer on 32x32 images",
        paper: "Liu et al. 2021, https://arxiv.org/abs/2103.14030",
        keys: &[
            Key {
                name: "hidden_dim",
                kind: Kind::Count,
                default: Some("96"),
                about: "width of the first stage; each next one has twice as much",
            },
            Key {
                name: "layers",
                kind: Kind::Counts,
                default: Some("[2, 2, 6, 2]"),
                about: "numbers of blocks of the four stages, all even",
            },
            Key {
                name: "heads",
                kind: Kind::Counts,
                default: Some("[3, 6, 12, 24]"),
                about: "attention heads of the four stages",
            },
            Key {
                name: "head_dim",
                kind: Kind::Count,
                default: Some("32"),
                about: "width of a head",
            },
            Key {
                name: "window_size",
                kind: Kind::Count,
                default: Some("4"),
                about: "side of a window in pixels: 1, 2 or 4",
            },
            Key {
                name: "relative_pos_embedding",
                kind: Kind::Flag,
                default: Some("true"),
                about: "one bias per distance of two pixels, not one per pair of pixels of a window",
            },
        ],
    },
    linear: false,
    example: r#"{"dataset": "cifar10"}"#,
    build: |params, data, values| {
        let classes = images_of_cifar(data)?;
        let (layers, heads) = (values.counts("layers"), values.counts("heads"));
        for (key, counts) in [("layers", &layers), ("heads", &heads)] {
            if counts.len() != FACTORS.len() {
                return Err(format!(
                    "model_kwargs.{key} is {counts:?}, but there are {} stages",
                    FACTORS.len()
                ));
            }
        }
        if layers.iter().any(|n| n % 2 == 1) {
            return Err(format!(
                "model_kwargs.layers is {layers:?}, but shifted and other blocks come in pairs"
            ));
        }
        let shape = Shape {
            head_dim: values.count("head_dim"),
            window: values.count("window_size"),
            relative: values.flag("relative_pos_embedding"),
        };
        // The last stages see 4x4 pixels.
        if !4usize.is_multiple_of(shape.window) {
            return Err(format!(
                "model_kwargs.window_size is {}, but windows must divide 4 pixels",
                shape.window
            ));
        }
        let mut stages = Vec::new();
        let (mut channels, mut dim) = (3, values.count("hidden_dim"));
        for (i, factor) in FACTORS.into_iter().enumerate() {
            let name = format!("stage{}", i + 1);
            let linear = format!("{name}.patch_partition.linear");
            let merge = Linear::new(params, &linear, channels * factor * factor, dim, true);
            if i == 0 {
                params.mark([merge.weight], Role::Embedding);
            }
            let mut blocks = Vec::new();
            for block in 0..depth("layers", layers[i])? {
                let name = format!("{name}.layers.{}.{}", block / 2, block % 2);
                let attention = format!("{name}.attention_block.fn");
                let dims = (dim, heads[i]);
                let attention = Attention::new(params, &attention, dims, &shape, block % 2 == 1);
                let mlp = format!("{name}.mlp_block.fn");
                blocks.push((
                    attention,
                    FeedForward::new(params, &mlp, dim, 4 * dim, None),
                ));
            }
            stages.push(Stage {
                factor,
                merge,
                blocks,
            });
            (channels, dim) = (dim, 2 * dim);
        }
        Ok(Box::new(Swin {
            stages,
            norm: LayerNorm::new(params, "mlp_head.0", channels),
            head: Linear::new(params, "mlp_head.1", channels, classes, true)
                .marked(params, Role::Head),
        }))
    },
};
