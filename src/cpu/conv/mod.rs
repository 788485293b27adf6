//! Two-dimensional convolution, channels last.
//!
//! Shapes: `x` (N, H, W, Ci), `w` (Co, Ci, K, K) as PyTorch keeps it, `y` (N, Ho, Wo, Co) with
//! `Ho = (H + 2 pad - K) / stride + 1`.
//!
//! ```text
//! y[n, i, j, o]   = b[o] + sum_{p, q, c} x[n, i s + p - pad, j s + q - pad, c] w[o, c, p, q]
//! dx[n, u, v, c]  = sum_{o, p, q} dy[n, (u + pad - p) / s, (v + pad - q) / s, o] w[o, c, p, q]
//! dw[o, c, p, q]  = sum_{n, i, j} dy[n, i, j, o] x[n, i s + p - pad, j s + q - pad, c]
//! ```
//!
//! (terms outside the images are zero, and so are fractional positions in `dx`). `y` and `dx` are the same
//! computation with other taps, see `gather.rs`; `dw` is in `weight.rs`. Work is cut into blocks that depend
//! on the shapes only, so the results do not depend on the number of threads. Nothing is allocated after
//! [`Conv2d::new`]: scratch memory comes from the caller, `workspace(threads)` floats of it, contents
//! irrelevant.

mod gather;
mod tiles;
mod weight;

pub use gather::Epilogue;
use gather::Gather;
use weight::WeightGradient;

/// What defines a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub images: usize,
    pub height: usize,
    pub width: usize,
    pub channels_in: usize,
    pub channels_out: usize,
    pub kernel: usize,
    pub stride: usize,
    pub pad: usize,
}

impl Shape {
    pub fn out_height(&self) -> usize {
        (self.height + 2 * self.pad - self.kernel) / self.stride + 1
    }

    pub fn out_width(&self) -> usize {
        (self.width + 2 * self.pad - self.kernel) / self.stride + 1
    }

    pub fn input_len(&self) -> usize {
        self.images * self.height * self.width * self.channels_in
    }

    pub fn output_len(&self) -> usize {
        self.images * self.out_height() * self.out_width() * self.channels_out
    }

    pub fn weight_len(&self) -> usize {
        self.channels_out * self.channels_in * self.kernel * self.kernel
    }
}

/// A convolution of fixed shape with its tables of offsets and block sizes.
pub struct Conv2d {
    shape: Shape,
    forward: Gather,
    input_gradient: Gather,
    weight_gradient: WeightGradient,
}

impl Conv2d {
    /// # Panics
    /// If the kernel is empty, larger than the padded image, or not larger than the padding.
    pub fn new(shape: Shape) -> Conv2d {
        let Shape {
            height,
            width,
            kernel,
            stride,
            pad,
            ..
        } = shape;
        assert!(stride > 0 && kernel > pad && kernel <= height.min(width) + 2 * pad);
        Conv2d {
            shape,
            forward: Gather::forward(shape),
            input_gradient: Gather::input_gradient(shape),
            weight_gradient: WeightGradient::new(shape),
        }
    }

    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Floats of scratch memory with which each of the three computations can run on `threads` threads.
    pub fn workspace(&self, threads: usize) -> usize {
        self.forward
            .workspace(threads)
            .max(self.input_gradient.workspace(threads))
            .max(self.weight_gradient.workspace(threads))
    }

    /// `y = epilogue(conv(x, w))`.
    pub fn forward(&self, x: &[f32], w: &[f32], epilogue: Epilogue, y: &mut [f32], ws: &mut [f32]) {
        self.forward.run(x, w, epilogue, y, ws);
    }

    /// Overwrites `dx`, or adds to it.
    pub fn input_gradient(
        &self,
        dy: &[f32],
        w: &[f32],
        accumulate: bool,
        dx: &mut [f32],
        ws: &mut [f32],
    ) {
        let epilogue = Epilogue {
            accumulate,
            ..Epilogue::default()
        };
        self.input_gradient.run(dy, w, epilogue, dx, ws);
    }

    /// Overwrites `dw`.
    pub fn weight_gradient(&self, x: &[f32], dy: &[f32], dw: &mut [f32], ws: &mut [f32]) {
        self.weight_gradient.run(x, dy, dw, ws);
    }
}
