//! Machines: what holds buffers and runs programs. A GPU, its emulation, or the CPU.

use std::marker::PhantomData;
use std::time::Instant;

use bytemuck::Pod;

use super::gpu::Precision;
use super::planner::PlannedLaunches;
use super::program::{Buffer, ByteRange, Call, HostCall, Program, View};
use super::{Device, Target, cuda, emulator, host, planner};
use crate::error::{Error, Kind, Result};

/// What a machine must be able to do. Addresses are its own, and what is read or written there is inside of a buffer.
pub(super) trait Backend: Send {
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
    fn prepare(&mut self, calls: Vec<Call>, addresses: &[u64]) -> Result<usize>;
    fn run(&mut self, program: usize) -> Result<()>;
    /// Runs programs that share no memory, side by side where that is possible.
    fn run_together(&mut self, programs: &[usize]) -> Result<()> {
        programs.iter().try_for_each(|program| self.run(*program))
    }
    /// Gives memory and programs back, after everything that was run before. Whoever does not, does when it is dropped.
    fn release(&mut self, _memory: &[u64], _programs: &[usize]) {}
    /// Runs programs one after the other, all of them this many times, and waits: the seconds that it took, by the machine's
    /// own clock.
    fn time(&mut self, programs: &[usize], times: usize) -> Result<f64> {
        let start = Instant::now();
        for _ in 0..times {
            programs.iter().try_for_each(|program| self.run(*program))?;
        }
        Ok(start.elapsed().as_secs_f64())
    }
    /// The calls of a program, where they are kept.
    fn planned(&self, _program: usize) -> Option<PlannedLaunches> {
        None
    }
}

/// A machine and the buffers on it. All of them are gone with it.
pub struct Machine {
    backend: Box<dyn Backend>,
    target: Target,
    addresses: Vec<u64>,
    /// Bytes of each buffer.
    sizes: Vec<usize>,
    /// Bytes in all buffers.
    held: usize,
    programs: Vec<Parts>,
    traffic: Traffic,
}

/// A program, cut where a machine with a memory of its own must wait for the host.
struct Parts {
    /// How many calls it has.
    calls: usize,
    parts: Vec<Part>,
}

enum Part {
    /// The backend's number of what it runs.
    Own(usize),
    /// See [`Program::by_host`].
    ByHost(HostCall),
}

/// What a [`Machine`] has been asked for so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub allocations: usize,
    pub uploads: usize,
    pub downloads: usize,
    pub programs: usize,
}

/// A program made ready on a machine.
#[derive(Clone, Copy, Debug)]
pub struct Prepared(usize);

impl Machine {
    /// Opens a device.
    pub fn open(target: impl Into<Target>) -> Result<Machine> {
        let target = target.into();
        let backend: Box<dyn Backend> = match target.device {
            Device::Cpu => Box::new(host::Host::default()),
            Device::Emulator => Box::new(emulator::Emulator::open(emulator::Schedule::default())?),
            Device::Cuda(index) => Box::new(cuda::Cuda::open(index)?),
            Device::Plan => Box::new(planner::Planner::new()),
        };
        Ok(Machine::on(backend, target))
    }

    /// The emulator with a schedule of its own, for tests.
    pub fn emulator(schedule: emulator::Schedule, precision: Option<Precision>) -> Result<Machine> {
        let target = Target {
            device: Device::Emulator,
            precision,
        };
        let backend = Box::new(emulator::Emulator::open(schedule)?);
        Ok(Machine::on(backend, target))
    }

    pub(super) fn on(backend: Box<dyn Backend>, target: Target) -> Machine {
        #[cfg(test)]
        let backend = failing::wrap(backend);
        Machine {
            backend,
            target,
            addresses: Vec::new(),
            sizes: Vec::new(),
            held: 0,
            programs: Vec::new(),
            traffic: Traffic::default(),
        }
    }

    /// What is behind a machine that holds nothing.
    pub(super) fn into_backend(self) -> (Box<dyn Backend>, Target) {
        assert!(self.sizes.is_empty(), "a machine that is in use");
        (self.backend, self.target)
    }

    /// A new buffer of `len` elements. The first one is the arena.
    ///
    /// # Errors
    /// If the device has no memory for it.
    pub fn alloc<T: Pod>(&mut self, name: &str, len: usize) -> Result<View<T>> {
        let bytes = len * size_of::<T>();
        let Some(address) = self.backend.alloc(name, bytes)? else {
            return Err(self.out_of_memory(name, bytes));
        };
        self.addresses.push(address);
        self.sizes.push(bytes);
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
        let free = match self.backend.memory() {
            Some([free, all]) => format!(", {} MiB of {} are free", free >> 20, all >> 20),
            None => String::new(),
        };
        Error::new(
            Kind::Device,
            format!(
                "{}: no memory for {name}: {} MiB are needed beside the {} MiB that this run has already{free}; a smaller batch_size and fewer --jobs need less",
                self.backend.name(),
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
        self.backend.upload(address, bytemuck::cast_slice(data))
    }

    /// The numbers in a view, after everything that was started before.
    pub fn download<T: Pod>(&mut self, from: impl Into<View<T>>) -> Result<Vec<T>> {
        let from = from.into();
        let mut data = vec![T::zeroed(); from.len];
        self.download_into(from, &mut data)?;
        Ok(data)
    }

    /// The same, into `to`.
    ///
    /// # Panics
    /// If view and data differ in length.
    pub fn download_into<T: Pod>(&mut self, from: impl Into<View<T>>, to: &mut [T]) -> Result<()> {
        let from = from.into();
        assert_eq!(from.len, to.len(), "a download of another length");
        self.traffic.downloads += 1;
        let address = self.address(from);
        self.backend.download(address, bytemuck::cast_slice_mut(to))
    }

    fn address(&self, range: impl Into<ByteRange>) -> u64 {
        let range = range.into();
        let end = range.start + range.len;
        assert!(
            end <= self.sizes[range.buffer.0],
            "a view outside of its buffer"
        );
        range.address(&self.addresses)
    }

    /// Makes a program ready: a graph on a GPU, a list elsewhere.
    pub fn prepare(&mut self, program: Program) -> Result<Prepared> {
        self.traffic.programs += 1;
        let calls = program.into_calls(|counters| {
            let zeros = vec![0u32; counters];
            Ok(self.alloc_with("counters", &zeros)?.buffer)
        })?;
        let (all, mut parts, mut own) = (calls.len(), Vec::new(), Vec::new());
        for call in calls {
            match call {
                Call::Host(call) if !self.is_host() => {
                    if !own.is_empty() {
                        let own = std::mem::take(&mut own);
                        parts.push(Part::Own(self.backend.prepare(own, &self.addresses)?));
                    }
                    parts.push(Part::ByHost(call));
                }
                call => own.push(call),
            }
        }
        if !own.is_empty() || parts.is_empty() {
            parts.push(Part::Own(self.backend.prepare(own, &self.addresses)?));
        }
        self.programs.push(Parts { calls: all, parts });
        Ok(Prepared(self.programs.len() - 1))
    }

    /// How many calls a program has.
    pub fn calls(&self, program: Prepared) -> usize {
        self.programs[program.0].calls
    }

    /// The backend's number of a program; none if the host has a part in it.
    fn whole(&self, program: Prepared) -> Option<usize> {
        match self.programs[program.0].parts[..] {
            [Part::Own(program)] => Some(program),
            _ => None,
        }
    }

    /// The launches of a program on the machine that only plans; `None` on others, or if the host has a part in it.
    pub fn planned(&self, program: Prepared) -> Option<PlannedLaunches> {
        self.backend.planned(self.whole(program)?)
    }

    /// Starts a program, after everything that was started before. A fault may be reported by a later call.
    pub fn run(&mut self, program: Prepared) -> Result<()> {
        for i in 0..self.programs[program.0].parts.len() {
            match &self.programs[program.0].parts[i] {
                Part::Own(program) => self.backend.run(*program)?,
                Part::ByHost(call) => {
                    let starts: Vec<u64> = call.ranges().map(|r| self.address(*r)).collect();
                    run_by_host(call, &starts, self.backend.as_mut())?;
                }
            }
        }
        Ok(())
    }

    /// Runs programs one after the other, all of them this many times, and gives the seconds that it took. On a GPU they are
    /// one graph, which runs once before.
    ///
    /// # Panics
    /// If the host has a part in one.
    pub fn time(&mut self, programs: &[Prepared], times: usize) -> Result<f64> {
        let programs = programs.iter().map(|program| self.whole(*program));
        let programs: Option<Vec<usize>> = programs.collect();
        let programs = programs.expect("programs of the machine alone");
        self.backend.time(&programs, times)
    }

    /// Is it the CPU, which runs functions on memory of this process?
    pub fn is_host(&self) -> bool {
        self.target.device == Device::Cpu
    }

    /// What was opened, and how it computes.
    pub fn target(&self) -> Target {
        self.target
    }

    /// How many of this many training steps, of this many calls each, to put into one program. A GPU must not wait for the
    /// host to start the next one, and programs of very many calls are slow to make; the CPU is asked between steps
    /// whether to go on.
    pub fn steps_at_once(&self, steps: usize, calls: usize) -> usize {
        const STEPS: usize = 40;
        const CALLS: usize = 4096;
        let most = match self.is_host() {
            true => 1,
            false => (CALLS / calls).clamp(1, STEPS).min(steps),
        };
        let starts = |n: &usize| steps / n + steps % n;
        (1..=most).min_by_key(starts).unwrap_or(1)
    }

    /// Bytes in all buffers. There are never fewer: buffers stay as long as the machine does.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Counts so far, for tests.
    pub fn traffic(&self) -> Traffic {
        self.traffic
    }
}

/// Takes what lies at these addresses of a machine's memory to the host, where a function is called, and back.
fn run_by_host(call: &HostCall, there: &[u64], backend: &mut dyn Backend) -> Result<()> {
    let mut here: Vec<Vec<u128>> = Vec::with_capacity(there.len());
    for (range, &address) in call.ranges().zip(there) {
        let mut room = vec![0u128; range.len.div_ceil(size_of::<u128>())];
        let bytes = bytemuck::cast_slice_mut(&mut room);
        backend.download(address, &mut bytes[..range.len])?;
        here.push(room);
    }
    let starts = here.iter_mut().map(|room| room.as_mut_ptr() as u64);
    (call.body)(&starts.collect::<Vec<u64>>());
    let written = call.ranges().zip(there).zip(&here).skip(call.reads.len());
    for ((range, &address), room) in written {
        let bytes = bytemuck::cast_slice(room);
        backend.upload(address, &bytes[..range.len])?;
    }
    Ok(())
}

/// Faults made to order: the machines that a thread opens fail at the call that it asked for.
#[cfg(test)]
pub(crate) mod failing {
    use std::cell::Cell;

    use super::{Backend, Call, Error, Kind, PlannedLaunches, Result};

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
        backend: Box<dyn Backend>,
        all: usize,
        left: usize,
    }

    pub(super) fn wrap(backend: Box<dyn Backend>) -> Box<dyn Backend> {
        let all = BYTES_LEFT.get().unwrap_or(usize::MAX);
        Box::new(Failing {
            backend,
            all,
            left: all,
        })
    }

    impl Backend for Failing {
        fn name(&self) -> String {
            self.backend.name()
        }

        fn alloc(&mut self, name: &str, bytes: usize) -> Result<Option<u64>> {
            let Some(left) = self.left.checked_sub(bytes) else {
                return Ok(None);
            };
            self.left = left;
            self.backend.alloc(name, bytes)
        }

        fn memory(&self) -> Option<[usize; 2]> {
            BYTES_LEFT.get().map(|_| [self.left, self.all])
        }

        fn upload(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
            self.backend.upload(address, bytes)
        }

        fn download(&mut self, address: u64, bytes: &mut [u8]) -> Result<()> {
            self.backend.download(address, bytes)
        }

        fn prepare(&mut self, calls: Vec<Call>, addresses: &[u64]) -> Result<usize> {
            self.backend.prepare(calls, addresses)
        }

        fn run(&mut self, program: usize) -> Result<()> {
            match RUNS_LEFT.get() {
                Some(0) => return Err(Error::new(Kind::Device, "a fault made to order")),
                Some(left) => RUNS_LEFT.set(Some(left - 1)),
                None => {}
            }
            self.backend.run(program)
        }

        fn run_together(&mut self, programs: &[usize]) -> Result<()> {
            self.backend.run_together(programs)
        }

        fn release(&mut self, memory: &[u64], programs: &[usize]) {
            self.backend.release(memory, programs);
        }

        fn time(&mut self, programs: &[usize], times: usize) -> Result<f64> {
            self.backend.time(programs, times)
        }

        fn planned(&self, program: usize) -> Option<PlannedLaunches> {
            self.backend.planned(program)
        }
    }
}
