// Device memory between pages without access, and what becomes of a fault: a report, and the end of the
// launch, not of the process.
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "runtime.h"

namespace emulator {

char* map_pages(size_t bytes) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) {
    perror("the emulator cannot map memory");
    abort();
  }
  return static_cast<char*>(p);
}

// ---- buffers ----

// Fills the memory and the rest of its pages: NaN as float, -1 as integer.
constexpr unsigned char FILL = 0xff;

struct Buffer {
  char *low, *memory;
  size_t mapped, bytes;
  char name[48];
};

constexpr int MAX_BUFFERS = 1 << 14;
static Buffer buffers[MAX_BUFFERS];
static int buffer_count;
static pthread_mutex_t buffer_lock = PTHREAD_MUTEX_INITIALIZER;

// Also called by the handler of faults, which may not wait for the lock.
static Buffer* find(const void* p) {
  const char* c = static_cast<const char*>(p);
  for (int i = 0; i < buffer_count; i++)
    if (buffers[i].low && c >= buffers[i].low && c < buffers[i].low + buffers[i].mapped) return &buffers[i];
  return nullptr;
}

// ---- faults ----

constexpr int TIMER_OFFSET = 3;  // SIGRTMIN + 3
static struct sigaction former[4];
static const int caught[4] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};

struct Handling {  // of one thread of the operating system
  Machine* machine;
  char* stack;
  stack_t former_stack;
  timer_t timer;
  bool has_timer;
};
static __thread Handling handling;
constexpr size_t HANDLER_STACK = 64 << 10;

static void describe(char* text, size_t room, const char* address, const char* how) {
  const Machine* m = machine;
  if (address >= m->stack_memory && address < m->stack_memory + MAX_THREADS * STACK_BYTES) {
    snprintf(text, room, "stack overflow");
    return;
  }
  if (address >= m->dynamic_end && address < m->dynamic_end + PAGE) {
    snprintf(text, room, "invalid %s %ld bytes past the end of the dynamic shared memory (%zu bytes)", how,
             long(address - m->dynamic_end), m->dynamic_bytes);
    return;
  }
  for (const SharedArray& a : m->shared)
    if (a.low && address >= a.low && address < a.low + a.mapped) {
      snprintf(text, room, "invalid %s %ld bytes past the end of a shared array of %zu bytes", how,
               long(address - a.memory - a.bytes), a.bytes);
      return;
    }
  if (const Buffer* b = find(address)) {
    if (address >= b->memory)
      snprintf(text, room, "invalid %s %ld bytes past the end of %s (%zu bytes)", how,
               long(address - b->memory - b->bytes), b->name, b->bytes);
    else
      snprintf(text, room, "invalid %s %ld bytes before %s (%zu bytes)", how, long(b->memory - address),
               b->name, b->bytes);
    return;
  }
  snprintf(text, room, "invalid %s at address %p, in no device buffer", how, static_cast<const void*>(address));
}

static void on_signal(int signal, siginfo_t* info, void* context) {
  ucontext_t* u = static_cast<ucontext_t*>(context);
  if (!machine || !machine->in_kernel) {
    if (signal == SIGRTMIN + TIMER_OFFSET) return;  // it came too late
    // Not ours: whoever was there before handles it, or, if that was a default, the instruction meets it again.
    for (int i = 0; i < 4; i++) {
      if (caught[i] != signal) continue;
      if (former[i].sa_flags & SA_SIGINFO)
        former[i].sa_sigaction(signal, info, context);
      else
        sigaction(signal, &former[i], nullptr);
    }
    return;
  }
  char text[600];
  Fault fault = ACCESS;
  if (signal == SIGSEGV || signal == SIGBUS) {
    const char* how = u->uc_mcontext.gregs[REG_ERR] & 2 ? "write" : "read";
    describe(text, sizeof text, static_cast<char*>(info->si_addr), how);
  } else if (signal == SIGFPE) {
    snprintf(text, sizeof text, "integer division by zero");
  } else if (signal == SIGILL) {
    snprintf(text, sizeof text, "illegal instruction");
  } else {
    fault = TIMEOUT;
    snprintf(text, sizeof text, "still running after %u ms", machine->schedule.timeout_ms);
  }
  report(fault, text);
  u->uc_mcontext.gregs[REG_RSP] = greg_t(uintptr_t(machine->home));
  u->uc_mcontext.gregs[REG_RIP] = greg_t(reinterpret_cast<uintptr_t>(&emulator_resume));
}

static pthread_key_t at_exit;

static void free_handling(void*) {
  if (handling.has_timer) timer_delete(handling.timer);
  free(handling.stack);
  free_machine(handling.machine);
  machine = nullptr;
  handling = {};
}

static void catch_signals() {
  struct sigaction action = {};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
  sigemptyset(&action.sa_mask);
  for (int i = 0; i < 4; i++) sigaction(caught[i], &action, &former[i]);
  sigaction(SIGRTMIN + TIMER_OFFSET, &action, nullptr);
  pthread_key_create(&at_exit, free_handling);
}

static void set_timer(unsigned ms) {
  if (!handling.has_timer) return;
  itimerspec when = {};
  when.it_value = {time_t(ms / 1000), long(ms % 1000) * 1000000};
  when.it_interval = when.it_value;  // one that comes between two blocks says nothing
  timer_settime(handling.timer, 0, &when, nullptr);
}

Machine* enter_machine(unsigned timeout_ms) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, catch_signals);
  if (!handling.machine) {
    handling.machine = new_machine();
    handling.stack = static_cast<char*>(malloc(HANDLER_STACK));
    sigevent event = {};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = SIGRTMIN + TIMER_OFFSET;
    event._sigev_un._tid = pid_t(syscall(SYS_gettid));
    handling.has_timer = timer_create(CLOCK_MONOTONIC, &event, &handling.timer) == 0;
    pthread_setspecific(at_exit, &handling);
  }
  machine = handling.machine;
  stack_t own = {};
  own.ss_sp = handling.stack;
  own.ss_size = HANDLER_STACK;
  sigaltstack(&own, &handling.former_stack);
  set_timer(timeout_ms);
  return machine;
}

void leave_machine() {
  set_timer(0);
  sigaltstack(&handling.former_stack, nullptr);
}

}  // namespace emulator

using namespace emulator;

extern "C" {

// Memory that ends, up to 15 bytes, at a page without access. Null where there is none left.
void* emulated_alloc(size_t bytes, const char* name) {
  const size_t room = (bytes + 15) / 16 * 16, pages = (room + PAGE - 1) / PAGE * PAGE;
  void* mapped = mmap(nullptr, pages + 2 * PAGE, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  char* low = static_cast<char*>(mapped);
  mprotect(low, PAGE, PROT_NONE);
  mprotect(low + PAGE + pages, PAGE, PROT_NONE);
  memset(low + PAGE, FILL, pages);
  Buffer buffer = {low, low + PAGE + pages - room, pages + 2 * PAGE, bytes, {}};
  snprintf(buffer.name, sizeof buffer.name, "%s", name);
  pthread_mutex_lock(&buffer_lock);
  int i = 0;
  while (i < buffer_count && buffers[i].low) i++;
  if (i < MAX_BUFFERS) {
    buffers[i] = buffer;
    if (i == buffer_count) buffer_count++;
  }
  pthread_mutex_unlock(&buffer_lock);
  if (i < MAX_BUFFERS) return buffer.memory;
  munmap(low, buffer.mapped);
  return nullptr;
}

// Were the bytes of its pages around a buffer written? -1 before it, 1 behind it, 0 not.
int emulated_check(const void* memory) {
  pthread_mutex_lock(&buffer_lock);
  const Buffer* b = find(memory);
  int found = 0;
  if (b) {
    for (const char* p = b->low + PAGE; p < b->memory; p++)
      if (static_cast<unsigned char>(*p) != FILL) found = -1;
    for (const char* p = b->memory + b->bytes; p < b->low + b->mapped - PAGE; p++)
      if (static_cast<unsigned char>(*p) != FILL) found = 1;
  }
  pthread_mutex_unlock(&buffer_lock);
  return found;
}

void emulated_free(void* memory) {
  pthread_mutex_lock(&buffer_lock);
  if (Buffer* b = find(memory)) {
    munmap(b->low, b->mapped);
    b->low = nullptr;
  }
  pthread_mutex_unlock(&buffer_lock);
}

// ---- what -fsanitize=bounds,alignment calls ----
struct SourceLocation {
  const char* file;
  uint32_t line, column;
};
struct OutOfBounds {
  SourceLocation location;
};
struct Mismatch {
  SourceLocation location;
  void* type;
  unsigned char log_alignment, kind;
};

// Weak: a build with a sanitizer of its own (fuzz/) brings its handlers.
__attribute__((weak)) void __ubsan_handle_out_of_bounds_abort(OutOfBounds* d, uintptr_t index) {
  fail("index %ld is out of the array's bounds at %s:%u", long(index), d->location.file, d->location.line);
}
__attribute__((weak)) void __ubsan_handle_type_mismatch_v1_abort(Mismatch* d, uintptr_t address) {
  fail("misaligned access to %p, which needs %u bytes, at %s:%u", reinterpret_cast<void*>(address),
       1u << d->log_alignment, d->location.file, d->location.line);
}
}
