// Cutting images into square windows of `size`: pixel (i, j) of window (u, v) is the image's pixel (u size + i + shift,
// v size + j + shift), modulo height and width. `back` puts them together again; each is the other's gradient.
//   images (n, height, width, channels); windows (n, windows, pixels, channels), or (n, windows, channels, pixels) if
//   `by_channel`. A thread per number, in the order of the windows; blockIdx.y counts images.
#include "common.cuh"

KERNEL(windows, 256, const float* __restrict__ from, float* __restrict__ to, int n, int height, int width,
       int channels, int size, int shift, int by_channel, int back) {
  const unsigned image = height * width * channels, pixels = size * size, across = width / size;
  for (unsigned at = blockIdx.x * 256 + threadIdx.x; at < image; at += gridDim.x * 256) {
    const unsigned pair = by_channel ? at / pixels : at / channels;
    const unsigned channel = by_channel ? pair % channels : at % channels;
    const unsigned pixel = by_channel ? at % pixels : pair % pixels;
    const unsigned window = by_channel ? pair / channels : pair / pixels;
    const unsigned row = (window / across * size + pixel / size + shift) % height;
    const unsigned column = (window % across * size + pixel % size + shift) % width;
    const unsigned in_image = (row * width + column) * channels + channel;
    for (long long i = blockIdx.y; i < n; i += gridDim.y) {
      if (back)
        to[i * image + in_image] = from[i * image + at];
      else
        to[i * image + at] = from[i * image + in_image];
    }
  }
}
