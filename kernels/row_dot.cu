// Inner products of rows: y[n] = sum over r of a[n, r] b[n, r]; da = dy b and db = dy a, row by row.
//   a, b, da, db (rows, columns); y, dy (rows)
#include "common.cuh"

KERNEL(row_dot_fwd, 256, const float* a, const float* b, float* __restrict__ y, int rows, int columns) {
  for (long long row = grid_thread(); row < rows; row += grid_threads()) {
    float sum = 0.0f;
    for (int r = 0; r < columns; r++) sum += a[row * columns + r] * b[row * columns + r];
    y[row] = sum;
  }
}

// The gradient of one of the two, from the other.
KERNEL(row_dot_bwd, 256, const float* __restrict__ other, const float* __restrict__ dy, float* __restrict__ dx,
       int rows, int columns) {
  for (long long i = grid_thread(); i < (long long)rows * columns; i += grid_threads())
    dx[i] = dy[i / columns] * other[i];
}
