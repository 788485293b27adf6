// SiLU, number by number.
#include "activation.cuh"
#include "elementwise.cuh"

KERNEL(silu_fwd, 256, const float* __restrict__ x, float* __restrict__ y, long long vectors, long long n) {
  forward<silu>(x, y, vectors, n);
}

KERNEL(silu_bwd, 256, const float* __restrict__ x, const float* __restrict__ dy, float* __restrict__ dx,
       long long vectors, long long n) {
  backward<silu_gradient>(x, dy, dx, vectors, n);
}
