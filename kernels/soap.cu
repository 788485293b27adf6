// SOAP; formulas and coefficients in src/optim/soap.rs. The bases themselves are the host's.
#include "optim.cuh"
#include "products.cuh"

struct SoapStep {
  double lr;
  double shrink;      // factor of the weights
  double beta1, beta2;
  double shampoo_beta;
  double eps;
  long long first;    // is it the first step, which moves nothing?
};

// A tensor, and which of the bases are those of its dimensions.
struct SoapTensor {
  long long start, n;
  long long first, count;
};

// A dimension of `size` entries with a basis; all other places of its tensor are `columns`, and `behind` of them lie behind
// each entry. L and Q, column by column, are among the numbers, Q behind L.
struct SoapBasis {
  long long start, size, columns, behind;
  long long numbers;
  long long parts;              // of the sums in products
  long long partial, counters;  // of these
};

// Workspace: four vectors, in which two tensors are turned to and fro: the gradient in the first two, its average in the
// others. What has been turned `count` times lies in the vector that this says; the average is turned back to the last.
DEVICE int turned_gradient(long long count) { return (int)((count + 1) % 2); }
DEVICE int turned_average(long long count) { return 2 + (int)((count + 1) % 2); }

KERNEL(soap_average, 256, const Step* __restrict__ now, const SoapStep* __restrict__ steps, const float* __restrict__ g,
       float* __restrict__ m, long long n) {
  const SoapStep c = steps[now->slot];
  if (c.first) return;
  for (long long i = grid_thread(); i < n; i += grid_threads()) m[i] = average(c.beta1, m[i], g[i]);
}

// A tile of y = Q^T x or, `back`, Q x along a dimension.
DEVICE void turn(const SoapBasis& b, const float* q, const float* x, float* y, int back, float* ring) {
  const int size = (int)b.size, columns = (int)b.columns, behind = (int)b.behind;
  const int across = (columns + COLUMNS - 1) / COLUMNS;
  const int i0 = blockIdx.x / across * ROWS, j0 = blockIdx.x % across * COLUMNS;
  if (i0 >= size) return;
  float sums[1][4][4];
  const Operand left = {q, i0, size};
  // The first dimension is a matrix's rows, the last one its columns.
  const Operand right = {x + b.start, j0, columns, behind == 1 || behind == columns ? 0 : behind};
  if (behind == 1 && back)
    multiply_tile<false, true, false>(sums, left, nullptr, right, size, 0, size, ring);
  else if (behind == 1)
    multiply_tile<true, true, false>(sums, left, nullptr, right, size, 0, size, ring);
  else if (back)
    multiply_tile<false, false, false>(sums, left, nullptr, right, size, 0, size, ring);
  else
    multiply_tile<true, false, false>(sums, left, nullptr, right, size, 0, size, ring);
  for_entries(sums, [&](int i, int j, float sum) {
    if (i0 + i < size && j0 + j < columns) y[b.start + place_along(i0 + i, j0 + j, size, behind)] = sum;
  });
}

// Turns the i-th dimensions with bases: of the gradient (z = 0) and of its average (z = 1), or the average back.
KERNEL(soap_turn, 128, const SoapTensor* __restrict__ tensors, const SoapBasis* __restrict__ bases,
       const float* __restrict__ numbers, const float* __restrict__ g, const float* __restrict__ m, float* work,
       long long n, int i, int back) {
  SHARED_DYN(float, ring);
  const SoapTensor t = tensors[blockIdx.y];
  if (i >= t.count) return;
  const SoapBasis b = bases[t.first + i];
  const float* q = numbers + b.numbers + b.size * b.size;
  const bool of_average = back || blockIdx.z == 1;
  const long long count = back ? t.count + i : i;
  const float* x = of_average ? m : g;
  if (count > 0) x = work + n * (of_average ? turned_average(count) : turned_gradient(count));
  turn(b, q, x, work + n * (of_average ? turned_average(count + 1) : turned_gradient(count + 1)), back, ring);
}

// v, and the direction in the bases, where the turned average was.
KERNEL(soap_direction, 256, const Step* __restrict__ now, const SoapStep* __restrict__ steps,
       const SoapTensor* __restrict__ tensors, const float* __restrict__ g, const float* __restrict__ m,
       float* __restrict__ v, float* work, long long n) {
  const SoapStep c = steps[now->slot];
  if (c.first) return;
  const SoapTensor t = tensors[blockIdx.y];
  const float eps = (float)c.eps;
  float* const to = work + n * turned_average(t.count);
  const float* of_g = t.count > 0 ? work + n * turned_gradient(t.count) : g;
  const float* of_m = t.count > 0 ? to : m;
  for (long long i = grid_thread(); i < t.n; i += grid_threads()) {
    const long long at = t.start + i;
    v[at] = average_square(c.beta2, v[at], of_g[at]);
    to[at] = of_m[at] / (sqrtf(v[at]) + eps);
  }
}

// Of the direction turned back: sums of squares by blocks, (tensors, blocks).
KERNEL(soap_squares, 256, const SoapTensor* __restrict__ tensors, const float* __restrict__ u,
       double* __restrict__ squares) {
  const SoapTensor t = tensors[blockIdx.y];
  double sum[1] = {};
  for (long long i = grid_thread(); i < t.n; i += grid_threads()) sum[0] += (double)u[t.start + i] * u[t.start + i];
  block_sums<256, 1>(sum);
  if (threadIdx.x == 0) squares[blockIdx.y * gridDim.x + blockIdx.x] = sum[0];
}

KERNEL(soap, 256, const Step* __restrict__ now, const SoapStep* __restrict__ steps,
       const SoapTensor* __restrict__ tensors, const float* __restrict__ u, const double* __restrict__ squares,
       int normalize, float* __restrict__ w) {
  const SoapStep c = steps[now->slot];
  if (c.first) return;
  const SoapTensor t = tensors[blockIdx.y];
  double rate = c.lr;
  if (normalize) {
    double sum = 0.0;
    for (unsigned b = 0; b < gridDim.x; b++) sum += squares[blockIdx.y * gridDim.x + b];
    rate /= 1e-30 + sqrt(sum / t.n);
  }
  const float lr = (float)rate, shrink = (float)c.shrink;
  for (long long i = grid_thread(); i < t.n; i += grid_threads()) {
    const long long at = t.start + i;
    w[at] = shrink * fmaf(-lr, u[at], w[at]);
  }
}

// L of every dimension with a basis: row y of the grid's blocks is the y-th. A tile's sums are computed in parts, which the
// last block that arrives adds up.
KERNEL(soap_products, 128, const Step* __restrict__ now, const SoapStep* __restrict__ steps,
       const SoapBasis* __restrict__ bases, const float* __restrict__ g, float* __restrict__ numbers,
       float* __restrict__ partial, unsigned* __restrict__ counters) {
  SHARED_DYN(float, ring);
  const SoapBasis b = bases[blockIdx.y];
  const int size = (int)b.size, columns = (int)b.columns, behind = (int)b.behind, parts = (int)b.parts;
  const int across = (size + COLUMNS - 1) / COLUMNS, tiles = (size + ROWS - 1) / ROWS * across;
  const int tile = blockIdx.x % tiles, part = blockIdx.x / tiles;
  if (part >= parts) return;
  const int i0 = tile / across * ROWS, j0 = tile % across * COLUMNS;
  const int terms = ((columns + parts - 1) / parts + SLICE - 1) / SLICE * SLICE;
  const int begin = min(part * terms, columns), end = min(begin + terms, columns);
  float sums[1][4][4];
  const int along = behind == 1 || behind == columns ? 0 : behind;
  const Operand left = {g + b.start, i0, size, along}, right = {g + b.start, j0, size, along};
  if (behind == 1)
    multiply_tile<false, false, false>(sums, left, nullptr, right, columns, begin, end, ring);
  else
    multiply_tile<true, true, false>(sums, left, nullptr, right, columns, begin, end, ring);
  const double beta = steps[now->slot].shampoo_beta;
  const float old = (float)beta, weight = (float)(1.0 - beta);
  float* const own = partial + b.partial;
  auto at = [&](int i, int j) { return (long long)(i0 + i) * size + j0 + j; };
  auto inside = [&](int i, int j) { return i0 + i < size && j0 + j < size; };
  auto store = [&](int i, int j, float sum) {
    float& entry = numbers[b.numbers + at(i, j)];
    entry = fmaf(weight, sum, old * entry);
  };
  if (parts > 1) {
    for_entries(sums, [&](int i, int j, float sum) {
      if (inside(i, j)) own[(long long)part * size * size + at(i, j)] = sum;
    });
    if (!last_to_arrive(counters + b.counters + tile, parts)) return;
  }
  for_entries(sums, [&](int i, int j, float sum) {
    if (!inside(i, j)) return;
    if (parts > 1) {
      double all = 0.0;
      for (int p = 0; p < parts; p++) all += __ldcg(own + (long long)p * size * size + at(i, j));
      sum = (float)all;
    }
    store(i, j, sum);
  });
}
