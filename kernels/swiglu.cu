// SwiGLU: of a row [a, b] of two halves, y = silu(a) b; da = silu'(a) b dy, db = silu(a) dy.
//   x, dx (rows, 2 half); y, dy (rows, half): n packs
#include "activation.cuh"
#include "channels.cuh"

// Where pack i of y has its a in x; its b is `half` further.
template <int V>
DEVICE long long place(long long i, int half) {
  return i * V + i / (half / V) * half;
}

template <int V>
DEVICE void forward(const float* __restrict__ x, float* __restrict__ y, long long n, int half) {
  for (long long i = grid_thread(); i < n; i += grid_threads()) {
    const float* at = x + place<V>(i, half);
    const Pack<V> a = load<V>(at), b = load<V>(at + half);
    Pack<V> to;
#pragma unroll
    for (int k = 0; k < V; k++) to.at[k] = silu(a.at[k]) * b.at[k];
    store(y + i * V, to);
  }
}

KERNEL(swiglu_fwd, 256, const float* __restrict__ x, float* __restrict__ y, int packed, long long n, int half) {
  if (packed)
    forward<4>(x, y, n, half);
  else
    forward<1>(x, y, n, half);
}

template <int V>
DEVICE void backward(const float* __restrict__ x, const float* __restrict__ dy, float* __restrict__ dx, long long n,
                     int half) {
  for (long long i = grid_thread(); i < n; i += grid_threads()) {
    const long long at = place<V>(i, half);
    const Pack<V> a = load<V>(x + at), b = load<V>(x + at + half), d = load<V>(dy + i * V);
    Pack<V> da, db;
#pragma unroll
    for (int k = 0; k < V; k++) {
      da.at[k] = silu_gradient(a.at[k], b.at[k] * d.at[k]);
      db.at[k] = silu(a.at[k]) * d.at[k];
    }
    store(dx + at, da);
    store(dx + at + half, db);
  }
}

KERNEL(swiglu_bwd, 256, const float* __restrict__ x, const float* __restrict__ dy, float* __restrict__ dx, int packed,
       long long n, int half) {
  if (packed)
    backward<4>(x, dy, dx, n, half);
  else
    backward<1>(x, dy, dx, n, half);
}
