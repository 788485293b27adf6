// Adam and AdamW; formulas and coefficients in src/optim/adam.rs.
#include "optim.cuh"

// (1 - weight) a + weight b, rounded as torch.lerp rounds it.
DEVICE float lerp(float a, float b, float weight) {
  return weight < 0.5f ? fmaf(weight, b - a, a) : fmaf(weight - 1.0f, b - a, b);
}

KERNEL(adam, 256, const Step* __restrict__ now, float* __restrict__ w, const float* __restrict__ g,
       float* __restrict__ d, float* __restrict__ v, long long n) {
  const float lr = (float)now->c[0], root = (float)now->c[1], eps = (float)now->c[2], wd = (float)now->c[3];
  const float shrink = (float)now->c[4], weight = (float)(1.0 - now->c[5]);
  const double beta2 = now->c[6];
  for (long long i = grid_thread(); i < n; i += grid_threads()) {
    const float x = decayed(g[i], wd, w[i]);
    d[i] = lerp(d[i], x, weight);
    v[i] = average_square(beta2, v[i], x);
    w[i] = shrink * w[i] - lr * d[i] / (sqrtf(v[i]) / root + eps);
  }
}
