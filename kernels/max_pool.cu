// Max pool: y = the largest of 2 x 2 pixels, per channel; dx = dy at the first largest, or the last NaN, 0 elsewhere.
//   x, dx (N, H, W, C); y, dy (N, H / 2, W / 2, C), a last odd row or column left out
// A thread per pack of a window; the way back finds the largest again.
#include "channels.cuh"

// The place of a window of two rows and columns, where x and y have this many of each.
struct Window {
  int channel, row, column;
  long long image;
};

DEVICE Window window_of(unsigned i, int packs, int rows, int columns) {
  Window to;
  to.channel = i % packs;
  i /= packs;
  to.column = i % columns;
  i /= columns;
  to.row = i % rows;
  to.image = i / rows;
  return to;
}

template <int V>
DEVICE void pool(const float* __restrict__ x, float* __restrict__ y, long long n, int height, int width, int channels) {
  for (long long i = grid_thread(); i < n; i += grid_threads()) {
    const Window w = window_of((unsigned)i, channels / V, height / 2, width / 2);
    const float* from = x + ((w.image * height + 2 * w.row) * width + 2 * w.column) * channels + w.channel * V;
    Pack<V> most = load<V>(from);
#pragma unroll
    for (int k = 1; k < 4; k++) {
      const Pack<V> next = load<V>(from + (k / 2 * width + k % 2) * channels);
#pragma unroll
      for (int j = 0; j < V; j++)
        if (next.at[j] > most.at[j] || isnan(next.at[j])) most.at[j] = next.at[j];
    }
    store(y + i * V, most);
  }
}

// n packs of y.
KERNEL(max_pool_fwd, 256, const float* __restrict__ x, float* __restrict__ y, int packed, long long n, int height,
       int width, int channels) {
  if (packed)
    pool<4>(x, y, n, height, width, channels);
  else
    pool<1>(x, y, n, height, width, channels);
}

template <int V>
DEVICE void unpool(const float* __restrict__ x, const float* __restrict__ dy, float* __restrict__ dx, long long n,
                   int height, int width, int channels) {
  for (long long i = grid_thread(); i < n; i += grid_threads()) {
    const Window w = window_of((unsigned)i, channels / V, (height + 1) / 2, (width + 1) / 2);
    const long long at = ((w.image * height + 2 * w.row) * width + 2 * w.column) * channels + w.channel * V;
    const bool below = 2 * w.row + 1 < height, beside = 2 * w.column + 1 < width;
    Pack<V> to[4] = {};
    if (below && beside) {
      Pack<V> most = load<V>(x + at);
      int which[V] = {};
#pragma unroll
      for (int k = 1; k < 4; k++) {
        const Pack<V> next = load<V>(x + at + (k / 2 * width + k % 2) * channels);
#pragma unroll
        for (int j = 0; j < V; j++)
          if (next.at[j] > most.at[j] || isnan(next.at[j])) {
            most.at[j] = next.at[j];
            which[j] = k;
          }
      }
      const long long from = ((w.image * (height / 2) + w.row) * (width / 2) + w.column) * channels + w.channel * V;
      const Pack<V> d = load<V>(dy + from);
#pragma unroll
      for (int k = 0; k < 4; k++)
#pragma unroll
        for (int j = 0; j < V; j++) to[k].at[j] = which[j] == k ? d.at[j] : 0.0f;
    }
#pragma unroll
    for (int k = 0; k < 4; k++)
      if ((k / 2 == 0 || below) && (k % 2 == 0 || beside))
        store(dx + at + (k / 2 * width + k % 2) * channels, to[k]);
  }
}

// n packs of windows, those over the edge too, whose pixels get 0.
KERNEL(max_pool_bwd_x, 256, const float* __restrict__ x, const float* __restrict__ dy, float* __restrict__ dx,
       int packed, long long n, int height, int width, int channels) {
  if (packed)
    unpool<4>(x, dy, dx, n, height, width, channels);
  else
    unpool<1>(x, dy, dx, n, height, width, channels);
}
