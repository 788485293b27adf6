//! Linear: y = x w^T + b, and max(y, 0) where a ReLU follows.
//!
//! Gradient, with dz = dy where y > 0: dx = dz w, dw = dz^T x, db = sum of dz over the rows.

use crate::cpu::pool;
use crate::device::Program;
use crate::device::gpu::{PROCESSORS, Precision, elementwise, kernels};
use crate::device::product::{Epilogue, Product, grid, tiles};
use crate::error::Result;
use crate::graph::{Bwd, BwdSlots, Fwd, FwdSlots, Op, Tail, Var};
use crate::ops::{Case, Data, Row};

struct Linear {
    rows: usize,
    inputs: usize,
    outputs: usize,
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
            relu: false,
            processors,
        };
        let operands: Vec<Var> = [self, w].into_iter().chain(b).collect();
        self.tape.apply(op, &operands, &shape)
    }
}

impl Linear {
    /// The products that give y, dx and dw.
    fn products(&self) -> [Product; 3] {
        let (rows, inputs, outputs) = (self.rows, self.inputs, self.outputs);
        let sizes = [
            (rows, inputs, outputs),
            (rows, outputs, inputs),
            (outputs, rows, inputs),
        ];
        sizes.map(|(m, k, n)| Product {
            processors: self.processors,
            ..Product::new(m, k, n)
        })
    }

    /// Is backward done in one launch?
    fn is_small(&self) -> bool {
        const FEW: usize = 1 << 27;
        self.flops() <= FEW && tiles(64, self.rows, self.inputs) < self.processors
    }

    /// The launch that does all of backward.
    fn small_bwd(&self, io: BwdSlots, program: &mut Program) {
        let ([x, w, ..], [dx, dw, db, ..]) = (io.x, io.dx);
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
        let [rows, inputs, outputs] = [self.rows, self.inputs, self.outputs].map(|n| n as i32);
        let arguments = kernels::LinearBwd {
            dy: io.dy.into(),
            y: io.y.into(),
            masked: self.relu.into(),
            x: x.into(),
            w: w.into(),
            dx: dx.into(),
            dw: dw.into(),
            db: db.into(),
            rows,
            inputs,
            outputs,
            dx_tiles: of_dx as i32,
            dw_tiles: of_dw as i32,
            tf32: i32::from(program.linear_precision() == Precision::Tf32),
        };
        let grid = grid(size, of_dx + of_dw + of_db, 1);
        launch(program, grid, arguments);
    }
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
        let ([x, w, b, ..], [y, ..]) = (io.x, self.products());
        y.cpu_nt(x, w, b, self.relu, io.y);
    }

    fn cpu_bwd(&self, io: Bwd<'_>) {
        let ([x, w, ..], [dx, dw, db, ..]) = (io.x, io.dx);
        let [_, to_x, to_w] = self.products();
        let dz: &[f32] = if self.relu {
            pool::relu_backward(io.y, io.dy, io.work);
            io.work
        } else {
            io.dy
        };
        if !dx.is_empty() {
            to_x.cpu_nn(dz, w, dx);
        }
        to_w.cpu_tn(dz, x, dw, db);
    }

    fn cuda_bwd_work(&self) -> usize {
        let [_, _, to_w] = self.products();
        match self.is_small() {
            true => 0,
            false => self.bwd_work() + to_w.tn_work(),
        }
    }

    fn cuda_fwd(&self, io: FwdSlots, program: &mut Program) -> Result<()> {
        let ([x, w, b, ..], [y, ..]) = (io.x, self.products());
        let epilogue = Epilogue {
            bias: b.into(),
            relu: self.relu,
        };
        y.nt(x.into(), w.into(), epilogue, io.y.into(), program);
        Ok(())
    }

    fn cuda_bwd(&self, io: BwdSlots, program: &mut Program) -> Result<()> {
        let ([x, w, ..], [dx, dw, db, ..]) = (io.x, io.dx);
        if self.is_small() || dw.len == 0 {
            self.small_bwd(io, program);
            return Ok(());
        }
        let [_, to_x, to_w] = self.products();
        let mut work = io.work;
        let mut dz = io.dy;
        if self.relu {
            dz = work.take(self.bwd_work());
            let n = dz.len;
            kernels::relu_bwd(program, elementwise(n), io.y, io.dy, dz, n as i64);
        }
        if dx.len > 0 {
            to_x.nn(dz.into(), w.into(), dx.into(), program);
        }
        let sums = [dw.into(), db.into()];
        to_w.tn(dz.into(), x.into(), sums, work.into(), program);
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
            let range = params.tensor(matrix).range;
            let values = &mut params.values[range.start..][..range.len];
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
                    seen.extend(program.calls().iter().map(|call| call.name().to_owned()));
                }
            }
        }
        let all = kernels::KERNELS
            .iter()
            .filter(|k| [Some("linear"), Some("product")].contains(&k.file()));
        let missed: Vec<_> = all
            .map(|k| &*k.name)
            .filter(|k| !seen.contains(*k))
            .collect();
        assert!(missed.is_empty(), "not run: {missed:?}");
    }
}
