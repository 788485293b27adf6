//! Kernels and their launches.
//!
//! Ops and optimizers add [`Launch`]es to a [`Program`]; what they name are ranges of buffers, not
//! addresses, so that a program can be written and looked at without a machine.

use std::borrow::Cow;
use std::ops::Deref;
use std::sync::Arc;

use bytemuck::Pod;

use super::edges::Touched;
use super::program::ByteRange;
use super::{Program, Slot, View, emulator};

/// The kernels of `kernels/*.cu` as functions that queue them, written by `build/kernels.rs`.
pub mod kernels {
    include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
}

/// Multiprocessors of an H100: kernels are chosen such that all have something to do.
pub const PROCESSORS: usize = 132;

/// Dynamic shared memory that a block may have there, in bytes.
pub const MOST_SHARED: usize = 227 << 10;

/// A kernel: how it is called, and what it does.
pub struct Kernel {
    pub name: Cow<'static, str>,
    /// Threads of a block.
    pub threads: u32,
    pub parameters: Cow<'static, [Parameter]>,
    pub(super) body: Body,
}

/// What a kernel does.
pub(super) enum Body {
    /// Compiled by the build.
    Built {
        /// Its file in `kernels`, without `.cu`.
        file: &'static str,
        #[cfg_attr(not(emulator), allow(dead_code))]
        record: Option<&'static Record>,
    },
    /// PTX with an entry of the kernel's name, which machines compile or interpret when they prepare a program.
    Text(Arc<str>),
}

/// A kernel's parameter.
#[derive(Clone)]
pub struct Parameter {
    pub name: Cow<'static, str>,
    /// `r` and `w`: a pointer to read, to write; `i`, `u`, `f`: a number; `s`: a structure.
    pub code: char,
    /// Bytes of the value, or of what the pointer points to.
    pub size: u32,
}

pub(super) use emulator::Record;

/// A kernel that the build compiled, or one made when a run starts.
#[derive(Clone)]
pub enum Callee {
    Built(&'static Kernel),
    Made(Arc<Kernel>),
}

impl Deref for Callee {
    type Target = Kernel;

    fn deref(&self) -> &Kernel {
        match self {
            Callee::Built(kernel) => kernel,
            Callee::Made(kernel) => kernel,
        }
    }
}

impl Kernel {
    /// Its file in `kernels`, without `.cu`; `None` if it is text.
    pub fn file(&self) -> Option<&'static str> {
        match self.body {
            Body::Built { file, .. } => Some(file),
            Body::Text(_) => None,
        }
    }

    /// The entry `name` of a module of PTX, always launched with this many threads in a block.
    pub fn of_text(
        text: &Arc<str>,
        name: impl Into<String>,
        threads: u32,
        parameters: Vec<Parameter>,
    ) -> Arc<Kernel> {
        Arc::new(Kernel {
            name: Cow::Owned(name.into()),
            threads,
            parameters: Cow::Owned(parameters),
            body: Body::Text(Arc::clone(text)),
        })
    }
}

/// Adds the launch of a kernel made when a run starts.
///
/// # Panics
/// If arguments and parameters do not fit.
pub fn launch(
    program: &mut Program,
    kernel: &Arc<Kernel>,
    grid: impl Into<Grid>,
    arguments: Vec<Argument>,
) {
    let codes = kernel.parameters.iter().map(|p| (p.code, p.size as usize));
    let fit = arguments.len() == kernel.parameters.len()
        && codes.zip(&arguments).all(|(parameter, argument)| {
            matches!(
                (parameter, argument),
                (('r', _), Argument::Read(_))
                    | (('w', _), Argument::Write(_))
                    | ((_, ..=8), Argument::Value(_))
            )
        });
    assert!(fit, "{}: wrong arguments", kernel.name);
    program.launch(Callee::Made(Arc::clone(kernel)), grid.into(), arguments);
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

/// Counters for each sum over the rows that this many blocks leave: `sum_over_blocks` in `kernels/common.cuh`.
pub fn counters_of(blocks: usize) -> usize {
    const GROUP: usize = 32;
    1 + blocks.div_ceil(GROUP)
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

/// What a kernel is given for a parameter.
pub enum Argument {
    /// The address of a range that it reads.
    Read(ByteRange),
    /// Of one that it writes, and may read.
    Write(ByteRange),
    /// A number or a structure: its bytes from the first one, in whole words.
    Value(Box<[u64]>),
}

impl Argument {
    pub fn read<T>(view: impl Into<View<T>>) -> Argument {
        Argument::Read(view.into().into())
    }

    pub fn write<T>(view: impl Into<View<T>>) -> Argument {
        Argument::Write(view.into().into())
    }

    pub fn value<T: Pod>(value: T) -> Argument {
        let mut words = vec![0u64; size_of::<T>().div_ceil(8)];
        bytemuck::cast_slice_mut(&mut words)[..size_of::<T>()]
            .copy_from_slice(bytemuck::bytes_of(&value));
        Argument::Value(words.into())
    }
}

/// One launch of a kernel.
pub struct Launch {
    pub kernel: Callee,
    pub grid: Grid,
    pub(super) arguments: Vec<Argument>,
}

impl Launch {
    /// Bytes that it reads and that it writes, as far as it names them, each range once.
    pub fn traffic(&self) -> [usize; 2] {
        let mut ranges: [Vec<&ByteRange>; 2] = [Vec::new(), Vec::new()];
        for argument in &self.arguments {
            let (range, ranges) = match argument {
                Argument::Read(range) => (range, &mut ranges[0]),
                Argument::Write(range) => (range, &mut ranges[1]),
                Argument::Value(_) => continue,
            };
            if !ranges.contains(&range) {
                ranges.push(range);
            }
        }
        ranges.map(|ranges| ranges.iter().map(|range| range.len).sum())
    }

    /// Bytes of the range that a parameter points to; 0 if it has none of this name.
    pub fn bytes_of(&self, name: &str) -> usize {
        let mut parameters = self.kernel.parameters.iter().zip(&self.arguments);
        let bytes = parameters.find_map(|(parameter, argument)| match argument {
            Argument::Read(range) | Argument::Write(range) if parameter.name == name => {
                Some(range.len)
            }
            _ => None,
        });
        bytes.unwrap_or(0)
    }

    /// A parameter that is a number or a structure; `None` if it has none of this name.
    ///
    /// # Panics
    /// If it is smaller than a `T`.
    pub fn value<T: Pod>(&self, name: &str) -> Option<T> {
        let kernel = &self.kernel;
        let mut parameters = kernel.parameters.iter().zip(&self.arguments);
        parameters.find_map(|(parameter, argument)| match argument {
            Argument::Value(words) if parameter.name == name => {
                let bytes = &bytemuck::cast_slice::<u64, u8>(words)[..size_of::<T>()];
                Some(bytemuck::pod_read_unaligned(bytes))
            }
            _ => None,
        })
    }

    /// The addresses that it reads and those that it writes, given where the buffers are.
    pub(super) fn touches(&self, addresses: &[u64]) -> Touched {
        let place = |range: &ByteRange| {
            let start = range.address(addresses);
            start..start + range.len as u64
        };
        let mut touched = Touched::default();
        for argument in &self.arguments {
            match argument {
                Argument::Read(range) => touched[0].push(place(range)),
                Argument::Write(range) => touched[1].push(place(range)),
                Argument::Value(_) => {}
            }
        }
        touched
    }

    /// The ranges that it names.
    pub(super) fn ranges(&self) -> impl Iterator<Item = &ByteRange> {
        self.arguments.iter().filter_map(|argument| match argument {
            Argument::Read(range) | Argument::Write(range) => Some(range),
            Argument::Value(_) => None,
        })
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
