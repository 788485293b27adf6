// Layer norm; *_128, *_512, *_1024 hold rows of that many numbers at most in registers.
#include "norm.cuh"

constexpr float EPS = 1e-5f;

#define FORWARD                                                                                       \
  const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ b, int aligned, \
  float* __restrict__ y, float* __restrict__ stats, int rows, int width
#define GIVEN_FORWARD x, w, b, aligned, y, stats, rows, width, EPS

KERNEL(layer_norm_fwd_128, 256, FORWARD) { forward<1, true>(GIVEN_FORWARD); }
KERNEL(layer_norm_fwd_512, 256, FORWARD) { forward<4, true>(GIVEN_FORWARD); }
KERNEL(layer_norm_fwd_1024, 256, FORWARD) { forward<8, true>(GIVEN_FORWARD); }

#define BACKWARD                                                                                                \
  const float* __restrict__ x, const float* __restrict__ w, int aligned, const float* __restrict__ stats,       \
  const float* __restrict__ dy, float* __restrict__ dx, int wants_dx, int adds, DropoutMask mask,               \
  const Step* __restrict__ now, float* __restrict__ dropped, float* __restrict__ partial, float* __restrict__ dw, \
  float* __restrict__ db, unsigned* __restrict__ counters, int rows, int width
#define GIVEN_BACKWARD \
  x, w, aligned, stats, dy, dx, wants_dx, adds, mask, now, dropped, partial, dw, db, counters, rows, width

KERNEL(layer_norm_bwd_128, 256, BACKWARD) { backward<1, true>(GIVEN_BACKWARD); }
KERNEL(layer_norm_bwd_512, 256, BACKWARD) { backward<4, true>(GIVEN_BACKWARD); }
KERNEL(layer_norm_bwd_1024, 256, BACKWARD) { backward<8, true>(GIVEN_BACKWARD); }

KERNEL(layer_norm_fwd, 256, const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ b,
       float* __restrict__ y, float* __restrict__ stats, int rows, int width) {
  forward_any<true>(x, w, b, y, stats, rows, width, EPS);
}
KERNEL(layer_norm_bwd_x, 256, const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ stats,
       const float* __restrict__ dy, float* __restrict__ dx, int adds, int rows,
       int width) {
  backward_x<true>(x, w, stats, dy, dx, adds, rows, width);
}
KERNEL(layer_norm_bwd_w, 256, const float* __restrict__ x, const float* __restrict__ stats,
       const float* __restrict__ dy, float* __restrict__ partial, int rows, int width) {
  backward_w<true>(x, stats, dy, partial, rows, width);
}
