// The training loop's own kernels: which step it is, its batch, norms, sums of losses and scores.
#include "optim.cuh"

// Takes the next entry of the table of steps; `seed` is where backward starts, df = 1.
KERNEL(begin_step, 32, const Step* __restrict__ steps, int* __restrict__ done, Step* __restrict__ now,
       float* __restrict__ seed) {
  if (threadIdx.x != 0) return;
  *now = steps[*done];
  *done += 1;
  *seed = 1.0f;
}

// out (rows, width) = the rows order[first], order[first + 1], ... of data.
KERNEL(gather_floats, 256, const float* __restrict__ data, const unsigned* __restrict__ order,
       const Step* __restrict__ now, float* __restrict__ out, int width, int rows) {
  const unsigned* indices = order + now->first;
  for (long long i = grid_thread(); i < (long long)rows * width; i += grid_threads())
    out[i] = data[(long long)indices[i / width] * width + i % width];
}

// As above from bytes; table (channels, 256) says what number a byte stands for.
KERNEL(gather_bytes, 256, const unsigned char* __restrict__ data, const float* __restrict__ table,
       const unsigned* __restrict__ order, const Step* __restrict__ now, float* __restrict__ out, int width,
       int channels, int rows) {
  const unsigned* indices = order + now->first;
  for (long long i = grid_thread(); i < (long long)rows * width; i += grid_threads()) {
    const unsigned char byte = data[(long long)indices[i / width] * width + i % width];
    out[i] = table[i % channels * 256 + byte];
  }
}

// sums[0] += n loss, sums[1] += n score: of a batch of n samples.
KERNEL(add_scores, 32, const float* __restrict__ loss, const float* __restrict__ score, double* __restrict__ sums,
       int n) {
  if (threadIdx.x != 0) return;
  sums[0] += (double)loss[0] * n;
  sums[1] += (double)score[0] * n;
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
