// MoMo-Adam and its star variant; formula and coefficients in src/optim/momo_adam.rs. Passes as in momo.cu.
#include "optim.cuh"

struct MomoAdamStep {
  double beta1, beta2;
  double correction;   // 1 - beta2^k
  double eps;
  double rho;          // 1 - beta1^k
  double lr;
  double decay;        // lr wd
  double lower_bound;  // the initial one
};

DEVICE float scale(float v, float correction, float eps) { return sqrtf(v / correction) + eps; }

KERNEL(momo_adam_sums, 256, const Step* __restrict__ now, const MomoAdamStep* __restrict__ steps,
       const float* __restrict__ w, const float* __restrict__ g, float* __restrict__ d, float* __restrict__ v,
       double* __restrict__ partial, long long n) {
  const MomoAdamStep c = steps[now->slot];
  const float correction = (float)c.correction, eps = (float)c.eps;
  double sums[3] = {};
  for (long long i = grid_thread(); i < n; i += grid_threads()) {
    const float x = average(c.beta1, d[i], g[i]), y = average_square(c.beta2, v[i], g[i]);
    d[i] = x;
    v[i] = y;
    sums[0] += w[i] * g[i];
    sums[1] += w[i] * x;
    sums[2] += x * (x / scale(y, correction, eps));
  }
  store_sums(sums, partial);
}

KERNEL(momo_adam_step_size, 256, const Step* __restrict__ now, const MomoAdamStep* __restrict__ steps,
       const float* __restrict__ loss, const double* __restrict__ partial, ModelStep how,
       ModelScalars* __restrict__ scalars, double* __restrict__ step_sizes) {
  double sums[3];
  load_sums(sums, partial, how.blocks);
  if (threadIdx.x != 0) return;
  const MomoAdamStep c = steps[now->slot];
  step_sizes[now->slot] =
      model_step(*scalars, sums, loss[0], c.beta1, c.rho, 1.0 + c.decay, c.lr, c.lower_bound, how);
}

KERNEL(momo_adam_update, 256, const Step* __restrict__ now, const MomoAdamStep* __restrict__ steps,
       const ModelScalars* __restrict__ scalars, const float* __restrict__ d, const float* __restrict__ v,
       float* __restrict__ w, int divide, long long n) {
  const MomoAdamStep s = steps[now->slot];
  const float correction = (float)s.correction, eps = (float)s.eps, tau = (float)scalars->tau;
  const float shrink = divide ? 1.0f : (float)(1.0 - s.decay), c = divide ? (float)(1.0 + s.decay) : 1.0f;
  for (long long i = grid_thread(); i < n; i += grid_threads())
    w[i] = (shrink * w[i] - tau * d[i] / scale(v[i], correction, eps)) / c;
}
