// Activations (pixels, C), channels last, and how threads share them. A pack is V channels of a pixel: 4 where C and all
// addresses allow it, which are then read and written as 16 bytes, else 1.
#pragma once
#include "packs.cuh"

// A block's 256 threads as rows of `width` neighbours, each with channels of its own; rows go through pixels.
struct Lane {
  int channel;  // the first of this thread's
  bool inside;  // is there one?
  int width, row, rows;
};

// Where blockIdx.y takes the next 256 packs of the channels.
template <int V>
DEVICE Lane lane_of(int channels) {
  const int width = min(channels / V, 256), row = threadIdx.x / width, rows = 256 / width;
  const int channel = (blockIdx.y * 256 + threadIdx.x % width) * V;
  return {channel, channel < channels && row < rows, width, row, rows};
}

// Sums over the rows of a block in a fixed order, for the threads of row 0.
template <int N, class T>
DEVICE void fold_rows(T (&x)[N], const Lane& lane) {
  SHARED(T, others, [N][256]);
  for (int n = lane.rows; n > 1;) {
    const int half = (n + 1) / 2;
    if (lane.row >= half && lane.row < n)
      for (int i = 0; i < N; i++) others[i][threadIdx.x] = x[i];
    __syncthreads();  // the next round writes elsewhere
    if (lane.row + half < n)
      for (int i = 0; i < N; i++) x[i] += others[i][threadIdx.x + half * lane.width];
    n = half;
  }
}
