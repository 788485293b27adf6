//! Muon: the averaged gradient of every matrix, made orthogonal.
//!
//! Method: K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024,
//! kellerjordan.github.io/posts/muon; `match_rms_adamw`: J. Liu et al., "Muon is Scalable for LLM Training", 2025,
//! arXiv:2502.16982.
//!
//! State: b, the running average of the gradient. A tensor of more than two dimensions is the matrix of its first
//! dimension, r rows, and all others, c columns. Its X is transposed where r > c.
//!
//! ```text
//! b = mu b + (1 - mu) g
//! u = (1 - mu) g + mu b                                   nesterov
//! u = b                                                   elsewhere
//! X = u / max(|u|, 1e-7)
//! A = X X^T,  X = 3.4445 X + (-4.775 A + 2.0315 A A) X    ns_steps times (Newton-Schulz)
//! w = (1 - lr wd) w - lr s X
//! s = sqrt(max(1, r / c))                                 adjust_lr "original"
//! s = 0.2 sqrt(max(r, c))                                 adjust_lr "match_rms_adamw"
//! ```
//!
//! With `ns_dtype` "bfloat16" X, A and the polynomial in A are rounded to bfloat16; their sums stay in single precision.
//! What is no matrix between two layers is AdamW's ([`Row::rest`]).

use super::newton_schulz::{Matrices, Matrix, NewtonSchulz, PANEL_SIDE};
use super::{
    At, BETAS, EPS, LR, Look, Marker, Memory, Method, Reports, Row, Shape, StateVector, Tables,
    Update, Vectors, WEIGHT_DECAY, lerp,
};
use crate::config::{Entry, Key, Kind};
use crate::device::gpu::{
    Grid,
    kernels::{self, MuonStep, Quintic},
};
use crate::device::{Program, View};
use crate::graph::Tensor;

pub(super) const MUON: Row = Row {
    entry: Entry {
        name: "muon",
        about: "orthogonalised momentum for matrices between two layers, AdamW for all else",
        paper: "Jordan et al. 2024, kellerjordan.github.io/posts/muon",
        keys: &[
            Key {
                name: "momentum",
                kind: Kind::Fraction,
                default: Some("0.95"),
                about: "factor of the running average of the gradient",
            },
            Key {
                name: "nesterov",
                kind: Kind::Flag,
                default: Some("true"),
                about: "the gradient counts once more",
            },
            Key {
                name: "ns_steps",
                kind: Kind::Count,
                default: Some("5"),
                about: "steps of the Newton-Schulz iteration",
            },
            Key {
                name: "adjust_lr",
                kind: Kind::Choice(&["original", "match_rms_adamw"]),
                default: Some("\"original\""),
                about: "how lr grows with a matrix: \"original\" with its shape, \"match_rms_adamw\" to updates as large as AdamW's (Liu et al. 2025, arXiv:2502.16982)",
            },
            Key {
                name: "ns_dtype",
                kind: Kind::Choice(&["float32", "bfloat16"]),
                default: Some("\"float32\""),
                about: "numbers of the Newton-Schulz iteration",
            },
            Key {
                name: "aux_lr",
                about: "step size of AdamW, for what is no matrix between two layers",
                ..LR
            },
            Key {
                name: "aux_weight_decay",
                about: "weight decay of AdamW there",
                ..WEIGHT_DECAY
            },
            Key {
                name: "aux_betas",
                about: "AdamW's betas there",
                ..BETAS
            },
            Key {
                name: "aux_eps",
                about: "AdamW's eps there",
                ..EPS
            },
        ],
    },
    look: Look {
        colour: 0x5a0a78,
        reference: None,
        marker: Marker::Hollow(Shape::Spark),
        dash: 0,
    },
    reports: Reports::NOTHING,
    rest: Some("adamw"),
    build: &|values| {
        Box::new(Muon {
            momentum: values.real("momentum"),
            weight_decay: values.real("weight_decay"),
            nesterov: values.flag("nesterov"),
            match_rms: values.text("adjust_lr") == "match_rms_adamw",
            iteration: NewtonSchulz {
                steps: values.count("ns_steps"),
                coefficients: QUINTIC,
                bf16: values.text("ns_dtype") == "bfloat16",
                panel_side: PANEL_SIDE,
            },
        })
    },
};

/// A step of the iteration.
const QUINTIC: Quintic = Quintic {
    x: 3.4445,
    a: -4.775,
    aa: 2.0315,
};

/// Blocks for each matrix of kernels that go over its entries.
const BLOCKS: usize = 32;

#[derive(Clone, Copy)]
struct Muon {
    momentum: f64,
    weight_decay: f64,
    nesterov: bool,
    match_rms: bool,
    iteration: NewtonSchulz,
}

impl Method for Muon {
    type Coefficients = MuonStep;
    type Scalars = ();

    fn memory(&self, of: &[Tensor]) -> Memory {
        let n: usize = of.iter().map(|tensor| tensor.range.len).sum();
        Memory {
            vectors: StateVector::zeros(["momentum_buffer"]),
            workspace: 4 * n,
            ranges: true,
            ..Memory::default()
        }
    }

    /// Sums of squares.
    fn tables(&self, of: &[Tensor]) -> Tables {
        Tables {
            doubles: BLOCKS * of.len(),
            ..Tables::default()
        }
    }

    fn coefficients(&mut self, at: At) -> MuonStep {
        MuonStep {
            lr: at.lr,
            shrink: 1.0 - at.lr * self.weight_decay,
            momentum: self.momentum,
        }
    }

    fn kernels(&self, u: &Update<Self>, program: &mut Program) {
        let (n, iteration) = (u.w.len, self.iteration);
        let vectors: [View<f32>; 4] = std::array::from_fn(|i| u.work.part(i * n, n));
        let entries = Grid::from((BLOCKS, u.tensors.len()));
        let ([buffer], [x, ..], ranges) = (u.vectors(), vectors, u.ranges);
        let (nesterov, bf16) = (i32::from(self.nesterov), i32::from(iteration.bf16));
        let (now, steps) = (u.now, u.coefficients);
        kernels::muon_momentum(
            program, entries, now, steps, ranges, u.g, buffer, x, u.doubles, nesterov,
        );
        kernels::muon_normalize(program, entries, ranges, u.doubles, x, bf16);
        let matrices = Matrices {
            tensors: u.tensors,
            ranges,
            vectors,
        };
        iteration.kernels(matrices, program, &|last, program| {
            let arguments = kernels::MuonUpdate {
                now,
                steps,
                ranges,
                a: last.a,
                b: last.b,
                has_b: last.has_b,
                x: last.x,
                w: u.w.into(),
                q: last.coefficients,
                match_rms: self.match_rms.into(),
                tiles: last.tiles,
                bf16,
            };
            kernels::muon_update(program, last.grid, arguments);
        });
    }

    fn host(&self, u: &Update<Self>, program: &mut Program) {
        let muon = *self;
        let matrices: Vec<Matrix> = u.tensors.iter().map(Matrix::of).collect();
        let lengths = u.tensors.iter().map(|tensor| [tensor.range.len, 0]);
        let lengths: Vec<[usize; 2]> = lengths.collect();
        u.host(program, "muon", move |mut step| {
            let c = *step.coefficients;
            let (vectors, numbers) = step.vectors_and_numbers();
            vectors.for_tensors(numbers, &lengths, |i, vectors, _| {
                muon.step(matrices[i], c, vectors);
            });
        });
    }
}

impl Muon {
    /// The step of one matrix on the CPU.
    fn step(self, matrix: Matrix, c: MuonStep, vectors: Vectors<'_, 5>) {
        let Vectors {
            w,
            g,
            state: [b, x, y, a, p],
        } = vectors;
        let (weight, mu) = ((1.0 - c.momentum) as f32, c.momentum as f32);
        let nesterov = self.nesterov;
        let state = Vectors {
            w: &mut *x,
            g,
            state: [b],
        };
        let [squares] = state.sum_pieces(
            move |Vectors {
                      w: u,
                      g,
                      state: [b],
                  }| {
                let mut squares = 0.0;
                for ((u, &g), b) in u.iter_mut().zip(g).zip(b) {
                    *b = lerp(*b, g, weight);
                    *u = if nesterov { lerp(g, *b, mu) } else { *b };
                    squares += f64::from(*u) * f64::from(*u);
                }
                [squares]
            },
        );
        let norm = squares.sqrt() as f32;
        let divisor = if norm < 1e-7 { 1e-7 } else { norm };
        let iteration = self.iteration;
        x.iter_mut()
            .for_each(|x| *x = iteration.rounded(iteration.rounded(*x) / divisor));
        let x = iteration.on_host(matrix, [x, y, a, p]);
        let Matrix { rows, columns } = matrix;
        let longer = match self.match_rms {
            true => 0.2 * (matrix.length() as f32).sqrt(),
            false => (rows as f32 / columns as f32).max(1.0).sqrt(),
        };
        let (lr, shrink) = ((c.lr * f64::from(longer)) as f32, c.shrink as f32);
        let step = Vectors { w, g: x, state: [] };
        step.for_pieces(move |Vectors { w, g: x, .. }| {
            for (w, x) in w.iter_mut().zip(x) {
                *w = (-lr).mul_add(*x, shrink * *w);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Device, Machine, Target, emulator_usable};
    use crate::graph::Params;
    use crate::optim::{Optimizer, Stepper};
    use crate::random::torch::Generator;

    /// The weights after two steps on matrices of several tiles, tall and wide.
    fn path(device: Device, muon: Muon) -> (Vec<f32>, usize) {
        let mut params = Params::new(Generator::new(3));
        for (i, shape) in [[150, 70], [70, 200], [3, 5]].iter().enumerate() {
            params.uniform(i.to_string(), shape, 1.0);
        }
        let mut gradient = vec![0.0; params.values.len()];
        let target = Target {
            device,
            precision: None,
        };
        let optimizer = Optimizer::of(Box::new(muon), Reports::NOTHING, 0.1);
        let machine = Machine::open(device).unwrap();
        let mut stepper = Stepper::on(machine, optimizer, &params.tensors, target).unwrap();
        let mut w = params.values;
        for lr in [0.1, 0.05] {
            params.generator.uniform(&mut gradient, -1.0, 1.0);
            stepper.step(lr, 1.0, &mut w, &gradient).unwrap();
        }
        (w, stepper.calls())
    }

    #[test]
    fn a_polynomial_that_fits_into_no_block_is_a_launch_of_its_own() {
        if emulator_usable().is_err() {
            return;
        }
        for bf16 in [false, true] {
            let muon = Muon {
                momentum: 0.95,
                weight_decay: 0.1,
                nesterov: true,
                match_rms: false,
                iteration: NewtonSchulz {
                    steps: 2,
                    coefficients: QUINTIC,
                    bf16,
                    panel_side: PANEL_SIDE,
                },
            };
            let (together, calls) = path(Device::Emulator, muon);
            let mut alone = muon;
            alone.iteration.panel_side = 0;
            assert_eq!(path(Device::Emulator, alone), (together.clone(), calls + 2));
            // Where a sum is rounded to bfloat16 may depend on its last digits.
            let tolerance = if bf16 { 1e-3 } else { 1e-6 };
            let (expected, _) = path(Device::Cpu, muon);
            let close = |(x, y): (&f32, &f32)| (x - y).abs() <= tolerance;
            assert!(together.iter().zip(&expected).all(close));
        }
    }
}
