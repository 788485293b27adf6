// Muon, and the Newton-Schulz iteration of many matrices, which methods that are files take as well; formulas in
// src/optim/muon.rs and src/optim/newton_schulz.rs. Row y of the grid's blocks is tensor y, a matrix of `rows` rows.
#include "optim.cuh"
#include "products.cuh"

struct MuonStep {
  double lr;
  double shrink;    // factor of the weights
  double momentum;
};

// A step of the iteration: x X + (a A + aa A A) X.
struct Quintic {
  float x, a, aa;
};

// A matrix whose shorter side is `side`. If it is tall, it is X^T of the formulas.
struct Matrix {
  long long start;
  int side, length;
  bool tall;

  METHOD Matrix(const TensorRange& t) : start(t.start) {
    const long long columns = t.n / t.rows;
    tall = t.rows > columns;
    side = (int)(tall ? columns : t.rows);
    length = (int)(tall ? t.rows : columns);
  }

  // Where the entry (i, j) of X lies.
  METHOD long long at(int i, int j) const {
    return start + (tall ? (long long)j * side + i : (long long)i * length + j);
  }
};

// The nearest number of bfloat16, ties to even.
DEVICE float to_bf16(float x) {
  const unsigned bits = __float_as_uint(x);
  return x == x ? __uint_as_float((bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u) : x;
}

DEVICE float rounded(float x, int bf16) { return bf16 ? to_bf16(x) : x; }

// u, and the sums of its squares by blocks: squares (tensors, blocks).
KERNEL(muon_momentum, 256, const Step* __restrict__ now, const MuonStep* __restrict__ steps,
       const TensorRange* __restrict__ ranges, const float* __restrict__ g, float* __restrict__ b, float* __restrict__ u,
       double* __restrict__ squares, int nesterov) {
  const TensorRange t = ranges[blockIdx.y];
  const double momentum = steps[now->slot].momentum;
  const float weight = (float)(1.0 - momentum), mu = (float)momentum;
  double sum[1] = {};
  for (long long i = grid_thread(); i < t.n; i += grid_threads()) {
    const long long at = t.start + i;
    const float x = g[at], average = lerp(b[at], x, weight);
    const float y = nesterov ? lerp(x, average, mu) : average;
    b[at] = average;
    u[at] = y;
    sum[0] += (double)y * y;
  }
  block_sums<256, 1>(sum);
  if (threadIdx.x == 0) squares[blockIdx.y * gridDim.x + blockIdx.x] = sum[0];
}

// X = u / max(|u|, 1e-7)
KERNEL(muon_normalize, 256, const TensorRange* __restrict__ ranges, const double* __restrict__ squares,
       float* __restrict__ x, int bf16) {
  const TensorRange t = ranges[blockIdx.y];
  double sum = 0.0;
  for (unsigned b = 0; b < gridDim.x; b++) sum += squares[blockIdx.y * gridDim.x + b];
  const float norm = (float)sqrt(sum), divisor = norm < 1e-7f ? 1e-7f : norm;  // a NaN stays
  for (long long i = grid_thread(); i < t.n; i += grid_threads()) {
    const long long at = t.start + i;
    x[at] = rounded(rounded(x[at], bf16) / divisor, bf16);
  }
}

template <bool A_BY_ROW, bool B_BY_ROW>
DEVICE void multiply_tile(float (&sums)[1][4][4], const Operand& a, const float* panel, const Operand& b, int depth,
                          float* ring, int bf16) {
  // Numbers of bfloat16 are numbers of TF32.
  if (bf16)
    multiply_tile<A_BY_ROW, B_BY_ROW, true>(sums, a, panel, b, depth, 0, depth, ring);
  else
    multiply_tile<A_BY_ROW, B_BY_ROW, false>(sums, a, panel, b, depth, 0, depth, ring);
}

// A = X X^T. It takes no more room than X, and lies where X does.
KERNEL(newton_schulz_gram, 128, const TensorRange* __restrict__ ranges, const float* __restrict__ x, float* __restrict__ a,
       int bf16) {
  SHARED_DYN(float, ring);
  const Matrix m(ranges[blockIdx.y]);
  const int across = (m.side + COLUMNS - 1) / COLUMNS;
  const int i0 = blockIdx.x / across * ROWS, j0 = blockIdx.x % across * COLUMNS;
  if (i0 >= m.side) return;
  float sums[1][4][4];
  const Operand left = {x + m.start, i0, m.side}, right = {x + m.start, j0, m.side};
  if (m.tall)
    multiply_tile<false, false>(sums, left, nullptr, right, m.length, ring, bf16);
  else
    multiply_tile<true, true>(sums, left, nullptr, right, m.length, ring, bf16);
  for_entries(sums, [&](int i, int j, float sum) {
    if (i0 + i < m.side && j0 + j < m.side) a[m.start + (long long)(i0 + i) * m.side + j0 + j] = rounded(sum, bf16);
  });
}

// A tile of B = a A + aa A A; calls f(i, j, entry), 0 outside of it. A is symmetric.
template <class F>
DEVICE void square(const Matrix& m, const float* a, Quintic q, int i0, int j0, int bf16, float* ring, F f) {
  float sums[1][4][4];
  const float* own = a + m.start;
  multiply_tile<true, true>(sums, {own, i0, m.side}, nullptr, {own, j0, m.side}, m.side, ring, bf16);
  for_entries(sums, [&](int i, int j, float sum) {
    const bool inside = i0 + i < m.side && j0 + j < m.side;
    const float entry = inside ? own[(long long)(i0 + i) * m.side + j0 + j] : 0.0f;
    f(i, j, rounded(fmaf(q.aa, sum, q.a * entry), bf16));
  });
}

// B, for matrices that are too large for a block of the next kernels to make its own.
KERNEL(newton_schulz_square, 128, const TensorRange* __restrict__ ranges, const float* __restrict__ a,
       float* __restrict__ b, Quintic q, int bf16) {
  SHARED_DYN(float, ring);
  const Matrix m(ranges[blockIdx.y]);
  const int across = (m.side + COLUMNS - 1) / COLUMNS;
  const int i0 = blockIdx.x / across * ROWS, j0 = blockIdx.x % across * COLUMNS;
  if (i0 >= m.side) return;
  square(m, a, q, i0, j0, bf16, ring, [&](int i, int j, float entry) {
    if (i0 + i < m.side && j0 + j < m.side) b[m.start + (long long)(i0 + i) * m.side + j0 + j] = entry;
  });
}

// x X + B X; calls f(at, entry). A block has 32 rows of B, and `tiles` tiles of X along its longer side. Without B it makes
// these rows from A, in shared memory.
template <class F>
DEVICE void polynomial(const Matrix& m, const float* a, const float* b, int has_b, const float* x, Quintic q, int tiles,
                       int bf16, float* ring, F f) {
  float* const panel = ring + Ring::STAGES * STAGE;
  const int panels = (m.side + ROWS - 1) / ROWS, i0 = blockIdx.x % panels * ROWS;
  const int begin = blockIdx.x / panels * tiles * COLUMNS, end = min(begin + tiles * COLUMNS, m.length);
  if (begin >= m.length) return;
  if (!has_b) {
    const int padded = (m.side + SLICE - 1) / SLICE * SLICE;
    for (int j0 = 0; j0 < m.side; j0 += COLUMNS)
      square(m, a, q, i0, j0, bf16, ring, [&](int i, int j, float entry) {
        j += j0;
        if (j < padded) panel[j / SLICE * PANEL + i * PITCH + j % SLICE] = entry;
      });
  }
  const float* own = has_b ? nullptr : panel;
  const Operand left = {b + m.start, i0, m.side};
  for (int j0 = begin; j0 < end; j0 += COLUMNS) {
    float sums[1][4][4];
    const Operand right = {x + m.start, j0, m.length};
    if (m.tall)
      multiply_tile<true, true>(sums, left, own, right, m.side, ring, bf16);
    else
      multiply_tile<true, false>(sums, left, own, right, m.side, ring, bf16);
    for_entries(sums, [&](int i, int j, float sum) {
      if (i0 + i >= m.side || j0 + j >= m.length) return;
      const long long at = m.at(i0 + i, j0 + j);
      f(at, rounded(fmaf(q.x, x[at], sum), bf16));
    });
  }
}

// The next X.
KERNEL(newton_schulz_polynomial, 128, const TensorRange* __restrict__ ranges, const float* __restrict__ a,
       const float* __restrict__ b, int has_b, const float* __restrict__ x, float* __restrict__ to, Quintic q, int tiles,
       int bf16) {
  SHARED_DYN(float, ring);
  polynomial(Matrix(ranges[blockIdx.y]), a, b, has_b, x, q, tiles, bf16, ring,
             [&](long long at, float y) { to[at] = y; });
}

// The same, and the step of the weights in place of the last X.
KERNEL(muon_update, 128, const Step* __restrict__ now, const MuonStep* __restrict__ steps,
       const TensorRange* __restrict__ ranges, const float* __restrict__ a, const float* __restrict__ b, int has_b,
       const float* __restrict__ x, float* __restrict__ w, Quintic q, int match_rms, int tiles, int bf16) {
  SHARED_DYN(float, ring);
  const Matrix m(ranges[blockIdx.y]);
  const MuonStep c = steps[now->slot];
  const float longer = match_rms ? 0.2f * sqrtf((float)m.length) : m.tall ? sqrtf((float)m.length / (float)m.side) : 1.0f;
  const float lr = (float)(c.lr * longer), shrink = (float)c.shrink;
  polynomial(m, a, b, has_b, x, q, tiles, bf16, ring,
             [&](long long at, float y) { w[at] = fmaf(-lr, y, shrink * w[at]); });
}
