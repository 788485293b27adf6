// ReLU squared, number by number.
#include "activation.cuh"
#include "elementwise.cuh"

KERNEL(relu_squared_fwd, 256, const float* __restrict__ x, float* __restrict__ y, long long vectors, long long n) {
  forward<relu_squared>(x, y, vectors, n);
}

KERNEL(relu_squared_bwd, 256, const float* __restrict__ x, const float* __restrict__ dy, float* __restrict__ dx,
       long long vectors, long long n) {
  backward<relu_squared_gradient>(x, dy, dx, vectors, n);
}
