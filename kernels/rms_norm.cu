// RMS norm; *_128, *_512, *_1024 hold rows of that many numbers at most in registers.
#include "norm.cuh"

#define FORWARD                                                                                                            \
  const float* __restrict__ x, const float* __restrict__ w, int aligned, float* __restrict__ y, float* __restrict__ stats, \
  int rows, int width, float eps
#define GIVEN_FORWARD x, w, nullptr, aligned, y, stats, rows, width, eps

KERNEL(rms_norm_fwd_128, 256, FORWARD) { forward<1, false>(GIVEN_FORWARD); }
KERNEL(rms_norm_fwd_512, 256, FORWARD) { forward<4, false>(GIVEN_FORWARD); }
KERNEL(rms_norm_fwd_1024, 256, FORWARD) { forward<8, false>(GIVEN_FORWARD); }

#define BACKWARD                                                                                             \
  const float* __restrict__ x, const float* __restrict__ w, int aligned, const float* __restrict__ stats,    \
  const float* __restrict__ dy, float* __restrict__ dx, int wants_dx, int adds, float* __restrict__ partial, \
  float* __restrict__ dw, unsigned* __restrict__ counters, int rows, int width
#define GIVEN_BACKWARD \
  x, w, aligned, stats, dy, dx, wants_dx, adds, {}, nullptr, nullptr, partial, dw, nullptr, counters, rows, width

KERNEL(rms_norm_bwd_128, 256, BACKWARD) { backward<1, false>(GIVEN_BACKWARD); }
KERNEL(rms_norm_bwd_512, 256, BACKWARD) { backward<4, false>(GIVEN_BACKWARD); }
KERNEL(rms_norm_bwd_1024, 256, BACKWARD) { backward<8, false>(GIVEN_BACKWARD); }

KERNEL(rms_norm_fwd, 256, const float* __restrict__ x, const float* __restrict__ w, float* __restrict__ y,
       float* __restrict__ stats, int rows, int width, float eps) {
  forward_any<false>(x, w, nullptr, y, stats, rows, width, eps);
}
KERNEL(rms_norm_bwd_x, 256, const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ stats,
       const float* __restrict__ dy, float* __restrict__ dx, int adds, int rows,
       int width) {
  backward_x<false>(x, w, stats, dy, dx, adds, rows, width);
}
KERNEL(rms_norm_bwd_w, 256, const float* __restrict__ x, const float* __restrict__ stats, const float* __restrict__ dy,
       float* __restrict__ partial, int rows, int width) {
  backward_w<false>(x, stats, dy, partial, rows, width);
}
