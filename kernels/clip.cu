// Clipped gradients; formula in src/optim/clip.rs.
#include "optim.cuh"

KERNEL(clip_sums, 256, const float* __restrict__ g, double* __restrict__ partial, long long n) {
  double sums[1] = {};
  for (long long i = grid_thread(); i < n; i += grid_threads()) sums[0] += g[i] * g[i];
  store_sums(sums, partial);
}

// By the norm whose squares were summed, if `norm` is above 0, and by value, if `value` is.
KERNEL(clip, 256, float* __restrict__ g, const double* __restrict__ partial, int blocks, float norm, float value,
       long long n) {
  float factor = 1.0f;
  if (norm > 0.0f) {
    double sums[1];
    load_sums(sums, partial, blocks);
    factor = norm / (sqrtf((float)sums[0]) + 1e-6f);
    if (factor >= 1.0f) factor = 1.0f;
  }
  for (long long i = grid_thread(); i < n; i += grid_threads()) {
    float x = g[i] * factor;
    // Comparisons that NaN passes as it is.
    if (value > 0.0f) x = x > value ? value : x < -value ? -value : x;
    g[i] = x;
  }
}
