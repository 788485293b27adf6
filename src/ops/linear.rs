//! Linear: y = x w^T + b, and y + r or max(y, 0) where a sum or a ReLU follows.
//!
//! Gradient, with dz = dy, behind a ReLU only where y > 0: dx = dz w, dw = dz^T x, db = sum of dz over the rows, dr = dz.

use crate::cpu::pool;
use crate::device::gpu::kernels::Step;
use crate::device::gpu::{PROCESSORS, Precision, elementwise, kernels};
use crate::device::product::{Epilogue, Product, Steps, Then, What, grid, tiles};
use crate::device::program::doubles;
use crate::device::{Program, View};
use crate::error::Result;
use crate::graph::{Bwd, BwdSlots, Fwd, FwdSlots, Join, Joined, MAX_INPUTS, Op, Tail, Var};
use crate::ops::{Case, Data, Row};

mod layers;

/// Rows of a tile whose losses its block may compute: with more of them it takes longer than a launch.
const MOST_ROWS: usize = 32;

/// Operands: x, w, then b and r as far as they are there.
struct Linear {
    rows: usize,
    inputs: usize,
    outputs: usize,
    bias: bool,
    /// What follows: a sum or a ReLU.
    tail: Option<Tail>,
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
            tail: None,
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

    fn relu(&self) -> bool {
        self.tail == Some(Tail::Relu)
    }

    /// What is added to x w^T of these operands, and whether a ReLU follows.
    fn then<T: Copy + Default>(&self, x: [T; MAX_INPUTS]) -> Epilogue<T> {
        let operand = |is_there, place: usize| if is_there { x[place] } else { T::default() };
        Epilogue {
            bias: operand(self.bias, 2),
            residual: operand(self.tail == Some(Tail::Add), self.residual_place()),
            relu: self.relu(),
            steps: Steps::default(),
            then: None,
        }
    }

    /// Which operand the residual is.
    fn residual_place(&self) -> usize {
        2 + usize::from(self.bias)
    }

    /// Size of the tiles of a large layer's backward.
    fn tile(&self) -> usize {
        let wide = self.inputs.min(self.outputs) > 64;
        match wide && tiles(128, self.rows, self.inputs) >= self.processors {
            true => 128,
            false => 64,
        }
    }

    /// Does backward take the kernels for small layers?
    fn is_small(&self) -> bool {
        const FEW: usize = 1 << 27;
        self.flops() <= FEW && tiles(64, self.rows, self.inputs) < self.processors
    }

    /// The launch that does all of backward.
    fn small_bwd(&self, io: BwdSlots, program: &mut Program) {
        let ([x, w, ..], [dx, dw, db, ..]) = (io.x, io.dx);
        let steps = steps(&io.joined, io.now);
        let (dx, before, apart) = steps.places(dx.into());
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
            masked: self.relu().into(),
            x: x.into(),
            w: w.into(),
            dx,
            dw: dw.into(),
            db: db.into(),
            rows,
            inputs,
            outputs,
            dx_tiles: of_dx as i32,
            dw_tiles: of_dw as i32,
            tf32: i32::from(program.linear_precision() == Precision::Tf32),
            activation: steps.activation,
            mask: steps.mask,
            now: steps.now,
            z: steps.z,
            before,
            apart,
        };
        let grid = grid(size, of_dx + of_dw + of_db, 1);
        launch(program, grid, arguments);
    }

    /// The launch that gives dx, dw and db.
    fn large_bwd(&self, io: BwdSlots, program: &mut Program) {
        let ([x, w, ..], [dx, dw, db, ..]) = (io.x, io.dx);
        let steps = steps(&io.joined, io.now);
        let (dx, before, apart) = steps.places(dx.into());
        let [_, _, to_w] = self.products();
        let (mut work, mut dz) = (io.work, io.dy);
        if self.relu() {
            dz = work.take(self.bwd_work());
            let n = dz.len;
            kernels::relu_bwd(program, elementwise(n), io.y, io.dy, dz, n as i64);
        }
        let parts = to_w.parts_of(self.tile());
        let [dw, db] = [dw, db].map(View::from);
        let [dws, dbs] = parts.places([dw, db], work.into());
        let counters = if parts.count > 1 { parts.tiles() } else { 0 };
        let launch = match parts.size {
            128 => kernels::linear_bwd_parts_128,
            _ => kernels::linear_bwd_parts_64,
        };
        let of_dx = match dx.len {
            0 => 0,
            _ => tiles(parts.size, self.rows, self.inputs),
        };
        let [rows, inputs, outputs] = [self.rows, self.inputs, self.outputs].map(|n| n as i32);
        let arguments = kernels::LinearBwdParts {
            dz: dz.into(),
            x: x.into(),
            w: w.into(),
            dx,
            dws,
            dbs,
            dw,
            db,
            biased: i32::from(db.len > 0),
            rows,
            inputs,
            outputs,
            parts: parts.count as i32,
            part: parts.terms as i32,
            dx_tiles: of_dx as i32,
            tf32: i32::from(program.linear_precision() == Precision::Tf32),
            activation: steps.activation,
            mask: steps.mask,
            now: steps.now,
            z: steps.z,
            before,
            apart,
            counters: program.counters(counters),
        };
        let down = parts.count + of_dx.div_ceil(parts.tiles());
        launch(program, grid(parts.size, parts.tiles(), down), arguments);
    }
}

/// What kernels do with every number of a product.
fn steps(joined: &[Joined], now: View<Step>) -> Steps {
    let mut steps = Steps::default();
    for step in joined.iter().filter(|joined| joined.join.is_step()) {
        match step.join {
            Join::Activation(activation) => {
                (steps.activation, steps.z) = (activation as i32, step.x[0].into());
            }
            Join::Dropout(mask) => (steps.mask, steps.now) = (mask, now),
            _ => steps.added = step.x[1].into(),
        }
        steps.y = step.to.into();
    }
    steps
}

/// What kernels of forward do with rows, at the end.
fn rows(joined: &[Joined]) -> Option<Then> {
    let mut rows = joined.iter().skip_while(|joined| joined.join.is_step());
    let (first, backward) = (rows.next()?, rows.next());
    let y = backward.unwrap_or(first).to.into();
    let [_, w, shift, ..] = first.x.map(View::from);
    let stats = first.saved.into();
    let what = match first.join {
        Join::RmsNorm { eps } => What::Norm {
            w,
            shift: None,
            eps,
            stats,
        },
        Join::LayerNorm { eps } => What::Norm {
            w,
            shift: Some(shift),
            eps,
            stats,
        },
        Join::CrossEntropy { smoothing } => What::CrossEntropy {
            target: w,
            smoothing,
            f: first.to.into(),
            df: backward.map(|backward| backward.dy.into()),
            partial: doubles(first.work),
        },
        Join::Activation(_) | Join::Dropout(_) | Join::Add => return None,
        Join::Linear { .. } | Join::Backward { .. } => return None,
    };
    Some(Then { what, y })
}

impl Op for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    /// Room for dz where it differs from dy.
    fn bwd_work(&self) -> usize {
        match self.relu() {
            true => self.rows * self.outputs,
            false => 0,
        }
    }

    fn bwd_reads_output(&self) -> bool {
        self.relu()
    }

    fn bwd_passes(&self, input: usize) -> bool {
        self.tail == Some(Tail::Add) && input == self.residual_place()
    }

    fn flops(&self) -> usize {
        2 * self.rows * self.inputs * self.outputs
    }

    fn absorb(&mut self, tail: Tail) -> bool {
        let takes = self.tail.is_none() && matches!(tail, Tail::Add | Tail::Relu);
        if takes {
            self.tail = Some(tail);
        }
        takes
    }

    fn join(&self) -> Option<Join> {
        let (outputs, relu) = (self.outputs, self.relu());
        (relu || self.tail.is_none()).then_some(Join::Linear { outputs, relu })
    }

    fn cpu_fwd(&self, io: Fwd<'_>) {
        let ([x, w, ..], [y, ..]) = (io.x, self.products());
        y.cpu_nt(x, w, self.then(io.x), io.y);
    }

    fn cpu_bwd(&self, mut io: Bwd<'_>) {
        let ([x, w, ..], [_, to_x, to_w]) = (io.x, self.products());
        let dz: &[f32] = match self.relu() {
            true => {
                pool::relu_backward(io.y, io.dy, io.work);
                io.work
            }
            false => io.dy,
        };
        if self.tail == Some(Tail::Add) {
            // Taken away: where there is no bias, it stands in the bias's place.
            let dr = std::mem::take(&mut io.dx[self.residual_place()]);
            if !dr.is_empty() {
                dr.copy_from_slice(dz);
            }
        }
        let [dx, dw, db, ..] = io.dx;
        if !dx.is_empty() {
            to_x.cpu_nn(dz, w, dx);
        }
        to_w.cpu_tn(dz, x, dw, db);
    }

    fn cuda_fwd_joins(&self, further: &[Join]) -> bool {
        let [y, ..] = self.products();
        let steps = further.iter().take_while(|join| join.is_step()).count();
        let (steps, rows) = further.split_at(steps);
        let place = |join: &Join| match join {
            Join::Activation(_) => 0,
            Join::Dropout(_) => 1,
            _ => 2,
        };
        // A kernel adds one further operand.
        let sums = steps.iter().any(|join| matches!(join, Join::Add));
        let steps_fit = steps.is_sorted_by(|a, b| place(a) < place(b))
            && !(sums && self.tail == Some(Tail::Add));
        let rows_fit = match rows {
            [] | [Join::RmsNorm { .. } | Join::LayerNorm { .. }] => true,
            [Join::CrossEntropy { .. }] | [Join::CrossEntropy { .. }, Join::Backward { .. }] => {
                steps.is_empty() && y.nt_tile() <= MOST_ROWS
            }
            _ => false,
        };
        (steps_fit && rows_fit) || layers::takes(self, further)
    }

    fn cuda_bwd_joins(&self, further: &[Join]) -> bool {
        use Join::{Activation, Dropout};
        matches!(
            further,
            [Dropout(_) | Activation(_)] | [Dropout(_), Activation(_)]
        )
    }

    fn cuda_fwd_work(&self) -> usize {
        layers::work(self)
    }

    fn cuda_bwd_work(&self) -> usize {
        let [_, _, to_w] = self.products();
        match self.is_small() {
            true => 0,
            false => self.bwd_work() + to_w.parts_of(self.tile()).work(),
        }
    }

    fn cuda_fwd(&self, io: FwdSlots, program: &mut Program) -> Result<()> {
        let joins: Vec<Join> = io.joined.iter().map(|joined| joined.join).collect();
        if layers::takes(self, &joins) {
            layers::emit(self, &io, program);
            return Ok(());
        }
        let (x, [y, ..]) = (io.x.map(View::from), self.products());
        let mut epilogue = self.then(x);
        epilogue.steps = steps(&io.joined, io.now);
        epilogue.then = rows(&io.joined);
        y.nt(x[0], x[1], epilogue, io.y.into(), program);
        Ok(())
    }

    fn cuda_bwd(&self, mut io: BwdSlots, program: &mut Program) -> Result<()> {
        if self.tail == Some(Tail::Add) {
            let dr = std::mem::take(&mut io.dx[self.residual_place()]);
            if dr.len > 0 {
                kernels::add_bwd(program, elementwise(dr.len), io.dy, dr, dr.len as i64);
            }
        }
        match self.is_small() || io.dx[1].len == 0 {
            true => self.small_bwd(io, program),
            false => self.large_bwd(io, program),
        }
        Ok(())
    }
}

const RESIDUAL: &[&[usize]] = &[&[3, 5], &[4, 5], &[4], &[3, 4]];

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
        Case::new("3x5 to 4, bias, and a residual", RESIDUAL, |x| {
            x[0].linear(x[1], Some(x[2])).plus(x[3])
        }),
        // The residual's gradient is the sum's, to which the ops before add theirs.
        Case::new("in a residual stream", &[&[3, 4], &[4, 4], &[4, 4]], |x| {
            let first = x[0].gelu();
            let second = first.gelu().linear(x[1], None).plus(first);
            second.plus(second.gelu().linear(x[2], None))
        }),
        Case::new("and its own input", &[&[3, 4], &[4, 4]], |x| {
            x[0].linear(x[1], None).plus(x[0])
        }),
        // Kernels do what is behind a layer with it, and in backward the activation with the layer after it.
        Case::new(
            "an activation between two",
            &[&[5, 4], &[8, 4], &[3, 8]],
            |x| x[0].linear(x[1], None).silu().linear(x[2], None),
        ),
        Case::new("a stream and its norm", &[&[5, 4], &[4, 4], &[4]], |x| {
            let stream = x[0].linear(x[1], None).plus(x[0]);
            stream.plus(stream.rms_norm(x[2], 1e-6))
        }),
        Case::new(
            "dropout behind it, and a sum with what is before",
            &[&[5, 4], &[8, 4]],
            |x| {
                let y = x[0].linear(x[1], None);
                y.dropout(0.5).plus(y)
            },
        ),
        Case::new(
            "an activation and dropout between two, then a residual's norm",
            &[&[5, 4], &[8, 4], &[4, 8], &[4], &[4]],
            |x| {
                let hidden = x[0].linear(x[1], None).gelu().dropout(0.2);
                let y = hidden.linear(x[2], None).dropout(0.1);
                y.plus(x[0]).layer_norm(x[3], x[4])
            },
        ),
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

    /// What stands around a layer.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Around {
        Residual,
        Relu,
        SiluResidualNorm,
        LayerNorm,
        GeluSilu,
        CrossEntropy,
        DropoutResidualNorm,
        GeluDropout,
    }

    const AROUND: [Around; 8] = [
        Around::Residual,
        Around::Relu,
        Around::SiluResidualNorm,
        Around::LayerNorm,
        Around::GeluSilu,
        Around::CrossEntropy,
        Around::DropoutResidualNorm,
        Around::GeluDropout,
    ];

    /// A layer on this many multiprocessors, which decides about the kernels. No output of it is close to 0 where ReLU, which
    /// has its kink there, is behind it, and their signs vary along both dimensions. Operands lie one float off where `odd`.
    fn example(
        processors: usize,
        [rows, inputs, outputs]: [usize; 3],
        around: Around,
        odd: bool,
        device: Device,
    ) -> Example {
        let mut params = Params::new(Generator::new(5));
        params.normal("offset", &[usize::from(odd)], 1.0);
        let x = params.normal("x", &[rows, inputs], 1.0);
        let w = params.normal("w", &[outputs, inputs], 1.0);
        let b = params.normal("b", &[outputs], 1.0);
        let dropped = around == Around::DropoutResidualNorm;
        let residual = dropped || matches!(around, Around::Residual | Around::SiluResidualNorm);
        let r = params.normal("r", &[if residual { rows } else { 0 }, outputs], 1.0);
        let normed = dropped || matches!(around, Around::SiluResidualNorm | Around::LayerNorm);
        let norm = params.normal("norm", &[if normed { outputs } else { 0 }], 1.0);
        let centred = dropped || around == Around::LayerNorm;
        let shift = params.normal("shift", &[if centred { outputs } else { 0 }], 1.0);
        let targets = if around == Around::CrossEntropy {
            rows
        } else {
            0
        };
        let large = (6.0 * (inputs as f32).sqrt() + 1.0).sqrt();
        for (matrix, period) in [(x, 3), (w, 2)] {
            let range = params.tensor(matrix).range;
            let values = &mut params.values[range.start..][..range.len];
            for (i, row) in values.chunks_exact_mut(inputs).enumerate() {
                row[0] = if i % period == 0 { large } else { -large };
            }
        }
        if targets > 0 {
            // What a logit is off by, its exponential is off by relative to itself: logits of about 1.
            let range = params.tensor(w).range;
            let values = &mut params.values[range.start..][..range.len];
            values.iter_mut().for_each(|w| *w /= large * large);
        }
        let plan = Plan::record(&params, Mode::Train, device, |tape| {
            let operands = [x, w, b, r, norm, shift].map(|param| tape.param(param));
            let [x, w, b, r, norm, shift] = operands;
            let layer = |x| Var::linear_for(x, processors, w, Some(b));
            let y = match around {
                Around::Residual => layer(x).plus(r),
                Around::Relu => layer(x).relu(),
                Around::SiluResidualNorm => layer(x.silu()).plus(r).rms_norm(norm, 1.0),
                Around::LayerNorm => layer(x).layer_norm(norm, shift),
                Around::GeluSilu => layer(x.gelu()).silu(),
                Around::CrossEntropy => layer(x).cross_entropy(tape.input(&[targets, 1])),
                Around::DropoutResidualNorm => {
                    // A parameter's gradient would be a copy.
                    let r = r.silu();
                    let y = layer(x.silu().dropout(0.3)).dropout(0.4);
                    y.plus(r).layer_norm(norm, shift)
                }
                Around::GeluDropout => layer(x.dropout(0.3)).gelu().dropout(0.4),
            };
            Targets {
                outputs: vec![y],
                backward: Some(y),
            }
        });
        let mut upstream = vec![0.0; plan.outputs[0].len];
        Generator::new(9).normal(&mut upstream, 0.0, 1.0);
        // Every fifth row is left out, but not the first one.
        let class = |i: usize| {
            if i % 5 == 4 {
                -1.0
            } else {
                (i * 7 % outputs) as f32
            }
        };
        Example {
            params,
            plan,
            data: (0..targets).map(class).collect(),
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
                let around = AROUND[(case + i) % AROUND.len()];
                let relu = around == Around::Relu;
                let example = |device| example(processors, sizes, around, odd, device);
                let cpu = example(Device::Cpu);
                let (y, gradient) = cpu.on_cpu(&cpu.params.values);
                assert!(!relu || y.contains(&0.0) || y.len() == 1);
                let emulated = example(Device::Emulator);
                for (precision, tolerance) in [(Precision::Fp32, 2e-6), (Precision::Tf32, 2e-3)] {
                    let mut gpu = Machine::emulator(schedule, None).unwrap();
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
                        "{sizes:?} for {processors}, {around:?}, {precision:?}, {schedule:?}: {errors:?}"
                    );
                    let mut program = Program::new(target);
                    let now = gpu.alloc("step", 1).unwrap();
                    emulated.plan.emit(now, &mut program).unwrap();
                    let launches = match around {
                        Around::Residual | Around::Relu => 3,
                        // The norm's backward may be three.
                        Around::SiluResidualNorm => 7,
                        Around::LayerNorm => 6,
                        Around::GeluSilu => 4,
                        // The first of two is the loss, too, where a tile has few rows.
                        Around::CrossEntropy => 3,
                        // In backward the norm with the dropout behind the layer, and the layer with what is before it.
                        Around::DropoutResidualNorm if sizes[2] % 4 == 0 => 7,
                        Around::DropoutResidualNorm => 11,
                        // The dropout and the activation behind the layer, in backward.
                        Around::GeluDropout => 5,
                    };
                    let ours = program.calls().len();
                    assert!(ours <= launches, "{around:?}, {sizes:?}: {ours}");
                    seen.extend(program.calls().iter().map(|call| call.name().to_owned()));
                }
            }
        }
        let of_linear = |name: &str| name.starts_with("linear") || name.starts_with("product_nt");
        let all = kernels::KERNELS.iter().filter(|k| of_linear(&k.name));
        let missed: Vec<_> = all
            .map(|k| &*k.name)
            .filter(|k| !seen.contains(*k))
            .collect();
        assert!(missed.is_empty(), "not run: {missed:?}");
    }
}
