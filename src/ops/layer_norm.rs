//! Layer norm (Ba, Kiros, Hinton 2016): y = w (x - mean) / sqrt(var + 1e-5) + b over the last dimension, var being
//! the biased variance.
//!
//! Gradient: with h the normalised x and g = w dy, dx = (g - mean(g) - h mean(g h)) / sqrt(var + 1e-5),
//! dw = sum of dy h and db = sum of dy over the rows. Forward keeps each row's mean and 1 / sqrt(var + 1e-5).

use crate::cpu::norm::Norm;
use crate::device::Program;
use crate::device::gpu::{aligned, counters_of, kernels};
use crate::error::Result;
use crate::graph::{Bwd, BwdSlots, Fwd, FwdSlots, Join, Joined, Op, Var};
use crate::ops::norm::Kernels;
use crate::ops::{Case, Row};

struct LayerNorm(Norm);

impl<'t> Var<'t> {
    /// `self` (..., D) normalised over D, times `w` (D), plus `b` (D).
    pub fn layer_norm(self, w: Var<'t>, b: Var<'t>) -> Var<'t> {
        let (rows, width) = self.rows_columns();
        let fits = w.shape() == [width] && b.shape() == [width];
        assert!(fits, "layer_norm: input and weights do not fit");
        let op = LayerNorm(Norm {
            rows,
            width,
            centred: true,
            eps: 1e-5,
        });
        self.tape.apply(op, &[self, w, b], &self.shape())
    }
}

impl Op for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
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
        Some(Join::LayerNorm { eps: self.0.eps })
    }

    fn cpu_fwd(&self, io: Fwd<'_>) {
        let [x, w, b, ..] = io.x;
        self.0.forward(x, w, b, io.saved, io.y);
    }

    fn cpu_bwd(&self, io: Bwd<'_>) {
        let ([x, w, ..], [dx, dw, db, ..]) = (io.x, io.dx);
        self.0
            .backward(x, w, io.saved, io.dy, io.add, dx, (dw, db), io.work);
    }

    /// All that dropout has to do with has whole vectors.
    fn cuda_bwd_joins(&self, further: &[Join]) -> bool {
        let held = self.0.kernels_of_vectors() != Kernels::Any;
        held && matches!(further, [Join::Dropout(_)])
    }

    fn cuda_bwd_work(&self) -> usize {
        self.0.partial()
    }

    fn cuda_fwd(&self, io: FwdSlots, program: &mut Program) -> Result<()> {
        let ([x, w, b, ..], y, stats) = (io.x, io.y, io.saved);
        let (grid, [rows, width]) = (self.0.blocks(), self.0.sizes());
        let vectors = i32::from(aligned(&[w, b]));
        let launch = match self.0.kernels(&[x, y]) {
            Kernels::UpTo128 => kernels::layer_norm_fwd_128,
            Kernels::UpTo512 => kernels::layer_norm_fwd_512,
            Kernels::UpTo1024 => kernels::layer_norm_fwd_1024,
            Kernels::Any => {
                kernels::layer_norm_fwd(program, grid, x, w, b, y, stats, rows, width);
                return Ok(());
            }
        };
        launch(program, grid, x, w, b, vectors, y, stats, rows, width);
        Ok(())
    }

    fn cuda_bwd(&self, io: BwdSlots, program: &mut Program) -> Result<()> {
        let ([x, w, ..], [dx, dw, db, ..]) = (io.x, io.dx);
        let (stats, dy, partial) = (io.saved, io.dy, io.work);
        let [rows, width] = self.0.sizes();
        let (mask, dropped) = match *io.joined {
            [
                Joined {
                    join: Join::Dropout(mask),
                    to,
                    ..
                },
            ] => (mask, to),
            _ => <_>::default(),
        };
        let launch = match self.0.kernels(&[x, dy, dx]) {
            Kernels::UpTo128 => kernels::layer_norm_bwd_128,
            Kernels::UpTo512 => kernels::layer_norm_bwd_512,
            Kernels::UpTo1024 => kernels::layer_norm_bwd_1024,
            Kernels::Any => {
                assert!(io.joined.is_empty(), "dropout behind rows of whole vectors");
                if dx.len > 0 {
                    let grid = self.0.blocks();
                    let adds = i32::from(io.add);
                    kernels::layer_norm_bwd_x(
                        program, grid, x, w, stats, dy, dx, adds, rows, width,
                    );
                }
                let grid = self.0.blocks_of_columns();
                kernels::layer_norm_bwd_w(program, grid, x, stats, dy, partial, rows, width);
                self.0.emit_sums(partial, &[dw, db], program);
                return Ok(());
            }
        };
        let arguments = kernels::LayerNormBwd {
            x: x.into(),
            w: w.into(),
            aligned: i32::from(aligned(&[w])),
            stats: stats.into(),
            dy: dy.into(),
            dx: dx.into(),
            wants_dx: i32::from(dx.len > 0),
            adds: i32::from(io.add),
            mask,
            now: io.now,
            dropped: dropped.into(),
            partial: partial.into(),
            dw: dw.into(),
            db: db.into(),
            counters: program.counters(counters_of(self.0.shares())),
            rows,
            width,
        };
        launch(program, self.0.shares(), arguments);
        Ok(())
    }
}

pub const ROW: Row = Row {
    name: "layer_norm",
    cases: &[
        Case::new("2x3 tokens of 7", &[&[2, 3, 7], &[7], &[7]], |x| {
            x[0].layer_norm(x[1], x[2])
        }),
        Case::new("40 rows of 17", &[&[40, 17], &[17], &[17]], |x| {
            x[0].layer_norm(x[1], x[2])
        }),
        Case::new("one row", &[&[1, 5], &[5], &[5]], |x| {
            x[0].layer_norm(x[1], x[2])
        }),
        Case::new("18 rows of 8", &[&[18, 8], &[8], &[8]], |x| {
            x[0].layer_norm(x[1], x[2])
        }),
        // Whose sums for the weights are added up in two stages.
        Case::new("150 rows of 4", &[&[150, 4], &[4], &[4]], |x| {
            x[0].layer_norm(x[1], x[2])
        }),
        // Whose gradient is added to that of the sum.
        Case::new(
            "18 rows of 8 and they themselves",
            &[&[18, 8], &[8], &[8]],
            |x| x[0].layer_norm(x[1], x[2]).plus(x[0]),
        ),
        Case::new(
            "2 rows of 7 and they themselves",
            &[&[2, 7], &[7], &[7]],
            |x| x[0].layer_norm(x[1], x[2]).plus(x[0]),
        ),
        // Weights that cannot be read as vectors.
        Case::new(
            "3 rows of 132",
            &[&[3, 2], &[132, 2], &[132], &[132]],
            |x| x[0].linear(x[1], None).layer_norm(x[2], x[3]),
        ),
        // Whose gradient goes through dropout in the same launch, with others' contributions and alone.
        Case::new("behind dropout", &[&[18, 8], &[8], &[8]], |x| {
            let stream = x[0].gelu().dropout(0.3);
            stream.layer_norm(x[1], x[2]).plus(stream)
        }),
        Case::new("dropout alone", &[&[18, 8], &[8], &[8]], |x| {
            x[0].gelu().dropout(0.3).layer_norm(x[1], x[2])
        }),
        Case::new("a row of 516", &[&[1, 516], &[516], &[516]], |x| {
            x[0].layer_norm(x[1], x[2])
        }),
    ],
};
