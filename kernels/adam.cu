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

// One element: the averages move on, and u of the formula. `largest` is what amsgrad keeps, or none.
DEVICE float adam_update(const AdamStep& c, float x, float& d, float& v, float* largest) {
  d = lerp(d, x, (float)(1.0 - c.beta1));
  v = average_square(c.beta2, v, x);
  float second = v;
  if (largest) *largest = second = v <= *largest ? *largest : v;  // a NaN stays
  return (float)c.lr * d / (sqrtf(second) / (float)c.root + (float)c.eps);
}

KERNEL(adam, 256, const Step* __restrict__ now, const AdamStep* __restrict__ steps, float* __restrict__ w,
       const float* __restrict__ g, float* __restrict__ d, float* __restrict__ v, long long n) {
  const AdamStep c = steps[now->slot];
  const float wd = (float)c.weight_decay, shrink = (float)c.shrink;
  each_pack(at_16_bytes(w, g, d, v), n, [&](auto width, long long i) {
    constexpr int V = decltype(width)::VALUE;
    Pack<V> ws = load<V>(w + i), ds = load<V>(d + i), vs = load<V>(v + i);
    const Pack<V> gs = load<V>(g + i);
#pragma unroll
    for (int k = 0; k < V; k++) {
      const float u = adam_update(c, decayed(gs.at[k], wd, ws.at[k]), ds.at[k], vs.at[k], nullptr);
      ws.at[k] = shrink * ws.at[k] - u;
    }
    store(w + i, ws), store(d + i, ds), store(v + i, vs);
  });
}

KERNEL(amsgrad, 256, const Step* __restrict__ now, const AdamStep* __restrict__ steps, float* __restrict__ w,
       const float* __restrict__ g, float* __restrict__ d, float* __restrict__ v, float* __restrict__ largest,
       long long n) {
  const AdamStep c = steps[now->slot];
  const float wd = (float)c.weight_decay, shrink = (float)c.shrink;
  for (long long i = grid_thread(); i < n; i += grid_threads()) {
    const float u = adam_update(c, decayed(g[i], wd, w[i]), d[i], v[i], largest + i);
    w[i] = shrink * w[i] - u;
  }
}

// AdamW, but the update goes to a vector of its own. If decay is cautious, its sign says which weights decay; an update
// that is cautious itself is 0 where it goes against the gradient.
KERNEL(adam_direction, 256, const Step* __restrict__ now, const AdamStep* __restrict__ steps, float* __restrict__ w,
       const float* __restrict__ g, float* __restrict__ d, float* __restrict__ v, float* __restrict__ largest,
       int amsgrad, float* __restrict__ update, int cautious, int cautious_decay, long long n) {
  const AdamStep c = steps[now->slot];
  const float shrink = (float)c.shrink;
  for (long long i = grid_thread(); i < n; i += grid_threads()) {
    const float x = g[i], from = w[i];
    const float u = adam_update(c, x, d[i], v[i], amsgrad ? largest + i : nullptr);
    update[i] = u;
    const bool left_out = cautious && u * x <= 0.0f, decays = !cautious_decay || left_out || u * from >= 0.0f;
    w[i] = decays ? shrink * from : from;
  }
}
