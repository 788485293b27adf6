// Mean squared error: f = mean of (x - y)^2; dx = 2 (x - y) df / n. x, y, dx (n); f, df scalars.
// One block sums, in f64 and a fixed order.
#include "common.cuh"

KERNEL(squared_fwd, 256, const float* __restrict__ x, const float* __restrict__ target, float* __restrict__ f,
       long long n) {
  double sum = 0.0;
  for (long long i = threadIdx.x; i < n; i += 256) {
    const float difference = x[i] - target[i];
    sum += difference * difference;
  }
  sum = block_sum<256>(sum);
  if (threadIdx.x == 0) f[0] = (float)sum / (float)n;
}

KERNEL(squared_bwd, 256, const float* __restrict__ x, const float* __restrict__ target,
       const float* __restrict__ df, float* __restrict__ dx, long long n) {
  const float scale = 2.0f * df[0] / (float)n;
  for (long long i = grid_thread(); i < n; i += grid_threads()) dx[i] = (x[i] - target[i]) * scale;
}
