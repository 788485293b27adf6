// Softmax attention of every sequence and head, with s = 1 / sqrt(D):
//   P = softmax(s Q K^T + bias), O = (P . keep) V
//   dV = (P . keep)^T dO, dP = (dO V^T) . keep, dS = P . (dP - rowsum(P . dP)), dQ = s dS K, dK = s dS^T Q
// keep is dropout's 0 or 1 / (1 - p), drawn anew both ways as in dropout.cu, the probabilities (T, T) of a sequence
// and head, a pair, beginning a new block of Philox. The bias' gradient is the sum of dS over heads and the sequences
// that share it, by `column_sums`.
//   x, dx (sequences, T, 3, heads, D): Q, K, V; y, dy (sequences, T, heads, D); bias (biases, T, T)
//   stats (pairs, T, 2): maximum and 1 / sum of exp of a row of scores, from which backward computes P again
//   ds (pairs, T, T) if `wants_ds`
//
// attention_{fwd,bwd}_*: a block per pair, whose matrices all lie in shared memory. D is a multiple of 4.
//   warp, block  one warp for short sequences, several for longer ones
//   fp32, tf32   every product fused, in the order of the sum; on tensor cores, all operands rounded to TF32
// attention_{fwd,bwd_q,bwd_kv}: any sizes; a warp per row of scores, or per column, which alone lies in shared memory.
#include "common.cuh"

// Floats from row to row of a matrix in shared memory: a multiple of 4, for vectors, and never one of 8, so that
// neighbours in a column lie in different banks.
DEVICE int pitch(int n) { return (n + 3) / 4 * 4 | 4; }

// What dropout does to the probabilities of a pair.
struct Drops {
  bool any;
  unsigned long long seed, first, clock;
  unsigned threshold;
  float scale;
};

DEVICE Drops drops_of(long long pair, int tokens, const Step* now, int any, unsigned threshold, float scale,
                      unsigned stream) {
  const unsigned long long blocks = ((unsigned long long)tokens * tokens + 3) / 4;
  if (!any) return {false, 0, 0, 0, 0u, 1.0f};
  return {true, now->seed, ((unsigned long long)stream << 32) + pair * blocks, now->clock, threshold, scale};
}

DEVICE float keep_at(const Drops& drops, int row, int column, int tokens) {
  if (!drops.any) return 1.0f;
  const long long at = (long long)row * tokens + column;
  const uint4 draws = philox(drops.seed, drops.first + at / 4, drops.clock);
  const unsigned even = at % 4 < 2 ? draws.x : draws.z, odd = at % 4 < 2 ? draws.y : draws.w;
  return (at % 2 ? odd : even) < drops.threshold ? 0.0f : drops.scale;
}

DEVICE float warp_max(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
  return x;
}

// ---- blocks whose matrices lie in shared memory ----

// What a product takes from shared memory.
template <bool TF32>
DEVICE float operand(float x) {
  return TF32 ? __uint_as_float(to_tf32(x)) : x;
}

// A head's (tokens, dim), whose rows are `stride` apart.
template <int THREADS, bool TF32>
DEVICE void load_head(float* to, const float* from, int stride, int tokens, int dim) {
  const int vectors = dim / 4, to_pitch = pitch(dim);
  int row = threadIdx.x / vectors, vector = threadIdx.x % vectors;
#pragma unroll 4
  for (int e = threadIdx.x; e < tokens * vectors; e += THREADS) {
    const float4 x = *reinterpret_cast<const float4*>(from + (long long)row * stride + 4 * vector);
    *reinterpret_cast<float4*>(to + row * to_pitch + 4 * vector) =
        make_float4(operand<TF32>(x.x), operand<TF32>(x.y), operand<TF32>(x.z), operand<TF32>(x.w));
    row += THREADS / vectors;
    vector += THREADS % vectors;
    if (vector >= vectors) {
      vector -= vectors;
      row++;
    }
  }
}

// Columns of a warp's tile on tensor cores, in steps of 8.
constexpr int STEPS = 3;

// sums[i][] += A (16, depth) B (depth, 8), i counting the columns of B in steps of 8, of which those from `columns` on
// are not there. a(i, k) and b(k, j) read operands, k being at most depth - 1.
template <class A, class B>
DEVICE void tile_tf32(float (&sums)[STEPS][4], int rows, int columns, int depth, A a, B b) {
  const int g = threadIdx.x % 32 / 4, q = threadIdx.x % 4;
  const int upper = min(g, rows - 1), lower = min(g + 8, rows - 1);
  for (int k = 0; k < depth; k += 8) {
    // Beyond the depth, zeros of A make B's number count for nothing.
    const int left = min(k + q, depth - 1), right = min(k + q + 4, depth - 1);
    const float as[4] = {a(upper, left), a(lower, left), a(upper, right), a(lower, right)};
    const bool inside[2] = {k + q < depth, k + q + 4 < depth};
    const unsigned fa[4] = {
        inside[0] ? __float_as_uint(as[0]) : 0u, inside[0] ? __float_as_uint(as[1]) : 0u,
        inside[1] ? __float_as_uint(as[2]) : 0u, inside[1] ? __float_as_uint(as[3]) : 0u};
#pragma unroll
    for (int i = 0; i < STEPS; i++) {
      if (8 * i >= columns) break;
      const int column = min(8 * i + g, columns - 1);
      const unsigned fb[2] = {__float_as_uint(b(left, column)), __float_as_uint(b(right, column))};
      mma_tf32(sums[i], fa, fb);
    }
  }
}

// f(row, step, sums[step][], its place among the columns) for the rows of a tile that a lane holds: pairs of columns.
template <class F>
DEVICE void each_pair(float (&sums)[STEPS][4], int rows, int columns, F f) {
  const int g = threadIdx.x % 32 / 4, q = threadIdx.x % 4;
#pragma unroll
  for (int i = 0; i < STEPS; i++)
#pragma unroll
    for (int half = 0; half < 2; half++)
      if (g + 8 * half < rows && 8 * i + 2 * q < columns)
        f(g + 8 * half, 8 * i + 2 * q, sums[i][2 * half], sums[i][2 * half + 1]);
}

// store(i, j, sum over k of a[i][k] b[j][k]) for all i < m, j < n. Rows are pitch(depth) apart.
template <int THREADS, int R, bool TF32, class Store>
DEVICE void scores(const float* a, const float* b, int m, int n, int depth, Store store) {
  const int row = pitch(depth);
  if constexpr (TF32) {
    const int across = (n + 8 * STEPS - 1) / (8 * STEPS), down = (m + 15) / 16;
    for (int tile = threadIdx.x / 32; tile < across * down; tile += THREADS / 32) {
      const int i0 = tile / across * 16, j0 = tile % across * 8 * STEPS;
      float sums[STEPS][4] = {};
      tile_tf32(
          sums, m - i0, n - j0, depth, [&](int i, int k) { return a[(i0 + i) * row + k]; },
          [&](int k, int j) { return b[(j0 + j) * row + k]; });
      each_pair(sums, m - i0, n - j0, [&](int i, int j, float left, float right) {
        store(i0 + i, j0 + j, left);
        if (j0 + j + 1 < n) store(i0 + i, j0 + j + 1, right);
      });
    }
  } else {
    // R by 4 entries per thread, `down` and `across` apart.
    const int across = (n + 3) / 4, down = (m + R - 1) / R;
    for (int tile = threadIdx.x; tile < across * down; tile += THREADS) {
      const int i0 = tile / across, j0 = tile % across;
      float sums[R][4] = {};
      for (int k = 0; k < depth; k += 4) {
        float4 x[R], y[4];
#pragma unroll
        for (int r = 0; r < R; r++)
          x[r] = *reinterpret_cast<const float4*>(a + min(i0 + r * down, m - 1) * row + k);
#pragma unroll
        for (int c = 0; c < 4; c++)
          y[c] = *reinterpret_cast<const float4*>(b + min(j0 + c * across, n - 1) * row + k);
#pragma unroll
        for (int r = 0; r < R; r++)
#pragma unroll
          for (int c = 0; c < 4; c++) {
            float& sum = sums[r][c];
            sum = fmaf(x[r].x, y[c].x, sum);
            sum = fmaf(x[r].y, y[c].y, sum);
            sum = fmaf(x[r].z, y[c].z, sum);
            sum = fmaf(x[r].w, y[c].w, sum);
          }
      }
#pragma unroll
      for (int r = 0; r < R; r++)
#pragma unroll
        for (int c = 0; c < 4; c++)
          if (i0 + r * down < m && j0 + c * across < n) store(i0 + r * down, j0 + c * across, sums[r][c]);
    }
  }
}

// to[i][j] = scale times the sum over k < tokens of a[i][k] b[k][j], or of a[k][i] b[k][j] if TRANSPOSED, for all
// i < tokens, j < dim. a has tokens columns, and zeros behind them up to a multiple of 4.
template <int THREADS, int R, bool TF32, bool TRANSPOSED>
DEVICE void mix(const float* a, const float* b, int tokens, int dim, float* to, int stride, float scale) {
  const int a_pitch = pitch(tokens), b_pitch = pitch(dim);
  if constexpr (TF32) {
    const int across = (dim + 8 * STEPS - 1) / (8 * STEPS), down = (tokens + 15) / 16;
    for (int tile = threadIdx.x / 32; tile < across * down; tile += THREADS / 32) {
      const int i0 = tile / across * 16, j0 = tile % across * 8 * STEPS;
      float sums[STEPS][4] = {};
      tile_tf32(
          sums, tokens - i0, dim - j0, tokens,
          [&](int i, int k) { return TRANSPOSED ? a[k * a_pitch + i0 + i] : a[(i0 + i) * a_pitch + k]; },
          [&](int k, int j) { return b[k * b_pitch + j0 + j]; });
      each_pair(sums, tokens - i0, dim - j0, [&](int i, int j, float left, float right) {
        *reinterpret_cast<float2*>(to + (long long)(i0 + i) * stride + j0 + j) =
            make_float2(scale * left, scale * right);
      });
    }
  } else {
    // R rows, `down` apart, by 4 neighbouring columns per thread.
    const int across = dim / 4, down = (tokens + R - 1) / R;
    for (int tile = threadIdx.x; tile < across * down; tile += THREADS) {
      const int i0 = tile / across, j0 = tile % across * 4;
      float sums[R][4] = {};
      for (int k0 = 0; k0 < tokens; k0 += 4) {
        float x[R][4];
        if (!TRANSPOSED) {
#pragma unroll
          for (int r = 0; r < R; r++) {
            const float4 v = *reinterpret_cast<const float4*>(a + min(i0 + r * down, tokens - 1) * a_pitch + k0);
            x[r][0] = v.x, x[r][1] = v.y, x[r][2] = v.z, x[r][3] = v.w;
          }
        }
#pragma unroll
        for (int s = 0; s < 4; s++) {
          const int k = min(k0 + s, tokens - 1);
          if (TRANSPOSED) {
#pragma unroll
            for (int r = 0; r < R; r++)
              x[r][s] = k0 + s < tokens ? a[k * a_pitch + min(i0 + r * down, tokens - 1)] : 0.0f;
          }
          const float4 y = *reinterpret_cast<const float4*>(b + k * b_pitch + j0);
#pragma unroll
          for (int r = 0; r < R; r++) {
            sums[r][0] = fmaf(x[r][s], y.x, sums[r][0]);
            sums[r][1] = fmaf(x[r][s], y.y, sums[r][1]);
            sums[r][2] = fmaf(x[r][s], y.z, sums[r][2]);
            sums[r][3] = fmaf(x[r][s], y.w, sums[r][3]);
          }
        }
      }
#pragma unroll
      for (int r = 0; r < R; r++)
        if (i0 + r * down < tokens)
          *reinterpret_cast<float4*>(to + (long long)(i0 + r * down) * stride + j0) =
              make_float4(scale * sums[r][0], scale * sums[r][1], scale * sums[r][2], scale * sums[r][3]);
    }
  }
}

// f(row, column, is it dropped?) for all probabilities of a pair, four per draw.
template <int THREADS, class F>
DEVICE void each_drop(const Drops& drops, int tokens, F f) {
  for (int block = threadIdx.x; block * 4 < tokens * tokens; block += THREADS) {
    const uint4 draws = philox(drops.seed, drops.first + block, drops.clock);
    const unsigned draw[4] = {draws.x, draws.y, draws.z, draws.w};
    int row = block * 4 / tokens, column = block * 4 % tokens;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if (row < tokens) f(row, column, draw[i] < drops.threshold);
      if (++column == tokens) {
        column = 0;
        row++;
      }
    }
  }
}

template <int THREADS, int R, bool TF32>
DEVICE void forward(float* q, const float* x, const float* bias, int biases, float* y, float* stats, const Drops& drops,
                    int tokens, int heads, int dim) {
  const int size = tokens * pitch(dim), p_pitch = pitch(tokens), inner = heads * dim;
  float *k = q + size, *v = k + size, *p = v + size;
  const long long pair = blockIdx.x, sequence = pair / heads, head = pair % heads;
  const int lane = threadIdx.x % 32;

  const float* from = x + sequence * tokens * 3 * inner + head * dim;
  load_head<THREADS, TF32>(q, from, 3 * inner, tokens, dim);
  load_head<THREADS, TF32>(k, from + inner, 3 * inner, tokens, dim);
  load_head<THREADS, TF32>(v, from + 2 * inner, 3 * inner, tokens, dim);
  __syncthreads();

  const float scale = 1.0f / sqrtf((float)dim);
  const float* add = biases ? bias + sequence % biases * tokens * tokens : nullptr;
  scores<THREADS, R, TF32>(q, k, tokens, tokens, dim, [&](int i, int j, float sum) {
    p[i * p_pitch + j] = add ? fmaf(sum, scale, add[i * tokens + j]) : sum * scale;
  });
  __syncthreads();

  for (int i = threadIdx.x / 32; i < tokens; i += THREADS / 32) {
    float* row = p + i * p_pitch;
    float most = -INFINITY, sum = 0.0f;
    for (int j = lane; j < tokens; j += 32) most = fmaxf(most, row[j]);
    most = warp_max(most);
    for (int j = lane; j < tokens; j += 32) {
      const float e = expf(row[j] - most);
      row[j] = e;
      sum += e;
    }
    const float inverse = 1.0f / warp_sum(sum);
    for (int j = lane; j < p_pitch; j += 32) {
      const float e = j < tokens ? row[j] * inverse : 0.0f;
      row[j] = drops.any ? e : operand<TF32>(e);
    }
    if (lane == 0) *reinterpret_cast<float2*>(stats + 2 * (pair * tokens + i)) = make_float2(most, inverse);
  }
  __syncthreads();

  if (drops.any) {
    each_drop<THREADS>(drops, tokens, [&](int i, int j, bool dropped) {
      float& e = p[i * p_pitch + j];
      e = operand<TF32>(dropped ? 0.0f : e * drops.scale);
    });
    __syncthreads();
  }
  float* to = y + sequence * tokens * inner + head * dim;
  mix<THREADS, R, TF32, false>(p, v, tokens, dim, to, inner, 1.0f);
}

template <int THREADS, int R, bool TF32>
DEVICE void backward(float* q, const float* x, const float* bias, int biases, const float* stats, const float* dy, float* dx,
                     float* ds, bool wants_ds, const Drops& drops, int tokens, int heads, int dim) {
  const int size = tokens * pitch(dim), p_pitch = pitch(tokens), inner = heads * dim;
  float *k = q + size, *v = k + size, *d = v + size, *p = d + size, *dp = p + tokens * p_pitch;
  const long long pair = blockIdx.x, sequence = pair / heads, head = pair % heads;
  const int lane = threadIdx.x % 32;

  const float* from = x + sequence * tokens * 3 * inner + head * dim;
  load_head<THREADS, TF32>(q, from, 3 * inner, tokens, dim);
  load_head<THREADS, TF32>(k, from + inner, 3 * inner, tokens, dim);
  load_head<THREADS, TF32>(v, from + 2 * inner, 3 * inner, tokens, dim);
  load_head<THREADS, TF32>(d, dy + sequence * tokens * inner + head * dim, inner, tokens, dim);
  __syncthreads();

  const float scale = 1.0f / sqrtf((float)dim);
  const float* add = biases ? bias + sequence % biases * tokens * tokens : nullptr;
  scores<THREADS, R, TF32>(q, k, tokens, tokens, dim, [&](int i, int j, float sum) {
    const float2 stat = *reinterpret_cast<const float2*>(stats + 2 * (pair * tokens + i));
    const float score = add ? fmaf(sum, scale, add[i * tokens + j]) : sum * scale;
    p[i * p_pitch + j] = expf(score - stat.x) * stat.y;
  });
  scores<THREADS, R, TF32>(d, v, tokens, tokens, dim, [&](int i, int j, float sum) { dp[i * p_pitch + j] = sum; });
  __syncthreads();

  // A probability that is dropped gets a minus, because dS needs it still.
  if (drops.any) {
    each_drop<THREADS>(drops, tokens, [&](int i, int j, bool dropped) {
      const int at = i * p_pitch + j;
      if (dropped) p[at] = -p[at];
      dp[at] = dropped ? 0.0f : dp[at] * drops.scale;
    });
    __syncthreads();
  }
  for (int i = threadIdx.x / 32; i < tokens; i += THREADS / 32) {
    float *row = p + i * p_pitch, *d_row = dp + i * p_pitch;
    float dot = 0.0f;
    for (int j = lane; j < tokens; j += 32) dot = fmaf(fabsf(row[j]), d_row[j], dot);
    dot = warp_sum(dot);
    for (int j = lane; j < p_pitch; j += 32) {
      const float e = j < tokens ? row[j] : 0.0f;
      const float slope = j < tokens ? fabsf(e) * (d_row[j] - dot) : 0.0f;
      if (wants_ds && j < tokens) ds[(pair * tokens + i) * tokens + j] = slope;
      row[j] = operand<TF32>(e < 0.0f ? 0.0f : e * drops.scale);
      d_row[j] = operand<TF32>(slope);
    }
  }
  __syncthreads();

  float* to = dx + sequence * tokens * 3 * inner + head * dim;
  mix<THREADS, R, TF32, false>(dp, k, tokens, dim, to, 3 * inner, scale);
  mix<THREADS, R, TF32, true>(dp, q, tokens, dim, to + inner, 3 * inner, scale);
  mix<THREADS, R, TF32, true>(p, d, tokens, dim, to + 2 * inner, 3 * inner, 1.0f);
}

KERNEL(attention_fwd_warp_fp32, 32, const float* __restrict__ x, const float* __restrict__ bias, int biases,
       float* __restrict__ y, float* __restrict__ stats, const Step* __restrict__ now, int dropout, unsigned threshold,
       float keep, unsigned stream, int tokens, int heads, int dim) {
  const Drops drops = drops_of(blockIdx.x, tokens, now, dropout, threshold, keep, stream);
  SHARED_DYN(float, memory);
  forward<32, 2, false>(memory, x, bias, biases, y, stats, drops, tokens, heads, dim);
}
KERNEL(attention_fwd_warp_tf32, 32, const float* __restrict__ x, const float* __restrict__ bias, int biases,
       float* __restrict__ y, float* __restrict__ stats, const Step* __restrict__ now, int dropout, unsigned threshold,
       float keep, unsigned stream, int tokens, int heads, int dim) {
  const Drops drops = drops_of(blockIdx.x, tokens, now, dropout, threshold, keep, stream);
  SHARED_DYN(float, memory);
  forward<32, 2, true>(memory, x, bias, biases, y, stats, drops, tokens, heads, dim);
}
// 65 tokens in fives are 13, which with 17 by 4 columns make 221 tiles of scores.
KERNEL(attention_fwd_block_fp32, 224, const float* __restrict__ x, const float* __restrict__ bias, int biases,
       float* __restrict__ y, float* __restrict__ stats, const Step* __restrict__ now, int dropout, unsigned threshold,
       float keep, unsigned stream, int tokens, int heads, int dim) {
  const Drops drops = drops_of(blockIdx.x, tokens, now, dropout, threshold, keep, stream);
  SHARED_DYN(float, memory);
  forward<224, 5, false>(memory, x, bias, biases, y, stats, drops, tokens, heads, dim);
}
// 65 tokens are 5 by 3 tiles of 16 by 24: two each for 8 warps.
KERNEL(attention_fwd_block_tf32, 256, const float* __restrict__ x, const float* __restrict__ bias, int biases,
       float* __restrict__ y, float* __restrict__ stats, const Step* __restrict__ now, int dropout, unsigned threshold,
       float keep, unsigned stream, int tokens, int heads, int dim) {
  const Drops drops = drops_of(blockIdx.x, tokens, now, dropout, threshold, keep, stream);
  SHARED_DYN(float, memory);
  forward<256, 5, true>(memory, x, bias, biases, y, stats, drops, tokens, heads, dim);
}

KERNEL(attention_bwd_warp_fp32, 32, const float* __restrict__ x, const float* __restrict__ bias, int biases,
       const float* __restrict__ stats, const float* __restrict__ dy, float* __restrict__ dx, float* __restrict__ ds,
       int wants_ds, const Step* __restrict__ now, int dropout, unsigned threshold, float keep, unsigned stream,
       int tokens, int heads, int dim) {
  const Drops drops = drops_of(blockIdx.x, tokens, now, dropout, threshold, keep, stream);
  SHARED_DYN(float, memory);
  backward<32, 2, false>(memory, x, bias, biases, stats, dy, dx, ds, wants_ds, drops, tokens, heads, dim);
}
KERNEL(attention_bwd_warp_tf32, 32, const float* __restrict__ x, const float* __restrict__ bias, int biases,
       const float* __restrict__ stats, const float* __restrict__ dy, float* __restrict__ dx, float* __restrict__ ds,
       int wants_ds, const Step* __restrict__ now, int dropout, unsigned threshold, float keep, unsigned stream,
       int tokens, int heads, int dim) {
  const Drops drops = drops_of(blockIdx.x, tokens, now, dropout, threshold, keep, stream);
  SHARED_DYN(float, memory);
  backward<32, 2, true>(memory, x, bias, biases, stats, dy, dx, ds, wants_ds, drops, tokens, heads, dim);
}
KERNEL(attention_bwd_block_fp32, 224, const float* __restrict__ x, const float* __restrict__ bias, int biases,
       const float* __restrict__ stats, const float* __restrict__ dy, float* __restrict__ dx, float* __restrict__ ds,
       int wants_ds, const Step* __restrict__ now, int dropout, unsigned threshold, float keep, unsigned stream,
       int tokens, int heads, int dim) {
  const Drops drops = drops_of(blockIdx.x, tokens, now, dropout, threshold, keep, stream);
  SHARED_DYN(float, memory);
  backward<224, 5, false>(memory, x, bias, biases, stats, dy, dx, ds, wants_ds, drops, tokens, heads, dim);
}
KERNEL(attention_bwd_block_tf32, 256, const float* __restrict__ x, const float* __restrict__ bias, int biases,
       const float* __restrict__ stats, const float* __restrict__ dy, float* __restrict__ dx, float* __restrict__ ds,
       int wants_ds, const Step* __restrict__ now, int dropout, unsigned threshold, float keep, unsigned stream,
       int tokens, int heads, int dim) {
  const Drops drops = drops_of(blockIdx.x, tokens, now, dropout, threshold, keep, stream);
  SHARED_DYN(float, memory);
  backward<256, 5, true>(memory, x, bias, biases, stats, dy, dx, ds, wants_ds, drops, tokens, heads, dim);
}

// ---- any sizes ----

DEVICE float dot(const float* a, const float* b, int n) {
  float sum = 0.0f;
  for (int i = 0; i < n; i++) sum = fmaf(a[i], b[i], sum);
  return sum;
}

// Where the warp's row of scores, `row` of all pairs, finds its operands.
struct Place {
  long long pair;
  int token, stride;
  const float *q, *k, *v, *bias;  // of the sequence and head, their rows `stride` apart
  float scale;
};

DEVICE Place place_of(long long row, const float* x, const float* bias, int biases, int tokens, int heads, int dim) {
  const long long pair = row / tokens, sequence = pair / heads, head = pair % heads;
  const int inner = heads * dim;
  const float* q = x + sequence * tokens * 3 * inner + head * dim;
  const float* add = biases ? bias + sequence % biases * tokens * tokens : nullptr;
  return {pair, (int)(row % tokens), 3 * inner, q, q + inner, q + 2 * inner, add, 1.0f / sqrtf((float)dim)};
}

DEVICE float score(const Place& at, int i, int j, int tokens, int dim) {
  const float sum = dot(at.q + (long long)i * at.stride, at.k + (long long)j * at.stride, dim);
  return at.bias ? fmaf(sum, at.scale, at.bias[(long long)i * tokens + j]) : sum * at.scale;
}

KERNEL(attention_fwd, 128, const float* __restrict__ x, const float* __restrict__ bias, int biases,
       float* __restrict__ y, float* __restrict__ stats, const Step* __restrict__ now, int dropout, unsigned threshold,
       float keep, unsigned stream, long long rows, int tokens, int heads, int dim) {
  SHARED_DYN(float, memory);
  float* p = memory + threadIdx.x / 32 * tokens;
  const int lane = threadIdx.x % 32;
  for (long long row = blockIdx.x * 4 + threadIdx.x / 32; row < rows; row += gridDim.x * 4) {
    const Place at = place_of(row, x, bias, biases, tokens, heads, dim);
    const Drops drops = drops_of(at.pair, tokens, now, dropout, threshold, keep, stream);
    float most = -INFINITY, sum = 0.0f;
    for (int j = lane; j < tokens; j += 32) {
      p[j] = score(at, at.token, j, tokens, dim);
      most = fmaxf(most, p[j]);
    }
    most = warp_max(most);
    for (int j = lane; j < tokens; j += 32) {
      p[j] = expf(p[j] - most);
      sum += p[j];
    }
    const float inverse = 1.0f / warp_sum(sum);
    for (int j = lane; j < tokens; j += 32) p[j] = p[j] * inverse * keep_at(drops, at.token, j, tokens);
    if (lane == 0) *reinterpret_cast<float2*>(stats + 2 * row) = make_float2(most, inverse);
    __syncwarp();
    float* to = y + ((at.pair / heads * tokens + at.token) * heads + at.pair % heads) * dim;
    for (int d = lane; d < dim; d += 32) {
      float o = 0.0f;
      for (int j = 0; j < tokens; j++) o = fmaf(p[j], at.v[(long long)j * at.stride + d], o);
      to[d] = o;
    }
    __syncwarp();
  }
}

// dQ, dS, and for the columns rowsum(P . dP) to `dots` (pairs, T).
KERNEL(attention_bwd_q, 128, const float* __restrict__ x, const float* __restrict__ bias, int biases,
       const float* __restrict__ stats, const float* __restrict__ dy, float* __restrict__ dx, float* __restrict__ ds,
       int wants_ds, float* __restrict__ dots, const Step* __restrict__ now, int dropout, unsigned threshold,
       float keep, unsigned stream, long long rows, int tokens, int heads, int dim) {
  SHARED_DYN(float, memory);
  float *p = memory + threadIdx.x / 32 * 2 * tokens, *dp = p + tokens;
  const int lane = threadIdx.x % 32;
  for (long long row = blockIdx.x * 4 + threadIdx.x / 32; row < rows; row += gridDim.x * 4) {
    const Place at = place_of(row, x, bias, biases, tokens, heads, dim);
    const Drops drops = drops_of(at.pair, tokens, now, dropout, threshold, keep, stream);
    const float* d_row = dy + ((at.pair / heads * tokens + at.token) * heads + at.pair % heads) * dim;
    float sum = 0.0f;
    for (int j = lane; j < tokens; j += 32) {
      p[j] = expf(score(at, at.token, j, tokens, dim) - stats[2 * row]) * stats[2 * row + 1];
      dp[j] = dot(d_row, at.v + (long long)j * at.stride, dim) * keep_at(drops, at.token, j, tokens);
      sum = fmaf(p[j], dp[j], sum);
    }
    sum = warp_sum(sum);
    if (lane == 0) dots[row] = sum;
    for (int j = lane; j < tokens; j += 32) {
      dp[j] = p[j] * (dp[j] - sum);
      if (wants_ds) ds[row * tokens + j] = dp[j];
    }
    __syncwarp();
    float* to = dx + (at.q - x) + (long long)at.token * at.stride;
    for (int d = lane; d < dim; d += 32) {
      float dq = 0.0f;
      for (int j = 0; j < tokens; j++) dq = fmaf(dp[j], at.k[(long long)j * at.stride + d], dq);
      to[d] = at.scale * dq;
    }
    __syncwarp();
  }
}

// dK and dV of a token, from its column of scores.
KERNEL(attention_bwd_kv, 128, const float* __restrict__ x, const float* __restrict__ bias, int biases,
       const float* __restrict__ stats, const float* __restrict__ dy, float* __restrict__ dx,
       const float* __restrict__ dots, const Step* __restrict__ now, int dropout, unsigned threshold, float keep,
       unsigned stream, long long rows, int tokens, int heads, int dim) {
  SHARED_DYN(float, memory);
  float *p = memory + threadIdx.x / 32 * 2 * tokens, *ds = p + tokens;
  const int lane = threadIdx.x % 32;
  for (long long row = blockIdx.x * 4 + threadIdx.x / 32; row < rows; row += gridDim.x * 4) {
    const Place at = place_of(row, x, bias, biases, tokens, heads, dim);
    const Drops drops = drops_of(at.pair, tokens, now, dropout, threshold, keep, stream);
    const float* d_rows = dy + (at.pair / heads * tokens * heads + at.pair % heads) * dim;
    const long long d_stride = (long long)heads * dim;
    for (int i = lane; i < tokens; i += 32) {
      const long long of = at.pair * tokens + i;
      const float e = expf(score(at, i, at.token, tokens, dim) - stats[2 * of]) * stats[2 * of + 1];
      const float kept = keep_at(drops, i, at.token, tokens);
      const float dp = dot(d_rows + i * d_stride, at.v + (long long)at.token * at.stride, dim) * kept;
      p[i] = e * kept;
      ds[i] = e * (dp - dots[of]);
    }
    __syncwarp();
    float* to = dx + (at.k - x) + (long long)at.token * at.stride;
    for (int d = lane; d < dim; d += 32) {
      float dk = 0.0f, dv = 0.0f;
      for (int i = 0; i < tokens; i++) {
        dk = fmaf(ds[i], at.q[(long long)i * at.stride + d], dk);
        dv = fmaf(p[i], d_rows[i * d_stride + d], dv);
      }
      to[d] = at.scale * dk;
      to[heads * dim + d] = dv;
    }
    __syncwarp();
  }
}
