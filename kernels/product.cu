// Matrix products, for linear layers and for optimizers. By how the operands are stored:
//   product_nt_T  C = A B^T; A (m, k), B (n, k), T = 128, 64, 32 or 16; plus a bias (n) and `added` (m, n), then ReLU;
//                 and y = an activation of C, or its RMS norm with weights w (n)
//   product_nn_T  C = A B; A (m, k), B (k, n), T = 128 or 64
//   product_tn_T  C = A^T B; A (k, m), B (k, n), T = 128 or 64, and A's sums over k; gridDim.y parts of k give as many of both
//   product_sum   adds these up
#include "product.cuh"

// What an nt product does once it is there: nothing, an activation by its number, or this.
constexpr int NOTHING = 0, RMS_NORM = -1;

// C, and y = what follows of C.
template <class S>
DEVICE void product_nt(const float* a, const float* b, const float* bias, const float* added, float* c, int m, int k,
                       int n, bool relu, bool tf32, int then, const float* w, float eps, float* y, float* stats,
                       unsigned* counters) {
  Product p = {a, b, c, m, n, k};
  p.bias = bias;
  p.added = added;
  p.relu = relu;
  product<S, true, true>(p, blockIdx.x, tf32);
  if (then == RMS_NORM)
    norm_rows<S>(c, w, y, stats, eps, counters, block_again(), m, n);
  else if (then != NOTHING)
    activate_tile<S>(then, c, nullptr, y, block_again(), m, n);
}

#define PRODUCT_NT                                                                                                         \
  const float* __restrict__ a, const float* __restrict__ b, const float* __restrict__ bias, int biased,                    \
  const float* __restrict__ residual, int added, float* __restrict__ c, int m, int k, int n, int relu, int tf32, int then, \
  const float* __restrict__ w, float eps, float* __restrict__ y, float* __restrict__ stats,                                \
  unsigned* __restrict__ counters
#define GIVEN_PRODUCT_NT                                                                                              \
  a, b, biased ? bias : nullptr, added ? residual : nullptr, c, m, k, n, relu, tf32, then, w, eps, y, stats, counters

KERNEL(product_nt_128, 128, PRODUCT_NT) { product_nt<Tile128>(GIVEN_PRODUCT_NT); }
KERNEL(product_nt_64, 128, PRODUCT_NT) { product_nt<Tile64>(GIVEN_PRODUCT_NT); }
KERNEL(product_nt_32, 256, PRODUCT_NT) { product_nt<Tile32>(GIVEN_PRODUCT_NT); }
KERNEL(product_nt_16, 256, PRODUCT_NT) { product_nt<Tile16>(GIVEN_PRODUCT_NT); }

KERNEL(product_nn_128, 128, const float* __restrict__ a, const float* __restrict__ b, float* __restrict__ c, int m, int k,
       int n, int tf32) {
  product<Tile128, true, false>({a, b, c, m, n, k}, blockIdx.x, tf32);
}
KERNEL(product_nn_64, 128, const float* __restrict__ a, const float* __restrict__ b, float* __restrict__ c, int m, int k,
       int n, int tf32) {
  product<Tile64, true, false>({a, b, c, m, n, k}, blockIdx.x, tf32);
}

KERNEL(product_tn_128, 128, const float* __restrict__ a, const float* __restrict__ b, float* __restrict__ c,
       float* __restrict__ sums, int summed, int m, int k, int n, int part, int tf32) {
  product_tn<Tile128>(a, b, c, sums, summed, m, k, n, part, blockIdx.x, tf32);
}
KERNEL(product_tn_64, 128, const float* __restrict__ a, const float* __restrict__ b, float* __restrict__ c,
       float* __restrict__ sums, int summed, int m, int k, int n, int part, int tf32) {
  product_tn<Tile64>(a, b, c, sums, summed, m, k, n, part, blockIdx.x, tf32);
}

// c = the sum of cs (parts, entries), and sums of all_sums (parts, m); m = 0 if there are none.
KERNEL(product_sum, 256, const float* __restrict__ cs, const float* __restrict__ all_sums, float* __restrict__ c,
       float* __restrict__ sums, int parts, int entries, int m) {
  for (long long i = grid_thread(); i < entries + m; i += grid_threads()) {
    const bool entry = i < entries;
    const float* from = entry ? cs + i : all_sums + (i - entries);
    const long long pitch = entry ? entries : m;
    float sum = 0.0f;
    for (int part = 0; part < parts; part++) sum += from[part * pitch];
    (entry ? c + i : sums + (i - entries))[0] = sum;
  }
}
