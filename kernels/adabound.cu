// AdaBound; formula and coefficients in src/optim/adabound.rs.
#include "optim.cuh"

KERNEL(adabound, 256, const Step* __restrict__ now, float* __restrict__ w, const float* __restrict__ g,
       float* __restrict__ d, float* __restrict__ v, long long n) {
  const double beta1 = now->c[0], beta2 = now->c[1];
  const float s = (float)now->c[2], lower = (float)now->c[3], upper = (float)now->c[4];
  const float eps = (float)now->c[5], wd = (float)now->c[6];
#pragma unroll 2  // more would not fit into registers
  for (long long i = grid_thread(); i < n; i += grid_threads()) {
    d[i] = average(beta1, d[i], g[i]);
    v[i] = average_square(beta2, v[i], g[i]);
    float size = s / (sqrtf(v[i]) + eps);
    size = size < lower ? lower : size;  // a NaN stays
    size = size > upper ? upper : size;
    w[i] = w[i] - size * d[i] - (wd == 0.0f ? 0.0f : wd * w[i]);
  }
}
