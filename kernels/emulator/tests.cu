// Kernels for the tests of the emulation (src/device/emulator.rs): first some that are right, then planted errors.
#include "common.cuh"

KERNEL(warp_exchange, 64, unsigned* out) {
  const unsigned t = threadIdx.x, all = 0xffffffffu;
  unsigned x = __shfl_up_sync(all, t, 3, 16);
  x = x * 64 + __shfl_sync(all, t, 5, 8);
  x = x * 64 + __shfl_down_sync(all, t, 9);
  x = x * 64 + __shfl_xor_sync(all, t, 6);
  out[t] = x;
  out[64 + t] = __ballot_sync(all, t % 3 == 0) + (__any_sync(all, t == 40) ? 1u : 0u);
  out[128 + t] = __syncthreads_count(t % 5 == 0) * 4 + __syncthreads_and(t < 64) * 2 + __syncthreads_or(t == 64);
}

// Every second lane returns; the others go on with a mask of their own.
KERNEL(half_warp, 32, int* out) {
  if (threadIdx.x % 2) return;
  int x = threadIdx.x;
  for (int offset = 16; offset > 1; offset /= 2) x += __shfl_xor_sync(0x55555555u, x, offset);
  out[threadIdx.x / 2] = x;
}

KERNEL(count_with_atomics, 256, int* count, float* total, int* largest) {
  atomicAdd(count, 1);
  atomicAdd(total, 0.5f);
  atomicMax(largest, (int)grid_thread());
}

KERNEL(sum_of_block, 96, const float* x, double* out) {
  double sums[2] = {x[threadIdx.x], 1.0};
  block_sums<96, 2>(sums);
  if (threadIdx.x == 77) {
    out[0] = sums[0];
    out[1] = sums[1];
  }
}

KERNEL(philox_words, 32, unsigned long long key, unsigned long long low, unsigned long long high, unsigned* out) {
  const uint4 words = philox(key, low, high);
  if (threadIdx.x == 0) *reinterpret_cast<uint4*>(out) = words;
}

// C (16, 8) = A (16, 16) B (16, 8), rounded to bfloat16.
KERNEL(bf16_product, 32, const float* a, const float* b, float* c) {
  SHARED(__nv_bfloat16, as, [16][16]);
  SHARED(__nv_bfloat16, bs, [32][8]);
  const int lane = threadIdx.x;
  for (int i = lane; i < 256; i += 32) as[i / 16][i % 16] = __float2bfloat16(a[i]);
  for (int i = lane; i < 256; i += 32) bs[i / 8][i % 8] = __float2bfloat16(i < 128 ? b[i] : 0.0f);
  __syncthreads();
  unsigned fa[4], fb[4];
  load_matrices<false>(fa, &as[lane % 16][lane / 16 * 8]);
  load_matrices<true>(fb, &bs[lane][0]);
  const unsigned low[2] = {fb[0], fb[1]};
  float sum[4] = {};
  mma_bf16(sum, fa, low);
  for (int i = 0; i < 4; i++) c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sum[i];
}

// Double-buffered: block b doubles 32 numbers through shared memory.
KERNEL(copied_twice, 32, const float* x, float* y, int n) {
  SHARED(float, tile, [2][32]);
  copy_async<4>(&tile[0][threadIdx.x], x + threadIdx.x);
  copy_commit();
  for (int i = 0; i < n; i++) {
    if (i + 1 < n) {
      copy_async<4>(&tile[(i + 1) % 2][threadIdx.x], x + (i + 1) * 32 + threadIdx.x);
      copy_commit();
      copy_wait<1>();
    } else {
      copy_wait<0>();
    }
    __syncthreads();
    y[i * 32 + threadIdx.x] = 2.0f * tile[i % 2][31 - threadIdx.x];
    __syncthreads();
  }
}

// ---- planted errors ----

KERNEL(writes_too_far, 256, float* y) { y[grid_thread()] = 1.0f; }
KERNEL(reads_before, 32, const float* x, float* y) { y[threadIdx.x] = x[(int)threadIdx.x - 8]; }
KERNEL(returns_before_barrier, 256, float* y) {
  if (threadIdx.x == 77) return;
  __syncthreads();
  y[threadIdx.x] = 0.0f;
}
KERNEL(two_barriers, 256, float* y) {
  if (threadIdx.x < 128) {
    y[threadIdx.x] = 1.0f;
    __syncthreads();
  } else {
    y[threadIdx.x] = 2.0f;
    __syncthreads();
  }
}
KERNEL(shuffle_in_branch, 64, int* y) {
  int x = threadIdx.x;
  if (threadIdx.x < 16) x = __shfl_sync(0xffffffffu, x, 0);
  __syncthreads();
  y[threadIdx.x] = x;
}
KERNEL(masks_differ, 32, int* y) {
  y[threadIdx.x] = __shfl_sync(threadIdx.x < 16 ? 0xffffffffu : 0xfffffffeu, (int)threadIdx.x, 0);
}
KERNEL(row_too_short, 64, float* y) {
  SHARED(float, rows, [2][32]);
  rows[1][threadIdx.x] = 1.0f;
  __syncthreads();
  y[threadIdx.x] = rows[0][threadIdx.x % 32];
}
KERNEL(dynamic_too_short, 64, float* y) {
  SHARED_DYN(float, row);
  row[threadIdx.x] = 1.0f;
  __syncthreads();
  y[threadIdx.x] = row[63 - threadIdx.x];
}
KERNEL(misaligned, 32, float* y) {
  if (threadIdx.x == 0) *reinterpret_cast<float4*>(y + 1) = make_float4(1, 2, 3, 4);
}
KERNEL(no_barrier, 64, int* y) {
  SHARED(int, row, [64]);
  row[threadIdx.x] = threadIdx.x;
  y[threadIdx.x] = row[63 - threadIdx.x];
}
KERNEL(no_wait, 32, const float* x, float* y) {
  SHARED(float, row, [32]);
  copy_async<4>(&row[threadIdx.x], x + threadIdx.x);
  copy_commit();
  __syncthreads();
  y[threadIdx.x] = row[threadIdx.x];
}
KERNEL(spins, 32, const volatile int* flag) {
  while (*flag == 0) {
  }
}
KERNEL(large_frame, 32, int* y, int n) {
  volatile char frame[1 << 17];
  frame[0] = n;
  frame[n % 256] = 1;
  y[threadIdx.x] = frame[0];
}

// Methods of every kind (src/train/kinds.rs).
KERNEL(step_by_mean, 256, const float* x, const float* y, float* w, float lr, long long n) {
  for (long long i = grid_thread(); i < n; i += grid_threads()) w[i] -= lr * (0.5f * (x[i] + y[i]));
}

KERNEL(norm_of_tensor, 256, const float* x, float* norm, long long n) {
  double sum = 0.0;
  for (long long i = threadIdx.x; i < n; i += 256) sum += (double)(x[i] * x[i]);
  sum = block_sum<256>(sum);
  if (threadIdx.x == 0) *norm = sqrtf((float)sum);
}

KERNEL(step_by_norm, 256, const float* g, const float* norm, float* w, float lr, long long n) {
  for (long long i = grid_thread(); i < n; i += grid_threads()) w[i] -= lr * *norm * g[i];
}

// vectors (5, n): the last five gradients, this step's at done % 5.
KERNEL(step_by_five, 256, const Step* now, const float* g, float* vectors, float* w, float lr, long long n) {
  for (long long i = grid_thread(); i < n; i += grid_threads()) {
    vectors[(long long)(now->done % 5) * n + i] = g[i];
    float sum = 0.0f;
    for (int k = 0; k < 5; k++) sum += vectors[k * n + i];
    w[i] -= lr * sum;
  }
}
