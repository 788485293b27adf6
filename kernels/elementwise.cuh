// y = F(x) and dx = G(x, dy), number by number: n of them, of which the first 4 `vectors` are read and written as vectors.
#pragma once
#include "common.cuh"

template <float (*F)(float)>
DEVICE void forward(const float* __restrict__ x, float* __restrict__ y, long long vectors, long long n) {
  for (long long i = grid_thread(); i < vectors; i += grid_threads()) {
    const float4 v = reinterpret_cast<const float4*>(x)[i];
    reinterpret_cast<float4*>(y)[i] = make_float4(F(v.x), F(v.y), F(v.z), F(v.w));
  }
  for (long long i = 4 * vectors + grid_thread(); i < n; i += grid_threads()) y[i] = F(x[i]);
}

template <float (*G)(float, float)>
DEVICE void backward(const float* __restrict__ x, const float* __restrict__ dy, float* __restrict__ dx,
                     long long vectors, long long n) {
  for (long long i = grid_thread(); i < vectors; i += grid_threads()) {
    const float4 v = reinterpret_cast<const float4*>(x)[i], d = reinterpret_cast<const float4*>(dy)[i];
    reinterpret_cast<float4*>(dx)[i] = make_float4(G(v.x, d.x), G(v.y, d.y), G(v.z, d.z), G(v.w, d.w));
  }
  for (long long i = 4 * vectors + grid_thread(); i < n; i += grid_threads()) dx[i] = G(x[i], dy[i]);
}
