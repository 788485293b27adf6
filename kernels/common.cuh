// The one header that kernels include. For nvcc it is CUDA with a little PTX, for a host compiler the
// emulation. Kernel files themselves never ask which of the two compiles them.
//
//   KERNEL(name, threads, parameters...) { body }
//
// declares a kernel that is always launched with blocks of `threads` threads in one dimension. The build reads the
// same line and writes a typed Rust function from it, so: no comments between the parentheses, no #if
// around a kernel, and no templates (a KERNEL may call one). Parameters that many kernels of a file share may be one
// `#define PARAMETERS const float* x, ...` in that file.
//
//   SHARED(float, tile, [2][64]);     static shared memory
//   SHARED_DYN(float, tile);          dynamic shared memory
//
// Floating point: nvcc runs with -fmad=false and the host compiler with -ffp-contract=off, so what is to be fused is
// written as fmaf, and + - * / sqrtf fmaf give the same bits on both.
#pragma once
#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>
#define KERNEL(name, threads, ...) \
  extern "C" __global__ void __launch_bounds__(threads) name(__VA_ARGS__)
#define SHARED(T, name, dims) __shared__ __align__(16) T name dims
#define SHARED_DYN(T, name)                                         \
  extern __shared__ __align__(16) unsigned char dynamic_shared_[]; \
  T* name = reinterpret_cast<T*>(dynamic_shared_)
#define CALLER

// In a graph the kernel before may still be at its end (`STEPBACK_PDL`, src/device/cuda.rs): waits until it is over and all that
// it wrote can be seen, then lets the next one come, which waits in turn. So whatever comes after has all of those before behind
// it. The build puts this first into every kernel for GPUs (build/kernels.rs).
static __device__ __forceinline__ void begin_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
#else
#include "cuda.h"
#define KERNEL(name, threads, ...) EMULATED_KERNEL(name, threads, __VA_ARGS__)
#define SHARED(T, name, dims)                       \
  static unsigned name##_id_;                       \
  using name##_type_ = T dims;                      \
  name##_type_& name = *static_cast<name##_type_*>( \
      emulator::shared_array(&name##_id_, sizeof(name##_type_)))
#define SHARED_DYN(T, name) T* name = static_cast<T*>(emulator::dynamic_shared())
// Reports name the line of the kernel, not of the wrapper.
#define CALLER , EMULATED_SITE
#endif
#define DEVICE static __device__ __forceinline__
#define METHOD __device__ __forceinline__  // of a structure

// Where training is: written on the host once per epoch, one per batch. The build writes the Rust twin of this and of
// every other structure of plain numbers that a kernel takes.
struct Step {
  unsigned long long seed;   // of dropout's masks
  unsigned long long batch;  // batches trained on before this one
  unsigned long long done;   // training steps before this one, of one batch or of several
  long long slot;            // place of this step in the epoch's tables: coefficients, step sizes
  long long mean_of;         // k: the running averages become plain means, this batch being their k-th; 0: a tenth of it
};

// ---- asynchronous copies from global to shared memory ----

#ifdef __CUDA_ARCH__
DEVICE unsigned shared_address(const void* p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}
#endif

// Copies N = 4, 8 or 16 bytes, of which only the first `bytes` are read; the rest becomes 0. 16 do not pass through L1.
template <int N>
DEVICE void copy_async(void* to, const void* from, int bytes = N CALLER) {
  static_assert(N == 4 || N == 8 || N == 16, "cp.async moves 4, 8 or 16 bytes");
#ifdef __CUDA_ARCH__
  if (N == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
                 "l"(from), "r"(bytes)
                 : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(to)),
                 "l"(from), "n"(N), "r"(bytes)
                 : "memory");
#elif !defined(__CUDACC__)
  emulator::copy_async(to, from, N, bytes, site);
#endif
}

// Copies N = 4 or 16 bytes, or 0 if there is nothing to be copied: then nothing is read at `from`, which must be aligned all the same.
template <int N>
DEVICE void copy_async_if(bool there, void* to, const void* from CALLER) {
  static_assert(N == 4 || N == 16, "of one number or four");
#ifdef __CUDA_ARCH__
  if (N == 16)
    asm volatile(
        "{ .reg .pred none; setp.eq.u32 none, %2, 0; cp.async.cg.shared.global [%0], [%1], 16, none; }" ::"r"(
            shared_address(to)),
        "l"(from), "r"((unsigned)there)
        : "memory");
  else
    asm volatile(
        "{ .reg .pred none; setp.eq.u32 none, %2, 0; cp.async.ca.shared.global [%0], [%1], 4, none; }" ::"r"(
            shared_address(to)),
        "l"(from), "r"((unsigned)there)
        : "memory");
#elif !defined(__CUDACC__)
  emulator::copy_async(to, from, N, there ? N : 0, site);
#endif
}

DEVICE void copy_commit() {
#ifdef __CUDA_ARCH__
  asm volatile("cp.async.commit_group;" ::: "memory");
#elif !defined(__CUDACC__)
  emulator::copy_commit();
#endif
}

// Waits until at most KEEP of this thread's groups of copies are under way.
template <int KEEP>
DEVICE void copy_wait() {
#ifdef __CUDA_ARCH__
  asm volatile("cp.async.wait_group %0;" ::"n"(KEEP) : "memory");
#elif !defined(__CUDACC__)
  emulator::copy_wait(KEEP);
#endif
}

// ---- tensor cores ----

// The nearest TF32 number, ties away from zero. mma.sync drops the low 13 bits of its operands: without
// this they would be cut off.
DEVICE unsigned to_tf32(float x) {
#ifdef __CUDA_ARCH__
  unsigned bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
#else
  const unsigned bits = __float_as_uint(x);
  const bool finite = (bits & 0x7f800000u) != 0x7f800000u;
  return finite ? (bits + 0x1000u) & 0xffffe000u : bits;
#endif
}

// The same for an operand of mma.sync, which drops the low bits itself.
DEVICE unsigned tf32_operand(float x) {
  const unsigned bits = __float_as_uint(x);
  return fabsf(x) < INFINITY ? bits + 0x1000u : bits;
}

// The larger one; not a number if one of them is none.
DEVICE float max_or_nan(float x, float y) {
#ifdef __CUDA_ARCH__
  float r;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(x), "f"(y));
  return r;
#else
  return x != x || x > y ? x : y;
#endif
}

// C (16, 8) += A (16, 8) B (8, 8) of a warp. With g = lane / 4 and q = lane % 4 a lane holds
//   a: (g, q) (g + 8, q) (g, q + 4) (g + 8, q + 4)      b: (q, g) (q + 4, g)
//   c: (g, 2q) (g, 2q + 1) (g + 8, 2q) (g + 8, 2q + 1)
DEVICE void mma_tf32(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2] CALLER) {
#ifdef __CUDA_ARCH__
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#elif !defined(__CUDACC__)
  emulator::mma(emulator::MMA_TF32, c, a, b, site);
#endif
}

// C (16, 8) += A (16, 16) B (16, 8); an operand's word holds two neighbours along k, the lower in the low half:
//   a: (g, 2q) (g + 8, 2q) (g, 2q + 8) (g + 8, 2q + 8)      b: (2q, g) (2q + 8, g)
DEVICE void mma_bf16(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2] CALLER) {
#ifdef __CUDA_ARCH__
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#elif !defined(__CUDACC__)
  emulator::mma(emulator::MMA_BF16, c, a, b, site);
#endif
}

// Four 8x8 matrices of 16-bit numbers from shared memory; lane l gives the address of row l % 8 of matrix l / 8
// and gets entries (l / 4, 2 (l % 4)) and its right neighbour of each, or of its transpose.
template <bool TRANSPOSED>
DEVICE void load_matrices(unsigned (&r)[4], const void* row CALLER) {
#ifdef __CUDA_ARCH__
  if (TRANSPOSED)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
#elif !defined(__CUDACC__)
  emulator::load_matrices(r, row, TRANSPOSED, site);
#endif
}

// ---- sums over threads, in a fixed order ----

// Over LANES neighbours.
template <int LANES>
DEVICE float max_over(float x) {
#pragma unroll
  for (int offset = LANES / 2; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
  return x;
}

template <int LANES, class T>
DEVICE T sum_over(T x) {
#pragma unroll
  for (int offset = LANES / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}

template <class T>
DEVICE T warp_sum(T x) {
  return sum_over<32>(x);
}

// The sum over a block of THREADS threads, for all of them. N sums at once share the barriers.
template <int THREADS, int N, class T>
DEVICE void block_sums(T (&x)[N]) {
  static_assert(THREADS % 32 == 0 && THREADS <= 1024, "whole warps");
  SHARED(T, partial, [N][32]);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int i = 0; i < N; i++) x[i] = warp_sum(x[i]);
  __syncthreads();  // the last call's partial sums have been read
  if (lane == 0)
    for (int i = 0; i < N; i++) partial[i][warp] = x[i];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < N; i++) x[i] = warp_sum(lane < THREADS / 32 ? partial[i][lane] : T(0));
}

template <int THREADS, class T>
DEVICE T block_sum(T x) {
  T sums[1] = {x};
  block_sums<THREADS, 1>(sums);
  return sums[0];
}

// ---- sums over blocks, by the last of them to arrive ----

// Is the block of this thread, which speaks for it, the last of `blocks` that arrive at a counter? That is 0 before the
// first one and after the last one.
DEVICE bool is_last(unsigned* counter, unsigned blocks) { return atomicInc(counter, blocks - 1) == blocks - 1; }

// The same for all threads of the block. If it is, they see what those of the others wrote before they arrived.
DEVICE bool last_to_arrive(unsigned* counter, int blocks) {
  SHARED(bool, last, [1]);
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last[0] = is_last(counter, blocks);
  __syncthreads();
  __threadfence();
  return last[0];
}

// Each of `count` blocks has left a row of `len` numbers. They are added up in a fixed order, whichever block comes last:
// the last one of each GROUP adds up its group's rows, the last of these the groups' sums, for which it calls
// result(i, sum) and returns true. Takes counters_of(count) counters (`Program::counters`).
constexpr int GROUP = 32;

template <class N>
DEVICE N counters_of(N blocks) { return (blocks + GROUP - 1) / GROUP + 1; }

template <class T, class Result>
DEVICE bool sum_over_blocks(T* rows, int len, int row, int count, unsigned* counters, Result result) {
  const int groups = (count + GROUP - 1) / GROUP, first = row / GROUP * GROUP, n = min(GROUP, count - first);
  auto add_up = [&](T* from, int n, long long pitch, bool all) {
#pragma unroll 1
    for (int i = threadIdx.x; i < len; i += blockDim.x) {
      double sum = 0.0;
#pragma unroll 8
      for (int r = 0; r < n; r++) sum += from[r * pitch + i];
      if (all)
        result(i, sum);
      else
        from[i] = (T)sum;
    }
  };
  if (!last_to_arrive(counters + first / GROUP, n)) return false;
  add_up(rows + (long long)first * len, n, len, groups == 1);
  if (groups == 1) return true;
  if (!last_to_arrive(counters + groups, groups)) return false;
  add_up(rows, groups, (long long)GROUP * len, true);
  return true;
}

// ---- blocks that wait for others ----
// Only for those whose work was taken before their own, as in layers.cu: nothing says that any other block runs.

// Counts a block. What all its threads wrote is there for whoever waits.
DEVICE void arrive(unsigned* counter) {
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) atomicAdd(counter, 1u);
}

// Until this many blocks have arrived.
DEVICE void wait_for(const unsigned* counter, unsigned blocks) {
  if (threadIdx.x == 0)
    while (*static_cast<const volatile unsigned*>(counter) < blocks) __nanosleep(50);
  __syncthreads();
  __threadfence();
}

// ---- Philox4x32-10 (Salmon et al. 2011) ----

DEVICE uint4 philox(unsigned long long key, unsigned long long low, unsigned long long high) {
  uint4 c = make_uint4((unsigned)low, (unsigned)(low >> 32), (unsigned)high, (unsigned)(high >> 32));
  unsigned k0 = (unsigned)key, k1 = (unsigned)(key >> 32);
#pragma unroll
  for (int round = 0; round < 10; round++) {
    const unsigned h0 = __umulhi(0xD2511F53u, c.x), l0 = 0xD2511F53u * c.x;
    const unsigned h1 = __umulhi(0xCD9E8D57u, c.z), l1 = 0xCD9E8D57u * c.z;
    c = make_uint4(h1 ^ c.y ^ k0, l1, h0 ^ c.w ^ k1, l0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

// threadIdx.x, read again: what is computed from it does not wait in registers, where a loop needs them all.
DEVICE int thread_again() {
#ifdef __CUDA_ARCH__
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
#else
  return threadIdx.x;
#endif
}

// The same of blockIdx.x.
DEVICE int block_again() {
#ifdef __CUDA_ARCH__
  int block;
  asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(block));
  return block;
#else
  return blockIdx.x;
#endif
}

// Index of this thread in a grid of one dimension, and the number of its threads.
DEVICE long long grid_thread() { return (long long)blockIdx.x * blockDim.x + threadIdx.x; }
DEVICE long long grid_threads() { return (long long)gridDim.x * blockDim.x; }
