//! Batch norm over all but the last dimension, and what may follow it: y = max(z + r, 0) with
//! z = gamma (x - mean) / sqrt(var + eps) + beta, r and the maximum optional (Ioffe and Szegedy 2015).
//!
//! In training mean and variance are the batch's, and the running averages take a tenth of them (of the
//! unbiased variance), or become the plain mean of several batches ([`Step::mean_of`]); in evaluation they are the running averages. The gradient, of training only, is in
//! `cpu::batch_norm`.

use crate::cpu::batch_norm::{self, Affine, Averages, Saved, Then};
use crate::device::Program;
use crate::device::Slot;
use crate::device::gpu::{PROCESSORS, elementwise, kernels, packs};
use crate::device::program::doubles;
use crate::error::Result;
use crate::graph::{Bwd, BwdSlots, Fwd, FwdSlots, Mode, Op, Range, Tail, Var};
use crate::ops::{Case, Row};

/// Operands: x, gamma, beta, and the residual if there is one. State: the running mean and variance.
struct BatchNorm {
    norm: batch_norm::BatchNorm,
    training: bool,
    residual: bool,
    relu: bool,
}

impl<'t> Var<'t> {
    /// Normalises `self` (..., C), with `gamma` and `beta` (C). `averages` are the buffers: C running means
    /// and behind them C running variances.
    pub fn batch_norm(self, gamma: Var<'t>, beta: Var<'t>, averages: Range) -> Var<'t> {
        let (pixels, channels) = self.rows_columns();
        let rows = [gamma.size(), beta.size(), averages.len / 2];
        assert_eq!(rows, [channels; 3], "batch_norm: channels differ");
        let op = BatchNorm {
            norm: batch_norm::BatchNorm { pixels, channels },
            training: self.tape.mode() != Mode::Eval,
            residual: false,
            relu: false,
        };
        let operands = [self, gamma, beta];
        self.tape
            .apply_with_state(op, &operands, &self.shape(), Some(averages))
    }
}

impl BatchNorm {
    /// Blocks of kernels that treat pixels one by one: eight numbers per thread, or more.
    fn blocks(&self) -> usize {
        const MOST: usize = 1056;
        let numbers = self.norm.pixels * self.norm.channels;
        numbers.div_ceil(2048).clamp(1, MOST)
    }

    /// Blocks of kernels that sum over the pixels. Few, since the sums of all are to be read.
    fn sum_blocks(&self) -> usize {
        self.blocks().min(2 * PROCESSORS)
    }

    /// Are packs of channels of 4, and how many blocks are needed for those of one pixel?
    fn packs(&self, activations: &[Slot]) -> (i32, usize) {
        let (pack, packs) = packs(self.norm.channels, self.norm.channels, activations);
        (pack, packs.div_ceil(256))
    }

    /// Floats of the sums of all blocks, which are doubles.
    fn sums(&self) -> usize {
        4 * self.sum_blocks() * self.norm.channels
    }
}

impl Op for BatchNorm {
    fn name(&self) -> &'static str {
        "batch_norm"
    }

    /// Mean and 1 / sqrt(var + eps).
    fn saved(&self) -> usize {
        if self.training {
            2 * self.norm.channels
        } else {
            0
        }
    }

    fn fwd_work(&self) -> usize {
        self.norm.workspace()
    }

    fn bwd_work(&self) -> usize {
        self.norm.workspace()
    }

    fn bwd_reads_output(&self) -> bool {
        self.residual && self.relu
    }

    fn tail(&self) -> Option<Tail> {
        (!self.training).then_some(Tail::Norm)
    }

    fn absorb(&mut self, tail: Tail) -> bool {
        match tail {
            Tail::Add if !self.residual && !self.relu => self.residual = true,
            Tail::Relu if !self.relu => self.relu = true,
            _ => return false,
        }
        true
    }

    fn cpu_fwd(&self, io: Fwd<'_>) {
        let [x, gamma, beta, residual, ..] = io.x;
        let channels = self.norm.channels;
        let affine = Affine { gamma, beta };
        let residual = self.residual.then_some(residual);
        // None in a second gradient.
        let averages = io.state.split_at_mut(channels.min(io.state.len()));
        if self.training {
            let weight = match io.now.mean_of {
                0 => batch_norm::MOMENTUM,
                k => 1.0 / k as f32,
            };
            let averages = Averages {
                mean: averages.0,
                var: averages.1,
                weight,
            };
            let (mean, rstd) = io.saved.split_at_mut(channels);
            let saved = Saved { mean, rstd };
            self.norm.train(
                x, affine, residual, self.relu, averages, saved, io.y, io.work,
            );
        } else {
            let averages = (&*averages.0, &*averages.1);
            self.norm
                .eval(x, affine, residual, self.relu, averages, io.y, io.work);
        }
    }

    fn cuda_fwd_work(&self) -> usize {
        if self.training { self.sums() } else { 0 }
    }

    /// The sums, and two factors per channel.
    fn cuda_bwd_work(&self) -> usize {
        self.sums() + 2 * self.norm.channels
    }

    fn reads_counts(&self) -> bool {
        self.training
    }

    fn cuda_fwd(&self, io: FwdSlots, program: &mut Program) -> Result<()> {
        let ([x, gamma, beta, residual, ..], y) = (io.x, io.y);
        let (pixels, channels) = (self.norm.pixels as i64, self.norm.channels as i32);
        let (packed, columns) = self.packs(&[x, residual, y]);
        if self.training {
            let mut partial = doubles(io.counts);
            if partial.len == 0 {
                partial = doubles(io.work);
                let grid = (self.sum_blocks(), columns);
                kernels::batch_norm_sums(program, grid, x, partial, packed, pixels, channels);
            }
            let blocks = (partial.len / (2 * self.norm.channels)) as i32;
            let grid = self.norm.channels.div_ceil(4);
            let (saved, averages) = (io.saved, io.state);
            // There are none in a second gradient.
            let running = i32::from(averages.len > 0);
            kernels::batch_norm_finish(
                program, grid, io.now, partial, saved, averages, running, blocks, pixels, channels,
            );
        }
        let launch = match self.training {
            true => kernels::batch_norm_fwd,
            false => kernels::batch_norm_eval,
        };
        let statistics = if self.training { io.saved } else { io.state };
        let arguments = kernels::BatchNorm {
            x: x.into(),
            gamma: gamma.into(),
            beta: beta.into(),
            statistics: statistics.into(),
            residual: residual.into(),
            y: y.into(),
            residuals: self.residual.into(),
            relu: self.relu.into(),
            packed,
            pixels,
            channels,
        };
        launch(program, (self.blocks(), columns), arguments);
        Ok(())
    }

    fn cuda_bwd(&self, io: BwdSlots, program: &mut Program) -> Result<()> {
        let ([x, gamma, beta, ..], dy, saved) = (io.x, io.dy, io.saved);
        let [dx, dgamma, dbeta, d_residual, ..] = io.dx;
        let (pixels, channels) = (self.norm.pixels as i64, self.norm.channels as i32);
        let (packed, columns) = self.packs(&[x, dy, io.y, dx, d_residual]);
        let mut terms = io.work;
        let partial = doubles(terms.take(self.sums()));
        let grid = (self.sum_blocks(), columns);
        // `dz` where it is written down, else `dy` and whether it is to be masked.
        let (dz, mask) = match (self.residual, self.relu) {
            (true, true) => {
                // dz is written there.
                assert!(
                    d_residual.len > 0,
                    "batch norm: a residual without gradient"
                );
                let arguments = kernels::BatchNormBwdResidual {
                    x: x.into(),
                    dy: dy.into(),
                    gamma: gamma.into(),
                    beta: beta.into(),
                    saved: saved.into(),
                    y: io.y.into(),
                    dz: d_residual.into(),
                    partial,
                    packed,
                    pixels,
                    channels,
                };
                kernels::batch_norm_bwd_residual(program, grid, arguments);
                (d_residual, 0)
            }
            (residual, relu) => {
                if residual {
                    let n = dy.len;
                    kernels::add_bwd(program, elementwise(n), dy, d_residual, n as i64);
                }
                let relu = i32::from(relu);
                let arguments = kernels::BatchNormBwdSums {
                    x: x.into(),
                    dy: dy.into(),
                    gamma: gamma.into(),
                    beta: beta.into(),
                    saved: saved.into(),
                    partial,
                    relu,
                    packed,
                    pixels,
                    channels,
                };
                kernels::batch_norm_bwd_sums(program, grid, arguments);
                (dy, relu)
            }
        };
        let blocks = self.sum_blocks() as i32;
        let grid = self.norm.channels.div_ceil(4);
        let arguments = kernels::BatchNormBwdFinish {
            partial,
            gamma: gamma.into(),
            saved: saved.into(),
            dgamma: dgamma.into(),
            dbeta: dbeta.into(),
            terms: terms.into(),
            blocks,
            pixels,
            channels,
        };
        kernels::batch_norm_bwd_finish(program, grid, arguments);
        let arguments = kernels::BatchNormBwd {
            x: x.into(),
            dz: dz.into(),
            gamma: gamma.into(),
            beta: beta.into(),
            saved: saved.into(),
            terms: terms.into(),
            dx: dx.into(),
            relu: mask,
            packed,
            pixels,
            channels,
        };
        kernels::batch_norm_bwd(program, (self.blocks(), columns), arguments);
        Ok(())
    }

    fn cpu_bwd(&self, io: Bwd<'_>) {
        assert!(
            self.training,
            "batch norm in evaluation has no gradient here"
        );
        let [x, gamma, beta, ..] = io.x;
        let [dx, dgamma, dbeta, d_residual, ..] = io.dx;
        let (mean, rstd) = io.saved.split_at(self.norm.channels);
        let then = match (self.residual, self.relu) {
            (true, true) => Then::AddRelu {
                y: io.y,
                d_residual,
            },
            (false, true) => Then::Relu,
            (residual, false) => {
                if residual {
                    d_residual.copy_from_slice(io.dy);
                }
                Then::Nothing
            }
        };
        self.norm.backward(
            x,
            Affine { gamma, beta },
            Saved { mean, rstd },
            io.dy,
            then,
            dx,
            (dgamma, dbeta),
            io.work,
        );
    }
}

pub const ROW: Row = Row {
    name: "batch_norm",
    cases: &[
        Case::new("12 pixels of 3", &[&[3, 2, 2, 3], &[3], &[3]], |x| {
            x[0].batch_norm(x[1], x[2], AVERAGES_OF_3)
        })
        .with_buffers(6),
        Case::new("7 rows of 17", &[&[7, 17], &[17], &[17]], |x| {
            x[0].batch_norm(x[1], x[2], AVERAGES_OF_17)
        })
        .with_buffers(34),
        Case::new(
            "and a shortcut",
            &[&[1, 3, 3, 3], &[3], &[3], &[1, 3, 3, 3]],
            |x| x[3].plus(x[0].batch_norm(x[1], x[2], AVERAGES_OF_3)),
        )
        .with_buffers(6),
    ],
};

const AVERAGES_OF_3: Range = Range { start: 0, len: 6 };
const AVERAGES_OF_17: Range = Range { start: 0, len: 34 };
