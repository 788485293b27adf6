// Linear: y = x w^T + b, then ReLU where it is part of the layer. With dz = dy, but 0 where that ReLU gave 0:
// dx = dz w, dw = dz^T x, db = sum of dz over the rows.
//   x, dx (rows, inputs); w, dw (outputs, inputs); b, db (outputs); y, dy, dz (rows, outputs)
//
//   linear_bwd_T         dx, dw and db of a small layer, T = 32 or 16
//   linear_bwd_parts_T   the same of a layer of any size, T = 128 or 64: parts of dw and db, and their sums where there are
//                        several
// Where x is what dropout, or an activation of z, or both, made, the gradient with respect to that goes to `before`, or takes dx's
// place if that is not `apart`.
// Forward is a product of product.cu.
#include "product.cuh"

// The first blocks compute dx, the next ones dw, the others db.
template <class S>
DEVICE void backward(const float* dy, const float* mask, const float* x, const float* w, float* dx, float* dw, float* db,
                     int rows, int inputs, int outputs, int dx_tiles, int dw_tiles, bool tf32, const Steps& steps,
                     float* before) {
  const int block = blockIdx.x;
  if (block < dx_tiles) {
    Product p = {dy, w, dx, rows, inputs, outputs};
    p.mask = mask;
    product<S, true, false>(p, block, tf32);
    if (steps.any()) step_tile<S>(steps, dx, before, block_again(), rows, inputs);
  } else if (block < dx_tiles + dw_tiles) {
    Product p = {dy, x, dw, outputs, inputs, rows};
    p.mask = mask;
    product<S, false, false>(p, block - dx_tiles, tf32);
  } else {
    bias_gradient(dy, mask, db, rows, outputs, block - dx_tiles - dw_tiles);
  }
}

#define GIVEN_BEFORE Steps{activation, mask, now, nullptr, activation ? z : nullptr}, apart ? before : dx

#define BACKWARD                                                                                                 \
  const float* __restrict__ dy, const float* __restrict__ y, int masked, const float* __restrict__ x,            \
  const float* __restrict__ w, float* __restrict__ dx, float* __restrict__ dw, float* __restrict__ db, int rows, \
  int inputs, int outputs, int dx_tiles, int dw_tiles, int tf32, int activation, DropoutMask mask,               \
  const Step* __restrict__ now, const float* __restrict__ z, float* __restrict__ before, int apart
#define GIVEN_BACKWARD                                                                                               \
  dy, masked ? y : nullptr, x, w, dx, dw, db, rows, inputs, outputs, dx_tiles, dw_tiles, tf32, GIVEN_BEFORE

KERNEL(linear_bwd_32, 256, BACKWARD) { backward<Tile32>(GIVEN_BACKWARD); }
KERNEL(linear_bwd_16, 256, BACKWARD) { backward<Tile16>(GIVEN_BACKWARD); }

// Block (x, y) computes tile x of part y of dw, and of db; of several parts the last one adds them up. Those of higher y,
// which have less to do, come last: they compute dx.
template <class S>
DEVICE void backward_in_parts(const float* dz, const float* x, const float* w, float* dx, float* dws, float* dbs, float* dw,
                              float* db, bool biased, int rows, int inputs, int outputs, int parts, int part, int dx_tiles,
                              bool tf32, const Steps& steps, float* before, unsigned* counters) {
  const int row = blockIdx.y;
  if (row < parts) {
    product_tn<S>(dz, x, dws, dbs, biased, outputs, rows, inputs, part, blockIdx.x, tf32);
    if (parts > 1) add_parts<S>(dws, dbs, dw, db, biased, parts, counters, block_again(), outputs, inputs);
  } else {
    const int tile = (row - parts) * gridDim.x + blockIdx.x;
    if (tile >= dx_tiles) return;
    product<S, true, false>({dz, w, dx, rows, inputs, outputs}, tile, tf32);
    if (steps.any()) step_tile<S>(steps, dx, before, (row - parts) * gridDim.x + block_again(), rows, inputs);
  }
}

#define BACKWARD_IN_PARTS                                                                                                 \
  const float* __restrict__ dz, const float* __restrict__ x, const float* __restrict__ w, float* __restrict__ dx,         \
  float* __restrict__ dws, float* __restrict__ dbs, float* __restrict__ dw, float* __restrict__ db, int biased, int rows, \
  int inputs, int outputs, int parts, int part, int dx_tiles, int tf32, int activation, DropoutMask mask,                 \
  const Step* __restrict__ now, const float* __restrict__ z, float* __restrict__ before, int apart,                       \
  unsigned* __restrict__ counters
#define GIVEN_BACKWARD_IN_PARTS                                                                                       \
  dz, x, w, dx, dws, dbs, dw, db, biased, rows, inputs, outputs, parts, part, dx_tiles, tf32, GIVEN_BEFORE, counters

KERNEL(linear_bwd_parts_128, 128, BACKWARD_IN_PARTS) { backward_in_parts<Tile128>(GIVEN_BACKWARD_IN_PARTS); }
KERNEL(linear_bwd_parts_64, 128, BACKWARD_IN_PARTS) { backward_in_parts<Tile64>(GIVEN_BACKWARD_IN_PARTS); }
