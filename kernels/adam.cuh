// What kernels of Adam share; formulas and coefficients in src/optim/adam.rs.
#pragma once
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

// V elements of a step.
template <int V>
DEVICE void adam_pack(const AdamStep& c, float* w, const float* g, float* d, float* v) {
  Pack<V> ws = load<V>(w), ds = load<V>(d), vs = load<V>(v);
  const Pack<V> gs = load<V>(g);
  const float wd = (float)c.weight_decay, shrink = (float)c.shrink;
#pragma unroll
  for (int k = 0; k < V; k++) {
    const float u = adam_update(c, decayed(gs.at[k], wd, ws.at[k]), ds.at[k], vs.at[k], nullptr);
    ws.at[k] = shrink * ws.at[k] - u;
  }
  store(w, ws), store(d, ds), store(v, vs);
}
