// AdaBound; formula and coefficients in src/optim/adabound.rs.
#include "optim.cuh"

struct AdaBoundStep {
  double beta1, beta2;
  double size;          // lr sqrt(1 - beta2^k) / (1 - beta1^k)
  double lower, upper;  // bounds of an entry's step size
  double eps;
  double weight_decay;
};

KERNEL(adabound, 256, const Step* __restrict__ now, const AdaBoundStep* __restrict__ steps, float* __restrict__ w,
       const float* __restrict__ g, float* __restrict__ d, float* __restrict__ v, long long n) {
  const AdaBoundStep c = steps[now->slot];
  const float s = (float)c.size, lower = (float)c.lower, upper = (float)c.upper;
  const float eps = (float)c.eps, wd = (float)c.weight_decay;
#pragma unroll 2  // more would not fit into registers
  for (long long i = grid_thread(); i < n; i += grid_threads()) {
    d[i] = average(c.beta1, d[i], g[i]);
    v[i] = average_square(c.beta2, v[i], g[i]);
    float size = s / (sqrtf(v[i]) + eps);
    size = size < lower ? lower : size;  // a NaN stays
    size = size > upper ? upper : size;
    w[i] = w[i] - size * d[i] - (wd == 0.0f ? 0.0f : wd * w[i]);
  }
}
