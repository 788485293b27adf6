// Mean cross entropy of softmax(x) and classes t: f = mean of log(sum_j exp(x_j)) - x_t over a batch of rows;
// dx = (softmax(x) - onehot(t)) df / rows, of one batch. With label smoothing s the class counts 1 - s, and every class
// s / classes more.
//   x, dx, g (rows, classes); t, losses (rows); f (batches); df scalar. g is the gradient for df = 1, kept for the way
//   back.
// A warp per row; a batch's losses are summed by one block, in f64 and a fixed order.
//   cross_entropy_rows, means_of   batches of many rows
//   cross_entropy_block            few: one block does a batch
//   cross_entropy_bwd              dx
#include "batch.cuh"

// The loss of a row, for its first lane, and its gradient g.
DEVICE float row_loss(const float* x, int target, float* g, int rows, int classes, float smoothing) {
  const int lane = threadIdx.x % 32;
  float largest = -INFINITY;
  for (int j = lane; j < classes; j += 32) largest = fmaxf(largest, x[j]);
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2)
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, offset));
  float sum = 0.0f;
  for (int j = lane; j < classes; j += 32) {
    const float e = expf(x[j] - largest);
    g[j] = e;
    sum += e;
  }
  sum = warp_sum(sum);
  const float every = smoothing / classes;
  for (int j = lane; j < classes; j += 32)
    g[j] = (g[j] / sum - (j == target ? 1.0f - smoothing : 0.0f) - every) / (float)rows;
  const float loss = logf(sum) - (x[target] - largest);
  if (smoothing == 0.0f) return loss;
  float all = 0.0f;
  for (int j = lane; j < classes; j += 32) all += x[j] - x[target];
  return loss - every * warp_sum(all);
}

KERNEL(cross_entropy_rows, 256, const float* __restrict__ x, const float* __restrict__ target,
       float* __restrict__ g, float* __restrict__ losses, int rows, int classes, float smoothing) {
  for (int row = blockIdx.x * 8 + threadIdx.x / 32; row < rows; row += gridDim.x * 8) {
    const long long at = (long long)row * classes;
    const float loss = row_loss(x + at, (int)target[row], g + at, rows, classes, smoothing);
    if (threadIdx.x % 32 == 0) losses[row] = loss;
  }
}

KERNEL(cross_entropy_block, 512, const float* __restrict__ x, const float* __restrict__ target,
       float* __restrict__ g, float* __restrict__ f, int rows, int classes, int batch, float smoothing) {
  const Batch b = batch_of(rows, batch);
  double sum = 0.0;
  for (long long row = b.first + threadIdx.x / 32; row < b.first + b.n; row += 16) {
    const float* at = x + row * classes;
    const float loss = row_loss(at, (int)target[row], g + row * classes, rows, classes, smoothing);
    if (threadIdx.x % 32 == 0) sum += loss;
  }
  sum = block_sum<512>(sum);
  if (threadIdx.x == 0) f[blockIdx.x] = (float)sum / (float)b.n;
}

// f = means of `batch` numbers each, a block per batch: the sum becomes single first, so that it can overflow as the
// reference's does.
KERNEL(means_of, 256, const float* __restrict__ x, float* __restrict__ f, int n, int batch) {
  const Batch b = batch_of(n, batch);
  double sum = 0.0;
  for (long long i = threadIdx.x; i < b.n; i += 256) sum += x[b.first + i];
  sum = block_sum<256>(sum);
  if (threadIdx.x == 0) f[blockIdx.x] = (float)sum / (float)b.n;
}

KERNEL(cross_entropy_bwd, 256, const float* __restrict__ g, const float* __restrict__ df, float* __restrict__ dx,
       long long n) {
  for (long long i = grid_thread(); i < n; i += grid_threads()) dx[i] = g[i] * df[0];
}
