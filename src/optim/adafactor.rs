//! Adafactor: averages of squared gradients by rows and columns alone, and steps relative to the size of the weights.
//!
//! Paper: N. Shazeer, M. Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", ICML 2018,
//! arXiv:1804.04235. What is computed is what torch.optim.Adafactor computes: without momentum.
//!
//! State: for each tensor of two or more dimensions, over the last two of them, R and C, the running averages of the mean
//! squared gradient of its rows and of its columns; for each vector V, that of the squared gradient. Further dimensions
//! count matrices.
//!
//! ```text
//! b = k^beta2_decay
//! a = max(eps2, |w| / sqrt(numel)) min(lr, k^-1/2)
//! w = (1 - lr wd) w
//! R = R + b (mean of a row of g^2 - R),  C = C + b (mean of a column of g^2 - C),  V = R C / max(mean R, eps1)
//! V = V + b (g^2 - V)                                              vectors
//! U = g / sqrt(max(V, eps1^2))
//! w = w - a / max(1, |U| / (sqrt(numel) d)) U
//! ```

use serde_json::Value;

use super::{
    At, Look, Marker, Memory, Method, Reports, Row, Shape, Tables, Update, Vectors, at_least, lerp,
};
use crate::config::{Entry, Key, Kind};
use crate::device::Program;
use crate::device::gpu::kernels::{self, AdafactorStep, FactoredTensor};
use crate::graph::Tensor;

pub(super) const ADAFACTOR: Row = Row {
    entry: Entry {
        name: "adafactor",
        about: "averages of squared gradients by rows and columns, steps relative to the weights",
        paper: "Shazeer and Stern 2018, arXiv:1804.04235",
        keys: &[
            Key {
                name: "beta2_decay",
                kind: Kind::Checked("a finite number of 0 or less", |value| {
                    value.as_f64().is_some_and(|x| x.is_finite() && x <= 0.0)
                }),
                default: Some("-0.8"),
                about: "the new square has weight k^beta2_decay in the averages",
            },
            Key {
                name: "eps",
                kind: Kind::Checked(
                    "a list of two numbers of 0 or more, the first of which may be null",
                    |value| {
                        let number = |x: &Value| Kind::NonNegative.accepts(x);
                        let of_two = value.as_array().filter(|list| list.len() == 2);
                        of_two.is_some_and(|x| (x[0].is_null() || number(&x[0])) && number(&x[1]))
                    },
                ),
                default: Some("[null, 1e-3]"),
                about: "least root of an average (null: 2^-23), and least size of the weights; inside `opt` a list of lists",
            },
            Key {
                name: "d",
                kind: Kind::Positive,
                default: Some("1"),
                about: "largest root mean square of a tensor's update",
            },
        ],
    },
    look: Look {
        colour: 0xd55e00,
        reference: None,
        marker: Marker::Hollow(Shape::Up),
        dash: 2,
    },
    reports: Reports::NOTHING,
    rest: None,
    build: &|values| {
        let eps = values.get("eps");
        Box::new(Adafactor {
            beta2_decay: values.real("beta2_decay"),
            eps: eps[0].as_f64().unwrap_or(f64::from(f32::EPSILON)),
            least: eps[1].as_f64().expect("a number"),
            limit: values.real("d"),
            weight_decay: values.real("weight_decay"),
        })
    },
};

/// Blocks of kernels for each tensor.
const BLOCKS: usize = 64;

/// Rows and columns of a tile of `kernels/adafactor.cu`.
const TILE: [usize; 2] = [64, 32];

#[derive(Clone, Copy)]
struct Adafactor {
    beta2_decay: f64,
    eps: f64,
    least: f64,
    limit: f64,
    weight_decay: f64,
}

/// A tensor as matrices, or a vector as none.
#[derive(Clone, Copy)]
struct Factored {
    len: usize,
    batches: usize,
    rows: usize,
    columns: usize,
}

impl Factored {
    fn of(tensor: &Tensor) -> Factored {
        let len = tensor.range.len;
        let [.., rows, columns] = tensor.shape[..] else {
            return Factored {
                len,
                batches: 0,
                rows: 0,
                columns: 0,
            };
        };
        Factored {
            len,
            batches: len / (rows * columns).max(1),
            rows,
            columns,
        }
    }

    /// How many averages it has.
    fn numbers(self) -> usize {
        match self.rows {
            0 => self.len,
            _ => self.batches * (self.rows + self.columns),
        }
    }

    /// Sums of squares of its tiles, and means.
    fn partial(self) -> usize {
        let [down, across] = [self.rows.div_ceil(TILE[0]), self.columns.div_ceil(TILE[1])];
        self.batches * (self.rows * across + down * self.columns + 1)
    }
}

impl Method for Adafactor {
    type Coefficients = AdafactorStep;
    type Scalars = ();

    fn memory(&self, of: &[Tensor]) -> Memory {
        Memory {
            numbers: of.iter().map(|tensor| Factored::of(tensor).numbers()).sum(),
            workspace: of.iter().map(|tensor| tensor.range.len).sum(),
            ..Memory::default()
        }
    }

    /// Where the kernels find each tensor's matrices, and sums of squares.
    fn tables(&self, of: &[Tensor]) -> Tables {
        let (mut numbers, mut partial) = (0, 0);
        let table = of.iter().map(|tensor| {
            let factored = Factored::of(tensor);
            let entry = FactoredTensor {
                start: tensor.range.start as i64,
                n: factored.len as i64,
                batches: factored.batches as i64,
                rows: factored.rows as i64,
                columns: factored.columns as i64,
                numbers: numbers as i64,
                partial: partial as i64,
            };
            numbers += factored.numbers();
            partial += factored.partial();
            entry
        });
        let table: Vec<FactoredTensor> = table.collect();
        Tables {
            constants: vec![bytemuck::cast_slice(&table).to_vec()],
            doubles: 2 * BLOCKS * of.len() + partial,
        }
    }

    fn coefficients(&mut self, at: At) -> AdafactorStep {
        let k = at.k as f64;
        AdafactorStep {
            weight: k.powf(self.beta2_decay),
            rate: at.lr.min(1.0 / k.sqrt()),
            least: self.least,
            eps: self.eps,
            limit: self.limit,
            shrink: 1.0 - at.lr * self.weight_decay,
        }
    }

    fn kernels(&self, u: &Update<Self>, program: &mut Program) {
        let (count, grid) = (u.tensors.len(), (BLOCKS, u.tensors.len()));
        let (now, steps, tensors) = (u.now, u.coefficients, u.constants[0].cast());
        let (update, sums) = (u.work, u.doubles);
        let [of_weights, of_update] = [0, 1].map(|i| sums.part(i * BLOCKS * count, BLOCKS * count));
        let partial = 2 * BLOCKS * count;
        let partial = sums.part(partial, sums.len - partial);
        kernels::adafactor_sums(program, grid, tensors, u.w, u.g, of_weights, partial);
        kernels::adafactor_factors(program, grid, now, steps, tensors, partial, u.numbers);
        kernels::adafactor_direction(
            program, grid, now, steps, tensors, u.g, partial, u.numbers, update, of_update,
        );
        kernels::adafactor(
            program, grid, now, steps, tensors, update, of_weights, of_update, u.w,
        );
    }

    fn host(&self, u: &Update<Self>, program: &mut Program) {
        let tensors: Vec<Factored> = u.tensors.iter().map(Factored::of).collect();
        let lengths: Vec<[usize; 2]> = tensors.iter().map(|t| [t.len, t.numbers()]).collect();
        u.host(program, "adafactor", move |mut step| {
            let c = *step.coefficients;
            let (vectors, numbers) = step.vectors_and_numbers();
            vectors.for_tensors(numbers, &lengths, |i, vectors, numbers| {
                tensors[i].step(c, vectors, numbers);
            });
        });
    }
}

impl Factored {
    /// The step of one tensor on the CPU.
    fn step(self, c: AdafactorStep, vectors: Vectors<'_, 1>, numbers: &mut [f32]) {
        let Vectors {
            w,
            g,
            state: [update],
        } = vectors;
        match self.rows {
            0 => direct(c, g, numbers, update),
            _ => self.direct_matrices(c, g, numbers, update),
        }
        let root = (self.len as f64).sqrt();
        let size = norm(w, g) / root;
        let longer = norm(update, g) / (root * c.limit);
        let rate = at_least(size, c.least) * c.rate / if longer > 1.0 { longer } else { 1.0 };
        let (lr, shrink) = (rate as f32, c.shrink as f32);
        let step = Vectors {
            w,
            g: update,
            state: [],
        };
        step.for_pieces(move |Vectors { w, g: u, .. }| {
            for (w, u) in w.iter_mut().zip(u) {
                *w = (-lr).mul_add(*u, shrink * *w);
            }
        });
    }

    /// U of its matrices.
    fn direct_matrices(self, c: AdafactorStep, g: &[f32], numbers: &mut [f32], update: &mut [f32]) {
        let Factored {
            batches,
            rows,
            columns,
            ..
        } = self;
        let (weight, eps, least) = single(c);
        let (of_rows, of_columns) = numbers.split_at_mut(batches * rows);
        let of_rows = of_rows.chunks_exact_mut(rows);
        let factors = of_rows.zip(of_columns.chunks_exact_mut(columns));
        let matrices = g.chunks_exact(rows * columns);
        let matrices = matrices.zip(update.chunks_exact_mut(rows * columns));
        for ((r, c), (g, update)) in factors.zip(matrices) {
            let mut sum = 0.0;
            for (r, row) in r.iter_mut().zip(g.chunks_exact(columns)) {
                let squares: f64 = row.iter().map(|x| square(*x)).sum();
                *r = lerp(*r, (squares / columns as f64) as f32, weight);
                sum += f64::from(*r);
            }
            const AT_ONCE: usize = 64;
            for (i, c) in c.chunks_mut(AT_ONCE).enumerate() {
                let mut sums = [0.0; AT_ONCE];
                for row in g.chunks_exact(columns) {
                    let row = &row[i * AT_ONCE..][..c.len()];
                    let terms = sums.iter_mut().zip(row);
                    terms.for_each(|(sum, x)| *sum += square(*x));
                }
                for (c, sum) in c.iter_mut().zip(sums) {
                    *c = lerp(*c, (sum / rows as f64) as f32, weight);
                }
            }
            let mean = (sum / rows as f64) as f32;
            let mean = if mean < eps { eps } else { mean };
            let pairs = g
                .chunks_exact(columns)
                .zip(update.chunks_exact_mut(columns));
            for (r, (g, update)) in r.iter().zip(pairs) {
                for ((update, g), c) in update.iter_mut().zip(g).zip(c.iter()) {
                    let v = r * c / mean;
                    *update = g / if v < least { least } else { v }.sqrt();
                }
            }
        }
    }
}

/// U of a vector.
fn direct(c: AdafactorStep, g: &[f32], v: &mut [f32], update: &mut [f32]) {
    let (weight, _, least) = single(c);
    for ((update, g), v) in update.iter_mut().zip(g).zip(v) {
        *v = lerp(*v, g * g, weight);
        *update = g / if *v < least { least } else { *v }.sqrt();
    }
}

/// The weight of a new square, eps1, and its square.
fn single(c: AdafactorStep) -> (f32, f32, f32) {
    (c.weight as f32, c.eps as f32, (c.eps * c.eps) as f32)
}

fn square(x: f32) -> f64 {
    f64::from(x) * f64::from(x)
}

/// |x|; the other vector is as long.
fn norm(x: &mut [f32], g: &[f32]) -> f64 {
    let pieces = Vectors { w: x, g, state: [] };
    let [squares] = pieces.sum_pieces(|Vectors { w: x, .. }| [x.iter().map(|x| square(*x)).sum()]);
    f64::from(squares.sqrt() as f32)
}
