// Average pool: y = the mean over P pixels, per channel; dx = dy / P.
//   x, dx (N, P, C); y, dy (N, C)
// Forward has a block per image; its rows of threads share the pixels.
#include "channels.cuh"

template <int V>
DEVICE void average(const float* __restrict__ x, float* __restrict__ y, int pixels, int channels) {
  const Lane lane = lane_of<V>(channels);
  const float* image = x + (long long)blockIdx.x * pixels * channels + lane.channel;
  float sums[V] = {};
  if (lane.inside)
    for (int p = lane.row; p < pixels; p += lane.rows) {
      const Pack<V> xs = load<V>(image + (long long)p * channels);
#pragma unroll
      for (int i = 0; i < V; i++) sums[i] += xs.at[i];
    }
  fold_rows(sums, lane);
  if (lane.inside && lane.row == 0)
    for (int i = 0; i < V; i++) y[(long long)blockIdx.x * channels + lane.channel + i] = sums[i] / (float)pixels;
}

KERNEL(average_pool_fwd, 256, const float* __restrict__ x, float* __restrict__ y, int packed, int pixels,
       int channels) {
  if (packed)
    average<4>(x, y, pixels, channels);
  else
    average<1>(x, y, pixels, channels);
}

template <int V>
DEVICE void spread(const float* __restrict__ dy, float* __restrict__ dx, long long n, int pixels, int channels) {
  const unsigned packs = channels / V;
  for (long long i = grid_thread(); i < n; i += grid_threads()) {
    const unsigned pack = (unsigned)i % packs, image = (unsigned)i / packs / pixels;
    Pack<V> d = load<V>(dy + (long long)image * channels + pack * V);
#pragma unroll
    for (int j = 0; j < V; j++) d.at[j] /= (float)pixels;
    store(dx + i * V, d);
  }
}

// n packs of dx.
KERNEL(average_pool_bwd_x, 256, const float* __restrict__ dy, float* __restrict__ dx, int packed, long long n,
       int pixels, int channels) {
  if (packed)
    spread<4>(dy, dx, n, pixels, channels);
  else
    spread<1>(dy, dx, n, pixels, channels);
}
