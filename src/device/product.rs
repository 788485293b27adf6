//! Matrix products as calls of a program, for ops and optimizers alike. Which kernel computes one, and in what tiles,
//! follows from its shape alone.

use super::gpu::{Grid, PROCESSORS, Precision, elementwise, kernels};
use super::program::{floats, floats_mut};
use super::{Program, View};
use crate::cpu::gemm::{Matrix, gemm};
use crate::cpu::{fill_rows, pool, sum_rows};

/// Terms of a sum that are worth a part of their own.
const PART: usize = 128;

/// C (m, n), a sum of k terms in each entry. All matrices are stored row by row.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    pub m: usize,
    pub k: usize,
    pub n: usize,
    /// Multiprocessors that shall have something to do.
    pub processors: usize,
}

/// What [`Product::nt`] does before it stores C.
#[derive(Clone, Copy, Default)]
pub struct Epilogue {
    /// (n), or of no length.
    pub bias: View<f32>,
    pub relu: bool,
}

/// Tiles of this size in a matrix.
pub fn tiles(size: usize, rows: usize, columns: usize) -> usize {
    rows.div_ceil(size) * columns.div_ceil(size)
}

/// The grid of a kernel with tiles of this size, with the ring that `Shape` in `kernels/product.cuh` describes.
pub fn grid(size: usize, tiles: usize, parts: usize) -> Grid {
    let shared = match size {
        128 => 81_920,
        64 => 55_296,
        32 => 81_920,
        _ => 98_304,
    };
    Grid {
        shared,
        ..(tiles, parts).into()
    }
}

fn is_tf32(program: &Program) -> i32 {
    i32::from(program.linear_precision() == Precision::Tf32)
}

impl Product {
    pub fn new(m: usize, k: usize, n: usize) -> Product {
        Product {
            m,
            k,
            n,
            processors: PROCESSORS,
        }
    }

    pub fn flops(&self) -> usize {
        2 * self.m * self.k * self.n
    }

    fn sizes(&self) -> [i32; 3] {
        [self.m, self.k, self.n].map(|n| n as i32)
    }

    /// The largest tiles of which there are enough, and how many these are.
    fn tiles(&self, least: usize) -> (usize, usize) {
        let count = |size| tiles(size, self.m, self.n);
        let (all, half) = (self.processors, self.processors / 2);
        let enough = [(128, all), (64, all), (32, half)];
        let enough = enough.into_iter().find(|(size, n)| count(*size) >= *n);
        let size = enough.map_or(16, |(size, _)| size).max(least);
        (size, count(size))
    }

    /// On the CPU: C = A B^T, plus a bias of length n or 0, and max(C, 0).
    pub fn cpu_nt(&self, a: &[f32], b: &[f32], bias: &[f32], relu: bool, c: &mut [f32]) {
        let (a, b) = (Matrix::new(a, self.k), Matrix::new(b, self.k).t());
        let biased = !bias.is_empty();
        if biased {
            fill_rows(c, bias);
        }
        self.gemm(a, b, if biased { 1.0 } else { 0.0 }, c);
        if relu {
            pool::relu_in_place(c);
        }
    }

    /// On the CPU: C = A B.
    pub fn cpu_nn(&self, a: &[f32], b: &[f32], c: &mut [f32]) {
        self.gemm(Matrix::new(a, self.k), Matrix::new(b, self.n), 0.0, c);
    }

    /// On the CPU: C = A^T B, and the sums of A over k where `sums` has a length.
    pub fn cpu_tn(&self, a: &[f32], b: &[f32], c: &mut [f32], sums: &mut [f32]) {
        let rows = Matrix::new(a, self.m);
        self.gemm(rows.t(), Matrix::new(b, self.n), 0.0, c);
        if !sums.is_empty() {
            sum_rows(sums, a);
        }
    }

    fn gemm(&self, a: Matrix, b: Matrix, beta: f32, c: &mut [f32]) {
        gemm((self.m, self.k, self.n), 1.0, a, b, beta, c, self.n);
    }

    /// C = A B^T with A (m, k) and B (n, k), plus a bias, and max(C, 0).
    pub fn nt(
        &self,
        a: View<f32>,
        b: View<f32>,
        epilogue: Epilogue,
        c: View<f32>,
        program: &mut Program,
    ) {
        if program.on_host() {
            let (product, relu) = (*self, epilogue.relu);
            let reads = [a.into(), b.into(), epilogue.bias.into()];
            return program.host("product_nt", reads, [c.into()], move |reads, [c]| {
                let [a, b, bias] = reads.map(floats);
                product.cpu_nt(a, b, bias, relu, floats_mut(c));
            });
        }
        let (size, count) = self.tiles(16);
        let launch = match size {
            128 => kernels::product_nt_128,
            64 => kernels::product_nt_64,
            32 => kernels::product_nt_32,
            _ => kernels::product_nt_16,
        };
        let [m, k, n] = self.sizes();
        let Epilogue { bias, relu } = epilogue;
        let arguments = kernels::ProductNt {
            a,
            b,
            bias,
            biased: i32::from(bias.len > 0),
            c,
            m,
            k,
            n,
            relu: i32::from(relu),
            tf32: is_tf32(program),
        };
        launch(program, grid(size, count, 1), arguments);
    }

    /// C = A B with A (m, k) and B (k, n).
    pub fn nn(&self, a: View<f32>, b: View<f32>, c: View<f32>, program: &mut Program) {
        if program.on_host() {
            let (product, reads) = (*self, [a.into(), b.into()]);
            return program.host("product_nn", reads, [c.into()], move |reads, [c]| {
                let [a, b] = reads.map(floats);
                product.cpu_nn(a, b, floats_mut(c));
            });
        }
        let (size, count) = self.tiles(64);
        let launch = match size {
            128 => kernels::product_nn_128,
            _ => kernels::product_nn_64,
        };
        let ([m, k, n], tf32) = (self.sizes(), is_tf32(program));
        launch(program, grid(size, count, 1), a, b, c, m, k, n, tf32);
    }

    /// C = A^T B with A (k, m) and B (k, n), and the sums of A over k where `sums` (m) has a length. Wants
    /// [`Product::tn_work`] floats.
    pub fn tn(
        &self,
        a: View<f32>,
        b: View<f32>,
        [c, sums]: [View<f32>; 2],
        work: View<f32>,
        program: &mut Program,
    ) {
        if program.on_host() {
            let (product, reads) = (*self, [a.into(), b.into()]);
            let writes = [c.into(), sums.into()];
            return program.host("product_tn", reads, writes, move |reads, writes| {
                let ([a, b], [c, sums]) = (reads.map(floats), writes.map(floats_mut));
                product.cpu_tn(a, b, c, sums);
            });
        }
        let (size, part, parts) = self.parts();
        let launch = match size {
            128 => kernels::product_tn_128,
            _ => kernels::product_tn_64,
        };
        let ([m, k, n], entries) = (self.sizes(), self.m * self.n);
        let to = match parts {
            1 => [c, sums],
            _ => [
                work.part(0, parts * entries),
                work.part(parts * entries, parts * self.m),
            ],
        };
        let arguments = kernels::ProductTn {
            a,
            b,
            c: to[0],
            sums: to[1],
            summed: i32::from(sums.len > 0),
            m,
            k,
            n,
            part: part as i32,
            tf32: is_tf32(program),
        };
        let count = tiles(size, self.m, self.n);
        launch(program, grid(size, count, parts), arguments);
        if parts > 1 {
            let (grid, [cs, all]) = (elementwise(entries + sums.len), to);
            let [parts, entries, m] = [parts, entries, sums.len].map(|n| n as i32);
            kernels::product_sum(program, grid, cs, all, c, sums, parts, entries, m);
        }
    }

    /// Floats of workspace for [`Product::tn`].
    pub fn tn_work(&self) -> usize {
        match self.parts() {
            (_, _, 1) => 0,
            (_, _, parts) => parts * self.m * (self.n + 1),
        }
    }

    /// Of C = A^T B: size of the tiles, terms of a part, and parts.
    fn parts(&self) -> (usize, usize, usize) {
        let size = if self.m.min(self.n) > 64 { 128 } else { 64 };
        // So many blocks run at a time.
        let blocks = self.processors * if size == 128 { 2 } else { 4 };
        let most = blocks / tiles(size, self.m, self.n);
        let terms = self.k.div_ceil(most.max(1));
        let terms = terms.next_multiple_of(32).max(PART);
        (size, terms, self.k.div_ceil(terms))
    }
}
