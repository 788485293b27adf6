// What runtime.cpp and memory.cpp share. Free of the C++ library, so that binaries do not depend on it.
#pragma once
#include "cuda.h"

#if !defined(__x86_64__) || !defined(__linux__)
#error "the switch between fibers and the handler of faults are written for Linux on x86-64"
#endif

// The stack pointer goes to *save, that of `to` is taken up.
extern "C" void emulator_switch(void** save, void* to);
// The end of emulator_switch, for whoever has set the stack pointer.
extern "C" void emulator_resume();

// ---- seen by src/device/emulator.rs ----
extern "C" {
struct EmulatedFault {
  int32_t kind;  // 0: none
  char text[1532];
};
struct EmulatedGrid {
  uint32_t size[3], dynamic_bytes;
};
}

namespace emulator {

constexpr int MAX_THREADS = 1024, MAX_SHARED = 512;
constexpr size_t PAGE = 4096, STACK_BYTES = 64 << 10, MAX_DYNAMIC = 228 << 10;

enum Fault { ACCESS = 1, SYNCHRONISATION = 2, TIMEOUT = 3, CHECK = 4 };
enum Order : uint32_t { FORWARD, BACKWARD, SHUFFLED };

// In which order threads run until they wait, and when asynchronous copies land.
struct Schedule {
  uint32_t order, seed, early_copies, timeout_ms;
};

struct Copy {
  void* to;
  const void* from;
  int size, bytes, group;
};

struct Stack {
  void* pointer;
  Stack* next;
  bool fresh, guarded;
};

enum State : uint8_t { NEW, RUNNING, READY, AT_BARRIER, IN_WARP, RETURNED };

struct Thread : Position {
  unsigned number;
  State state;
  Stack* stack;
  // What it waits for.
  const char* what;
  Site site;
  int verdict;
  unsigned mask;
  WarpFunction together;
  void* operands;
  // Copies under way.
  Copy* queue;
  int copies, room, groups;
};

struct Warp {
  unsigned arrived, gone;
};

struct SharedArray {
  char* low;
  size_t mapped;
  char* memory;
  size_t bytes;
  uint64_t filled_for;
};

// A thread is in the queue once at most.
struct Queue {
  Thread* threads[MAX_THREADS];
  unsigned head, tail;
  bool empty() const { return head == tail; }
  void put(Thread* t) { threads[tail++ % MAX_THREADS] = t; }
  Thread* take() { return threads[head++ % MAX_THREADS]; }
  void clear() { head = tail = 0; }
};

// What one thread of the operating system needs to run blocks.
struct Machine {
  Thread threads[MAX_THREADS];
  Stack stacks[MAX_THREADS];
  Warp warps[MAX_THREADS / 32];
  uint16_t order[MAX_THREADS];
  Queue ready;
  Stack* free;
  char* stack_memory;
  int count, started, returned;

  int waiting, votes, verdict;
  Vote vote;
  Site barrier_site;

  SharedArray shared[MAX_SHARED];
  char *dynamic_low, *dynamic_end;
  size_t dynamic_bytes;
  uint64_t block_number;

  const EmulatedKernel* kernel;
  void** arguments;
  Schedule schedule;
  EmulatedFault* fault;
  void* home;  // the context of run_block
  volatile bool in_kernel;
};

extern __thread Machine* machine;

void report(Fault fault, const char* text);
void switch_from(void** save);
Machine* new_machine();
void free_machine(Machine* m);

char* map_pages(size_t bytes);
// This thread's machine, with faults caught and the clock running (0: without limit); and the end of that.
Machine* enter_machine(unsigned timeout_ms);
void leave_machine();

}  // namespace emulator
