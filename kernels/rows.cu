// Some rows of a tensor: y = x[start .. start + len]; dx is dy there and 0 elsewhere. Elements, not rows, are counted.
//   x, dx (n); y, dy (len)
#include "common.cuh"

KERNEL(rows_fwd, 256, const float* __restrict__ x, float* __restrict__ y, long long start, long long len) {
  for (long long i = grid_thread(); i < len; i += grid_threads()) y[i] = x[start + i];
}

KERNEL(rows_bwd, 256, const float* __restrict__ dy, float* __restrict__ dx, long long start, long long len,
       long long n) {
  for (long long i = grid_thread(); i < n; i += grid_threads())
    dx[i] = i >= start && i < start + len ? dy[i - start] : 0.0f;
}
