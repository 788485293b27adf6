//! Two-dimensional convolution of images, channels last, and what may follow it:
//! y = max(norm(conv(x, w) + b) + r, 0), each part after conv optional.
//!
//! Gradient, with dz = dy where y > 0: dx and dw as in `cpu::conv`, db = sum of dz over the pixels,
//! dr = dz. Batch norm is only part of it in evaluation, where nothing asks for gradients.

mod tiling;

use crate::cpu::batch_norm::{Affine, BatchNorm};
use crate::cpu::conv::{self, Epilogue, Shape};
use crate::cpu::{pool, sum_rows};
use crate::device::gpu::{Grid, Precision, elementwise, kernels};
use crate::device::program::doubles;
use crate::device::{Program, Slot, View};
use crate::error::Result;
use crate::graph::{Bwd, BwdSlots, Fwd, FwdSlots, Op, Statistics, Tail, Var};
use crate::ops::{Case, Row};
use tiling::{Form, Gather, WeightForm, Weights, aligned};

/// Operands: x, w, then those of bias, norm (weight, bias) and residual, as far as they are there.
struct Conv2d {
    conv: conv::Conv2d,
    bias: bool,
    norm: bool,
    residual: bool,
    relu: bool,
    threads: usize,
}

impl<'t> Var<'t> {
    /// `self` (N, H, W, I) convolved with `w` (O, I, K, K), plus `b` (O):
    /// (N, (H + 2 pad - K) / stride + 1, likewise for W, O).
    pub fn conv2d(self, w: Var<'t>, b: Option<Var<'t>>, stride: usize, pad: usize) -> Var<'t> {
        let [images, height, width, channels_in] = self.shape()[..] else {
            panic!("conv2d: {:?} is not (N, H, W, C)", self.shape());
        };
        let [channels_out, w_in, kernel, kernel_width] = w.shape()[..] else {
            panic!("conv2d: weight {:?} is not (O, I, K, K)", w.shape());
        };
        assert_eq!(channels_in, w_in, "conv2d: input and weight do not fit");
        assert_eq!(kernel, kernel_width, "conv2d: the kernel is square");
        let shape = Shape {
            images,
            height,
            width,
            channels_in,
            channels_out,
            kernel,
            stride,
            pad,
        };
        let op = Conv2d {
            conv: conv::Conv2d::new(shape),
            bias: b.is_some(),
            norm: false,
            residual: false,
            relu: false,
            threads: rayon::current_num_threads(),
        };
        let operands: Vec<Var> = [self, w].into_iter().chain(b).collect();
        let y = [images, shape.out_height(), shape.out_width(), channels_out];
        self.tape.apply(op, &operands, &y)
    }
}

impl Conv2d {
    /// Which operand the residual is.
    fn residual_place(&self) -> usize {
        2 + usize::from(self.bias) + 2 * usize::from(self.norm)
    }
}

impl Op for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn fwd_work(&self) -> usize {
        self.conv.workspace(self.threads) + 2 * self.conv.shape().channels_out
    }

    /// Room for dz where it differs from dy.
    fn bwd_work(&self) -> usize {
        let dz = if self.relu {
            self.conv.shape().output_len()
        } else {
            0
        };
        dz + self.conv.workspace(self.threads)
    }

    fn bwd_reads_output(&self) -> bool {
        self.relu
    }

    fn bwd_adds(&self) -> bool {
        true
    }

    fn flops(&self) -> usize {
        let shape = self.conv.shape();
        2 * shape.output_len() * shape.weight_len() / shape.channels_out
    }

    fn absorb(&mut self, tail: Tail) -> bool {
        let free = !self.relu && (tail == Tail::Relu || !self.residual);
        match tail {
            Tail::Norm if free && !self.norm => self.norm = true,
            Tail::Add if free => self.residual = true,
            Tail::Relu if free => self.relu = true,
            _ => return false,
        }
        true
    }

    fn cpu_fwd(&self, io: Fwd<'_>) {
        let channels = self.conv.shape().channels_out;
        let (rows, work) = io.work.split_at_mut(2 * channels);
        let (scale, folded) = rows.split_at_mut(channels);
        let own_bias = self.bias.then(|| io.x[2]);
        let mut epilogue = Epilogue {
            bias: own_bias,
            add: self.residual.then(|| io.x[self.residual_place()]),
            relu: self.relu,
            ..Epilogue::default()
        };
        if self.norm {
            let weight = 2 + usize::from(self.bias);
            let affine = Affine {
                gamma: io.x[weight],
                beta: io.x[weight + 1],
            };
            let averages = io.state.split_at(channels);
            BatchNorm::fold(affine, averages, own_bias, scale, folded);
            epilogue.scale = Some(scale);
            epilogue.bias = Some(folded);
        }
        self.conv.forward(io.x[0], io.x[1], epilogue, io.y, work);
    }

    fn cpu_bwd(&self, mut io: Bwd<'_>) {
        assert!(!self.norm, "batch norm in evaluation has no gradient here");
        let (masked, work) = io
            .work
            .split_at_mut(self.bwd_work() - self.conv.workspace(self.threads));
        let mut dz = io.dy;
        if self.relu {
            pool::relu_backward(io.y, io.dy, masked);
            dz = masked;
        }
        if self.residual {
            let d_residual = &mut io.dx[self.residual_place()];
            if !d_residual.is_empty() {
                d_residual.copy_from_slice(dz);
            }
        }
        let [x, w, ..] = io.x;
        let [dx, dw, db, ..] = io.dx;
        if !dx.is_empty() {
            self.conv.input_gradient(dz, w, io.add, dx, work);
        }
        self.conv.weight_gradient(x, dz, dw, work);
        if self.bias {
            sum_rows(db, dz);
        }
    }

    fn cuda_counts(&self) -> usize {
        Gather::forward(*self.conv.shape()).sums_len()
    }

    fn cuda_bwd_counts(&self) -> usize {
        Gather::back(*self.conv.shape()).sums_len()
    }

    fn cuda_finishes(&self) -> [bool; 2] {
        [true, !self.relu && !self.residual]
    }

    /// dz where it differs from dy, parts of dw and db.
    fn cuda_bwd_work(&self) -> usize {
        let shape = *self.conv.shape();
        let parts = |tall| Weights::new(shape, tall).parts_len;
        let dz = if self.relu { shape.output_len() } else { 0 };
        dz + parts(false).max(parts(true))
    }

    fn cuda_fwd(&self, io: FwdSlots, program: &mut Program) -> Result<()> {
        let shape = *self.conv.shape();
        let gather = Gather::forward(shape);
        let (x, w) = (io.x[0], io.x[1]);
        let operand = |is_there, place: usize| {
            if is_there {
                io.x[place]
            } else {
                Slot::default()
            }
        };
        let bias = operand(self.bias, 2);
        // In training of the batch norm behind.
        let counters = match io.statistics {
            Some(_) => program.counters(gather.counters()),
            None => View::default(),
        };
        let norm = io.statistics.unwrap_or(Statistics {
            gamma: operand(self.norm, 2 + usize::from(self.bias)),
            beta: operand(self.norm, 3 + usize::from(self.bias)),
            ..Statistics::default()
        });
        let residual = operand(self.residual, self.residual_place());
        let geometry = kernels::Conv {
            aligned_in: aligned(x, shape.channels_in),
            aligned_w: aligned(w, shape.channels_in * shape.kernel * shape.kernel),
            biased: self.bias.into(),
            normed: self.norm.into(),
            residual: self.residual.into(),
            relu: self.relu.into(),
            counted: io.statistics.is_some().into(),
            running: (norm.averages.len > 0).into(),
            finish_in: io.finish_x.is_some().into(),
            finish_in_relu: io.finish_x.is_some_and(|finish| finish.relu).into(),
            ..gather.geometry
        };
        let launch = match (program.conv_precision(), gather.form) {
            (Precision::Tf32, Form::N16) => kernels::conv2d_fwd_tf32_128x16,
            (Precision::Tf32, Form::N32) => kernels::conv2d_fwd_tf32_128x32,
            (Precision::Tf32, Form::N64) => kernels::conv2d_fwd_tf32_128x64,
            (Precision::Tf32, Form::Few) => kernels::conv2d_fwd_tf32_64x32,
            (Precision::Tf32, Form::Any) => kernels::conv2d_fwd_tf32_any,
            (Precision::Fp32, Form::N16) => kernels::conv2d_fwd_fp32_128x16,
            (Precision::Fp32, Form::N32) => kernels::conv2d_fwd_fp32_128x32,
            (Precision::Fp32, Form::N64) => kernels::conv2d_fwd_fp32_128x64,
            (Precision::Fp32, Form::Few) => kernels::conv2d_fwd_fp32_64x32,
            (Precision::Fp32, Form::Any) => kernels::conv2d_fwd_fp32_any,
        };
        let lines = io.finish_x.map_or(Slot::default(), |finish| finish.lines);
        let arguments = kernels::Conv2dFwd {
            x: x.into(),
            x_lines: lines.into(),
            w: w.into(),
            b: bias.into(),
            gamma: norm.gamma.into(),
            beta: norm.beta.into(),
            averages: io.state.into(),
            r: residual.into(),
            y: io.y.into(),
            now: io.now,
            partial: doubles(norm.partial),
            counters,
            saved: norm.saved.into(),
            running: norm.averages.into(),
            c: geometry,
        };
        launch(program, gather.grid, arguments);
        Ok(())
    }

    fn cuda_bwd(&self, io: BwdSlots, program: &mut Program) -> Result<()> {
        let shape = *self.conv.shape();
        let ([x, w, ..], [dx, dw, db, ..]) = (io.x, io.dx);
        let mut work = io.work;
        let mut dz = io.dy;
        let [x_lines, dy_lines, dy_other] = [
            io.finish_x.map(|finish| finish.lines),
            io.finish_dy.map(|finish| finish.lines),
            io.finish_dy.map(|finish| finish.other),
        ]
        .map(Option::unwrap_or_default);
        let finish_dy = i32::from(io.finish_dy.is_some());
        if self.relu {
            dz = work.take(shape.output_len());
            kernels::relu_bwd(program, elementwise(dz.len), io.y, io.dy, dz, dz.len as i64);
        }
        if self.residual && io.dx[self.residual_place()].len > 0 {
            let d_residual = io.dx[self.residual_place()];
            kernels::add_bwd(program, elementwise(dz.len), dz, d_residual, dz.len as i64);
        }
        let of_x = if dx.len > 0 {
            let gather = Gather::back(shape);
            let norm = io.norm.unwrap_or_default();
            let geometry = kernels::Conv {
                aligned_in: aligned(dz, shape.channels_out),
                aligned_w: aligned(w, shape.channels_in * shape.kernel * shape.kernel),
                adds: io.add.into(),
                finish_in: finish_dy,
                counted: io.norm.is_some().into(),
                relu: norm.relu.into(),
                residual: (norm.y.len > 0).into(),
                ..gather.geometry
            };
            let counters = match io.norm {
                Some(_) => program.counters(gather.counters()),
                None => View::default(),
            };
            let arguments = kernels::Conv2dBwdX {
                dy: dz.into(),
                dy_lines: dy_lines.into(),
                dy_other: dy_other.into(),
                w: w.into(),
                dx: dx.into(),
                norm_x: norm.x.into(),
                norm_y: norm.y.into(),
                norm_saved: norm.saved.into(),
                partial: doubles(norm.partial),
                counters,
                dgamma: norm.dgamma.into(),
                dbeta: norm.dbeta.into(),
                terms: norm.lines.into(),
                c: geometry,
            };
            Some((gather, arguments))
        } else {
            None
        };
        let of_w = if dw.len > 0 {
            let with_dx = of_x.as_ref().is_some_and(|(gather, _)| gather.takes_tall());
            let tall = program.conv_precision() == Precision::Tf32 && with_dx;
            let weights = Weights::new(shape, tall);
            let geometry = kernels::Conv {
                aligned_in: aligned(x, shape.channels_in),
                aligned_w: aligned(dz, shape.channels_out),
                biased: (self.bias && db.len > 0).into(),
                finish_in: io.finish_x.is_some().into(),
                finish_in_relu: io.finish_x.is_some_and(|finish| finish.relu).into(),
                finish_dy,
                ..weights.geometry
            };
            let parts = work.take(weights.parts_len);
            let counters = program.counters(weights.counters);
            let arguments = kernels::Conv2dBwdW {
                x: x.into(),
                x_lines: x_lines.into(),
                dy: dz.into(),
                dy_lines: dy_lines.into(),
                dy_other: dy_other.into(),
                dw: dw.into(),
                db: if self.bias { db } else { Slot::default() }.into(),
                parts: parts.into(),
                counters,
                c: geometry,
                tiles: weights.tiles as i32,
            };
            Some((weights, arguments))
        } else {
            None
        };
        backward(of_x, of_w, program);
        Ok(())
    }
}

/// Adds the launches that make dx and dw, or one for both.
fn backward(
    of_x: Option<(Gather, kernels::Conv2dBwdX)>,
    of_w: Option<(Weights, kernels::Conv2dBwdW)>,
    program: &mut Program,
) {
    let precision = program.conv_precision();
    if let (Some((gather, x)), Some((weights, w))) = (&of_x, &of_w)
        && let Some(launch) = both(precision, gather.form, weights.form, w.c.biased == 1)
    {
        let weights = weights.clone().beside(gather.grid.shared);
        let [of_w, of_x] = [weights.grid.blocks, gather.grid.blocks];
        let count = |blocks: [u32; 3]| blocks.iter().product::<u32>();
        let grid = Grid {
            blocks: [count(of_w) + count(of_x), 1, 1],
            shared: weights.grid.shared.max(gather.grid.shared),
        };
        let [w_across, w_down, w_deep] = of_w.map(|n| n as i32);
        let [x_across, x_down, x_deep] = of_x.map(|n| n as i32);
        let arguments = kernels::Conv2dBwdTf32 {
            x: w.x,
            x_lines: w.x_lines,
            dy: x.dy,
            dy_lines: x.dy_lines,
            dy_other: x.dy_other,
            w: x.w,
            dx: x.dx,
            norm_x: x.norm_x,
            norm_y: x.norm_y,
            norm_saved: x.norm_saved,
            partial: x.partial,
            counters: x.counters,
            dgamma: x.dgamma,
            dbeta: x.dbeta,
            terms: x.terms,
            c: x.c,
            dw: w.dw,
            db: w.db,
            parts: w.parts,
            w_counters: w.counters,
            w_c: kernels::Conv {
                stages: weights.geometry.stages,
                ..w.c
            },
            tiles: w.tiles,
            grids: kernels::Both {
                w_across,
                w_down,
                w_deep,
                x_across,
                x_down,
                x_deep,
            },
        };
        launch(program, grid, arguments);
        return;
    }
    if let Some((gather, arguments)) = of_x {
        let launch = match (program.conv_precision(), gather.form) {
            (Precision::Tf32, Form::N16) => kernels::conv2d_bwd_x_tf32_128x16,
            (Precision::Tf32, Form::N32) => kernels::conv2d_bwd_x_tf32_128x32,
            (Precision::Tf32, Form::N64) => kernels::conv2d_bwd_x_tf32_128x64,
            (Precision::Tf32, Form::Few) => kernels::conv2d_bwd_x_tf32_64x32,
            (Precision::Tf32, Form::Any) => kernels::conv2d_bwd_x_tf32_any,
            (Precision::Fp32, Form::N16) => kernels::conv2d_bwd_x_fp32_128x16,
            (Precision::Fp32, Form::N32) => kernels::conv2d_bwd_x_fp32_128x32,
            (Precision::Fp32, Form::N64) => kernels::conv2d_bwd_x_fp32_128x64,
            (Precision::Fp32, Form::Few) => kernels::conv2d_bwd_x_fp32_64x32,
            (Precision::Fp32, Form::Any) => kernels::conv2d_bwd_x_fp32_any,
        };
        launch(program, gather.grid, arguments);
    }
    if let Some((weights, arguments)) = of_w {
        let launch = match (program.conv_precision(), weights.form) {
            (Precision::Tf32, WeightForm::Small) => kernels::conv2d_bwd_w_tf32_16x16,
            (Precision::Tf32, WeightForm::Square) => kernels::conv2d_bwd_w_tf32_32x32,
            (Precision::Tf32, WeightForm::Any) => kernels::conv2d_bwd_w_tf32_any,
            (Precision::Fp32, WeightForm::Small) => kernels::conv2d_bwd_w_fp32_16x16,
            (Precision::Fp32, WeightForm::Square) => kernels::conv2d_bwd_w_fp32_32x32,
            (Precision::Fp32, WeightForm::Any) => kernels::conv2d_bwd_w_fp32_any,
            (_, WeightForm::Tall) => unreachable!("in a launch with dx"),
        };
        launch(program, weights.grid, arguments);
    }
}

/// The kernel that makes both dx and dw, if there is one.
fn both(
    precision: Precision,
    form: Form,
    weights: WeightForm,
    biased: bool,
) -> Option<fn(&mut Program, Grid, kernels::Conv2dBwdTf32)> {
    if precision != Precision::Tf32 || biased && weights == WeightForm::Small {
        return None;
    }
    Some(match (form, weights) {
        (Form::N16, WeightForm::Small) => kernels::conv2d_bwd_tf32_128x16_16x16,
        (Form::N32, WeightForm::Small) => kernels::conv2d_bwd_tf32_128x32_16x16,
        (Form::Few, WeightForm::Small) => kernels::conv2d_bwd_tf32_64x32_16x16,
        (Form::N64, WeightForm::Tall) => kernels::conv2d_bwd_tf32_128x64_64x32,
        (Form::Few, WeightForm::Tall) => kernels::conv2d_bwd_tf32_64x32_64x32,
        _ => return None,
    })
}

pub const ROW: Row = Row {
    name: "conv2d",
    cases: &[
        Case::new("3x3 on 5x4, 2 to 3", &[&[2, 5, 4, 2], &[3, 2, 3, 3]], |x| {
            x[0].conv2d(x[1], None, 1, 1)
        }),
        Case::new(
            "one image, stride 2, bias",
            &[&[1, 5, 7, 3], &[2, 3, 3, 3], &[2]],
            |x| x[0].conv2d(x[1], Some(x[2]), 2, 1),
        ),
        Case::new("1x1, stride 2", &[&[2, 4, 4, 3], &[5, 3, 1, 1]], |x| {
            x[0].conv2d(x[1], None, 2, 0)
        }),
        Case::new(
            "17 to 2 channels, no padding, ReLU",
            &[&[1, 4, 3, 17], &[2, 17, 3, 3], &[2]],
            |x| x[0].conv2d(x[1], Some(x[2]), 1, 0).relu(),
        )
        .avoiding_zero(),
        Case::new(
            "and a shortcut",
            &[&[2, 3, 3, 2], &[2, 2, 3, 3], &[2], &[2, 3, 3, 2]],
            |x| x[0].conv2d(x[1], Some(x[2]), 1, 1).plus(x[3]),
        ),
        // The second one to go back adds to the first one's gradient.
        Case::new(
            "two of one input",
            &[&[1, 4, 4, 2], &[3, 2, 3, 3], &[3, 2, 1, 1]],
            |x| {
                let y = x[0].conv2d(x[1], None, 1, 1);
                y.plus(x[0].conv2d(x[2], None, 1, 0))
            },
        ),
    ],
};
