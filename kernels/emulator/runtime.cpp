// The machine of the emulation: fibers, barriers, warp collectives, shared memory, asynchronous copies.
// Device memory and the reports of faults are in memory.cpp.
#include "runtime.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

// ---- the switch: six registers that a function must keep, and the stack pointer ----
asm(R"(
.text
.p2align 4
.globl emulator_switch
.hidden emulator_switch
.type emulator_switch,@function
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
.globl emulator_resume
.hidden emulator_resume
emulator_resume:
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret  # paired with the caller's call: a jump would confuse the prediction of returns
.size emulator_switch,.-emulator_switch
)");

namespace emulator {

__thread const Position* position;
__thread Block block;
__thread Machine* machine;

static Thread* running() { return static_cast<Thread*>(const_cast<Position*>(position)); }

// ---- reports ----

void report(Fault fault, const char* text) {
  EmulatedFault* out = machine->fault;
  if (out->kind != 0) return;
  const uint3 b = block.index;
  int n = snprintf(out->text, sizeof out->text, "kernel %s, block (%u,%u,%u)", machine->kernel->name,
                   b.x, b.y, b.z);
  if (position) n += snprintf(out->text + n, sizeof out->text - n, ", thread %u", running()->number);
  snprintf(out->text + n, sizeof out->text - n, ": %s", text);
  out->kind = fault;
}

// Leaves the block's fibers where they are and goes back to run_block.
[[noreturn]] static void abandon() {
  void* nowhere;
  emulator_switch(&nowhere, machine->home);
  __builtin_unreachable();
}

[[noreturn]] static void fail_as(Fault fault, const char* format, va_list list) {
  char text[1200];
  vsnprintf(text, sizeof text, format, list);
  report(fault, text);
  abandon();
}

void fail(const char* format, ...) {
  va_list list;
  va_start(list, format);
  fail_as(CHECK, format, list);
}

[[noreturn]] static void unsynchronised(const char* format, ...) {
  va_list list;
  va_start(list, format);
  fail_as(SYNCHRONISATION, format, list);
}

// ---- fibers ----
//
// A stack belongs to a thread only from the moment at which the thread first waits. Until then threads run
// one after the other on the same stack, so that a kernel without barriers is a plain loop.

static void left(Thread* t);

static void run_threads() {
  Machine* m = machine;
  for (;;) {
    Stack* stack = m->free;
    m->free = stack->next;
    while (m->ready.empty() && m->started < m->count) {
      Thread* t = &m->threads[m->order[m->started++]];
      t->state = RUNNING;
      t->stack = stack;
      position = t;
      m->kernel->call(m->arguments);
      t->state = RETURNED;
      m->returned++;
      left(t);
    }
    stack->next = m->free;
    m->free = stack;
    switch_from(&stack->pointer);
  }
}

// Saves the present context and goes on with a thread that can, or with a new one, or back home.
void switch_from(void** save) {
  Machine* m = machine;
  if (!m->ready.empty()) {
    Thread* t = m->ready.take();
    t->state = RUNNING;
    position = t;
    if (save != &t->stack->pointer) emulator_switch(save, t->stack->pointer);
  } else if (m->started < m->count) {
    Stack* stack = m->free;
    if (stack->fresh) {
      const size_t i = stack - m->stacks;
      char* low = m->stack_memory + i * STACK_BYTES;
      if (!stack->guarded) {  // only now: every guard is one more mapping of the process
        mprotect(low, PAGE, PROT_NONE);
        stack->guarded = true;
      }
      // Tops that are all a stack size apart would share the same few sets of the cache.
      uintptr_t top = (uintptr_t(low) + STACK_BYTES - i % 29 * 384) & ~uintptr_t(63);
      void** frame = reinterpret_cast<void**>(top) - 8;
      memset(frame, 0, 8 * sizeof *frame);
      frame[6] = reinterpret_cast<void*>(&run_threads);  // six registers, then where to return to
      stack->pointer = frame;
      stack->fresh = false;
    }
    if (save != &stack->pointer) emulator_switch(save, stack->pointer);
  } else {
    position = nullptr;
    emulator_switch(save, m->home);
  }
}

static void make_ready(Thread* t) {
  t->state = READY;
  machine->ready.put(t);
}

static void wait() { switch_from(&running()->stack->pointer); }

// ---- the barrier of a block ----

static void check_nobody_missing(Machine* m) {
  if (m->waiting > 0 && m->waiting + m->returned == m->count)
    unsynchronised("%d of %d threads wait in __syncthreads at %s:%d, the others have returned", m->waiting,
                   m->count, m->barrier_site.file, m->barrier_site.line);
}

int barrier(Vote vote, int predicate, Site site) {
  Machine* m = machine;
  Thread* t = running();
  if (m->waiting == 0) {
    m->barrier_site = site;
    m->vote = vote;
    m->votes = 0;
  } else if (m->barrier_site.line != site.line || m->vote != vote) {
    unsynchronised("divergent barrier: this thread is in __syncthreads at %s:%d, %d others at %s:%d",
                   site.file, site.line, m->waiting, m->barrier_site.file, m->barrier_site.line);
  }
  t->state = AT_BARRIER;
  t->what = "__syncthreads";
  t->site = site;
  m->waiting++;
  m->votes += predicate != 0;
  if (m->waiting == m->count) {
    const int n = m->votes;
    m->verdict = vote == COUNT ? n : vote == ALL ? n == m->count : n > 0;
    m->waiting = 0;
    for (int i = 0; i < m->count; i++) {
      Thread* other = &m->threads[m->order[i]];
      other->verdict = m->verdict;
      make_ready(other);
    }
  } else {
    check_nobody_missing(m);
  }
  wait();
  return t->verdict;
}

// ---- what the lanes of a warp do together ----
//
// The last lane to come computes the results of all, in the operands of each.

static bool complete(int warp, unsigned mask, const Thread* last) {
  Machine* m = machine;
  Warp& w = m->warps[warp];
  if (((w.arrived | w.gone) & mask) != mask) return false;
  const unsigned here = w.arrived & mask;
  void* operands[32] = {};
  for (unsigned rest = here; rest; rest &= rest - 1) {
    const int lane = __builtin_ctz(rest);
    const Thread* t = &m->threads[warp * 32 + lane];
    if (t->mask != mask || t->together != last->together || t->what != last->what)
      unsynchronised("warp %d disagrees: lane %u is in %s (mask %08x) at %s:%d, lane %d in %s (mask %08x) at %s:%d",
                     warp, last->number % 32, last->what, last->mask, last->site.file, last->site.line,
                     lane, t->what, t->mask, t->site.file, t->site.line);
    operands[lane] = t->operands;
  }
  last->together(operands, here);
  w.arrived &= ~here;
  for (unsigned rest = here; rest; rest &= rest - 1) {
    Thread* t = &m->threads[warp * 32 + __builtin_ctz(rest)];
    if (t == position)
      t->state = RUNNING;
    else
      make_ready(t);
  }
  return true;
}

void warp_together(WarpFunction f, const char* what, unsigned mask, void* operands, Site site) {
  Thread* t = running();
  const int warp = t->number / 32, lane = t->number % 32;
  if (!(mask >> lane & 1))
    unsynchronised("%s at %s:%d: mask %08x lacks lane %d, which calls it", what, site.file, site.line, mask, lane);
  t->state = IN_WARP;
  t->together = f;
  t->what = what;
  t->mask = mask;
  t->operands = operands;
  t->site = site;
  machine->warps[warp].arrived |= 1u << lane;
  if (!complete(warp, mask, t)) wait();
}

// Lanes that have returned count as arrived: others may have waited for this one alone.
static void left(Thread* t) {
  copy_wait(0);
  const int warp = t->number / 32;
  Warp& w = machine->warps[warp];
  w.gone |= 1u << t->number % 32;
  for (unsigned rest = w.arrived; rest; rest &= rest - 1) {
    const Thread* other = &machine->threads[warp * 32 + __builtin_ctz(rest)];
    if (other->state == IN_WARP && complete(warp, other->mask, other)) break;
  }
  check_nobody_missing(machine);
}

void meet_all(void* const*, unsigned) {}

void ballot_all(void* const* operands, unsigned mask) {
  unsigned votes = 0;
  for (int lane = 0; lane < 32; lane++)
    if (mask >> lane & 1 && static_cast<Ballot*>(operands[lane])->predicate) votes |= 1u << lane;
  for (int lane = 0; lane < 32; lane++)
    if (mask >> lane & 1) static_cast<Ballot*>(operands[lane])->votes = votes;
}

void shuffle_all(void* const* operands, unsigned mask) {
  for (int lane = 0; lane < 32; lane++) {
    if (!(mask >> lane & 1)) continue;
    Shuffle* s = static_cast<Shuffle*>(operands[lane]);
    const int first = lane & -s->width, last = first + s->width - 1;
    int from = lane;
    if (s->kind == TO_LANE) from = first + (s->argument & (s->width - 1));
    if (s->kind == UP && lane - s->argument >= first) from = lane - s->argument;
    if (s->kind == DOWN && lane + s->argument <= last) from = lane + s->argument;
    if (s->kind == ACROSS && (lane ^ s->argument) <= last) from = lane ^ s->argument;
    const Shuffle* other = static_cast<Shuffle*>(operands[from & 31]);
    s->out = other ? other->in : ~uint64_t(0);  // undefined on the device; here NaN or -1
  }
}

// ---- tensor cores ----

struct MmaOperands {
  float c[4];
  unsigned a[4], b[2];
};

static float low_half(unsigned word) { return __uint_as_float(word << 16); }
static float high_half(unsigned word) { return __uint_as_float(word & 0xffff0000u); }

template <int K>
static void mma_all(void* const* operands, unsigned mask) {
  if (mask != ~0u) fail("mma.sync needs all 32 lanes, got %08x", mask);
  float a[16][K], b[K][8];
  for (int lane = 0; lane < 32; lane++) {
    const MmaOperands* o = static_cast<MmaOperands*>(operands[lane]);
    const int g = lane / 4, q = lane % 4;
    for (int i = 0; i < 4; i++) {
      const int row = g + i % 2 * 8;
      if constexpr (K == 8) {
        a[row][q + i / 2 * 4] = __uint_as_float(o->a[i] & 0xffffe000u);
      } else {
        a[row][2 * q + i / 2 * 8] = low_half(o->a[i]);
        a[row][2 * q + i / 2 * 8 + 1] = high_half(o->a[i]);
      }
    }
    for (int i = 0; i < 2; i++) {
      if constexpr (K == 8) {
        b[q + i * 4][g] = __uint_as_float(o->b[i] & 0xffffe000u);
      } else {
        b[2 * q + i * 8][g] = low_half(o->b[i]);
        b[2 * q + i * 8 + 1][g] = high_half(o->b[i]);
      }
    }
  }
  for (int lane = 0; lane < 32; lane++) {
    MmaOperands* o = static_cast<MmaOperands*>(operands[lane]);
    for (int i = 0; i < 4; i++) {
      const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
      for (int k = 0; k < K; k++) o->c[i] = fmaf(a[row][k], b[k][column], o->c[i]);
    }
  }
}

void mma(Mma kind, float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2], Site site) {
  MmaOperands o;
  memcpy(o.c, c, sizeof c);
  memcpy(o.a, a, sizeof a);
  memcpy(o.b, b, sizeof b);
  if (kind == MMA_TF32)
    warp_together(mma_all<8>, "mma.m16n8k8.tf32", ~0u, &o, site);
  else
    warp_together(mma_all<16>, "mma.m16n8k16.bf16", ~0u, &o, site);
  memcpy(c, o.c, sizeof c);
}

struct MatrixRow {
  const uint16_t* row;
  unsigned out[4];
  bool transposed;
};

static void load_all(void* const* operands, unsigned mask) {
  if (mask != ~0u) fail("ldmatrix needs all 32 lanes, got %08x", mask);
  for (int lane = 0; lane < 32; lane++)
    if (uintptr_t(static_cast<MatrixRow*>(operands[lane])->row) % 16)
      fail("ldmatrix: the row of lane %d is not aligned to 16 bytes", lane);
  for (int lane = 0; lane < 32; lane++) {
    MatrixRow* o = static_cast<MatrixRow*>(operands[lane]);
    const int r = lane / 4, c = lane % 4 * 2;
    for (int i = 0; i < 4; i++) {
      auto at = [&](int row, int column) -> unsigned {
        return static_cast<MatrixRow*>(operands[i * 8 + row])->row[column];
      };
      o->out[i] = o->transposed ? at(c, r) | at(c + 1, r) << 16 : at(r, c) | at(r, c + 1) << 16;
    }
  }
}

void load_matrices(unsigned (&r)[4], const void* row, bool transposed, Site site) {
  MatrixRow o = {static_cast<const uint16_t*>(row), {}, transposed};
  warp_together(load_all, "ldmatrix", ~0u, &o, site);
  memcpy(r, o.out, sizeof r);
}

// ---- shared memory: NaN at the start of each block, a page without access behind it ----

static unsigned shared_arrays = 1;

void* shared_array(unsigned* id, size_t bytes) {
  unsigned own = __atomic_load_n(id, __ATOMIC_RELAXED);
  if (own == 0) {
    const unsigned next = __atomic_fetch_add(&shared_arrays, 1, __ATOMIC_RELAXED);
    const bool first = __atomic_compare_exchange_n(id, &own, next, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    own = first ? next : own;
    if (own >= MAX_SHARED) fail("more than %d shared arrays", MAX_SHARED - 1);
  }
  SharedArray& array = machine->shared[own];
  if (!array.memory) {
    const size_t pages = (bytes + PAGE - 1) / PAGE * PAGE;
    char* low = map_pages(pages + PAGE);
    mprotect(low + pages, PAGE, PROT_NONE);
    array = {low, pages + PAGE, low + pages - (bytes + 15) / 16 * 16, bytes, 0};
  }
  if (array.filled_for != machine->block_number) {
    array.filled_for = machine->block_number;
    memset(array.memory, 0xff, bytes);
  }
  return array.memory;
}

void* dynamic_shared() {
  return machine->dynamic_end - (machine->dynamic_bytes + 15) / 16 * 16;
}

// ---- asynchronous copies: as late as the device may make them, or at once ----

static void make(const Copy& c) {
  memcpy(c.to, c.from, c.bytes);
  memset(static_cast<char*>(c.to) + c.bytes, 0, c.size - c.bytes);
}

void copy_async(void* to, const void* from, int size, int bytes, Site site) {
  if ((uintptr_t(to) | uintptr_t(from)) % size)
    fail("cp.async of %d bytes at %s:%d is misaligned", size, site.file, site.line);
  const Copy copy = {to, from, size, bytes, 0};
  if (machine->schedule.early_copies) {
    make(copy);
    return;
  }
  Thread* t = running();
  if (t->copies == t->room) {
    t->room = t->room ? 2 * t->room : 16;
    t->queue = static_cast<Copy*>(realloc(t->queue, t->room * sizeof(Copy)));
  }
  t->queue[t->copies] = copy;
  t->queue[t->copies++].group = t->groups;
}

void copy_commit() { running()->groups++; }

// Group numbers grow along the queue; the ones below groups - keep are due, with 0 all are.
void copy_wait(int keep) {
  Thread* t = running();
  int due = 0;
  while (due < t->copies && (keep == 0 || t->queue[due].group < t->groups - keep)) make(t->queue[due++]);
  if (due == 0) return;
  t->copies -= due;
  memmove(t->queue, t->queue + due, t->copies * sizeof(Copy));
}

// ---- a block ----

static void choose_order(Machine* m) {
  const Schedule& s = m->schedule;
  for (int i = 0; i < m->count; i++) m->order[i] = s.order == BACKWARD ? m->count - 1 - i : i;
  if (s.order != SHUFFLED) return;
  uint64_t state = (s.seed + 1) * 0x9E3779B97F4A7C15ull ^ m->block_number;
  for (int i = m->count - 1; i > 0; i--) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    const int j = (state >> 33) % (i + 1);
    const uint16_t kept = m->order[i];
    m->order[i] = m->order[j];
    m->order[j] = kept;
  }
}

static void fresh_stacks(Machine* m) {
  m->free = nullptr;
  for (int i = MAX_THREADS - 1; i >= 0; i--) {
    m->stacks[i].fresh = true;
    m->stacks[i].next = m->free;
    m->free = &m->stacks[i];
  }
}

// Nothing can go on: who waits where?
static void report_deadlock(Machine* m) {
  char text[1000];
  size_t n = snprintf(text, sizeof text, "deadlock:");
  for (int i = 0; i < m->count && n < sizeof text;) {
    const Thread& t = m->threads[i];
    int end = i + 1;
    auto alike = [&](const Thread& o) {
      return o.state == t.state && (t.state == RETURNED || (o.what == t.what && o.site.line == t.site.line));
    };
    while (end < m->count && alike(m->threads[end])) end++;
    if (t.state == RETURNED)
      n += snprintf(text + n, sizeof text - n, " threads %d to %d have returned;", i, end - 1);
    else
      n += snprintf(text + n, sizeof text - n, " threads %d to %d wait in %s at %s:%d;", i, end - 1, t.what,
                    t.site.file, t.site.line);
    i = end;
  }
  position = nullptr;
  report(SYNCHRONISATION, text);
}

static bool run_block(Machine* m) {
  m->block_number++;
  choose_order(m);
  m->started = m->returned = m->waiting = 0;
  m->ready.clear();
  for (int i = 0; i < m->count; i++) {
    Thread& t = m->threads[i];
    t.number = i;
    t.thread = {unsigned(i), 0, 0};
    t.state = NEW;
    t.copies = t.groups = 0;
  }
  for (int i = 0; i * 32 < m->count; i++) {
    const int lanes = m->count - i * 32;
    m->warps[i] = {0, lanes < 32 ? ~0u << lanes : 0u};  // lanes that do not exist are gone
  }
  if (m->dynamic_bytes) memset(dynamic_shared(), 0xff, m->dynamic_bytes);
  m->in_kernel = true;
  switch_from(&m->home);
  m->in_kernel = false;
  if (m->fault->kind == 0 && m->returned < m->count) report_deadlock(m);
  position = nullptr;
  if (m->fault->kind != 0) fresh_stacks(m);
  return m->fault->kind == 0;
}

Machine* new_machine() {
  Machine* m = static_cast<Machine*>(calloc(1, sizeof(Machine)));
  m->stack_memory = map_pages(MAX_THREADS * STACK_BYTES);
  m->dynamic_low = map_pages(MAX_DYNAMIC + PAGE);
  m->dynamic_end = m->dynamic_low + MAX_DYNAMIC;
  mprotect(m->dynamic_end, PAGE, PROT_NONE);
  fresh_stacks(m);
  return m;
}

void free_machine(Machine* m) {
  munmap(m->stack_memory, MAX_THREADS * STACK_BYTES);
  munmap(m->dynamic_low, MAX_DYNAMIC + PAGE);
  for (SharedArray& array : m->shared)
    if (array.low) munmap(array.low, array.mapped);
  for (Thread& t : m->threads) free(t.queue);
  free(m);
}

}  // namespace emulator

using namespace emulator;

// Runs blocks, taken from *next, until there are none or one has failed on any thread (*stop).
extern "C" void emulated_run(const EmulatedKernel* kernel, const EmulatedGrid* grid, void** arguments,
                             const Schedule* schedule, uint64_t* next, uint32_t* stop, EmulatedFault* fault) {
  Machine* m = enter_machine(schedule->timeout_ms);
  m->kernel = kernel;
  m->arguments = arguments;
  m->schedule = *schedule;
  m->fault = fault;
  m->count = kernel->threads;
  m->dynamic_bytes = grid->dynamic_bytes;
  block.threads = {kernel->threads, 1, 1};
  block.grid = {grid->size[0], grid->size[1], grid->size[2]};
  const uint64_t x = grid->size[0], y = grid->size[1], total = x * y * grid->size[2];
  while (!__atomic_load_n(stop, __ATOMIC_RELAXED)) {
    uint64_t b = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED);
    if (b >= total) break;
    if (schedule->order == BACKWARD) b = total - 1 - b;
    block.index = {unsigned(b % x), unsigned(b / x % y), unsigned(b / (x * y))};
    if (!run_block(m)) __atomic_store_n(stop, 1, __ATOMIC_RELAXED);
  }
  leave_machine();
}
