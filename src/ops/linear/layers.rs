//! A whole network of linear layers, forward and backward, in the launch of the first one: `kernels/layers.cu`. It takes few
//! rows, and layers whose weights fit into the shared memory of one block.

use super::Linear;
use crate::device::gpu::kernels::{self, GatherBytes, LayerPlaces, LayerSizes};
use crate::device::gpu::{Grid, MOST_SHARED, PROCESSORS, Precision, counters_of};
use crate::device::product::{grid, tiles};
use crate::device::program::{ByteRange, doubles};
use crate::device::{Program, Slot, View};
use crate::graph::{FwdSlots, Join, Tail};

/// Layers that the kernel takes.
const MOST: usize = 4;
/// The sides of its tiles, of the first layer's product and of the gradients of weights, and terms of a slice of that product.
const TILE: usize = 16;
const GRADIENT_TILE: usize = 32;
const SLICE: usize = 128;
/// Blocks that a multiprocessor has at a time, and what they may have beside other shared memory.
const RESIDENT: usize = 2;
const SHARED: usize = MOST_SHARED / RESIDENT - (12 << 10);

/// Is this what follows the first layer: some more layers, cross entropy, and backward of all of them?
pub(super) fn takes(first: &Linear, further: &[Join]) -> bool {
    let layer = |join: &Join| match *join {
        Join::Linear { outputs, .. } => Some(outputs),
        _ => None,
    };
    let mut outputs = vec![first.outputs];
    outputs.extend(further.iter().map_while(layer));
    let [Join::CrossEntropy { .. }, backward @ ..] = &further[outputs.len() - 1..] else {
        return false;
    };
    // The last one is that of the first layer, whose input are data.
    let of_input = |join: &Join| match *join {
        Join::Backward { of_input } => Some(of_input),
        _ => None,
    };
    let of_inputs = (0..=outputs.len()).rev().map(|i| Some(i > 0));
    backward.iter().map(of_input).eq(of_inputs)
        && outputs.len() <= MOST
        && is_first(first)
        && shared(first.rows, &outputs) <= SHARED
}

/// Can it be the first one of such layers?
fn is_first(layer: &Linear) -> bool {
    let [y, ..] = layer.products();
    layer.tail != Some(Tail::Add) && y.nt_tile() == TILE && group(layer.rows) <= TILE
}

/// Parts of the sums over the first layer's inputs, each by blocks of its own, and slices of each: so many as all run at a time, and
/// none that takes no time off the longest.
fn parts(first: &Linear) -> [usize; 2] {
    let slices = first.inputs.div_ceil(SLICE);
    let most = RESIDENT * PROCESSORS / tiles(TILE, first.rows, first.outputs);
    let part = slices.div_ceil(most.max(1));
    [slices.div_ceil(part), part]
}

/// Floats of workspace: the parts of the first layer's product.
pub(super) fn work(first: &Linear) -> usize {
    let [parts, _] = parts(first);
    match is_first(first) {
        true => parts * first.rows * first.outputs,
        false => 0,
    }
}

/// Rows that a block takes through the network at a time.
fn group(rows: usize) -> usize {
    rows.div_ceil(PROCESSORS).next_power_of_two()
}

/// Bytes of shared memory for the weights of all layers but the first, for a group's outputs, and for their gradient by the loss.
fn shared(rows: usize, outputs: &[usize]) -> usize {
    let pitches = outputs.iter().map(|inputs| 4 * (inputs.div_ceil(4) | 1));
    let weights: usize = pitches.zip(&outputs[1..]).map(|(pitch, n)| pitch * n).sum();
    let values = |outputs: &usize| (group(rows) * outputs).next_multiple_of(4);
    let values = outputs
        .iter()
        .chain(outputs.last())
        .map(values)
        .sum::<usize>();
    4 * (weights + values)
}

/// Can tiles of a first layer with this many inputs read a batch's bytes themselves? As `Samples` in the kernel does.
fn gathers(bytes: &GatherBytes, inputs: usize) -> bool {
    const MOST_ROWS: usize = 256;
    const MOST_CHANNELS: i32 = 3;
    bytes.y.len <= MOST_ROWS
        && bytes.count == 1
        && bytes.channels <= MOST_CHANNELS
        && inputs.is_multiple_of(8)
}

/// Where a layer's operands are.
#[derive(Clone, Copy, Default)]
struct Layer {
    w: Slot,
    b: Slot,
    y: Slot,
    dy: Slot,
    dw: Slot,
    db: Slot,
    relu: bool,
}

/// Adds the launch.
pub(super) fn emit(first: &Linear, io: &FwdSlots, program: &mut Program) {
    let (mut layers, mut count) = ([Layer::default(); MOST], 1);
    layers[0] = Layer {
        w: io.x[1],
        b: if first.bias { io.x[2] } else { Slot::default() },
        y: io.y,
        relu: first.relu(),
        ..Layer::default()
    };
    let mut joined = io.joined.iter();
    let (loss, smoothing) = loop {
        let next = joined.next().expect("what layers::takes has seen");
        match next.join {
            Join::Linear { relu, .. } => {
                let [_, w, b, ..] = next.x;
                layers[count] = Layer {
                    w,
                    b,
                    y: next.to,
                    relu,
                    ..Layer::default()
                };
                count += 1;
            }
            Join::CrossEntropy { smoothing } => break (next, smoothing),
            _ => unreachable!("layers::takes has seen layers and their loss"),
        }
    };
    let seed = joined.next().expect("backward of the loss").dy;
    for (layer, backward) in layers[..count].iter_mut().rev().zip(joined) {
        layer.dy = backward.dy;
        [_, layer.dw, layer.db, ..] = backward.dx;
    }
    let [rows, inputs] = [first.rows, first.inputs];
    let outputs = layers.map(|layer| layer.y.len / rows);
    let bits = |has: fn(&Layer) -> bool| {
        let bits = layers.iter().enumerate();
        bits.fold(0, |all, (i, layer)| all | i32::from(has(layer)) << i)
    };
    let [y0, y1, y2, y3] = outputs.map(|n| n as i32);
    let [parts, part] = parts(first);
    let sizes = LayerSizes {
        rows: rows as i32,
        inputs: inputs as i32,
        count: count as i32,
        outputs0: y0,
        outputs1: y1,
        outputs2: y2,
        outputs3: y3,
        relu: bits(|layer| layer.relu),
        biased: bits(|layer| layer.b.len > 0),
        trained: bits(|layer| layer.dw.len > 0),
        group: group(rows) as i32,
        parts: parts as i32,
        part: part as i32,
    };
    let groups = rows.div_ceil(group(rows));
    let gradients = layers[..count].iter().enumerate().map(|(i, layer)| {
        let inputs = if i == 0 { inputs } else { outputs[i - 1] };
        tiles(GRADIENT_TILE, layer.dw.len / inputs, inputs) + layer.db.len.div_ceil(32)
    });
    let tasks = parts * tiles(TILE, rows, outputs[0]) + groups + gradients.sum::<usize>();
    let shared = [
        grid(TILE, 1, 1).shared,
        grid(GRADIENT_TILE, 1, 1).shared,
        shared(rows, &outputs[..count]) as u32,
    ];
    let grid = Grid {
        shared: shared.into_iter().max().expect("three"),
        ..tasks.min(RESIDENT * PROCESSORS).into()
    };
    let [w0, w1, w2, w3] = layers.map(|layer| View::from(layer.w));
    let [b0, b1, b2, b3] = layers.map(|layer| View::from(layer.b));
    let [dy0, dy1, dy2, dy3] = layers.map(|layer| View::from(layer.dy));
    let [dw0, dw1, dw2, dw3] = layers.map(|layer| View::from(layer.dw));
    let [db0, db1, db2, db3] = layers.map(|layer| View::from(layer.db));
    let [y0, y1, y2, y3] = layers.map(|layer| View::from(layer.y));
    let [x, target] = [io.x[0], loss.x[1]];
    let ranges = [x, target].map(ByteRange::from);
    let gather = program.take_gather(|bytes| {
        ranges == [bytes.x, bytes.y].map(ByteRange::from) && gathers(bytes, inputs)
    });
    let gather = gather.unwrap_or_default();
    let counters = 3 + rows.div_ceil(TILE) + counters_of(groups);
    let arguments = kernels::Layers {
        x: x.into(),
        w0,
        w1,
        w2,
        w3,
        b0,
        b1,
        b2,
        b3,
        y0,
        y1,
        y2,
        y3,
        dy0,
        dy1,
        dy2,
        dy3,
        dw0,
        dw1,
        dw2,
        dw3,
        db0,
        db1,
        db2,
        db3,
        s: sizes,
        tf32: i32::from(program.linear_precision() == Precision::Tf32),
        parts: View::from(io.work).part(0, work(first)),
        target: target.into(),
        smoothing,
        df: seed.into(),
        f: loss.to.into(),
        partial: doubles(loss.work).part(0, groups),
        counters: program.counters(counters),
        data: gather.data,
        table: gather.table,
        channels: gather.channels,
        targets: gather.targets,
        order: gather.order,
        steps: gather.steps,
        taken: gather.taken,
        again: gather.again,
        batch_size: gather.batch_size,
        now: gather.now,
        seed: gather.seed,
        start: gather.df,
        gathered_x: gather.x,
        gathered_target: gather.y,
        adam: 0,
        adam_steps: View::default(),
        places: LayerPlaces::default(),
        adam_d: View::default(),
        adam_v: View::default(),
    };
    program.layers(grid, arguments);
}

#[cfg(all(test, emulator))]
mod tests {
    use crate::device::gpu::Precision;
    use crate::device::gpu::kernels::{self, GatherBytes, Step};
    use crate::device::{Device, Machine, Program, Schedule, Slot, Target, View};
    use crate::graph::{Layout, Mode, Params, Plan, Session, Targets};
    use crate::ops::distance;
    use crate::random::torch::Generator;

    /// Layers of these widths, the first one the input's, of which each but the last has a ReLU.
    struct Network {
        params: Params,
        widths: Vec<usize>,
        rows: usize,
        smoothing: f32,
    }

    impl Network {
        fn new(rows: usize, widths: &[usize], biased: bool, smoothing: f32) -> Network {
            let mut params = Params::new(Generator::new(3));
            for (i, pair) in widths.windows(2).enumerate() {
                let [inputs, outputs] = [pair[0], pair[1]];
                let size = (2.0 / inputs as f32).sqrt();
                params.normal(format!("w{i}"), &[outputs, inputs], size);
                params.normal(format!("b{i}"), &[if biased { outputs } else { 0 }], 0.1);
            }
            Network {
                params,
                widths: widths.to_vec(),
                rows,
                smoothing,
            }
        }

        fn plan(&self, device: Device) -> Plan {
            let (rows, widths) = (self.rows, &self.widths);
            Plan::record(&self.params, Mode::Train, device, |tape| {
                let mut x = tape.input(&[rows, widths[0]]);
                let target = tape.input(&[rows, 1]);
                let operands: Vec<_> = self.params.all().map(|p| tape.param(p)).collect();
                for (i, operands) in operands.chunks(2).enumerate() {
                    let biased = operands[1].size() > 0;
                    x = x.linear(operands[0], biased.then_some(operands[1]));
                    if i + 2 < widths.len() {
                        x = x.relu();
                    }
                }
                let loss = x.smoothed_cross_entropy(target, self.smoothing);
                Targets {
                    outputs: vec![loss, x],
                    backward: Some(loss),
                }
            })
        }

        /// Loss, outputs and gradient of one batch, twice.
        fn run(&self, machine: Machine, target: Target) -> [Vec<Vec<f32>>; 2] {
            let [rows, inputs, .., classes] = [[self.rows].as_slice(), &self.widths].concat()[..]
            else {
                unreachable!("rows and two widths at least")
            };
            let mut x = vec![0.0; rows * inputs];
            Generator::new(8).normal(&mut x, 0.0, 1.0);
            // Every fifth row is left out.
            let class = |i: usize| {
                if i % 5 == 4 {
                    -1.0
                } else {
                    (i * 7 % classes) as f32
                }
            };
            let classes: Vec<f32> = (0..rows).map(class).collect();
            let plans = vec![self.plan(target.device)];
            let mut session = Session::on(machine, &self.params, plans, target).unwrap();
            [(); 2].map(|()| {
                let mut all = session.run(0, &[&x, &classes], <_>::default()).unwrap();
                all.push(session.grads().unwrap());
                all
            })
        }
    }

    impl Network {
        /// Two steps on batches of bytes, each gathered by a launch of its own or as it pleases: launches, the bits of all numbers,
        /// where training is, and how many steps were taken.
        fn run_on_bytes(
            &self,
            schedule: Schedule,
            channels: usize,
            apart: bool,
        ) -> (usize, Vec<u32>, i64, Vec<i32>) {
            let target = Target::from(Device::Emulator);
            let (rows, width) = (self.rows, self.widths[0]);
            let samples = 2 * rows + 5;
            let mut machine = Machine::emulator(schedule, None).unwrap();
            let plan = self.plan(Device::Emulator);
            Layout::alloc(&self.params, [&plan], &mut machine).unwrap();
            let bytes: Vec<u8> = (0..samples * width).map(|i| (i * i % 251) as u8).collect();
            let values = (0..256 * channels).map(|i| 1.0 - (i % 259) as f32 / 100.0);
            let values: Vec<f32> = values.collect();
            let classes = self.widths.last().unwrap();
            let targets: Vec<f32> = (0..samples).map(|i| (i % classes) as f32).collect();
            let order: Vec<u32> = (0..samples as u32).rev().collect();
            let steps = [40, 50].map(|slot| Step {
                slot,
                ..Step::default()
            });
            let now = machine.alloc("now", 1).unwrap();
            let taken = machine.alloc_with("taken", &[0]).unwrap();
            let arguments = GatherBytes {
                data: machine.alloc_with("data", &bytes).unwrap(),
                table: machine.alloc_with("table", &values).unwrap(),
                channels: channels as i32,
                targets: machine.alloc_with("targets", &targets).unwrap(),
                order: machine.alloc_with("order", &order).unwrap(),
                steps: machine.alloc_with("steps", &steps).unwrap(),
                taken,
                again: 0,
                batch_size: rows as i32 + 3,
                now,
                seed: plan.seed.into(),
                df: 0.5,
                counter: View::default(),
                x: plan.inputs[0].into(),
                y: plan.inputs[1].into(),
                width: width as i32,
                count: 1,
            };
            let mut program = Program::new(target);
            for _ in 0..2 {
                let counter = program.counters(1);
                let arguments = GatherBytes {
                    counter,
                    ..arguments
                };
                match apart {
                    true => kernels::gather_bytes(&mut program, rows, arguments),
                    false => program.gather(rows, arguments),
                }
                plan.emit(now, &mut program).unwrap();
            }
            let launches = program.calls().len();
            let program = machine.prepare(program).unwrap();
            machine.run(program).unwrap();
            let arena = Slot {
                start: 0,
                len: plan.end(),
            };
            let arena = machine.download(View::<f32>::from(arena)).unwrap();
            let [now] = machine.download(now).unwrap()[..] else {
                unreachable!("one step")
            };
            let now = now.slot;
            let bits = arena.iter().map(|x| x.to_bits()).collect();
            (launches, bits, now, machine.download(taken).unwrap())
        }
    }

    #[test]
    fn batches_of_bytes_are_gathered_where_they_are_read() {
        let cases = [
            (Network::new(128, &[784, 100, 100, 10], true, 0.0), 1, 2),
            (Network::new(150, &[24, 33, 18, 7, 3], true, 0.1), 3, 2), // two rows to a block
            (Network::new(19, &[40, 17, 2], false, 0.0), 1, 2),
            // Rows of bytes that are no whole pieces; more channels and more rows than there is room for.
            (Network::new(19, &[44, 17, 2], true, 0.0), 1, 4),
            (Network::new(19, &[40, 17, 2], true, 0.0), 4, 4),
            (Network::new(257, &[40, 17, 2], true, 0.0), 1, 4),
        ];
        for (network, channels, launches) in cases {
            let what = (&network.widths, network.rows);
            let run = |schedule, apart| network.run_on_bytes(schedule, channels, apart);
            let (_, bits, now, taken) = run(Schedule::default(), true);
            assert_eq!(taken, [2], "{what:?}");
            for schedule in Schedule::all() {
                let ours = run(schedule, false);
                let expected = (launches, bits.clone(), now, taken.clone());
                assert!(ours == expected, "{what:?}, {schedule:?}");
            }
        }
    }

    #[test]
    fn networks_in_one_launch() {
        let cases = [
            (Network::new(128, &[784, 100, 100, 10], true, 0.0), 1),
            (Network::new(150, &[5, 33, 18, 7, 3], true, 0.1), 1), // two rows to a block
            (Network::new(19, &[40, 17, 2], false, 0.0), 1),
            // Rows wait for the only tile, which another thread of the emulator computes at that time.
            (Network::new(16, &[600, 16, 3], true, 0.0), 1),
            (Network::new(3, &[130, 9], true, 0.0), 1),
            // One layer too many; weights that do not fit.
            (Network::new(7, &[5, 4, 4, 4, 4, 3], true, 0.0), 10),
            (Network::new(7, &[5, 170, 170, 3], true, 0.0), 6),
        ];
        for (network, launches) in cases {
            let what = (&network.widths, network.rows);
            let mut program = Program::new(Target::from(Device::Plan));
            network
                .plan(Device::Plan)
                .emit(View::default(), &mut program)
                .unwrap();
            assert_eq!(program.calls().len(), launches, "{what:?}");
            let [expected, _] = network.run(Machine::open(Device::Cpu).unwrap(), Target::CPU);
            for precision in [Precision::Fp32, Precision::Tf32] {
                let tolerance = if precision == Precision::Fp32 {
                    3e-6
                } else {
                    3e-3
                };
                let target = Target {
                    device: Device::Emulator,
                    precision: Some(precision),
                };
                let mut first = None;
                for schedule in Schedule::all() {
                    let machine = Machine::emulator(schedule, None).unwrap();
                    let [ours, again] = network.run(machine, target);
                    for (ours, expected) in ours.iter().zip(&expected) {
                        let error = distance(ours, expected);
                        assert!(
                            error <= tolerance,
                            "{what:?}, {precision:?}, {schedule:?}: {error}"
                        );
                    }
                    assert_eq!(ours, again, "{what:?}, {schedule:?}");
                    assert_eq!(*first.get_or_insert(again), ours, "{what:?}, {schedule:?}");
                }
            }
        }
    }
}
