// Dropout: y = x m / (1 - p), and dx = dy m / (1 - p) by the same kernel. m is drawn again in both directions: block
// i / 4 of Philox, keyed by the run's seed, counted by stream and step, serves elements 4 (i / 4) and on.
#include "common.cuh"

KERNEL(dropout, 256, const float* __restrict__ x, float* __restrict__ y, const Step* __restrict__ now,
       unsigned threshold, float scale, unsigned stream, long long n) {
  const unsigned long long seed = now->seed, batch = now->batch;
  const bool aligned = (reinterpret_cast<uintptr_t>(x) | reinterpret_cast<uintptr_t>(y)) % 16 == 0;
  for (long long block = grid_thread(); block * 4 < n; block += grid_threads()) {
    const uint4 draws = philox(seed, (unsigned long long)stream << 32 | (unsigned long long)block, batch);
    const unsigned draw[4] = {draws.x, draws.y, draws.z, draws.w};
    float m[4];
#pragma unroll
    for (int j = 0; j < 4; j++) m[j] = draw[j] < threshold ? 0.0f : scale;
    if (aligned && block * 4 + 3 < n) {
      const float4 v = reinterpret_cast<const float4*>(x)[block];
      reinterpret_cast<float4*>(y)[block] = make_float4(m[0] * v.x, m[1] * v.y, m[2] * v.z, m[3] * v.w);
    } else {
#pragma unroll
      for (int j = 0; j < 4; j++)
        if (block * 4 + j < n) y[block * 4 + j] = m[j] * x[block * 4 + j];
    }
  }
}
