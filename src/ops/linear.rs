//! Linear: y = x w^T + b, and max(y, 0) where a ReLU follows.
//!
//! Gradient, with dz = dy where y > 0: dx = dz w, dw = dz^T x, db = sum of dz over the rows.

use crate::cpu::gemm::{Matrix, gemm};
use crate::cpu::{fill_rows, pool, sum_rows};
use crate::device::Program;
use crate::device::gpu::{Grid, PROCESSORS, Precision, elementwise, kernels};
use crate::error::Result;
use crate::graph::{Bwd, BwdSlots, Fwd, FwdSlots, Op, Tail, Var};
use crate::ops::{Case, Data, Row};

/// Rows whose share of a weight gradient is worth a part of its own.
const PART: usize = 128;

struct Linear {
    rows: usize,
    inputs: usize,
    outputs: usize,
    bias: bool,
    relu: bool,
    processors: usize,
}

impl<'t> Var<'t> {
    /// `self` (..., I) times the transpose of `w` (O, I), plus `b` (O): (..., O).
    pub fn linear(self, w: Var<'t>, b: Option<Var<'t>>) -> Var<'t> {
        self.linear_for(PROCESSORS, w, b)
    }

    fn linear_for(self, processors: usize, w: Var<'t>, b: Option<Var<'t>>) -> Var<'t> {
        let (rows, inputs) = self.rows_columns();
        let (outputs, w_inputs) = w.rows_columns();
        assert_eq!(inputs, w_inputs, "linear: input and weight do not fit");
        let mut shape = self.shape();
        *shape.last_mut().expect("a dimension of inputs") = outputs;
        let op = Linear {
            rows,
            inputs,
            outputs,
            bias: b.is_some(),
            relu: false,
            processors,
        };
        let operands: Vec<Var> = [self, w].into_iter().chain(b).collect();
        self.tape.apply(op, &operands, &shape)
    }
}

/// Tiles of this size in a matrix.
fn tiles(size: usize, rows: usize, columns: usize) -> usize {
    rows.div_ceil(size) * columns.div_ceil(size)
}

/// The grid of a kernel with tiles of this size, with the ring that `Shape` in `kernels/linear.cu` describes.
fn grid(size: usize, tiles: usize, parts: usize) -> Grid {
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

impl Linear {
    fn sizes(&self) -> [i32; 3] {
        [self.rows, self.inputs, self.outputs].map(|n| n as i32)
    }

    /// The largest tiles of which there are enough.
    fn tile(&self, tiles: impl Fn(usize) -> usize) -> usize {
        let (all, half) = (self.processors, self.processors / 2);
        let enough = [(128, all), (64, all), (32, half)];
        let enough = enough.into_iter().find(|(size, n)| tiles(*size) >= *n);
        enough.map_or(16, |(size, _)| size)
    }

    /// Is backward done in one launch?
    fn is_small(&self) -> bool {
        const FEW: usize = 1 << 27;
        self.flops() <= FEW && tiles(64, self.rows, self.inputs) < self.processors
    }

    /// Of a large layer's weight gradient: size of its tiles, rows of a part, and parts.
    fn parts(&self) -> (usize, usize, usize) {
        let size = if self.outputs.min(self.inputs) > 64 {
            128
        } else {
            64
        };
        // So many blocks run at a time.
        let blocks = self.processors * if size == 128 { 2 } else { 4 };
        let most = blocks / tiles(size, self.outputs, self.inputs);
        let rows = self
            .rows
            .div_ceil(most.max(1))
            .next_multiple_of(32)
            .max(PART);
        (size, rows, self.rows.div_ceil(rows))
    }

    /// Of a large layer, in backward: dz where it is not dy, and the parts of dw and of db.
    fn work(&self) -> [usize; 3] {
        let (_, _, parts) = self.parts();
        let parts = if parts > 1 { parts } else { 0 };
        [
            self.bwd_work(),
            parts * self.outputs * self.inputs,
            parts * self.outputs,
        ]
    }

    /// The launch that does all of backward.
    fn small_bwd(&self, io: BwdSlots, tf32: i32, program: &mut Program) {
        let ([x, w, ..], [dx, dw, db, ..]) = (io.x, io.dx);
        let [rows, inputs, outputs] = self.sizes();
        let of_dx = |size| match dx.len {
            0 => 0,
            _ => tiles(size, self.rows, self.inputs),
        };
        let of_dw = |size| match dw.len {
            0 => 0,
            _ => tiles(size, self.outputs, self.inputs),
        };
        let of_db = db.len.div_ceil(32);
        let size = if of_dx(32) + of_dw(32) >= self.processors / 2 {
            32
        } else {
            16
        };
        let launch = match size {
            32 => kernels::linear_bwd_32,
            _ => kernels::linear_bwd_16,
        };
        let (of_dx, of_dw) = (of_dx(size), of_dw(size));
        let grid = grid(size, of_dx + of_dw + of_db, 1);
        let (of_dx, of_dw, relu) = (of_dx as i32, of_dw as i32, i32::from(self.relu));
        launch(
            program, grid, io.dy, io.y, relu, x, w, dx, dw, db, rows, inputs, outputs, of_dx,
            of_dw, tf32,
        );
    }
}

fn is_tf32(program: &Program) -> i32 {
    i32::from(program.linear_precision() == Precision::Tf32)
}

impl Op for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    /// Room for dz where it differs from dy.
    fn bwd_work(&self) -> usize {
        if self.relu {
            self.rows * self.outputs
        } else {
            0
        }
    }

    fn bwd_reads_output(&self) -> bool {
        self.relu
    }

    fn flops(&self) -> usize {
        2 * self.rows * self.inputs * self.outputs
    }

    fn absorb(&mut self, tail: Tail) -> bool {
        let takes = tail == Tail::Relu && !self.relu;
        self.relu |= takes;
        takes
    }

    fn cpu_fwd(&self, io: Fwd<'_>) {
        let [x, w, b, ..] = io.x;
        if self.bias {
            fill_rows(io.y, b);
        }
        let (rows, inputs, outputs) = (self.rows, self.inputs, self.outputs);
        let (x, w) = (Matrix::new(x, inputs), Matrix::new(w, inputs));
        let beta = if self.bias { 1.0 } else { 0.0 };
        gemm((rows, inputs, outputs), 1.0, x, w.t(), beta, io.y, outputs);
        if self.relu {
            pool::relu_in_place(io.y);
        }
    }

    fn cpu_bwd(&self, io: Bwd<'_>) {
        let [x, w, ..] = io.x;
        let [dx, dw, db, ..] = io.dx;
        let (rows, inputs, outputs) = (self.rows, self.inputs, self.outputs);
        let dz: &[f32] = if self.relu {
            pool::relu_backward(io.y, io.dy, io.work);
            io.work
        } else {
            io.dy
        };
        let (x, w, d) = (
            Matrix::new(x, inputs),
            Matrix::new(w, inputs),
            Matrix::new(dz, outputs),
        );
        if !dx.is_empty() {
            gemm((rows, outputs, inputs), 1.0, d, w, 0.0, dx, inputs);
        }
        gemm((outputs, rows, inputs), 1.0, d.t(), x, 0.0, dw, inputs);
        if !db.is_empty() {
            sum_rows(db, dz);
        }
    }

    fn cuda_bwd_work(&self) -> usize {
        if self.is_small() {
            0
        } else {
            self.work().iter().sum()
        }
    }

    fn cuda_fwd(&self, io: FwdSlots, program: &mut Program) -> Result<()> {
        let ([x, w, b, ..], [rows, inputs, outputs]) = (io.x, self.sizes());
        let count = |size| tiles(size, self.rows, self.outputs);
        let size = self.tile(count);
        let launch = match size {
            128 => kernels::linear_fwd_128,
            64 => kernels::linear_fwd_64,
            32 => kernels::linear_fwd_32,
            _ => kernels::linear_fwd_16,
        };
        let grid = grid(size, count(size), 1);
        let (bias, relu, tf32) = (i32::from(self.bias), i32::from(self.relu), is_tf32(program));
        launch(
            program, grid, x, w, b, bias, io.y, rows, inputs, outputs, relu, tf32,
        );
        Ok(())
    }

    fn cuda_bwd(&self, io: BwdSlots, program: &mut Program) -> Result<()> {
        let ([x, w, ..], [dx, dw, db, ..]) = (io.x, io.dx);
        let [rows, inputs, outputs] = self.sizes();
        let tf32 = is_tf32(program);
        if self.is_small() || dw.len == 0 {
            self.small_bwd(io, tf32, program);
            return Ok(());
        }
        let mut work = io.work;
        let [dz, dws, dbs] = self.work().map(|len| work.take(len));
        let dz = if self.relu {
            let n = dz.len;
            kernels::relu_bwd(program, elementwise(n), io.y, io.dy, dz, n as i64);
            dz
        } else {
            io.dy
        };
        if dx.len > 0 {
            let count = |size| tiles(size, self.rows, self.inputs);
            let size = self.tile(count).max(64);
            let launch = match size {
                128 => kernels::linear_bwd_x_128,
                _ => kernels::linear_bwd_x_64,
            };
            let grid = grid(size, count(size), 1);
            launch(program, grid, dz, w, dx, rows, inputs, outputs, tf32);
        }
        let (size, part, parts) = self.parts();
        let launch = match size {
            128 => kernels::linear_bwd_w_128,
            _ => kernels::linear_bwd_w_64,
        };
        let grid = grid(size, tiles(size, self.outputs, self.inputs), parts);
        let (to_w, to_b) = if parts > 1 { (dws, dbs) } else { (dw, db) };
        let (bias, part) = (i32::from(db.len > 0), part as i32);
        launch(
            program, grid, dz, x, to_w, to_b, bias, rows, inputs, outputs, part, tf32,
        );
        if parts > 1 {
            let grid = elementwise(dw.len + db.len);
            let (parts, weights, biases) = (parts as i32, dw.len as i32, db.len as i32);
            kernels::linear_bwd_sum(program, grid, dws, dbs, dw, db, parts, weights, biases);
        }
        Ok(())
    }
}

pub const ROW: Row = Row {
    name: "linear",
    cases: &[
        Case::new("3x5 to 4, bias", &[&[3, 5], &[4, 5], &[4]], |x| {
            x[0].linear(x[1], Some(x[2]))
        }),
        Case::new("one row, one output", &[&[1, 7], &[1, 7]], |x| {
            x[0].linear(x[1], None)
        }),
        Case::new(
            "2x3 tokens of 9 to 17",
            &[&[2, 3, 9], &[17, 9], &[17]],
            |x| x[0].linear(x[1], Some(x[2])),
        ),
        // No y is so close to 0 that finite differences cross it.
        Case::new("3x4 to 2, ReLU", &[&[3, 4], &[2, 4], &[2]], |x| {
            x[0].linear(x[1], Some(x[2])).relu()
        })
        .avoiding_zero(),
        Case::new("of data, ReLU", &[&[3, 4], &[3]], |x| {
            x[2].linear(x[0], Some(x[1])).relu()
        })
        .with_data(&[3, 4], Data::Normal)
        .avoiding_zero(),
    ],
};

#[cfg(all(test, emulator))]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::device::{Device, Machine, Schedule, Target};
    use crate::graph::{Mode, Params, Plan, Targets};
    use crate::ops::{Example, distance};
    use crate::random::torch::Generator;

    /// A layer on so many multiprocessors, which decides about the kernels. No output is close to 0, where ReLU has its
    /// kink, and their signs vary along both dimensions. Operands lie one float off where `odd`.
    fn example(
        processors: usize,
        [rows, inputs, outputs]: [usize; 3],
        relu: bool,
        odd: bool,
        device: Device,
    ) -> Example {
        let mut params = Params::new(Generator::new(5));
        params.normal("offset", &[usize::from(odd)], 1.0);
        let x = params.normal("x", &[rows, inputs], 1.0);
        let w = params.normal("w", &[outputs, inputs], 1.0);
        let b = params.normal("b", &[outputs], 1.0);
        let large = (6.0 * (inputs as f32).sqrt() + 1.0).sqrt();
        for (matrix, period) in [(x, 3), (w, 2)] {
            let values = &mut params.values[matrix.start..][..matrix.len];
            for (i, row) in values.chunks_exact_mut(inputs).enumerate() {
                row[0] = if i % period == 0 { large } else { -large };
            }
        }
        let plan = Plan::record(&params, Mode::Train, device, |tape| {
            let [x, w, b] = [x, w, b].map(|r| tape.param(r));
            let y = x.linear_for(processors, w, Some(b));
            let y = if relu { y.relu() } else { y };
            Targets {
                outputs: vec![y],
                backward: Some(y),
            }
        });
        let mut upstream = vec![0.0; rows * outputs];
        Generator::new(9).normal(&mut upstream, 0.0, 1.0);
        Example {
            params,
            plan,
            data: Vec::new(),
            upstream,
        }
    }

    #[test]
    fn all_kernels_at_awkward_sizes() {
        let cases = [
            (1, [300, 70, 100], false), // two parts of the rows, the second shorter
            (1, [130, 65, 129], false),
            (1, [1, 1, 1], false),
            (1, [140, 76, 68], false), // whole vectors, ragged tiles
            (1, [300, 5, 66], false),
            (6, [130, 70, 70], false),
            (2, [65, 67, 3], false),
            (12, [40, 50, 70], false),
            (20, [140, 300, 33], false),
            (132, [20, 600, 17], false),
            (132, [600, 20, 17], false),
            (132, [33, 64, 32], false),
            (132, [5, 508, 520], true), // w is too long for the emulator to copy it, which aligns
        ];
        let mut seen = BTreeSet::new();
        for (case, (processors, sizes, odd)) in cases.into_iter().enumerate() {
            for (i, schedule) in Schedule::all().into_iter().enumerate() {
                let relu = (case + i) % 2 == 1;
                let example = |device| example(processors, sizes, relu, odd, device);
                let cpu = example(Device::Cpu);
                let (y, gradient) = cpu.on_cpu(&cpu.params.values);
                assert!(!relu || y.contains(&0.0) || y.len() == 1);
                let emulated = example(Device::Emulator);
                for (precision, tolerance) in [(Precision::Fp32, 2e-6), (Precision::Tf32, 2e-3)] {
                    let mut gpu = Machine::emulator(schedule).unwrap();
                    let target = Target {
                        device: Device::Emulator,
                        precision: Some(precision),
                    };
                    let loaded = emulated.load(&mut gpu, target).unwrap();
                    let (ours, our_gradient) = emulated.run(&mut gpu, &loaded).unwrap();
                    let start = usize::from(odd);
                    let errors = [
                        distance(&ours, &y),
                        distance(&our_gradient[start..], &gradient[start..]),
                    ];
                    assert!(
                        errors.iter().all(|e| *e <= tolerance),
                        "{sizes:?} for {processors}, ReLU {relu}, {precision:?}, {schedule:?}: {errors:?}"
                    );
                    let mut program = Program::new(target);
                    let now = gpu.alloc("step", 1).unwrap();
                    emulated.plan.emit(now, &mut program).unwrap();
                    seen.extend(program.calls().iter().map(|call| call.name()));
                }
            }
        }
        let all = kernels::KERNELS.iter().filter(|k| k.file == "linear");
        let missed: Vec<_> = all.map(|k| k.name).filter(|k| !seen.contains(k)).collect();
        assert!(missed.is_empty(), "not run: {missed:?}");
    }
}
