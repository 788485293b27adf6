// What this device can do, for comparison: copies alone, and multiply-adds alone, in registers. from, to (n); out (threads)
//   peak_copy  to = from, four vectors of four under way per thread
//   peak_fp32  16 chains of fmaf per thread, x <- scale x + shift from 0, 1, ..., 15; out = their sum
//   peak_tf32  8 products of 16x8x8 per warp on tensor cores (mma.sync), C <- C + A B from 0, A being full of ones and B of
//              eighths; out = the sum of a thread's 32 entries, 32 rounds
#include "common.cuh"

KERNEL(peak_copy, 256, const float* __restrict__ from, float* __restrict__ to, long long n) {
  const float4* x = reinterpret_cast<const float4*>(from);
  float4* y = reinterpret_cast<float4*>(to);
  const long long whole = n / 4;
  for (long long i = grid_thread(); i < whole; i += 4 * grid_threads()) {
    float4 v[4];
#pragma unroll
    for (int j = 0; j < 4; j++)
      if (i + j * grid_threads() < whole) v[j] = x[i + j * grid_threads()];
#pragma unroll
    for (int j = 0; j < 4; j++)
      if (i + j * grid_threads() < whole) y[i + j * grid_threads()] = v[j];
  }
  for (long long i = 4 * whole + grid_thread(); i < n; i += grid_threads()) to[i] = from[i];
}

KERNEL(peak_fp32, 256, float* __restrict__ out, float scale, float shift, int rounds) {
  float x[16];
#pragma unroll
  for (int i = 0; i < 16; i++) x[i] = (float)i;
#pragma unroll 8
  for (int round = 0; round < rounds; round++)
#pragma unroll
    for (int i = 0; i < 16; i++) x[i] = fmaf(x[i], scale, shift);
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < 16; i++) sum += x[i];
  out[grid_thread()] = sum;
}

KERNEL(peak_tf32, 256, float* __restrict__ out, int rounds) {
  const unsigned one = to_tf32(1.0f), eighth = to_tf32(0.125f);
  const unsigned a[4] = {one, one, one, one}, b[2] = {eighth, eighth};
  float c[8][4] = {};
#pragma unroll 4
  for (int round = 0; round < rounds; round++)
#pragma unroll
    for (int i = 0; i < 8; i++) mma_tf32(c[i], a, b);
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < 8; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) sum += c[i][j];
  out[grid_thread()] = sum;
}
