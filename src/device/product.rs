//! Matrix products as calls of a program, for ops and optimizers alike. Which kernel computes one, and in what tiles,
//! follows from its shape alone.

use super::gpu::kernels::{DropoutMask, Step};
use super::gpu::{Grid, PROCESSORS, Precision, counters_of, elementwise, kernels};
use super::program::{floats, floats_mut};
use super::{Program, View};
use crate::cpu::gemm::{Matrix, gemm};
use crate::cpu::{fill_rows, pool, sum_rows};

/// Terms of a sum that are worth a part of their own.
const PART: usize = 128;

/// Of `kernels/products.cuh`: rows and columns of a block's tile, and bytes of its ring.
pub const TILE_OF_MANY: (usize, usize) = (32, 64);
pub const RING_OF_MANY: usize = 29_184;

/// C (m, n), a sum of k terms in each entry. All matrices are stored row by row.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    pub m: usize,
    pub k: usize,
    pub n: usize,
    /// Multiprocessors that shall have something to do.
    pub processors: usize,
}

/// What [`Product::nt`] does before it stores C: adds to it, and takes max(C, 0); and, by kernels only, what it makes of every
/// number of C after that, and of whole rows of the result.
#[derive(Clone, Copy, Default)]
pub struct Epilogue<T = View<f32>> {
    /// (n), or of no length.
    pub bias: T,
    /// (m, n), or of no length.
    pub residual: T,
    pub relu: bool,
    pub steps: Steps,
    pub then: Option<Then>,
}

/// What kernels make of every number of a product C, as far as it is asked for: forward `f(C) mask + added`, backward
/// `f'(z) (C mask)`.
#[derive(Clone, Copy, Default)]
pub struct Steps {
    /// f, by its number in `kernels/activation.cuh`.
    pub activation: i32,
    pub mask: DropoutMask,
    pub now: View<Step>,
    pub z: View<f32>,
    pub added: View<f32>,
    /// The result; of no length if nothing is asked for.
    pub y: View<f32>,
}

impl Steps {
    /// Where C is stored, where the result, and whether that is another place: if nobody else wants C, it is not.
    pub fn places(&self, c: View<f32>) -> (View<f32>, View<f32>, i32) {
        match c.len {
            0 => (self.y, View::default(), 0),
            _ => (c, self.y, 1),
        }
    }
}

/// y, computed from rows of C, or of what steps made of it.
#[derive(Clone, Copy)]
pub struct Then {
    pub what: What,
    pub y: View<f32>,
}

#[derive(Clone, Copy)]
pub enum What {
    /// Layer norm with these weights, or RMS norm where there is no shift. It leaves what `kernels/norm.cuh` keeps of rows.
    Norm {
        w: View<f32>,
        shift: Option<View<f32>>,
        eps: f32,
        stats: View<f32>,
    },
    /// Of one batch, with classes as targets: the mean goes to f, its gradient for df, if there is one, to y.
    CrossEntropy {
        target: View<f32>,
        smoothing: f32,
        f: View<f32>,
        df: Option<View<f32>>,
        /// A double for each row of tiles.
        partial: View<f64>,
    },
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

    /// Size of the tiles of [`Product::nt`].
    pub fn nt_tile(&self) -> usize {
        self.tiles(16).0
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

    /// On the CPU: C = A B^T, and what follows.
    pub fn cpu_nt(&self, a: &[f32], b: &[f32], then: Epilogue<&[f32]>, c: &mut [f32]) {
        let (a, b) = (Matrix::new(a, self.k), Matrix::new(b, self.k).t());
        let biased = !then.bias.is_empty();
        if biased {
            fill_rows(c, then.bias);
        }
        self.gemm(a, b, if biased { 1.0 } else { 0.0 }, c);
        if !then.residual.is_empty() {
            pool::add_to(then.residual, c);
        }
        if then.relu {
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

    /// C = A B^T with A (m, k) and B (n, k), and what follows.
    pub fn nt(
        &self,
        a: View<f32>,
        b: View<f32>,
        then: Epilogue,
        c: View<f32>,
        program: &mut Program,
    ) {
        if program.on_host() {
            let alone = then.then.is_none() && then.steps.y.len == 0;
            assert!(alone, "only kernels go on with a product");
            let (product, relu) = (*self, then.relu);
            let reads = [a, b, then.bias, then.residual].map(Into::into);
            return program.host("product_nt", reads, [c.into()], move |reads, [c]| {
                let [a, b, bias, residual] = reads.map(floats);
                let then = Epilogue {
                    bias,
                    residual,
                    relu,
                    steps: Steps::default(),
                    then: None,
                };
                product.cpu_nt(a, b, then, floats_mut(c));
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
        let Epilogue {
            bias,
            residual,
            relu,
            steps,
            then,
        } = then;
        let (c, to, apart) = steps.places(c);
        // As `TO_C` and `AT_LAST` in `kernels/product.cu`; the numbers of `then` stand there, too.
        let (residual, added) = match (residual.len, steps.added.len) {
            (0, 0) => (residual, 0),
            (0, _) => (steps.added, 2),
            _ => (residual, 1),
        };
        let mut arguments = kernels::ProductNt {
            a,
            b,
            bias,
            biased: i32::from(bias.len > 0),
            residual,
            added,
            c,
            m,
            k,
            n,
            relu: i32::from(relu),
            tf32: is_tf32(program),
            activation: steps.activation,
            mask: steps.mask,
            now: steps.now,
            to,
            apart,
            then: 0,
            w: View::default(),
            shift: View::default(),
            eps: 0.0,
            y: then.map_or_else(View::default, |then| then.y),
            stats: View::default(),
            target: View::default(),
            smoothing: 0.0,
            backward: 0,
            df: View::default(),
            f: View::default(),
            partial: View::default(),
            counters: View::default(),
        };
        let rows_of_tiles = self.m.div_ceil(size);
        match then.map(|then| then.what) {
            None => {}
            Some(What::Norm {
                w,
                shift,
                eps,
                stats,
            }) => {
                arguments = kernels::ProductNt {
                    then: if shift.is_some() { 2 } else { 1 },
                    w,
                    shift: shift.unwrap_or_default(),
                    eps,
                    stats,
                    counters: program.counters(rows_of_tiles),
                    ..arguments
                };
            }
            Some(What::CrossEntropy {
                target,
                smoothing,
                f,
                df,
                partial,
            }) => {
                arguments = kernels::ProductNt {
                    then: 3,
                    target,
                    smoothing,
                    backward: i32::from(df.is_some()),
                    df: df.unwrap_or_default(),
                    f,
                    partial: partial.part(0, rows_of_tiles),
                    counters: program.counters(rows_of_tiles + counters_of(rows_of_tiles)),
                    ..arguments
                };
            }
        }
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
        let parts = self.parts();
        let launch = match parts.size {
            128 => kernels::product_tn_128,
            _ => kernels::product_tn_64,
        };
        let [m, k, n] = self.sizes();
        let to = parts.places([c, sums], work);
        let arguments = kernels::ProductTn {
            a,
            b,
            c: to[0],
            sums: to[1],
            summed: i32::from(sums.len > 0),
            m,
            k,
            n,
            part: parts.terms as i32,
            tf32: is_tf32(program),
        };
        launch(
            program,
            grid(parts.size, parts.tiles(), parts.count),
            arguments,
        );
        parts.add_up(to, [c, sums], program);
    }

    /// Floats of workspace for [`Product::tn`].
    pub fn tn_work(&self) -> usize {
        self.parts().work()
    }

    /// How [`Product::tn`] cuts C = A^T B.
    fn parts(&self) -> Parts {
        self.parts_of(if self.m.min(self.n) > 64 { 128 } else { 64 })
    }

    /// C = A^T B in tiles of this size, 128 or 64.
    pub fn parts_of(&self, size: usize) -> Parts {
        // So many blocks run at a time.
        let blocks = self.processors * if size == 128 { 2 } else { 4 };
        let most = blocks / tiles(size, self.m, self.n);
        let terms = self.k.div_ceil(most.max(1));
        let terms = terms.next_multiple_of(32).max(PART);
        Parts {
            product: *self,
            size,
            terms,
            count: self.k.div_ceil(terms),
        }
    }
}

/// C = A^T B, and the sums of A, as the sum of parts, of which each has this many terms: there is something to do for all
/// multiprocessors even if C has few tiles.
pub struct Parts {
    product: Product,
    /// Of the tiles.
    pub size: usize,
    pub terms: usize,
    pub count: usize,
}

impl Parts {
    /// Tiles of a part.
    pub fn tiles(&self) -> usize {
        tiles(self.size, self.product.m, self.product.n)
    }

    /// Floats of workspace.
    pub fn work(&self) -> usize {
        match self.count {
            1 => 0,
            count => count * self.product.m * (self.product.n + 1),
        }
    }

    /// Where the parts of C and of the sums go: into the workspace if there are several.
    pub fn places(&self, to: [View<f32>; 2], work: View<f32>) -> [View<f32>; 2] {
        let Product { m, n, .. } = self.product;
        match self.count {
            1 => to,
            count => [
                work.part(0, count * m * n),
                work.part(count * m * n, count * m),
            ],
        }
    }

    /// Adds them up, in their order.
    pub fn add_up(
        &self,
        [cs, all]: [View<f32>; 2],
        [c, sums]: [View<f32>; 2],
        program: &mut Program,
    ) {
        if self.count > 1 {
            let (entries, m) = (self.product.m * self.product.n, sums.len);
            let grid = elementwise(entries + m);
            let [parts, entries, m] = [self.count, entries, m].map(|n| n as i32);
            kernels::product_sum(program, grid, cs, all, c, sums, parts, entries, m);
        }
    }
}

#[cfg(all(test, emulator))]
mod tests {
    use super::*;
    use crate::device::{Device, Machine, Target};
    use crate::random::torch::Generator;

    /// A B and A^T B with the sums of A: of an A (m, k) and (k, m) and a B (k, n), on a machine.
    fn products(product: Product, target: Target, [a, b]: &[Vec<f32>; 2]) -> [Vec<f32>; 3] {
        let mut machine = Machine::open(target).unwrap();
        let [a, b] = [a, b].map(|x| machine.alloc_with("operand", x).unwrap());
        let mut room = |len| machine.alloc::<f32>("result", len).unwrap();
        let entries = product.m * product.n;
        let (nn, tn, sums) = (room(entries), room(entries), room(product.m));
        let work = room(product.tn_work());
        let mut program = Program::new(target);
        product.nn(a, b, nn, &mut program);
        product.tn(a, b, [tn, sums], work, &mut program);
        let program = machine.prepare(program).unwrap();
        machine.run(program).unwrap();
        [nn, tn, sums].map(|view| machine.download(view).unwrap())
    }

    #[test]
    fn kernels_multiply_as_the_cpu_does() {
        for (processors, m, k, n) in [(1, 130, 300, 70), (2, 65, 67, 3), (20, 140, 260, 33)] {
            let product = Product {
                processors,
                ..Product::new(m, k, n)
            };
            let mut draws = Generator::new(3);
            let operands = [m * k, k * n].map(|len| {
                let mut values = vec![0.0; len];
                draws.normal(&mut values, 0.0, 1.0);
                values
            });
            let expected = products(product, Target::CPU, &operands);
            for (precision, tolerance) in [(Precision::Fp32, 2e-6), (Precision::Tf32, 2e-3)] {
                let target = Target {
                    device: Device::Emulator,
                    precision: Some(precision),
                };
                let ours = products(product, target, &operands);
                for (ours, expected) in ours.iter().zip(&expected) {
                    let size = expected.iter().fold(0.0f32, |most, x| most.max(x.abs()));
                    let off = ours.iter().zip(expected).map(|(x, y)| (x - y).abs());
                    let off = off.fold(0.0, f32::max) / size;
                    assert!(off <= tolerance, "{m} {k} {n} in {precision:?}: {off}");
                }
            }
        }
    }
}
