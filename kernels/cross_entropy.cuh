// Mean cross entropy of softmax(x) and classes t, of one batch: f = mean of log(sum_j exp(x_j)) - x_t over the rows whose t
// is not IGNORED; dx = (softmax(x) - onehot(t)) df / rows without ignored ones, where it is 0. With label smoothing s the
// class counts 1 - s, and every class s / classes more.
#pragma once
#include "batch.cuh"

struct CrossEntropy {
  const float *x, *target;  // (rows, classes), (rows)
  bool forward, backward;   // which of f and dx are wanted
  float smoothing;
  const float* df;
  float *f, *dx;
  double* partial;          // a sum of each block's losses
  unsigned* counters;       // counters_of(blocks)
  int rows, classes;
  bool own = false;         // is x this block's own, perhaps in shared memory?

  METHOD float load(const float* from) const { return own ? *from : __ldcg(from); }
};

// A warp's row: its loss, for the first lane, and its dx.
DEVICE float row_loss(const CrossEntropy& of, int row, float rows) {
  const int lane = threadIdx.x % 32, classes = of.classes, target = (int)of.target[row];
  const float* x = of.x + (long long)row * classes;
  float* dx = of.dx + (long long)row * classes;
  if (target == IGNORED) {
    for (int j = lane; of.backward && j < classes; j += 32) dx[j] = 0.0f;
    return 0.0f;
  }
  float largest = -INFINITY;
#pragma unroll 1
  for (int j = lane; j < classes; j += 32) largest = fmaxf(largest, of.load(x + j));
  largest = max_over<32>(largest);
  float sum = 0.0f;
#pragma unroll 1
  for (int j = lane; j < classes; j += 32) sum += expf(of.load(x + j) - largest);
  sum = warp_sum(sum);
  const float every = of.smoothing / classes, of_class = of.load(x + target);
  if (of.backward) {
#pragma unroll 1
    for (int j = lane; j < classes; j += 32) {
      const float g = expf(of.load(x + j) - largest) / sum - (j == target ? 1.0f - of.smoothing : 0.0f) - every;
      dx[j] = g / rows * of.df[0];
    }
  }
  const float loss = logf(sum) - (of_class - largest);
  if (of.smoothing == 0.0f) return loss;
  float all = 0.0f;
  for (int j = lane; j < classes; j += 32) all += of.load(x + j) - of_class;
  return loss - every * warp_sum(all);
}

// The rows whose losses count, for all threads of a block of WARPS warps.
template <int WARPS>
DEVICE int rows_counted(const CrossEntropy& of) {
  int count = 0;
  for (int i = threadIdx.x; i < of.rows; i += 32 * WARPS) count += (int)of.target[i] != IGNORED;
  return block_sum<32 * WARPS>(count);
}

// A thread's share of the losses of the rows from `first` on, before `end`, of which `count` count in all.
template <int WARPS>
DEVICE double sum_losses(const CrossEntropy& of, int first, int end, int count) {
  double sum = 0.0;
  for (int row = first + threadIdx.x / 32; row < end; row += WARPS) {
    const float loss = row_loss(of, row, (float)max(count, 1));
    if (threadIdx.x % 32 == 0) sum += loss;
  }
  return sum;
}

// f from such shares of the block with number `block` of `blocks`. Losses are added up in f64 and a fixed order. The sum becomes
// single before it is divided, so that it can overflow as the reference's does; of no rows the mean is NaN.
template <int WARPS>
DEVICE void mean_loss(const CrossEntropy& of, double sum, int count, int block, int blocks) {
  if (!of.forward) return;
  sum = block_sum<32 * WARPS>(sum);
  if (threadIdx.x == 0) of.partial[block] = sum;
  sum_over_blocks(of.partial, 1, block, blocks, of.counters, [&](int, double all) { of.f[0] = (float)all / (float)count; });
}

template <int WARPS>
DEVICE void loss_of_rows(const CrossEntropy& of, int first, int end, int block, int blocks) {
  const int count = rows_counted<WARPS>(of);
  mean_loss<WARPS>(of, sum_losses<WARPS>(of, first, end, count), count, block, blocks);
}
