// SAM; formula in src/optim/sam.rs.
#include "optim.cuh"

DEVICE float sam_scale(int adaptive, float w) { return adaptive ? fabsf(w) : 1.0f; }

KERNEL(sam_sums, 256, const float* __restrict__ w, const float* __restrict__ g, double* __restrict__ partial,
       int adaptive, long long n) {
  double sums[1] = {};
  for (long long i = grid_thread(); i < n; i += grid_threads()) {
    const float x = sam_scale(adaptive, w[i]) * g[i];
    sums[0] += x * x;
  }
  store_sums(sums, partial);
}

// To the worst weights nearby; where it came from goes to `start`.
KERNEL(sam_ascend, 256, float* __restrict__ w, const float* __restrict__ g, float* __restrict__ start,
       const double* __restrict__ partial, int blocks, float rho, int adaptive, long long n) {
  double sums[1];
  load_sums(sums, partial, blocks);
  const float length = rho / (sqrtf((float)sums[0]) + 1e-12f);
  for (long long i = grid_thread(); i < n; i += grid_threads()) {
    const float from = w[i], s = sam_scale(adaptive, from);
    start[i] = from;
    w[i] = from + s * s * g[i] * length;
  }
}

KERNEL(sam_return, 256, const float* __restrict__ start, float* __restrict__ w, long long n) {
  for (long long i = grid_thread(); i < n; i += grid_threads()) w[i] = start[i];
}
