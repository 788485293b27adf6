// ReLU: y = max(x, 0), NaN staying NaN; dx = dy where y > 0, else 0. All of one shape, n elements.
#include "common.cuh"

KERNEL(relu_fwd, 256, const float* __restrict__ x, float* __restrict__ y, long long n) {
  for (long long i = grid_thread(); i < n; i += grid_threads()) y[i] = x[i] < 0.0f ? 0.0f : x[i];
}

KERNEL(relu_bwd, 256, const float* __restrict__ y, const float* __restrict__ dy, float* __restrict__ dx, long long n) {
  for (long long i = grid_thread(); i < n; i += grid_threads()) dx[i] = y[i] <= 0.0f ? 0.0f : dy[i];
}
