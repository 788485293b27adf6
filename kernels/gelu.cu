// GELU: y = x Phi(x), dx = dy (Phi(x) + x Phi'(x)), with Phi(x) = (1 + erf(x / sqrt(2))) / 2.
#include "elementwise.cuh"

constexpr float SQRT_HALF = 0.70710678f, DENSITY_AT_0 = 0.39894228f;

DEVICE float gelu(float x) { return x * 0.5f * (erff(x * SQRT_HALF) + 1.0f); }

DEVICE float gelu_gradient(float x, float dy) {
  const float distribution = fmaf(erff(x * SQRT_HALF), 0.5f, 0.5f);
  const float density = expf(x * x * -0.5f) * DENSITY_AT_0;
  return dy * fmaf(x, density, distribution);
}

KERNEL(gelu_fwd, 256, const float* __restrict__ x, float* __restrict__ y, long long vectors, long long n) {
  forward<gelu>(x, y, vectors, n);
}

KERNEL(gelu_bwd, 256, const float* __restrict__ x, const float* __restrict__ dy, float* __restrict__ dx,
       long long vectors, long long n) {
  backward<gelu_gradient>(x, dy, dx, vectors, n);
}
