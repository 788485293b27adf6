// MoMo and MoMo*; formula and coefficients in src/optim/momo.rs. Averages and inner products in one pass, the step size
// in one block, the update in another pass.
#include "optim.cuh"

struct MomoStep {
  double beta;
  double rho;          // the average of ones
  double c;            // 1 + lr wd
  double lr;
  double lower_bound;  // the initial one
};

KERNEL(momo_sums, 256, const Step* __restrict__ now, const MomoStep* __restrict__ steps, const float* __restrict__ w,
       const float* __restrict__ g, float* __restrict__ d, double* __restrict__ partial, long long n) {
  const double beta = steps[now->slot].beta;
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

KERNEL(momo_step_size, 256, const Step* __restrict__ now, const MomoStep* __restrict__ steps,
       const float* __restrict__ loss, const double* __restrict__ partial, ModelStep how,
       ModelScalars* __restrict__ scalars, double* __restrict__ step_sizes) {
  double sums[3];
  load_sums(sums, partial, how.blocks);
  if (threadIdx.x != 0) return;
  const MomoStep c = steps[now->slot];
  step_sizes[now->slot] = model_step(*scalars, sums, loss[0], c.beta, c.rho, c.c, c.lr, c.lower_bound, how);
}

KERNEL(momo_update, 256, const Step* __restrict__ now, const MomoStep* __restrict__ steps,
       const ModelScalars* __restrict__ scalars, const float* __restrict__ d, float* __restrict__ w, long long n) {
  const float tau = (float)scalars->tau, c = (float)steps[now->slot].c;
  for (long long i = grid_thread(); i < n; i += grid_threads()) w[i] = fmaf(-tau, d[i], w[i]) / c;
}
