//! The ResNets for CIFAR (He et al. 2015, section 4.2): three stages of 16, 32 and 64 channels, and shortcuts
//! without weights.

use super::{Model, Row, images_of_cifar};
use crate::config::{Entry, Key, Kind};
use crate::graph::{Param, Params, Role, Var};
use crate::nn::{BatchNorm, Conv2d, Linear};

struct ResNet {
    conv: Conv2d,
    norm: Option<BatchNorm>,
    blocks: Vec<Block>,
    linear: Linear,
}

struct Block {
    convs: [Conv2d; 2],
    norms: Option<[BatchNorm; 2]>,
    /// Zero channels on either side of the shortcut, where it halves the image.
    pad: Option<usize>,
}

impl ResNet {
    fn new(params: &mut Params, classes: usize, depth: usize, batch_norm: bool) -> ResNet {
        let norm = |params: &mut Params, name: &str, channels| {
            batch_norm.then(|| BatchNorm::new(params, name, channels))
        };
        let mut channels = 16;
        let conv = Conv2d::new(params, "conv1", (3, channels), 3, 1, false);
        let first_norm = norm(params, "bn1", channels);
        let mut blocks = Vec::new();
        for (stage, width) in [16, 32, 64].into_iter().enumerate() {
            for i in 0..(depth - 2) / 6 {
                let name = format!("layer{}.{i}", stage + 1);
                let grows = width != channels;
                let (conv1, conv2) = (format!("{name}.conv1"), format!("{name}.conv2"));
                let stride = if grows { 2 } else { 1 };
                blocks.push(Block {
                    convs: [
                        Conv2d::new(params, &conv1, (channels, width), 3, stride, false),
                        Conv2d::new(params, &conv2, (width, width), 3, 1, false),
                    ],
                    norms: norm(params, &format!("{name}.bn1"), width)
                        .zip(norm(params, &format!("{name}.bn2"), width))
                        .map(|(a, b)| [a, b]),
                    pad: grows.then_some(width / 4),
                });
                channels = width;
            }
        }
        let net = ResNet {
            conv,
            norm: first_norm,
            blocks,
            linear: Linear::new(params, "linear", channels, classes, true)
                .marked(params, Role::Head),
        };
        net.redraw(params);
        net
    }

    /// The reference draws all weights a second time: Kaiming normal, fan in.
    fn redraw(&self, params: &mut Params) {
        let convs = self.blocks.iter().flat_map(|block| &block.convs);
        let convs = [&self.conv]
            .into_iter()
            .chain(convs)
            .map(|conv| conv.weight);
        let weights: Vec<Param> = convs.chain([self.linear.weight]).collect();
        for weight in weights {
            let fan_in: usize = params.tensor(weight).shape[1..].iter().product();
            params.redraw_normal(weight, (2.0 / fan_in as f64).sqrt() as f32);
        }
    }
}

impl Model for ResNet {
    fn forward<'t>(&self, x: Var<'t>) -> Var<'t> {
        let x = normalised(self.norm.as_ref(), self.conv.forward(x)).relu();
        let x = self.blocks.iter().fold(x, |x, block| block.forward(x));
        self.linear.forward(x.average_pool())
    }
}

impl Block {
    fn forward<'t>(&self, x: Var<'t>) -> Var<'t> {
        let [conv1, conv2] = &self.convs;
        let [norm1, norm2] = self
            .norms
            .as_ref()
            .map_or([None; 2], |[a, b]| [Some(a), Some(b)]);
        let y = normalised(norm1, conv1.forward(x)).relu();
        let y = normalised(norm2, conv2.forward(y));
        let shortcut = self.pad.map_or(x, |pad| x.shortcut(pad));
        y.plus(shortcut).relu()
    }
}

fn normalised<'t>(norm: Option<&BatchNorm>, x: Var<'t>) -> Var<'t> {
    norm.map_or(x, |norm| norm.forward(x))
}

/// The row of the network of this depth.
pub const fn row<const DEPTH: usize>(name: &'static str) -> Row {
    Row {
        entry: Entry {
            name,
            about: "residual network for 3x32x32 images with 16, 32 and 64 channels; the number is its depth",
            paper: "He et al. 2015, arXiv:1512.03385",
            keys: &[Key {
                name: "batch_norm",
                kind: Kind::Flag,
                default: Some("true"),
                about: "batch norm after every convolution",
            }],
        },
        linear: false,
        example: match DEPTH {
            110 => r#"{"dataset": "cifar100"}"#,
            _ => r#"{"dataset": "cifar10"}"#,
        },
        build: |params, data, values| {
            let classes = images_of_cifar(data)?;
            let net = ResNet::new(params, classes, DEPTH, values.flag("batch_norm"));
            Ok(Box::new(net))
        },
    }
}
