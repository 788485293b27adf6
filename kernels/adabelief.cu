// AdaBelief; formula and coefficients in src/optim/adabelief.rs.
#include "optim.cuh"

KERNEL(adabelief, 256, const Step* __restrict__ now, float* __restrict__ w, const float* __restrict__ g,
       float* __restrict__ d, float* __restrict__ v, long long n) {
  const double beta1 = now->c[0], beta2 = now->c[1];
  const float eps = (float)now->c[2], shrink = (float)now->c[3], lr = (float)now->c[4];
  const bool adaptive = now->c[5] != 0.0;
  for (long long i = grid_thread(); i < n; i += grid_threads()) {
    d[i] = average(beta1, d[i], g[i]);
    v[i] = average_square(beta2, v[i], g[i] - d[i]) + eps;
    w[i] = shrink * w[i] - lr * d[i] / (adaptive ? sqrtf(v[i]) + eps : 1.0f);
  }
}
