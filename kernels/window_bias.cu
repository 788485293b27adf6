// What attention in windows adds to its scores: y[g, i, j] = w[place(i, j)], or -infinity where a shift has put pixels
// i and j, which are no neighbours in the image, into window g; dw[k] = sum of dy over the places of k.
//   w, dw (2 size - 1, 2 size - 1) by the distance from i to j if `relative`, else (pixels, pixels);
//   y, dy (down * across, pixels, pixels), pixels = size * size.
// The gradient is gathered by a warp per entry of w.
#include "common.cuh"

// Are two pixels of the last windows of an image apart in it? `at` are their rows, or columns.
DEVICE bool apart(int size, int shift, int at_i, int at_j) { return (at_i >= size - shift) != (at_j >= size - shift); }

KERNEL(window_bias_fwd, 256, const float* __restrict__ w, float* __restrict__ y, int size, int shift, int relative,
       int down, int across) {
  const int pixels = size * size, pairs = pixels * pixels;
  for (long long at = grid_thread(); at < (long long)down * across * pairs; at += grid_threads()) {
    const int window = (int)(at / pairs), pair = (int)(at % pairs), i = pair / pixels, j = pair % pixels;
    const int row = j / size - i / size + size - 1, column = j % size - i % size + size - 1;
    const bool masked = (window / across == down - 1 && apart(size, shift, i / size, j / size)) ||
                        (window % across == across - 1 && apart(size, shift, i % size, j % size));
    y[at] = masked ? -INFINITY : w[relative ? row * (2 * size - 1) + column : pair];
  }
}

KERNEL(window_bias_bwd, 256, const float* __restrict__ dy, float* __restrict__ dw, int size, int relative,
       int windows) {
  const int pixels = size * size, side = 2 * size - 1, lane = threadIdx.x % 32;
  const int entries = relative ? side * side : pixels * pixels;
  for (int entry = blockIdx.x * 8 + threadIdx.x / 32; entry < entries; entry += gridDim.x * 8) {
    float sum = 0.0f;
    if (relative) {
      // Every first pixel has one second pixel at this distance, which may lie outside the window.
      const int down = entry / side - (size - 1), right = entry % side - (size - 1);
      for (int k = lane; k < windows * pixels; k += 32) {
        const int i = k % pixels, row = i / size + down, column = i % size + right;
        if (row >= 0 && row < size && column >= 0 && column < size)
          sum += dy[(long long)k * pixels + row * size + column];
      }
    } else {
      for (int g = lane; g < windows; g += 32) sum += dy[(long long)g * entries + entry];
    }
    sum = warp_sum(sum);
    if (lane == 0) dw[entry] = sum;
  }
}
