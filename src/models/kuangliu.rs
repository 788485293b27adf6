//! The ResNets of the ImageNet kind (He et al. 2015) as kuangliu's collection has them for 32x32 images: four
//! stages of 64 to 512 channels, shortcuts with a 1x1 convolution where the shape changes.

use super::{Model, Row, images_of_cifar};
use crate::config::Entry;
use crate::graph::{Params, Role, Var};
use crate::nn::{BatchNorm, Conv2d, Linear};

struct ResNet {
    first: Unit,
    blocks: Vec<Block>,
    linear: Linear,
}

/// A convolution and its batch norm.
struct Unit {
    conv: Conv2d,
    norm: BatchNorm,
}

struct Block {
    units: Vec<Unit>,
    shortcut: Option<Unit>,
}

/// Blocks of the four stages.
const fn blocks(depth: usize) -> [usize; 4] {
    match depth {
        18 => [2, 2, 2, 2],
        34 | 50 => [3, 4, 6, 3],
        101 => [3, 4, 23, 3],
        152 => [3, 8, 36, 3],
        _ => panic!("no ResNet of this depth"),
    }
}

impl Unit {
    /// `names` are those of the convolution and of the batch norm.
    fn new(
        params: &mut Params,
        names: [&str; 2],
        channels: (usize, usize),
        kernel: usize,
        stride: usize,
    ) -> Unit {
        Unit {
            conv: Conv2d::new(params, names[0], channels, kernel, stride, false),
            norm: BatchNorm::new(params, names[1], channels.1),
        }
    }

    fn forward<'t>(&self, x: Var<'t>) -> Var<'t> {
        self.norm.forward(self.conv.forward(x))
    }
}

impl Block {
    /// Two 3x3 convolutions, or a bottleneck: 3x3 between two 1x1, with four times as many channels at the end.
    fn new(
        params: &mut Params,
        name: &str,
        inputs: usize,
        width: usize,
        stride: usize,
        bottleneck: bool,
    ) -> Block {
        // Channels, kernel and stride of each convolution.
        let convs: &[(usize, usize, usize)] = if bottleneck {
            &[(width, 1, 1), (width, 3, stride), (4 * width, 1, 1)]
        } else {
            &[(width, 3, stride), (width, 3, 1)]
        };
        let (mut units, mut channels) = (Vec::new(), inputs);
        for (i, &(outputs, kernel, stride)) in convs.iter().enumerate() {
            let names = ["conv", "bn"].map(|kind| format!("{name}.{kind}{}", i + 1));
            let names = names.each_ref().map(String::as_str);
            units.push(Unit::new(
                params,
                names,
                (channels, outputs),
                kernel,
                stride,
            ));
            channels = outputs;
        }
        let shortcut = (stride != 1 || inputs != channels).then(|| {
            let names = [0, 1].map(|i| format!("{name}.shortcut.{i}"));
            let names = names.each_ref().map(String::as_str);
            Unit::new(params, names, (inputs, channels), 1, stride)
        });
        Block { units, shortcut }
    }

    fn forward<'t>(&self, x: Var<'t>) -> Var<'t> {
        let (last, units) = self.units.split_last().expect("a convolution");
        let y = units.iter().fold(x, |y, unit| unit.forward(y).relu());
        let shortcut = self.shortcut.as_ref().map_or(x, |unit| unit.forward(x));
        last.forward(y).plus(shortcut).relu()
    }
}

impl ResNet {
    fn new(params: &mut Params, classes: usize, counts: [usize; 4], bottleneck: bool) -> ResNet {
        let first = Unit::new(params, ["conv1", "bn1"], (3, 64), 3, 1);
        let (mut blocks, mut channels) = (Vec::new(), 64);
        for (stage, count) in counts.into_iter().enumerate() {
            let width = 64 << stage;
            for i in 0..count {
                let name = format!("layer{}.{i}", stage + 1);
                let stride = if stage > 0 && i == 0 { 2 } else { 1 };
                let block = Block::new(params, &name, channels, width, stride, bottleneck);
                blocks.push(block);
                channels = if bottleneck { 4 * width } else { width };
            }
        }
        ResNet {
            first,
            blocks,
            linear: Linear::new(params, "linear", channels, classes, true)
                .marked(params, Role::Head),
        }
    }
}

impl Model for ResNet {
    fn forward<'t>(&self, x: Var<'t>) -> Var<'t> {
        let x = self.first.forward(x).relu();
        let x = self.blocks.iter().fold(x, |x, block| block.forward(x));
        self.linear.forward(x.average_pool())
    }
}

/// The row of the network of this depth.
pub const fn row<const DEPTH: usize>(name: &'static str) -> Row {
    Row {
        entry: Entry {
            name,
            about: "residual network for 3x32x32 images with 64 to 512 channels; the number is its depth",
            paper: "He et al. 2015, arXiv:1512.03385",
            keys: &[],
        },
        linear: false,
        example: r#"{"dataset": "imagenet32"}"#,
        build: |params, data, _| {
            let classes = images_of_cifar(data)?;
            let net = ResNet::new(params, classes, const { blocks(DEPTH) }, DEPTH >= 50);
            Ok(Box::new(net))
        },
    }
}
