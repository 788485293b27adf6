// A class token before the tokens of a sequence, and positions: y[b, 0] = c + p[0], y[b, t + 1] = x[b, t] + p[t + 1];
// dx[b, t] = dy[b, t + 1]. dc and dp, the sums of dy[b, 0] and of dy[b] over b, are `column_sums` of dy.
//   x, dx (n, sequence - dim); c (dim); p (sequence); y, dy (n, sequence). A block per sequence.
#include "common.cuh"

KERNEL(embed_tokens_fwd, 256, const float* __restrict__ x, const float* __restrict__ c, const float* __restrict__ p,
       float* __restrict__ y, int n, int sequence, int dim) {
  for (long long b = blockIdx.x; b < n; b += gridDim.x) {
    const float* tokens = x + b * (sequence - dim);
    for (int i = threadIdx.x; i < sequence; i += 256)
      y[b * sequence + i] = (i < dim ? c[i] : tokens[i - dim]) + p[i];
  }
}

KERNEL(embed_tokens_bwd_x, 256, const float* __restrict__ dy, float* __restrict__ dx, int n, int sequence, int dim) {
  for (long long b = blockIdx.x; b < n; b += gridDim.x)
    for (int i = threadIdx.x; i < sequence - dim; i += 256)
      dx[b * (sequence - dim) + i] = dy[b * sequence + dim + i];
}
