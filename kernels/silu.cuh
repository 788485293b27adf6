// SiLU: y = x s(x), dx = dy s(x) (1 + x (1 - s(x))), with s(x) = 1 / (1 + exp(-x)).
#pragma once
#include "common.cuh"

DEVICE float silu(float x) { return x / (1.0f + expf(-x)); }

DEVICE float silu_gradient(float x, float dy) {
  const float s = 1.0f / (1.0f + expf(-x));
  return dy * s * fmaf(x, 1.0f - s, 1.0f);
}
