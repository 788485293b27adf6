// Lion; formula and coefficients in src/optim/lion.rs.
#include "optim.cuh"

KERNEL(lion, 256, const Step* __restrict__ now, float* __restrict__ w, const float* __restrict__ g,
       float* __restrict__ d, long long n) {
  const double beta1 = now->c[0], beta2 = now->c[1];
  const float lr = (float)now->c[2], shrink = (float)now->c[3];
  for (long long i = grid_thread(); i < n; i += grid_threads()) {
    const float x = average(beta1, d[i], g[i]);
    w[i] = shrink * w[i] - lr * (float)((x > 0.0f) - (x < 0.0f));
    d[i] = average(beta2, d[i], g[i]);
  }
}
