// Scores: the share of right answers in each batch, which a block counts.
//   x (rows, classes) or (n); target (rows) or (n); share (batches)
#include "batch.cuh"

// argmax as PyTorch's: NaN is the largest, the first of several largest wins.
DEVICE int argmax(const float* x, int n) {
  int best = 0;
  for (int i = 0; i < n; i++) {
    if (isnan(x[i])) return i;
    if (x[i] > x[best]) best = i;
  }
  return best;
}

DEVICE void store_share(int right, long long n, float* share) {
  right = block_sum<256>(right);
  if (threadIdx.x == 0) share[blockIdx.x] = (float)((double)right / (double)n);
}

KERNEL(class_accuracy, 256, const float* __restrict__ x, const float* __restrict__ target,
       float* __restrict__ share, int rows, int classes, int batch) {
  const Batch b = batch_of(rows, batch);
  int right = 0;
  for (long long i = threadIdx.x; i < b.n; i += 256)
    right += argmax(x + (b.first + i) * classes, classes) == (int)target[b.first + i];
  store_share(right, b.n, share);
}

KERNEL(sign_accuracy, 256, const float* __restrict__ x, const float* __restrict__ target,
       float* __restrict__ share, long long n, long long batch) {
  const Batch b = batch_of(n, batch);
  int right = 0;
  for (long long i = threadIdx.x; i < b.n; i += 256) {
    const float sign = 1.0f / (1.0f + expf(-x[b.first + i])) >= 0.5f ? 1.0f : -1.0f;
    right += sign == target[b.first + i];
  }
  store_share(right, b.n, share);
}
