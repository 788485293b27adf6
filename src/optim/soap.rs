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

use bytemuck::{Pod, Zeroable};

use super::{
    At, EPS, Look, Marker, Memory, Method, Reports, Row, Shape, StateVector, Update, Vectors,
    average, average_square,
};
use crate::config::{Entry, Key, Kind};
use crate::cpu::gemm::{Matrix, gemm};
use crate::cpu::{linalg, sum_of};
use crate::device::Program;
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
    cpu_only: true,
    build: &|values| {
        let betas: [f64; 2] = values.pair("betas").into();
        Box::new(Soap {
            betas,
            eps: values.real("eps") as f32,
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
    eps: f32,
    shampoo_beta: f64,
    frequency: u64,
    longest: usize,
    /// Do vectors have a basis?
    vectors: bool,
    correct_bias: bool,
    normalize: bool,
    weight_decay: f64,
}

#[derive(Clone, Copy, Zeroable, Pod)]
#[repr(C)]
struct SoapStep {
    lr: f64,
    shrink: f64,
    /// [`FIRST`], [`BETWEEN`] or [`CHANGE`].
    bases: u64,
}

/// What a step does to the bases: make them; nothing; change them behind it.
const FIRST: u64 = 0;
const BETWEEN: u64 = 1;
const CHANGE: u64 = 2;

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
}

impl Method for Soap {
    type Coefficients = SoapStep;
    type Scalars = ();

    fn memory(&self, of: &[Tensor]) -> Memory {
        let n: usize = of.iter().map(|tensor| tensor.range.len).sum();
        Memory {
            vectors: StateVector::zeros(["exp_avg", "exp_avg_sq"]),
            numbers: of.iter().map(|tensor| self.numbers(tensor)).sum(),
            workspace: 2 * n,
            ..Memory::default()
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
            bases: match j {
                0 => FIRST,
                _ if j.is_multiple_of(self.frequency) => CHANGE,
                _ => BETWEEN,
            },
        }
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
        if c.bases == FIRST {
            self.multiply(dimensions, g, numbers, [x, y]);
            return each_basis(dimensions, numbers, |_, size, l, q| {
                q.copy_from_slice(&linalg::eigenvectors(l, size));
            });
        }
        let ([b1, b2], eps) = (self.betas, self.eps);
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

        self.multiply(dimensions, g, numbers, [&mut *u, &mut *other]);
        if c.bases == CHANGE {
            each_basis(dimensions, numbers, |i, size, l, q| {
                let behind = dimensions[i + 1..].iter().map(|other| other.size);
                let order = change(l, q, size);
                reorder(v, &order, behind.product(), u);
            });
        }
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

/// Puts entry `order[i]` of a dimension in place i, with so many numbers behind each entry.
fn reorder(x: &mut [f32], order: &[usize], behind: usize, work: &mut [f32]) {
    work.copy_from_slice(x);
    let all = order.len() * behind;
    for (to, from) in x.chunks_exact_mut(all).zip(work.chunks_exact(all)) {
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
    use crate::device::{Device, Machine, Target};
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
        reorder(&mut x, &[2, 0, 1], 2, &mut [0.0; 12]);
        assert_eq!(
            x,
            [4, 5, 0, 1, 2, 3, 10, 11, 6, 7, 8, 9].map(|i: u8| f32::from(i))
        );
    }

    #[test]
    fn programs_of_other_devices_are_refused() {
        let target = Target {
            device: Device::Emulator,
            precision: None,
        };
        let machine = Machine::open(Device::Cpu).unwrap();
        let refused = Stepper::on(machine, optimizer(json!({})), &params().tensors, target);
        let message = refused.err().unwrap().message;
        assert_eq!(
            message,
            "soap has no CUDA kernels yet; train with --device cpu"
        );
    }
}
