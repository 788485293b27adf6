// Sum of two tensors: y = a + b; da = db = dy. All of one shape, n elements.
#include "packs.cuh"

KERNEL(add_fwd, 256, const float* a, const float* b, float* __restrict__ y, long long n) {
  each_pack(at_16_bytes(a, b, y), n, [&](auto width, long long i) {
    constexpr int V = decltype(width)::VALUE;
    Pack<V> sum = load<V>(a + i);
    const Pack<V> bs = load<V>(b + i);
    for (int k = 0; k < V; k++) sum.at[k] += bs.at[k];
    store(y + i, sum);
  });
}

KERNEL(add_bwd, 256, const float* __restrict__ dy, float* __restrict__ dx, long long n) {
  each_pack(at_16_bytes(dy, dx), n, [&](auto width, long long i) {
    store(dx + i, load<decltype(width)::VALUE>(dy + i));
  });
}

// A further contribution to a gradient: sum += term.
KERNEL(add_to, 256, const float* __restrict__ term, float* __restrict__ sum, long long n) {
  each_pack(at_16_bytes(term, sum), n, [&](auto width, long long i) {
    constexpr int V = decltype(width)::VALUE;
    Pack<V> sums = load<V>(sum + i);
    const Pack<V> terms = load<V>(term + i);
    for (int k = 0; k < V; k++) sums.at[k] += terms.at[k];
    store(sum + i, sums);
  });
}
