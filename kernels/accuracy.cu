// Scores: the share of right answers, a scalar. One block counts.
//   x (rows, classes) or (n); target (rows) or (n)
#include "common.cuh"

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
  if (threadIdx.x == 0) share[0] = (float)((double)right / (double)n);
}

KERNEL(class_accuracy, 256, const float* __restrict__ x, const float* __restrict__ target,
       float* __restrict__ share, int rows, int classes) {
  int right = 0;
  for (int row = threadIdx.x; row < rows; row += 256)
    right += argmax(x + (long long)row * classes, classes) == (int)target[row];
  store_share(right, rows, share);
}

KERNEL(sign_accuracy, 256, const float* __restrict__ x, const float* __restrict__ target,
       float* __restrict__ share, long long n) {
  int right = 0;
  for (long long i = threadIdx.x; i < n; i += 256) {
    const float sign = 1.0f / (1.0f + expf(-x[i])) >= 0.5f ? 1.0f : -1.0f;
    right += sign == target[i];
  }
  store_share(right, n, share);
}
