//! SOAP: Adam in the bases of Shampoo.
//!
//! Paper: N. Vyas et al., "SOAP: Improving and Stabilizing Shampoo using Adam", ICLR 2025, arXiv:2409.11321. What is computed
//! is what the authors' code computes.
//!
//! State: m, the running average of the gradient, and v, that of the square of the turned one. For a tensor's i-th dimension
//! with d_i entries L_i (d_i, d_i), the running average of G_i G_i^T, where G_i is the gradient with this dimension as rows
//! and all others as columns, and the basis Q_i (d_i, d_i). To turn a tensor is to multiply each of its dimensions by Q_i^T.
//! Dimensions longer than `max_precond_dim` are left as they are, vectors too unless `precondition_1d` is set.
//!
//! ```text
//! L_i = (1 - sb) G_i G_i^T,  Q_i = its eigenvectors, largest first             k = 1: nothing moves
//!
//! j = k - 1                                                                    k > 1
//! m = b1 m + (1 - b1) g
//! v = b2 v + (1 - b2) turned(g)^2
//! u = turned back(turned(m) / (sqrt(v) + eps))
//! u = u / (root of the mean of u^2)                                            normalize_grads
//! w = (1 - lr wd) (w - lr sqrt(1 - b2^j) / (1 - b1^j) u)                       without correct_bias: lr u
//! L_i = sb L_i + (1 - sb) G_i G_i^T
//! columns of Q_i, and v's dimension i alike, by diag(Q_i^T L_i Q_i),
//! largest first;  Q_i = Q of L_i Q_i = Q R                                     every precondition_frequency steps
//! ```
//!
//! On a GPU a product is one launch for all tensors: a dimension of each is turned, or all L change. The bases are the host's
//! in any case; a GPU waits for it.

use rayon::prelude::*;

use super::{
    After, At, EPS, Look, Marker, Memory, Method, Reports, Row, Shape, StateVector, Tables, Update,
    Vectors, average, average_square,
};
use crate::config::{Entry, Key, Kind};
use crate::cpu::gemm::{Matrix, gemm};
use crate::cpu::{linalg, sum_of};
use crate::device::Program;
use crate::device::gpu::kernels::{self, SoapBasis, SoapStep, SoapTensor, Step};
use crate::device::gpu::{Grid, PROCESSORS, elementwise};
use crate::device::product::{RING_OF_MANY as RING, TILE_OF_MANY as TILE};
use crate::device::program::{floats_mut, one};
use crate::graph::Tensor;

pub(super) const SOAP: Row = Row {
    entry: Entry {
        name: "soap",
        about: "Adam in the eigenvectors of averages of the gradient's products with itself",
        paper: "Vyas et al. 2025, arXiv:2409.11321",
        keys: &[
            Key {
                default: Some("[0.95, 0.95]"),
                ..super::BETAS
            },
            EPS,
            Key {
                name: "shampoo_beta",
                kind: Kind::Checked("a number in [0, 1), or null", |value| {
                    value.is_null() || Kind::Fraction.accepts(value)
                }),
                default: Some("null"),
                about: "factor of the running averages of products (null: the second of `betas`)",
            },
            Key {
                name: "precondition_frequency",
                kind: Kind::Count,
                default: Some("10"),
                about: "steps from one change of the bases to the next",
            },
            Key {
                name: "max_precond_dim",
                kind: Kind::Count,
                default: Some("10000"),
                about: "longer dimensions have no basis",
            },
            Key {
                name: "precondition_1d",
                kind: Kind::Flag,
                default: Some("false"),
                about: "vectors have one as well",
            },
            Key {
                name: "correct_bias",
                kind: Kind::Flag,
                default: Some("true"),
                about: "Adam's correction of the averages' beginnings",
            },
            Key {
                name: "normalize_grads",
                kind: Kind::Flag,
                default: Some("false"),
                about: "a tensor's update has a root mean square of 1",
            },
        ],
    },
    look: Look {
        colour: 0x009e73,
        reference: None,
        marker: Marker::Hollow(Shape::Cross),
        dash: 4,
    },
    reports: Reports::NOTHING,
    rest: None,
    build: &|values| {
        let betas: [f64; 2] = values.pair("betas").into();
        Box::new(Soap {
            betas,
            eps: values.real("eps"),
            shampoo_beta: values.get("shampoo_beta").as_f64().unwrap_or(betas[1]),
            frequency: values.count("precondition_frequency") as u64,
            longest: values.count("max_precond_dim"),
            vectors: values.flag("precondition_1d"),
            correct_bias: values.flag("correct_bias"),
            normalize: values.flag("normalize_grads"),
            weight_decay: values.real("weight_decay"),
        })
    },
};

#[derive(Clone, Copy)]
struct Soap {
    betas: [f64; 2],
    eps: f64,
    shampoo_beta: f64,
    frequency: u64,
    longest: usize,
    /// Do vectors have a basis?
    vectors: bool,
    correct_bias: bool,
    normalize: bool,
    weight_decay: f64,
}

/// Blocks for each tensor of kernels that go over its entries.
const BLOCKS: usize = 32;

/// Terms of a sum in products that are worth a part of their own.
const PART: usize = 512;

/// Of a tensor. Where it has a basis, L and Q are there in the method's numbers, Q column by column.
#[derive(Clone, Copy)]
struct Dimension {
    size: usize,
    has_basis: bool,
}

impl Dimension {
    fn entries(self) -> usize {
        self.size * self.size
    }

    /// L and Q together.
    fn numbers(self) -> usize {
        if self.has_basis {
            2 * self.entries()
        } else {
            0
        }
    }
}

impl Soap {
    /// Those of a tensor, or none if it has no basis at all.
    fn dimensions(&self, tensor: &Tensor) -> Vec<Dimension> {
        let all = tensor.range.len > 0 && (tensor.shape.len() > 1 || self.vectors);
        let dimensions = tensor.shape.iter().map(|size| Dimension {
            size: *size,
            has_basis: all && *size <= self.longest,
        });
        let dimensions: Vec<Dimension> = dimensions.collect();
        match dimensions.iter().any(|dimension| dimension.has_basis) {
            true => dimensions,
            false => Vec::new(),
        }
    }

    fn numbers(&self, tensor: &Tensor) -> usize {
        let dimensions = self.dimensions(tensor).into_iter();
        dimensions.map(Dimension::numbers).sum()
    }

    /// What kernels know of tensors and of bases, those of one tensor after the other.
    fn layout(&self, of: &[Tensor]) -> (Vec<SoapTensor>, Vec<SoapBasis>) {
        let (mut bases, mut numbers, mut partial, mut counters) = (Vec::new(), 0, 0, 0);
        let tensors = of.iter().map(|tensor| {
            let (range, first) = (tensor.range, bases.len());
            let mut behind = range.len;
            for dimension in self.dimensions(tensor) {
                let size = dimension.size;
                behind /= size;
                if !dimension.has_basis {
                    continue;
                }
                let tiles = size.div_ceil(TILE.0) * size.div_ceil(TILE.1);
                // So many blocks have something to do, as far as there are terms.
                let parts = (2 * PROCESSORS).div_ceil(tiles);
                let parts = parts.min((range.len / size).div_ceil(PART));
                bases.push(SoapBasis {
                    start: range.start as i64,
                    size: size as i64,
                    columns: (range.len / size) as i64,
                    behind: behind as i64,
                    numbers: numbers as i64,
                    parts: parts as i64,
                    partial: partial as i64,
                    counters: counters as i64,
                });
                numbers += dimension.numbers();
                if parts > 1 {
                    partial += parts * dimension.entries();
                    counters += tiles;
                }
            }
            SoapTensor {
                start: range.start as i64,
                n: range.len as i64,
                first: first as i64,
                count: (bases.len() - first) as i64,
            }
        });
        (tensors.collect(), bases)
    }
}

/// Floats for parts of sums in products.
fn partial(bases: &[SoapBasis]) -> usize {
    let split = bases.iter().filter(|basis| basis.parts > 1);
    split
        .map(|basis| (basis.parts * basis.size * basis.size) as usize)
        .sum()
}

/// Tiles of this many columns along a basis.
fn tiles(basis: &SoapBasis, columns: i64) -> usize {
    (basis.size as usize).div_ceil(TILE.0) * (columns as usize).div_ceil(TILE.1)
}

impl Method for Soap {
    type Coefficients = SoapStep;
    type Scalars = ();

    fn memory(&self, of: &[Tensor]) -> Memory {
        let n: usize = of.iter().map(|tensor| tensor.range.len).sum();
        Memory {
            vectors: StateVector::zeros(["exp_avg", "exp_avg_sq"]),
            numbers: of.iter().map(|tensor| self.numbers(tensor)).sum(),
            // The CPU turns one vector after the other, in two of these.
            workspace: 4 * n + partial(&self.layout(of).1),
            ..Memory::default()
        }
    }

    /// Of tensors and of bases; sums of squares.
    fn tables(&self, of: &[Tensor]) -> Tables {
        let (tensors, bases) = self.layout(of);
        Tables {
            constants: vec![
                bytemuck::cast_slice(&tensors).to_vec(),
                bytemuck::cast_slice(&bases).to_vec(),
            ],
            doubles: BLOCKS * of.len(),
        }
    }

    fn coefficients(&mut self, at: At) -> SoapStep {
        let j = at.k - 1;
        let [c1, c2] = self.betas.map(|beta| 1.0 - beta.powf(j as f64));
        SoapStep {
            lr: match self.correct_bias {
                true => at.lr * c2.sqrt() / c1,
                false => at.lr,
            },
            shrink: 1.0 - at.lr * self.weight_decay,
            beta1: self.betas[0],
            beta2: self.betas[1],
            shampoo_beta: self.shampoo_beta,
            eps: self.eps,
            first: i64::from(j == 0),
        }
    }

    fn kernels(&self, u: &Update<Self>, program: &mut Program) {
        let (n, count) = (u.w.len, u.tensors.len());
        let (now, steps, [m, v]) = (u.now, u.coefficients, u.vectors());
        let [tensors, bases] = [0, 1].map(|i| u.constants[i]);
        let (tensors, bases) = (tensors.cast(), bases.cast());
        let work = u.work.part(0, 4 * n);
        let (own, all) = self.layout(u.tensors);
        let turn = |back: bool, program: &mut Program| {
            for i in 0..own.iter().map(|tensor| tensor.count).max().unwrap_or(0) {
                let of_all = own.iter().filter(|tensor| i < tensor.count);
                let of_all = of_all.map(|tensor| &all[(tensor.first + i) as usize]);
                let blocks = of_all.map(|basis| tiles(basis, basis.columns)).max();
                let mut grid = Grid::from((blocks.expect("one at least"), count));
                grid.blocks[2] = if back { 1 } else { 2 };
                grid.shared = RING as u32;
                let arguments = kernels::SoapTurn {
                    tensors,
                    bases,
                    numbers: u.numbers,
                    g: u.g.into(),
                    m,
                    work,
                    n: n as i64,
                    i: i as i32,
                    back: back.into(),
                };
                kernels::soap_turn(program, grid, arguments);
            }
        };
        kernels::soap_average(program, elementwise(n), now, steps, u.g, m, n as i64);
        turn(false, program);
        let grid = Grid::from((BLOCKS, count));
        kernels::soap_direction(
            program, grid, now, steps, tensors, u.g, m, v, work, n as i64,
        );
        turn(true, program);
        let (direction, normalize) = (work.part(3 * n, n), i32::from(self.normalize));
        if self.normalize {
            kernels::soap_squares(program, grid, tensors, direction, u.doubles);
        }
        kernels::soap(
            program, grid, now, steps, tensors, direction, u.doubles, normalize, u.w,
        );
        let blocks = all
            .iter()
            .map(|basis| tiles(basis, basis.size) * basis.parts as usize);
        let Some(blocks) = blocks.max() else {
            return;
        };
        let split = all.iter().filter(|basis| basis.parts > 1);
        let counters = program.counters(split.map(|basis| tiles(basis, basis.size)).sum());
        let grid = Grid {
            shared: RING as u32,
            ..(blocks, all.len()).into()
        };
        let partial = u.work.part(4 * n, u.work.len - 4 * n);
        kernels::soap_products(
            program, grid, now, steps, bases, u.g, u.numbers, partial, counters,
        );
    }

    fn host(&self, u: &Update<Self>, program: &mut Program) {
        let soap = *self;
        let tensors = u.tensors.iter().map(|tensor| self.dimensions(tensor));
        let tensors: Vec<Vec<Dimension>> = tensors.collect();
        let lengths = u.tensors.iter();
        let lengths = lengths.map(|tensor| [tensor.range.len, self.numbers(tensor)]);
        let lengths: Vec<[usize; 2]> = lengths.collect();
        u.host(program, "soap", move |mut step| {
            let c = *step.coefficients;
            let (vectors, numbers) = step.vectors_and_numbers();
            vectors.for_tensors(numbers, &lengths, |i, vectors, numbers| {
                soap.step(&tensors[i], c, vectors, numbers);
            });
        });
    }

    fn after(&self) -> Option<After> {
        Some(After {
            first: 1,
            every: self.frequency,
            drawn: false,
        })
    }

    /// Makes the bases, or changes them.
    fn further(&self, u: &Update<Self>, program: &mut Program) {
        let [_, v] = u.vectors();
        let tensors = u.tensors.iter();
        let tensors = tensors.map(|tensor| (tensor.range.len, self.dimensions(tensor)));
        let tensors: Vec<(usize, Vec<Dimension>)> = tensors.collect();
        let (reads, writes) = ([u.now.into()], [v.into(), u.numbers.into()]);
        program.by_host("soap_bases", reads, writes, move |[now], [v, numbers]| {
            let first = one::<Step>(now).done == 0;
            let (mut v, mut numbers) = (floats_mut(v), floats_mut(numbers));
            let own = tensors.iter().map(|(n, dimensions)| {
                let count = dimensions.iter().map(|dimension| dimension.numbers()).sum();
                let v = v.split_off_mut(..*n).expect("as many");
                (
                    dimensions,
                    v,
                    numbers.split_off_mut(..count).expect("as many"),
                )
            });
            let own: Vec<(&Vec<Dimension>, &mut [f32], &mut [f32])> = own.collect();
            own.into_par_iter().for_each(|(dimensions, v, numbers)| {
                each_basis(dimensions, numbers, |i, size, l, q| match first {
                    true => q.copy_from_slice(&linalg::eigenvectors(l, size)),
                    false => {
                        let behind = dimensions[i + 1..].iter().map(|other| other.size);
                        reorder(v, &change(l, q, size), behind.product());
                    }
                });
            });
        });
    }
}

impl Soap {
    /// The step of one tensor.
    fn step(
        &self,
        dimensions: &[Dimension],
        c: SoapStep,
        vectors: Vectors<'_, 4>,
        numbers: &mut [f32],
    ) {
        let Vectors {
            w,
            g,
            state: [m, v, x, y],
        } = vectors;
        if c.first != 0 {
            return self.multiply(dimensions, g, numbers, [x, y]);
        }
        let ([b1, b2], eps) = (self.betas, self.eps as f32);
        x.copy_from_slice(g);
        let [turned, other] = turn(dimensions, numbers, Way::There, [x, y]);
        piecewise(m, g, move |m, g| *m = average(b1, *m, g));
        piecewise(v, turned, move |v, g| *v = average_square(b2, *v, g));
        other.copy_from_slice(m);
        let [u, other] = turn(dimensions, numbers, Way::There, [other, turned]);
        piecewise(u, v, move |u, v| *u /= v.sqrt() + eps);
        let [u, other] = turn(dimensions, numbers, Way::Back, [u, other]);
        let mean_square = || sum_of(u, u, |x, y| x * y) / u.len() as f64;
        let lr = match self.normalize {
            true => c.lr / (1e-30 + mean_square().sqrt()),
            false => c.lr,
        };
        let (lr, shrink) = (lr as f32, c.shrink as f32);
        piecewise(w, u, move |w, u| *w = shrink * (-lr).mul_add(u, *w));

        self.multiply(dimensions, g, numbers, [u, other]);
    }

    /// The running averages L of the gradient's products with itself.
    fn multiply(
        &self,
        dimensions: &[Dimension],
        g: &[f32],
        numbers: &mut [f32],
        [mut x, mut y]: [&mut [f32]; 2],
    ) {
        let (old, new) = (self.shampoo_beta as f32, (1.0 - self.shampoo_beta) as f32);
        let mut numbers = numbers;
        x.copy_from_slice(g);
        for dimension in dimensions {
            let (size, columns) = (dimension.size, x.len() / dimension.size);
            if let Some((l, _)) = split(&mut numbers, *dimension) {
                let rows = Matrix::new(x, columns);
                gemm((size, columns, size), new, rows, rows.t(), old, l, size);
            }
            transpose(x, columns, y);
            std::mem::swap(&mut x, &mut y);
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    There,
    Back,
}

/// Multiplies each dimension of the first by Q^T, or by Q. The result is the first then, the other is of no use. The
/// dimension in turn is the first and becomes the last one, so that all are in their places in the end.
fn turn<'a>(
    dimensions: &[Dimension],
    mut numbers: &[f32],
    way: Way,
    [mut x, mut y]: [&'a mut [f32]; 2],
) -> [&'a mut [f32]; 2] {
    for dimension in dimensions {
        let (size, columns) = (dimension.size, x.len() / dimension.size);
        match numbers.split_off(..dimension.numbers()).expect("as many") {
            [] => transpose(x, columns, y),
            own => {
                let by_columns = Matrix::new(&own[dimension.entries()..], size);
                let q = match way {
                    Way::There => by_columns.t(),
                    Way::Back => by_columns,
                };
                let rows = Matrix::new(x, columns).t();
                gemm((columns, size, size), 1.0, rows, q, 0.0, y, size);
            }
        }
        std::mem::swap(&mut x, &mut y);
    }
    [x, y]
}

/// Sorts the columns of Q by what L is along them, takes a step of the power iteration and makes them a basis again. The
/// order in which they were is returned.
fn change(l: &[f32], q: &mut [f32], size: usize) -> Vec<usize> {
    let mut images = vec![0.0; size * size];
    let [columns, matrix] = [&*q, l].map(|x| Matrix::new(x, size));
    // L is symmetric: these are the columns of L Q, one after the other.
    gemm(
        (size, size, size),
        1.0,
        columns,
        matrix,
        0.0,
        &mut images,
        size,
    );
    let along = images.chunks_exact(size).zip(q.chunks_exact(size));
    let along = along.map(|(x, q)| x.iter().zip(q).map(|(x, q)| f64::from(x * q)).sum());
    let order = linalg::descending(&along.collect::<Vec<f64>>());
    let sorted = order.iter().flat_map(|i| &images[i * size..][..size]);
    q.copy_from_slice(&linalg::orthonormal(sorted.copied().collect(), size));
    order
}

/// Puts entry `order[i]` of a dimension in place i, with this many numbers behind each entry.
fn reorder(x: &mut [f32], order: &[usize], behind: usize) {
    let (all, old) = (order.len() * behind, x.to_vec());
    for (to, from) in x.chunks_exact_mut(all).zip(old.chunks_exact(all)) {
        for (to, i) in to.chunks_exact_mut(behind).zip(order) {
            to.copy_from_slice(&from[i * behind..][..behind]);
        }
    }
}

/// L and Q of each dimension that has them, by its place and size.
fn each_basis(
    dimensions: &[Dimension],
    mut numbers: &mut [f32],
    mut f: impl FnMut(usize, usize, &[f32], &mut [f32]),
) {
    for (i, dimension) in dimensions.iter().enumerate() {
        if let Some((l, q)) = split(&mut numbers, *dimension) {
            f(i, dimension.size, l, q);
        }
    }
}

/// Takes L and Q of a dimension, if it has them, off the numbers.
fn split<'n>(
    numbers: &mut &'n mut [f32],
    dimension: Dimension,
) -> Option<(&'n mut [f32], &'n mut [f32])> {
    let own = numbers.split_off_mut(..dimension.numbers())?;
    dimension
        .has_basis
        .then(|| own.split_at_mut(dimension.entries()))
}

fn transpose(x: &[f32], columns: usize, to: &mut [f32]) {
    let rows = x.len() / columns;
    for (column, to) in to.chunks_exact_mut(rows).enumerate() {
        for (to, row) in to.iter_mut().zip(x.chunks_exact(columns)) {
            *to = row[column];
        }
    }
}

/// Runs `f` on every pair, in parallel.
fn piecewise(x: &mut [f32], y: &[f32], f: impl Fn(&mut f32, f32) + Sync) {
    let vectors = Vectors {
        w: x,
        g: y,
        state: [],
    };
    vectors.for_pieces(|Vectors { w, g, .. }| {
        w.iter_mut().zip(g).for_each(|(x, y)| f(x, *y));
    });
}

#[cfg(test)]
mod tests {
    use rayon::ThreadPoolBuilder;
    use serde_json::{Value, json};

    use super::*;
    use crate::device::{Device, Machine, Target, emulator_usable};
    use crate::graph::Params;
    use crate::optim::{Optimizer, Stepper};
    use crate::random::torch::Generator;

    fn optimizer(more: Value) -> Optimizer {
        let mut opt = json!({"name": "soap"}).as_object().unwrap().clone();
        opt.extend(more.as_object().unwrap().clone());
        Optimizer::new(&opt, &[]).unwrap()
    }

    fn params() -> Params {
        let mut params = Params::new(Generator::new(3));
        for (i, shape) in [&[300, 170][..], &[40, 20, 3, 2], &[9]].iter().enumerate() {
            params.uniform(i.to_string(), shape, 1.0);
        }
        params
    }

    /// The weights after some steps with the same gradient, or another one every time.
    fn path(more: Value, steps: usize, same: bool) -> Vec<f32> {
        let mut params = params();
        let mut gradient = vec![0.0; params.values.len()];
        let machine = Machine::open(Device::Cpu).unwrap();
        let mut stepper =
            Stepper::on(machine, optimizer(more), &params.tensors, Target::CPU).unwrap();
        let mut w = params.values;
        for k in 0..steps {
            if k == 0 || !same {
                params.generator.uniform(&mut gradient, -1.0, 1.0);
            }
            stepper.step(0.1, 1.0, &mut w, &gradient).unwrap();
        }
        w
    }

    #[test]
    fn same_bits_on_any_number_of_threads() {
        let on = |threads| {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build();
            let more = json!({"precondition_frequency": 2, "precondition_1d": true});
            let w = pool.unwrap().install(|| path(more, 6, false));
            w.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        let one = on(1);
        assert!(one.iter().all(|w| f32::from_bits(*w).is_finite()));
        assert!(one == on(2) && one == on(5));
    }

    /// Without a basis anywhere it is Adam, a step later.
    #[test]
    fn without_bases_it_is_adam() {
        let more = json!({"max_precond_dim": 1, "betas": [0.9, 0.99], "eps": 1e-12});
        let ours = path(more, 4, true);
        let mut params = params();
        let mut gradient = vec![0.0; params.values.len()];
        params.generator.uniform(&mut gradient, -1.0, 1.0);
        let opt = json!({"name": "adam", "betas": [0.9, 0.99], "eps": 1e-12});
        let n = gradient.len();
        let mut adam = Stepper::new(opt.as_object().unwrap(), n, Target::CPU).unwrap();
        let mut w = params.values;
        for _ in 0..3 {
            adam.step(0.1, 1.0, &mut w, &gradient).unwrap();
        }
        assert!(ours.iter().zip(&w).all(|(x, y)| (x - y).abs() < 1e-5));
    }

    /// Turned there and back a tensor is what it was, whatever has a basis.
    #[test]
    fn turning_back_undoes_turning() {
        let sizes = [4, 3, 5];
        for which in 0..8 {
            let dimensions = sizes.iter().enumerate().map(|(i, size)| Dimension {
                size: *size,
                has_basis: which >> i & 1 == 1,
            });
            let dimensions: Vec<Dimension> = dimensions.collect();
            let mut numbers = vec![0.0; dimensions.iter().map(|d| d.numbers()).sum()];
            each_basis(&dimensions, &mut numbers, |_, size, _, q| {
                let matrix = (0..size * size).map(|i| (i as f32).sin());
                q.copy_from_slice(&linalg::orthonormal(matrix.collect(), size));
            });
            let x: Vec<f32> = (0..60).map(|i| (i as f32).cos()).collect();
            let (mut a, mut b) = (x.clone(), vec![0.0; 60]);
            let [turned, other] = turn(&dimensions, &numbers, Way::There, [&mut a, &mut b]);
            let same = |y: &[f32]| x.iter().zip(y).all(|(x, y)| (x - y).abs() < 1e-5);
            assert_eq!(same(turned), which == 0);
            let [back, _] = turn(&dimensions, &numbers, Way::Back, [turned, other]);
            assert!(same(back));
        }
    }

    #[test]
    fn a_dimension_takes_its_new_order() {
        // (2, 3, 2)
        let mut x: Vec<f32> = (0..12u8).map(f32::from).collect();
        reorder(&mut x, &[2, 0, 1], 2);
        assert_eq!(
            x,
            [4, 5, 0, 1, 2, 3, 10, 11, 6, 7, 8, 9].map(|i: u8| f32::from(i))
        );
    }

    /// Of tensors with several tiles and sums in several parts; of rows, columns, and what lies between.
    #[test]
    fn kernels_follow_the_cpu() {
        if emulator_usable().is_err() {
            return;
        }
        let shapes = [&[70, 550][..], &[9, 20, 3, 5], &[7]];
        let path = |device, more: &Value| {
            let mut params = Params::new(Generator::new(3));
            for (i, shape) in shapes.iter().enumerate() {
                params.uniform(i.to_string(), shape, 1.0);
            }
            let mut gradient = vec![0.0; params.values.len()];
            let target = Target {
                device,
                precision: None,
            };
            let (machine, more) = (Machine::open(device).unwrap(), optimizer(more.clone()));
            let mut stepper = Stepper::on(machine, more, &params.tensors, target).unwrap();
            let mut w = params.values;
            for _ in 0..3 {
                params.generator.uniform(&mut gradient, -1.0, 1.0);
                stepper.step(0.1, 1.0, &mut w, &gradient).unwrap();
            }
            (w, stepper.calls())
        };
        // Bases of the longest, and the signs of the smallest, hang on rounding errors.
        let more = json!({
            "max_precond_dim": 70, "precondition_frequency": 1, "eps": 0.1, "normalize_grads": true,
        });
        let (expected, _) = path(Device::Cpu, &more);
        let ours = path(Device::Emulator, &more);
        let off = ours.0.iter().zip(&expected).map(|(x, y)| (x - y).abs());
        let off = off.fold(0.0, f32::max);
        assert!(off < 1e-4, "{off}");
        assert_eq!(ours.1, 13);
        assert!(path(Device::Emulator, &more) == ours);
    }
}
