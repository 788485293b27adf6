// Activations and their gradients, number by number. As what a launch does at its end they have numbers, as in
// src/graph/op.rs.
//   SiLU           y = x s(x), dx = dy s(x) (1 + x (1 - s(x))), with s(x) = 1 / (1 + exp(-x))
//   ReLU squared   y = max(x, 0)^2, dx = 2 max(x, 0) dy. NaN stays NaN
//   GELU           y = x Phi(x), dx = dy (Phi(x) + x Phi'(x)), with Phi(x) = (1 + erf(x / sqrt(2))) / 2
#pragma once
#include "common.cuh"

DEVICE float silu(float x) { return x / (1.0f + expf(-x)); }

DEVICE float silu_gradient(float x, float dy) {
  const float s = 1.0f / (1.0f + expf(-x));
  return dy * s * fmaf(x, 1.0f - s, 1.0f);
}

DEVICE float positive(float x) { return x <= 0.0f ? 0.0f : x; }

DEVICE float relu_squared(float x) { return positive(x) * positive(x); }

DEVICE float relu_squared_gradient(float x, float dy) { return 2.0f * positive(x) * dy; }

constexpr float SQRT_HALF = 0.70710678f, DENSITY_AT_0 = 0.39894228f;

DEVICE float gelu(float x) { return x * 0.5f * (erff(x * SQRT_HALF) + 1.0f); }

DEVICE float gelu_gradient(float x, float dy) {
  const float distribution = fmaf(erff(x * SQRT_HALF), 0.5f, 0.5f);
  const float density = expf(x * x * -0.5f) * DENSITY_AT_0;
  return dy * fmaf(x, density, distribution);
}

constexpr int SILU = 1, RELU_SQUARED = 2, GELU = 3;

DEVICE float activate(int activation, float x) {
  return activation == SILU ? silu(x) : activation == GELU ? gelu(x) : relu_squared(x);
}

DEVICE float activation_gradient(int activation, float x, float dy) {
  return activation == SILU   ? silu_gradient(x, dy)
         : activation == GELU ? gelu_gradient(x, dy)
                              : relu_squared_gradient(x, dy);
}
