//! Convolutions of the reference's networks, and a whole ResNet20 forward and back, batch 128.
//!
//! `cargo bench --bench conv`, and in the same minute `python benches/peers/conv.py` for PyTorch's times.

use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use stepback_native::cpu::attention::Attention;
use stepback_native::cpu::batch_norm::{Affine, Averages, BatchNorm, MOMENTUM, Saved, Then};
use stepback_native::cpu::conv::{Conv2d, Epilogue, Shape};
use stepback_native::cpu::gemm::{Matrix, gemm};
use stepback_native::cpu::math::{gelu, gelu_backward};
use stepback_native::cpu::norm::Norm;
use stepback_native::cpu::pool::Images;

/// Memory that starts at a cache line, as the arena's slots do, with unremarkable numbers in it.
struct Buffer {
    memory: Vec<f32>,
    start: usize,
}

impl Buffer {
    fn new(len: usize) -> Buffer {
        let memory: Vec<f32> = (0..len + 16).map(|i| (i % 17) as f32 * 0.1 - 0.8).collect();
        let start = memory.as_ptr().align_offset(64);
        Buffer { memory, start }
    }
}

impl std::ops::Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        let end = self.memory.len() + self.start - 16;
        &self.memory[self.start..end]
    }
}

impl std::ops::DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        let end = self.memory.len() + self.start - 16;
        &mut self.memory[self.start..end]
    }
}

const fn square(side: usize, channels_in: usize, channels_out: usize, stride: usize) -> Shape {
    Shape {
        images: 128,
        height: side,
        width: side,
        channels_in,
        channels_out,
        kernel: 3,
        stride,
        pad: 1,
    }
}

/// A convolution with its buffers.
struct Layer {
    conv: Conv2d,
    y: Buffer,
    dx: Buffer,
    w: Buffer,
    dw: Buffer,
    ws: Buffer,
}

impl Layer {
    fn new(shape: Shape) -> Layer {
        let conv = Conv2d::new(shape);
        Layer {
            y: Buffer::new(shape.output_len()),
            dx: Buffer::new(shape.input_len()),
            w: Buffer::new(shape.weight_len()),
            dw: Buffer::new(shape.weight_len()),
            ws: Buffer::new(conv.workspace(rayon::current_num_threads())),
            conv,
        }
    }

    fn forward(&mut self, x: &[f32]) {
        let epilogue = Epilogue::default();
        self.conv
            .forward(x, &self.w, epilogue, &mut self.y, &mut self.ws);
    }

    fn input_gradient(&mut self, dy: &[f32]) {
        self.conv
            .input_gradient(dy, &self.w, false, &mut self.dx, &mut self.ws);
    }

    fn weight_gradient(&mut self, x: &[f32], dy: &[f32]) {
        self.conv.weight_gradient(x, dy, &mut self.dw, &mut self.ws);
    }
}

fn convolutions(c: &mut Criterion) {
    let shapes = [
        ("resnet20 first", square(32, 3, 16, 1)),
        ("resnet20 stage 1", square(32, 16, 16, 1)),
        ("resnet20 into 2", square(32, 16, 32, 2)),
        ("resnet20 stage 2", square(16, 32, 32, 1)),
        ("resnet20 into 3", square(16, 32, 64, 2)),
        ("resnet20 stage 3", square(8, 64, 64, 1)),
        ("vgg16 64", square(32, 64, 64, 1)),
        ("vgg16 128", square(16, 128, 128, 1)),
        ("vgg16 256", square(8, 256, 256, 1)),
        ("vgg16 512", square(4, 512, 512, 1)),
        ("vgg16 512 last", square(2, 512, 512, 1)),
    ];
    for (name, shape) in shapes {
        let mut group = c.benchmark_group(name);
        group.sample_size(10);
        let (x, dy) = (
            Buffer::new(shape.input_len()),
            Buffer::new(shape.output_len()),
        );
        let mut layer = Layer::new(shape);
        group.bench_function("y", |b| b.iter(|| layer.forward(&x)));
        if shape.channels_in > 3 {
            group.bench_function("dx", |b| b.iter(|| layer.input_gradient(&dy)));
        }
        group.bench_function("dw", |b| b.iter(|| layer.weight_gradient(&x, &dy)));
    }
}

/// A convolution and the batch norm after it.
struct Unit {
    layer: Layer,
    norm: BatchNorm,
    /// After batch norm, shortcut and ReLU; gradient of the convolution's output, and of the shortcut.
    y: Buffer,
    dz: Buffer,
    d_shortcut: Buffer,
    /// gamma, beta, running mean and variance, mean, rstd, dgamma, dbeta.
    rows: [Buffer; 8],
    ws: Buffer,
}

impl Unit {
    fn new(shape: Shape) -> Unit {
        let norm = BatchNorm {
            pixels: shape.output_len() / shape.channels_out,
            channels: shape.channels_out,
        };
        Unit {
            layer: Layer::new(shape),
            norm,
            y: Buffer::new(shape.output_len()),
            dz: Buffer::new(shape.output_len()),
            d_shortcut: Buffer::new(shape.output_len()),
            rows: std::array::from_fn(|_| Buffer::new(norm.channels)),
            ws: Buffer::new(norm.workspace()),
        }
    }

    fn forward(&mut self, x: &[f32], shortcut: Option<&[f32]>) {
        self.layer.forward(x);
        let [gamma, beta, running_mean, running_var, mean, rstd, _, _] = &mut self.rows;
        self.norm.train(
            &self.layer.y,
            Affine { gamma, beta },
            shortcut,
            true,
            Averages {
                mean: running_mean,
                var: running_var,
                weight: MOMENTUM,
            },
            Saved { mean, rstd },
            &mut self.y,
            &mut self.ws,
        );
    }

    fn backward(&mut self, x: &[f32], dy: &[f32], with_shortcut: bool, with_dx: bool) {
        let [gamma, beta, _, _, mean, rstd, dgamma, dbeta] = &mut self.rows;
        let then = if with_shortcut {
            Then::AddRelu {
                y: &self.y,
                d_residual: &mut self.d_shortcut,
            }
        } else {
            Then::Relu
        };
        self.norm.backward(
            &self.layer.y,
            Affine { gamma, beta },
            Saved { mean, rstd },
            dy,
            then,
            &mut self.dz,
            (dgamma, dbeta),
            &mut self.ws,
        );
        self.layer.weight_gradient(x, &self.dz);
        if with_dx {
            self.layer.input_gradient(&self.dz);
        }
    }
}

/// The activations that a block of two units starts from, where they need the shortcut without weights.
struct Narrowed {
    images: Images,
    y: Buffer,
}

fn resnet20(c: &mut Criterion) {
    let mut first = Unit::new(square(32, 3, 16, 1));
    let mut blocks: Vec<(Option<Narrowed>, Unit, Unit)> = Vec::new();
    for (side, channels) in [(32, 16), (16, 32), (8, 64)] {
        for block in 0..3 {
            let narrow = block == 0 && channels > 16;
            let into = if narrow {
                square(2 * side, channels / 2, channels, 2)
            } else {
                square(side, channels, channels, 1)
            };
            let narrowed = narrow.then(|| {
                let images = Images {
                    images: 128,
                    height: 2 * side,
                    width: 2 * side,
                    channels: channels / 2,
                };
                Narrowed {
                    y: Buffer::new(images.shortcut_len(channels / 4)),
                    images,
                }
            });
            let second = Unit::new(square(side, channels, channels, 1));
            blocks.push((narrowed, Unit::new(into), second));
        }
    }
    let x = Buffer::new(128 * 32 * 32 * 3);
    let dy = Buffer::new(128 * 8 * 8 * 64);
    let forward = |first: &mut Unit, blocks: &mut Vec<(Option<Narrowed>, Unit, Unit)>| {
        first.forward(&x, None);
        let mut x = &first.y;
        for (narrowed, a, b) in blocks {
            a.forward(x, None);
            match narrowed {
                Some(n) => {
                    n.images.shortcut(n.images.channels / 2, x, &mut n.y);
                    b.forward(&a.y, Some(&n.y));
                }
                None => b.forward(&a.y, Some(x)),
            }
            x = &b.y;
        }
    };
    let backward = |first: &mut Unit, blocks: &mut Vec<(Option<Narrowed>, Unit, Unit)>| {
        for i in (0..blocks.len()).rev() {
            let (before, rest) = blocks.split_at_mut(i);
            let ((narrowed, a, b), after) = rest.split_first_mut().expect("i is in range");
            let dy = after.first().map_or(&dy, |next| &next.1.layer.dx);
            let x = before.last().map_or(&first.y, |last| &last.2.y);
            b.backward(&a.y, dy, true, true);
            a.backward(x, &b.layer.dx, false, true);
            match narrowed {
                Some(n) => {
                    let pad = n.images.channels / 2;
                    n.images
                        .shortcut_backward(pad, &b.d_shortcut, true, &mut a.layer.dx);
                }
                None => stepback_native::cpu::pool::add_to(&b.d_shortcut, &mut a.layer.dx),
            }
        }
        first.backward(&x, &blocks[0].1.layer.dx, false, false);
    };
    let mut group = c.benchmark_group("resnet20");
    group.sample_size(10);
    group.bench_function("forward", |b| {
        b.iter(|| forward(&mut first, &mut blocks));
    });
    group.bench_function("forward and back", |b| {
        b.iter(|| {
            forward(&mut first, &mut blocks);
            backward(&mut first, &mut blocks);
        });
    });
}

/// What a block of the ViT is made of: 64 images of 65 tokens, width 512, 8 heads of 64.
fn vit(c: &mut Criterion) {
    let tokens = 64 * 65;
    let mut group = c.benchmark_group("vit");
    group.sample_size(10);
    for (k, n) in [(512, 1536), (512, 512)] {
        let (x, w) = (Buffer::new(tokens * k), Buffer::new(n * k));
        let (mut y, mut dx, mut dw) = (
            Buffer::new(tokens * n),
            Buffer::new(tokens * k),
            Buffer::new(n * k),
        );
        group.bench_function(format!("linear {k} {n}, y, dx, dw"), |b| {
            b.iter(|| {
                let (x, w) = (Matrix::new(&x, k), Matrix::new(&w, k));
                gemm((tokens, k, n), 1.0, x, w.t(), 0.0, &mut y, n);
                let dy = Matrix::new(&y, n);
                gemm((tokens, n, k), 1.0, dy, w, 0.0, &mut dx, k);
                gemm((n, tokens, k), 1.0, dy.t(), x, 0.0, &mut dw, k);
            });
        });
    }
    let shape = Attention {
        sequences: 64,
        tokens: 65,
        heads: 8,
        head_dim: 64,
    };
    let (qkv, d_o) = (
        Buffer::new(3 * shape.output_len()),
        Buffer::new(shape.output_len()),
    );
    let (mut p, mut ds, mut o, mut dqkv) = (
        Buffer::new(shape.probabilities_len()),
        Buffer::new(shape.probabilities_len()),
        Buffer::new(shape.output_len()),
        Buffer::new(qkv.len()),
    );
    let mut ws = Buffer::new(shape.workspace(rayon::current_num_threads()));
    group.bench_function("attention", |b| {
        b.iter(|| {
            shape.forward(&qkv, None, None, &mut p, &mut o, &mut ws);
            shape.backward(&qkv, None, &p, &d_o, &mut ds, &mut dqkv, &mut ws);
        });
    });
    let norm = Norm {
        rows: tokens,
        width: 512,
        centred: true,
        eps: 1e-5,
    };
    let (x, gamma, beta) = (
        Buffer::new(tokens * 512),
        Buffer::new(512),
        Buffer::new(512),
    );
    let mut saved = Buffer::new(norm.saved());
    let (mut y, mut dx) = (Buffer::new(x.len()), Buffer::new(x.len()));
    let (mut dgamma, mut dbeta) = (Buffer::new(512), Buffer::new(512));
    let mut ws = Buffer::new(norm.workspace());
    group.bench_function("layer norm", |b| {
        b.iter(|| {
            norm.forward(&x, &gamma, &beta, &mut saved, &mut y);
            let parameters = (&mut dgamma[..], &mut dbeta[..]);
            norm.backward(&x, &gamma, &saved, &y, false, &mut dx, parameters, &mut ws);
        });
    });
    group.bench_function("gelu", |b| {
        b.iter(|| {
            gelu(black_box(&x), &mut y);
            gelu_backward(&x, &y, &mut dx);
        });
    });
}

criterion_group!(benches, convolutions, resnet20, vit);
criterion_main!(benches);
