// A driver for tests: the functions of libcuda that src/device/cuda.rs calls. It checks what NVIDIA's checks, and some
// mistakes that NVIDIA's leaves undefined, and runs kernels on the emulator, on which they are compiled from the same
// sources. What it knows of a kernel's parameters, threads, registers and shared memory it reads from the machine code.
//
// Streams do their work as late as they may, at the next wait (STUB_CUDA_EAGER=1: at once). Nodes of a graph run in any order
// that its edges allow, another one each time. An error that a right program would not meet is explained on stderr. What tests
// want to go wrong:
//
//   STUB_CUDA_VERSION=12040         what the driver says that it knows
//   STUB_CUDA_DEVICES=0             how many GPUs there are; 1 otherwise
//   STUB_CUDA_CAPABILITY=75         of the GPUs; 90 otherwise
//   STUB_CUDA_MEMORY=1000000        bytes of each; 1 GiB otherwise
//   STUB_CUDA_FAIL_ALLOC=3          the third allocation finds no memory
//   STUB_CUDA_FAIL_LAUNCH=100       the hundredth launch of a kernel ends the context,
//   STUB_CUDA_FAIL_CODE=226         which then answers with this; 700 otherwise
//   STUB_CUDA_REPORT=FILE           at the end of the process: calls of each function, launches, edges of graphs,
//                                   the kernel that was made to fail, and what was not given back
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "runtime.h"

extern "C" {
void emulated_run(const EmulatedKernel*, const EmulatedGrid*, void**, const emulator::Schedule*, uint64_t*, uint32_t*,
                  EmulatedFault*);
void* emulated_alloc(size_t bytes, const char* name);
int emulated_check(const void* memory);
void emulated_free(void* memory);
}

namespace {

enum Code : int {
  SUCCESS = 0,
  INVALID_VALUE = 1,
  OUT_OF_MEMORY = 2,
  NOT_INITIALIZED = 3,
  NO_DEVICE = 100,
  INVALID_DEVICE = 101,
  INVALID_IMAGE = 200,
  INVALID_CONTEXT = 201,
  NO_BINARY_FOR_GPU = 209,
  JIT_COMPILER_NOT_FOUND = 221,
  INVALID_HANDLE = 400,
  ILLEGAL_STATE = 401,
  NOT_FOUND = 500,
  NOT_READY = 600,
  ILLEGAL_ADDRESS = 700,
  LAUNCH_OUT_OF_RESOURCES = 701,
};

long setting(const char* name, long otherwise) {
  const char* text = getenv(name);
  return text && *text ? atol(text) : otherwise;
}

// Says why, for whoever reads the test's output.
__attribute__((format(printf, 2, 3))) Code wrong(Code code, const char* format, ...) {
  va_list list;
  va_start(list, format);
  fputs("stub of libcuda: ", stderr);
  vfprintf(stderr, format, list);
  fputc('\n', stderr);
  va_end(list);
  return code;
}

// ---- what there is ----

// Of compute capability 9.0.
constexpr long SHARED_OPTIN = 227 << 10, SHARED_DEFAULT = 48 << 10, REGISTERS = 64 << 10, PROCESSORS = 132;

struct Context {
  int device = 0, retained = 0;
  Code broken = SUCCESS;
};

struct Parameter {
  uint32_t offset, size;
};

struct Function {
  uint64_t module, context;
  std::string name;
  const EmulatedKernel* kernel = nullptr;
  std::vector<Parameter> parameters;
  uint32_t most_threads = 1024, registers = 0, parameter_bytes = 0, capability = 0;
  long static_shared = 0, most_dynamic = 0;
  bool waits = false;  // for the kernel before, by itself, before it looks at memory
};

struct Module {
  uint64_t context;
  std::map<std::string, uint64_t> functions;
  std::map<std::string, Function> kernels;
};

struct Launch {
  uint64_t function;
  uint32_t grid[3], shared;
  std::vector<std::vector<unsigned char>> arguments;
};

struct Node {
  Launch launch;
  std::vector<size_t> before;  // of the same graph
};

struct Graph {
  uint64_t context;
  std::vector<Node> nodes;
  std::map<uint64_t, size_t> handles;
};

using Work = std::function<Code()>;

struct Stream {
  uint64_t context;
  std::deque<Work> queue;
};

struct Event {
  uint64_t context;
  bool recorded = false, done = false;
  std::chrono::steady_clock::time_point when;
};

struct Memory {
  uint64_t context;
  size_t bytes;
  bool set = false;  // all of it, once
};

// Things by handles that are never given out twice, so that what is gone is known to be gone.
template <class T>
struct Table {
  const char* what;
  std::map<uint64_t, T> all;
  T* find(uint64_t handle) {
    auto found = all.find(handle);
    return found == all.end() ? nullptr : &found->second;
  }
};

uint64_t last_handle = 0x1000;

std::recursive_mutex lock;
bool initialised = false;
Table<Context> contexts{"contexts", {}};
Table<Module> modules{"modules", {}};
Table<Function> functions{"functions", {}};
Table<Graph> graphs{"graphs", {}}, executables{"executable graphs", {}};
Table<Stream> streams{"streams", {}};
Table<Event> events{"events", {}};
Table<Memory> memory{"allocations", {}}, pinned{"pinned allocations", {}};
std::map<std::string, long> calls;
long allocations = 0, launches = 0, graph_edges = 0;
std::string broken;
std::mt19937 random_order;
thread_local uint64_t current = 0;

template <class T>
uint64_t add(Table<T>& table, T thing) {
  last_handle += 16;
  table.all.emplace(last_handle, std::move(thing));
  return last_handle;
}

// ---- beginning of every call ----

// May the call be made: initialised, in a live context that no kernel has broken?
Code enter(const char* name) {
  calls[name]++;
  if (!initialised) return wrong(NOT_INITIALIZED, "%s before cuInit", name);
  Context* context = contexts.find(current);
  if (!context || context->retained == 0) return wrong(INVALID_CONTEXT, "%s without a current context", name);
  return context->broken;
}

#define ENTER()                                      \
  std::lock_guard<std::recursive_mutex> guard(lock); \
  if (Code code = enter(__func__)) return code
#define FIND(kind, thing, handle)                                                              \
  auto* thing = (kind).find(handle);                                                           \
  if (!thing) return wrong(INVALID_HANDLE, "%s: none of the %s has this handle", __func__, (kind).what); \
  if (thing->context != current) return wrong(INVALID_CONTEXT, "%s: of another context", __func__)

// ---- streams ----

Code finish(Stream& stream) {
  while (!stream.queue.empty()) {
    Work work = std::move(stream.queue.front());
    stream.queue.pop_front();
    if (Code code = work()) {
      stream.queue.clear();
      return code;
    }
  }
  return SUCCESS;
}

// All streams of this context.
Code finish_all() {
  for (auto& [_, stream] : streams.all)
    if (stream.context == current)
      if (Code code = finish(stream)) return code;
  return SUCCESS;
}

// What a kernel did wrong may be reported by any later call, but not by this one.
Code enqueue(Stream& stream, Work work) {
  stream.queue.push_back(std::move(work));
  if (setting("STUB_CUDA_EAGER", 0)) finish(stream);
  return SUCCESS;
}

// The live allocation that a range lies in.
Memory* live(uint64_t address, size_t bytes) {
  auto after = memory.all.upper_bound(address);
  if (after == memory.all.begin()) return nullptr;
  auto& [start, block] = *std::prev(after);
  return block.context == current && address + bytes <= start + block.bytes ? &block : nullptr;
}

// ---- kernels ----

Code break_context(uint64_t context, Code code = ILLEGAL_ADDRESS) {
  return contexts.find(context)->broken = code;
}

Code execute(Launch& launch) {
  Function* function = functions.find(launch.function);
  if (!function) return wrong(INVALID_HANDLE, "a kernel is run whose module was unloaded");
  const EmulatedKernel* kernel = function->kernel;
  if (++launches == setting("STUB_CUDA_FAIL_LAUNCH", 0)) {
    broken = function->name;
    return break_context(function->context, Code(setting("STUB_CUDA_FAIL_CODE", ILLEGAL_ADDRESS)));
  }
  std::vector<void*> arguments;
  for (size_t i = 0; i < launch.arguments.size(); i++) {
    auto& bytes = launch.arguments[i];
    arguments.push_back(bytes.data());
    const uint32_t code = kernel->parameters[i].code;
    uint64_t address;
    if (code != 'r' && code != 'w') continue;
    memcpy(&address, bytes.data(), sizeof address);
    const Memory* block = live(address, 0);
    if (!block || !block->set) {
      wrong(ILLEGAL_ADDRESS, "%s: parameter %zu points to %s", kernel->name, i,
            block ? "memory that nobody has set" : "no memory");
      return break_context(function->context);
    }
  }
  const EmulatedGrid grid = {{launch.grid[0], launch.grid[1], launch.grid[2]}, launch.shared};
  const emulator::Schedule schedule = {emulator::FORWARD, 0, 0, 120000};
  uint64_t next = 0;
  uint32_t stop = 0;
  EmulatedFault fault = {};
  emulated_run(kernel, &grid, arguments.data(), &schedule, &next, &stop, &fault);
  if (fault.kind) {
    wrong(ILLEGAL_ADDRESS, "%s", fault.text);
    return break_context(function->context);
  }
  return SUCCESS;
}

// Can it be launched like this?
Code check_launch(const Function& f, const uint32_t* grid, const uint32_t* block, uint32_t shared) {
  const char* name = f.name.c_str();
  if (!grid[0] || !grid[1] || !grid[2] || grid[0] > 0x7fffffff || grid[1] > 65535 || grid[2] > 65535)
    return wrong(INVALID_VALUE, "%s: a grid of %u x %u x %u blocks", name, grid[0], grid[1], grid[2]);
  if (block[1] != 1 || block[2] != 1 || block[0] != f.kernel->threads)
    return wrong(INVALID_VALUE, "%s: blocks of %u x %u x %u threads, but it is for %u", name, block[0], block[1], block[2],
                 f.kernel->threads);
  if (block[0] > f.most_threads)
    return wrong(LAUNCH_OUT_OF_RESOURCES, "%s: %u threads are more than the %u that it was compiled for", name, block[0],
                 f.most_threads);
  // Registers go to warps in pieces of 256.
  const long warps = (block[0] + 31) / 32, of_warp = (f.registers * 32 + 255) / 256 * 256;
  if (warps * of_warp > REGISTERS)
    return wrong(LAUNCH_OUT_OF_RESOURCES, "%s: %ld warps of %u registers a thread", name, warps, f.registers);
  if (shared > f.most_dynamic)
    return wrong(INVALID_VALUE, "%s: %u bytes of dynamic shared memory, and it may have %ld", name, shared, f.most_dynamic);
  return SUCCESS;
}

// A launch with copies of its arguments, if the function can be launched like this.
Code make_launch(uint64_t handle, const uint32_t* grid, const uint32_t* block, uint32_t shared, void** parameters,
                 void** extra, Launch& launch) {
  const Function& f = *functions.find(handle);
  if (extra) return wrong(INVALID_VALUE, "%s: arguments in `extra`", f.name.c_str());
  if (Code code = check_launch(f, grid, block, shared)) return code;
  launch = {handle, {grid[0], grid[1], grid[2]}, shared, {}};
  for (size_t i = 0; i < f.parameters.size(); i++) {
    const auto* bytes = static_cast<const unsigned char*>(parameters[i]);
    launch.arguments.emplace_back(bytes, bytes + f.parameters[i].size);
  }
  return SUCCESS;
}

Code execute_in_any_order(std::vector<Node>& nodes) {
  std::vector<size_t> waits, ready;
  std::vector<std::vector<size_t>> behind(nodes.size());
  for (size_t i = 0; i < nodes.size(); i++) {
    waits.push_back(nodes[i].before.size());
    if (!waits[i]) ready.push_back(i);
    for (size_t other : nodes[i].before) behind[other].push_back(i);
  }
  while (!ready.empty()) {
    std::swap(ready[random_order() % ready.size()], ready.back());
    const size_t next = ready.back();
    ready.pop_back();
    if (Code code = execute(nodes[next].launch)) return code;
    for (size_t other : behind[next])
      if (!--waits[other]) ready.push_back(other);
  }
  return SUCCESS;
}

// ---- machine code ----

struct FatHeader {
  uint32_t magic;
  uint16_t version, header;
  uint64_t bytes;
};
struct FatEntry {
  uint16_t kind, version;
  uint32_t header;
  uint64_t bytes;
  uint32_t unknown[2];
  uint16_t minor, major;
  uint32_t arch;
  uint32_t unknown2[2];
  uint64_t flags;
};
constexpr uint32_t FAT_MAGIC = 0xba55ed50;
constexpr uint16_t MACHINE_CODE = 2;
constexpr uint64_t COMPRESSED = 0x2000 | 0x8000;

// What sections `.nv.info` consist of: a format, an attribute, and a number or the length of what follows.
struct Info {
  uint8_t format, attribute;
  uint16_t value;
};
enum : uint8_t { WITH_BYTES = 4 };
enum : uint8_t { MAX_THREADS = 0x05, PARAM_INFO = 0x17, PARAM_BYTES = 0x19, REGISTER_COUNT = 0x2f };

template <class F>
void each_info(const char* bytes, size_t length, F f) {
  for (size_t at = 0; at + sizeof(Info) <= length;) {
    Info info;
    memcpy(&info, bytes + at, sizeof info);
    at += sizeof info;
    f(info, reinterpret_cast<const uint32_t*>(bytes + at));
    if (info.format == WITH_BYTES) at += info.value;
  }
}

// The host's kernel of this name, which the library carries, too.
const EmulatedKernel* emulated(const std::string& name) {
  static void* self = [] {
    Dl_info info = {};
    dladdr(&last_handle, &info);
    return dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD);
  }();
  return static_cast<const EmulatedKernel*>(dlsym(self, ("emulated_" + name).c_str()));
}

// Do both compilers agree on a kernel's parameters?
Code compare(const Function& f) {
  const char* name = f.name.c_str();
  if (!f.kernel) return wrong(INVALID_IMAGE, "%s: the emulator has no such kernel", name);
  if (f.parameters.size() != f.kernel->count)
    return wrong(INVALID_IMAGE, "%s: %zu parameters in the machine code, %u on the host", name, f.parameters.size(),
                 f.kernel->count);
  uint32_t end = 0;
  for (uint32_t i = 0; i < f.kernel->count; i++) {
    const EmulatedParameter& host = f.kernel->parameters[i];
    const uint32_t bytes = host.code == 'r' || host.code == 'w' ? 8 : host.size;
    const Parameter& p = f.parameters[i];
    if (p.size != bytes || p.offset < end)
      return wrong(INVALID_IMAGE, "%s: parameter %u has %u bytes at %u in the machine code, %u on the host", name, i, p.size,
                   p.offset, bytes);
    end = p.offset + p.size;
  }
  if (end != f.parameter_bytes)
    return wrong(INVALID_IMAGE, "%s: %u bytes of parameters, of which %u are known", name, f.parameter_bytes, end);
  return SUCCESS;
}

// Does machine code wait for the kernel before (ACQBULK) before it reads or writes global memory?
bool waits_first(const char* code, size_t bytes) {
  const std::set<uint32_t> touches = {0x980, 0x981, 0x985, 0x986, 0x98e, 0x9a3, 0x9a8, 0xfae};  // LD, LDG, ST, STG, RED, ATOM, LDGSTS
  for (size_t at = 0; at + 16 <= bytes; at += 16) {
    uint64_t word;
    memcpy(&word, code + at, sizeof word);
    const uint32_t opcode = word & 0xfff;
    if (opcode == 0x82e) return true;
    if (touches.count(opcode)) return false;
  }
  return false;
}

Code read_machine_code(const char* elf, Module& module, uint32_t arch) {
  const auto* header = reinterpret_cast<const Elf64_Ehdr*>(elf);
  const auto* sections = reinterpret_cast<const Elf64_Shdr*>(elf + header->e_shoff);
  const char* names = elf + sections[header->e_shstrndx].sh_offset;
  std::map<std::string, const Elf64_Shdr*> named;
  for (int i = 0; i < header->e_shnum; i++) named[names + sections[i].sh_name] = &sections[i];
  if (!named.count(".symtab") || !named.count(".nv.info")) return wrong(INVALID_IMAGE, "machine code without .nv.info");
  const Elf64_Shdr& table = *named[".symtab"];
  const auto* symbols = reinterpret_cast<const Elf64_Sym*>(elf + table.sh_offset);
  const char* strings = elf + sections[table.sh_link].sh_offset;
  std::map<uint32_t, uint32_t> registers;
  const Elf64_Shdr& info = *named[".nv.info"];
  each_info(elf + info.sh_offset, info.sh_size, [&](Info i, const uint32_t* words) {
    if (i.attribute == REGISTER_COUNT) registers[words[0]] = words[1];
  });
  for (size_t s = 0; s < table.sh_size / sizeof(Elf64_Sym); s++) {
    const std::string name = strings + symbols[s].st_name;
    const auto own = named.find(".nv.info." + name);
    if (ELF64_ST_TYPE(symbols[s].st_info) != STT_FUNC || own == named.end()) continue;
    Function f = {};
    f.name = name;
    f.registers = registers[uint32_t(s)];
    f.most_threads = 1024;
    each_info(elf + own->second->sh_offset, own->second->sh_size, [&](Info i, const uint32_t* words) {
      if (i.attribute == MAX_THREADS) f.most_threads = words[0] * words[1] * words[2];
      if (i.attribute == PARAM_BYTES) f.parameter_bytes = i.value;
      if (i.attribute == PARAM_INFO) {
        const uint32_t ordinal = words[1] & 0xffff;
        if (f.parameters.size() <= ordinal) f.parameters.resize(ordinal + 1);
        f.parameters[ordinal] = {words[1] >> 16, words[2] >> 18};
      }
    });
    if (named.count(".nv.shared." + name)) f.static_shared = long(named[".nv.shared." + name]->sh_size);
    f.most_dynamic = SHARED_DEFAULT - f.static_shared;
    f.kernel = emulated(name);
    f.capability = arch;
    const Elf64_Shdr& text = *named[".text." + name];
    f.waits = waits_first(elf + text.sh_offset, text.sh_size);
    if (Code code = compare(f)) return code;
    if (arch >= 90 && !f.waits)
      return wrong(INVALID_IMAGE, "%s touches memory before it has waited for the kernel before", name.c_str());
    module.kernels.emplace(name, f);
  }
  return SUCCESS;
}

Code read_image(const void* image, Module& module) {
  FatHeader header;
  memcpy(&header, image, sizeof header);
  if (header.magic != FAT_MAGIC) return wrong(INVALID_IMAGE, "not a fatbin");
  const uint32_t capability = uint32_t(setting("STUB_CUDA_CAPABILITY", 90));
  const char* at = static_cast<const char*>(image) + header.header;
  const char *end = at + header.bytes, *best = nullptr;
  uint32_t arch = 0;
  while (at < end) {
    FatEntry entry;
    memcpy(&entry, at, sizeof entry);
    const bool runs = entry.arch / 10 == capability / 10 && entry.arch <= capability;
    if (entry.kind == MACHINE_CODE && runs && entry.arch >= arch) {
      if (entry.flags & COMPRESSED) return wrong(INVALID_IMAGE, "compressed machine code, which this stub cannot read");
      best = at + entry.header;
      arch = entry.arch;
    }
    at += entry.header + entry.bytes;
  }
  // A newer GPU would take PTX, which nothing here compiles.
  return best ? read_machine_code(best, module, arch) : NO_BINARY_FOR_GPU;
}

// ---- the end ----

struct AtExit {
  ~AtExit() {
    const char* path = getenv("STUB_CUDA_REPORT");
    FILE* file = path ? fopen(path, "w") : nullptr;
    if (!file) return;
    for (auto& [name, count] : calls) fprintf(file, "%s %ld\n", name.c_str(), count);
    fprintf(file, "launches %ld\nedges %ld\n", launches, graph_edges);
    if (!broken.empty()) fprintf(file, "broken: %s\n", broken.c_str());
    auto left = [&](auto& table) {
      if (!table.all.empty()) fprintf(file, "left: %zu %s\n", table.all.size(), table.what);
    };
    left(graphs), left(executables), left(streams), left(events), left(memory), left(pinned);
    fclose(file);
  }
} at_exit;

}  // namespace

// ---- the functions, as cuda.h declares them ----
extern "C" {

int cuGetErrorName(int, const char** text) {
  *text = "an error of the stub";
  return SUCCESS;
}

int cuGetErrorString(int code, const char** text) {
  static const std::map<int, const char*> texts = {
      {OUT_OF_MEMORY, "out of memory"},
      {NO_DEVICE, "no CUDA-capable device is detected"},
      {ILLEGAL_ADDRESS, "an illegal memory access was encountered"},
  };
  auto found = texts.find(code);
  *text = found == texts.end() ? "an error of the stub" : found->second;
  return SUCCESS;
}

int cuInit(unsigned flags) {
  std::lock_guard<std::recursive_mutex> guard(lock);
  calls[__func__]++;
  if (flags) return INVALID_VALUE;
  if (setting("STUB_CUDA_DEVICES", 1) == 0) return NO_DEVICE;
  initialised = true;
  return SUCCESS;
}

int cuDriverGetVersion(int* version) {
  *version = int(setting("STUB_CUDA_VERSION", 13000));
  return SUCCESS;
}

int cuDeviceGetCount(int* count) {
  if (!initialised) return NOT_INITIALIZED;
  *count = int(setting("STUB_CUDA_DEVICES", 1));
  return SUCCESS;
}

int cuDeviceGet(int* device, int index) {
  if (!initialised) return NOT_INITIALIZED;
  if (index < 0 || index >= setting("STUB_CUDA_DEVICES", 1)) return INVALID_DEVICE;
  *device = index;
  return SUCCESS;
}

int cuDeviceGetName(char* name, int room, int device) {
  if (!initialised) return NOT_INITIALIZED;
  snprintf(name, size_t(room), "Stub %d", device);
  return SUCCESS;
}

int cuDeviceGetAttribute(int* value, int attribute, int) {
  if (!initialised) return NOT_INITIALIZED;
  const int capability = int(setting("STUB_CUDA_CAPABILITY", 90));
  const std::map<int, int> known = {{16, PROCESSORS}, {75, capability / 10}, {76, capability % 10}, {97, SHARED_OPTIN}};
  auto found = known.find(attribute);
  if (found == known.end()) return wrong(INVALID_VALUE, "attribute %d of a device", attribute);
  *value = found->second;
  return SUCCESS;
}

int cuDevicePrimaryCtxRetain(uint64_t* context, int device) {
  std::lock_guard<std::recursive_mutex> guard(lock);
  calls[__func__]++;
  if (!initialised) return NOT_INITIALIZED;
  for (auto& [handle, one] : contexts.all)
    if (one.device == device && one.retained > 0) {
      one.retained++;
      *context = handle;
      return SUCCESS;
    }
  Context made;
  made.device = device;
  made.retained = 1;
  *context = add(contexts, made);
  return SUCCESS;
}

int cuDevicePrimaryCtxRelease_v2(int device) {
  std::lock_guard<std::recursive_mutex> guard(lock);
  calls[__func__]++;
  for (auto& [handle, one] : contexts.all)
    if (one.device == device && one.retained > 0) {
      one.retained--;
      return SUCCESS;
    }
  return wrong(INVALID_CONTEXT, "a primary context is released more often than retained");
}

int cuCtxSetCurrent(uint64_t context) {
  std::lock_guard<std::recursive_mutex> guard(lock);
  calls[__func__]++;
  Context* found = contexts.find(context);
  if (!found || found->retained == 0) return wrong(INVALID_CONTEXT, "cuCtxSetCurrent: no such context");
  current = context;
  return SUCCESS;
}

int cuStreamCreate(uint64_t* stream, unsigned flags) {
  ENTER();
  // Others would wait for the default stream, which this stub does not have.
  if (flags != 1) return wrong(INVALID_VALUE, "a stream that is not CU_STREAM_NON_BLOCKING");
  *stream = add(streams, Stream{current, {}});
  return SUCCESS;
}

int cuStreamSynchronize(uint64_t handle) {
  ENTER();
  FIND(streams, stream, handle);
  return finish(*stream);
}

int cuStreamDestroy_v2(uint64_t handle) {
  ENTER();
  FIND(streams, stream, handle);
  const Code code = finish(*stream);
  streams.all.erase(handle);
  return code;
}

int cuGraphCreate(uint64_t* graph, unsigned flags) {
  ENTER();
  if (flags) return wrong(INVALID_VALUE, "cuGraphCreate: flags %x", flags);
  *graph = add(graphs, Graph{current, {}, {}});
  return SUCCESS;
}

// As cuda.h declares CUDA_KERNEL_NODE_PARAMS_v2.
struct NodeParameters {
  uint64_t function;
  uint32_t grid[3], block[3], shared;
  void **parameters, **extra;
  uint64_t kernel, context;
};

int cuGraphAddKernelNode_v2(uint64_t* node, uint64_t handle, const uint64_t* before, size_t count, const NodeParameters* p) {
  ENTER();
  FIND(graphs, graph, handle);
  FIND(functions, function, p->function);
  if (p->kernel || (p->context && p->context != current))
    return wrong(INVALID_VALUE, "%s: a node of a CUkernel, or of another context", function->name.c_str());
  Node made;
  if (Code code = make_launch(p->function, p->grid, p->block, p->shared, p->parameters, p->extra, made.launch)) return code;
  for (size_t i = 0; i < count; i++) {
    auto found = graph->handles.find(before[i]);
    if (found == graph->handles.end())
      return wrong(INVALID_VALUE, "%s waits for what is no node of its graph", function->name.c_str());
    made.before.push_back(found->second);
  }
  if (std::set<size_t>(made.before.begin(), made.before.end()).size() != count)
    return wrong(INVALID_VALUE, "%s waits for a node twice", function->name.c_str());
  last_handle += 16;
  graph->handles[*node = last_handle] = graph->nodes.size();
  graph->nodes.push_back(std::move(made));
  return SUCCESS;
}

// As cuda.h declares CUgraphEdgeData.
struct EdgeData {
  uint8_t from_port, to_port, type, reserved[5];
};

int cuGraphAddDependencies_v2(uint64_t handle, const uint64_t* from, const uint64_t* to, const EdgeData* edges, size_t count) {
  ENTER();
  FIND(graphs, graph, handle);
  constexpr uint8_t PROGRAMMATIC = 1, LAUNCH_ORDER = 2;
  for (size_t i = 0; i < count; i++) {
    auto first = graph->handles.find(from[i]), last = graph->handles.find(to[i]);
    if (first == graph->handles.end() || last == graph->handles.end())
      return wrong(INVALID_VALUE, "a dependency between what are not nodes of the graph");
    // Handles are given out in order, and here nodes come after all that they wait for.
    if (first->second >= last->second) return wrong(INVALID_VALUE, "a node waits for a later one");
    std::vector<size_t>& before = graph->nodes[last->second].before;
    if (std::count(before.begin(), before.end(), first->second)) return wrong(INVALID_VALUE, "a node waits for another twice");
    const EdgeData edge = edges ? edges[i] : EdgeData{};
    for (uint8_t byte : edge.reserved)
      if (byte) return wrong(INVALID_VALUE, "reserved bytes of a dependency that are not 0");
    const bool early = edge.type == PROGRAMMATIC;
    if (edge.type > PROGRAMMATIC || edge.to_port || edge.from_port > LAUNCH_ORDER || early != (edge.from_port > 0))
      return wrong(INVALID_VALUE, "a dependency of type %d from port %d to port %d", edge.type, edge.from_port, edge.to_port);
    const Function& function = *functions.find(graph->nodes[last->second].launch.function);
    if (early && !function.waits)
      return wrong(INVALID_VALUE, "%s may come before its time and does not wait", function.name.c_str());
    before.push_back(first->second);
  }
  return SUCCESS;
}

int cuGraphInstantiateWithFlags(uint64_t* executable, uint64_t handle, unsigned long long flags) {
  ENTER();
  FIND(graphs, graph, handle);
  if (flags) return wrong(INVALID_VALUE, "cuGraphInstantiateWithFlags: flags %llx", flags);
  for (const Node& node : graph->nodes) graph_edges += long(node.before.size());
  *executable = add(executables, *graph);
  return SUCCESS;
}

int cuGraphDestroy(uint64_t handle) {
  ENTER();
  FIND(graphs, graph, handle);
  graphs.all.erase(handle);
  return SUCCESS;
}

int cuGraphExecDestroy(uint64_t handle) {
  ENTER();
  FIND(executables, executable, handle);
  executables.all.erase(handle);
  return SUCCESS;
}

int cuGraphLaunch(uint64_t handle, uint64_t on) {
  ENTER();
  FIND(executables, executable, handle);
  FIND(streams, stream, on);
  for (const Node& node : executable->nodes)
    if (!functions.find(node.launch.function))
      return wrong(INVALID_HANDLE, "a graph is launched of which a module was unloaded");
  // What is destroyed before it ran still runs.
  auto all = std::make_shared<std::vector<Node>>(executable->nodes);
  return enqueue(*stream, [all] { return execute_in_any_order(*all); });
}

int cuModuleLoadData(uint64_t* handle, const void* image) {
  ENTER();
  Module module;
  module.context = current;
  if (Code code = read_image(image, module)) return code;
  *handle = add(modules, module);
  return SUCCESS;
}

// A stub compiles no PTX.
int cuModuleLoadDataEx(uint64_t*, const void*, unsigned, int*, void**) {
  ENTER();
  return JIT_COMPILER_NOT_FOUND;
}

int cuModuleUnload(uint64_t handle) {
  ENTER();
  FIND(modules, module, handle);
  for (auto& [_, stream] : streams.all)
    if (stream.context == current && !stream.queue.empty())
      return wrong(ILLEGAL_STATE, "a module is unloaded while a stream has work");
  for (auto& [_, function] : module->functions) functions.all.erase(function);
  modules.all.erase(handle);
  return SUCCESS;
}

int cuModuleGetFunction(uint64_t* function, uint64_t handle, const char* name) {
  ENTER();
  FIND(modules, module, handle);
  auto found = module->kernels.find(name);
  if (found == module->kernels.end()) return wrong(NOT_FOUND, "the machine code has no kernel %s", name);
  if (!module->functions.count(name)) {
    Function made = found->second;
    made.module = handle;
    made.context = current;
    module->functions[name] = add(functions, made);
  }
  *function = module->functions[name];
  return SUCCESS;
}

int cuFuncGetAttribute(int* value, int attribute, uint64_t handle) {
  ENTER();
  FIND(functions, function, handle);
  const std::map<int, long> known = {{0, function->most_threads},
                                     {1, function->static_shared},
                                     {4, function->registers},
                                     {5, function->capability},
                                     {8, function->most_dynamic}};
  auto found = known.find(attribute);
  if (found == known.end()) return wrong(INVALID_VALUE, "attribute %d of a function", attribute);
  *value = int(found->second);
  return SUCCESS;
}

int cuFuncSetAttribute(uint64_t handle, int attribute, int value) {
  ENTER();
  FIND(functions, function, handle);
  if (attribute != 8) return wrong(INVALID_VALUE, "attribute %d of a function is set", attribute);
  if (value < 0 || value > SHARED_OPTIN - function->static_shared)
    return wrong(INVALID_VALUE, "%s: %d bytes of dynamic shared memory beside %ld", function->name.c_str(), value,
                 function->static_shared);
  function->most_dynamic = value;
  return SUCCESS;
}

int cuFuncLoad(uint64_t handle) {
  ENTER();
  FIND(functions, function, handle);
  (void)function;
  return SUCCESS;
}

int cuLaunchKernel(uint64_t handle, unsigned x, unsigned y, unsigned z, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, uint64_t on, void** parameters, void** extra) {
  ENTER();
  FIND(functions, function, handle);
  FIND(streams, stream, on);
  const uint32_t grid[] = {x, y, z}, block[] = {bx, by, bz};
  Launch launch;
  if (Code code = make_launch(handle, grid, block, shared, parameters, extra, launch)) return code;
  return enqueue(*stream, [launch]() mutable { return execute(launch); });
}

int cuMemAlloc_v2(uint64_t* address, size_t bytes) {
  ENTER();
  if (!bytes) return INVALID_VALUE;
  size_t held = 0;
  for (auto& [_, block] : memory.all) held += block.bytes;
  if (++allocations == setting("STUB_CUDA_FAIL_ALLOC", 0) || held + bytes > size_t(setting("STUB_CUDA_MEMORY", 1 << 30)))
    return OUT_OF_MEMORY;
  void* made = emulated_alloc(bytes, "device memory");
  if (!made) return OUT_OF_MEMORY;
  // What some earlier process has left: numbers that look like any.
  memset(made, 0x3e, bytes);
  *address = uint64_t(made);
  memory.all[*address] = Memory{current, bytes};
  return SUCCESS;
}

int cuMemFree_v2(uint64_t address) {
  ENTER();
  FIND(memory, block, address);
  if (Code code = finish_all()) return code;
  if (int side = emulated_check(reinterpret_cast<void*>(address)))
    wrong(ILLEGAL_ADDRESS, "bytes %s device memory were written", side < 0 ? "before" : "behind");
  emulated_free(reinterpret_cast<void*>(address));
  memory.all.erase(address);
  return SUCCESS;
}

int cuMemHostAlloc(void** start, size_t bytes, unsigned flags) {
  ENTER();
  if (!bytes || flags) return wrong(INVALID_VALUE, "cuMemHostAlloc of %zu bytes with flags %u", bytes, flags);
  void* made = emulated_alloc(bytes, "pinned memory");
  if (!made) return OUT_OF_MEMORY;
  *start = made;
  pinned.all[uint64_t(made)] = Memory{current, bytes};
  return SUCCESS;
}

int cuMemFreeHost(void* start) {
  ENTER();
  FIND(pinned, block, uint64_t(start));
  (void)block;
  for (auto& [_, stream] : streams.all)
    if (stream.context == current && !stream.queue.empty())
      return wrong(ILLEGAL_STATE, "pinned memory is given back that a stream may read");
  if (int side = emulated_check(start))
    wrong(ILLEGAL_ADDRESS, "bytes %s pinned memory were written", side < 0 ? "before" : "behind");
  emulated_free(start);
  pinned.all.erase(uint64_t(start));
  return SUCCESS;
}

int cuMemGetInfo_v2(size_t* free, size_t* all) {
  ENTER();
  *all = *free = size_t(setting("STUB_CUDA_MEMORY", 1 << 30));
  for (auto& [_, block] : memory.all) *free -= std::min(*free, block.bytes);
  return SUCCESS;
}

int cuMemsetD8Async(uint64_t address, unsigned char value, size_t bytes, uint64_t on) {
  ENTER();
  FIND(streams, stream, on);
  if (!live(address, bytes)) return wrong(INVALID_VALUE, "cuMemsetD8Async outside of device memory");
  return enqueue(*stream, [=] {
    Memory* block = live(address, bytes);
    if (bytes == block->bytes) block->set = true;
    memset(reinterpret_cast<void*>(address), value, bytes);
    return SUCCESS;
  });
}

int cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, uint64_t on) {
  ENTER();
  FIND(streams, stream, on);
  if (!live(to, bytes)) return wrong(INVALID_VALUE, "cuMemcpyHtoDAsync outside of device memory");
  return enqueue(*stream, [=] {
    memcpy(reinterpret_cast<void*>(to), from, bytes);
    return SUCCESS;
  });
}

int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, uint64_t on) {
  ENTER();
  FIND(streams, stream, on);
  if (!live(from, bytes)) return wrong(INVALID_VALUE, "cuMemcpyDtoHAsync outside of device memory");
  return enqueue(*stream, [=] {
    memcpy(to, reinterpret_cast<const void*>(from), bytes);
    return SUCCESS;
  });
}

int cuEventCreate(uint64_t* event, unsigned) {
  ENTER();
  *event = add(events, Event{current, false, false, {}});
  return SUCCESS;
}

int cuEventRecord(uint64_t handle, uint64_t on) {
  ENTER();
  FIND(events, event, handle);
  FIND(streams, stream, on);
  event->recorded = true;
  event->done = false;
  return enqueue(*stream, [handle] {
    if (Event* event = events.find(handle)) {
      event->done = true;
      event->when = std::chrono::steady_clock::now();
    }
    return SUCCESS;
  });
}

int cuEventElapsedTime_v2(float* ms, uint64_t start, uint64_t end) {
  ENTER();
  FIND(events, first, start);
  FIND(events, last, end);
  if (!first->recorded || !last->recorded) return wrong(INVALID_HANDLE, "an event that was not recorded");
  if (!first->done || !last->done) return wrong(NOT_READY, "time between events that nobody waited for");
  *ms = std::chrono::duration<float, std::milli>(last->when - first->when).count();
  return SUCCESS;
}

int cuEventDestroy_v2(uint64_t handle) {
  ENTER();
  FIND(events, event, handle);
  events.all.erase(handle);
  return SUCCESS;
}
}
