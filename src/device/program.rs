//! Programs: calls over named ranges of buffers, written before there is a machine to run them.
//!
//! On a GPU and on the emulator a call is the launch of a kernel, on the CPU a function of this crate. A
//! [`Program`] knows which of the two it takes; [`Machine::prepare`](super::Machine::prepare) makes it ready,
//! and running it is then all that a training step does.

use std::marker::PhantomData;

use bytemuck::Pod;

use super::arena::ALIGN;
use super::gpu::kernels::{self, GatherBytes, Layers};
use super::gpu::{Argument, Callee, Grid, Launch, Precision};
use super::{Device, Slot, Target};
use crate::error::Result;

/// A buffer of a machine, in the order of allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer(pub(super) usize);

/// The first buffer: the arena that slots lie in.
pub const ARENA: Buffer = Buffer(0);

/// The counters of a program, which have no buffer before it is prepared.
const COUNTERS: Buffer = Buffer(usize::MAX);

/// A range of a buffer of `T`s.
pub struct View<T> {
    pub buffer: Buffer,
    pub start: usize,
    pub len: usize,
    pub(super) of: PhantomData<T>,
}

// Derived ones would ask T for the same.
impl<T> Clone for View<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for View<T> {}

impl<T> View<T> {
    /// A part of it.
    pub fn part(self, start: usize, len: usize) -> View<T> {
        assert!(start + len <= self.len, "a part outside of a view");
        View {
            start: self.start + start,
            len,
            ..self
        }
    }

    /// It and all up to the end of another one of the same buffer.
    pub fn through(self, last: View<T>) -> View<T> {
        assert_eq!(self.buffer, last.buffer);
        View {
            len: last.start + last.len - self.start,
            ..self
        }
    }

    /// The same bytes as numbers or structures of another kind.
    ///
    /// # Panics
    /// If they are not a whole number of these.
    pub fn cast<U>(self) -> View<U> {
        let ByteRange { buffer, start, len } = self.bytes();
        let size = size_of::<U>().max(1);
        assert!(start.is_multiple_of(size) && len.is_multiple_of(size));
        View {
            buffer,
            start: start / size,
            len: len / size,
            of: PhantomData,
        }
    }

    pub(super) fn bytes(self) -> ByteRange {
        let size = size_of::<T>();
        ByteRange {
            buffer: self.buffer,
            start: self.start * size,
            len: self.len * size,
        }
    }
}

/// Of no length.
impl<T> Default for View<T> {
    fn default() -> Self {
        View {
            buffer: ARENA,
            start: 0,
            len: 0,
            of: PhantomData,
        }
    }
}

impl From<Slot> for View<f32> {
    fn from(slot: Slot) -> View<f32> {
        View {
            buffer: ARENA,
            start: slot.start,
            len: slot.len,
            of: PhantomData,
        }
    }
}

/// A slot as doubles, half as many.
pub fn doubles(slot: Slot) -> View<f64> {
    assert!(slot.start.is_multiple_of(2) && slot.len.is_multiple_of(2));
    View {
        buffer: ARENA,
        start: slot.start / 2,
        len: slot.len / 2,
        of: PhantomData,
    }
}

/// A range of bytes of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    pub(super) buffer: Buffer,
    pub(super) start: usize,
    pub(super) len: usize,
}

impl<T> From<View<T>> for ByteRange {
    fn from(view: View<T>) -> ByteRange {
        view.bytes()
    }
}

impl From<Slot> for ByteRange {
    fn from(slot: Slot) -> ByteRange {
        View::from(slot).bytes()
    }
}

impl ByteRange {
    /// Where it is, given where the buffers are.
    pub(super) fn address(self, addresses: &[u64]) -> u64 {
        addresses[self.buffer.0] + self.start as u64
    }

    pub(super) fn overlaps(self, other: ByteRange) -> bool {
        self.buffer == other.buffer
            && self.len > 0
            && other.len > 0
            && self.start < other.start + other.len
            && other.start < self.start + self.len
    }
}

/// What a program consists of.
pub enum Call {
    Launch(Launch),
    Host(HostCall),
}

/// A function on ranges in the host's memory.
pub struct HostCall {
    pub name: &'static str,
    pub(super) reads: Vec<ByteRange>,
    pub(super) writes: Vec<ByteRange>,
    /// Wants where the ranges are in the host's memory, at 16 bytes: those that it reads, then those that it writes, of which
    /// none overlaps another.
    pub(super) body: Box<HostBody>,
}

impl HostCall {
    /// In the order in which its body wants them.
    pub(super) fn ranges(&self) -> impl Iterator<Item = &ByteRange> {
        self.reads.iter().chain(&self.writes)
    }
}

/// See [`HostCall::body`].
pub(super) type HostBody = dyn Fn(&[u64]) + Send;

impl Call {
    /// Bytes of the longest of the ranges that it names.
    pub fn longest_range(&self) -> usize {
        let longest = match self {
            Call::Host(call) => call.ranges().map(|r| r.len).max(),
            Call::Launch(launch) => launch.ranges().map(|r| r.len).max(),
        };
        longest.unwrap_or(0)
    }

    /// Bytes of the ranges that it names, each once.
    pub fn bytes(&self) -> usize {
        let mut ranges: Vec<ByteRange> = Vec::new();
        let mut name = |range: &ByteRange| {
            if !ranges.contains(range) {
                ranges.push(*range);
            }
        };
        match self {
            Call::Host(call) => call.ranges().for_each(&mut name),
            Call::Launch(launch) => launch.ranges().for_each(&mut name),
        }
        ranges.iter().map(|range| range.len).sum()
    }

    /// For machines that run kernels alone.
    pub(super) fn into_launch(self) -> Launch {
        match self {
            Call::Launch(launch) => launch,
            Call::Host(call) => panic!("{}: a function of the host for a GPU", call.name),
        }
    }

    /// The ranges of counters that it names, before they have a buffer.
    fn counters_mut(&mut self) -> impl Iterator<Item = &mut ByteRange> {
        let arguments = match self {
            Call::Launch(launch) => launch.arguments.as_mut_slice(),
            Call::Host(_) => &mut [],
        };
        arguments.iter_mut().filter_map(|argument| match argument {
            Argument::Write(range) if range.buffer == COUNTERS => Some(range),
            _ => None,
        })
    }

    /// The launch of a kernel, if it is one.
    pub fn as_launch(&self) -> Option<&Launch> {
        match self {
            Call::Launch(launch) => Some(launch),
            Call::Host(_) => None,
        }
    }

    /// Of its kernel or its function.
    pub fn name(&self) -> &str {
        match self {
            Call::Launch(launch) => &launch.kernel.name,
            Call::Host(call) => call.name,
        }
    }
}

/// Calls, one after the other, for one kind of machine.
pub struct Program {
    target: Target,
    /// Where the arena that slots lie in begins in the first buffer, in floats.
    base: usize,
    calls: Vec<Call>,
    /// How many counters its launches have.
    counters: usize,
    gather: Open<GatherBytes>,
    layers: Open<(Grid, Layers)>,
}

/// The arguments of the last of so many calls, a launch that the next one may take over.
type Open<T> = Option<(usize, T)>;

impl Program {
    pub fn new(target: Target) -> Program {
        Program {
            target,
            base: 0,
            calls: Vec::new(),
            counters: 0,
            gather: None,
            layers: None,
        }
    }

    /// For an arena that begins this many floats behind the start of the machine's first buffer: several runs can share it.
    ///
    /// # Panics
    /// If slots would not begin at cache lines any more.
    pub fn based(self, base: usize) -> Program {
        assert!(base.is_multiple_of(ALIGN), "a base of {base} floats");
        Program { base, ..self }
    }

    /// A range as it was named, in the arena of this program.
    fn in_arena(&self, range: ByteRange) -> ByteRange {
        let base = match range.buffer {
            ARENA => self.base * size_of::<f32>(),
            _ => 0,
        };
        ByteRange {
            start: range.start + base,
            ..range
        }
    }

    /// Is it for the CPU, whose calls are functions, and not for kernels?
    pub fn on_host(&self) -> bool {
        self.target.device == Device::Cpu
    }

    /// The precision of convolutions. Like PyTorch's, they are on tensor cores by default.
    pub fn conv_precision(&self) -> Precision {
        self.target.precision.unwrap_or(Precision::Tf32)
    }

    /// The precision of linear layers and of attention. Like PyTorch's, they are exact by default.
    pub fn linear_precision(&self) -> Precision {
        self.target.precision.unwrap_or(Precision::Fp32)
    }

    pub fn calls(&self) -> &[Call] {
        &self.calls
    }

    /// Counters that are 0 whenever a launch of theirs begins: the kernel leaves them so (`kernels/common.cuh`). Every
    /// launch has its own.
    pub fn counters(&mut self, len: usize) -> View<u32> {
        if len == 0 {
            return View::default();
        }
        let start = self.counters;
        self.counters += len;
        View {
            buffer: COUNTERS,
            start,
            len,
            of: PhantomData,
        }
    }

    /// The calls, whose counters lie in the buffer that is made for this many.
    pub(super) fn into_calls(
        mut self,
        make: impl FnOnce(usize) -> Result<Buffer>,
    ) -> Result<Vec<Call>> {
        if self.counters > 0 {
            let buffer = make(self.counters)?;
            self.calls
                .iter_mut()
                .flat_map(Call::counters_mut)
                .for_each(|range| range.buffer = buffer);
        }
        Ok(self.calls)
    }

    /// Adds the calls of another program for the same machine.
    pub fn append(&mut self, mut other: Program) {
        let before = self.counters(other.counters).bytes().start;
        let ranges = other.calls.iter_mut().flat_map(Call::counters_mut);
        ranges.for_each(|range| range.start += before);
        self.calls.extend(other.calls);
    }

    /// Adds a function on the host's memory. It gets the bytes of the ranges that it names, of those to be written
    /// whatever they hold.
    ///
    /// # Panics
    /// If the program is not for the host, or a range to be written overlaps another one.
    pub fn host<const R: usize, const W: usize>(
        &mut self,
        name: &'static str,
        reads: [ByteRange; R],
        writes: [ByteRange; W],
        body: impl Fn([&[u8]; R], [&mut [u8]; W]) + Send + 'static,
    ) {
        assert!(self.on_host(), "{name}: a function in a program of kernels");
        self.by_host(name, reads, writes, body);
    }

    /// The same in a program of any machine: one that has a memory of its own waits for the calls before, and takes the ranges
    /// to the host and those to be written back. For what is done seldom.
    ///
    /// # Panics
    /// If a range to be written overlaps another one.
    pub fn by_host<const R: usize, const W: usize>(
        &mut self,
        name: &'static str,
        reads: [ByteRange; R],
        writes: [ByteRange; W],
        body: impl Fn([&[u8]; R], [&mut [u8]; W]) + Send + 'static,
    ) {
        let reads = reads.map(|range| self.in_arena(range));
        let writes = writes.map(|range| self.in_arena(range));
        for (i, w) in writes.iter().enumerate() {
            let clash = reads.iter().chain(&writes[i + 1..]).any(|o| w.overlaps(*o));
            assert!(
                !clash,
                "{name}: ranges overlap: {w:?} in {reads:?} {writes:?}"
            );
        }
        let call = move |starts: &[u64]| {
            assert_eq!(starts.len(), R + W);
            // An empty range has no place.
            let start = |i: usize, range: ByteRange| match range.len {
                0 => std::ptr::NonNull::<u128>::dangling().as_ptr().cast::<u8>(),
                _ => starts[i] as *mut u8,
            };
            // SAFETY: the machine has checked that this many bytes are there, which it lends to this call alone; no range to
            // be written overlaps any other, so no two slices alias mutably.
            unsafe {
                let read = |i: usize| std::slice::from_raw_parts(start(i, reads[i]), reads[i].len);
                let written = |i: usize| {
                    std::slice::from_raw_parts_mut(start(R + i, writes[i]), writes[i].len)
                };
                body(std::array::from_fn(read), std::array::from_fn(written));
            }
        };
        self.calls.push(Call::Host(HostCall {
            name,
            reads: reads.to_vec(),
            writes: writes.to_vec(),
            body: Box::new(call),
        }));
    }

    /// Adds the launch that gathers a batch from bytes. The one behind it may take it back ([`Program::take_gather`]).
    pub fn gather(&mut self, grid: impl Into<Grid>, arguments: GatherBytes) {
        kernels::gather_bytes(self, grid, arguments);
        self.gather = Some((self.calls.len(), arguments));
    }

    /// Takes the last call out if it gathers a batch from bytes that is fit for the launch to come, which then does so as it reads
    /// the batch.
    pub fn take_gather(&mut self, fits: impl FnOnce(&GatherBytes) -> bool) -> Option<GatherBytes> {
        take(&mut self.gather, &mut self.calls, fits)
    }

    /// Adds the launch of a network of linear layers. The one behind it may take it back ([`Program::take_layers`]).
    pub fn layers(&mut self, grid: Grid, arguments: Layers) {
        kernels::layers(self, grid, arguments);
        self.layers = Some((self.calls.len(), (grid, arguments)));
    }

    /// Takes the last call out if it is the launch of layers that are fit for the update to come, which is then made there.
    pub fn take_layers(&mut self, fits: impl FnOnce(&Layers) -> bool) -> Option<(Grid, Layers)> {
        take(&mut self.layers, &mut self.calls, |(_, layers)| {
            fits(layers)
        })
    }

    /// Adds the launch of a kernel; the functions in [`gpu::kernels`](super::gpu::kernels) and
    /// [`gpu::launch`](super::gpu::launch) call it.
    pub(super) fn launch(&mut self, kernel: Callee, grid: Grid, arguments: Vec<Argument>) {
        let empty = grid.blocks.contains(&0);
        assert!(!empty, "{}: a grid without blocks", kernel.name);
        assert!(
            !self.on_host(),
            "{}: a kernel in a program of the host",
            kernel.name
        );
        let based = |argument| match argument {
            Argument::Read(range) => Argument::Read(self.in_arena(range)),
            Argument::Write(range) => Argument::Write(self.in_arena(range)),
            Argument::Value(words) => Argument::Value(words),
        };
        let arguments = arguments.into_iter().map(based).collect();
        self.calls.push(Call::Launch(Launch {
            kernel,
            grid,
            arguments,
        }));
    }
}

fn take<T>(open: &mut Open<T>, calls: &mut Vec<Call>, fits: impl FnOnce(&T) -> bool) -> Option<T> {
    let (last, arguments) = open.take()?;
    let taken = last == calls.len() && fits(&arguments);
    taken.then(|| {
        calls.pop();
        arguments
    })
}

/// Floats in the bytes that a function on the host gets.
pub fn floats(bytes: &[u8]) -> &[f32] {
    bytemuck::cast_slice(bytes)
}

/// The same, to be written.
pub fn floats_mut(bytes: &mut [u8]) -> &mut [f32] {
    bytemuck::cast_slice_mut(bytes)
}

/// The one value that a range holds.
pub fn one<T: Pod>(bytes: &[u8]) -> &T {
    bytemuck::from_bytes(bytes)
}

/// The same, to be written.
pub fn one_mut<T: Pod>(bytes: &mut [u8]) -> &mut T {
    bytemuck::from_bytes_mut(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Machine;
    use crate::device::gpu::kernels;

    /// A program that writes x[0] + y[0] and 7 to `to`, on an arena of 40 floats.
    fn run(x: Slot, y: Slot, to: Slot) -> Vec<f32> {
        let mut cpu = Machine::open(Device::Cpu).unwrap();
        let arena = cpu.alloc::<f32>("arena", 40).unwrap();
        cpu.upload(arena.part(0, 2), &[1.0, 2.0]).unwrap();
        let mut program = Program::new(Target::CPU);
        program.host("sum", [x.into(), y.into()], [to.into()], |[x, y], [to]| {
            assert_eq!(x.as_ptr() as usize % 64, 0);
            floats_mut(to).copy_from_slice(&[floats(x)[0] + floats(y)[0], 7.0]);
        });
        let program = cpu.prepare(program).unwrap();
        cpu.run(program).unwrap();
        cpu.download(arena.part(0, 4)).unwrap()
    }

    fn slot(start: usize, len: usize) -> Slot {
        Slot { start, len }
    }

    #[test]
    fn functions_get_the_ranges_that_they_name() {
        let ours = run(slot(0, 2), slot(1, 1), slot(2, 2));
        assert_eq!(ours, [1.0, 2.0, 3.0, 7.0]);
    }

    /// Between two kernels: y = relu(x), z = relu(what the host made of y).
    #[test]
    fn the_host_works_between_kernels() {
        if crate::device::emulator_usable().is_err() {
            return;
        }
        let mut machine = Machine::open(Device::Emulator).unwrap();
        let values: Vec<f32> = (0..48).map(|i| i as f32 - 2.0).collect();
        let arena = machine.alloc_with("arena", &values).unwrap();
        let mut program = Program::new(Target {
            device: Device::Emulator,
            precision: None,
        });
        let [x, y, z] = [0, 16, 32].map(|start| slot(start, 4));
        kernels::relu_fwd(&mut program, 1, x, y, 4);
        program.by_host("change", [x.into()], [y.into()], |[x], [y]| {
            let (x, y) = (floats(x), floats_mut(y));
            y.iter_mut().zip(x).for_each(|(y, x)| *y += 10.0 * x);
        });
        kernels::relu_fwd(&mut program, 1, y, z, 4);
        let program = machine.prepare(program).unwrap();
        assert_eq!(machine.calls(program), 3);
        machine.run(program).unwrap();
        let mut expected = values;
        expected[16..20].copy_from_slice(&[-20.0, -10.0, 0.0, 11.0]);
        expected[32..36].copy_from_slice(&[0.0, 0.0, 0.0, 11.0]);
        assert_eq!(machine.download(arena).unwrap(), expected);
    }

    #[test]
    #[should_panic(expected = "ranges overlap")]
    fn a_written_range_is_alone() {
        run(slot(0, 8), slot(1, 1), slot(7, 2));
    }

    #[test]
    fn arenas_share_a_buffer() {
        let mut devices = vec![Device::Cpu];
        devices.extend(crate::device::emulator_usable().map(|()| Device::Emulator));
        for device in devices {
            let mut machine = Machine::open(device).unwrap();
            let arena = machine.alloc::<f32>("arenas", 64).unwrap();
            let values: Vec<f32> = (0..64).map(|i| 40.0 - i as f32).collect();
            machine.upload(arena, &values).unwrap();
            let target = Target {
                device,
                precision: None,
            };
            let (x, y) = (slot(6, 4), slot(16, 4));
            for base in [0, 32] {
                let mut program = Program::new(target).based(base);
                if program.on_host() {
                    program.host("relu", [x.into()], [y.into()], |[x], [y]| {
                        let (x, y) = (floats(x), floats_mut(y));
                        x.iter().zip(y).for_each(|(x, y)| *y = x.max(0.0));
                    });
                } else {
                    kernels::relu_fwd(&mut program, 1, x, y, 4);
                }
                let program = machine.prepare(program).unwrap();
                machine.run(program).unwrap();
            }
            let mut expected = values;
            expected.copy_within(6..10, 16);
            expected[48..52].copy_from_slice(&[2.0, 1.0, 0.0, 0.0]);
            assert_eq!(machine.download(arena).unwrap(), expected);
        }
    }

    #[test]
    #[should_panic]
    fn a_range_outside_is_refused() {
        run(slot(0, 2), slot(30, 11), slot(2, 2));
    }
}
