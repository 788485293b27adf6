// AdaBelief; formula and coefficients in src/optim/adabelief.rs.
#include "optim.cuh"

struct AdaBeliefStep {
  double beta1, beta2;
  double root;  // sqrt(1 - beta2^k), or 1 where steps are rectified
  double eps;
  double shrink;    // factor of the weights
  double lr;        // lr r / (1 - beta1^k)
  double adaptive;  // 1 where the variance rests on enough gradients, 0 before
};

KERNEL(adabelief, 256, const Step* __restrict__ now, const AdaBeliefStep* __restrict__ steps, float* __restrict__ w,
       const float* __restrict__ g, float* __restrict__ d, float* __restrict__ v, long long n) {
  const AdaBeliefStep c = steps[now->slot];
  const float root = (float)c.root, eps = (float)c.eps, shrink = (float)c.shrink, lr = (float)c.lr;
  const bool adaptive = c.adaptive != 0.0;
  for (long long i = grid_thread(); i < n; i += grid_threads()) {
    d[i] = average(c.beta1, d[i], g[i]);
    v[i] = average_square(c.beta2, v[i], g[i] - d[i]) + eps;
    w[i] = shrink * w[i] - lr * d[i] / (adaptive ? sqrtf(v[i]) / root + eps : 1.0f);
  }
}
