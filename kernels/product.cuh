// One product C (m, n) = A (m, k) B (k, n) on tensor cores. Slices of k stream through a ring in shared memory. T x T is a
// block's tile of C: the larger, the less is read twice; the smaller, the more multiprocessors have one. Of the small
// tiles (32, 16) all warps share one, each taking its part of k.
// Both precisions. tf32: operands rounded to TF32. Otherwise as exact as single precision: each operand is the
// sum of two TF32 numbers, of whose four products the smallest is left out, and sums leave the tensor core, which cuts them
// off, after eight terms (Ootomo and Yokota 2022). Infinite operands become NaN there.
#include "activation.cuh"
#include "dropout.cuh"

template <int TILE_, int WARP_, int WARPS_, int SLICE_, int STAGES_>
struct Shape {
  static constexpr int TILE = TILE_;      // of a block
  static constexpr int WARP = WARP_;      // of a warp
  static constexpr int WARPS = WARPS_, THREADS = 32 * WARPS;
  static constexpr int SLICE = SLICE_;    // of k, in one stage of the ring
  static constexpr int STAGES = STAGES_;
  static constexpr int SIDE = TILE / WARP, SPLIT = WARPS / (SIDE * SIDE);  // warps along m and along n; along k
  // Operands lie as they are stored, row by row or k by k. With these pitches fragments are read without bank conflicts.
  static constexpr int ROW_PITCH = SLICE + 4, K_PITCH = TILE + 8;
  static constexpr int BY_ROW = TILE * ROW_PITCH, BY_K = SLICE * K_PITCH;
  static constexpr int OPERAND = BY_ROW > BY_K ? BY_ROW : BY_K, STAGE = 2 * OPERAND;
};
// The bytes of the rings, 4 * STAGES * STAGE, stand in src/device/product.rs.
using Tile128 = Shape<128, 64, 4, 16, 4>;
using Tile64 = Shape<64, 32, 4, 32, 3>;
using Tile32 = Shape<32, 32, 8, 128, 2>;
using Tile16 = Shape<16, 16, 8, 128, 4>;

// What is to be computed. Operands are stored (m, k) and (n, k) if by row, else (k, m) and (k, n).
struct Product {
  const float *a, *b;
  float* c;  // of A^T B (gridDim.y, m, n): block (x, y) computes a tile of the y-th
  int m, n, k;
  int first = 0;                  // of k: terms before are left out
  int slices = 1 << 30;           // so many at most, from there on
  const float* bias = nullptr;    // (n)
  const float* added = nullptr;   // (m, n)
  bool relu = false;
  const float* mask = nullptr;    // as A, which counts as 0 where this is 0 or less
  bool summed = false;            // are the sums of A over k wanted?
  float* sums_of_a = nullptr;     // (parts, m)
};

DEVICE bool aligned(const float* p, int width, int floats) {
  return reinterpret_cast<uintptr_t>(p) % (4 * floats) == 0 && width % floats == 0;
}

// to[i][j] = X[row + i][column + j] of X (rows, width), 0 outside.
template <class S, int ROWS, int COLUMNS, int PITCH>
DEVICE void copy_rows(float* to, const float* x, int row, int rows, int column, int width, bool aligned) {
  constexpr int CHUNKS = COLUMNS / 4, STEP = S::THREADS / CHUNKS;
  const unsigned thread = thread_again();
  const int c = thread % CHUNKS * 4, first = thread / CHUNKS, left = width - column - c;
  const float* from = x + ((long long)row * width + column) + (first * width + c);
  to += first * PITCH + c;
  if (aligned) {
#pragma unroll
    for (int i = 0; i < ROWS; i += STEP) {
      copy_async<16>(to + i * PITCH, from, row + first + i < rows && left > 0 ? 16 : 0);
      from += (long long)STEP * width;
    }
  } else {
#pragma unroll 1
    for (int i = 0; i < ROWS; i += STEP) {
      for (int j = 0; j < 4; j++)
        copy_async<4>(to + i * PITCH + j, from + j, row + first + i < rows && left > j ? 4 : 0);
      from += (long long)STEP * width;
    }
  }
}

// The same at once, with 0 where the mask is 0 or less.
template <class S, int ROWS, int COLUMNS, int PITCH>
DEVICE void copy_masked(float* to, const float* x, const float* mask, int row, int rows, int column, int width) {
#pragma unroll
  for (int e = threadIdx.x; e < ROWS * COLUMNS; e += S::THREADS) {
    const int i = e / COLUMNS, j = e % COLUMNS;
    const long long at = (long long)(row + i) * width + column + j;
    const bool inside = row + i < rows && column + j < width;
    to[i * PITCH + j] = inside && !(mask[at] <= 0.0f) ? x[at] : 0.0f;
  }
}

// The tile of an operand: rows i0 and on of `count`, k0 and on of `depth`.
template <class S, bool BY_ROW>
DEVICE void copy_tile(float* to, const float* x, const float* mask, int i0, int count, int k0, int depth, bool aligned) {
  if (BY_ROW) {
    if (mask)
      copy_masked<S, S::TILE, S::SLICE, S::ROW_PITCH>(to, x, mask, i0, count, k0, depth);
    else
      copy_rows<S, S::TILE, S::SLICE, S::ROW_PITCH>(to, x, i0, count, k0, depth, aligned);
  } else {
    if (mask)
      copy_masked<S, S::SLICE, S::TILE, S::K_PITCH>(to, x, mask, k0, depth, i0, count);
    else
      copy_rows<S, S::SLICE, S::TILE, S::K_PITCH>(to, x, k0, depth, i0, count, aligned);
  }
}

// A as it is stored. Other sources bring it in another form, and finish what this thread has brought before others see it.
struct Stored {
  template <class S, bool BY_ROW>
  METHOD void bring(float* to, const Product& p, int i0, int k0, bool aligned) const {
    copy_tile<S, BY_ROW>(to, p.a, p.mask, i0, p.m, k0, p.k, aligned);
  }
  template <class S>
  METHOD void finish(float*, const Product&, int, int) const {}
};

// Entries of 16 rows and 8 k of an operand, from i and k on, as mma_tf32 wants them: the fragment of A, or those of two
// times 8 columns of B.
template <class S, bool BY_ROW, bool A>
DEVICE void load_block(float (&f)[4], const float* tile, int i, int k) {
  const int lane = threadIdx.x % 32;
  auto row = [](int e) { return (A ? e % 2 : e / 2) * 8; };
  auto column = [](int e) { return (A ? e / 2 : e % 2) * 4; };
  if (BY_ROW) {
    const int matrix = lane / 8;
    unsigned r[4];
    load_matrices<false>(r, tile + (i + row(matrix) + lane % 8) * S::ROW_PITCH + k + column(matrix));
#pragma unroll
    for (int e = 0; e < 4; e++) f[e] = __uint_as_float(r[e]);
  } else {
    tile += (k + lane % 4) * S::K_PITCH + i + lane / 4;
#pragma unroll
    for (int e = 0; e < 4; e++) f[e] = tile[column(e) * S::K_PITCH + row(e)];
  }
}

// x = big + small; big is rounded as to_tf32 does, and if that loses a NaN, it is in small.
DEVICE void split(float x, unsigned& big, unsigned& small) {
  big = (__float_as_uint(x) + 0x1000u) & 0xffffe000u;
  small = __float_as_uint(x - __uint_as_float(big));
}

// sums += A B: eight terms of each, from k on.
template <class S, bool A_BY_ROW, bool B_BY_ROW, bool TF32, int M, int N>
DEVICE void multiply(float (&sums)[M][N][4], const float* as, const float* bs, int m1, int n1, int k) {
  unsigned a[M][4], a_small[M][4];
#pragma unroll
  for (int i = 0; i < M; i++) {
    float x[4];
    load_block<S, A_BY_ROW, true>(x, as, m1 + 16 * i, k);
#pragma unroll
    for (int e = 0; e < 4; e++)
      if (TF32)
        a[i][e] = to_tf32(x[e]);
      else
        split(x[e], a[i][e], a_small[i][e]);
  }
#pragma unroll
  for (int j = 0; j < N; j += 2) {
    float x[4];
    unsigned b[2][2], b_small[2][2];
    load_block<S, B_BY_ROW, false>(x, bs, n1 + 8 * j, k);
#pragma unroll
    for (int e = 0; e < 4; e++)
      if (TF32)
        b[e / 2][e % 2] = to_tf32(x[e]);
      else
        split(x[e], b[e / 2][e % 2], b_small[e / 2][e % 2]);
#pragma unroll
    for (int h = 0; h < 2; h++) {
      if (TF32) {
#pragma unroll
        for (int i = 0; i < M; i++) mma_tf32(sums[i][j + h], a[i], b[h]);
      } else {
        float terms[M][4] = {};
#pragma unroll
        for (int i = 0; i < M; i++) mma_tf32(terms[i], a_small[i], b[h]);
#pragma unroll
        for (int i = 0; i < M; i++) mma_tf32(terms[i], a[i], b_small[h]);
#pragma unroll
        for (int i = 0; i < M; i++) mma_tf32(terms[i], a[i], b[h]);
#pragma unroll
        for (int i = 0; i < M; i++)
#pragma unroll
          for (int e = 0; e < 4; e++) sums[i][j + h][e] += terms[i][e];
      }
    }
  }
}

// The block's tile of C; tiles are counted row by row.
template <class S, bool A_BY_ROW, bool B_BY_ROW, bool TF32, class Source>
DEVICE void product(const Product& p, int tile, const Source& source) {
  SHARED_DYN(float, ring);
  constexpr int M = S::WARP / 16, N = S::WARP / 8;
  const int across = (p.n + S::TILE - 1) / S::TILE;
  const int m0 = tile / across * S::TILE, n0 = tile % across * S::TILE;
  // Where the warp's part of the tile is, and of each slice.
  auto place = [](unsigned thread, int& m1, int& n1, int& k1) {
    const unsigned warp = thread / 32, i = warp % (S::SIDE * S::SIDE);
    m1 = i / S::SIDE * S::WARP;
    n1 = i % S::SIDE * S::WARP;
    k1 = warp / (S::SIDE * S::SIDE) * (S::SLICE / S::SPLIT);
  };
  int m1, n1, k1;
  place(threadIdx.x, m1, n1, k1);
  const bool a_aligned = aligned(p.a, A_BY_ROW ? p.k : p.m, 4), b_aligned = aligned(p.b, B_BY_ROW ? p.k : p.n, 4);
  const int slices = min(p.slices, (p.k - p.first + S::SLICE - 1) / S::SLICE);
  auto copy = [&](int slice) {
    float* to = ring + slice % S::STAGES * S::STAGE;
    const int k = p.first + slice * S::SLICE;
    source.template bring<S, A_BY_ROW>(to, p, m0, k, a_aligned);
    copy_tile<S, B_BY_ROW>(to + S::OPERAND, p.b, nullptr, n0, p.n, k, p.k, b_aligned);
  };

  float sums[M][N][4] = {};
  SHARED(double, sums_of_a, [S::TILE]);  // registers are scarce
  const bool sums_a = p.summed && n0 == 0 && threadIdx.x < S::TILE;
  if (sums_a) sums_of_a[threadIdx.x] = 0.0;
  // The ring runs ahead by all stages but one.
  for (int slice = 1 - S::STAGES; slice < slices; slice++) {
    copy_wait<S::STAGES - 2>();
    if (slice >= 0) source.template finish<S>(ring + slice % S::STAGES * S::STAGE, p, m0, p.first + slice * S::SLICE);
    __syncthreads();  // this slice is there, and all are done with the one before, which now makes room
    const int next = slice + S::STAGES - 1;
    if (next < slices) copy(next);
    copy_commit();  // an empty group at the end, so that they can be counted
    if (slice < 0) continue;
    const float *as = ring + slice % S::STAGES * S::STAGE, *bs = as + S::OPERAND;
#pragma unroll(S::TILE < 128 ? 4 : A_BY_ROW && B_BY_ROW ? 2 : 1)  // no registers are spilled then
    for (int k = 0; k < S::SLICE / S::SPLIT; k += 8)
      multiply<S, A_BY_ROW, B_BY_ROW, TF32>(sums, as, bs, m1, n1, k1 + k);
    if (!A_BY_ROW && sums_a) {
      float sum = 0.0f;
#pragma unroll
      for (int k = 0; k < S::SLICE; k++) sum += as[k * S::K_PITCH + threadIdx.x];
      sums_of_a[threadIdx.x] += sum;
    }
  }
  const int thread = thread_again(), lane = thread % 32, warp = thread / 32;
  place(thread, m1, n1, k1);
  const long long part = A_BY_ROW ? 0 : blockIdx.y;
  if (sums_a && m0 + thread < p.m) p.sums_of_a[part * p.m + m0 + thread] = (float)sums_of_a[thread];

  // A lane has pairs of neighbours: of row h * 8 of the 16 with number i, of the 8 columns with number j.
  float* const c = p.c + part * p.m * p.n;
  const bool pairs = aligned(c, p.n, 2);
  const float least = p.relu ? 0.0f : -INFINITY;
  auto bias = [&](int j) {
    const int column = n0 + n1 + j * 8 + lane % 4 * 2;
    const bool first = p.bias && column < p.n, second = p.bias && column + 1 < p.n;
    return make_float2(first ? p.bias[column] : 0.0f, second ? p.bias[column + 1] : 0.0f);
  };
  auto at = [&](int i, int j, int h, int& row, int& column) {
    row = m0 + m1 + i * 16 + h * 8 + lane / 4;
    column = n0 + n1 + j * 8 + lane % 4 * 2;
    return (long long)row * p.n + column;
  };
  auto added = [&](int i, int j, int h) {
    int row, column;
    const float* from = p.added + at(i, j, h, row, column);
    if (!p.added || row >= p.m || column >= p.n) return make_float2(0.0f, 0.0f);
    return make_float2(from[0], column + 1 < p.n ? from[1] : 0.0f);
  };
  auto store = [&](int i, int j, int h, float2 y, float2 b, float2 r) {
    int row, column;
    float* to = c + at(i, j, h, row, column);
    y = make_float2(y.x + b.x + r.x, y.y + b.y + r.y);
    y = make_float2(y.x < least ? least : y.x, y.y < least ? least : y.y);  // a NaN stays
    if (row >= p.m || column >= p.n) return;
    if (pairs) {
      *reinterpret_cast<float2*>(to) = y;
    } else {
      to[0] = y.x;
      if (column + 1 < p.n) to[1] = y.y;
    }
  };
  if (S::SPLIT == 1) {
#pragma unroll
    for (int j = 0; j < N; j++) {
      const float2 b = bias(j);
      float2 r[M][2];  // all under way at once
#pragma unroll
      for (int i = 0; i < M; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) r[i][h] = added(i, j, h);
#pragma unroll
      for (int i = 0; i < M; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) store(i, j, h, make_float2(sums[i][j][2 * h], sums[i][j][2 * h + 1]), b, r[i][h]);
    }
  } else {
    constexpr int PAIRS = M * N * 2;
    float2* parts = reinterpret_cast<float2*>(ring);  // (SPLIT, PAIRS, 32)
    __syncthreads();
#pragma unroll
    for (int e = 0; e < PAIRS; e++) {
      const float(&x)[4] = sums[e / 2 / N][e / 2 % N];
      parts[(warp * PAIRS + e) * 32 + lane] = make_float2(x[e % 2 * 2], x[e % 2 * 2 + 1]);
    }
    __syncthreads();
    for (int e = warp; e < PAIRS; e += S::WARPS) {
      float2 y = parts[e * 32 + lane];
#pragma unroll
      for (int w = 1; w < S::SPLIT; w++) {
        const float2 x = parts[(w * PAIRS + e) * 32 + lane];
        y = make_float2(y.x + x.x, y.y + x.y);
      }
      const int i = e / 2 / N, j = e / 2 % N, h = e % 2;
      store(i, j, h, y, bias(j), added(i, j, h));
    }
  }
}

template <class S, bool A_BY_ROW, bool B_BY_ROW, class Source = Stored>
DEVICE void product(const Product& p, int tile, bool tf32, const Source& source = Source()) {
  if (tf32)
    product<S, A_BY_ROW, B_BY_ROW, true>(p, tile, source);
  else
    product<S, A_BY_ROW, B_BY_ROW, false>(p, tile, source);
}

// ---- what a block does once its tile of C is stored: it reads it again, from the cache ----

// Calls f(pack) for all entries (row, column) of a tile of C (m, n), pack by pack: the place of a pack's first entry.
template <class S, int V, class F>
DEVICE void for_packs(int tile, int m, int n, F f) {
  constexpr int ACROSS = S::TILE / V;
  const int across = (n + S::TILE - 1) / S::TILE, m0 = tile / across * S::TILE, n0 = tile % across * S::TILE;
#pragma unroll 2
  for (int e = thread_again(); e < S::TILE * ACROSS; e += S::THREADS) {
    const int row = m0 + e / ACROSS, column = n0 + e % ACROSS * V;
    if (row < m && column < n) f((long long)row * n + column);
  }
}

// What is done with every number of C, as far as it is asked for: forward an activation, then dropout, then a sum with `added`;
// backward, with dy being C, dropout, then the gradient of the activation of z.
struct Steps {
  int activation;  // by its number, or 0
  DropoutMask mask;
  const Step* now;
  const float *added, *z;  // (m, n)

  METHOD bool any() const { return activation || mask.drops || added; }
};

// y from C in a tile; they may be the same.
template <class S, int V>
DEVICE void step_packs(const Steps& steps, const float* c, float* y, int tile, int m, int n) {
  for_packs<S, V>(tile, m, n, [&](long long at) {
    Pack<V> x = load<V>(c + at);
    const Pack<V> z = steps.z ? load<V>(steps.z + at) : x, added = steps.added ? load<V>(steps.added + at) : x;
    if (steps.activation && !steps.z)
#pragma unroll
      for (int k = 0; k < V; k++) x.at[k] = activate(steps.activation, x.at[k]);
    if (steps.mask.drops) {
      const Pack<V> factors = mask_at(steps.mask, steps.now, at, Width<V>());
#pragma unroll
      for (int k = 0; k < V; k++) x.at[k] *= factors.at[k];
    }
    if (steps.activation && steps.z)
#pragma unroll
      for (int k = 0; k < V; k++) x.at[k] = activation_gradient(steps.activation, z.at[k], x.at[k]);
    if (steps.added)
#pragma unroll
      for (int k = 0; k < V; k++) x.at[k] += added.at[k];
    store(y + at, x);
  });
}

template <class S>
DEVICE void step_tile(const Steps& steps, const float* c, float* y, int tile, int m, int n) {
  __syncthreads();  // C is stored
  const bool others = (!steps.z || aligned(steps.z, n, 4)) && (!steps.added || aligned(steps.added, n, 4));
  if (aligned(c, n, 4) && aligned(y, n, 4) && others)
    step_packs<S, 4>(steps, c, y, tile, m, n);
  else
    step_packs<S, 1>(steps, c, y, tile, m, n);
}

// What other blocks wrote.
DEVICE Pack<1> load_written(const float* from, Pack<1>) { return {{__ldcg(from)}}; }
DEVICE Pack<4> load_written(const float* from, Pack<4>) {
  const float4 x = __ldcg(reinterpret_cast<const float4*>(from));
  return {{x.x, x.y, x.z, x.w}};
}

// C as the sum of `parts` of it, (parts, m, n), in a tile.
template <class S, int V>
DEVICE void add_packs(const float* cs, int parts, float* c, int tile, int m, int n) {
  for_packs<S, V>(tile, m, n, [&](long long at) {
    Pack<V> sum = {};
#pragma unroll 8
    for (int part = 0; part < parts; part++) {
      const Pack<V> term = load_written(cs + part * (long long)m * n + at, sum);
#pragma unroll
      for (int k = 0; k < V; k++) sum.at[k] += term.at[k];
    }
    store(c + at, sum);
  });
}

// The block that is the last one of its tile adds up the parts of C and of A's sums, in their order; `counters` has one for
// each tile.
template <class S>
DEVICE void add_parts(const float* cs, const float* all_sums, float* c, float* sums, bool summed, int parts,
                      unsigned* counters, int tile, int m, int n) {
  if (!last_to_arrive(counters + tile, parts)) return;
  if (aligned(cs, n, 4) && aligned(c, n, 4))
    add_packs<S, 4>(cs, parts, c, tile, m, n);
  else
    add_packs<S, 1>(cs, parts, c, tile, m, n);
  const int across = (n + S::TILE - 1) / S::TILE, thread = thread_again();
  const int row = tile / across * S::TILE + thread;
  if (!summed || tile % across > 0 || thread >= S::TILE || row >= m) return;
  float sum = 0.0f;
  for (int part = 0; part < parts; part++) sum += __ldcg(all_sums + (long long)part * m + row);
  sums[row] = sum;
}

// Part blockIdx.y of C = A^T B and of A's sums: `part` terms. C (parts, m, n) and sums (parts, m) hold one after the other.
template <class S>
DEVICE void product_tn(const float* a, const float* b, float* c, float* sums, bool summed, int m, int k, int n, int part,
                       int tile, bool tf32) {
  const int first = blockIdx.y * part;
  Product p = {a, b, c, m, n, min(first + part, k)};
  p.first = first;
  p.summed = summed;
  p.sums_of_a = sums;
  product<S, false, false>(p, tile, tf32);
}

// db of 32 columns: warps take every eighth row; sums in f64.
DEVICE void bias_gradient(const float* dy, const float* mask, float* db, int rows, int outputs, int block) {
  SHARED(double, partial, [8][32]);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, column = block * 32 + lane;
  double sum = 0.0;
  if (column < outputs)
    for (int row = warp; row < rows; row += 8) {
      const long long at = (long long)row * outputs + column;
      if (!mask || !(mask[at] <= 0.0f)) sum += dy[at];
    }
  partial[warp][lane] = sum;
  __syncthreads();
  if (warp == 0 && column < outputs) {
    for (int i = 1; i < 8; i++) sum += partial[i][lane];
    db[column] = (float)sum;
  }
}
