// Dropout: y = x m / (1 - p), and dx = dy m / (1 - p) by the same kernel. m is drawn anew in both directions: block
// i / 4 of Philox, keyed by the run's seed, counted by stream and step, serves elements 4 (i / 4) and on.
#include "common.cuh"

KERNEL(dropout, 256, const float* __restrict__ x, float* __restrict__ y, const Step* __restrict__ now,
       unsigned threshold, float scale, unsigned stream, long long n) {
  const unsigned long long seed = now->seed, clock = now->clock;
  for (long long block = grid_thread(); block * 4 < n; block += grid_threads()) {
    const uint4 draws = philox(seed, (unsigned long long)stream << 32 | (unsigned long long)block, clock);
    const unsigned draw[4] = {draws.x, draws.y, draws.z, draws.w};
    for (int j = 0; j < 4 && block * 4 + j < n; j++)
      y[block * 4 + j] = (draw[j] < threshold ? 0.0f : scale) * x[block * 4 + j];
  }
}
