// Cross entropy of several batches, and classes drawn from softmax(x).
//   x, dx (rows, classes); t (rows); f (batches); df scalar, of one batch
//   cross_entropy   blocks (., b) do the b-th batch: its mean, and where `backward`, of a single batch, dx
//   draw_classes    classes drawn from softmax(x) in place of t: src/ops/cross_entropy.rs says how
#include "cross_entropy.cuh"

KERNEL(cross_entropy, 256, const float* __restrict__ x, const float* __restrict__ target, int forward, int backward,
       float smoothing, const float* __restrict__ df, float* __restrict__ f, float* __restrict__ dx,
       double* __restrict__ partial, unsigned* __restrict__ counters, int rows, int classes, int batch) {
  const int blocks = gridDim.x, block = blockIdx.x, b = blockIdx.y, n = min(batch, rows - b * batch);
  const int share = (n + blocks - 1) / blocks, first = min(block * share, n), end = min(first + share, n);
  const long long before = (long long)b * batch;
  const CrossEntropy of = {x + before * classes, target + before, forward != 0, backward != 0, smoothing, df, f + b,
                           dx + before * classes, partial + b * blocks, counters + b * counters_of(blocks), n, classes};
  loss_of_rows<8>(of, first, end, block, blocks);
}

KERNEL(draw_classes, 256, const float* __restrict__ x, const float* __restrict__ target, const Step* __restrict__ now,
       unsigned stream, float* __restrict__ drawn, int rows, int classes) {
  const int lane = threadIdx.x % 32;
  for (long long row = blockIdx.x * 8 + threadIdx.x / 32; row < rows; row += gridDim.x * 8) {
    int best = 0;
    float most = -INFINITY;
    for (int j = lane; j < classes; j += 32) {
      const unsigned long long at = row * classes + j;
      const uint4 words = philox(now->seed, (unsigned long long)stream << 32 | at / 4, now->batch);
      const unsigned pair[2] = {at & 1 ? words.y : words.x, at & 1 ? words.w : words.z}, word = pair[at / 2 & 1];
      const float u = fmaf((float)word, 0x1p-32f, 0x1p-33f), sum = x[row * classes + j] - logf(-log1pf(-u));
      if (sum > most) best = j, most = sum;
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      const float other = __shfl_xor_sync(0xffffffffu, most, offset);
      const int place = __shfl_xor_sync(0xffffffffu, best, offset);
      // The first of several largest.
      if (other > most || (other == most && place < best)) best = place, most = other;
    }
    if (lane == 0) drawn[row] = (int)target[row] == IGNORED ? IGNORED : best;
  }
}
