// Mean cross entropy of softmax(x) and classes t: f = mean of log(sum_j exp(x_j)) - x_t;
// dx = (softmax(x) - onehot(t)) df / rows.
//   x, dx, p (rows, classes); t, losses (rows); f, df scalars. p is the softmax, kept for the way back.
// A warp per row; losses are summed by one block, in f64 and a fixed order.
#include "common.cuh"

KERNEL(cross_entropy_rows, 256, const float* __restrict__ x, const float* __restrict__ target,
       float* __restrict__ p, float* __restrict__ losses, int rows, int classes) {
  const int lane = threadIdx.x % 32;
  for (int row = blockIdx.x * 8 + threadIdx.x / 32; row < rows; row += gridDim.x * 8) {
    const float* xs = x + (long long)row * classes;
    float* ps = p + (long long)row * classes;
    float largest = -INFINITY;
    for (int j = lane; j < classes; j += 32) largest = fmaxf(largest, xs[j]);
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2)
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, offset));
    float sum = 0.0f;
    for (int j = lane; j < classes; j += 32) {
      const float e = expf(xs[j] - largest);
      ps[j] = e;
      sum += e;
    }
    sum = warp_sum(sum);
    for (int j = lane; j < classes; j += 32) ps[j] /= sum;
    if (lane == 0) losses[row] = logf(sum) - (xs[(int)target[row]] - largest);
  }
}

// f = mean of n numbers: the sum becomes single first, so that it can overflow as the reference's does.
KERNEL(mean_of, 256, const float* __restrict__ x, float* __restrict__ f, long long n) {
  double sum = 0.0;
  for (long long i = threadIdx.x; i < n; i += 256) sum += x[i];
  sum = block_sum<256>(sum);
  if (threadIdx.x == 0) f[0] = (float)sum / (float)n;
}

KERNEL(cross_entropy_bwd, 256, const float* __restrict__ p, const float* __restrict__ target,
       const float* __restrict__ df, float* __restrict__ dx, int rows, int classes) {
  const float scale = df[0] / (float)rows;
  const long long n = (long long)rows * classes;
  for (long long i = grid_thread(); i < n; i += grid_threads()) {
    const float g = p[i] * scale;
    dx[i] = i % classes == (int)target[i / classes] ? g - scale : g;
  }
}
