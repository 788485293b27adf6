// The training loop's own kernels: gathering batches, norms, sums of losses and scores.
#include "optim.cuh"

// What a gather begins with, and leaves to the calls behind it. Its step is the next one in the table of steps, or, `again`,
// the one taken last. `now` becomes this step, and `seed`, where backward starts, df. Batches of `batch_size` lie one behind the
// other in the table of indices, of which the last one may be shorter.
#define STEP                                                                                              \
  const unsigned* __restrict__ order, const Step* __restrict__ steps, int* __restrict__ taken, int again, \
  int batch_size, Step* __restrict__ now, float* __restrict__ seed, float df, unsigned* __restrict__ counter
#define GIVEN_STEP steps, taken, again, batch_size, now, seed, df, counter

// The batch's first place in the table of indices. The first thread of every block finds it before the last one of them to arrive
// moves on: a barrier does not wait for the loads of other threads.
DEVICE long long begin_step(const Step* steps, int* taken, int again, int batch_size, Step* now, float* seed, float df,
                            unsigned* counter) {
  SHARED(int, at, [1]);
  if (threadIdx.x == 0) at[0] = *taken - again;
  __syncthreads();
  const int entry = at[0];
  const long long first = (long long)entry * batch_size;
  if (threadIdx.x > 0) return first;
  __threadfence();
  if (!is_last(counter, gridDim.x * gridDim.y)) return first;
  *now = steps[entry];
  *taken = entry + 1;
  *seed = df;
  return first;
}

// A batch: row r of x (rows, width) and of y (rows, targets) is row order[batch + r] of the data. Block (r, c) writes
// 1024 numbers of row r of x, and where c = 0 its targets.
struct Gather {
  int first, end;    // of x's row
  long long index;   // of the sample
};

DEVICE Gather gather(const unsigned* order, long long batch, int width, const float* targets, float* y, int count) {
  const int first = blockIdx.y * 1024;
  const long long row = blockIdx.x, index = order[batch + row];
  if (blockIdx.y == 0)
    for (int i = threadIdx.x; i < count; i += 256) y[row * count + i] = targets[index * count + i];
  return {first, min(width, first + 1024), index};
}

KERNEL(gather_floats, 256, const float* __restrict__ data, const float* __restrict__ targets, STEP,
       float* __restrict__ x, float* __restrict__ y, int width, int count) {
  const Gather g = gather(order, begin_step(GIVEN_STEP), width, targets, y, count);
  float* to = x + (long long)blockIdx.x * width;
  for (int i = g.first + threadIdx.x; i < g.end; i += 256) to[i] = data[g.index * width + i];
}

// Windows of tokens: a sample's targets are its tokens one later.
KERNEL(gather_tokens, 256, const unsigned char* __restrict__ tokens, STEP, float* __restrict__ x,
       float* __restrict__ y, int length) {
  const int first = blockIdx.y * 1024, end = min(length, first + 1024);
  const long long row = blockIdx.x, index = order[begin_step(GIVEN_STEP) + row];
  const unsigned char* window = tokens + index * length;
  for (int i = first + threadIdx.x; i < end; i += 256) {
    x[row * length + i] = window[i];
    y[row * length + i] = window[i + 1];
  }
}

// From bytes; table (channels, 256) says what number a byte stands for.
KERNEL(gather_bytes, 256, const unsigned char* __restrict__ data, const float* __restrict__ table, int channels,
       const float* __restrict__ targets, STEP, float* __restrict__ x, float* __restrict__ y, int width, int count) {
  const Gather g = gather(order, begin_step(GIVEN_STEP), width, targets, y, count);
  float* to = x + (long long)blockIdx.x * width;
#pragma unroll 4
  for (int i = g.first + threadIdx.x; i < g.end; i += 256)
    to[i] = table[i % channels * 256 + data[g.index * width + i]];
}

// From images (side, side, 3), each at a place of its own: flipped where bit 0 is set, then a crop of the same size
// out of the image with a border of 4 black pixels. The crop's first row is bits 8 to 15, its first column the next 8.
KERNEL(gather_images, 256, const unsigned char* __restrict__ data, const float* __restrict__ table,
       const unsigned* __restrict__ places, const float* __restrict__ targets, STEP, float* __restrict__ x,
       float* __restrict__ y, int side, int count) {
  const int width = side * side * 3;
  const long long batch = begin_step(GIVEN_STEP);
  const Gather g = gather(order, batch, width, targets, y, count);
  const unsigned place = places[batch + blockIdx.x];
  const bool flip = place & 1;
  const int top = (int)(place >> 8 & 255) - 4, left = (int)(place >> 16 & 255) - 4;
  const unsigned char* image = data + g.index * width;
  float* to = x + (long long)blockIdx.x * width;
#pragma unroll 4
  for (int i = g.first + threadIdx.x; i < g.end; i += 256) {
    const int pixel = i / 3, channel = i % 3;
    const int row = pixel / side + top, seen = pixel % side + left, column = flip ? side - 1 - seen : seen;
    const bool inside = row >= 0 && row < side && column >= 0 && column < side;
    to[i] = table[channel * 256 + (inside ? image[(row * side + column) * 3 + channel] : 0)];
  }
}

// sums[0] += the losses, sums[1] += the scores of batches, each times its number of samples.
KERNEL(add_scores, 256, const float* __restrict__ losses, const float* __restrict__ scores,
       double* __restrict__ sums, int samples, int batch) {
  double add[2] = {};
  for (long long first = (long long)threadIdx.x * batch; first < samples; first += 256ll * batch) {
    const double n = (double)min((long long)batch, samples - first);
    add[0] += (double)losses[first / batch] * n;
    add[1] += (double)scores[first / batch] * n;
  }
  block_sums<256, 2>(add);
  if (threadIdx.x == 0)
    for (int i = 0; i < 2; i++) sums[i] += add[i];
}

// A step of several batches, after each of them: `sum` is the gradients' so far, `mean` the losses' over `batches`. After the
// last one g and loss are those of all.
KERNEL(accumulate, 256, float* __restrict__ g, float* __restrict__ sum, float* __restrict__ loss,
       float* __restrict__ mean, float batches, int first, int last, long long n) {
  for (long long i = grid_thread(); i < n; i += grid_threads()) {
    if (first) sum[i] = g[i];
    else if (last) g[i] += sum[i];
    else sum[i] += g[i];
  }
  if (grid_thread() != 0) return;
  mean[0] = (first ? 0.0f : mean[0]) + loss[0] / batches;
  if (last) loss[0] = mean[0];
}

// Of steps first, first + every, ... of an epoch: loss and |g|^2, in two passes.
DEVICE bool logged(const Step* now, long long first, long long every) {
  return now->slot >= first && (now->slot - first) % every == 0;
}

KERNEL(log_sums, 256, const Step* __restrict__ now, long long first, long long every, const float* __restrict__ g,
       double* __restrict__ partial, long long n) {
  if (!logged(now, first, every)) return;
  double sums[1] = {};
  for (long long i = grid_thread(); i < n; i += grid_threads()) sums[0] += g[i] * g[i];
  store_sums(sums, partial);
}

KERNEL(log_step, 256, const Step* __restrict__ now, long long first, long long every, const float* __restrict__ loss,
       const double* __restrict__ partial, int blocks, double* __restrict__ table) {
  if (!logged(now, first, every)) return;
  double sums[1];
  load_sums(sums, partial, blocks);
  if (threadIdx.x != 0) return;
  double* row = table + (now->slot - first) / every * 2;
  row[0] = *loss;
  row[1] = sums[0];
}

// What a logged step does to tensors, a block for each: a row of the table has |w|^2, |g|^2, |w'|^2 and |w' - w|^2 of all.
KERNEL(layers_before, 256, const Step* __restrict__ now, long long every, const TensorRange* __restrict__ tensors,
       const float* __restrict__ w, const float* __restrict__ g, float* __restrict__ before,
       double* __restrict__ table) {
  if (!logged(now, 0, every)) return;
  const TensorRange tensor = tensors[blockIdx.x];
  double sums[2] = {};
  for (long long i = tensor.start + threadIdx.x; i < tensor.start + tensor.n; i += 256) {
    before[i] = w[i];
    sums[0] += w[i] * w[i];
    sums[1] += g[i] * g[i];
  }
  block_sums<256, 2>(sums);
  double* row = table + (now->slot / every * gridDim.x + blockIdx.x) * 4;
  if (threadIdx.x == 0)
    for (int i = 0; i < 2; i++) row[i] = sums[i];
}

KERNEL(layers_after, 256, const Step* __restrict__ now, long long every, const TensorRange* __restrict__ tensors,
       const float* __restrict__ w, const float* __restrict__ before, double* __restrict__ table) {
  if (!logged(now, 0, every)) return;
  const TensorRange tensor = tensors[blockIdx.x];
  double sums[2] = {};
  for (long long i = tensor.start + threadIdx.x; i < tensor.start + tensor.n; i += 256) {
    const float d = w[i] - before[i];
    sums[0] += w[i] * w[i];
    sums[1] += d * d;
  }
  block_sums<256, 2>(sums);
  double* row = table + (now->slot / every * gridDim.x + blockIdx.x) * 4 + 2;
  if (threadIdx.x == 0)
    for (int i = 0; i < 2; i++) row[i] = sums[i];
}

// |w|^2 and |g|^2 in two passes.
KERNEL(norm_sums, 256, const float* __restrict__ w, const float* __restrict__ g, double* __restrict__ partial,
       long long n) {
  double sums[2] = {};
  for (long long i = grid_thread(); i < n; i += grid_threads()) {
    sums[0] += w[i] * w[i];
    sums[1] += g[i] * g[i];
  }
  store_sums(sums, partial);
}

KERNEL(norms, 256, const double* __restrict__ partial, int blocks, double* __restrict__ squares) {
  double sums[2];
  load_sums(sums, partial, blocks);
  if (threadIdx.x == 0)
    for (int i = 0; i < 2; i++) squares[i] = sums[i];
}
