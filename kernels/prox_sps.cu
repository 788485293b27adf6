// ProxSPS; formula and coefficients in src/optim/prox_sps.rs. Inner products in one pass, the step size in one block, the
// update in another pass.
#include "optim.cuh"

struct ProxSpsStep {
  double decay;  // lr wd
  double lr;
  double lower_bound;
};

KERNEL(prox_sps_sums, 256, const float* __restrict__ w, const float* __restrict__ g, double* __restrict__ partial,
       long long n) {
  double sums[2] = {};
  for (long long i = grid_thread(); i < n; i += grid_threads()) {
    sums[0] += w[i] * g[i];
    sums[1] += g[i] * g[i];
  }
  store_sums(sums, partial);
}

KERNEL(prox_sps_step_size, 256, const Step* __restrict__ now, const ProxSpsStep* __restrict__ steps,
       const float* __restrict__ loss, const double* __restrict__ partial, int blocks, double* __restrict__ size,
       double* __restrict__ step_sizes) {
  double sums[2];
  load_sums(sums, partial, blocks);
  if (threadIdx.x != 0) return;
  const ProxSpsStep c = steps[now->slot];
  const float gap = (float)(1.0 + c.decay) * (loss[0] - (float)c.lower_bound);
  const double ratio = (gap - (float)c.decay * (float)sums[0]) / (float)sums[1];
  // Python's max(0, ratio): 0 where the ratio is NaN.
  const double t = ratio > 0.0 ? ratio : 0.0;
  *size = at_most(t, c.lr);
  step_sizes[now->slot] = t;
}

KERNEL(prox_sps_update, 256, const Step* __restrict__ now, const ProxSpsStep* __restrict__ steps,
       const double* __restrict__ size, float* __restrict__ w, const float* __restrict__ g, long long n) {
  const float tau = (float)*size, c = (float)(1.0 + steps[now->slot].decay);
  for (long long i = grid_thread(); i < n; i += grid_threads()) w[i] = fmaf(-tau, g[i], w[i]) / c;
}
