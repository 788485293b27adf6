// CUDA's names for a host compiler: what the kernels use of it, no more. One thread of the operating
// system runs one block at a time, and the threads of the block are fibers that stay on it.
#pragma once
// Standard headers first: they use words that become macros below.
#include <math.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)

// ---- vectors: aligned as on the device, so that the sanitizer sees a load that is not ----
struct uint3 {
  unsigned x, y, z;
};
#define EMULATED_VECTORS(T, NAME)                                                        \
  struct alignas(2 * sizeof(T)) NAME##2 {                                                \
    T x, y;                                                                              \
  };                                                                                     \
  struct alignas(4 * sizeof(T)) NAME##4 {                                                \
    T x, y, z, w;                                                                        \
  };                                                                                     \
  static inline NAME##2 make_##NAME##2(T x, T y) { return NAME##2{x, y}; }               \
  static inline NAME##4 make_##NAME##4(T x, T y, T z, T w) { return NAME##4{x, y, z, w}; }
EMULATED_VECTORS(float, float)
EMULATED_VECTORS(int, int)
EMULATED_VECTORS(unsigned, uint)
EMULATED_VECTORS(unsigned char, uchar)

// ---- what the launcher sees of a kernel; must equal `Record` in src/device/emulator.rs ----
extern "C" {
struct EmulatedParameter {
  uint32_t code;  // 'w' T*, 'r' const T*, 'f' 'i' 'u' numbers, 's' a structure
  uint32_t size;  // of T or of the value
};
struct EmulatedKernel {
  const char* name;
  void (*call)(void**);
  const EmulatedParameter* parameters;
  uint32_t count, threads;
};
}

namespace emulator {

// A place in a kernel's source.
struct Site {
  const char* file;
  int line;
};
#define EMULATED_SITE emulator::Site site = {__builtin_FILE(), __builtin_LINE()}

struct Position {
  uint3 thread;
};
struct Block {
  uint3 index, threads, grid;
};
extern __thread const Position* position;
extern __thread Block block;

enum Vote { ALONE, COUNT, ALL, ANY };
int barrier(Vote vote, int predicate, Site site);

// Called once for all lanes of a mask; operands[lane] is null for lanes that take no part.
using WarpFunction = void (*)(void* const* operands, unsigned mask);
void warp_together(WarpFunction f, const char* what, unsigned mask, void* operands, Site site);

void* shared_array(unsigned* id, size_t bytes);
void* dynamic_shared();
void copy_async(void* to, const void* from, int size, int bytes, Site site);
void copy_commit();
void copy_wait(int keep);
enum Mma { MMA_TF32, MMA_BF16 };
void mma(Mma kind, float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2], Site site);
void load_matrices(unsigned (&r)[4], const void* row, bool transposed, Site site);
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

template <class T>
constexpr EmulatedParameter parameter() {
  if constexpr (std::is_pointer_v<T>) {
    using Element = std::remove_pointer_t<T>;
    return {std::is_const_v<Element> ? 'r' : 'w', sizeof(Element)};
  } else if constexpr (std::is_floating_point_v<T>) {
    return {'f', sizeof(T)};
  } else if constexpr (std::is_integral_v<T>) {
    return {std::is_signed_v<T> ? 'i' : 'u', sizeof(T)};
  } else {
    static_assert(std::is_trivially_copyable_v<T>);
    return {'s', sizeof(T)};
  }
}

// Calls a kernel from an array of pointers to its arguments, as cuLaunchKernel takes them.
template <auto F>
struct Signature;
template <class... A, void (*F)(A...)>
struct Signature<F> {
  static constexpr uint32_t count = sizeof...(A);
  static constexpr EmulatedParameter parameters[] = {parameter<std::remove_cv_t<A>>()...};
  template <size_t... I>
  static void unpack(void** arguments, std::index_sequence<I...>) {
    F(*static_cast<std::remove_cv_t<A>*>(arguments[I])...);
  }
  static void call(void** arguments) { unpack(arguments, std::index_sequence_for<A...>{}); }
};

struct Shuffle {
  uint64_t in, out;
  int kind, argument, width;
};
enum { TO_LANE, UP, DOWN, ACROSS };
void shuffle_all(void* const*, unsigned);
struct Ballot {
  int predicate;
  unsigned votes;
};
void ballot_all(void* const*, unsigned);
void meet_all(void* const*, unsigned);

template <class T>
T shuffle(const char* what, int kind, unsigned mask, T value, int argument, int width, Site site) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  Shuffle s = {0, 0, kind, argument, width};
  memcpy(&s.in, &value, sizeof value);
  warp_together(shuffle_all, what, mask, &s, site);
  memcpy(&value, &s.out, sizeof value);
  return value;
}

template <class To, class From>
To bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

// Replaces *p by f(*p) in one piece: blocks run side by side.
template <class T, class F>
T replace(T* p, F f) {
  using Word = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  Word* word = reinterpret_cast<Word*>(p);
  Word before = __atomic_load_n(word, __ATOMIC_RELAXED), after;
  do {
    after = bits<Word>(f(bits<T>(before)));
  } while (!__atomic_compare_exchange_n(word, &before, after, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return bits<T>(before);
}

}  // namespace emulator

#define EMULATED_KERNEL(kernel, threads, ...)                                            \
  static void kernel(__VA_ARGS__);                                                       \
  extern "C" {                                                                           \
  extern const EmulatedKernel emulated_##kernel; /* without it a const would be local */ \
  const EmulatedKernel emulated_##kernel = {                                             \
      #kernel, &emulator::Signature<&kernel>::call,                                      \
      emulator::Signature<&kernel>::parameters, emulator::Signature<&kernel>::count, threads}; \
  }                                                                                      \
  static void kernel(__VA_ARGS__)

#define threadIdx (emulator::position->thread)
#define blockIdx (static_cast<const uint3&>(emulator::block.index))
#define blockDim (static_cast<const uint3&>(emulator::block.threads))
#define gridDim (static_cast<const uint3&>(emulator::block.grid))

// ---- barriers and warps ----
static inline void __syncthreads(EMULATED_SITE) { emulator::barrier(emulator::ALONE, 0, site); }
static inline int __syncthreads_count(int p, EMULATED_SITE) {
  return emulator::barrier(emulator::COUNT, p, site);
}
static inline int __syncthreads_and(int p, EMULATED_SITE) {
  return emulator::barrier(emulator::ALL, p, site);
}
static inline int __syncthreads_or(int p, EMULATED_SITE) {
  return emulator::barrier(emulator::ANY, p, site);
}
static inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
static inline void __nanosleep(unsigned) { sched_yield(); }
static inline void __syncwarp(unsigned mask = ~0u, EMULATED_SITE) {
  int nothing;
  emulator::warp_together(emulator::meet_all, "__syncwarp", mask, &nothing, site);
}
#define EMULATED_SHUFFLE(NAME, KIND, ARGUMENT)                                      \
  template <class T>                                                                \
  T NAME(unsigned mask, T value, ARGUMENT a, int width = 32, EMULATED_SITE) {       \
    return emulator::shuffle(#NAME, emulator::KIND, mask, value, int(a), width, site); \
  }
EMULATED_SHUFFLE(__shfl_sync, TO_LANE, int)
EMULATED_SHUFFLE(__shfl_up_sync, UP, unsigned)
EMULATED_SHUFFLE(__shfl_down_sync, DOWN, unsigned)
EMULATED_SHUFFLE(__shfl_xor_sync, ACROSS, int)
static inline unsigned __ballot_sync(unsigned mask, int p, EMULATED_SITE) {
  emulator::Ballot b = {p, 0};
  emulator::warp_together(emulator::ballot_all, "__ballot_sync", mask, &b, site);
  return b.votes;
}
static inline int __any_sync(unsigned mask, int p, EMULATED_SITE) {
  return __ballot_sync(mask, p, site) != 0;
}
static inline int __all_sync(unsigned mask, int p, EMULATED_SITE) {
  return __ballot_sync(mask, !p, site) == 0;
}

// ---- atomics ----
namespace emulator {
template <class T>
struct Same {
  using Type = T;
};
}  // namespace emulator
#define EMULATED_ATOMIC(NAME, RESULT)                                                       \
  template <class T>                                                                        \
  T NAME(T* p, typename emulator::Same<T>::Type v) {                                        \
    return emulator::replace(p, [=](T old) { return static_cast<T>(RESULT); });             \
  }
EMULATED_ATOMIC(atomicAdd, old + v)
EMULATED_ATOMIC(atomicMax, old > v ? old : v)
EMULATED_ATOMIC(atomicMin, old < v ? old : v)
EMULATED_ATOMIC(atomicExch, v)
EMULATED_ATOMIC(atomicInc, old >= v ? 0 : old + 1)
template <class T>
T atomicCAS(T* p, typename emulator::Same<T>::Type expected, typename emulator::Same<T>::Type v) {
  return emulator::replace(p, [=](T old) { return old == expected ? v : old; });
}

// ---- numbers ----
template <class T>
T __ldg(const T* p) {
  return *p;
}
template <class T>
T __ldcg(const T* p) {
  return *p;
}
static inline unsigned __float_as_uint(float x) { return emulator::bits<unsigned>(x); }
static inline int __float_as_int(float x) { return emulator::bits<int>(x); }
static inline float __uint_as_float(unsigned x) { return emulator::bits<float>(x); }
static inline float __int_as_float(int x) { return emulator::bits<float>(x); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((uint64_t(a) * b) >> 32); }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
#define EMULATED_MIN_MAX(T)                                     \
  static inline T min(T a, T b) { return b < a ? b : a; }       \
  static inline T max(T a, T b) { return a < b ? b : a; }
EMULATED_MIN_MAX(int)
EMULATED_MIN_MAX(unsigned)
EMULATED_MIN_MAX(long long)
EMULATED_MIN_MAX(unsigned long long)
#define rsqrtf(x) (1.0f / sqrtf(x))
#define __trap() emulator::fail("__trap()")

// ---- half precision: storage and conversion; arithmetic goes through float ----
struct __nv_bfloat16 {
  uint16_t x;
};
static inline __nv_bfloat16 __float2bfloat16(float f) {
  const uint32_t u = __float_as_uint(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
  return {uint16_t((u + 0x7fffu + (u >> 16 & 1u)) >> 16)};
}
static inline float __bfloat162float(__nv_bfloat16 h) { return __uint_as_float(uint32_t(h.x) << 16); }
struct __half {
  _Float16 x;
};
static inline __half __float2half(float f) { return {_Float16(f)}; }
static inline float __half2float(__half h) { return float(h.x); }
