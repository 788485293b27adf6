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
  each_pack(at_16_bytes(w, g), n, [&](auto width, long long i) {
    constexpr int V = decltype(width)::VALUE;
    Pack<V> ws = load<V>(w + i);
    const Pack<V> gs = load<V>(g + i);
#pragma unroll
    for (int k = 0; k < V; k++) ws.at[k] = fmaf(-lr, decayed(gs.at[k], wd, ws.at[k]), ws.at[k]);
    store(w + i, ws);
  });
}

KERNEL(sgd_momentum, 256, const Step* __restrict__ now, const MomentumStep* __restrict__ steps, float* __restrict__ w,
       const float* __restrict__ g, float* __restrict__ b, int nesterov, long long n) {
  const MomentumStep c = steps[now->slot];
  const float lr = (float)c.lr, wd = (float)c.weight_decay, m = (float)c.momentum;
  const float keep = (float)c.keep, take = (float)c.take;
  each_pack(at_16_bytes(w, g, b), n, [&](auto width, long long i) {
    constexpr int V = decltype(width)::VALUE;
    Pack<V> ws = load<V>(w + i), bs = load<V>(b + i);
    const Pack<V> gs = load<V>(g + i);
#pragma unroll
    for (int k = 0; k < V; k++) {
      float &to = ws.at[k], &buffer = bs.at[k];
      const float x = decayed(gs.at[k], wd, to);
      buffer = fmaf(take, x, keep * buffer);
      to = fmaf(-lr, nesterov ? fmaf(m, buffer, x) : buffer, to);
    }
    store(w + i, ws), store(b + i, bs);
  });
}
