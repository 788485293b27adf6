// Adam and AdamW; formulas and coefficients in src/optim/adam.rs.
#include "adam.cuh"

KERNEL(adam, 256, const Step* __restrict__ now, const AdamStep* __restrict__ steps, float* __restrict__ w,
       const float* __restrict__ g, float* __restrict__ d, float* __restrict__ v, long long n) {
  const AdamStep c = steps[now->slot];
  each_pack(at_16_bytes(w, g, d, v), n, [&](auto width, long long i) {
    adam_pack<decltype(width)::VALUE>(c, w + i, g + i, d + i, v + i);
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
