//! The emulated GPU: kernels compiled for the host, run block by block (`kernels/emulator`), and kernels that are text,
//! interpreted (`ptx.rs`).
//!
//! It checks what a GPU does not: every launch sees copies of the ranges that it was given, which end at pages without
//! access, and nothing else. A write outside of them, a barrier that not all threads reach or a shuffle among lanes
//! that do not agree is an error that names kernel, block and thread.

use std::ffi::{c_char, c_void};

use super::machine::Backend;
use super::program::Call;
use crate::error::{Error, Result};

/// In which order launches, and the threads of a block, run that need not wait for one another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum Order {
    /// Launches as they come in the program.
    #[default]
    Forward = 0,
    /// Blocks too.
    Backward = 1,
    Shuffled = 2,
}

/// What a kernel must not depend on.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Schedule {
    pub order: Order,
    pub seed: u32,
    /// 1: asynchronous copies land at once; 0: when they are waited for.
    pub early_copies: u32,
    /// After this a launch is given up.
    pub timeout_ms: u32,
}

impl Default for Schedule {
    fn default() -> Schedule {
        Schedule {
            order: Order::Forward,
            seed: 0,
            early_copies: 0,
            timeout_ms: 120_000,
        }
    }
}

impl Schedule {
    /// Those under which every kernel is tested: no single one finds every missing barrier.
    pub fn all() -> [Schedule; 3] {
        let one = |order, early_copies| Schedule {
            order,
            early_copies,
            seed: 7,
            ..Schedule::default()
        };
        [
            one(Order::Forward, 0),
            one(Order::Backward, 1),
            one(Order::Shuffled, 0),
        ]
    }
}

/// A kernel as the C++ compiler sees it. Must equal `EmulatedKernel` in `kernels/emulator/cuda.h`.
#[repr(C)]
pub(super) struct Record {
    name: *const c_char,
    call: Option<unsafe extern "C" fn(*mut *mut c_void)>,
    parameters: *const RecordParameter,
    count: u32,
    threads: u32,
}

#[repr(C)]
struct RecordParameter {
    code: u32,
    size: u32,
}

// SAFETY: records are constants of the C++ code.
unsafe impl Sync for Record {}

/// Why there is no emulator here, if so.
pub fn usable() -> Result<()> {
    match cfg!(emulator) {
        true => Ok(()),
        false => Err(Error::usage(
            "--device emulator: this binary was built without the emulator, which needs a C++ compiler on Linux on x86-64 when stepback-native is built",
        )),
    }
}

#[cfg(emulator)]
mod ptx;

#[cfg(emulator)]
pub(super) use machine::Emulator;
#[cfg(not(emulator))]
pub(super) use without::Emulator;

#[cfg(not(emulator))]
mod without {
    use super::{Backend, Call, Error, Result, Schedule, usable};

    /// Cannot be made.
    pub enum Emulator {}

    impl Emulator {
        pub fn open(_: Schedule) -> Result<Emulator> {
            usable().and(Err(Error::usage("no emulator")))
        }
    }

    impl Backend for Emulator {
        fn name(&self) -> String {
            match *self {}
        }
        fn alloc(&mut self, _: &str, _: usize) -> Result<Option<u64>> {
            match *self {}
        }
        fn memory(&self) -> Option<[usize; 2]> {
            match *self {}
        }
        fn upload(&mut self, _: u64, _: &[u8]) -> Result<()> {
            match *self {}
        }
        fn download(&mut self, _: u64, _: &mut [u8]) -> Result<()> {
            match *self {}
        }
        fn prepare(&mut self, _: Vec<Call>, _: &[u64]) -> Result<usize> {
            match *self {}
        }
        fn run(&mut self, _: usize) -> Result<()> {
            match *self {}
        }
    }
}

#[cfg(emulator)]
mod machine {
    use std::collections::HashMap;
    use std::ffi::{CString, c_void};
    use std::sync::atomic::{AtomicU32, AtomicU64};
    use std::sync::{Arc, Mutex};

    use super::super::edges::{self, Touched};
    use super::super::gpu::{Argument, Body, Kernel, Launch};
    use super::super::program::ByteRange;
    use super::ptx::{self, Module, Named};
    use super::{Backend, Call, Order, Record, Schedule};
    use crate::error::{Error, Kind, Result};
    use crate::random::philox::philox4x32_10;

    #[repr(C)]
    struct Fault {
        kind: i32,
        text: [u8; 1532],
    }

    #[repr(C)]
    struct EmulatedGrid {
        size: [u32; 3],
        dynamic_bytes: u32,
    }

    unsafe extern "C" {
        fn emulated_run(
            kernel: &Record,
            grid: &EmulatedGrid,
            arguments: *const *mut c_void,
            schedule: &Schedule,
            next: &AtomicU64,
            stop: &AtomicU32,
            fault: &mut Fault,
        );
        fn emulated_alloc(bytes: usize, name: *const std::ffi::c_char) -> *mut c_void;
        fn emulated_check(memory: *const c_void) -> i32;
        fn emulated_free(memory: *mut c_void);
    }

    /// Dynamic shared memory that a block may have, as on compute capability 9.0.
    const MOST_SHARED: u32 = 227 << 10;

    /// Ranges above this are handed to kernels as they are: copying a data set for every batch would be slow.
    const MOST_COPIED: usize = 1 << 20;

    /// Launches of fewer threads run on the thread that asks for them.
    const PARALLEL: u64 = 1 << 13;

    /// Memory that ends at a page without access.
    struct Guarded {
        memory: *mut c_void,
        bytes: usize,
    }

    // SAFETY: plain memory, which nobody else holds.
    unsafe impl Send for Guarded {}

    impl Guarded {
        /// `None` if there is no memory left.
        fn new(name: &str, bytes: usize) -> Option<Guarded> {
            let name = CString::new(name).expect("a name without zeros");
            // SAFETY: the name outlives the call, which copies it.
            let memory = unsafe { emulated_alloc(bytes, name.as_ptr()) };
            (!memory.is_null()).then_some(Guarded { memory, bytes })
        }

        fn address(&self) -> u64 {
            self.memory as u64
        }
    }

    impl Drop for Guarded {
        fn drop(&mut self) {
            // SAFETY: it came from emulated_alloc and is freed once.
            unsafe { emulated_free(self.memory) }
        }
    }

    /// A launch with addresses in place of buffers.
    struct Ready {
        launch: Launch,
        /// Where the operands are, for arguments that are ranges.
        addresses: Vec<u64>,
        touched: Touched,
        /// What the kernel's text says, if it is text.
        text: Option<Arc<Module>>,
    }

    pub struct Emulator {
        schedule: Schedule,
        buffers: Vec<Guarded>,
        programs: Vec<Vec<Ready>>,
        texts: HashMap<Arc<str>, Arc<Module>>,
        /// How often the order of launches was drawn.
        drawn: u128,
    }

    impl Emulator {
        pub fn open(schedule: Schedule) -> Result<Emulator> {
            Ok(Emulator {
                schedule,
                buffers: Vec::new(),
                programs: Vec::new(),
                texts: HashMap::new(),
                drawn: 0,
            })
        }

        /// The module of a kernel that is text.
        fn text(&mut self, kernel: &Kernel) -> Result<Option<Arc<Module>>> {
            let Body::Text(text) = &kernel.body else {
                return Ok(None);
            };
            let wrong = |what| fault(format!("kernel {}: {what}", kernel.name));
            if !self.texts.contains_key(text) {
                let module = Module::parse(text).map_err(wrong)?;
                self.texts.insert(Arc::clone(text), Arc::new(module));
            }
            let module = &self.texts[text];
            let Some(entry) = module.entries.get(&*kernel.name) else {
                return Err(wrong("no entry of this name".to_owned()));
            };
            let pointers = |code| matches!(code, 'r' | 'w');
            let asked = kernel.parameters.iter().map(|p| {
                let bytes = if pointers(p.code) { 8 } else { p.size };
                (&*p.name, bytes)
            });
            let taken = entry.parameters.iter().map(|(name, size)| (&**name, *size));
            if !taken.eq(asked) || entry.threads != kernel.threads as usize {
                return Err(wrong(
                    "the text declares other parameters or threads".to_owned(),
                ));
            }
            Ok(Some(Arc::clone(module)))
        }

        /// The live bytes at an address.
        fn slice(&mut self, address: u64, len: usize) -> &mut [u8] {
            let inside = |b: &&Guarded| {
                address >= b.address() && address + len as u64 <= b.address() + b.bytes as u64
            };
            assert!(self.buffers.iter().any(|b| inside(&b)), "no such memory");
            // SAFETY: inside one of our buffers, as was just checked; no kernel runs between calls.
            unsafe { std::slice::from_raw_parts_mut(address as *mut u8, len) }
        }
    }

    impl Backend for Emulator {
        fn name(&self) -> String {
            "emulator".to_owned()
        }

        fn alloc(&mut self, name: &str, bytes: usize) -> Result<Option<u64>> {
            let buffer = Guarded::new(name, bytes);
            let address = buffer.as_ref().map(Guarded::address);
            self.buffers.extend(buffer);
            Ok(address)
        }

        fn memory(&self) -> Option<[usize; 2]> {
            None
        }

        fn upload(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
            self.slice(address, bytes.len()).copy_from_slice(bytes);
            Ok(())
        }

        fn download(&mut self, address: u64, bytes: &mut [u8]) -> Result<()> {
            bytes.copy_from_slice(self.slice(address, bytes.len()));
            Ok(())
        }

        fn prepare(&mut self, calls: Vec<Call>, addresses: &[u64]) -> Result<usize> {
            let mut ready = |launch: Launch| {
                Ok(Ready {
                    addresses: launch
                        .arguments
                        .iter()
                        .map(|argument| match argument {
                            Argument::Read(place) | Argument::Write(place) => {
                                place.address(addresses)
                            }
                            Argument::Value(_) => 0,
                        })
                        .collect(),
                    touched: launch.touches(addresses),
                    text: self.text(&launch.kernel)?,
                    launch,
                })
            };
            let launches = calls.into_iter().map(Call::into_launch);
            let program = launches.map(&mut ready).collect::<Result<_>>()?;
            self.programs.push(program);
            Ok(self.programs.len() - 1)
        }

        fn run(&mut self, program: usize) -> Result<()> {
            self.run_together(&[program])
        }

        fn release(&mut self, memory: &[u64], programs: &[usize]) {
            (self.buffers).retain(|buffer| !memory.contains(&buffer.address()));
            programs.iter().for_each(|p| self.programs[*p] = Vec::new());
        }

        fn run_together(&mut self, programs: &[usize]) -> Result<()> {
            let launches = programs.iter().flat_map(|p| &self.programs[*p]);
            let launches: Vec<&Ready> = launches.collect();
            for launch in self.schedule.launches(&launches, &mut self.drawn) {
                let ready = launches[launch];
                match &ready.text {
                    None => isolated(ready, &self.schedule)?,
                    Some(module) => interpreted(ready, module, &self.schedule)?,
                }
            }
            Ok(())
        }
    }

    impl Schedule {
        /// The order of launches: each comes after those that it must wait for.
        fn launches(&self, launches: &[&Ready], drawn: &mut u128) -> Vec<usize> {
            if self.order == Order::Forward {
                return (0..launches.len()).collect();
            }
            let touched = launches.iter().map(|ready| ready.touched.clone());
            edges::order(&edges::edges(touched), |ready| match self.order {
                Order::Shuffled => {
                    *drawn += 1;
                    philox4x32_10(self.seed.into(), *drawn)[0] as usize % ready
                }
                _ => ready - 1,
            })
        }
    }

    /// Runs a launch of a kernel that is text, on the memory itself: every access is checked.
    fn interpreted(ready: &Ready, module: &Module, schedule: &Schedule) -> Result<()> {
        let Launch {
            kernel,
            grid,
            arguments,
        } = &ready.launch;
        let (mut values, mut ranges) = (Vec::new(), Vec::new());
        let given = arguments.iter().zip(&ready.addresses);
        for ((argument, &start), parameter) in given.zip(kernel.parameters.iter()) {
            let (place, written) = match argument {
                Argument::Value(words) => {
                    values.push(words[0]);
                    continue;
                }
                Argument::Read(place) => (place, false),
                Argument::Write(place) => (place, true),
            };
            values.push(start);
            ranges.push(Named {
                name: parameter.name.to_string(),
                start,
                len: place.len,
                written,
            });
        }
        let entry = &module.entries[&*kernel.name];
        assert_eq!(grid.blocks[1..], [1, 1], "{}", kernel.name);
        // SAFETY: ranges of live buffers; no kernel runs beside this one.
        let run = unsafe { ptx::run(entry, grid.blocks[0], &values, &ranges, schedule) };
        run.map_err(|why| fault(format!("kernel {}, {why}", kernel.name)))
    }

    /// A range of device memory and the copy that a kernel works on.
    struct Copied {
        place: ByteRange,
        original: u64,
        written: bool,
        copy: Guarded,
        parameter: String,
    }

    /// Runs a launch on copies of the ranges that it names.
    fn isolated(ready: &Ready, schedule: &Schedule) -> Result<()> {
        let Launch {
            kernel,
            grid,
            arguments,
        } = &ready.launch;
        let mut copies: Vec<Copied> = Vec::new();
        let mut values: Vec<Box<[u64]>> = Vec::with_capacity(arguments.len());
        for ((argument, &original), parameter) in arguments
            .iter()
            .zip(&ready.addresses)
            .zip(kernel.parameters.iter())
        {
            let (place, written) = match argument {
                Argument::Value(words) => {
                    values.push(words.clone());
                    continue;
                }
                Argument::Read(place) => (*place, false),
                Argument::Write(place) => (*place, true),
            };
            if place.len > MOST_COPIED {
                values.push([original].into());
                continue;
            }
            let same = copies.iter_mut().find(|c| c.place == place);
            let copied = match same {
                Some(copied) => copied,
                None => {
                    let name = format!("{} of {}", parameter.name, kernel.name);
                    let copy = Guarded::new(&name, place.len)
                        .ok_or_else(|| fault(format!("no memory for a copy of {name}")))?;
                    // SAFETY: both are `len` bytes long, and one was just made.
                    unsafe {
                        std::ptr::copy_nonoverlapping(
                            original as *const u8,
                            copy.memory.cast::<u8>(),
                            place.len,
                        );
                    }
                    copies.push(Copied {
                        place,
                        original,
                        written: false,
                        copy,
                        parameter: parameter.name.to_string(),
                    });
                    copies.last_mut().expect("just pushed")
                }
            };
            copied.written |= written;
            values.push([copied.copy.address()].into());
        }
        check_overlaps(kernel, &copies);
        execute(kernel, grid.blocks, grid.shared, &values, schedule)?;
        for copied in copies {
            // SAFETY: a live buffer.
            let around = unsafe { emulated_check(copied.copy.memory) };
            if around != 0 {
                let side = if around < 0 { "before" } else { "behind" };
                return Err(fault(format!(
                    "kernel {}: bytes {side} {} were written",
                    kernel.name, copied.parameter
                )));
            }
            if copied.written {
                // SAFETY: as above, the other way round.
                unsafe {
                    std::ptr::copy_nonoverlapping(
                        copied.copy.memory.cast::<u8>(),
                        copied.original as *mut u8,
                        copied.place.len,
                    );
                }
            }
        }
        Ok(())
    }

    /// Two ranges that overlap in part would be two copies.
    fn check_overlaps(kernel: &Kernel, copies: &[Copied]) {
        for (i, a) in copies.iter().enumerate().filter(|(_, c)| c.written) {
            for (_, b) in copies.iter().enumerate().filter(|(j, _)| *j != i) {
                let (a_end, b_end) = (a.place.start + a.place.len, b.place.start + b.place.len);
                let apart = a.place.buffer != b.place.buffer
                    || a_end <= b.place.start
                    || b_end <= a.place.start;
                assert!(
                    apart,
                    "kernel {}: {} and {} overlap",
                    kernel.name, a.parameter, b.parameter
                );
            }
        }
    }

    fn fault(text: impl Into<String>) -> Error {
        Error::new(Kind::Device, format!("emulator: {}", text.into()))
    }

    /// Runs all blocks, on several threads where there are many.
    pub(super) fn execute(
        kernel: &Kernel,
        blocks: [u32; 3],
        shared: u32,
        values: &[Box<[u64]>],
        schedule: &Schedule,
    ) -> Result<()> {
        let record = match kernel.body {
            Body::Built { record, .. } => record.expect("compiled for the host"),
            Body::Text(_) => unreachable!("text is interpreted"),
        };
        assert_eq!(values.len(), kernel.parameters.len(), "{}", kernel.name);
        if shared > MOST_SHARED {
            return Err(fault(format!(
                "kernel {}: {shared} bytes of dynamic shared memory are more than {MOST_SHARED}",
                kernel.name
            )));
        }
        if blocks[1].max(blocks[2]) > 65535 {
            return Err(fault(format!("kernel {}: grid {blocks:?}", kernel.name)));
        }
        let grid = EmulatedGrid {
            size: blocks,
            dynamic_bytes: shared,
        };
        let pointers: Vec<u64> = values.iter().map(|words| words.as_ptr() as u64).collect();
        let (next, stop) = (AtomicU64::new(0), AtomicU32::new(0));
        let first: Mutex<Option<String>> = Mutex::new(None);
        let work = || {
            let mut fault = Fault {
                kind: 0,
                text: [0; 1532],
            };
            // SAFETY: as many arguments as parameters, whose sizes `records_agree` compares with the kernel's; what
            // the kernel reads and writes is the subject of the emulator's own checks.
            unsafe {
                emulated_run(
                    record,
                    &grid,
                    pointers.as_ptr().cast(),
                    schedule,
                    &next,
                    &stop,
                    &mut fault,
                );
            }
            if fault.kind != 0 {
                let end = fault.text.iter().position(|c| *c == 0).unwrap_or(0);
                let text = String::from_utf8_lossy(&fault.text[..end]).into_owned();
                let mut first = first.lock().unwrap_or_else(|e| e.into_inner());
                first.get_or_insert(text);
            }
        };
        let count: u64 = blocks.iter().map(|b| u64::from(*b)).product();
        let helpers = match count * u64::from(kernel.threads) {
            0..PARALLEL => 0,
            _ => (rayon::current_num_threads() as u64).min(count) - 1,
        };
        rayon::in_place_scope(|scope| {
            for _ in 0..helpers {
                scope.spawn(|_| work());
            }
            work();
        });
        match first.into_inner().unwrap_or_else(|e| e.into_inner()) {
            None => Ok(()),
            Some(text) => Err(fault(text)),
        }
    }
}

#[cfg(all(test, emulator))]
pub(super) mod tests;
