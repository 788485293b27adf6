// Dropout: y = x m / (1 - p), and dx = dy m / (1 - p) by the same kernel.
#include "dropout.cuh"

KERNEL(dropout, 256, const float* __restrict__ x, float* __restrict__ y, const Step* __restrict__ now, DropoutMask mask,
       long long n) {
  const bool aligned = at_16_bytes(x, y);
  for (long long block = grid_thread(); block * 4 < n; block += grid_threads()) {
    const Pack<4> m = mask_block(mask, now, block);
    if (aligned && block * 4 + 3 < n) {
      Pack<4> v = load<4>(x + block * 4);
#pragma unroll
      for (int k = 0; k < 4; k++) v.at[k] *= m.at[k];
      store(y + block * 4, v);
    } else {
#pragma unroll
      for (int k = 0; k < 4; k++)
        if (block * 4 + k < n) y[block * 4 + k] = m.at[k] * x[block * 4 + k];
    }
  }
}
