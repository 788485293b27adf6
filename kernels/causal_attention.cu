// Softmax attention of every token to itself and to those before it, with s = 1 / sqrt(D), after queries and keys have
// been turned by their positions if base > 0: the pair (2j, 2j + 1) at position t by the angle t base^(-2j / D).
//   P_ij = exp(s <q_i, k_j> - L_i) for j <= i, else 0, L_i = log of the sum over j <= i of exp(s <q_i, k_j>), O = P V
//   dV = P^T dO, dS = P . (dO V^T - rowsum(dO . O)), dQ = s dS K, dK = s dS^T Q
//   x, dx (sequences, T, 3, heads, D): Q, K, V; y, dy (sequences, T, heads, D); l (pairs, T): L / log 2. A pair is a
//   sequence and a head
//
// A block has ROWS rows of one pair's matrix of scores, or of its transpose, 16 to a warp, and goes through it COLUMNS at a
// time up to the diagonal, or from there on. Such a tile is in registers only, its operands in shared memory. The blocks
// with most to do come first.
//   64, 192, 256  dimensions at most; what a head does not have counts as zero
//   fp32, tf32    as in product.cuh
#include "product.cuh"

// What the kernels take beside their operands.
struct CausalSizes {
  int sequences, heads, tokens, dim;
  float base;  // 0: nothing is turned
};

constexpr int ROWS = 64, THREADS = 2 * ROWS, COLUMNS = 32;
constexpr int STEPS = COLUMNS / 8;  // of a tile, 8 columns each
constexpr float LOG2_E = 1.44269504f;

// The bytes in shared memory follow from these in src/ops/causal_attention.rs, too.
template <bool VALUE>
struct Constant {
  static constexpr bool value = VALUE;
};
using Yes = Constant<true>;
using No = Constant<false>;

template <int MOST_>
struct Head {
  static constexpr int MOST = MOST_;                     // dimensions
  static constexpr int PARTS = MOST / 8;                 // of a head, 8 dimensions each
  static constexpr bool JOINT = MOST == 64;              // one block has dK and dV, whose sums fit into its registers
  // Fragments by rows and by columns are read without bank conflicts.
  static constexpr int PITCH = MOST + 4, ROW_PITCH = PITCH, K_PITCH = PITCH;
};

// ---- turns ----

// What position t + 1 is turned further than t, in units of 2^-64 turns, by pairs. So multiples wrap around as angles do, and
// lose nothing.
DEVICE void angles(unsigned long long* to, int pairs, const CausalSizes& s) {
  constexpr double TURN = 6.283185307179586;
  for (int j = threadIdx.x; j < pairs; j += THREADS)
    to[j] = (unsigned long long)(0x1p64 / TURN * pow((double)s.base, -2.0 * j / s.dim));
}

// Cosine and sine.
DEVICE float2 direction(unsigned long long angle) {
  const unsigned turn = (unsigned)(angle >> 32), quarter = (turn + (1u << 29)) >> 30;
  // From the nearest quarter, -pi / 4 to pi / 4: Taylor's series.
  const float x = (float)(int)(turn - (quarter << 30)) * (6.2831853f / 4294967296.0f), square = x * x;
  float sine = fmaf(square, 1.0f / 362880.0f, -1.0f / 5040.0f);
  sine = fmaf(square, sine, 1.0f / 120.0f);
  sine = fmaf(square, sine, -1.0f / 6.0f);
  sine = fmaf(x * square, sine, x);
  float cosine = fmaf(square, -1.0f / 3628800.0f, 1.0f / 40320.0f);
  cosine = fmaf(square, cosine, -1.0f / 720.0f);
  cosine = fmaf(square, cosine, 1.0f / 24.0f);
  cosine = fmaf(square, cosine, -0.5f);
  cosine = fmaf(square, cosine, 1.0f);
  const float c = quarter % 2 ? sine : cosine, s = quarter % 2 ? cosine : sine;
  return make_float2((quarter + 1) % 4 < 2 ? c : -c, quarter % 4 < 2 ? s : -s);
}

// ---- operands ----

// Those of a pair: rows are `stride` floats apart. Can four floats of a row be read at once?
struct Operand {
  const float* data;
  int stride;
  bool fours;
};

DEVICE Operand operand(const float* data, long long stride, const CausalSizes& s) {
  return {data, (int)stride, s.dim % 4 == 0 && aligned(data, 4, 4)};
}

DEVICE Operand operand(const float* x, int part, int pair, const CausalSizes& s) {
  const long long sequence = pair / s.heads, inner = s.heads * s.dim;
  return operand(x + sequence * s.tokens * 3 * inner + part * inner + pair % s.heads * s.dim, 3 * inner, s);
}

DEVICE Operand output(const float* y, int pair, const CausalSizes& s) {
  const long long sequence = pair / s.heads, inner = s.heads * s.dim;
  return operand(y + sequence * s.tokens * inner + pair % s.heads * s.dim, inner, s);
}

// f(row, column, fours) for all fours of N rows; are all read or written at once?
template <class H, int N, class F>
DEVICE void each_four(const Operand& of, F f) {
  constexpr int ACROSS = H::MOST / 4;
  const unsigned thread = thread_again();
  if (of.fours) {
#pragma unroll 2
    for (unsigned e = thread; e < N * ACROSS; e += THREADS) f(e / ACROSS, e % ACROSS * 4, Yes());
  } else {
#pragma unroll 1
    for (unsigned e = thread; e < N * ACROSS; e += THREADS) f(e / ACROSS, e % ACROSS * 4, No());
  }
}

// Four floats of a row from column c on, 0 behind its end.
template <bool FOURS>
DEVICE float4 load_four(const Operand& from, int row, int c, int dim) {
  const float* x = from.data + (long long)row * from.stride + c;
  if (FOURS) return c < dim ? *reinterpret_cast<const float4*>(x) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  return make_float4(c < dim ? x[0] : 0.0f, c + 1 < dim ? x[1] : 0.0f, c + 2 < dim ? x[2] : 0.0f,
                     c + 3 < dim ? x[3] : 0.0f);
}

// Two pairs of position t, the first being number j; `sign` is -1 for the transpose.
DEVICE float4 turned(float4 x, const unsigned long long* angles, int j, int t, float sign) {
  const float2 a = direction(angles[j] * t), b = direction(angles[j + 1] * t);
  const float a_sine = sign * a.y, b_sine = sign * b.y;
  return make_float4(x.x * a.x - x.y * a_sine, x.y * a.x + x.x * a_sine, x.z * b.x - x.w * b_sine,
                     x.w * b.x + x.z * b_sine);
}

template <bool TF32>
DEVICE float4 rounded(float4 x) {
  if (!TF32) return x;
  return make_float4(__uint_as_float(to_tf32(x.x)), __uint_as_float(to_tf32(x.y)), __uint_as_float(to_tf32(x.z)),
                     __uint_as_float(to_tf32(x.w)));
}

// N rows from `row` on, 0 behind the last token; turned if there are angles.
template <class H, bool TF32, int N>
DEVICE void load_rows(float* to, const Operand& from, int row, const CausalSizes& s, const unsigned long long* angles) {
  each_four<H, N>(from, [&](int i, int c, auto fours) {
    const int t = row + i;
    float4 x = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (t < s.tokens) x = load_four<decltype(fours)::value>(from, t, c, s.dim);
    if (angles) x = turned(x, angles, c / 2, t, 1.0f);
    *reinterpret_cast<float4*>(to + i * H::PITCH + c) = rounded<TF32>(x);
  });
}

// Writes the block's rows from `row` on, times `factor`, turned back if there are angles. They pass through `tile`
// (ROWS, MOST), which everybody may have read until now.
template <class H>
DEVICE void store_rows(const Operand& to, float* tile, const float (&sums)[H::PARTS][4], int row, float factor,
                       const CausalSizes& s, const unsigned long long* angles) {
  const int lane = threadIdx.x % 32, first = threadIdx.x / 32 * 16;
  __syncthreads();
#pragma unroll
  for (int n = 0; n < H::PARTS; n++)
#pragma unroll
    for (int h = 0; h < 2; h++)
      *reinterpret_cast<float2*>(tile + (first + lane / 4 + 8 * h) * H::PITCH + 8 * n + lane % 4 * 2) =
          make_float2(sums[n][2 * h] * factor, sums[n][2 * h + 1] * factor);
  __syncthreads();
  each_four<H, ROWS>(to, [&](int i, int c, auto fours) {
    const int t = row + i;
    if (t >= s.tokens || c >= s.dim) return;
    float4 x = *reinterpret_cast<const float4*>(tile + i * H::PITCH + c);
    if (angles) x = turned(x, angles, c / 2, t, -1.0f);
    float* at = const_cast<float*>(to.data) + (long long)t * to.stride + c;
    if constexpr (decltype(fours)::value) {
      *reinterpret_cast<float4*>(at) = x;
    } else {
      const float all[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
      for (int e = 0; e < 4; e++)
        if (c + e < s.dim) at[e] = all[e];
    }
  });
}

// ---- products of a warp ----

// sums (16, 8) += A (16, 8) B (8, 8). In TF32 the operands have been rounded.
template <bool TF32>
DEVICE void multiply_add(float (&sums)[4], const float (&a)[4], const float (&b)[2]) {
  unsigned big_a[4], small_a[4], big_b[2], small_b[2];
#pragma unroll
  for (int e = 0; e < 4; e++)
    if (TF32)
      big_a[e] = __float_as_uint(a[e]);
    else
      split(a[e], big_a[e], small_a[e]);
#pragma unroll
  for (int e = 0; e < 2; e++)
    if (TF32)
      big_b[e] = __float_as_uint(b[e]);
    else
      split(b[e], big_b[e], small_b[e]);
  if (TF32) {
    mma_tf32(sums, big_a, big_b);
  } else {
    float terms[4] = {};
    mma_tf32(terms, small_a, big_b);
    mma_tf32(terms, big_a, small_b);
    mma_tf32(terms, big_a, big_b);
#pragma unroll
    for (int e = 0; e < 4; e++) sums[e] += terms[e];
  }
}

// The warp's rows of a tile: <row of a, row of b>.
template <class H, bool TF32>
DEVICE void multiply_rows(float (&tile)[STEPS][4], const float* a, const float* b) {
#pragma unroll
  for (int j = 0; j < STEPS; j++)
#pragma unroll
    for (int e = 0; e < 4; e++) tile[j][e] = 0.0f;
#pragma unroll 2
  for (int k = 0; k < H::MOST; k += 8) {
    float x[4];
    load_block<H, true, true>(x, a, threadIdx.x / 32 * 16, k);
#pragma unroll
    for (int j = 0; j < STEPS; j += 2) {
      float y[4];
      load_block<H, true, false>(y, b, 8 * j, k);
      const float left[2] = {y[0], y[1]}, right[2] = {y[2], y[3]};
      multiply_add<TF32>(tile[j], x, left);
      multiply_add<TF32>(tile[j + 1], x, right);
    }
  }
}

// sums (16, MOST) += the warp's rows of a tile times b (COLUMNS, MOST). What a lane holds of the tile are columns 2q and 2q + 1
// of each 8, which the product takes as those with numbers q and q + 4: so it takes b's rows in this order. The tile moves
// up by 8 columns at a time: unrolled, this would take more registers than there are.
template <class H, bool TF32>
DEVICE void mix(float (&sums)[H::PARTS][4], float (&tile)[STEPS][4], const float* b) {
  const int lane = threadIdx.x % 32;
  b += lane % 4 * 2 * H::PITCH + lane / 4;
#pragma unroll 1
  for (int j = 0; j < STEPS; j++) {
    float x[4] = {tile[0][0], tile[0][2], tile[0][1], tile[0][3]};
#pragma unroll
    for (int e = 0; e < 4; e++)
      if (TF32) x[e] = __uint_as_float(to_tf32(x[e]));
#pragma unroll
    for (int n = 0; n < H::PARTS; n++) {
      const float y[2] = {b[8 * n], b[H::PITCH + 8 * n]};
      multiply_add<TF32>(sums[n], x, y);
    }
#pragma unroll
    for (int i = 0; i < STEPS; i++)
#pragma unroll
      for (int e = 0; e < 4; e++)
        if (i + 1 < STEPS) tile[i][e] = tile[i + 1][e];
    b += 8 * H::PITCH;
  }
}

// f(row, column, entry) for a lane's entries of a tile whose first ones are given.
template <int N, class F>
DEVICE void each_entry(float (&tile)[N][4], int row, int column, F f) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int j = 0; j < N; j++)
#pragma unroll
    for (int e = 0; e < 4; e++) f(row + lane / 4 + e / 2 * 8, column + 8 * j + lane % 4 * 2 + e % 2, tile[j][e]);
}

// ---- forward ----

template <int MOST, bool TF32>
DEVICE void forward(const float* x, float* y, float* l, const CausalSizes& s) {
  using H = Head<MOST>;
  SHARED_DYN(float, q);
  float *k = q + ROWS * H::PITCH, *v = k + COLUMNS * H::PITCH;
  SHARED(unsigned long long, steps, [MOST / 2]);
  const unsigned long long* turns = s.base > 0.0f ? steps : nullptr;
  if (turns) angles(steps, MOST / 2, s);
  __syncthreads();

  const int pairs = s.sequences * s.heads, pair = blockIdx.x % pairs;
  const int tiles = (s.tokens + ROWS - 1) / ROWS, row = (tiles - 1 - blockIdx.x / pairs) * ROWS;
  const int lane = threadIdx.x % 32, first = row + threadIdx.x / 32 * 16;
  load_rows<H, TF32, ROWS>(q, operand(x, 0, pair, s), row, s, turns);

  // Of a lane's two rows, 8 apart: the largest score so far, and its share of the sum of exponentials relative to it.
  float most[2] = {-INFINITY, -INFINITY}, sum[2] = {};
  float sums[H::PARTS][4] = {};
  const float scale = LOG2_E / sqrtf((float)s.dim);
  for (int column = 0; column < min(row + ROWS, s.tokens); column += COLUMNS) {
    __syncthreads();  // all are done with the keys and values before
    load_rows<H, TF32, COLUMNS>(k, operand(x, 1, pair, s), column, s, turns);
    load_rows<H, TF32, COLUMNS>(v, operand(x, 2, pair, s), column, s, nullptr);
    __syncthreads();
    if (column > first + 15) continue;  // of the warp's rows all are before these keys
    float p[STEPS][4];
    multiply_rows<H, TF32>(p, q, k);
    each_entry(p, first, column, [&](int i, int j, float& p) { p = j <= i ? p * scale : -INFINITY; });
#pragma unroll
    for (int h = 0; h < 2; h++) {
      float largest = most[h];
#pragma unroll
      for (int j = 0; j < STEPS; j++) largest = fmaxf(largest, fmaxf(p[j][2 * h], p[j][2 * h + 1]));
      largest = max_over<4>(largest);
      const float factor = exp2f(most[h] - largest);
      most[h] = largest;
      sum[h] *= factor;
#pragma unroll
      for (int n = 0; n < H::PARTS; n++) {
        sums[n][2 * h] *= factor;
        sums[n][2 * h + 1] *= factor;
      }
#pragma unroll
      for (int j = 0; j < STEPS; j++)
#pragma unroll
        for (int e = 2 * h; e < 2 * h + 2; e++) {
          p[j][e] = exp2f(p[j][e] - largest);
          sum[h] += p[j][e];
        }
    }
    mix<H, TF32>(sums, p, v);
  }

#pragma unroll
  for (int h = 0; h < 2; h++) {
    const float total = sum_over<4>(sum[h]), inverse = 1.0f / total;
    const int i = first + lane / 4 + 8 * h;
    if (lane % 4 == 0 && i < s.tokens) l[(long long)pair * s.tokens + i] = most[h] + log2f(total);
#pragma unroll
    for (int n = 0; n < H::PARTS; n++) {
      sums[n][2 * h] *= inverse;
      sums[n][2 * h + 1] *= inverse;
    }
  }
  store_rows<H>(output(y, pair, s), q, sums, row, 1.0f, s, nullptr);
}

// ---- backward ----

// Of N queries from `row` on, 0 behind the last one: L / log 2, and <dO, O>, each by four neighbours.
template <int N>
DEVICE void load_stats(float* ls, float* dots, const float* l, const Operand& y, const Operand& dy, int pair, int row,
                       const CausalSizes& s) {
  for (int i = threadIdx.x / 4; i < N; i += THREADS / 4) {
    const int t = row + i;
    float dot = 0.0f;
    if (t < s.tokens)
      for (int c = threadIdx.x % 4 * 4; c < s.dim; c += 16) {
        const float4 a = load_four<false>(y, t, c, s.dim), b = load_four<false>(dy, t, c, s.dim);
        dot = fmaf(a.x, b.x, fmaf(a.y, b.y, fmaf(a.z, b.z, fmaf(a.w, b.w, dot))));
      }
    dot = sum_over<4>(dot);
    if (threadIdx.x % 4 == 0) {
      ls[i] = t < s.tokens ? l[(long long)pair * s.tokens + t] : 0.0f;
      dots[i] = dot;
    }
  }
}

// What a block computes. Its rows are queries, or keys.
enum Kind { DQ, DK, DV, DK_DV };

struct Backward {
  const float *x, *y, *l, *dy;
  float* dx;
  float* memory;                 // shared
  float *ls, *dots;              // shared, of a tile's queries
  const unsigned long long* angles;
  int pair, row;
};

template <class H, bool TF32, Kind KIND>
DEVICE void gradients(const Backward& at, const CausalSizes& s) {
  constexpr bool QUERIES = KIND == DQ, WANTS_DV = KIND == DV || KIND == DK_DV, WANTS_DS = KIND != DV;
  // The rows' operands, and the columns'.
  float *a = at.memory, *b = a + ROWS * H::PITCH, *c = b + ROWS * H::PITCH, *d = c + COLUMNS * H::PITCH;
  const Operand q = operand(at.x, 0, at.pair, s), k = operand(at.x, 1, at.pair, s), v = operand(at.x, 2, at.pair, s);
  const Operand y = output(at.y, at.pair, s), dy = output(at.dy, at.pair, s);
  load_rows<H, TF32, ROWS>(a, QUERIES ? q : k, at.row, s, at.angles);
  if (WANTS_DS) load_rows<H, TF32, ROWS>(b, QUERIES ? dy : v, at.row, s, nullptr);
  if (QUERIES) load_stats<ROWS>(at.ls, at.dots, at.l, y, dy, at.pair, at.row, s);

  const float factor = 1.0f / sqrtf((float)s.dim), scale = factor * LOG2_E;
  const int first = at.row + threadIdx.x / 32 * 16;
  float ds_sums[WANTS_DS ? H::PARTS : 1][4] = {}, dv_sums[WANTS_DV ? H::PARTS : 1][4] = {};
  const int end = QUERIES ? min(at.row + ROWS, s.tokens) : s.tokens;
  for (int column = QUERIES ? 0 : at.row; column < end; column += COLUMNS) {
    __syncthreads();  // all are done with the operands before
    load_rows<H, TF32, COLUMNS>(c, QUERIES ? k : q, column, s, at.angles);
    load_rows<H, TF32, COLUMNS>(d, QUERIES ? v : dy, column, s, nullptr);
    if (!QUERIES) load_stats<COLUMNS>(at.ls, at.dots, at.l, y, dy, at.pair, column, s);
    __syncthreads();
    // Are all of the warp's entries beyond the diagonal?
    if (QUERIES ? column > first + 15 : column + COLUMNS <= first) continue;
    float p[STEPS][4];
    multiply_rows<H, TF32>(p, a, c);
    each_entry(p, first, column, [&](int i, int j, float& p) {
      const int query = QUERIES ? i - at.row : j - column;
      p = (QUERIES ? j <= i : i <= j) ? exp2f(fmaf(p, scale, -at.ls[query])) : 0.0f;
    });
    if constexpr (WANTS_DS) {
      float ds[STEPS][4];
      multiply_rows<H, TF32>(ds, b, d);
      each_entry(ds, first, column, [&](int i, int j, float& ds) { ds -= at.dots[QUERIES ? i - at.row : j - column]; });
#pragma unroll
      for (int j = 0; j < STEPS; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) ds[j][e] *= p[j][e];
      mix<H, TF32>(ds_sums, ds, c);
    }
    if constexpr (WANTS_DV) mix<H, TF32>(dv_sums, p, d);
  }
  if constexpr (WANTS_DS)
    store_rows<H>(operand(at.dx, QUERIES ? 0 : 1, at.pair, s), a, ds_sums, at.row, factor, s, at.angles);
  if constexpr (WANTS_DV) store_rows<H>(operand(at.dx, 2, at.pair, s), b, dv_sums, at.row, 1.0f, s, nullptr);
}

template <int MOST, bool TF32>
DEVICE void backward(const float* x, const float* y, const float* l, const float* dy, float* dx, const CausalSizes& s) {
  using H = Head<MOST>;
  SHARED_DYN(float, memory);
  SHARED(unsigned long long, steps, [MOST / 2]);
  SHARED(float, stats, [2][ROWS]);
  const unsigned long long* turns = s.base > 0.0f ? steps : nullptr;
  if (turns) angles(steps, MOST / 2, s);
  __syncthreads();

  constexpr int KINDS = H::JOINT ? 2 : 3;
  const int pairs = s.sequences * s.heads, tiles = (s.tokens + ROWS - 1) / ROWS;
  const int kind = blockIdx.x / pairs % KINDS, rank = blockIdx.x / pairs / KINDS;
  const int row = (kind == 0 ? tiles - 1 - rank : rank) * ROWS;
  const Backward at = {x, y, l, dy, dx, memory, stats[0], stats[1], turns, (int)blockIdx.x % pairs, row};
  if (kind == 0)
    gradients<H, TF32, DQ>(at, s);
  else if (H::JOINT)
    gradients<H, TF32, H::JOINT ? DK_DV : DK>(at, s);
  else if (kind == 1)
    gradients<H, TF32, DK>(at, s);
  else
    gradients<H, TF32, DV>(at, s);
}

KERNEL(causal_attention_fwd_64_fp32, 128, const float* __restrict__ x, float* __restrict__ y, float* __restrict__ l,
       CausalSizes s) {
  forward<64, false>(x, y, l, s);
}
KERNEL(causal_attention_fwd_64_tf32, 128, const float* __restrict__ x, float* __restrict__ y, float* __restrict__ l,
       CausalSizes s) {
  forward<64, true>(x, y, l, s);
}
KERNEL(causal_attention_fwd_192_fp32, 128, const float* __restrict__ x, float* __restrict__ y, float* __restrict__ l,
       CausalSizes s) {
  forward<192, false>(x, y, l, s);
}
KERNEL(causal_attention_fwd_192_tf32, 128, const float* __restrict__ x, float* __restrict__ y, float* __restrict__ l,
       CausalSizes s) {
  forward<192, true>(x, y, l, s);
}
KERNEL(causal_attention_fwd_256_fp32, 128, const float* __restrict__ x, float* __restrict__ y, float* __restrict__ l,
       CausalSizes s) {
  forward<256, false>(x, y, l, s);
}
KERNEL(causal_attention_fwd_256_tf32, 128, const float* __restrict__ x, float* __restrict__ y, float* __restrict__ l,
       CausalSizes s) {
  forward<256, true>(x, y, l, s);
}
KERNEL(causal_attention_bwd_64_fp32, 128, const float* __restrict__ x, const float* __restrict__ y,
       const float* __restrict__ l, const float* __restrict__ dy, float* __restrict__ dx, CausalSizes s) {
  backward<64, false>(x, y, l, dy, dx, s);
}
KERNEL(causal_attention_bwd_64_tf32, 128, const float* __restrict__ x, const float* __restrict__ y,
       const float* __restrict__ l, const float* __restrict__ dy, float* __restrict__ dx, CausalSizes s) {
  backward<64, true>(x, y, l, dy, dx, s);
}
KERNEL(causal_attention_bwd_192_fp32, 128, const float* __restrict__ x, const float* __restrict__ y,
       const float* __restrict__ l, const float* __restrict__ dy, float* __restrict__ dx, CausalSizes s) {
  backward<192, false>(x, y, l, dy, dx, s);
}
KERNEL(causal_attention_bwd_192_tf32, 128, const float* __restrict__ x, const float* __restrict__ y,
       const float* __restrict__ l, const float* __restrict__ dy, float* __restrict__ dx, CausalSizes s) {
  backward<192, true>(x, y, l, dy, dx, s);
}
KERNEL(causal_attention_bwd_256_fp32, 128, const float* __restrict__ x, const float* __restrict__ y,
       const float* __restrict__ l, const float* __restrict__ dy, float* __restrict__ dx, CausalSizes s) {
  backward<256, false>(x, y, l, dy, dx, s);
}
KERNEL(causal_attention_bwd_256_tf32, 128, const float* __restrict__ x, const float* __restrict__ y,
       const float* __restrict__ l, const float* __restrict__ dy, float* __restrict__ dx, CausalSizes s) {
  backward<256, true>(x, y, l, dy, dx, s);
}
