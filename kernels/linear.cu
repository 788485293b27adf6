// Linear: y = x w^T + b; dx = dy w, dw = dy^T x, db = sum of dy over the rows.
//   x, dx (rows, inputs); w, dw (outputs, inputs); b, db (outputs); y, dy (rows, outputs)
//
// One product C (m, n) = A (m, k) B (k, n) in three layouts, which differ in how a tile is read: tiles of 32x32, k in
// slices of 32 through shared memory, where both operands lie k by k.
//   *_fp32  4x2 entries of C per thread, every product fused and added in the order of k
//   *_tf32  a quarter of C per warp on tensor cores, operands rounded to TF32
#include "common.cuh"

constexpr int TILE = 32, SLICE = 32, THREADS = 128;
// Rows of 40 words: a fragment's 4 by 8 operands lie in 32 different banks.
constexpr int PITCH = TILE + 8;

// slice[k][i] = X[first + i][k0 + k], 0 outside. BY_ROW: X is stored (count, depth), else (depth, count).
template <bool BY_ROW>
DEVICE void load_slice(float (&slice)[SLICE][PITCH], const float* x, int first, int count, int k0, int depth) {
#pragma unroll
  for (int e = threadIdx.x; e < TILE * SLICE; e += THREADS) {
    const int fast = e % 32, slow = e / 32;  // neighbouring threads read neighbouring numbers
    const int i = BY_ROW ? slow : fast, k = BY_ROW ? fast : slow;
    const bool inside = first + i < count && k0 + k < depth;
    const long long at = BY_ROW ? (long long)(first + i) * depth + k0 + k : (long long)(k0 + k) * count + first + i;
    slice[k][i] = inside ? x[at] : 0.0f;
  }
}

template <bool A_BY_ROW, bool B_BY_ROW, bool TF32>
DEVICE void product(const float* a, const float* b, const float* bias, float* c, int m, int n, int depth) {
  SHARED(float, as, [SLICE][PITCH]);
  SHARED(float, bs, [SLICE][PITCH]);
  const int m0 = blockIdx.y * TILE, n0 = blockIdx.x * TILE;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float sums[8] = {};
  for (int k0 = 0; k0 < depth; k0 += SLICE) {
    load_slice<A_BY_ROW>(as, a, m0, m, k0, depth);
    load_slice<B_BY_ROW>(bs, b, n0, n, k0, depth);
    __syncthreads();
    if (TF32) {
      const int g = lane / 4, q = lane % 4, wm = warp / 2 * 16, wn = warp % 2 * 16;
#pragma unroll
      for (int k = 0; k < SLICE; k += 8) {
        const unsigned fa[4] = {to_tf32(as[k + q][wm + g]), to_tf32(as[k + q][wm + g + 8]),
                                to_tf32(as[k + q + 4][wm + g]), to_tf32(as[k + q + 4][wm + g + 8])};
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const int column = wn + half * 8 + g;
          const unsigned fb[2] = {to_tf32(bs[k + q][column]), to_tf32(bs[k + q + 4][column])};
          float(&part)[4] = *reinterpret_cast<float(*)[4]>(&sums[half * 4]);
          mma_tf32(part, fa, fb);
        }
      }
    } else {
      const int row = threadIdx.x / 16 * 4, column = threadIdx.x % 16 * 2;
#pragma unroll
      for (int k = 0; k < SLICE; k++) {
        const float4 x = *reinterpret_cast<const float4*>(&as[k][row]);
        const float2 y = *reinterpret_cast<const float2*>(&bs[k][column]);
        const float xs[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
          sums[2 * i] = fmaf(xs[i], y.x, sums[2 * i]);
          sums[2 * i + 1] = fmaf(xs[i], y.y, sums[2 * i + 1]);
        }
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 8; i++) {
    int row, column;
    if (TF32) {
      row = warp / 2 * 16 + lane / 4 + i % 4 / 2 * 8;
      column = warp % 2 * 16 + i / 4 * 8 + lane % 4 * 2 + i % 2;
    } else {
      row = threadIdx.x / 16 * 4 + i / 2;
      column = threadIdx.x % 16 * 2 + i % 2;
    }
    if (m0 + row < m && n0 + column < n)
      c[(long long)(m0 + row) * n + n0 + column] = bias ? sums[i] + bias[n0 + column] : sums[i];
  }
}

KERNEL(linear_fwd_fp32, 128, const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ b,
       int biased, float* __restrict__ y, int rows, int inputs, int outputs) {
  product<true, true, false>(x, w, biased ? b : nullptr, y, rows, outputs, inputs);
}
KERNEL(linear_fwd_tf32, 128, const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ b,
       int biased, float* __restrict__ y, int rows, int inputs, int outputs) {
  product<true, true, true>(x, w, biased ? b : nullptr, y, rows, outputs, inputs);
}
KERNEL(linear_bwd_x_fp32, 128, const float* __restrict__ dy, const float* __restrict__ w, float* __restrict__ dx,
       int rows, int inputs, int outputs) {
  product<true, false, false>(dy, w, nullptr, dx, rows, inputs, outputs);
}
KERNEL(linear_bwd_x_tf32, 128, const float* __restrict__ dy, const float* __restrict__ w, float* __restrict__ dx,
       int rows, int inputs, int outputs) {
  product<true, false, true>(dy, w, nullptr, dx, rows, inputs, outputs);
}
KERNEL(linear_bwd_w_fp32, 128, const float* __restrict__ dy, const float* __restrict__ x, float* __restrict__ dw,
       int rows, int inputs, int outputs) {
  product<false, false, false>(dy, x, nullptr, dw, outputs, inputs, rows);
}
KERNEL(linear_bwd_w_tf32, 128, const float* __restrict__ dy, const float* __restrict__ x, float* __restrict__ dw,
       int rows, int inputs, int outputs) {
  product<false, false, true>(dy, x, nullptr, dw, outputs, inputs, rows);
}

// db: 32 columns per block, whose warps take every eighth row; sums in f64.
KERNEL(linear_bwd_b, 256, const float* __restrict__ dy, float* __restrict__ db, int rows, int outputs) {
  SHARED(double, partial, [8][32]);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, column = blockIdx.x * 32 + lane;
  double sum = 0.0;
  if (column < outputs)
    for (int row = warp; row < rows; row += 8) sum += dy[(long long)row * outputs + column];
  partial[warp][lane] = sum;
  __syncthreads();
  if (warp == 0 && column < outputs) {
    for (int i = 1; i < 8; i++) sum += partial[i][lane];
    db[column] = (float)sum;
  }
}
