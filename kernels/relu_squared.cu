// ReLU squared: y = max(x, 0)^2, dx = 2 max(x, 0) dy. NaN stays NaN.
#include "elementwise.cuh"

DEVICE float positive(float x) { return x <= 0.0f ? 0.0f : x; }

DEVICE float relu_squared(float x) { return positive(x) * positive(x); }

DEVICE float relu_squared_gradient(float x, float dy) { return 2.0f * positive(x) * dy; }

KERNEL(relu_squared_fwd, 256, const float* __restrict__ x, float* __restrict__ y, long long vectors, long long n) {
  forward<relu_squared>(x, y, vectors, n);
}

KERNEL(relu_squared_bwd, 256, const float* __restrict__ x, const float* __restrict__ dy, float* __restrict__ dx,
       long long vectors, long long n) {
  backward<relu_squared_gradient>(x, dy, dx, vectors, n);
}
