// MoMo-Adam and its star variant; formula and coefficients in src/optim/momo_adam.rs. Passes as in momo.cu.
#include "optim.cuh"

DEVICE float scale(float v, float correction, float eps) { return sqrtf(v / correction) + eps; }

KERNEL(momo_adam_sums, 256, const Step* __restrict__ now, const float* __restrict__ w, const float* __restrict__ g,
       float* __restrict__ d, float* __restrict__ v, double* __restrict__ partial, long long n) {
  const double beta1 = now->c[0], beta2 = now->c[1];
  const float correction = (float)now->c[2], eps = (float)now->c[3];
  double sums[3] = {};
  for (long long i = grid_thread(); i < n; i += grid_threads()) {
    const float x = average(beta1, d[i], g[i]), y = average_square(beta2, v[i], g[i]);
    d[i] = x;
    v[i] = y;
    sums[0] += w[i] * g[i];
    sums[1] += w[i] * x;
    sums[2] += x * (x / scale(y, correction, eps));
  }
  store_sums(sums, partial);
}

KERNEL(momo_adam_step_size, 256, const Step* __restrict__ now, const float* __restrict__ loss,
       const double* __restrict__ partial, int blocks, int star, Scalars* __restrict__ scalars,
       double* __restrict__ step_sizes) {
  double sums[3];
  load_sums(sums, partial, blocks);
  if (threadIdx.x != 0) return;
  model_step(*scalars, sums, loss[0], now->c[0], now->c[4], 1.0 + now->c[6], now->c[5], now->c[7], star);
  step_sizes[now->slot] = scalars->step_size;
}

KERNEL(momo_adam_update, 256, const Step* __restrict__ now, const Scalars* __restrict__ scalars,
       const float* __restrict__ d, const float* __restrict__ v, float* __restrict__ w, int divide, long long n) {
  const float correction = (float)now->c[2], eps = (float)now->c[3], tau = (float)scalars->tau;
  const double decay = now->c[6];
  const float shrink = divide ? 1.0f : (float)(1.0 - decay), c = divide ? (float)(1.0 + decay) : 1.0f;
  for (long long i = grid_thread(); i < n; i += grid_threads())
    w[i] = (shrink * w[i] - tau * d[i] / scale(v[i], correction, eps)) / c;
}
