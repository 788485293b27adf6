// Embedding: y[b, r] = w[r, i[b, column]]; dw[r, j] = sum of dy[b, r] over the b with i[b, column] = j.
//   w, dw (rank, count); i (n, columns), indices held as floats; y, dy (n, rank)
// The gradient is gathered, a thread per entry of w looking through the indices in the order of b: no atomics.
#include "common.cuh"

KERNEL(embedding_fwd, 256, const float* __restrict__ w, const float* __restrict__ indices, float* __restrict__ y,
       int n, int rank, int count, int columns, int column) {
  for (long long i = grid_thread(); i < (long long)n * rank; i += grid_threads()) {
    const int j = (int)indices[i / rank * columns + column];
    y[i] = w[i % rank * count + j];
  }
}

KERNEL(embedding_bwd, 256, const float* __restrict__ indices, const float* __restrict__ dy, float* __restrict__ dw,
       int n, int rank, int count, int columns, int column) {
  for (long long i = grid_thread(); i < (long long)rank * count; i += grid_threads()) {
    const int r = (int)(i / count), j = (int)(i % count);
    float sum = 0.0f;
    for (int b = 0; b < n; b++)
      if ((int)indices[(long long)b * columns + column] == j) sum += dy[(long long)b * rank + r];
    dw[i] = sum;
  }
}
