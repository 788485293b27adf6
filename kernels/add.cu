// Sum of two tensors: y = a + b; da = db = dy. All of one shape, n elements.
#include "common.cuh"

KERNEL(add_fwd, 256, const float* a, const float* b, float* __restrict__ y, long long n) {
  for (long long i = grid_thread(); i < n; i += grid_threads()) y[i] = a[i] + b[i];
}

KERNEL(add_bwd, 256, const float* __restrict__ dy, float* __restrict__ dx, long long n) {
  for (long long i = grid_thread(); i < n; i += grid_threads()) dx[i] = dy[i];
}

// A further contribution to a gradient: sum += term.
KERNEL(add_to, 256, const float* __restrict__ term, float* __restrict__ sum, long long n) {
  for (long long i = grid_thread(); i < n; i += grid_threads()) sum[i] += term[i];
}
