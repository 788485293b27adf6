// Scores: the share of right answers in each batch, which a block counts; of classes, among the rows that are not IGNORED.
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
  int right = 0, count = 0;
  for (long long i = threadIdx.x; i < b.n; i += 256) {
    const int t = (int)target[b.first + i];
    if (t == IGNORED) continue;
    right += argmax(x + (b.first + i) * classes, classes) == t;
    count++;
  }
  store_share(right, block_sum<256>(count), share);
}

// Of batches of many rows: 1 for a right row, 0 for a wrong one, IGNORED; then the shares.
KERNEL(class_hits, 256, const float* __restrict__ x, const float* __restrict__ target, float* __restrict__ hits,
       int rows, int classes) {
  for (long long row = grid_thread(); row < rows; row += grid_threads()) {
    const int t = (int)target[row];
    hits[row] = t == IGNORED ? IGNORED : argmax(x + row * classes, classes) == t;
  }
}

KERNEL(class_shares, 256, const float* __restrict__ hits, float* __restrict__ share, int rows, int batch) {
  const Batch b = batch_of(rows, batch);
  int right = 0, count = 0;
  for (long long i = threadIdx.x; i < b.n; i += 256) {
    right += hits[b.first + i] == 1.0f;
    count += hits[b.first + i] != IGNORED;
  }
  store_share(right, block_sum<256>(count), share);
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
