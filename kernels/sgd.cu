// SGD: w = w - lr (g + wd w), and with momentum; formulas and coefficients in src/optim/sgd.rs.
#include "optim.cuh"

KERNEL(sgd, 256, const Step* __restrict__ now, float* __restrict__ w, const float* __restrict__ g, long long n) {
  const float lr = (float)now->c[0], wd = (float)now->c[1];
  for (long long i = grid_thread(); i < n; i += grid_threads()) w[i] = fmaf(-lr, decayed(g[i], wd, w[i]), w[i]);
}

KERNEL(sgd_momentum, 256, const Step* __restrict__ now, float* __restrict__ w, const float* __restrict__ g,
       float* __restrict__ b, int nesterov, long long n) {
  const float lr = (float)now->c[0], wd = (float)now->c[1], m = (float)now->c[2];
  const float keep = (float)now->c[3], take = (float)now->c[4];
  for (long long i = grid_thread(); i < n; i += grid_threads()) {
    const float x = decayed(g[i], wd, w[i]);
    b[i] = fmaf(take, x, keep * b[i]);
    w[i] = fmaf(-lr, nesterov ? fmaf(m, b[i], x) : b[i], w[i]);
  }
}
