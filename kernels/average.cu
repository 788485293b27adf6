// Averages of the weights; formula in src/optim/average.rs.
#include "optim.cuh"

// `weight` is the newest one's, unless the mean of all is wanted.
KERNEL(weights_average, 256, const Step* __restrict__ now, const float* __restrict__ w, float* __restrict__ average,
       long long start, float weight, int mean, long long n) {
  const long long averaged = (long long)now->done + 1 - start;
  const float part = averaged <= 1 ? 1.0f : mean ? 1.0f / averaged : weight;
  for (long long i = grid_thread(); i < n; i += grid_threads()) average[i] = lerp(average[i], w[i], part);
}

KERNEL(weights_swap, 256, float* __restrict__ w, float* __restrict__ average, long long n) {
  for (long long i = grid_thread(); i < n; i += grid_threads()) {
    const float x = w[i];
    w[i] = average[i];
    average[i] = x;
  }
}
