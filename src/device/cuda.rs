//! NVIDIA GPUs through the driver, which is loaded at run time: the one file that names cudarc.
//!
//! A program becomes one CUDA graph, whose launches wait for those alone that share memory with them. What the build compiled is
//! loaded when the device is opened; kernels that are text are compiled by the driver when the first program with them is prepared.
//!
//! `STEPBACK_NO_GRAPH=1` is for faults: launches then go one by one, each waited for, so that the message names the kernel.
//!
//! `STEPBACK_PDL=1` is programmatic dependent launch: along chains of a graph a kernel comes to the GPU while the one before ends,
//! and waits for it itself (`begin_kernel` in `kernels/common.cuh`).
//!
//! `STEPBACK_CHAIN=1` is to compare with: every launch of a graph waits for the one before.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::{CStr, CString, c_void};
use std::mem::{MaybeUninit, take};
use std::sync::{Arc, Mutex};

use cudarc::driver::DriverError;
use cudarc::driver::result::{self, stream::StreamKind};
use cudarc::driver::sys;

use super::edges::edges;
use super::gpu::{Argument, Body, Kernel, Launch, kernels};
use super::machine::Backend;
use super::program::Call;
use crate::error::{Error, Kind, Result};

/// The variable of the environment that asks for launches one by one.
const NO_GRAPH: &str = "STEPBACK_NO_GRAPH";

/// The variable that asks for programmatic dependent launch.
const OVERLAP: &str = "STEPBACK_PDL";

/// The variable that makes every graph one chain.
const CHAIN: &str = "STEPBACK_CHAIN";

fn is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|v| !v.is_empty() && v != "0")
}

/// What fresh memory holds, as on the emulator: NaN as floats, so that reading what nobody wrote is seen.
const FRESH: u8 = 0xff;

/// The GPUs that were opened.
static OPENED: Mutex<Vec<&'static Gpu>> = Mutex::new(Vec::new());

/// A GPU's primary context and the kernels in it. Both take longer to make than a small run: they stay until the process ends.
struct Gpu {
    index: usize,
    device: sys::CUdevice,
    context: sys::CUcontext,
    functions: HashMap<&'static str, Function>,
}

pub(super) struct Cuda {
    gpu: &'static Gpu,
    stream: sys::CUstream,
    /// Of kernels that are text.
    made: HashMap<Arc<str>, Made>,
    memory: Vec<sys::CUdeviceptr>,
    pinned: Option<Pinned>,
    /// None where they were given back.
    programs: Vec<Option<Ready>>,
    /// Are launches parts of graphs? May they come while those before end? Do all wait for the one before?
    uses_graphs: bool,
    overlaps: bool,
    chains: bool,
    /// Of programs, and of several that ran side by side.
    graphs: HashMap<Vec<usize>, sys::CUgraphExec>,
}

/// Memory of the host that the GPU reads by itself. Uploads are copied to it, and nobody waits for them.
struct Pinned {
    start: *mut u8,
    /// Bytes, since there was no more room and somebody waited.
    used: usize,
}

/// Bytes of it: tables of an epoch fit.
const PINNED: usize = 4 << 20;

/// A program made ready.
struct Ready {
    launches: Vec<Launch>,
    /// Of the buffers.
    addresses: Vec<u64>,
}

/// A text that the driver has compiled, and its kernels.
struct Made {
    module: sys::CUmodule,
    functions: HashMap<String, Function>,
}

/// A kernel, and the dynamic shared memory that its blocks can have on this GPU.
struct Function {
    handle: sys::CUfunction,
    most_shared: u32,
    /// Does it wait for the kernel before by itself?
    waits: bool,
}

// SAFETY: handles of the driver, which may be used from any thread; every method makes the context current first.
unsafe impl Send for Cuda {}
// SAFETY: as above.
unsafe impl Send for Gpu {}
// SAFETY: as above, and from several at a time.
unsafe impl Sync for Gpu {}

fn failed(what: &str, error: DriverError) -> Error {
    let text = match ends_the_process(error.0) {
        true => format!(
            "cuda: a kernel or the GPU failed, noticed at: {what}: {error:?}; no more can be run in this process; with {NO_GRAPH}=1 the message names the kernel"
        ),
        false => format!("cuda: {what}: {error:?}"),
    };
    Error::new(Kind::Device, text)
}

/// Has a kernel or the GPU failed so badly that the context answers everything with this? Whatever is called next reports it.
fn ends_the_process(code: sys::CUresult) -> bool {
    use sys::CUresult as Code;
    matches!(
        code,
        Code::CUDA_ERROR_ASSERT
            | Code::CUDA_ERROR_CONTAINED
            | Code::CUDA_ERROR_CONTEXT_IS_DESTROYED
            | Code::CUDA_ERROR_ECC_UNCORRECTABLE
            | Code::CUDA_ERROR_EXTERNAL_DEVICE
            | Code::CUDA_ERROR_HARDWARE_STACK_ERROR
            | Code::CUDA_ERROR_ILLEGAL_ADDRESS
            | Code::CUDA_ERROR_ILLEGAL_INSTRUCTION
            | Code::CUDA_ERROR_INVALID_ADDRESS_SPACE
            | Code::CUDA_ERROR_INVALID_PC
            | Code::CUDA_ERROR_LAUNCH_FAILED
            | Code::CUDA_ERROR_LAUNCH_TIMEOUT
            | Code::CUDA_ERROR_MISALIGNED_ADDRESS
            | Code::CUDA_ERROR_MPS_CLIENT_TERMINATED
            | Code::CUDA_ERROR_NVLINK_UNCORRECTABLE
            | Code::CUDA_ERROR_TENSOR_MEMORY_LEAK
            | Code::CUDA_ERROR_UNKNOWN
    )
}

/// The names of the GPUs that could be opened, at least one, or why there is none.
pub fn usable() -> Result<Vec<String>> {
    if kernels::IMAGES.is_empty() {
        return Err(Error::usage(
            "--device cuda: this binary carries no kernels for GPUs: build stepback-native where there is an nvcc of CUDA 13 (named by NVCC, CUDA_HOME, CUDA_PATH or PATH, or installed by pip in the active environment as nvidia-cuda-nvcc)",
        ));
    }
    // SAFETY: it tries to load the library; cudarc panics where it then uses one that is not there.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::usage(
            "--device cuda: there is no NVIDIA driver (libcuda.so.1) on this machine; use --device cpu",
        ));
    }
    let count = result::init()
        .and_then(|()| result::device::get_count())
        .map_err(|e| {
            Error::usage(format!(
                "--device cuda: the NVIDIA driver has no GPU: {e:?}"
            ))
        })?;
    if count == 0 {
        return Err(Error::usage("--device cuda: the driver finds no GPU"));
    }
    if driver() < needed() {
        return Err(too_old(driver()));
    }
    let name = |i| result::device::get(i).and_then(result::device::get_name);
    (0..count)
        .map(|i| name(i).map_err(|e| failed("name of a GPU", e)))
        .collect()
}

/// The name of the GPU of this index, or why it cannot be had.
pub fn usable_at(index: usize) -> Result<String> {
    pick(usable()?, index)
}

fn pick(mut names: Vec<String>, index: usize) -> Result<String> {
    if index >= names.len() {
        let (count, names) = (names.len(), names.join(", "));
        return Err(Error::usage(format!(
            "--device cuda:{index}: there is no such GPU; there are {count}, from 0: {names}"
        )));
    }
    Ok(names.swap_remove(index))
}

impl Function {
    /// Looks a kernel up and lets it have all shared memory that there is: what a graph's launches need differs. It is on
    /// the GPU then: the driver's default is to bring it there at its first launch.
    ///
    /// # Safety
    /// The module is loaded in the current context, on this device.
    unsafe fn load(module: sys::CUmodule, name: &str, device: sys::CUdevice) -> Result<Function> {
        use sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN as ALL;
        use sys::CUfunction_attribute_enum::{
            CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as DYNAMIC,
            CU_FUNC_ATTRIBUTE_PTX_VERSION as COMPILED_FOR,
            CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES as STATIC,
        };
        let symbol = CString::new(name).expect("a name without zeros");
        // SAFETY: the caller's.
        let load = || unsafe {
            let handle = result::module::get_function(module, symbol)?;
            let all = result::device::get_attribute(device, ALL)?;
            let most = all - result::function::get_function_attribute(handle, STATIC)?;
            result::function::set_function_attribute(handle, DYNAMIC, most)?;
            sys::cuFuncLoad(handle).result()?;
            let compiled_for = result::function::get_function_attribute(handle, COMPILED_FOR)?;
            Ok(Function {
                handle,
                most_shared: most as u32,
                // Older GPUs have no such instruction, and text is compiled for these.
                waits: compiled_for >= 90,
            })
        };
        load().map_err(|e| failed(name, e))
    }
}

/// Has the driver compile PTX, in the current context. On failure also what its compiler says.
fn compile(text: &str) -> std::result::Result<sys::CUmodule, (DriverError, String)> {
    let image = CString::new(text).expect("text without zeros");
    let mut log = [0u8; 4096];
    let mut options = [
        sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
        sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
    ];
    let mut values = [log.as_mut_ptr().cast(), log.len() as *mut c_void];
    let mut module = MaybeUninit::uninit();
    // SAFETY: a text that ends with a zero; options with their values, of which one is memory of the length that the other
    // says. All of it outlives the call, which writes the module if it succeeds.
    let loaded = unsafe {
        sys::cuModuleLoadDataEx(
            module.as_mut_ptr(),
            image.as_ptr().cast(),
            options.len() as u32,
            options.as_mut_ptr(),
            values.as_mut_ptr(),
        )
        .result()
        .map(|()| module.assume_init())
    };
    loaded.map_err(|e| {
        let log = CStr::from_bytes_until_nul(&log).unwrap_or_default();
        (e, log.to_string_lossy().into_owned())
    })
}

/// What to say where the driver compiles no PTX at all, be it of methods that are files or, for a newer GPU, of the build.
fn compiles_nothing(kernels: &str, code: sys::CUresult) -> Option<Error> {
    use sys::CUresult as Code;
    let why = match code {
        Code::CUDA_ERROR_JIT_COMPILER_NOT_FOUND => {
            "its compiler, libnvidia-ptxjitcompiler.so.1, is missing: install all of the driver"
        }
        Code::CUDA_ERROR_JIT_COMPILATION_DISABLED => {
            "CUDA_DISABLE_PTX_JIT or CUDA_DISABLE_JIT forbids it"
        }
        Code::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => {
            "it is older than the CUDA that wrote them: install a newer driver"
        }
        _ => return None,
    };
    Some(Error::usage(format!(
        "--device cuda: the NVIDIA driver cannot compile {kernels}: {why} ({code:?})"
    )))
}

/// What to say where the driver's compiler does not take the text of a kernel.
fn not_compiled(kernel: &str, code: sys::CUresult, log: &str) -> Error {
    let says = match log.trim() {
        "" => format!("{code:?}"),
        log => format!("{code:?}: {log}"),
    };
    Error::new(
        Kind::Device,
        format!(
            "cuda: kernel {kernel}: the driver cannot compile what stepback-native wrote: {says}; please report this with the file of formulas; --device cpu runs it meanwhile"
        ),
    )
}

/// The compute capability of a GPU, 0.0 if it cannot be had.
fn capability(device: sys::CUdevice) -> (i32, i32) {
    use sys::CUdevice_attribute_enum::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };
    // SAFETY: the device was got from the driver.
    let get = |which| unsafe { result::device::get_attribute(device, which) }.unwrap_or(0);
    (get(MAJOR), get(MINOR))
}

/// The newest CUDA that the driver knows, 1000 times the major version and 10 times the minor one.
fn driver() -> i32 {
    let mut version = 0;
    // SAFETY: it writes one number.
    let _ = unsafe { sys::cuDriverGetVersion(&mut version) };
    version
}

/// The CUDA that a driver must know, counted like that: it loads what a CUDA of the same major version compiled, and has all
/// functions that are called here, of which `cuEventElapsedTime_v2` is the newest. cudarc panics where one is missing.
fn needed() -> i32 {
    const CALLED: i32 = 12_080;
    let major = option_env!("STEPBACK_CUDA_MAJOR").and_then(|n| n.parse().ok());
    CALLED.max(1000 * major.unwrap_or(0))
}

fn too_old(driver: i32) -> Error {
    let spelled = |version| format!("{}.{}", version / 1000, version % 1000 / 10);
    Error::usage(format!(
        "--device cuda: the NVIDIA driver knows CUDA {} at most, and this binary needs {}: install a newer driver (580 or newer for CUDA 13)",
        spelled(driver),
        spelled(needed())
    ))
}

/// What to say where a GPU or its driver cannot take the kernels of this binary. `gpu` is its number and name.
fn refusal(code: sys::CUresult, gpu: &str, capability: (i32, i32)) -> Option<Error> {
    use sys::CUresult::{
        CUDA_ERROR_INVALID_IMAGE, CUDA_ERROR_INVALID_PTX, CUDA_ERROR_INVALID_SOURCE,
        CUDA_ERROR_NO_BINARY_FOR_GPU,
    };
    let unreadable = [
        CUDA_ERROR_INVALID_IMAGE,
        CUDA_ERROR_INVALID_PTX,
        CUDA_ERROR_INVALID_SOURCE,
        CUDA_ERROR_NO_BINARY_FOR_GPU,
    ];
    if !unreadable.contains(&code) {
        return compiles_nothing(&format!("this binary's kernels for GPU {gpu}"), code);
    }
    let (major, minor) = capability;
    let why = match major {
        8.. => format!(
            "this binary carries no kernels for it: build it with STEPBACK_CUDA_ARCHS={major}{minor}, or without that variable"
        ),
        _ => "the kernels need 8.0 or newer".to_owned(),
    };
    Some(Error::usage(format!(
        "--device cuda: GPU {gpu} has compute capability {major}.{minor}, and {why} ({code:?})"
    )))
}

impl Gpu {
    fn opened(index: usize) -> Result<&'static Gpu> {
        let name = usable_at(index)?;
        let mut opened = OPENED.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(gpu) = opened.iter().find(|gpu| gpu.index == index) {
            return Ok(gpu);
        }
        let gpu: &'static Gpu = Box::leak(Box::new(Gpu::open(index, &name)?));
        opened.push(gpu);
        Ok(gpu)
    }

    fn open(index: usize, name: &str) -> Result<Gpu> {
        let opening = |e| failed(&format!("cannot open GPU {index} ({name})"), e);
        let device = result::device::get(index as i32).map_err(opening)?;
        // SAFETY: the device was just got from the driver, the context from the device.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(opening)?;
        let mut gpu = Gpu {
            index,
            device,
            context,
            functions: HashMap::new(),
        };
        gpu.enter()?;
        for (file, image) in kernels::IMAGES {
            // At eight bytes, as nvcc had it.
            let mut words = vec![0u64; image.len().div_ceil(8)];
            bytemuck::cast_slice_mut(&mut words)[..image.len()].copy_from_slice(image);
            // SAFETY: a fatbin as nvcc wrote it.
            let module = unsafe { result::module::load_data(words.as_ptr().cast()) };
            let module = module.map_err(|e| {
                refusal(e.0, &format!("{index} ({name})"), capability(device))
                    .unwrap_or_else(|| failed(&format!("kernels of {file}.cu"), e))
            })?;
            let of_file = kernels::KERNELS.iter();
            for kernel in of_file.filter(|k| k.file() == Some(*file)) {
                // SAFETY: the module was just loaded.
                let function = unsafe { Function::load(module, &kernel.name, device) }?;
                gpu.functions.insert(&kernel.name, function);
            }
        }
        Ok(gpu)
    }

    fn enter(&self) -> Result<()> {
        // SAFETY: the context is retained until the process ends.
        unsafe { result::ctx::set_current(self.context) }.map_err(|e| failed("context", e))
    }
}

impl Cuda {
    pub fn open(index: usize) -> Result<Cuda> {
        let gpu = Gpu::opened(index)?;
        gpu.enter()?;
        let stream = result::stream::create(StreamKind::NonBlocking);
        Ok(Cuda {
            gpu,
            stream: stream.map_err(|e| failed(&format!("cannot open GPU {index}"), e))?,
            made: HashMap::new(),
            memory: Vec::new(),
            pinned: None,
            programs: Vec::new(),
            uses_graphs: !is_set(NO_GRAPH),
            overlaps: is_set(OVERLAP),
            chains: is_set(CHAIN),
            graphs: HashMap::new(),
        })
    }

    fn ready(&self, programs: &[usize]) -> Vec<&Ready> {
        let ready = programs.iter().map(|p| self.programs[*p].as_ref());
        let ready: Option<Vec<&Ready>> = ready.collect();
        ready.expect("programs that are there")
    }

    /// Sees to it that there is a graph of these programs, if there are any.
    fn keep_graph(&mut self, programs: &[usize]) -> Result<()> {
        if self.uses_graphs && !self.graphs.contains_key(programs) {
            let graph = self.graph(&self.ready(programs), 1)?;
            self.graphs.insert(programs.to_vec(), graph);
        }
        Ok(())
    }

    fn wait(&self) -> Result<()> {
        // SAFETY: the stream lives as long as we do.
        unsafe { result::stream::synchronize(self.stream) }.map_err(|e| failed("wait", e))
    }

    /// A copy in pinned memory, which is good until the stream has been waited for; of no more than [`PINNED`] bytes.
    fn pin(&mut self, bytes: &[u8]) -> Result<*const u8> {
        let pinned = match &mut self.pinned {
            Some(pinned) => pinned,
            none => {
                // SAFETY: an allocation, which drop frees.
                let start = unsafe { result::malloc_host(PINNED, 0) };
                let start = start.map_err(|e| failed("pinned memory", e))?.cast();
                none.insert(Pinned { start, used: 0 })
            }
        };
        if pinned.used + bytes.len() > PINNED {
            // SAFETY: the stream lives as long as we do.
            unsafe { result::stream::synchronize(self.stream) }.map_err(|e| failed("wait", e))?;
            pinned.used = 0;
        }
        // SAFETY: so many bytes are left, which nobody reads any more.
        let copy = unsafe {
            let copy = pinned.start.add(pinned.used);
            copy.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            copy
        };
        pinned.used += bytes.len().next_multiple_of(64);
        Ok(copy)
    }

    /// Launches a kernel and waits for it.
    fn run_alone(&self, launch: &Launch, addresses: &[u64]) -> Result<()> {
        let mut arguments = Arguments::new(launch, addresses);
        let [x, y, z] = launch.grid.blocks;
        // SAFETY: arguments in memory that lives through the call.
        let launched = unsafe {
            result::launch_kernel(
                self.function_for(launch)?,
                (x, y, z),
                (launch.kernel.threads, 1, 1),
                launch.grid.shared,
                self.stream,
                &mut arguments.pointers,
            )
        };
        launched.map_err(|e| failed(&launch.kernel.name, e))?;
        // SAFETY: our own stream.
        unsafe { result::stream::synchronize(self.stream) }.map_err(|e| {
            let name = &launch.kernel.name;
            let text = format!(
                "cuda: kernel {name} failed, and no more can be run in this process: {e:?}"
            );
            Error::new(Kind::Device, text)
        })
    }

    /// Programs as one graph, all of them this many times.
    fn graph(&self, programs: &[&Ready], times: usize) -> Result<sys::CUgraphExec> {
        let building = |e| failed("making of a graph", e);
        let mut graph = MaybeUninit::uninit();
        // SAFETY: it writes the graph if it succeeds.
        let graph = unsafe {
            let made = sys::cuGraphCreate(graph.as_mut_ptr(), 0).result();
            made.map(|()| graph.assume_init()).map_err(building)?
        };
        let program = self.add_launches(graph, programs, times).and_then(|()| {
            let flags = sys::CUgraphInstantiate_flags(0);
            // SAFETY: our own graph.
            unsafe { result::graph::instantiate(graph, flags) }.map_err(building)
        });
        // SAFETY: our own, of which the program has all that it needs.
        unsafe { result::graph::destroy(graph) }.map_err(building)?;
        program
    }

    /// Each waits for those alone whose memory it shares. Where it is the only one behind the only one before, it may come early.
    fn add_launches(&self, graph: sys::CUgraph, programs: &[&Ready], times: usize) -> Result<()> {
        let programs = (0..times).flat_map(|_| programs);
        let launches = programs.flat_map(|p| p.launches.iter().map(|l| (l, &*p.addresses)));
        let touched = launches.clone().map(|(l, addresses)| l.touches(addresses));
        let edges: Vec<Vec<usize>> = match self.chains {
            false => edges(touched),
            true => (0..touched.count())
                .map(|i| i.checked_sub(1).into_iter().collect())
                .collect(),
        };
        let mut behind = vec![0; edges.len()];
        edges.iter().flatten().for_each(|i| behind[*i] += 1);
        let mut nodes: Vec<sys::CUgraphNode> = Vec::new();
        for ((launch, addresses), before) in launches.zip(edges) {
            let alone = matches!(*before, [only] if behind[only] == 1);
            let early = self.overlaps && alone && self.function(&launch.kernel).waits;
            let before: Vec<sys::CUgraphNode> = before.into_iter().map(|i| nodes[i]).collect();
            let mut arguments = Arguments::new(launch, addresses);
            let [x, y, z] = launch.grid.blocks;
            let node = sys::CUDA_KERNEL_NODE_PARAMS {
                func: self.function_for(launch)?,
                gridDimX: x,
                gridDimY: y,
                gridDimZ: z,
                blockDimX: launch.kernel.threads,
                blockDimY: 1,
                blockDimZ: 1,
                sharedMemBytes: launch.grid.shared,
                kernelParams: arguments.pointers.as_mut_ptr(),
                extra: std::ptr::null_mut(),
                kern: std::ptr::null_mut(),
                ctx: std::ptr::null_mut(),
            };
            let mut made = MaybeUninit::uninit();
            // SAFETY: our own graph and nodes of it; an argument for each parameter, which the call copies. It writes the
            // node if it succeeds.
            let made = unsafe {
                let (of, n) = (before.as_ptr(), if early { 0 } else { before.len() });
                sys::cuGraphAddKernelNode_v2(made.as_mut_ptr(), graph, of, n, &node)
                    .result()
                    .map_err(|e| failed(&launch.kernel.name, e))?;
                made.assume_init()
            };
            if early {
                let edge = sys::CUgraphEdgeData {
                    from_port: sys::CU_GRAPH_KERNEL_NODE_PORT_PROGRAMMATIC as u8,
                    to_port: 0,
                    type_: sys::CUgraphDependencyType::CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC as u8,
                    reserved: [0; 5],
                };
                // SAFETY: our own graph, two nodes of it and what is between them.
                unsafe {
                    sys::cuGraphAddDependencies_v2(graph, &before[0], &made, &edge, 1).result()
                }
                .map_err(|e| failed(&launch.kernel.name, e))?;
            }
            nodes.push(made);
        }
        Ok(())
    }

    /// Starts a graph, or runs the launches of programs one by one.
    fn start(
        &self,
        graph: Option<sys::CUgraphExec>,
        programs: &[&Ready],
        times: usize,
    ) -> Result<()> {
        match graph {
            // SAFETY: graph and stream are ours, and the memory that it names lives as long.
            Some(graph) => unsafe { result::graph::launch(graph, self.stream) }
                .map_err(|e| failed("start of a graph", e)),
            None => {
                let mut programs = (0..times).flat_map(|_| programs);
                programs.try_for_each(|program| {
                    let mut launches = program.launches.iter();
                    launches.try_for_each(|launch| self.run_alone(launch, &program.addresses))
                })
            }
        }
    }

    /// The seconds between two events that `work` records, after a wait for all of it.
    fn between_events(&self, work: impl Fn([sys::CUevent; 2]) -> Result<()>) -> Result<f64> {
        let timing = |e| failed("an event", e);
        let event = || result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT);
        let events = [event().map_err(timing)?, event().map_err(timing)?];
        let timed = work(events).and_then(|()| self.wait()).and_then(|()| {
            // SAFETY: our own events, both of which are over.
            unsafe { result::event::elapsed(events[0], events[1]) }.map_err(timing)
        });
        for event in events {
            // SAFETY: our own, used no more.
            let _ = unsafe { result::event::destroy(event) };
        }
        Ok(f64::from(timed?) / 1e3)
    }

    /// Compiles the text of a kernel, unless that was done before.
    fn load_text(&mut self, kernel: &Kernel) -> Result<()> {
        let Body::Text(text) = &kernel.body else {
            return Ok(());
        };
        let made = match self.made.entry(Arc::clone(text)) {
            Entry::Occupied(made) => made.into_mut(),
            Entry::Vacant(place) => {
                let module = compile(text).map_err(|(e, log)| {
                    compiles_nothing("methods that are files", e.0)
                        .unwrap_or_else(|| not_compiled(&kernel.name, e.0, &log))
                })?;
                place.insert(Made {
                    module,
                    functions: HashMap::new(),
                })
            }
        };
        if !made.functions.contains_key(&*kernel.name) {
            // SAFETY: the module was loaded in this context.
            let function = unsafe { Function::load(made.module, &kernel.name, self.gpu.device) }?;
            made.functions.insert(kernel.name.to_string(), function);
        }
        Ok(())
    }

    fn function(&self, kernel: &Kernel) -> &Function {
        match &kernel.body {
            Body::Built { .. } => &self.gpu.functions[&*kernel.name],
            Body::Text(text) => &self.made[text].functions[&*kernel.name],
        }
    }

    /// The kernel of a launch, which this GPU can take.
    fn function_for(&self, launch: &Launch) -> Result<sys::CUfunction> {
        let Launch { kernel, grid, .. } = launch;
        let function = self.function(kernel);
        if grid.shared > function.most_shared {
            return Err(Error::usage(format!(
                "--device cuda: kernel {} needs {} KiB of shared memory, and GPU {} has {} for it",
                kernel.name,
                grid.shared.div_ceil(1 << 10),
                self.gpu.index,
                function.most_shared >> 10
            )));
        }
        Ok(function.handle)
    }
}

/// The arguments of a launch as the driver wants them.
struct Arguments {
    /// To the values: one for each parameter, of its type, since the launcher was written from the kernel's own declaration.
    pointers: Vec<*mut c_void>,
    _values: Vec<Box<[u64]>>,
}

impl Arguments {
    fn new(launch: &Launch, addresses: &[u64]) -> Arguments {
        let Launch {
            kernel, arguments, ..
        } = launch;
        assert_eq!(arguments.len(), kernel.parameters.len(), "{}", kernel.name);
        let value = |argument: &Argument| match argument {
            Argument::Read(place) | Argument::Write(place) => [place.address(addresses)].into(),
            Argument::Value(words) => words.clone(),
        };
        let mut values: Vec<Box<[u64]>> = arguments.iter().map(value).collect();
        let pointers = values.iter_mut().map(|words| words.as_mut_ptr().cast());
        Arguments {
            pointers: pointers.collect(),
            _values: values,
        }
    }
}

impl Backend for Cuda {
    fn name(&self) -> String {
        format!("cuda: GPU {}", self.gpu.index)
    }

    fn alloc(&mut self, name: &str, bytes: usize) -> Result<Option<u64>> {
        self.gpu.enter()?;
        // The driver refuses an allocation of no bytes.
        let bytes = bytes.max(1);
        // SAFETY: an allocation, which drop frees.
        match unsafe { result::malloc_sync(bytes) } {
            Ok(address) => {
                self.memory.push(address);
                // SAFETY: the memory just got, in the order of the stream.
                unsafe { result::memset_d8_async(address, FRESH, bytes, self.stream) }
                    .map_err(|e| failed(&format!("memory for {name}"), e))?;
                Ok(Some(address))
            }
            Err(e) if e.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => Ok(None),
            Err(e) => Err(failed(&format!("memory for {name}"), e)),
        }
    }

    fn memory(&self) -> Option<[usize; 2]> {
        result::mem_get_info().ok().map(<[usize; 2]>::from)
    }

    fn upload(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.gpu.enter()?;
        let fits = bytes.len() <= PINNED;
        let from = if fits {
            self.pin(bytes)?
        } else {
            bytes.as_ptr()
        };
        // SAFETY: inside of an allocation; in the order of the stream. A copy is kept as long as it is read, and `bytes` outlive
        // the wait.
        unsafe {
            let from = std::slice::from_raw_parts(from, bytes.len());
            result::memcpy_htod_async(address, from, self.stream)
        }
        .map_err(|e| failed("upload", e))?;
        if fits { Ok(()) } else { self.wait() }
    }

    fn download(&mut self, address: u64, bytes: &mut [u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.gpu.enter()?;
        // SAFETY: as above.
        unsafe { result::memcpy_dtoh_async(bytes, address, self.stream) }
            .map_err(|e| failed("download", e))?;
        self.wait()
    }

    fn prepare(&mut self, calls: Vec<Call>, addresses: &[u64]) -> Result<usize> {
        self.gpu.enter()?;
        let launches: Vec<Launch> = calls.into_iter().map(Call::into_launch).collect();
        for launch in &launches {
            self.load_text(&launch.kernel)?;
        }
        let program = self.programs.len();
        self.programs.push(Some(Ready {
            launches,
            addresses: addresses.to_vec(),
        }));
        self.keep_graph(&[program])?;
        Ok(program)
    }

    fn run(&mut self, program: usize) -> Result<()> {
        self.run_together(&[program])
    }

    fn run_together(&mut self, programs: &[usize]) -> Result<()> {
        self.gpu.enter()?;
        self.keep_graph(programs)?;
        let graph = self.graphs.get(programs).copied();
        self.start(graph, &self.ready(programs), 1)
    }

    fn release(&mut self, memory: &[u64], programs: &[usize]) {
        // SAFETY: everything is ours and used no more once the stream is empty. After a fault these calls fail too, and
        // nobody is helped by hearing of it again.
        unsafe {
            let _ = result::ctx::set_current(self.gpu.context);
            let _ = result::stream::synchronize(self.stream);
            let gone = |all: &[usize]| all.iter().any(|p| programs.contains(p));
            for (_, graph) in self.graphs.extract_if(|all, _| gone(all)) {
                let _ = result::graph::exec_destroy(graph);
            }
            for address in memory {
                let _ = result::free_sync(*address);
            }
        }
        programs.iter().for_each(|p| self.programs[*p] = None);
        self.memory.retain(|address| !memory.contains(address));
    }

    fn time(&mut self, programs: &[usize], times: usize) -> Result<f64> {
        self.gpu.enter()?;
        let programs = self.ready(programs);
        let graph = match self.uses_graphs {
            true => Some(self.graph(&programs, times)?),
            false => None,
        };
        let start = |event| {
            // SAFETY: our own event and stream.
            unsafe { result::event::record(event, self.stream) }.map_err(|e| failed("an event", e))
        };
        let timed = self.between_events(|[first, last]| {
            if graph.is_some() {
                // It comes to the GPU, which is at work while the host starts what is timed.
                self.start(graph, &programs, times)?;
            }
            start(first)?;
            self.start(graph, &programs, times)?;
            start(last)
        });
        if let Some(graph) = graph {
            // SAFETY: our own, which has run.
            let _ = unsafe { result::graph::exec_destroy(graph) };
        }
        timed
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        let (memory, programs) = (take(&mut self.memory), 0..self.programs.len());
        let programs: Vec<usize> = programs.collect();
        self.release(&memory, &programs);
        // SAFETY: as in `release`.
        unsafe {
            for made in self.made.drain().map(|(_, made)| made) {
                let _ = result::module::unload(made.module);
            }
            let _ = result::stream::destroy(self.stream);
            if let Some(Pinned { start, .. }) = self.pinned {
                let _ = result::free_host(start.cast());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{not_compiled, pick, refusal};
    use cudarc::driver::sys::CUresult::*;

    #[test]
    fn a_gpu_that_is_not_there_is_named_with_those_that_are() {
        let gpus = || vec!["One".to_owned(), "Two".to_owned()];
        assert_eq!(pick(gpus(), 1).unwrap(), "Two");
        let error = pick(gpus(), 2).unwrap_err();
        assert_eq!(error.kind.exit_code(), 2);
        assert!(error.message.contains("cuda:2") && error.message.contains("One, Two"));
    }

    #[test]
    fn what_the_driver_says_of_a_text_is_passed_on() {
        let error = not_compiled("pass", CUDA_ERROR_INVALID_PTX, "line 7: oops\n");
        assert_eq!(error.kind.exit_code(), 1);
        for part in ["kernel pass", "INVALID_PTX: line 7: oops;", "--device cpu"] {
            assert!(error.message.contains(part), "{}", error.message);
        }
    }

    /// What no test machine has.
    #[test]
    fn gpus_and_drivers_that_cannot_take_the_kernels_are_named() {
        let says = |code, capability, parts: &[&str]| {
            let error = refusal(code, "0 (Some GPU)", capability).expect("a refusal");
            assert_eq!(error.kind.exit_code(), 2);
            let mut missing = parts.iter().filter(|p| !error.message.contains(**p));
            assert_eq!(missing.next(), None, "{}", error.message);
        };
        let old_gpu = ["GPU 0 (Some GPU)", "7.5", "8.0 or newer"];
        says(CUDA_ERROR_NO_BINARY_FOR_GPU, (7, 5), &old_gpu);
        let unknown = ["GPU 0 (Some GPU)", "12.0", "STEPBACK_CUDA_ARCHS=120"];
        says(CUDA_ERROR_NO_BINARY_FOR_GPU, (12, 0), &unknown);
        // As PTX they would have to be compiled.
        let newer = ["GPU 0 (Some GPU)", "a newer driver"];
        says(CUDA_ERROR_UNSUPPORTED_PTX_VERSION, (12, 0), &newer);
        // Whatever else goes wrong is no matter of the build.
        assert!(refusal(CUDA_ERROR_OUT_OF_MEMORY, "0", (9, 0)).is_none());
    }
}
