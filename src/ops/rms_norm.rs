//! RMS norm (Zhang, Sennrich 2019, arXiv:1910.07467): y = w x / sqrt(mean(x^2) + eps) over the last dimension.
//!
//! Gradient: with h the normalised x and g = w dy, dx = (g - h mean(g h)) / sqrt(mean(x^2) + eps), and dw = sum of dy h
//! over the rows. Forward keeps each row's 1 / sqrt(mean(x^2) + eps).

use crate::cpu::norm::Norm;
use crate::device::Program;
use crate::device::gpu::{aligned, counters_of, kernels};
use crate::error::Result;
use crate::graph::{Bwd, BwdSlots, Fwd, FwdSlots, Join, Op, Var};
use crate::ops::norm::Kernels;
use crate::ops::{Case, Row};

struct RmsNorm(Norm);

impl<'t> Var<'t> {
    /// `self` (..., D) divided by its root mean square over D, times `w` (D).
    pub fn rms_norm(self, w: Var<'t>, eps: f32) -> Var<'t> {
        let (rows, width) = self.rows_columns();
        assert_eq!(w.shape(), [width], "rms_norm: a weight for each column");
        let op = RmsNorm(Norm {
            rows,
            width,
            centred: false,
            eps,
        });
        self.tape.apply(op, &[self, w], &self.shape())
    }
}

impl Op for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn saved(&self) -> usize {
        self.0.saved()
    }

    fn bwd_work(&self) -> usize {
        self.0.workspace()
    }

    fn bwd_adds(&self) -> bool {
        true
    }

    fn join(&self) -> Option<Join> {
        Some(Join::RmsNorm { eps: self.0.eps })
    }

    fn cpu_fwd(&self, io: Fwd<'_>) {
        let [x, w, ..] = io.x;
        self.0.forward(x, w, &[], io.saved, io.y);
    }

    fn cpu_bwd(&self, io: Bwd<'_>) {
        let ([x, w, ..], [dx, dw, ..]) = (io.x, io.dx);
        self.0
            .backward(x, w, io.saved, io.dy, io.add, dx, (dw, &mut []), io.work);
    }

    fn cuda_bwd_work(&self) -> usize {
        self.0.partial()
    }

    fn cuda_fwd(&self, io: FwdSlots, program: &mut Program) -> Result<()> {
        let ([x, w, ..], y, stats, eps) = (io.x, io.y, io.saved, self.0.eps);
        let (grid, [rows, width]) = (self.0.blocks(), self.0.sizes());
        let vectors = i32::from(aligned(&[w]));
        let launch = match self.0.kernels(&[x, y]) {
            Kernels::UpTo128 => kernels::rms_norm_fwd_128,
            Kernels::UpTo512 => kernels::rms_norm_fwd_512,
            Kernels::UpTo1024 => kernels::rms_norm_fwd_1024,
            Kernels::Any => {
                kernels::rms_norm_fwd(program, grid, x, w, y, stats, rows, width, eps);
                return Ok(());
            }
        };
        launch(program, grid, x, w, vectors, y, stats, rows, width, eps);
        Ok(())
    }

    fn cuda_bwd(&self, io: BwdSlots, program: &mut Program) -> Result<()> {
        let ([x, w, ..], [dx, dw, ..]) = (io.x, io.dx);
        let (stats, dy, partial) = (io.saved, io.dy, io.work);
        let [rows, width] = self.0.sizes();
        let launch = match self.0.kernels(&[x, dy, dx]) {
            Kernels::UpTo128 => kernels::rms_norm_bwd_128,
            Kernels::UpTo512 => kernels::rms_norm_bwd_512,
            Kernels::UpTo1024 => kernels::rms_norm_bwd_1024,
            Kernels::Any => {
                if dx.len > 0 {
                    let grid = self.0.blocks();
                    let adds = i32::from(io.add);
                    kernels::rms_norm_bwd_x(program, grid, x, w, stats, dy, dx, adds, rows, width);
                }
                let grid = self.0.blocks_of_columns();
                kernels::rms_norm_bwd_w(program, grid, x, stats, dy, partial, rows, width);
                self.0.emit_sums(partial, &[dw], program);
                return Ok(());
            }
        };
        let arguments = kernels::RmsNormBwd {
            x: x.into(),
            w: w.into(),
            aligned: i32::from(aligned(&[w])),
            stats: stats.into(),
            dy: dy.into(),
            dx: dx.into(),
            wants_dx: i32::from(dx.len > 0),
            adds: i32::from(io.add),
            partial: partial.into(),
            dw: dw.into(),
            counters: program.counters(counters_of(self.0.shares())),
            rows,
            width,
        };
        launch(program, self.0.shares(), arguments);
        Ok(())
    }
}

pub const ROW: Row = Row {
    name: "rms_norm",
    cases: &[
        Case::new("2x3 tokens of 7", &[&[2, 3, 7], &[7]], |x| {
            x[0].rms_norm(x[1], 1e-6)
        }),
        Case::new("40 rows of 17, large eps", &[&[40, 17], &[17]], |x| {
            x[0].rms_norm(x[1], 0.5)
        }),
        Case::new("one row", &[&[1, 5], &[5]], |x| x[0].rms_norm(x[1], 1e-6)),
        Case::new("18 rows of 8", &[&[18, 8], &[8]], |x| {
            x[0].rms_norm(x[1], 1e-6)
        }),
        // Whose sums for the weights are added up in two stages.
        Case::new("150 rows of 4", &[&[150, 4], &[4]], |x| {
            x[0].rms_norm(x[1], 1e-6)
        }),
        // Whose gradient is added to that of the sum.
        Case::new("18 rows of 8 and they themselves", &[&[18, 8], &[8]], |x| {
            x[0].rms_norm(x[1], 1e-6).plus(x[0])
        }),
        Case::new("2 rows of 7 and they themselves", &[&[2, 7], &[7]], |x| {
            x[0].rms_norm(x[1], 1e-6).plus(x[0])
        }),
        // Weights that cannot be read as vectors.
        Case::new("3 rows of 132", &[&[3, 2], &[132, 2], &[132]], |x| {
            x[0].linear(x[1], None).rms_norm(x[2], 1e-6)
        }),
        Case::new("a row of 516", &[&[1, 516], &[516]], |x| {
            x[0].rms_norm(x[1], 1e-6)
        }),
    ],
};
