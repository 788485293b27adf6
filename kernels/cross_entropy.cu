// Mean cross entropy of softmax(x) and classes t: f = mean of log(sum_j exp(x_j)) - x_t over those rows of a batch whose
// t is not IGNORED; dx = (softmax(x) - onehot(t)) df / rows of one batch, without ignored rows, where it is 0. With
// label smoothing s the class counts 1 - s, and every class s / classes more.
//   x, dx, g (rows, classes); t, losses (rows); f (batches); df scalar; counts (blocks): of rows that are not ignored. g,
//   the gradient of the sum, and counts are kept for the way back, which so need not wait for the means.
// A warp per row; a batch's losses are summed by one block, in f64 and a fixed order.
//   cross_entropy_rows, cross_entropy_means   batches of many rows
//   cross_entropy_block                       few: one block does a batch
//   cross_entropy_bwd                         dx
//   draw_classes                              classes drawn from softmax(x) in place of t: src/ops/cross_entropy.rs says how
#include "batch.cuh"

// The loss of a row, for its first lane, and its gradient g.
DEVICE float row_loss(const float* x, int target, float* g, int classes, float smoothing) {
  const int lane = threadIdx.x % 32;
  if (target == IGNORED) {
    for (int j = lane; j < classes; j += 32) g[j] = 0.0f;
    return 0.0f;
  }
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
  for (int j = lane; j < classes; j += 32) g[j] = g[j] / sum - (j == target ? 1.0f - smoothing : 0.0f) - every;
  const float loss = logf(sum) - (x[target] - largest);
  if (smoothing == 0.0f) return loss;
  float all = 0.0f;
  for (int j = lane; j < classes; j += 32) all += x[j] - x[target];
  return loss - every * warp_sum(all);
}

// A batch's loss; the sum becomes single first, so that it can overflow as the reference's does. Of no rows it is NaN.
DEVICE float mean_of(double sum, int count) { return (float)sum / (float)count; }

KERNEL(cross_entropy_rows, 256, const float* __restrict__ x, const float* __restrict__ target,
       float* __restrict__ g, float* __restrict__ losses, float* __restrict__ counts, int rows, int classes,
       float smoothing) {
  int count = 0;
  for (int row = blockIdx.x * 8 + threadIdx.x / 32; row < rows; row += gridDim.x * 8) {
    const long long at = (long long)row * classes;
    const int t = (int)target[row];
    const float loss = row_loss(x + at, t, g + at, classes, smoothing);
    if (threadIdx.x % 32 > 0) continue;
    losses[row] = loss;
    count += t != IGNORED;
  }
  count = block_sum<256>(count);
  if (threadIdx.x == 0) counts[blockIdx.x] = (float)count;
}

// A block per batch.
KERNEL(cross_entropy_means, 256, const float* __restrict__ losses, const float* __restrict__ target,
       float* __restrict__ f, int rows, int batch) {
  const Batch b = batch_of(rows, batch);
  double sum = 0.0;
  int count = 0;
  for (long long i = threadIdx.x; i < b.n; i += 256) {
    sum += losses[b.first + i];
    count += (int)target[b.first + i] != IGNORED;
  }
  sum = block_sum<256>(sum);
  count = block_sum<256>(count);
  if (threadIdx.x == 0) f[blockIdx.x] = mean_of(sum, count);
}

KERNEL(cross_entropy_block, 512, const float* __restrict__ x, const float* __restrict__ target,
       float* __restrict__ g, float* __restrict__ f, float* __restrict__ counts, int rows, int classes, int batch,
       float smoothing) {
  const Batch b = batch_of(rows, batch);
  double sum = 0.0;
  int count = 0;
  for (long long row = b.first + threadIdx.x / 32; row < b.first + b.n; row += 16) {
    const int t = (int)target[row];
    const float loss = row_loss(x + row * classes, t, g + row * classes, classes, smoothing);
    if (threadIdx.x % 32 > 0) continue;
    sum += loss;
    count += t != IGNORED;
  }
  sum = block_sum<512>(sum);
  count = block_sum<512>(count);
  if (threadIdx.x > 0) return;
  f[blockIdx.x] = mean_of(sum, count);
  counts[blockIdx.x] = (float)count;
}

// Of one batch, whose rows `blocks` blocks have counted. Where all are ignored g is 0, and so is dx.
KERNEL(cross_entropy_bwd, 256, const float* __restrict__ g, const float* __restrict__ counts,
       const float* __restrict__ df, float* __restrict__ dx, int blocks, long long n) {
  int count = 0;
  for (int i = threadIdx.x; i < blocks; i += 256) count += (int)counts[i];
  const float rows = (float)max(block_sum<256>(count), 1);
  for (long long i = grid_thread(); i < n; i += grid_threads()) dx[i] = g[i] / rows * df[0];
}

KERNEL(draw_classes, 256, const float* __restrict__ x, const float* __restrict__ target, const Step* __restrict__ now,
       unsigned stream, float* __restrict__ drawn, int rows, int classes) {
  const int lane = threadIdx.x % 32;
  for (long long row = blockIdx.x * 8 + threadIdx.x / 32; row < rows; row += gridDim.x * 8) {
    int best = 0;
    float most = -INFINITY;
    for (int j = lane; j < classes; j += 32) {
      const unsigned long long at = row * classes + j;
      const uint4 words = philox(now->seed, (unsigned long long)stream << 32 | at / 4, now->batch);
      const unsigned pair[2] = {at & 1 ? words.y : words.x, at & 1 ? words.w : words.z}, word = pair[at / 2 & 1];
      const float u = fmaf((float)word, 0x1p-32f, 0x1p-33f), sum = x[row * classes + j] - logf(-log1pf(-u));
      if (sum > most) best = j, most = sum;
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      const float other = __shfl_xor_sync(0xffffffffu, most, offset);
      const int place = __shfl_xor_sync(0xffffffffu, best, offset);
      // The first of several largest.
      if (other > most || (other == most && place < best)) best = place, most = other;
    }
    if (lane == 0) drawn[row] = (int)target[row] == IGNORED ? IGNORED : best;
  }
}
