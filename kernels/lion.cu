// Lion; formula and coefficients in src/optim/lion.rs.
#include "optim.cuh"

struct LionStep {
  double beta1, beta2;
  double lr;
  double shrink;  // factor of the weights
};

// As `lion`, but the update goes to a vector of its own.
KERNEL(lion_direction, 256, const Step* __restrict__ now, const LionStep* __restrict__ steps, float* __restrict__ w,
       const float* __restrict__ g, float* __restrict__ d, float* __restrict__ update, long long n) {
  const LionStep c = steps[now->slot];
  const float lr = (float)c.lr, shrink = (float)c.shrink;
  for (long long i = grid_thread(); i < n; i += grid_threads()) {
    update[i] = lr * sign(average(c.beta1, d[i], g[i]));
    d[i] = average(c.beta2, d[i], g[i]);
    w[i] *= shrink;
  }
}

KERNEL(lion, 256, const Step* __restrict__ now, const LionStep* __restrict__ steps, float* __restrict__ w,
       const float* __restrict__ g, float* __restrict__ d, long long n) {
  const LionStep c = steps[now->slot];
  const float lr = (float)c.lr, shrink = (float)c.shrink;
  for (long long i = grid_thread(); i < n; i += grid_threads()) {
    w[i] = shrink * w[i] - lr * sign(average(c.beta1, d[i], g[i]));
    d[i] = average(c.beta2, d[i], g[i]);
  }
}
