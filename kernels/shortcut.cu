// ResNet's shortcut without weights: y = every second pixel of every second row of x, with `pad` zero channels before
// and after; dx = dy at those pixels and channels, 0 elsewhere.
//   x, dx (N, H, W, C); y, dy (N, ceil(H / 2), ceil(W / 2), C + 2 pad)
#include "channels.cuh"

template <int V>
DEVICE void shortcut(const float* __restrict__ x, float* __restrict__ y, long long n, int height, int width,
                     int channels, int pad) {
  const unsigned packs = (channels + 2 * pad) / V, rows = (height + 1) / 2, columns = (width + 1) / 2;
  for (long long i = grid_thread(); i < n; i += grid_threads()) {
    const unsigned pixel = (unsigned)i / packs, column = pixel % columns, row = pixel / columns % rows;
    const long long image = pixel / columns / rows;
    const int channel = (int)((unsigned)i % packs) * V - pad;
    Pack<V> to = {};
    if (channel >= 0 && channel < channels)
      to = load<V>(x + ((image * height + 2 * row) * width + 2 * column) * channels + channel);
    store(y + i * V, to);
  }
}

// n packs of y. Packs are of 4 only where pad is a multiple of 4, too.
KERNEL(shortcut_fwd, 256, const float* __restrict__ x, float* __restrict__ y, int packed, long long n, int height,
       int width, int channels, int pad) {
  if (packed)
    shortcut<4>(x, y, n, height, width, channels, pad);
  else
    shortcut<1>(x, y, n, height, width, channels, pad);
}

template <int V>
DEVICE void back(const float* __restrict__ dy, float* __restrict__ dx, int add, long long n, int height, int width,
                 int channels, int pad) {
  const unsigned packs = channels / V;
  for (long long i = grid_thread(); i < n; i += grid_threads()) {
    const unsigned pixel = (unsigned)i / packs, column = pixel % width, row = pixel / width % height;
    const long long image = pixel / width / height;
    const bool taken = row % 2 == 0 && column % 2 == 0;
    if (add && !taken) continue;
    Pack<V> d = {};
    if (taken) {
      const long long from = (image * ((height + 1) / 2) + row / 2) * ((width + 1) / 2) + column / 2;
      d = load<V>(dy + from * (channels + 2 * pad) + pad + (unsigned)i % packs * V);
    }
    if (add) {
      const Pack<V> before = load<V>(dx + i * V);
#pragma unroll
      for (int j = 0; j < V; j++) d.at[j] = before.at[j] + d.at[j];
    }
    store(dx + i * V, d);
  }
}

// n packs of dx, to which it adds if `add`.
KERNEL(shortcut_bwd_x, 256, const float* __restrict__ dy, float* __restrict__ dx, int add, int packed, long long n,
       int height, int width, int channels, int pad) {
  if (packed)
    back<4>(dy, dx, add, n, height, width, channels, pad);
  else
    back<1>(dy, dx, add, n, height, width, channels, pad);
}
