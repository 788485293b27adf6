// Mean squared error: f = mean of (x - y)^2 over a batch; dx = 2 (x - y) df / n, of one batch.
//   x, y, dx (n); f (batches); df scalar
// A block per batch sums, in f64 and a fixed order.
#include "batch.cuh"

KERNEL(squared_fwd, 256, const float* __restrict__ x, const float* __restrict__ target, float* __restrict__ f,
       long long n, long long batch) {
  const Batch b = batch_of(n, batch);
  double sum = 0.0;
  for (long long i = threadIdx.x; i < b.n; i += 256) {
    const float difference = x[b.first + i] - target[b.first + i];
    sum += difference * difference;
  }
  sum = block_sum<256>(sum);
  if (threadIdx.x == 0) f[blockIdx.x] = (float)sum / (float)b.n;
}

KERNEL(squared_bwd, 256, const float* __restrict__ x, const float* __restrict__ target,
       const float* __restrict__ df, float* __restrict__ dx, long long n) {
  const float scale = 2.0f * df[0] / (float)n;
  for (long long i = grid_thread(); i < n; i += grid_threads()) dx[i] = (x[i] - target[i]) * scale;
}
