// Lookahead; formula in src/optim/lookahead.rs.
#include "optim.cuh"

KERNEL(lookahead, 256, const Step* __restrict__ now, float* __restrict__ w, float* __restrict__ slow, long long k,
       float alpha, long long n) {
  if ((now->done + 1) % k != 0) return;
  for (long long i = grid_thread(); i < n; i += grid_threads()) {
    slow[i] = fmaf(alpha, w[i] - slow[i], slow[i]);
    w[i] = slow[i];
  }
}
