// Does with the stub of libcuda what src/device/cuda.rs must not do: each call must be refused by the driver's own code.
// Arguments: a fatbin with the kernel `relu_fwd`.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

extern "C" {
int cuInit(unsigned);
int cuDeviceGet(int*, int);
int cuDevicePrimaryCtxRetain(uint64_t*, int);
int cuCtxSetCurrent(uint64_t);
int cuStreamCreate(uint64_t*, unsigned);
int cuStreamSynchronize(uint64_t);
int cuGraphCreate(uint64_t*, unsigned);
int cuGraphAddKernelNode_v2(uint64_t*, uint64_t, const uint64_t*, size_t, const struct NodeParameters*);
int cuGraphAddDependencies_v2(uint64_t, const uint64_t*, const uint64_t*, const struct EdgeData*, size_t);
int cuGraphInstantiateWithFlags(uint64_t*, uint64_t, unsigned long long);
int cuGraphDestroy(uint64_t);
int cuGraphExecDestroy(uint64_t);
int cuGraphLaunch(uint64_t, uint64_t);
int cuModuleLoadData(uint64_t*, const void*);
int cuModuleUnload(uint64_t);
int cuModuleGetFunction(uint64_t*, uint64_t, const char*);
int cuFuncSetAttribute(uint64_t, int, int);
int cuFuncLoad(uint64_t);
int cuLaunchKernel(uint64_t, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, uint64_t, void**, void**);
int cuMemAlloc_v2(uint64_t*, size_t);
int cuMemFree_v2(uint64_t);
int cuMemsetD8Async(uint64_t, unsigned char, size_t, uint64_t);
int cuMemcpyDtoHAsync_v2(void*, uint64_t, size_t, uint64_t);
int cuEventCreate(uint64_t*, unsigned);
int cuEventRecord(uint64_t, uint64_t);
int cuEventElapsedTime_v2(float*, uint64_t, uint64_t);
}

struct NodeParameters {
  uint64_t function;
  uint32_t grid[3], block[3], shared;
  void **parameters, **extra;
  uint64_t kernel, context;
};

struct EdgeData {
  uint8_t from_port, to_port, type, reserved[5];
};

static int failures = 0;

static void expect(int wanted, int got, const char* what) {
  if (wanted == got) return;
  printf("%s: code %d in place of %d\n", what, got, wanted);
  failures++;
}

int main(int, char** arguments) {
  static char image[1 << 20];
  FILE* file = fopen(arguments[1], "rb");
  if (!file || !fread(image, 1, sizeof image, file)) return 2;
  fclose(file);

  int device;
  uint64_t context, stream, other, module, relu, graph, second, nodes[3], program, x, fresh, event[2];
  expect(3, cuDeviceGet(&device, 0), "a device before cuInit");
  expect(0, cuInit(0), "cuInit");
  expect(201, cuMemAlloc_v2(&x, 64), "memory without a context");
  expect(0, cuDevicePrimaryCtxRetain(&context, 0), "a context");
  expect(0, cuCtxSetCurrent(context), "a context made current");
  expect(0, cuStreamCreate(&stream, 1), "a stream");
  expect(0, cuMemAlloc_v2(&x, 64), "memory");
  expect(0, cuMemAlloc_v2(&fresh, 64), "memory");
  expect(0, cuMemsetD8Async(x, 0, 64, stream), "memory is set");
  expect(1, cuMemsetD8Async(x, 0, 65, stream), "more memory is set than there is");
  char bytes[65];
  expect(1, cuMemcpyDtoHAsync_v2(bytes, x + 1, 64, stream), "memory is read behind its end");
  expect(0, cuModuleLoadData(&module, image), "a module");
  expect(500, cuModuleGetFunction(&relu, module, "relu"), "a kernel that is not there");
  expect(0, cuModuleGetFunction(&relu, module, "relu_fwd"), "a kernel");

  long long n = 16;
  void* parameters[] = {&x, &x, &n};
  auto launch = [&](unsigned blocks_x, unsigned blocks_y, unsigned threads, unsigned shared) {
    return cuLaunchKernel(relu, blocks_x, blocks_y, 1, threads, 1, 1, shared, stream, parameters, nullptr);
  };
  expect(1, launch(0, 1, 256, 0), "a launch without blocks");
  expect(1, launch(1, 65536, 256, 0), "a launch of too many rows of blocks");
  expect(1, launch(1, 1, 128, 0), "a launch of other threads than the kernel is for");
  expect(1, launch(1, 1, 256, (48 << 10) + 1), "more shared memory than without asking");
  expect(1, cuFuncSetAttribute(relu, 8, (227 << 10) + 1), "more shared memory than there is");
  expect(0, cuFuncSetAttribute(relu, 8, 227 << 10), "all shared memory");
  expect(0, launch(1, 1, 256, 227 << 10), "a launch with all shared memory");

  expect(0, cuFuncLoad(relu), "a kernel is loaded");
  expect(0, cuGraphCreate(&graph, 0), "a graph");
  expect(0, cuGraphCreate(&second, 0), "a second graph");
  NodeParameters node = {relu, {1, 1, 1}, {256, 1, 1}, 0, parameters, nullptr, 0, 0};
  auto added = [&](uint64_t* made, uint64_t to, size_t waits) {
    return cuGraphAddKernelNode_v2(made, to, nodes, waits, &node);
  };
  expect(0, added(&nodes[0], graph, 0), "a node");
  expect(0, added(&nodes[1], graph, 1), "a node that waits for another");
  expect(1, added(&nodes[2], second, 1), "a node that waits for one of another graph");
  nodes[2] = nodes[0];
  expect(1, added(&other, graph, 3), "a node that waits for another twice");
  node.block[0] = 128;
  expect(1, added(&other, graph, 0), "a node of other threads than the kernel is for");
  node.block[0] = 256;
  node.function = graph;
  expect(400, added(&other, graph, 0), "a node of no kernel");
  node.function = relu;
  expect(0, added(&nodes[2], graph, 0), "a third node");
  auto edge = [&](uint64_t of, uint64_t from, uint64_t to, EdgeData data) {
    return cuGraphAddDependencies_v2(of, &from, &to, &data, 1);
  };
  const EdgeData early = {1, 0, 1, {}};
  expect(1, edge(second, nodes[0], nodes[2], early), "a dependency in another graph");
  expect(1, edge(graph, nodes[2], nodes[0], early), "a node waits for a later one");
  expect(1, edge(graph, nodes[0], nodes[1], early), "a node waits for another twice");
  expect(1, edge(graph, nodes[0], nodes[2], {0, 0, 1, {}}), "a programmatic dependency from the port for others");
  expect(1, edge(graph, nodes[0], nodes[2], {1, 0, 0, {}}), "another dependency from the programmatic port");
  expect(1, edge(graph, nodes[0], nodes[2], {1, 1, 1, {}}), "a dependency to a port");
  expect(1, edge(graph, nodes[0], nodes[2], {1, 0, 1, {1}}), "a dependency with a reserved byte");
  expect(0, edge(graph, nodes[0], nodes[2], early), "a programmatic dependency");
  expect(0, cuGraphDestroy(second), "a graph is destroyed");
  expect(0, cuGraphInstantiateWithFlags(&program, graph, 0), "a graph is made ready");
  expect(0, cuGraphDestroy(graph), "a graph is destroyed");
  expect(400, cuGraphDestroy(graph), "a graph is destroyed twice");
  expect(0, cuGraphLaunch(program, stream), "a graph is launched");

  expect(0, cuEventCreate(&event[0], 0), "an event");
  expect(0, cuEventCreate(&event[1], 0), "an event");
  float ms;
  expect(400, cuEventElapsedTime_v2(&ms, event[0], event[1]), "time between events that were not recorded");
  expect(0, cuEventRecord(event[0], stream), "an event is recorded");
  expect(0, cuEventRecord(event[1], stream), "an event is recorded");
  expect(600, cuEventElapsedTime_v2(&ms, event[0], event[1]), "time between events that are not over");
  expect(401, cuModuleUnload(module), "a module is unloaded while a kernel may run");
  expect(0, cuStreamSynchronize(stream), "a wait");
  expect(0, cuEventElapsedTime_v2(&ms, event[0], event[1]), "time between events");

  expect(0, cuModuleUnload(module), "a module is unloaded");
  expect(400, launch(1, 1, 256, 0), "a kernel is launched whose module is gone");
  expect(400, cuGraphLaunch(program, stream), "a graph is launched whose module is gone");
  expect(0, cuGraphExecDestroy(program), "a graph that was made ready is destroyed");
  expect(400, cuGraphLaunch(program, stream), "a graph is launched that is gone");

  // What a kernel does wrong ends the context.
  auto fails = [&](uint64_t operand, const char* what) {
    expect(0, cuDevicePrimaryCtxRetain(&context, 0), "a context");
    expect(0, cuModuleLoadData(&module, image), "a module");
    expect(0, cuModuleGetFunction(&relu, module, "relu_fwd"), "a kernel");
    parameters[0] = &operand;
    expect(0, launch(1, 1, 256, 0), what);
    expect(700, cuStreamSynchronize(stream), what);
    expect(700, cuMemAlloc_v2(&other, 64), "memory after that");
  };
  const bool freed = arguments[2] && atoi(arguments[2]);
  if (freed) {
    const uint64_t gone = x;
    expect(0, cuMemFree_v2(gone), "memory is freed");
    expect(400, cuMemFree_v2(gone), "memory is freed twice");
    fails(gone, "a kernel reads memory that is gone");
  } else {
    fails(fresh, "a kernel reads memory that nobody has set");
  }
  return failures > 0;
}
