// GELU, number by number.
#include "activation.cuh"
#include "elementwise.cuh"

KERNEL(gelu_fwd, 256, const float* __restrict__ x, float* __restrict__ y, long long vectors, long long n) {
  forward<gelu>(x, y, vectors, n);
}

KERNEL(gelu_bwd, 256, const float* __restrict__ x, const float* __restrict__ dy, float* __restrict__ dx,
       long long vectors, long long n) {
  backward<gelu_gradient>(x, dy, dx, vectors, n);
}
