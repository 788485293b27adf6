//! Kernels and the machines that run them: a GPU, or its emulation on the CPU.
//!
//! Ops and optimizers put [`Launch`]es into a [`Queue`]; what they name are places in buffers, not addresses, so
//! that a queue can be written and looked at without a machine. [`Gpu::prepare`] makes a program of it,
//! with addresses and, on a GPU, as one graph; running the program is then all that a step does.

use std::marker::PhantomData;

use bytemuck::{Pod, Zeroable};

use super::{Device, Slot, cuda, emulator};
use crate::error::{Error, Kind, Result};

/// The kernels of `kernels/*.cu` as functions that queue them, written by `build/kernels.rs`.
pub mod kernels {
    include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
}

/// Multiprocessors of an H100: kernels are chosen such that all have something to do.
pub const PROCESSORS: usize = 132;

/// Dynamic shared memory that a block may have there, in bytes.
pub const MOST_SHARED: usize = 227 << 10;

/// What changes from step to step, written on the host once per epoch, one per step. Must equal
/// `Step` in `kernels/common.cuh`.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Step {
    /// Of the run.
    pub seed: u64,
    /// Training steps done before this one.
    pub clock: u64,
    /// Place of this batch's first sample in the table of indices.
    pub first: i64,
    /// Place of this step in the table of step sizes.
    pub slot: i64,
    /// The optimizer's coefficients.
    pub c: [f64; 8],
}

/// An adaptive optimizer's scalars. Must equal `Scalars` in `kernels/optim.cuh`.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct DeviceScalars {
    pub loss_average: f32,
    pub inner_average: f32,
    pub lower_bound: f64,
    pub h: f64,
    pub step_size: f64,
    pub tau: f64,
}

/// A convolution as its kernels see it. Must equal `Conv` in `kernels/conv2d.cu`, which says what it means.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Conv {
    pub images: i32,
    pub in_h: i32,
    pub in_w: i32,
    pub in_c: i32,
    pub out_h: i32,
    pub out_w: i32,
    pub out_c: i32,
    pub kernel: i32,
    pub stride: i32,
    pub pad: i32,
    pub grid_h: i32,
    pub grid_w: i32,
    pub log_tile_h: i32,
    pub log_tile_w: i32,
    pub log_images: i32,
    pub patch_h: i32,
    pub patch_w: i32,
    pub stages: i32,
    /// 1 or 0 each.
    pub aligned_in: i32,
    pub aligned_w: i32,
    pub biased: i32,
    pub normed: i32,
    pub residual: i32,
    pub relu: i32,
    pub counted: i32,
    pub adds: i32,
}

/// A kernel, as declared in its file.
pub struct Kernel {
    pub name: &'static str,
    /// Its file in `kernels`, without `.cu`.
    pub file: &'static str,
    /// Threads of a block.
    pub threads: u32,
    pub parameters: &'static [Parameter],
    pub(super) record: Option<&'static Record>,
}

/// A kernel's parameter as the build read it.
pub struct Parameter {
    pub name: &'static str,
    /// `r` and `w`: a pointer to read, to write; `i`, `u`, `f`: a number; `s`: a structure.
    pub code: char,
    /// Bytes of the value, or of what the pointer points to.
    pub size: u32,
}

pub(super) use emulator::Record;

/// A buffer of a [`Gpu`], in the order of allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer(usize);

/// The first buffer: the arena that slots lie in.
pub const ARENA: Buffer = Buffer(0);

/// A range of a buffer of `T`s.
pub struct View<T> {
    pub buffer: Buffer,
    pub start: usize,
    pub len: usize,
    of: PhantomData<T>,
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

    pub(super) fn bytes(self) -> Place {
        let size = size_of::<T>();
        Place {
            buffer: self.buffer,
            start: self.start * size,
            len: self.len * size,
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
pub(super) struct Place {
    pub buffer: Buffer,
    pub start: usize,
    pub len: usize,
}

impl Place {
    /// Where it is, given where the buffers are.
    pub fn address(self, addresses: &[u64]) -> u64 {
        addresses[self.buffer.0] + self.start as u64
    }
}

/// Blocks of a launch, and the dynamic shared memory of each in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    pub blocks: [u32; 3],
    pub shared: u32,
}

impl From<usize> for Grid {
    fn from(blocks: usize) -> Grid {
        (blocks, 1).into()
    }
}

impl From<(usize, usize)> for Grid {
    fn from((x, y): (usize, usize)) -> Grid {
        let count = |n: usize| u32::try_from(n).expect("a grid of fewer than 2^32 blocks");
        Grid {
            blocks: [count(x), count(y), 1],
            shared: 0,
        }
    }
}

/// Blocks of 256 threads that treat `n` elements, several each where there are many.
pub fn elementwise(n: usize) -> Grid {
    const MOST: usize = 1024;
    n.div_ceil(256).clamp(1, MOST).into()
}

/// Can all of them be read and written as vectors of four floats? Parameters lie one behind the other, anywhere.
pub fn aligned(slots: &[Slot]) -> bool {
    slots.iter().all(|slot| slot.start.is_multiple_of(4))
}

/// May kernels take four channels at once (see `kernels/channels.cuh`), 1 or 0, and `len` numbers in such packs.
pub fn packs(channels: usize, len: usize, activations: &[Slot]) -> (i32, usize) {
    match channels.is_multiple_of(4) && aligned(activations) {
        true => (1, len / 4),
        false => (0, len),
    }
}

pub(super) enum Argument {
    Read(Place),
    Write(Place),
    /// A number or a structure: its bytes from the first one, in whole words.
    Value(Box<[u64]>),
}

impl Argument {
    pub(super) fn value<T: Pod>(value: T) -> Argument {
        let mut words = vec![0u64; size_of::<T>().div_ceil(8)];
        bytemuck::cast_slice_mut(&mut words)[..size_of::<T>()]
            .copy_from_slice(bytemuck::bytes_of(&value));
        Argument::Value(words.into())
    }
}

/// One launch of a kernel.
pub struct Launch {
    pub kernel: &'static Kernel,
    pub grid: Grid,
    pub(super) arguments: Vec<Argument>,
}

impl Launch {
    /// Bytes of the ranges that it names, each once.
    pub fn bytes(&self) -> usize {
        let mut places: Vec<Place> = Vec::new();
        for argument in &self.arguments {
            if let Argument::Read(place) | Argument::Write(place) = argument
                && !places.contains(place)
            {
                places.push(*place);
            }
        }
        places.iter().map(|place| place.len).sum()
    }
}

/// How matrix products are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// To single precision.
    Fp32,
    /// On tensor cores: operands rounded to TF32, sums in single precision.
    Tf32,
}

impl Precision {
    /// As options and reports spell it.
    pub fn name(self) -> &'static str {
        match self {
            Precision::Fp32 => "fp32",
            Precision::Tf32 => "tf32",
        }
    }
}

/// Launches, one after the other.
#[derive(Default)]
pub struct Queue {
    launches: Vec<Launch>,
    precision: Option<Precision>,
}

impl Queue {
    /// Of convolutions and matrix products, where the user has chosen one.
    pub fn new(precision: Option<Precision>) -> Queue {
        Queue {
            launches: Vec::new(),
            precision,
        }
    }

    /// The precision of convolutions. Like PyTorch's, they are on tensor cores unless told otherwise.
    pub fn conv_precision(&self) -> Precision {
        self.precision.unwrap_or(Precision::Tf32)
    }

    /// The precision of linear layers and of attention. Like PyTorch's, they are exact unless told otherwise.
    pub fn linear_precision(&self) -> Precision {
        self.precision.unwrap_or(Precision::Fp32)
    }

    pub(super) fn push(&mut self, kernel: &'static Kernel, grid: Grid, arguments: Vec<Argument>) {
        let empty = grid.blocks.contains(&0);
        assert!(!empty, "{}: a grid without blocks", kernel.name);
        self.launches.push(Launch {
            kernel,
            grid,
            arguments,
        });
    }

    pub fn launches(&self) -> &[Launch] {
        &self.launches
    }
}

/// What a machine must be able to do. Addresses are its own.
pub(super) trait Machine: Send {
    /// How errors call it.
    fn name(&self) -> String;
    /// Memory that holds anything, `None` if there is none left. `name` is for reports.
    fn alloc(&mut self, name: &str, bytes: usize) -> Result<Option<u64>>;
    /// Bytes that are free, and all that it has, where that is known.
    fn memory(&self) -> Option<[usize; 2]>;
    fn upload(&mut self, address: u64, bytes: &[u8]) -> Result<()>;
    /// After everything that was run before.
    fn download(&mut self, address: u64, bytes: &mut [u8]) -> Result<()>;
    /// A program's number. `addresses` are those of the buffers.
    fn prepare(&mut self, launches: Vec<Launch>, addresses: &[u64]) -> Result<usize>;
    fn run(&mut self, program: usize) -> Result<()>;
    /// Runs it and waits: the seconds that it took, by the machine's own clock.
    fn time(&mut self, program: usize) -> Result<f64>;
}

/// A machine and the buffers on it. All of them are gone with it.
pub struct Gpu {
    machine: Box<dyn Machine>,
    addresses: Vec<u64>,
    /// Bytes in all buffers.
    held: usize,
    /// Launches of each program.
    launches: Vec<usize>,
    traffic: Traffic,
}

/// What a [`Gpu`] has been asked for so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub allocations: usize,
    pub uploads: usize,
    pub downloads: usize,
    pub programs: usize,
}

/// A queue made ready on a machine.
#[derive(Clone, Copy, Debug)]
pub struct Program(usize);

impl Gpu {
    /// Opens a device that runs kernels.
    pub fn open(device: Device) -> Result<Gpu> {
        let machine: Box<dyn Machine> = match device {
            Device::Cpu => return Err(Error::usage("the CPU runs no kernels")),
            Device::Emulator => Box::new(emulator::Emulator::open(emulator::Schedule::default())?),
            Device::Cuda(index) => Box::new(cuda::Cuda::open(index)?),
        };
        Ok(Gpu::on(machine))
    }

    /// The emulator with a schedule of its threads, for tests.
    pub fn emulator(schedule: emulator::Schedule) -> Result<Gpu> {
        Ok(Gpu::on(Box::new(emulator::Emulator::open(schedule)?)))
    }

    fn on(machine: Box<dyn Machine>) -> Gpu {
        #[cfg(test)]
        let machine = failing::wrap(machine);
        Gpu {
            machine,
            addresses: Vec::new(),
            held: 0,
            launches: Vec::new(),
            traffic: Traffic::default(),
        }
    }

    /// A new buffer of `len` elements. The first one is the arena.
    ///
    /// # Errors
    /// If the device has no memory for it.
    pub fn alloc<T: Pod>(&mut self, name: &str, len: usize) -> Result<View<T>> {
        let bytes = len * size_of::<T>();
        let Some(address) = self.machine.alloc(name, bytes)? else {
            return Err(self.out_of_memory(name, bytes));
        };
        self.addresses.push(address);
        self.held += bytes;
        self.traffic.allocations += 1;
        Ok(View {
            buffer: Buffer(self.addresses.len() - 1),
            start: 0,
            len,
            of: PhantomData,
        })
    }

    fn out_of_memory(&self, name: &str, bytes: usize) -> Error {
        let mib = |bytes: usize| bytes.div_ceil(1 << 20);
        let free = match self.machine.memory() {
            Some([free, all]) => format!(", {} MiB of {} are free", free >> 20, all >> 20),
            None => String::new(),
        };
        Error::new(
            Kind::Device,
            format!(
                "{}: no memory for {name}: {} MiB are needed beside the {} MiB that this run has already{free}; a smaller batch_size needs less",
                self.machine.name(),
                mib(bytes),
                mib(self.held),
            ),
        )
    }

    /// A new buffer that holds `data`.
    pub fn alloc_with<T: Pod>(&mut self, name: &str, data: &[T]) -> Result<View<T>> {
        let view = self.alloc(name, data.len())?;
        self.upload(view, data)?;
        Ok(view)
    }

    /// # Panics
    /// If view and data differ in length.
    pub fn upload<T: Pod>(&mut self, to: impl Into<View<T>>, data: &[T]) -> Result<()> {
        let to = to.into();
        assert_eq!(to.len, data.len(), "an upload of another length");
        self.traffic.uploads += 1;
        let address = self.address(to);
        self.machine.upload(address, bytemuck::cast_slice(data))
    }

    /// The numbers in a view, after everything that was started before.
    pub fn download<T: Pod>(&mut self, from: impl Into<View<T>>) -> Result<Vec<T>> {
        let from = from.into();
        let mut data = vec![T::zeroed(); from.len];
        self.traffic.downloads += 1;
        let address = self.address(from);
        self.machine
            .download(address, bytemuck::cast_slice_mut(&mut data))?;
        Ok(data)
    }

    fn address<T>(&self, view: View<T>) -> u64 {
        self.addresses[view.buffer.0] + view.bytes().start as u64
    }

    /// Makes a program of a queue: a graph on a GPU, a list on the emulator.
    pub fn prepare(&mut self, queue: Queue) -> Result<Program> {
        self.traffic.programs += 1;
        let launches = queue.launches.len();
        let program = self.machine.prepare(queue.launches, &self.addresses)?;
        self.launches.resize(program + 1, 0);
        self.launches[program] = launches;
        Ok(Program(program))
    }

    /// How many launches a program has.
    pub fn launches(&self, program: Program) -> usize {
        self.launches[program.0]
    }

    /// Starts a program, after everything that was started before. A fault may be reported by a later call.
    pub fn run(&mut self, program: Program) -> Result<()> {
        self.machine.run(program.0)
    }

    /// Runs a program and gives the seconds that it took.
    pub fn time(&mut self, program: Program) -> Result<f64> {
        self.machine.time(program.0)
    }

    /// Counts so far, for tests.
    pub fn traffic(&self) -> Traffic {
        self.traffic
    }
}

/// Faults made to order: the machines that a thread opens fail at the call that it asked for.
#[cfg(test)]
pub(crate) mod failing {
    use std::cell::Cell;

    use super::{Error, Kind, Launch, Machine, Result};

    thread_local! {
        static RUNS_LEFT: Cell<Option<usize>> = const { Cell::new(None) };
        static BYTES_LEFT: Cell<Option<usize>> = const { Cell::new(None) };
    }

    /// The run of a program after `runs` more of them fails, and so does all that follows on this thread.
    pub(crate) fn fail_after(runs: usize) {
        RUNS_LEFT.set(Some(runs));
    }

    /// A machine has so much memory.
    pub(crate) fn limit_memory(bytes: usize) {
        BYTES_LEFT.set(Some(bytes));
    }

    struct Failing {
        machine: Box<dyn Machine>,
        all: usize,
        left: usize,
    }

    pub(super) fn wrap(machine: Box<dyn Machine>) -> Box<dyn Machine> {
        let all = BYTES_LEFT.get().unwrap_or(usize::MAX);
        Box::new(Failing {
            machine,
            all,
            left: all,
        })
    }

    impl Machine for Failing {
        fn name(&self) -> String {
            self.machine.name()
        }

        fn alloc(&mut self, name: &str, bytes: usize) -> Result<Option<u64>> {
            let Some(left) = self.left.checked_sub(bytes) else {
                return Ok(None);
            };
            self.left = left;
            self.machine.alloc(name, bytes)
        }

        fn memory(&self) -> Option<[usize; 2]> {
            BYTES_LEFT.get().map(|_| [self.left, self.all])
        }

        fn upload(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
            self.machine.upload(address, bytes)
        }

        fn download(&mut self, address: u64, bytes: &mut [u8]) -> Result<()> {
            self.machine.download(address, bytes)
        }

        fn prepare(&mut self, launches: Vec<Launch>, addresses: &[u64]) -> Result<usize> {
            self.machine.prepare(launches, addresses)
        }

        fn run(&mut self, program: usize) -> Result<()> {
            match RUNS_LEFT.get() {
                Some(0) => return Err(Error::new(Kind::Device, "a fault made to order")),
                Some(left) => RUNS_LEFT.set(Some(left - 1)),
                None => {}
            }
            self.machine.run(program)
        }

        fn time(&mut self, program: usize) -> Result<f64> {
            self.machine.time(program)
        }
    }
}
