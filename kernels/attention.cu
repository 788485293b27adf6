// Softmax attention of every sequence and head, with s = 1 / sqrt(D):
//   P = softmax(s Q K^T + bias), O = (P . keep) V
//   dV = (P . keep)^T dO, dP = (dO V^T) . keep, dS = P . (dP - rowsum(P . dP)), dQ = s dS K, dK = s dS^T Q
// keep is dropout's 0 or 1 / (1 - p), drawn again both ways as in dropout.cu, the probabilities (T, T) of a sequence
// and head, a pair, beginning a new block of Philox. The bias' gradient is the sum of dS over heads and the sequences
// that share it, by `column_sums`.
//   x, dx (sequences, T, 3, heads, D): Q, K, V; y, dy (sequences, T, heads, D); bias (biases, T, T)
//   stats (pairs, T, 2): maximum and 1 / sum of exp of a row of scores, from which backward computes P again
//   ds (pairs, T, T) if it is wanted
//
// attention_{fwd,bwd}_*: a block per pair, whose matrices all lie in shared memory. D is a multiple of 4.
//   warp, block  one warp for short sequences, several for longer ones
//   fp32, tf32   every product fused, in the order of the sum; on tensor cores, their operands rounded to TF32 when
//                they are put into shared memory
// attention_{fwd,bwd_q,bwd_kv}: any sizes, in single precision; a warp per row of scores, or per column, which alone
//   lies in shared memory.
#include "common.cuh"

// Floats from row to row of a matrix in shared memory: a multiple of 4, for vectors, and never one of 8, so that
// neighbours in a column lie in different banks.
DEVICE int pitch(int n) { return (n + 3) / 4 * 4 | 4; }

// What dropout does to the probabilities, if it does anything.
struct Dropout {
  const Step* now;
  int any;
  unsigned threshold;
  float scale;
  unsigned stream;
};

// The draws of block `block` of a pair's probabilities.
DEVICE uint4 draws(const Dropout& dropout, long long pair, long long block, int tokens) {
  const long long blocks = ((long long)tokens * tokens + 3) / 4;
  const unsigned long long first = (unsigned long long)dropout.stream << 32;
  return philox(dropout.now->seed, first + pair * blocks + block, dropout.now->batch);
}

DEVICE float keep_at(const Dropout& dropout, long long pair, int row, int column, int tokens) {
  if (!dropout.any) return 1.0f;
  const long long at = (long long)row * tokens + column;
  const uint4 draw = draws(dropout, pair, at / 4, tokens);
  const unsigned even = at % 4 < 2 ? draw.x : draw.z, odd = at % 4 < 2 ? draw.y : draw.w;
  return (at % 2 ? odd : even) < dropout.threshold ? 0.0f : dropout.scale;
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
  const int vectors = dim / 4, to_pitch = pitch(dim), rows_on = THREADS / vectors, vectors_on = THREADS % vectors;
  int vector = threadIdx.x % vectors, row = threadIdx.x / vectors;
  int at = row * stride + 4 * vector, to_at = row * to_pitch + 4 * vector;
#pragma unroll 4
  for (int e = threadIdx.x; e < tokens * vectors; e += THREADS) {
    const float4 x = *reinterpret_cast<const float4*>(from + at);
    *reinterpret_cast<float4*>(to + to_at) =
        make_float4(operand<TF32>(x.x), operand<TF32>(x.y), operand<TF32>(x.z), operand<TF32>(x.w));
    vector += vectors_on;
    const bool wraps = vector >= vectors;
    vector -= wraps ? vectors : 0;
    at += rows_on * stride + 4 * vectors_on + (wraps ? stride - dim : 0);
    to_at += rows_on * to_pitch + 4 * vectors_on + (wraps ? to_pitch - dim : 0);
  }
}

// Columns of a warp's tile on tensor cores, in steps of 8.
constexpr int STEPS = 3;

// sums[i][] += A (16, depth) B (depth, 8), i counting the columns of B in steps of 8. A[i][k] is a[i a_row + k a_k],
// B[k][j] is b[k b_k + j b_column]; of A only `rows` are there, of B only `columns`.
DEVICE void tile_tf32(float (&sums)[STEPS][4], const float* a, int a_row, int a_k, const float* b, int b_k,
                      int b_column, int rows, int columns, int depth) {
  const int g = threadIdx.x % 32 / 4, q = threadIdx.x % 4;
  int upper = min(g, rows - 1) * a_row + q * a_k, lower = min(g + 8, rows - 1) * a_row + q * a_k;
  int column[STEPS];
#pragma unroll
  for (int i = 0; i < STEPS; i++) column[i] = min(8 * i + g, columns - 1) * b_column + q * b_k;
  // Beyond the depth, zeros of A make B's numbers, which are then its first ones, count for nothing.
  const auto slice = [&](bool left, bool right) {
    const float as[4] = {left ? a[upper] : 0.0f, left ? a[lower] : 0.0f, right ? a[upper + 4 * a_k] : 0.0f,
                         right ? a[lower + 4 * a_k] : 0.0f};
    const unsigned fa[4] = {__float_as_uint(as[0]), __float_as_uint(as[1]), __float_as_uint(as[2]),
                            __float_as_uint(as[3])};
#pragma unroll
    for (int i = 0; i < STEPS; i++) {
      const unsigned fb[2] = {__float_as_uint(b[left ? column[i] : 0]),
                              __float_as_uint(b[right ? column[i] + 4 * b_k : 0])};
      if (8 * i < columns) mma_tf32(sums[i], fa, fb);
    }
  };
  int k = 0;
#pragma unroll 1
  for (; k + 8 <= depth; k += 8) {
    slice(true, true);
    upper += 8 * a_k;
    lower += 8 * a_k;
#pragma unroll
    for (int i = 0; i < STEPS; i++) column[i] += 8 * b_k;
  }
  if (k < depth) slice(k + q < depth, k + q + 4 < depth);
}

// f(row, column, left, right) for the pairs of neighbouring columns that a lane holds of a tile.
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

// to[i][j] = sum over k < dim of a[i][k] b[j][k], for all tokens i and j. What it leaves in the column behind them
// means nothing.
template <int THREADS, int R, bool TF32>
DEVICE void scores(const float* a, const float* b, int tokens, int dim, float* to) {
  const int row = pitch(dim), to_row = pitch(tokens);
  if constexpr (TF32) {
    const int across = (tokens + 8 * STEPS - 1) / (8 * STEPS), down = (tokens + 15) / 16;
    for (int tile = threadIdx.x / 32; tile < across * down; tile += THREADS / 32) {
      const int i0 = tile / across * 16, j0 = tile % across * 8 * STEPS;
      float sums[STEPS][4] = {};
      tile_tf32(sums, a + i0 * row, row, 1, b + j0 * row, 1, row, tokens - i0, tokens - j0, dim);
      each_pair(sums, tokens - i0, tokens - j0, [&](int i, int j, float left, float right) {
        *reinterpret_cast<float2*>(to + (i0 + i) * to_row + j0 + j) = make_float2(left, right);
      });
    }
  } else {
    // R by 4 entries per thread, `down` and `across` apart. Those beyond the last row or column are computed as its
    // entries, so that several threads write the same.
    const int across = (tokens + 3) / 4, down = (tokens + R - 1) / R;
    for (int tile = threadIdx.x; tile < across * down; tile += THREADS) {
      int i[R], j[4];
#pragma unroll
      for (int r = 0; r < R; r++) i[r] = min(tile / across + r * down, tokens - 1);
#pragma unroll
      for (int c = 0; c < 4; c++) j[c] = min(tile % across + c * across, tokens - 1);
      float sums[R][4] = {};
#pragma unroll 2
      for (int k = 0; k < dim; k += 4) {
        float4 x[R], y[4];
#pragma unroll
        for (int r = 0; r < R; r++) x[r] = *reinterpret_cast<const float4*>(a + i[r] * row + k);
#pragma unroll
        for (int c = 0; c < 4; c++) y[c] = *reinterpret_cast<const float4*>(b + j[c] * row + k);
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
        for (int c = 0; c < 4; c++) to[i[r] * to_row + j[c]] = sums[r][c];
    }
  }
}

// to[i][j] = scale times the sum over k < tokens of a[i][k] b[k][j], or of a[k][i] b[k][j] if TRANSPOSED, for all
// i < tokens, j < dim. a has tokens columns, and zeros behind them up to a multiple of 4.
template <int THREADS, int R, bool TF32, bool TRANSPOSED>
DEVICE void mix(const float* a, const float* b, int tokens, int dim, float* to, int stride, float scale) {
  const int a_row = TRANSPOSED ? 1 : pitch(tokens), a_k = TRANSPOSED ? pitch(tokens) : 1, b_k = pitch(dim);
  if constexpr (TF32) {
    const int across = (dim + 8 * STEPS - 1) / (8 * STEPS), down = (tokens + 15) / 16;
    for (int tile = threadIdx.x / 32; tile < across * down; tile += THREADS / 32) {
      const int i0 = tile / across * 16, j0 = tile % across * 8 * STEPS;
      float sums[STEPS][4] = {};
      tile_tf32(sums, a + i0 * a_row, a_row, a_k, b + j0, b_k, 1, tokens - i0, dim - j0, tokens);
      each_pair(sums, tokens - i0, dim - j0, [&](int i, int j, float left, float right) {
        *reinterpret_cast<float2*>(to + (i0 + i) * stride + j0 + j) = make_float2(scale * left, scale * right);
      });
    }
  } else {
    // R rows, `down` apart, by 4 neighbouring columns per thread; beyond the last row as above.
    const int across = dim / 4, down = (tokens + R - 1) / R;
    for (int tile = threadIdx.x; tile < across * down; tile += THREADS) {
      const int j = tile % across * 4;
      int i[R];
#pragma unroll
      for (int r = 0; r < R; r++) i[r] = min(tile / across + r * down, tokens - 1);
      float sums[R][4] = {};
#pragma unroll 2
      for (int k0 = 0; k0 < tokens; k0 += 4) {
        float x[R][4];
        if (!TRANSPOSED) {
#pragma unroll
          for (int r = 0; r < R; r++) {
            const float4 v = *reinterpret_cast<const float4*>(a + i[r] * a_row + k0);
            x[r][0] = v.x, x[r][1] = v.y, x[r][2] = v.z, x[r][3] = v.w;
          }
        }
#pragma unroll
        for (int s = 0; s < 4; s++) {
          const int k = min(k0 + s, tokens - 1);
          if (TRANSPOSED) {
#pragma unroll
            for (int r = 0; r < R; r++) x[r][s] = k0 + s < tokens ? a[k * a_k + i[r]] : 0.0f;
          }
          const float4 y = *reinterpret_cast<const float4*>(b + k * b_k + j);
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
        *reinterpret_cast<float4*>(to + i[r] * stride + j) =
            make_float4(scale * sums[r][0], scale * sums[r][1], scale * sums[r][2], scale * sums[r][3]);
    }
  }
}

// f(row, column, is it dropped?) for all probabilities of a pair, four per draw.
template <int THREADS, class F>
DEVICE void each_drop(const Dropout& dropout, long long pair, int tokens, F f) {
  for (int block = threadIdx.x; block * 4 < tokens * tokens; block += THREADS) {
    const uint4 four = draws(dropout, pair, block, tokens);
    const unsigned draw[4] = {four.x, four.y, four.z, four.w};
    int row = block * 4 / tokens, column = block * 4 % tokens;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if (row < tokens) f(row, column, draw[i] < dropout.threshold);
      if (++column == tokens) {
        column = 0;
        row++;
      }
    }
  }
}

template <int THREADS, int R, bool TF32>
DEVICE void forward(float* q, const float* x, const float* bias, int biases, float* y, float* stats, Dropout dropout,
                    int tokens, int heads, int dim) {
  const int size = tokens * pitch(dim), p_pitch = pitch(tokens), inner = heads * dim;
  float *k = q + size, *v = k + size, *p = v + size;
  const int pair = blockIdx.x, sequence = pair / heads, head = pair % heads;
  const int lane = threadIdx.x % 32;

  const float* from = x + (long long)sequence * tokens * 3 * inner + head * dim;
  load_head<THREADS, TF32>(q, from, 3 * inner, tokens, dim);
  load_head<THREADS, TF32>(k, from + inner, 3 * inner, tokens, dim);
  load_head<THREADS, TF32>(v, from + 2 * inner, 3 * inner, tokens, dim);
  __syncthreads();

  scores<THREADS, R, TF32>(q, k, tokens, dim, p);
  __syncthreads();

  // Eight rows per warp, each by four neighbours.
  const float scale = 1.0f / sqrtf((float)dim);
  const float* add = biases ? bias + sequence % biases * tokens * tokens : nullptr;
  for (int i0 = threadIdx.x / 32 * 8; i0 < tokens; i0 += THREADS / 4) {
    const int i = i0 + lane / 4, end = i < tokens ? tokens : 0;
    float* row = p + i * p_pitch;
    float most = -INFINITY, sum = 0.0f;
    for (int j = lane % 4; j < end; j += 4) {
      row[j] = add ? fmaf(row[j], scale, add[i * tokens + j]) : row[j] * scale;
      most = fmaxf(most, row[j]);
    }
    most = max_over<4>(most);
    for (int j = lane % 4; j < end; j += 4) {
      const float e = expf(row[j] - most);
      row[j] = e;
      sum += e;
    }
    const float inverse = 1.0f / sum_over<4>(sum);
    if (i >= tokens) continue;
    for (int j = lane % 4; j < p_pitch; j += 4) {
      const float e = j < tokens ? row[j] * inverse : 0.0f;
      row[j] = dropout.any ? e : operand<TF32>(e);
    }
    if (lane % 4 == 0)
      *reinterpret_cast<float2*>(stats + 2 * ((long long)pair * tokens + i)) = make_float2(most, inverse);
  }
  __syncthreads();

  if (dropout.any) {
    each_drop<THREADS>(dropout, pair, tokens, [&](int i, int j, bool dropped) {
      float& e = p[i * p_pitch + j];
      e = operand<TF32>(dropped ? 0.0f : e * dropout.scale);
    });
    __syncthreads();
  }
  float* to = y + (long long)sequence * tokens * inner + head * dim;
  mix<THREADS, R, TF32, false>(p, v, tokens, dim, to, inner, 1.0f);
}

template <int THREADS, int R, bool TF32>
DEVICE void backward(float* q, const float* x, const float* bias, int biases, const float* stats, const float* dy,
                     float* dx, float* ds, bool wants_ds, Dropout dropout, int tokens, int heads, int dim) {
  const int size = tokens * pitch(dim), p_pitch = pitch(tokens), inner = heads * dim;
  float *k = q + size, *v = k + size, *d = v + size, *p = d + size, *dp = p + tokens * p_pitch;
  const int pair = blockIdx.x, sequence = pair / heads, head = pair % heads;
  const int lane = threadIdx.x % 32;

  const float* from = x + (long long)sequence * tokens * 3 * inner + head * dim;
  load_head<THREADS, TF32>(q, from, 3 * inner, tokens, dim);
  load_head<THREADS, TF32>(k, from + inner, 3 * inner, tokens, dim);
  load_head<THREADS, TF32>(v, from + 2 * inner, 3 * inner, tokens, dim);
  load_head<THREADS, TF32>(d, dy + (long long)sequence * tokens * inner + head * dim, inner, tokens, dim);
  __syncthreads();

  scores<THREADS, R, TF32>(q, k, tokens, dim, p);
  scores<THREADS, R, TF32>(d, v, tokens, dim, dp);
  __syncthreads();

  const float scale = 1.0f / sqrtf((float)dim);
  const float* add = biases ? bias + sequence % biases * tokens * tokens : nullptr;
  for (int i = threadIdx.x / 4; i < tokens; i += THREADS / 4) {
    float* row = p + i * p_pitch;
    const float2 stat = *reinterpret_cast<const float2*>(stats + 2 * ((long long)pair * tokens + i));
    for (int j = lane % 4; j < tokens; j += 4) {
      const float score = add ? fmaf(row[j], scale, add[i * tokens + j]) : row[j] * scale;
      row[j] = expf(score - stat.x) * stat.y;
    }
  }
  // A probability that is dropped gets a minus, because dS needs it still.
  if (dropout.any) {
    __syncthreads();
    each_drop<THREADS>(dropout, pair, tokens, [&](int i, int j, bool dropped) {
      const int at = i * p_pitch + j;
      if (dropped) p[at] = -p[at];
      dp[at] = dropped ? 0.0f : dp[at] * dropout.scale;
    });
    __syncthreads();
  }
  // The same threads have the same entries as above.
  for (int i0 = threadIdx.x / 32 * 8; i0 < tokens; i0 += THREADS / 4) {
    const int i = i0 + lane / 4, end = i < tokens ? tokens : 0;
    float *row = p + i * p_pitch, *d_row = dp + i * p_pitch;
    float dot = 0.0f;
    for (int j = lane % 4; j < end; j += 4) dot = fmaf(fabsf(row[j]), d_row[j], dot);
    dot = sum_over<4>(dot);
    if (i >= tokens) continue;
    for (int j = lane % 4; j < p_pitch; j += 4) {
      const float e = j < tokens ? row[j] : 0.0f;
      const float slope = j < tokens ? fabsf(e) * (d_row[j] - dot) : 0.0f;
      if (wants_ds && j < tokens) ds[((long long)pair * tokens + i) * tokens + j] = slope;
      row[j] = operand<TF32>(e < 0.0f ? 0.0f : e * dropout.scale);
      d_row[j] = operand<TF32>(slope);
    }
  }
  __syncthreads();

  float* to = dx + (long long)sequence * tokens * 3 * inner + head * dim;
  mix<THREADS, R, TF32, false>(dp, k, tokens, dim, to, 3 * inner, scale);
  mix<THREADS, R, TF32, true>(dp, q, tokens, dim, to + inner, 3 * inner, scale);
  mix<THREADS, R, TF32, true>(p, d, tokens, dim, to + 2 * inner, 3 * inner, 1.0f);
}

// What the kernels take beside their operands.
struct AttentionSizes {
  int sequences, heads, tokens, dim;
  int biases;    // shared by the sequences in turn, 0 if there are none
  int wants_ds;  // is the gradient of the scores to be written?
  int drops;     // is there dropout? Then of what follows
  unsigned threshold;
  float keep;
  unsigned stream;
};

DEVICE Dropout dropout_of(const Step* now, const AttentionSizes& s) {
  return {now, s.drops, s.threshold, s.keep, s.stream};
}

KERNEL(attention_fwd_warp_fp32, 32, const float* __restrict__ x, const float* __restrict__ bias, float* __restrict__ y,
       float* __restrict__ stats, const Step* __restrict__ now, AttentionSizes s) {
  SHARED_DYN(float, memory);
  forward<32, 2, false>(memory, x, bias, s.biases, y, stats, dropout_of(now, s), s.tokens, s.heads, s.dim);
}
KERNEL(attention_fwd_warp_tf32, 32, const float* __restrict__ x, const float* __restrict__ bias, float* __restrict__ y,
       float* __restrict__ stats, const Step* __restrict__ now, AttentionSizes s) {
  SHARED_DYN(float, memory);
  forward<32, 2, true>(memory, x, bias, s.biases, y, stats, dropout_of(now, s), s.tokens, s.heads, s.dim);
}
// 65 tokens in fives are 13, which with 17 by 4 columns make 221 tiles of scores.
KERNEL(attention_fwd_block_fp32, 224, const float* __restrict__ x, const float* __restrict__ bias,
       float* __restrict__ y, float* __restrict__ stats, const Step* __restrict__ now, AttentionSizes s) {
  SHARED_DYN(float, memory);
  forward<224, 5, false>(memory, x, bias, s.biases, y, stats, dropout_of(now, s), s.tokens, s.heads, s.dim);
}
// 65 tokens are 5 by 3 tiles of 16 by 24: two each for 8 warps.
KERNEL(attention_fwd_block_tf32, 256, const float* __restrict__ x, const float* __restrict__ bias,
       float* __restrict__ y, float* __restrict__ stats, const Step* __restrict__ now, AttentionSizes s) {
  SHARED_DYN(float, memory);
  forward<256, 5, true>(memory, x, bias, s.biases, y, stats, dropout_of(now, s), s.tokens, s.heads, s.dim);
}

KERNEL(attention_bwd_warp_fp32, 32, const float* __restrict__ x, const float* __restrict__ bias,
       const float* __restrict__ stats, const float* __restrict__ dy, float* __restrict__ dx, float* __restrict__ ds,
       const Step* __restrict__ now, AttentionSizes s) {
  SHARED_DYN(float, memory);
  backward<32, 2, false>(memory, x, bias, s.biases, stats, dy, dx, ds, s.wants_ds, dropout_of(now, s), s.tokens,
           s.heads, s.dim);
}
KERNEL(attention_bwd_warp_tf32, 32, const float* __restrict__ x, const float* __restrict__ bias,
       const float* __restrict__ stats, const float* __restrict__ dy, float* __restrict__ dx, float* __restrict__ ds,
       const Step* __restrict__ now, AttentionSizes s) {
  SHARED_DYN(float, memory);
  backward<32, 2, true>(memory, x, bias, s.biases, stats, dy, dx, ds, s.wants_ds, dropout_of(now, s), s.tokens,
           s.heads, s.dim);
}
KERNEL(attention_bwd_block_fp32, 224, const float* __restrict__ x, const float* __restrict__ bias,
       const float* __restrict__ stats, const float* __restrict__ dy, float* __restrict__ dx, float* __restrict__ ds,
       const Step* __restrict__ now, AttentionSizes s) {
  SHARED_DYN(float, memory);
  backward<224, 5, false>(memory, x, bias, s.biases, stats, dy, dx, ds, s.wants_ds, dropout_of(now, s), s.tokens,
           s.heads, s.dim);
}
KERNEL(attention_bwd_block_tf32, 256, const float* __restrict__ x, const float* __restrict__ bias,
       const float* __restrict__ stats, const float* __restrict__ dy, float* __restrict__ dx, float* __restrict__ ds,
       const Step* __restrict__ now, AttentionSizes s) {
  SHARED_DYN(float, memory);
  backward<256, 5, true>(memory, x, bias, s.biases, stats, dy, dx, ds, s.wants_ds, dropout_of(now, s), s.tokens,
           s.heads, s.dim);
}

// ---- any sizes ----

DEVICE float dot(const float* a, const float* b, int n) {
  float sum = 0.0f;
  for (int i = 0; i < n; i++) sum = fmaf(a[i], b[i], sum);
  return sum;
}

// Where the warp's row of scores, `row` of all pairs, finds its operands.
struct ScoreRow {
  long long pair;
  int token, stride;
  const float *q, *k, *v, *bias;  // of the sequence and head, their rows `stride` apart
  float scale;
};

DEVICE ScoreRow score_row(long long row, const float* x, const float* bias, int biases, int tokens, int heads, int dim) {
  const long long pair = row / tokens, sequence = pair / heads, head = pair % heads;
  const int inner = heads * dim;
  const float* q = x + sequence * tokens * 3 * inner + head * dim;
  const float* add = biases ? bias + sequence % biases * tokens * tokens : nullptr;
  return {pair, (int)(row % tokens), 3 * inner, q, q + inner, q + 2 * inner, add, 1.0f / sqrtf((float)dim)};
}

DEVICE float score(const ScoreRow& at, int i, int j, int tokens, int dim) {
  const float sum = dot(at.q + (long long)i * at.stride, at.k + (long long)j * at.stride, dim);
  return at.bias ? fmaf(sum, at.scale, at.bias[(long long)i * tokens + j]) : sum * at.scale;
}

KERNEL(attention_fwd_any, 128, const float* __restrict__ x, const float* __restrict__ bias, float* __restrict__ y,
       float* __restrict__ stats, const Step* __restrict__ now, AttentionSizes s) {
  SHARED_DYN(float, memory);
  const int tokens = s.tokens, heads = s.heads, dim = s.dim;
  const long long rows = (long long)s.sequences * heads * tokens;
  float* p = memory + threadIdx.x / 32 * tokens;
  const int lane = threadIdx.x % 32;
  for (long long row = blockIdx.x * 4 + threadIdx.x / 32; row < rows; row += gridDim.x * 4) {
    const ScoreRow at = score_row(row, x, bias, s.biases, tokens, heads, dim);
    const Dropout dropout = dropout_of(now, s);
    float most = -INFINITY, sum = 0.0f;
    for (int j = lane; j < tokens; j += 32) {
      p[j] = score(at, at.token, j, tokens, dim);
      most = fmaxf(most, p[j]);
    }
    most = max_over<32>(most);
    for (int j = lane; j < tokens; j += 32) {
      p[j] = expf(p[j] - most);
      sum += p[j];
    }
    const float inverse = 1.0f / warp_sum(sum);
    for (int j = lane; j < tokens; j += 32) p[j] = p[j] * inverse * keep_at(dropout, at.pair, at.token, j, tokens);
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
KERNEL(attention_bwd_q, 128, const float* __restrict__ x, const float* __restrict__ bias,
       const float* __restrict__ stats, const float* __restrict__ dy, float* __restrict__ dx, float* __restrict__ ds,
       float* __restrict__ dots, const Step* __restrict__ now, AttentionSizes s) {
  SHARED_DYN(float, memory);
  const int tokens = s.tokens, heads = s.heads, dim = s.dim;
  const long long rows = (long long)s.sequences * heads * tokens;
  float *p = memory + threadIdx.x / 32 * 2 * tokens, *dp = p + tokens;
  const int lane = threadIdx.x % 32;
  for (long long row = blockIdx.x * 4 + threadIdx.x / 32; row < rows; row += gridDim.x * 4) {
    const ScoreRow at = score_row(row, x, bias, s.biases, tokens, heads, dim);
    const Dropout dropout = dropout_of(now, s);
    const float* d_row = dy + ((at.pair / heads * tokens + at.token) * heads + at.pair % heads) * dim;
    float sum = 0.0f;
    for (int j = lane; j < tokens; j += 32) {
      p[j] = expf(score(at, at.token, j, tokens, dim) - stats[2 * row]) * stats[2 * row + 1];
      dp[j] = dot(d_row, at.v + (long long)j * at.stride, dim) * keep_at(dropout, at.pair, at.token, j, tokens);
      sum = fmaf(p[j], dp[j], sum);
    }
    sum = warp_sum(sum);
    if (lane == 0) dots[row] = sum;
    for (int j = lane; j < tokens; j += 32) {
      dp[j] = p[j] * (dp[j] - sum);
      if (s.wants_ds) ds[row * tokens + j] = dp[j];
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
KERNEL(attention_bwd_kv, 128, const float* __restrict__ x, const float* __restrict__ bias,
       const float* __restrict__ stats, const float* __restrict__ dy, float* __restrict__ dx,
       const float* __restrict__ dots, const Step* __restrict__ now, AttentionSizes s) {
  SHARED_DYN(float, memory);
  const int tokens = s.tokens, heads = s.heads, dim = s.dim;
  const long long rows = (long long)s.sequences * heads * tokens;
  float *p = memory + threadIdx.x / 32 * 2 * tokens, *ds = p + tokens;
  const int lane = threadIdx.x % 32;
  for (long long row = blockIdx.x * 4 + threadIdx.x / 32; row < rows; row += gridDim.x * 4) {
    const ScoreRow at = score_row(row, x, bias, s.biases, tokens, heads, dim);
    const Dropout dropout = dropout_of(now, s);
    const float* d_rows = dy + (at.pair / heads * tokens * heads + at.pair % heads) * dim;
    const long long d_stride = (long long)heads * dim;
    for (int i = lane; i < tokens; i += 32) {
      const long long of = at.pair * tokens + i;
      const float e = expf(score(at, i, at.token, tokens, dim) - stats[2 * of]) * stats[2 * of + 1];
      const float kept = keep_at(dropout, at.pair, i, at.token, tokens);
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
