// ProxSPS; formula and coefficients in src/optim/prox_sps.rs. Inner products in one pass, the step size in one block, the
// update in another pass.
#include "optim.cuh"

KERNEL(prox_sps_sums, 256, const float* __restrict__ w, const float* __restrict__ g, double* __restrict__ partial,
       long long n) {
  double sums[2] = {};
  for (long long i = grid_thread(); i < n; i += grid_threads()) {
    sums[0] += w[i] * g[i];
    sums[1] += g[i] * g[i];
  }
  store_sums(sums, partial);
}

KERNEL(prox_sps_step_size, 256, const Step* __restrict__ now, const float* __restrict__ loss,
       const double* __restrict__ partial, int blocks, Scalars* __restrict__ scalars, double* __restrict__ step_sizes) {
  double sums[2];
  load_sums(sums, partial, blocks);
  if (threadIdx.x != 0) return;
  const double decay = now->c[0], lr = now->c[1], lower_bound = now->c[2];
  const float numerator = (float)(1.0 + decay) * (loss[0] - (float)lower_bound) - (float)decay * (float)sums[0];
  const double ratio = numerator / (float)sums[1];
  // Python's max(0, ratio): 0 where the ratio is NaN.
  const double t = ratio > 0.0 ? ratio : 0.0;
  scalars->step_size = t;
  scalars->tau = at_most(t, lr);
  step_sizes[now->slot] = t;
}

KERNEL(prox_sps_update, 256, const Step* __restrict__ now, const Scalars* __restrict__ scalars, float* __restrict__ w,
       const float* __restrict__ g, long long n) {
  const float tau = (float)scalars->tau, c = (float)(1.0 + now->c[0]);
  for (long long i = grid_thread(); i < n; i += grid_threads()) w[i] = fmaf(-tau, g[i], w[i]) / c;
}
