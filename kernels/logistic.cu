// Logistic loss: f = mean over a batch of ln(1 + z), z = exp(-y x); dx = -y z / (1 + z) df / n, of one batch.
//   x, y, dx (n); f (batches); df scalar
// z may overflow, as in PyTorch. A block per batch sums, in f64 and a fixed order.
#include "batch.cuh"

KERNEL(logistic_fwd, 256, const float* __restrict__ x, const float* __restrict__ target, float* __restrict__ f,
       long long n, long long batch) {
  const Batch b = batch_of(n, batch);
  double sum = 0.0;
  for (long long i = threadIdx.x; i < b.n; i += 256) sum += log1pf(expf(-target[b.first + i] * x[b.first + i]));
  sum = block_sum<256>(sum);
  if (threadIdx.x == 0) f[blockIdx.x] = (float)sum / (float)b.n;
}

KERNEL(logistic_bwd, 256, const float* __restrict__ x, const float* __restrict__ target,
       const float* __restrict__ df, float* __restrict__ dx, long long n) {
  const float scale = df[0] / (float)n;
  for (long long i = grid_thread(); i < n; i += grid_threads()) {
    const float z = expf(-target[i] * x[i]);
    dx[i] = -target[i] * z / (1.0f + z) * scale;
  }
}
