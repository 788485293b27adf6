// Adam and AdamW; formulas and coefficients in src/optim/adam.rs.
#include "optim.cuh"

struct AdamStep {
  double lr;    // lr / (1 - beta1^k)
  double root;  // sqrt(1 - beta2^k)
  double eps;
  double weight_decay;  // added to the gradient
  double shrink;        // factor of the weights
  double beta1, beta2;
};

KERNEL(adam, 256, const Step* __restrict__ now, const AdamStep* __restrict__ steps, float* __restrict__ w,
       const float* __restrict__ g, float* __restrict__ d, float* __restrict__ v, long long n) {
  const AdamStep c = steps[now->slot];
  const float lr = (float)c.lr, root = (float)c.root, eps = (float)c.eps, wd = (float)c.weight_decay;
  const float shrink = (float)c.shrink, weight = (float)(1.0 - c.beta1);
  for (long long i = grid_thread(); i < n; i += grid_threads()) {
    const float x = decayed(g[i], wd, w[i]);
    d[i] = lerp(d[i], x, weight);
    v[i] = average_square(c.beta2, v[i], x);
    w[i] = shrink * w[i] - lr * d[i] / (sqrtf(v[i]) / root + eps);
  }
}

// AdamW, but the update goes to a vector of its own. If decay is cautious, its sign says which weights decay; an update
// that is cautious itself is 0 where it goes against the gradient.
KERNEL(adam_direction, 256, const Step* __restrict__ now, const AdamStep* __restrict__ steps, float* __restrict__ w,
       const float* __restrict__ g, float* __restrict__ d, float* __restrict__ v, float* __restrict__ update,
       int cautious, int cautious_decay, long long n) {
  const AdamStep c = steps[now->slot];
  const float lr = (float)c.lr, root = (float)c.root, eps = (float)c.eps;
  const float shrink = (float)c.shrink, weight = (float)(1.0 - c.beta1);
  for (long long i = grid_thread(); i < n; i += grid_threads()) {
    const float x = g[i], from = w[i];
    d[i] = lerp(d[i], x, weight);
    v[i] = average_square(c.beta2, v[i], x);
    const float u = lr * d[i] / (sqrtf(v[i]) / root + eps);
    update[i] = u;
    const bool left_out = cautious && u * x <= 0.0f, decays = !cautious_decay || left_out || u * from >= 0.0f;
    w[i] = decays ? shrink * from : from;
  }
}
