//! Batch norm over all but the last dimension, and what may follow it: y = max(z + r, 0) with
//! z = gamma (x - mean) / sqrt(var + eps) + beta, r and the maximum optional (Ioffe and Szegedy 2015).
//!
//! In training mean and variance are the batch's, and the running averages take a tenth of them (of the
//! unbiased variance); in evaluation they are the running averages. The gradient, of training only, is in
//! `device::cpu::batch_norm`.

use crate::device::cpu::batch_norm::{self, Affine, Saved, Then};
use crate::graph::{Bwd, Fwd, Mode, Op, Range, Tail, Var};
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
        let averages = io.state.split_at_mut(channels);
        if self.training {
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
