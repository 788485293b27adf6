//! The Newton-Schulz iteration, which brings every matrix of a vector near the orthogonal matrix closest to it, for
//! [`muon`](super::muon) and for methods that are files.
//!
//! A tensor of more than two dimensions is the matrix of its first dimension, r rows, and all others, c columns. X of norm
//! at most 1 is transposed where r > c.
//!
//! ```text
//! A = X X^T,  X = x X + (a A + aa A A) X                  `steps` times
//! ```
//!
//! On a GPU every product is one launch for all matrices. The polynomial and its product with X are one together: a
//! block makes the rows of the polynomial that it needs in shared memory, where they fit up to [`PANEL_SIDE`] columns. If
//! the shorter side of a matrix is longer, the polynomial is a launch of its own.

use super::formula::plan::Orthogonalize;
use crate::cpu::gemm::{self, gemm};
use crate::device::gpu::Grid;
use crate::device::gpu::kernels::{self, Quintic, TensorRange};
use crate::device::product::{RING_OF_MANY as RING, TILE_OF_MANY as TILE};
use crate::device::{Program, View};
use crate::graph::Tensor;

/// The longest shorter side of which kernels keep rows in shared memory, of which an A100 has the least.
pub(super) const PANEL_SIDE: usize = 768;

/// Bytes of 16 columns of a tile's rows, which lie beside its ring: see `kernels/products.cuh`.
const PANEL: usize = 2_560;

#[derive(Clone, Copy, Debug)]
pub(super) struct NewtonSchulz {
    pub steps: usize,
    pub coefficients: Quintic,
    /// Are X, A and the polynomial rounded to bfloat16? Their sums stay in single precision.
    pub bf16: bool,
    /// [`PANEL_SIDE`], but for tests.
    pub panel_side: usize,
}

/// A tensor's matrix.
#[derive(Clone, Copy, Debug)]
pub(super) struct Matrix {
    pub rows: usize,
    pub columns: usize,
}

impl Matrix {
    pub fn of(tensor: &Tensor) -> Matrix {
        let rows = tensor.shape.first().copied().unwrap_or(1);
        Matrix {
            rows,
            columns: tensor.range.len / rows.max(1),
        }
    }

    pub fn side(self) -> usize {
        self.rows.min(self.columns)
    }

    pub fn length(self) -> usize {
        self.rows.max(self.columns)
    }
}

/// Where kernels find matrices.
#[derive(Clone, Copy)]
pub(super) struct Matrices<'a> {
    pub tensors: &'a [Tensor],
    pub ranges: View<TensorRange>,
    /// Of all matrices: X, room for the next X, and for A and the polynomial.
    pub vectors: [View<f32>; 4],
}

/// The last launch of a step: x X + B X.
pub(super) struct Polynomial {
    pub ranges: View<TensorRange>,
    pub a: View<f32>,
    /// Is B in `b`, or made of A?
    pub b: View<f32>,
    pub has_b: i32,
    pub x: View<f32>,
    pub to: View<f32>,
    pub coefficients: Quintic,
    /// Of X, for each block.
    pub tiles: i32,
    pub bf16: i32,
    pub grid: Grid,
}

impl Polynomial {
    pub fn launch(self, program: &mut Program) {
        let arguments = kernels::NewtonSchulzPolynomial {
            ranges: self.ranges,
            a: self.a,
            b: self.b,
            has_b: self.has_b,
            x: self.x,
            to: self.to,
            q: self.coefficients,
            tiles: self.tiles,
            bf16: self.bf16,
        };
        kernels::newton_schulz_polynomial(program, self.grid, arguments);
    }
}

/// As a file asks for it.
impl From<&Orthogonalize> for NewtonSchulz {
    fn from(of: &Orthogonalize) -> NewtonSchulz {
        let [x, a, aa] = of.coefficients.map(|c| c as f32);
        NewtonSchulz {
            steps: of.steps,
            coefficients: Quintic { x, a, aa },
            bf16: false,
            panel_side: PANEL_SIDE,
        }
    }
}

impl NewtonSchulz {
    pub fn rounded(&self, x: f32) -> f32 {
        if self.bf16 { to_bf16(x) } else { x }
    }

    /// All steps of one matrix on the CPU, from X, with room for the next one, and for A and the polynomial. Returns where the
    /// last one is.
    pub fn on_host<'v>(
        &self,
        matrix: Matrix,
        [mut x, mut y, a, p]: [&'v mut [f32]; 4],
    ) -> &'v mut [f32] {
        for _ in 0..self.steps {
            self.step(matrix, x, y, a, p);
            std::mem::swap(&mut x, &mut y);
        }
        x
    }

    fn step(&self, matrix: Matrix, x: &[f32], y: &mut [f32], a: &mut [f32], p: &mut [f32]) {
        let (side, length, columns) = (matrix.side(), matrix.length(), matrix.columns);
        let (a, p) = (&mut a[..side * side], &mut p[..side * side]);
        let q = self.coefficients;
        let stored = gemm::Matrix::new(x, columns);
        let tall = matrix.rows > columns;
        let wide = if tall { stored.t() } else { stored };
        gemm((side, length, side), 1.0, wide, wide.t(), 0.0, a, side);
        self.round(a);
        p.copy_from_slice(a);
        let square = gemm::Matrix::new(a, side);
        gemm((side, side, side), q.aa, square, square, q.a, p, side);
        self.round(p);
        y.copy_from_slice(x);
        let polynomial = gemm::Matrix::new(p, side);
        let (rows, left, right) = match tall {
            true => (length, stored, polynomial),
            false => (side, polynomial, stored),
        };
        gemm((rows, side, columns), 1.0, left, right, q.x, y, columns);
        self.round(y);
    }

    fn round(&self, values: &mut [f32]) {
        if self.bf16 {
            values.iter_mut().for_each(|x| *x = to_bf16(*x));
        }
    }

    /// Adds the launches of all steps, of which `last` adds the very last. The last X is in the first of the vectors after an
    /// even number of steps, else in the second.
    pub fn kernels(
        &self,
        at: Matrices,
        program: &mut Program,
        last: &dyn Fn(Polynomial, &mut Program),
    ) {
        let Matrices {
            tensors,
            ranges,
            vectors: [mut x, mut y, a, b],
        } = at;
        let matrices = || tensors.iter().map(Matrix::of);
        let side = matrices().map(Matrix::side).max().unwrap_or(0);
        let has_b = side > self.panel_side;
        let panel = if has_b { 0 } else { side.div_ceil(16) * PANEL };
        // Where its rows of the polynomial cost a block as much as `tiles` of their product, it takes no less than twice these.
        let tiles = (side / TILE.1 * 2).max(2);
        let square = |m: Matrix| m.side().div_ceil(TILE.0) * m.side().div_ceil(TILE.1);
        let polynomial =
            |m: Matrix| m.side().div_ceil(TILE.0) * m.length().div_ceil(TILE.1 * tiles);
        let grid = |blocks: &dyn Fn(Matrix) -> usize, shared: usize| Grid {
            shared: shared as u32,
            ..(matrices().map(blocks).max().unwrap_or(0), tensors.len()).into()
        };
        let (coefficients, bf16) = (self.coefficients, i32::from(self.bf16));
        for i in 1..=self.steps {
            kernels::newton_schulz_gram(program, grid(&square, RING), ranges, x, a, bf16);
            if has_b {
                let grid = grid(&square, RING);
                kernels::newton_schulz_square(program, grid, ranges, a, b, coefficients, bf16);
            }
            let polynomial = Polynomial {
                ranges,
                a,
                b,
                has_b: has_b.into(),
                x,
                to: y,
                coefficients,
                tiles: tiles as i32,
                bf16,
                grid: grid(&polynomial, RING + panel),
            };
            match i == self.steps {
                true => last(polynomial, program),
                false => polynomial.launch(program),
            }
            std::mem::swap(&mut x, &mut y);
        }
    }
}

/// The nearest number of bfloat16, ties to even.
fn to_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    match x.is_nan() {
        true => x,
        false => f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000),
    }
}
