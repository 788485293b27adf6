// Sophia-G; formula and coefficients in src/optim/sophia.rs.
//   sophia            a step
//   sophia_curvature  after some of them, from the gradient g at drawn labels
#include "optim.cuh"

struct SophiaStep {
  double beta1, beta2;
  double lr;
  double shrink;  // factor of the weights
  double scale;   // rho bs
};

KERNEL(sophia, 256, const Step* __restrict__ now, const SophiaStep* __restrict__ steps, float* __restrict__ w,
       const float* __restrict__ g, float* __restrict__ m, const float* __restrict__ h, long long n) {
  const SophiaStep c = steps[now->slot];
  const float lr = (float)c.lr, shrink = (float)c.shrink, scale = (float)c.scale;
  for (long long i = grid_thread(); i < n; i += grid_threads()) {
    m[i] = average(c.beta1, m[i], g[i]);
    const float ratio = fabsf(m[i]) / (scale * h[i] + 1e-15f), part = ratio > 1.0f ? 1.0f : ratio;
    w[i] = shrink * w[i] - lr * (sign(m[i]) * part);
  }
}

KERNEL(sophia_curvature, 256, const Step* __restrict__ now, const SophiaStep* __restrict__ steps,
       const float* __restrict__ g, float* __restrict__ h, long long n) {
  const SophiaStep c = steps[now->slot];
  for (long long i = grid_thread(); i < n; i += grid_threads()) h[i] = average_square(c.beta2, h[i], g[i]);
}
