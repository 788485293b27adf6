//! Batch norm over all but the last dimension, and what may follow it: y = max(z + r, 0) with
//! z = gamma (x - mean) / sqrt(var + eps) + beta, r and the maximum optional (Ioffe and Szegedy 2015).
//!
//! In training mean and variance are the batch's, and the running averages take a tenth of them (of the
//! unbiased variance), or become the plain mean of several batches ([`Step::mean_of`]); in evaluation they are the running averages. The gradient, of training only, is in
//! `cpu::batch_norm`.

use crate::cpu::batch_norm::{self, Affine, Averages, Saved, Then};
use crate::device::gpu::{PROCESSORS, counters_of, elementwise, kernels, packs};
use crate::device::program::doubles;
use crate::device::{Program, Slot, View};
use crate::error::Result;
use crate::graph::{Bwd, BwdSlots, Fwd, FwdSlots, Mode, Norm, Op, Range, Tail, Var};
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

    /// Floats of the sums of all blocks, which are doubles. Blocks have the same number of channels, up to 1024.
    fn sums(&self) -> usize {
        let channels = self.norm.channels;
        4 * self.sum_blocks() * channels.next_multiple_of(channels.min(1024))
    }

    /// Counters of the blocks that add them up.
    fn counters(&self, columns: usize, program: &mut Program) -> View<u32> {
        program.counters(columns * counters_of(self.sum_blocks()))
    }

    /// Adds y = lines[0] x + lines[1] + r or, if `scaled`, lines[2] r; then max(y, 0) if `relu`. No r if that is empty.
    fn apply(
        &self,
        x: Slot,
        lines: Slot,
        (scaled, r): (bool, Slot),
        relu: bool,
        y: Slot,
        program: &mut Program,
    ) {
        let (packed, columns) = self.packs(&[x, r, y]);
        let arguments = kernels::BatchNormApply {
            x: x.into(),
            lines: lines.into(),
            scaled: scaled.into(),
            residual: r.into(),
            y: y.into(),
            residuals: (r.len > 0).into(),
            relu: relu.into(),
            packed,
            pixels: self.norm.pixels as i64,
            channels: self.norm.channels as i32,
        };
        kernels::batch_norm_apply(program, (self.blocks(), columns), arguments);
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

    /// Scale and offset of z = scale x + offset, then mean and 1 / sqrt(var + eps).
    fn cuda_saved(&self) -> usize {
        2 * self.saved()
    }

    fn cuda_fwd_work(&self) -> usize {
        if self.training { self.sums() } else { 0 }
    }

    fn cuda_bwd_counts(&self) -> usize {
        self.sums()
    }

    fn batch_norm(&self) -> Option<Norm> {
        let (residual, relu) = (self.residual, self.relu);
        self.training.then_some(Norm { residual, relu })
    }

    fn cuda_fwd(&self, io: FwdSlots, program: &mut Program) -> Result<()> {
        let ([x, gamma, beta, residual, ..], y) = (io.x, io.y);
        let (pixels, channels) = (self.norm.pixels as i64, self.norm.channels as i32);
        let residual = if self.residual {
            residual
        } else {
            Slot::default()
        };
        if !self.training {
            let (packed, columns) = self.packs(&[x, residual, y]);
            let arguments = kernels::BatchNormEval {
                x: x.into(),
                gamma: gamma.into(),
                beta: beta.into(),
                averages: io.state.into(),
                residual: residual.into(),
                y: y.into(),
                residuals: self.residual.into(),
                relu: self.relu.into(),
                packed,
                pixels,
                channels,
            };
            kernels::batch_norm_eval(program, (self.blocks(), columns), arguments);
            return Ok(());
        }
        if !io.has_statistics {
            let (packed, columns) = self.packs(&[x]);
            let arguments = kernels::BatchNormSums {
                now: io.now,
                x: x.into(),
                gamma: gamma.into(),
                beta: beta.into(),
                partial: doubles(io.work),
                counters: self.counters(columns, program),
                saved: io.saved.into(),
                averages: io.state.into(),
                // There are none in a second gradient.
                running: (io.state.len > 0).into(),
                packed,
                pixels,
                channels,
            };
            kernels::batch_norm_sums(program, (self.sum_blocks(), columns), arguments);
        }
        // Else those who read it do the rest.
        if y.len > 0 {
            self.apply(x, io.saved, (false, residual), self.relu, y, program);
        }
        Ok(())
    }

    fn cuda_bwd(&self, io: BwdSlots, program: &mut Program) -> Result<()> {
        let ([dx, _, _, d_residual, ..], dz) = (io.dx, io.dz);
        let norm = io.norm.expect("a plan for kernels");
        if norm.partial.len > 0 {
            let (packed, columns) = self.packs(&[norm.x, io.dy, norm.y, dz]);
            let arguments = kernels::BatchNormBwdSums {
                x: norm.x.into(),
                dy: io.dy.into(),
                saved: norm.saved.into(),
                y: norm.y.into(),
                dz: if self.relu { dz } else { Slot::default() }.into(),
                partial: doubles(norm.partial),
                counters: self.counters(columns, program),
                dgamma: norm.dgamma.into(),
                dbeta: norm.dbeta.into(),
                terms: norm.lines.into(),
                residuals: self.residual.into(),
                relu: self.relu.into(),
                packed,
                pixels: self.norm.pixels as i64,
                channels: self.norm.channels as i32,
            };
            kernels::batch_norm_bwd_sums(program, (self.sum_blocks(), columns), arguments);
        }
        if self.residual && d_residual.len > 0 {
            let n = dz.len;
            kernels::add_bwd(program, elementwise(n), dz, d_residual, n as i64);
        }
        if dx.len > 0 {
            self.apply(dz, norm.lines, (true, norm.x), false, dx, program);
        }
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
        // What kernels share with the convolutions around: x is finished by its reader, the sums of its gradient are made there.
        Case::new(
            "between convolutions",
            &[&[2, 4, 3, 2], &[3, 2, 3, 3], &[3], &[3], &[4, 3, 3, 3]],
            |x| {
                let y = x[0].conv2d(x[1], None, 1, 1);
                let y = y.batch_norm(x[2], x[3], AVERAGES_OF_3);
                y.conv2d(x[4], None, 2, 1)
            },
        )
        .with_buffers(6),
        Case::new(
            "in residual blocks",
            &[&[2, 3, 3, 3], &[3, 3, 3, 3], &[3], &[3], &[3, 3, 1, 1]],
            |x| {
                let norm = x[0].conv2d(x[1], None, 1, 1);
                let norm = norm.batch_norm(x[2], x[3], AVERAGES_OF_3);
                // Its gradient: two convolutions' and a sum's.
                let block = x[0].plus(norm);
                let next = block.conv2d(x[1], None, 1, 1).plus(block);
                next.conv2d(x[4], None, 1, 0)
            },
        )
        .with_buffers(6),
    ],
};

const AVERAGES_OF_3: Range = Range { start: 0, len: 6 };
const AVERAGES_OF_17: Range = Range { start: 0, len: 34 };
