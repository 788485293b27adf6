// Sums of columns, for gradients that several rows contribute to. sums[p][c] = sum over r < rows of
// x[p part + r pitch + c], for all columns c; blockIdx.y counts the parts p.
// In f64, by two kernels:
//   column_sums       32 columns per block, whose warps take every eighth row
//   column_sums_few   of few rows: a column per thread
#include "common.cuh"

KERNEL(column_sums, 256, const float* __restrict__ x, float* __restrict__ sums, int rows, int columns,
       long long pitch, long long part) {
  SHARED(double, shares, [8][32]);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, column = blockIdx.x * 32 + lane;
  double sum = 0.0;
  if (column < columns)
    for (int row = warp; row < rows; row += 8) sum += x[blockIdx.y * part + row * pitch + column];
  shares[warp][lane] = sum;
  __syncthreads();
  if (warp > 0 || column >= columns) return;
  for (int i = 1; i < 8; i++) sum += shares[i][lane];
  sums[(long long)blockIdx.y * columns + column] = (float)sum;
}

KERNEL(column_sums_few, 256, const float* __restrict__ x, float* __restrict__ sums, int rows, int columns,
       long long pitch, long long part) {
  const int column = blockIdx.x * 256 + threadIdx.x;
  if (column >= columns) return;
  const float* from = x + blockIdx.y * part + column;
  double sum = 0.0;
#pragma unroll 4
  for (int row = 0; row < rows; row++) sum += from[row * pitch];
  sums[(long long)blockIdx.y * columns + column] = (float)sum;
}
