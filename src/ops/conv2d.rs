//! Two-dimensional convolution of images, channels last, and what may follow it:
//! y = max(norm(conv(x, w) + b) + r, 0), each part after conv optional.
//!
//! Gradient, with dz = dy where y > 0: dx and dw as in `device::cpu::conv`, db = sum of dz over the pixels,
//! dr = dz. Batch norm is only part of it in evaluation, where nothing asks for gradients.

use crate::device::cpu::batch_norm::{Affine, BatchNorm};
use crate::device::cpu::conv::{self, Epilogue, Shape};
use crate::device::cpu::{pool, sum_rows};
use crate::graph::{Bwd, Fwd, Op, Tail, Var};
use crate::ops::{Case, Row};

/// Operands: x, w, then those of bias, norm (weight, bias) and residual, as far as they are there.
struct Conv2d {
    conv: conv::Conv2d,
    bias: bool,
    norm: bool,
    residual: bool,
    relu: bool,
    threads: usize,
}

impl<'t> Var<'t> {
    /// `self` (N, H, W, I) convolved with `w` (O, I, K, K), plus `b` (O):
    /// (N, (H + 2 pad - K) / stride + 1, likewise for W, O).
    pub fn conv2d(self, w: Var<'t>, b: Option<Var<'t>>, stride: usize, pad: usize) -> Var<'t> {
        let [images, height, width, channels_in] = self.shape()[..] else {
            panic!("conv2d: {:?} is not (N, H, W, C)", self.shape());
        };
        let [channels_out, w_in, kernel, kernel_width] = w.shape()[..] else {
            panic!("conv2d: weight {:?} is not (O, I, K, K)", w.shape());
        };
        assert_eq!(channels_in, w_in, "conv2d: input and weight do not fit");
        assert_eq!(kernel, kernel_width, "conv2d: the kernel is square");
        let shape = Shape {
            images,
            height,
            width,
            channels_in,
            channels_out,
            kernel,
            stride,
            pad,
        };
        let op = Conv2d {
            conv: conv::Conv2d::new(shape),
            bias: b.is_some(),
            norm: false,
            residual: false,
            relu: false,
            threads: rayon::current_num_threads(),
        };
        let operands: Vec<Var> = [self, w].into_iter().chain(b).collect();
        let y = [images, shape.out_height(), shape.out_width(), channels_out];
        self.tape.apply(op, &operands, &y)
    }
}

impl Conv2d {
    /// Which operand the residual is.
    fn residual_place(&self) -> usize {
        2 + usize::from(self.bias) + 2 * usize::from(self.norm)
    }
}

impl Op for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn fwd_work(&self) -> usize {
        self.conv.workspace(self.threads) + 2 * self.conv.shape().channels_out
    }

    /// Room for dz where it differs from dy.
    fn bwd_work(&self) -> usize {
        let dz = if self.relu {
            self.conv.shape().output_len()
        } else {
            0
        };
        dz + self.conv.workspace(self.threads)
    }

    fn bwd_reads_output(&self) -> bool {
        self.relu
    }

    fn bwd_adds(&self) -> bool {
        true
    }

    fn flops(&self) -> usize {
        let shape = self.conv.shape();
        2 * shape.output_len() * shape.weight_len() / shape.channels_out
    }

    fn absorb(&mut self, tail: Tail) -> bool {
        let free = !self.relu && (tail == Tail::Relu || !self.residual);
        match tail {
            Tail::Norm if free && !self.norm => self.norm = true,
            Tail::Add if free => self.residual = true,
            Tail::Relu if free => self.relu = true,
            _ => return false,
        }
        true
    }

    fn cpu_fwd(&self, io: Fwd<'_>) {
        let channels = self.conv.shape().channels_out;
        let (rows, work) = io.work.split_at_mut(2 * channels);
        let (scale, folded) = rows.split_at_mut(channels);
        let own_bias = self.bias.then(|| io.x[2]);
        let mut epilogue = Epilogue {
            bias: own_bias,
            add: self.residual.then(|| io.x[self.residual_place()]),
            relu: self.relu,
            ..Epilogue::default()
        };
        if self.norm {
            let weight = 2 + usize::from(self.bias);
            let affine = Affine {
                gamma: io.x[weight],
                beta: io.x[weight + 1],
            };
            let averages = io.state.split_at(channels);
            BatchNorm::fold(affine, averages, own_bias, scale, folded);
            epilogue.scale = Some(scale);
            epilogue.bias = Some(folded);
        }
        self.conv.forward(io.x[0], io.x[1], epilogue, io.y, work);
    }

    fn cpu_bwd(&self, mut io: Bwd<'_>) {
        assert!(!self.norm, "batch norm in evaluation has no gradient here");
        let (masked, work) = io
            .work
            .split_at_mut(self.bwd_work() - self.conv.workspace(self.threads));
        let mut dz = io.dy;
        if self.relu {
            pool::relu_backward(io.y, io.dy, masked);
            dz = masked;
        }
        if self.residual {
            let d_residual = &mut io.dx[self.residual_place()];
            if !d_residual.is_empty() {
                d_residual.copy_from_slice(dz);
            }
        }
        let [x, w, ..] = io.x;
        let [dx, dw, db, ..] = io.dx;
        if !dx.is_empty() {
            self.conv.input_gradient(dz, w, io.add, dx, work);
        }
        self.conv.weight_gradient(x, dz, dw, work);
        if self.bias {
            sum_rows(db, dz);
        }
    }
}

pub const ROW: Row = Row {
    name: "conv2d",
    cases: &[
        Case::new("3x3 on 5x4, 2 to 3", &[&[2, 5, 4, 2], &[3, 2, 3, 3]], |x| {
            x[0].conv2d(x[1], None, 1, 1)
        }),
        Case::new(
            "one image, stride 2, bias",
            &[&[1, 5, 7, 3], &[2, 3, 3, 3], &[2]],
            |x| x[0].conv2d(x[1], Some(x[2]), 2, 1),
        ),
        Case::new("1x1, stride 2", &[&[2, 4, 4, 3], &[5, 3, 1, 1]], |x| {
            x[0].conv2d(x[1], None, 2, 0)
        }),
        Case::new(
            "17 to 2 channels, no padding, ReLU",
            &[&[1, 4, 3, 17], &[2, 17, 3, 3], &[2]],
            |x| x[0].conv2d(x[1], Some(x[2]), 1, 0).relu(),
        )
        .avoiding_zero(),
        Case::new(
            "and a shortcut",
            &[&[2, 3, 3, 2], &[2, 2, 3, 3], &[2], &[2, 3, 3, 2]],
            |x| x[0].conv2d(x[1], Some(x[2]), 1, 1).plus(x[3]),
        ),
        // The second one to go back adds to the first one's gradient.
        Case::new(
            "two of one input",
            &[&[1, 4, 4, 2], &[3, 2, 3, 3], &[3, 2, 1, 1]],
            |x| {
                let y = x[0].conv2d(x[1], None, 1, 1);
                y.plus(x[0].conv2d(x[2], None, 1, 0))
            },
        ),
    ],
};
