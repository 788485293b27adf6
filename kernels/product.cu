// Matrix products, for linear layers and for optimizers. By how the operands are stored:
//   product_nt_T  C = A B^T; A (m, k), B (n, k), T = 128, 64, 32 or 16; plus a bias (n) and a residual (m, n), then ReLU;
//                 and what is behind it: steps with every number, to `to`, or in place if that is not `apart`; of the rows of
//                 that y = their norm with weights w and `shift` (n), or their cross entropy f and its gradient y
//   product_nn_T  C = A B; A (m, k), B (k, n), T = 128 or 64
//   product_tn_T  C = A^T B; A (k, m), B (k, n), T = 128 or 64, and A's sums over k; gridDim.y parts of k give as many of both
//   product_sum   adds these up
#include "cross_entropy.cuh"
#include "norm.cuh"
#include "product.cuh"

// What an nt product does with whole rows once they are there. The last block of those with tiles of the same rows does it;
// `counters` begin with one for each of these rows of tiles.
constexpr int NOTHING = 0, RMS_NORM = 1, LAYER_NORM = 2, CROSS_ENTROPY = 3;

// When an nt product adds the residual: to C, or as the last step.
constexpr int TO_C = 1, AT_LAST = 2;

// As forward in norm.cuh, some threads to a row, which hold it if they can: few where registers are plenty.
template <class S, bool CENTRED>
DEVICE void norm_rows(const float* c, const float* w, const float* b, float* y, float* stats, float eps, int first, int m,
                      int n) {
  constexpr int LANES = S::TILE < 128 ? 16 : 8, STEP = S::THREADS / LANES, HELD = 128 / LANES;
  const int thread = thread_again(), lane = thread % LANES;
  const bool held = n <= 4 * LANES * HELD && aligned(c, n, 4) && aligned(y, n, 4);
  const bool vectors = aligned(w, n, 4) && (!CENTRED || aligned(b, n, 4));
#pragma unroll 1
  for (int row = first + thread / LANES; row < first + S::TILE; row += STEP) {
    const bool inside = row < m;  // all lanes take part in the sums
    const float* x = c + (long long)(inside ? row : 0) * n;
    if (held) {
      auto load = [&](int at) { return __ldcg(reinterpret_cast<const float4*>(x + at)); };
      norm_row<LANES, HELD, CENTRED>(load, w, b, vectors, y, stats, row, inside, n, eps);
      continue;
    }
    float mean = 0.0f, squares = 0.0f;
    if (CENTRED) {
#pragma unroll 8
      for (int i = lane; i < n; i += LANES) mean += __ldcg(x + i);
      mean = sum_over<LANES>(mean) / (float)n;
    }
#pragma unroll 8
    for (int i = lane; i < n; i += LANES) {
      const float at = __ldcg(x + i) - mean;
      squares = fmaf(at, at, squares);
    }
    const float rstd = reciprocal_deviation(sum_over<LANES>(squares), n, eps);
    if (!inside) continue;
    if (lane == 0) store_stats<CENTRED>(stats, row, mean, rstd);
#pragma unroll 8
    for (int i = lane; i < n; i += LANES)
      y[(long long)row * n + i] = fmaf((__ldcg(x + i) - mean) * rstd, w[i], CENTRED ? b[i] : 0.0f);
  }
}

// C, and what follows of it.
template <class S>
DEVICE void product_nt(const float* a, const float* b, const float* bias, const float* residual, int added, float* c, int m,
                       int k, int n, bool relu, bool tf32, int activation, const DropoutMask& mask, const Step* now,
                       float* to, bool apart, int then, const float* w, const float* shift, float eps, float* y,
                       float* stats, const float* target, float smoothing, bool backward, const float* df, float* f,
                       double* partial, unsigned* counters) {
  Product p = {a, b, c, m, n, k};
  p.bias = bias;
  p.added = added == TO_C ? residual : nullptr;
  p.relu = relu;
  product<S, true, true>(p, blockIdx.x, tf32);
  const Steps steps = {activation, mask, now, added == AT_LAST ? residual : nullptr, nullptr};
  if (steps.any()) {
    float* const from = c;
    if (apart) c = to;
    step_tile<S>(steps, from, c, block_again(), m, n);
  }
  if (then == NOTHING) return;
  const int across = (n + S::TILE - 1) / S::TILE, down = (m + S::TILE - 1) / S::TILE, row = block_again() / across;
  if (!last_to_arrive(counters + row, across)) return;
  const int first = row * S::TILE;
  if (then == RMS_NORM) return norm_rows<S, false>(c, w, shift, y, stats, eps, first, m, n);
  if (then == LAYER_NORM) return norm_rows<S, true>(c, w, shift, y, stats, eps, first, m, n);
  if (then != CROSS_ENTROPY || S::TILE > 32) return;  // of more rows it would take longer than a launch
  loss_of_rows<S::WARPS>({c, target, true, backward, smoothing, df, f, y, partial, counters + down, m, n}, first,
                          min(first + S::TILE, m), row, down);
}

#define PRODUCT_NT                                                                                                         \
  const float* __restrict__ a, const float* __restrict__ b, const float* __restrict__ bias, int biased,                    \
  const float* __restrict__ residual, int added, float* __restrict__ c, int m, int k, int n, int relu, int tf32,           \
  int activation, DropoutMask mask, const Step* __restrict__ now, float* __restrict__ to, int apart, int then,             \
  const float* __restrict__ w, const float* __restrict__ shift, float eps, float* __restrict__ y,                          \
  float* __restrict__ stats, const float* __restrict__ target, float smoothing, int backward,                              \
  const float* __restrict__ df, float* __restrict__ f, double* __restrict__ partial, unsigned* __restrict__ counters
#define GIVEN_PRODUCT_NT                                                                                              \
  a, b, biased ? bias : nullptr, residual, added, c, m, k, n, relu, tf32, activation, mask, now, to, apart, then, w,  \
  shift, eps, y, stats, target, smoothing, backward, df, f, partial, counters

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
