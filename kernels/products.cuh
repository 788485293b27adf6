// Products of many matrices at once, for optimizers: the tile of a block, which finds out itself what it computes.
#pragma once
#include "product.cuh"

// Blocks compute tiles of 32 x 64, four warps 16 x 32 each. Both operands stream through a ring in shared memory; of a
// polynomial the left one stays there, slice by slice as the ring would hold it.
using Ring = Shape<64, 32, 4, 16, 3>;
constexpr int ROWS = 32, COLUMNS = Ring::TILE, SLICE = Ring::SLICE, PITCH = Ring::ROW_PITCH;
constexpr int LEFT = SLICE * Ring::K_PITCH, STAGE = LEFT + Ring::OPERAND;  // floats
constexpr int PANEL = ROWS * PITCH;                                       // of a slice

// An operand of a product: `count` rows of `depth`, or `depth` rows of `count`. Or these rows are the entries along a
// dimension of a tensor, behind each of which lie `behind` numbers, and what is across them are all other places.
struct Operand {
  const float* x;
  int first, count;
  int behind = 0;
};

// Where the entry (i, j) of such rows is.
DEVICE long long place_along(int i, int j, int rows, int behind) {
  return ((long long)(j / behind) * rows + i) * behind + j % behind;
}

// As copy_rows of them.
template <class S, int DOWN, int ACROSS, int P>
DEVICE void copy_along(float* to, const float* x, int row, int rows, int column, int width, int behind) {
#pragma unroll 1
  for (int e = threadIdx.x; e < DOWN * ACROSS; e += S::THREADS) {
    const int i = e / ACROSS, j = e % ACROSS;
    const bool inside = row + i < rows && column + j < width;
    const float* from = inside ? x + place_along(row + i, column + j, rows, behind) : x;
    copy_async<4>(to + i * P + j, from, inside ? 4 : 0);
  }
}

// sums = A B^T, of `depth` terms those from `begin` up to `end`. Without A the left operand is the panel.
template <bool A_BY_ROW, bool B_BY_ROW, bool TF32>
DEVICE void multiply_tile(float (&sums)[1][4][4], const Operand& a, const float* panel, const Operand& b, int depth,
                          int begin, int end, float* ring) {
  const int warp = threadIdx.x / 32, m1 = warp / 2 * 16, n1 = warp % 2 * 32;
  const int slices = (end - begin + SLICE - 1) / SLICE;
  const bool a_aligned = aligned(a.x, A_BY_ROW ? depth : a.count, 4);
  const bool b_aligned = aligned(b.x, B_BY_ROW ? depth : b.count, 4);
  auto copy = [&](int slice) {
    float* to = ring + slice % Ring::STAGES * STAGE;
    const int k = begin + slice * SLICE;
    if (a.behind && A_BY_ROW)
      copy_along<Ring, ROWS, SLICE, PITCH>(to, a.x, a.first, a.count, k, depth, a.behind);
    else if (!panel && A_BY_ROW)
      copy_rows<Ring, ROWS, SLICE, PITCH>(to, a.x, a.first, a.count, k, depth, a_aligned);
    else if (!panel)
      copy_rows<Ring, SLICE, ROWS, Ring::K_PITCH>(to, a.x, k, depth, a.first, a.count, a_aligned);
    if (b.behind && B_BY_ROW)
      copy_along<Ring, COLUMNS, SLICE, PITCH>(to + LEFT, b.x, b.first, b.count, k, depth, b.behind);
    else if (b.behind)
      copy_along<Ring, SLICE, COLUMNS, Ring::K_PITCH>(to + LEFT, b.x, k, depth, b.first, b.count, b.behind);
    else
      copy_tile<Ring, B_BY_ROW>(to + LEFT, b.x, nullptr, b.first, b.count, k, depth, b_aligned);
  };
  for (int j = 0; j < 4; j++)
    for (int e = 0; e < 4; e++) sums[0][j][e] = 0.0f;
  for (int slice = 1 - Ring::STAGES; slice < slices; slice++) {
    copy_wait<Ring::STAGES - 2>();
    __syncthreads();  // this slice is there, and all are done with the one before, which now makes room
    const int next = slice + Ring::STAGES - 1;
    if (next < slices) copy(next);
    copy_commit();
    if (slice < 0) continue;
    const float* stage = ring + slice % Ring::STAGES * STAGE;
    const float* left = panel ? panel + slice * PANEL : stage;
#pragma unroll
    for (int k = 0; k < SLICE; k += 8)
      multiply<Ring, A_BY_ROW, B_BY_ROW, TF32>(sums, left, stage + LEFT, m1, n1, k);
  }
}

// Calls f(i, j, sum) for this thread's entries of the tile.
template <class F>
DEVICE void for_entries(const float (&sums)[1][4][4], F f) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int j = 0; j < 4; j++)
#pragma unroll
    for (int e = 0; e < 4; e++)
      f(warp / 2 * 16 + e / 2 * 8 + lane / 4, warp % 2 * 32 + j * 8 + lane % 4 * 2 + e % 2, sums[0][j][e]);
}
