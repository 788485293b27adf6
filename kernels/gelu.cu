// GELU: y = x Phi(x), dx = dy (Phi(x) + x Phi'(x)), with Phi(x) = (1 + erf(x / sqrt(2))) / 2. All of one shape, n
// elements, of which the first 4 `vectors` are read and written as vectors.
#include "common.cuh"

constexpr float SQRT_HALF = 0.70710678f, DENSITY_AT_0 = 0.39894228f;

DEVICE float gelu(float x) { return x * 0.5f * (erff(x * SQRT_HALF) + 1.0f); }

DEVICE float gelu_gradient(float x, float dy) {
  const float distribution = fmaf(erff(x * SQRT_HALF), 0.5f, 0.5f);
  const float density = expf(x * x * -0.5f) * DENSITY_AT_0;
  return dy * fmaf(x, density, distribution);
}

KERNEL(gelu_fwd, 256, const float* __restrict__ x, float* __restrict__ y, long long vectors, long long n) {
  for (long long i = grid_thread(); i < vectors; i += grid_threads()) {
    const float4 v = reinterpret_cast<const float4*>(x)[i];
    reinterpret_cast<float4*>(y)[i] = make_float4(gelu(v.x), gelu(v.y), gelu(v.z), gelu(v.w));
  }
  for (long long i = 4 * vectors + grid_thread(); i < n; i += grid_threads()) y[i] = gelu(x[i]);
}

KERNEL(gelu_bwd, 256, const float* __restrict__ x, const float* __restrict__ dy, float* __restrict__ dx,
       long long vectors, long long n) {
  for (long long i = grid_thread(); i < vectors; i += grid_threads()) {
    const float4 v = reinterpret_cast<const float4*>(x)[i], d = reinterpret_cast<const float4*>(dy)[i];
    reinterpret_cast<float4*>(dx)[i] = make_float4(gelu_gradient(v.x, d.x), gelu_gradient(v.y, d.y),
                                                   gelu_gradient(v.z, d.z), gelu_gradient(v.w, d.w));
  }
  for (long long i = 4 * vectors + grid_thread(); i < n; i += grid_threads()) dx[i] = gelu_gradient(x[i], dy[i]);
}
