// SGD: w = w - lr (g + wd w), and with momentum; formulas and coefficients in src/optim/sgd.rs.
#include "optim.cuh"

struct SgdStep {
  double lr, weight_decay;
};

struct MomentumStep {
  double lr, weight_decay;
  double momentum;
  double keep, take;  // factors of the buffer and of the gradient in the new buffer
};

KERNEL(sgd, 256, const Step* __restrict__ now, const SgdStep* __restrict__ steps, float* __restrict__ w,
       const float* __restrict__ g, long long n) {
  const float lr = (float)steps[now->slot].lr, wd = (float)steps[now->slot].weight_decay;
  for (long long i = grid_thread(); i < n; i += grid_threads()) w[i] = fmaf(-lr, decayed(g[i], wd, w[i]), w[i]);
}

KERNEL(sgd_momentum, 256, const Step* __restrict__ now, const MomentumStep* __restrict__ steps, float* __restrict__ w,
       const float* __restrict__ g, float* __restrict__ b, int nesterov, long long n) {
  const MomentumStep c = steps[now->slot];
  const float lr = (float)c.lr, wd = (float)c.weight_decay, m = (float)c.momentum;
  const float keep = (float)c.keep, take = (float)c.take;
  for (long long i = grid_thread(); i < n; i += grid_threads()) {
    const float x = decayed(g[i], wd, w[i]);
    b[i] = fmaf(take, x, keep * b[i]);
    w[i] = fmaf(-lr, nesterov ? fmaf(m, b[i], x) : b[i], w[i]);
  }
}
