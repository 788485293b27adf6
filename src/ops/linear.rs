//! Linear: y = x w^T + b.
//!
//! Gradient: dx = dy w, dw = dy^T x, db = sum of dy over the rows.

use crate::device::cpu::gemm::{Matrix, gemm};
use crate::device::cpu::{fill_rows, sum_rows};
use crate::device::gpu::{Precision, Queue, kernels};
use crate::error::Result;
use crate::graph::{Bwd, BwdSlots, Fwd, FwdSlots, Op, Var};
use crate::ops::{Case, Row};

struct Linear {
    rows: usize,
    inputs: usize,
    outputs: usize,
    bias: bool,
}

impl<'t> Var<'t> {
    /// `self` (..., I) times the transpose of `w` (O, I), plus `b` (O): (..., O).
    pub fn linear(self, w: Var<'t>, b: Option<Var<'t>>) -> Var<'t> {
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
        };
        let operands: Vec<Var> = [self, w].into_iter().chain(b).collect();
        self.tape.apply(op, &operands, &shape)
    }
}

impl Linear {
    fn sizes(&self) -> [i32; 3] {
        [self.rows, self.inputs, self.outputs].map(|n| n as i32)
    }
}

/// Blocks of a product with so many rows and columns, in the order (x, y) of a grid.
fn tiles(rows: usize, columns: usize) -> (usize, usize) {
    const TILE: usize = 32;
    (columns.div_ceil(TILE), rows.div_ceil(TILE))
}

impl Op for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn flops(&self) -> usize {
        2 * self.rows * self.inputs * self.outputs
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
    }

    fn cpu_bwd(&self, io: Bwd<'_>) {
        let [x, w, ..] = io.x;
        let [dx, dw, db, ..] = io.dx;
        let (rows, inputs, outputs) = (self.rows, self.inputs, self.outputs);
        let (x, w, dy) = (
            Matrix::new(x, inputs),
            Matrix::new(w, inputs),
            Matrix::new(io.dy, outputs),
        );
        if !dx.is_empty() {
            gemm((rows, outputs, inputs), 1.0, dy, w, 0.0, dx, inputs);
        }
        gemm((outputs, rows, inputs), 1.0, dy.t(), x, 0.0, dw, inputs);
        if !db.is_empty() {
            sum_rows(db, io.dy);
        }
    }

    fn cuda_fwd(&self, io: FwdSlots, queue: &mut Queue) -> Result<()> {
        let ([x, w, b, ..], [rows, inputs, outputs]) = (io.x, self.sizes());
        let launch = match queue.linear_precision() {
            Precision::Fp32 => kernels::linear_fwd_fp32,
            Precision::Tf32 => kernels::linear_fwd_tf32,
        };
        let grid = tiles(self.rows, self.outputs);
        let biased = i32::from(self.bias);
        launch(queue, grid, x, w, b, biased, io.y, rows, inputs, outputs);
        Ok(())
    }

    fn cuda_bwd(&self, io: BwdSlots, queue: &mut Queue) -> Result<()> {
        let ([x, w, ..], [dx, dw, db, ..]) = (io.x, io.dx);
        let [rows, inputs, outputs] = self.sizes();
        if dx.len > 0 {
            let launch = match queue.linear_precision() {
                Precision::Fp32 => kernels::linear_bwd_x_fp32,
                Precision::Tf32 => kernels::linear_bwd_x_tf32,
            };
            let grid = tiles(self.rows, self.inputs);
            launch(queue, grid, io.dy, w, dx, rows, inputs, outputs);
        }
        if dw.len > 0 {
            let launch = match queue.linear_precision() {
                Precision::Fp32 => kernels::linear_bwd_w_fp32,
                Precision::Tf32 => kernels::linear_bwd_w_tf32,
            };
            let grid = tiles(self.outputs, self.inputs);
            launch(queue, grid, io.dy, x, dw, rows, inputs, outputs);
        }
        if db.len > 0 {
            let columns = self.outputs.div_ceil(32);
            kernels::linear_bwd_b(queue, columns, io.dy, db, rows, outputs);
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
    ],
};
