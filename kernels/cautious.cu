// Cautious updates; formula in src/optim/cautious.rs. Row y of the grid's blocks is tensor y.
#include "optim.cuh"

// How many numbers of a tensor's update go with the gradient, by blocks: counts (tensors, blocks).
KERNEL(cautious_counts, 256, const TensorRange* __restrict__ ranges, const float* __restrict__ update,
       const float* __restrict__ g, float* __restrict__ counts) {
  const TensorRange t = ranges[blockIdx.y];
  double count[1] = {};
  for (long long i = grid_thread(); i < t.n; i += grid_threads())
    count[0] += update[t.start + i] * g[t.start + i] > 0.0f;
  block_sums<256, 1>(count);
  if (threadIdx.x == 0) counts[blockIdx.y * gridDim.x + blockIdx.x] = (float)count[0];
}

KERNEL(cautious_update, 256, const TensorRange* __restrict__ ranges, const float* __restrict__ update,
       const float* __restrict__ g, const float* __restrict__ counts, float* __restrict__ w, int masked) {
  const TensorRange t = ranges[blockIdx.y];
  float factor = 1.0f;
  if (masked) {
    long long count = 0;
    for (unsigned b = 0; b < gridDim.x; b++) count += (long long)counts[blockIdx.y * gridDim.x + b];
    factor = (float)t.n / (float)(count + 1);
  }
  for (long long i = grid_thread(); i < t.n; i += grid_threads()) {
    const long long at = t.start + i;
    const float u = update[at];
    w[at] -= u * (!masked || u * g[at] > 0.0f ? factor : 0.0f);
  }
}
