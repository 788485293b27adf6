// MoMo and MoMo*; formula and coefficients in src/optim/momo.rs. Averages and inner products in one pass, the step size
// in one block, the update in another pass.
#include "optim.cuh"

KERNEL(momo_sums, 256, const Step* __restrict__ now, const float* __restrict__ w, const float* __restrict__ g,
       float* __restrict__ d, double* __restrict__ partial, long long n) {
  const double beta = now->c[0];
  double sums[3] = {};
  for (long long i = grid_thread(); i < n; i += grid_threads()) {
    const float x = average(beta, d[i], g[i]);
    d[i] = x;
    sums[0] += w[i] * g[i];
    sums[1] += w[i] * x;
    sums[2] += x * x;
  }
  store_sums(sums, partial);
}

KERNEL(momo_step_size, 256, const Step* __restrict__ now, const float* __restrict__ loss,
       const double* __restrict__ partial, int blocks, int star, Scalars* __restrict__ scalars,
       double* __restrict__ step_sizes) {
  double sums[3];
  load_sums(sums, partial, blocks);
  if (threadIdx.x != 0) return;
  model_step(*scalars, sums, loss[0], now->c[0], now->c[1], now->c[2], now->c[3], now->c[4], star);
  step_sizes[now->slot] = scalars->step_size;
}

KERNEL(momo_update, 256, const Step* __restrict__ now, const Scalars* __restrict__ scalars,
       const float* __restrict__ d, float* __restrict__ w, long long n) {
  const float tau = (float)scalars->tau, c = (float)now->c[2];
  for (long long i = grid_thread(); i < n; i += grid_threads()) w[i] = fmaf(-tau, d[i], w[i]) / c;
}
