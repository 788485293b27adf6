//! The VGG networks (Simonyan and Zisserman 2014) for CIFAR: 3x3 convolutions in five stages, each ending in a max
//! pool, and three linear layers.

use super::{Model, Row, images_of_cifar};
use crate::config::{Entry, Key, Kind};
use crate::graph::{Params, Role, Var};
use crate::nn::{BatchNorm, Conv2d, Linear};

struct Vgg {
    stages: Vec<Vec<(Conv2d, Option<BatchNorm>)>>,
    classifier: [Linear; 3],
}

/// Convolutions of the five stages, by depth.
const fn convolutions(depth: usize) -> [usize; 5] {
    match depth {
        11 => [1, 1, 2, 2, 2],
        13 => [2, 2, 2, 2, 2],
        16 => [2, 2, 3, 3, 3],
        19 => [2, 2, 4, 4, 4],
        _ => panic!("no VGG of this depth"),
    }
}

impl Vgg {
    fn new(params: &mut Params, classes: usize, counts: [usize; 5], batch_norm: bool) -> Vgg {
        // ReLU and pools count in PyTorch's names too.
        let (mut channels, mut index) = (3, 0);
        let mut stages = Vec::new();
        for (count, width) in counts.into_iter().zip([64, 128, 256, 512, 512]) {
            let mut stage = Vec::new();
            for _ in 0..count {
                let name = |index: usize| format!("features.{index}");
                let conv = Conv2d::new(params, &name(index), (channels, width), 3, 1, true);
                let norm = batch_norm.then(|| BatchNorm::new(params, &name(index + 1), width));
                stage.push((conv, norm));
                index += if batch_norm { 3 } else { 2 };
                channels = width;
            }
            index += 1;
            stages.push(stage);
        }
        let mut linear = |index: usize, outputs| {
            Linear::new(params, &format!("classifier.{index}"), 512, outputs, true)
        };
        let classifier = [linear(1, 512), linear(4, 512), linear(6, classes)];
        params.mark([classifier[2].weight], Role::Head);
        // The reference draws the convolutions' weights a second time and sets their biases to 0.
        for (conv, _) in stages.iter().flatten() {
            let outputs = params.tensor(conv.weight).shape[0];
            params.redraw_normal(conv.weight, (2.0 / (9 * outputs) as f64).sqrt() as f32);
            params.fill(conv.bias.expect("a bias"), 0.0);
        }
        Vgg { stages, classifier }
    }
}

impl Model for Vgg {
    fn forward<'t>(&self, mut x: Var<'t>) -> Var<'t> {
        for stage in &self.stages {
            for (conv, norm) in stage {
                x = conv.forward(x);
                x = norm.as_ref().map_or(x, |norm| norm.forward(x)).relu();
            }
            x = x.max_pool();
        }
        // One pixel is left: its mean is the pixel, without the dimensions of an image.
        x = x.average_pool();
        let [first, second, last] = &self.classifier;
        x = first.forward(x.dropout(0.5)).relu();
        x = second.forward(x.dropout(0.5)).relu();
        last.forward(x)
    }
}

/// The row of the network of this depth.
pub const fn row<const DEPTH: usize>(name: &'static str) -> Row {
    Row {
        entry: Entry {
            name,
            about: "VGG network for 3x32x32 images; the number is its depth",
            paper: "Simonyan and Zisserman 2014, arXiv:1409.1556",
            keys: &[Key {
                name: "batch_norm",
                kind: Kind::Flag,
                default: Some("false"),
                about: "batch norm after every convolution",
            }],
        },
        linear: false,
        example: r#"{"dataset": "cifar10", "model_kwargs": {"batch_norm": true}}"#,
        build: |params, data, values| {
            let classes = images_of_cifar(data)?;
            let counts = const { convolutions(DEPTH) };
            let net = Vgg::new(params, classes, counts, values.flag("batch_norm"));
            Ok(Box::new(net))
        },
    }
}
