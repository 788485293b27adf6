// One token of every sequence: y[b] = x[b, t]; dx[b, t] = dy[b], and 0 for the other tokens.
//   x, dx (n, sequence) with the token at `start`; y, dy (n, dim). A block per sequence.
#include "common.cuh"

KERNEL(select_token_fwd, 256, const float* __restrict__ x, float* __restrict__ y, int n, int sequence, int start,
       int dim) {
  for (long long b = blockIdx.x; b < n; b += gridDim.x)
    for (int d = threadIdx.x; d < dim; d += 256) y[b * dim + d] = x[b * sequence + start + d];
}

KERNEL(select_token_bwd, 256, const float* __restrict__ dy, float* __restrict__ dx, int n, int sequence, int start,
       int dim) {
  for (long long b = blockIdx.x; b < n; b += gridDim.x)
    for (int i = threadIdx.x; i < sequence; i += 256)
      dx[b * sequence + i] = i >= start && i < start + dim ? dy[b * dim + i - start] : 0.0f;
}
