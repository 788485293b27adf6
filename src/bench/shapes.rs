//! The ops of the experiments at their shapes.

use crate::graph::Range;
use crate::ops::{Case, Data};

type Operands = &'static [&'static [usize]];

const LABELS: &[usize] = &[128, 1];

/// A 3x3 convolution (images, side, side, inputs), without bias.
const fn conv(about: &'static str, operands: Operands) -> (&'static str, Case) {
    let case = Case::new(about, operands, |x| x[0].conv2d(x[1], None, 1, 1));
    ("conv2d", case)
}

/// One that halves the image.
const fn conv_stride_2(about: &'static str, operands: Operands) -> (&'static str, Case) {
    let case = Case::new(about, operands, |x| x[0].conv2d(x[1], None, 2, 1));
    ("conv2d", case)
}

const fn conv_bias(about: &'static str, operands: Operands) -> (&'static str, Case) {
    let case = Case::new(about, operands, |x| x[0].conv2d(x[1], Some(x[2]), 1, 1));
    ("conv2d", case)
}

/// The first one, whose input is data and needs no gradient.
const fn first_conv(about: &'static str, weight: Operands) -> (&'static str, Case) {
    let case = Case::new(about, weight, |x| x[1].conv2d(x[0], None, 1, 1));
    ("conv2d", case.with_data(&[128, 32, 32, 3], Data::Normal))
}

/// Batch norm and ReLU in one.
const fn norm<const C: usize>(about: &'static str, operands: Operands) -> (&'static str, Case) {
    let case = Case::new(about, operands, |x| {
        x[0].batch_norm(x[1], x[2], averages(C)).relu()
    });
    ("batch_norm", case.with_buffers(2 * C))
}

/// Batch norm, a sum with a fourth operand, and ReLU in one.
const fn norm_add<const C: usize>(about: &'static str, operands: Operands) -> (&'static str, Case) {
    let case = Case::new(about, operands, |x| {
        let y = x[0].batch_norm(x[1], x[2], averages(C));
        y.plus(x[3]).relu()
    });
    ("batch_norm", case.with_buffers(2 * C))
}

const fn averages(channels: usize) -> Range {
    Range {
        start: 0,
        len: 2 * channels,
    }
}

const fn pool(about: &'static str, operands: Operands) -> (&'static str, Case) {
    ("max_pool", Case::new(about, operands, |x| x[0].max_pool()))
}

const fn linear(about: &'static str, operands: Operands) -> (&'static str, Case) {
    let case = Case::new(about, operands, |x| x[0].linear(x[1], Some(x[2])));
    ("linear", case)
}

/// Without bias.
const fn linear_only(about: &'static str, operands: Operands) -> (&'static str, Case) {
    (
        "linear",
        Case::new(about, operands, |x| x[0].linear(x[1], None)),
    )
}

const fn layer_norm(about: &'static str, operands: Operands) -> (&'static str, Case) {
    let case = Case::new(about, operands, |x| x[0].layer_norm(x[1], x[2]));
    ("layer_norm", case)
}

const fn cross_entropy(
    about: &'static str,
    logits: Operands,
    labels: &'static [usize],
    classes: &'static [usize],
) -> (&'static str, Case) {
    let case = Case::new(about, logits, |x| x[0].cross_entropy(x[1]));
    (
        "cross_entropy",
        case.with_data(labels, Data::Indices(classes)),
    )
}

/// Names of ops with their cases. Images are (images, rows, columns, channels), tokens (images, tokens, width).
pub(super) const AT_SIZE: &[(&str, Case)] = &[
    // The MLP on MNIST.
    (
        "linear",
        Case::new("128x784 to 100, x is data", &[&[100, 784], &[100]], |x| {
            x[2].linear(x[0], Some(x[1]))
        })
        .with_data(&[128, 784], Data::Normal),
    ),
    linear("128x100 to 100", &[&[128, 100], &[100, 100], &[100]]),
    linear("128x100 to 10", &[&[128, 100], &[10, 100], &[10]]),
    (
        "relu",
        Case::new("128x100", &[&[128, 100]], |x| x[0].relu()),
    ),
    cross_entropy("128 rows, 10 classes", &[&[128, 10]], LABELS, &[10]),
    // ResNet20 and ResNet110.
    first_conv("3 to 16 on 32x32, x is data", &[&[16, 3, 3, 3]]),
    conv("16 to 16 on 32x32", &[&[128, 32, 32, 16], &[16, 16, 3, 3]]),
    conv_stride_2(
        "16 to 32 on 32x32, stride 2",
        &[&[128, 32, 32, 16], &[32, 16, 3, 3]],
    ),
    conv("32 to 32 on 16x16", &[&[128, 16, 16, 32], &[32, 32, 3, 3]]),
    conv_stride_2(
        "32 to 64 on 16x16, stride 2",
        &[&[128, 16, 16, 32], &[64, 32, 3, 3]],
    ),
    conv("64 to 64 on 8x8", &[&[128, 8, 8, 64], &[64, 64, 3, 3]]),
    norm::<16>("16 on 32x32, ReLU", &[&[128, 32, 32, 16], &[16], &[16]]),
    norm::<32>("32 on 16x16, ReLU", &[&[128, 16, 16, 32], &[32], &[32]]),
    norm::<64>("64 on 8x8, ReLU", &[&[128, 8, 8, 64], &[64], &[64]]),
    norm_add::<16>(
        "16 on 32x32, sum, ReLU",
        &[&[128, 32, 32, 16], &[16], &[16], &[128, 32, 32, 16]],
    ),
    norm_add::<32>(
        "32 on 16x16, sum, ReLU",
        &[&[128, 16, 16, 32], &[32], &[32], &[128, 16, 16, 32]],
    ),
    norm_add::<64>(
        "64 on 8x8, sum, ReLU",
        &[&[128, 8, 8, 64], &[64], &[64], &[128, 8, 8, 64]],
    ),
    (
        "shortcut",
        Case::new("16 on 32x32 to 32", &[&[128, 32, 32, 16]], |x| {
            x[0].shortcut(8)
        }),
    ),
    (
        "shortcut",
        Case::new("32 on 16x16 to 64", &[&[128, 16, 16, 32]], |x| {
            x[0].shortcut(16)
        }),
    ),
    (
        "average_pool",
        Case::new("64 on 8x8", &[&[128, 8, 8, 64]], |x| x[0].average_pool()),
    ),
    linear("128x64 to 10", &[&[128, 64], &[10, 64], &[10]]),
    linear("128x64 to 100", &[&[128, 64], &[100, 64], &[100]]),
    cross_entropy("128 rows, 100 classes", &[&[128, 100]], LABELS, &[100]),
    // VGG16.
    (
        "conv2d",
        Case::new(
            "3 to 64 on 32x32, bias, x is data",
            &[&[64, 3, 3, 3], &[64]],
            |x| x[2].conv2d(x[0], Some(x[1]), 1, 1),
        )
        .with_data(&[128, 32, 32, 3], Data::Normal),
    ),
    conv_bias(
        "64 to 64 on 32x32, bias",
        &[&[128, 32, 32, 64], &[64, 64, 3, 3], &[64]],
    ),
    conv_bias(
        "64 to 128 on 16x16, bias",
        &[&[128, 16, 16, 64], &[128, 64, 3, 3], &[128]],
    ),
    conv_bias(
        "128 to 128 on 16x16, bias",
        &[&[128, 16, 16, 128], &[128, 128, 3, 3], &[128]],
    ),
    conv_bias(
        "128 to 256 on 8x8, bias",
        &[&[128, 8, 8, 128], &[256, 128, 3, 3], &[256]],
    ),
    conv_bias(
        "256 to 256 on 8x8, bias",
        &[&[128, 8, 8, 256], &[256, 256, 3, 3], &[256]],
    ),
    conv_bias(
        "256 to 512 on 4x4, bias",
        &[&[128, 4, 4, 256], &[512, 256, 3, 3], &[512]],
    ),
    conv_bias(
        "512 to 512 on 4x4, bias",
        &[&[128, 4, 4, 512], &[512, 512, 3, 3], &[512]],
    ),
    conv_bias(
        "512 to 512 on 2x2, bias",
        &[&[128, 2, 2, 512], &[512, 512, 3, 3], &[512]],
    ),
    norm::<64>("64 on 32x32, ReLU", &[&[128, 32, 32, 64], &[64], &[64]]),
    norm::<128>("128 on 16x16, ReLU", &[&[128, 16, 16, 128], &[128], &[128]]),
    norm::<256>("256 on 8x8, ReLU", &[&[128, 8, 8, 256], &[256], &[256]]),
    norm::<512>("512 on 4x4, ReLU", &[&[128, 4, 4, 512], &[512], &[512]]),
    norm::<512>("512 on 2x2, ReLU", &[&[128, 2, 2, 512], &[512], &[512]]),
    pool("64 on 32x32", &[&[128, 32, 32, 64]]),
    pool("128 on 16x16", &[&[128, 16, 16, 128]]),
    pool("256 on 8x8", &[&[128, 8, 8, 256]]),
    pool("512 on 4x4", &[&[128, 4, 4, 512]]),
    pool("512 on 2x2", &[&[128, 2, 2, 512]]),
    linear("128x512 to 512", &[&[128, 512], &[512, 512], &[512]]),
    (
        "dropout",
        Case::new("128x512, half", &[&[128, 512]], |x| x[0].dropout(0.5)),
    ),
    // The ViT: 512 images, 64 patches and a class token.
    (
        "windows",
        Case::new("patches of 4 on 32x32", &[&[512, 32, 32, 3]], |x| {
            x[0].patches(4)
        }),
    ),
    layer_norm("32768x48", &[&[512, 64, 48], &[48], &[48]]),
    layer_norm("33280x512", &[&[512, 65, 512], &[512], &[512]]),
    layer_norm("512x512", &[&[512, 512], &[512], &[512]]),
    linear("32768x48 to 512", &[&[512, 64, 48], &[512, 48], &[512]]),
    linear_only(
        "33280x512 to 1536, no bias",
        &[&[512, 65, 512], &[1536, 512]],
    ),
    linear("33280x512 to 512", &[&[512, 65, 512], &[512, 512], &[512]]),
    linear("512x512 to 512", &[&[512, 512], &[512, 512], &[512]]),
    linear("512x512 to 10", &[&[512, 512], &[10, 512], &[10]]),
    (
        "embed_tokens",
        Case::new(
            "64 tokens of 512",
            &[&[512, 64, 512], &[1, 1, 512], &[1, 65, 512]],
            |x| x[0].embed_tokens(x[1], x[2]),
        ),
    ),
    (
        "dropout",
        Case::new("33280x512, a tenth", &[&[512, 65, 512]], |x| {
            x[0].dropout(0.1)
        }),
    ),
    (
        "attention",
        Case::new(
            "65 tokens, 8 heads of 64, dropout",
            &[&[512, 65, 1536]],
            |x| x[0].attention(8, None, 0.1),
        ),
    ),
    (
        "gelu",
        Case::new("33280x512", &[&[512, 65, 512]], |x| x[0].gelu()),
    ),
    (
        "add",
        Case::new("33280x512", &[&[512, 65, 512], &[512, 65, 512]], |x| {
            x[0].plus(x[1])
        }),
    ),
    (
        "select_token",
        Case::new("the first of 65", &[&[512, 65, 512]], |x| {
            x[0].select_token(0)
        }),
    ),
    cross_entropy("512 rows, 10 classes", &[&[512, 10]], &[512, 1], &[10]),
    // The language model: 64 windows of 256 tokens.
    linear_only("16384x384 to 1152", &[&[64, 256, 384], &[1152, 384]]),
    linear_only("16384x384 to 1536", &[&[64, 256, 384], &[1536, 384]]),
    linear_only("16384x1536 to 384", &[&[64, 256, 1536], &[384, 1536]]),
    linear_only("16384x384 to 92", &[&[64, 256, 384], &[92, 384]]),
    (
        "causal_attention",
        Case::new(
            "256 tokens, turned, 6 heads of 64",
            &[&[64, 256, 1152]],
            |x| x[0].causal_attention(6, Some(500_000.0)),
        ),
    ),
    (
        "token_embedding",
        Case::new("16384 tokens of 384, 92 codes", &[&[92, 384]], |x| {
            x[0].token_embedding(x[1])
        })
        .with_data(&[64, 256], Data::Indices(&[92])),
    ),
    (
        "rms_norm",
        Case::new("16384x384", &[&[64, 256, 384], &[384]], |x| {
            x[0].rms_norm(x[1], 1e-6)
        }),
    ),
    (
        "silu",
        Case::new("16384x1536", &[&[64, 256, 1536]], |x| x[0].silu()),
    ),
    (
        "swiglu",
        Case::new("16384 of twice 1536", &[&[64, 256, 3072]], |x| {
            x[0].swiglu()
        }),
    ),
    (
        "relu_squared",
        Case::new("16384x1536", &[&[64, 256, 1536]], |x| x[0].relu_squared()),
    ),
    cross_entropy(
        "16384 rows, 92 classes",
        &[&[64, 256, 92]],
        &[64, 256],
        &[92],
    ),
];
