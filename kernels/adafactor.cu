// Adafactor; formulas and coefficients in src/optim/adafactor.rs. Row y of the grid's blocks is tensor y.
#include "optim.cuh"

struct AdafactorStep {
  double weight;  // of the new square in the averages
  double rate;    // step size, relative to the size of the weights
  double least;   // size that weights have at least
  double eps;     // least square root of an average
  double limit;   // of the update's root mean square
  double shrink;  // factor of the weights
};

// A tensor, and where its numbers lie: the averages R (batches, rows) and C (batches, columns) of its matrices, or one for
// each entry of a vector, whose `rows` are 0.
struct FactoredTensor {
  long long start, n;
  long long batches, rows, columns;
  long long numbers;
  long long partial;  // of the sums of squares
};

constexpr int TILE_ROWS = 64, TILE_COLUMNS = 32, WARPS = 8;

// Matrices are cut into tiles. Of each there are sums of squares of its rows, (batches, rows, across), and behind them
// of its columns, (batches, down, columns), and behind these the matrices' means of R.
struct Tiles {
  long long across, down, of_columns, means;

  METHOD explicit Tiles(const FactoredTensor& t) {
    across = (t.columns + TILE_COLUMNS - 1) / TILE_COLUMNS;
    down = (t.rows + TILE_ROWS - 1) / TILE_ROWS;
    of_columns = t.partial + t.batches * t.rows * across;
    means = of_columns + t.batches * down * t.columns;
  }
};

// Stores a block's sum among those of its tensor: (tensors, blocks).
DEVICE void store_norm(double sum, double* norms) {
  double sums[1] = {sum};
  block_sums<256, 1>(sums);
  if (threadIdx.x == 0) norms[blockIdx.y * gridDim.x + blockIdx.x] = sums[0];
}

DEVICE double load_norm(const double* norms) {
  double sum = 0.0;
  for (unsigned b = 0; b < gridDim.x; b++) sum += norms[blockIdx.y * gridDim.x + b];
  return (double)(float)sqrt(sum);
}

// Squares of the weights, and those of the gradient by rows and columns.
KERNEL(adafactor_sums, 256, const FactoredTensor* __restrict__ tensors, const float* __restrict__ w,
       const float* __restrict__ g, double* __restrict__ norms, double* __restrict__ partial) {
  const FactoredTensor t = tensors[blockIdx.y];
  double sum = 0.0;
  for (long long i = grid_thread(); i < t.n; i += grid_threads()) sum += (double)w[t.start + i] * w[t.start + i];
  store_norm(sum, norms);
  if (t.rows == 0) return;
  SHARED(double, of_columns, [WARPS][TILE_COLUMNS]);
  const Tiles tiles(t);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (long long tile = blockIdx.x; tile < t.batches * tiles.down * tiles.across; tile += gridDim.x) {
    const long long across = tile % tiles.across, down = tile / tiles.across;  // of all batches
    const long long batch = down / tiles.down, row = down % tiles.down * TILE_ROWS;
    const long long column = across * TILE_COLUMNS + lane;
    double of_column = 0.0;
    for (int r = warp; r < TILE_ROWS && row + r < t.rows; r += WARPS) {
      const long long of_all = batch * t.rows + row + r;
      const double x = column < t.columns ? g[t.start + of_all * t.columns + column] : 0.0f, of_row = warp_sum(x * x);
      of_column += x * x;
      if (lane == 0) partial[t.partial + of_all * tiles.across + across] = of_row;
    }
    of_columns[warp][lane] = of_column;
    __syncthreads();
    if (warp == 0 && column < t.columns) {
      for (int i = 1; i < WARPS; i++) of_column += of_columns[i][lane];
      partial[tiles.of_columns + down * t.columns + column] = of_column;
    }
    __syncthreads();
  }
}

// R and C of every matrix, and the mean of R.
KERNEL(adafactor_factors, 256, const Step* __restrict__ now, const AdafactorStep* __restrict__ steps,
       const FactoredTensor* __restrict__ tensors, double* __restrict__ partial, float* __restrict__ numbers) {
  const FactoredTensor t = tensors[blockIdx.y];
  if (t.rows == 0) return;
  const Tiles tiles(t);
  const float weight = (float)steps[now->slot].weight;
  for (long long batch = blockIdx.x; batch < t.batches; batch += gridDim.x) {
    float* r = numbers + t.numbers + batch * t.rows;
    float* c = numbers + t.numbers + t.batches * t.rows + batch * t.columns;
    double mean[1] = {};
    for (long long row = threadIdx.x; row < t.rows; row += 256) {
      const double* sums = partial + t.partial + (batch * t.rows + row) * tiles.across;
      double sum = 0.0;
      for (long long i = 0; i < tiles.across; i++) sum += sums[i];
      r[row] = lerp(r[row], (float)(sum / t.columns), weight);
      mean[0] += r[row];
    }
    for (long long column = threadIdx.x; column < t.columns; column += 256) {
      const double* sums = partial + tiles.of_columns + batch * tiles.down * t.columns + column;
      double sum = 0.0;
      for (long long i = 0; i < tiles.down; i++) sum += sums[i * t.columns];
      c[column] = lerp(c[column], (float)(sum / t.rows), weight);
    }
    block_sums<256, 1>(mean);
    if (threadIdx.x == 0) partial[tiles.means + batch] = mean[0] / t.rows;
  }
}

// U, and the sum of its squares.
KERNEL(adafactor_direction, 256, const Step* __restrict__ now, const AdafactorStep* __restrict__ steps,
       const FactoredTensor* __restrict__ tensors, const float* __restrict__ g, const double* __restrict__ partial,
       float* __restrict__ numbers, float* __restrict__ update, double* __restrict__ norms) {
  const FactoredTensor t = tensors[blockIdx.y];
  const AdafactorStep c = steps[now->slot];
  const float weight = (float)c.weight, eps = (float)c.eps, least = (float)(c.eps * c.eps);
  const Tiles tiles(t);
  float* own = numbers + t.numbers;
  double squares = 0.0;
  for (long long i = grid_thread(); i < t.n; i += grid_threads()) {
    const float x = g[t.start + i];
    float v;
    if (t.rows == 0) {
      v = own[i] = lerp(own[i], x * x, weight);
    } else {
      const long long row = i / t.columns, batch = row / t.rows, column = i % t.columns;
      const float mean = (float)partial[tiles.means + batch];
      v = own[row] * own[t.batches * t.rows + batch * t.columns + column] / (mean < eps ? eps : mean);
    }
    const float u = x / sqrtf(v < least ? least : v);
    update[t.start + i] = u;
    squares += (double)u * u;
  }
  store_norm(squares, norms);
}

KERNEL(adafactor, 256, const Step* __restrict__ now, const AdafactorStep* __restrict__ steps,
       const FactoredTensor* __restrict__ tensors, const float* __restrict__ update, const double* __restrict__ of_weights,
       const double* __restrict__ of_update, float* __restrict__ w) {
  const FactoredTensor t = tensors[blockIdx.y];
  const AdafactorStep c = steps[now->slot];
  const double root = sqrt((double)t.n), size = load_norm(of_weights) / root, longer = load_norm(of_update) / (root * c.limit);
  const double rate = at_least(size, c.least) * c.rate / (longer > 1.0 ? longer : 1.0);
  const float lr = (float)rate, shrink = (float)c.shrink;
  for (long long i = grid_thread(); i < t.n; i += grid_threads()) {
    const long long at = t.start + i;
    w[at] = fmaf(-lr, update[at], shrink * w[at]);
  }
}
