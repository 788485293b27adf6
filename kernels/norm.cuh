// Layer norm: y = w h + b with h = (x - mean) rstd, rstd = 1 / sqrt(var + eps), over the width, var being biased; and RMS
// norm, in which mean and b are 0 (not CENTRED).
// With g = w dy: dx = (g - mean(g) - h mean(g h)) rstd, without mean(g) in RMS norm; dw = sum of dy h and db = sum of dy
// over the rows. Where backward `adds`, dx is added to what is there; the dropout before, if there is one, has it made `dropped`,
// the gradient of its input, from dx.
//   x, dx, y, dy (rows, width); w, b, dw, db (width); stats (rows, 2): mean and rstd, or (rows): rstd;
//   partial (gridDim.y or gridDim.x, 2 or 1, width): shares of dw and db
// A warp per row. Statistics are computed in two passes: the mean, then the squares around it.
//   forward, backward     rows of at most 128 N numbers, a multiple of 4, are held in registers; backward does all
//                         in one pass, with one share of dw and db per block, which the blocks that end last add up.
//                         `aligned`: w and b can be read as vectors
//   the others            rows of any width are read again for each pass; `column_sums` adds up the shares
#pragma once
#include "dropout.cuh"

constexpr int WARPS = 8;

// Numbers kept of a row, and parameters.
template <bool CENTRED>
constexpr int NUMBERS = CENTRED ? 2 : 1;

DEVICE float reciprocal_deviation(float squares, int width, float eps) {
  return 1.0f / sqrtf(squares / (float)width + eps);
}

template <bool CENTRED>
DEVICE void store_stats(float* stats, long long row, float mean, float rstd) {
  if (CENTRED)
    *reinterpret_cast<float2*>(stats + 2 * row) = make_float2(mean, rstd);
  else
    stats[row] = rstd;
}

// Mean and rstd of a row.
template <bool CENTRED>
DEVICE float2 load_stats(const float* stats, long long row) {
  return CENTRED ? *reinterpret_cast<const float2*>(stats + 2 * row) : make_float2(0.0f, stats[row]);
}

DEVICE float4 load4(const float* x, int at, bool aligned) {
  if (aligned) return *reinterpret_cast<const float4*>(x + at);
  return make_float4(x[at], x[at + 1], x[at + 2], x[at + 3]);
}

// A row of at most 4 N LANES numbers, of which each of LANES neighbours holds N vectors, got by load(first number). All lanes
// of a warp take part in sums, those without a row as well, which store nothing.
template <int LANES, int N, bool CENTRED, class Load>
DEVICE void norm_row(Load load, const float* w, const float* b, bool aligned, float* y, float* stats, long long row,
                     bool inside, int width, float eps) {
  const int lane = threadIdx.x % LANES;
  float4 v[N];
  float sum = 0.0f, squares = 0.0f;
#pragma unroll
  for (int k = 0; k < N; k++) {
    const int at = (k * LANES + lane) * 4;
    v[k] = inside && at < width ? load(at) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    sum += (v[k].x + v[k].y) + (v[k].z + v[k].w);
  }
  const float mean = CENTRED ? sum_over<LANES>(sum) / (float)width : 0.0f;
#pragma unroll
  for (int k = 0; k < N; k++) {
    v[k] = make_float4(v[k].x - mean, v[k].y - mean, v[k].z - mean, v[k].w - mean);
    if ((k * LANES + lane) * 4 < width)
      squares += fmaf(v[k].x, v[k].x, v[k].y * v[k].y) + fmaf(v[k].z, v[k].z, v[k].w * v[k].w);
  }
  const float rstd = reciprocal_deviation(sum_over<LANES>(squares), width, eps);
  if (!inside) return;
  if (lane == 0) store_stats<CENTRED>(stats, row, mean, rstd);
#pragma unroll
  for (int k = 0; k < N; k++) {
    const int at = (k * LANES + lane) * 4;
    if (at >= width) break;
    const float4 scale = load4(w, at, aligned);
    const float4 shift = CENTRED ? load4(b, at, aligned) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    *reinterpret_cast<float4*>(y + row * width + at) =
        make_float4(fmaf(v[k].x * rstd, scale.x, shift.x), fmaf(v[k].y * rstd, scale.y, shift.y),
                    fmaf(v[k].z * rstd, scale.z, shift.z), fmaf(v[k].w * rstd, scale.w, shift.w));
  }
}

// N vectors per lane.
template <int N, bool CENTRED>
DEVICE void forward(const float* x, const float* w, const float* b, bool aligned, float* y, float* stats, int rows,
                    int width, float eps) {
  for (long long row = blockIdx.x * WARPS + threadIdx.x / 32; row < rows; row += gridDim.x * WARPS)
    norm_row<32, N, CENTRED>([&](int at) { return load4(x + row * width, at, true); }, w, b, aligned, y, stats, row, true,
                             width, eps);
}

// The sum of the warps' vectors to `to` (width).
template <int N>
DEVICE void add_warps(float4 (&x)[N], float* to, int width) {
  SHARED(float4, shares, [WARPS][N * 32]);
  __syncthreads();  // the last call's shares have been read
#pragma unroll
  for (int k = 0; k < N; k++) shares[threadIdx.x / 32][k * 32 + threadIdx.x % 32] = x[k];
  __syncthreads();
  for (int i = threadIdx.x; i < width; i += WARPS * 32) {
    float sum = 0.0f;
    for (int warp = 0; warp < WARPS; warp++) sum += reinterpret_cast<float*>(shares[warp])[i];
    to[i] = sum;
  }
}

template <int N, bool CENTRED>
DEVICE void backward(const float* x, const float* w, bool aligned, const float* stats, const float* dy, float* dx,
                     bool wants_dx, bool adds, const DropoutMask& mask, const Step* now, float* dropped, float* partial,
                     float* dw_sums, float* db_sums, unsigned* counters, int rows, int width) {
  const int lane = threadIdx.x % 32;
  float4 dw[N], db[N];
#pragma unroll
  for (int k = 0; k < N; k++) dw[k] = db[k] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  for (long long row = blockIdx.x * WARPS + threadIdx.x / 32; row < rows; row += gridDim.x * WARPS) {
    const float2 stat = load_stats<CENTRED>(stats, row);
    const float mean = stat.x, rstd = stat.y;
    float4 h[N], g[N];
    float sum = 0.0f, product = 0.0f;
#pragma unroll
    for (int k = 0; k < N; k++) {
      const int at = (k * 32 + lane) * 4;
      h[k] = at < width ? load4(x + row * width, at, true) : make_float4(mean, mean, mean, mean);
      g[k] = at < width ? load4(dy + row * width, at, true) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
#pragma unroll
    for (int k = 0; k < N; k++) {
      const int at = (k * 32 + lane) * 4;
      const float4 scale = at < width ? load4(w, at, aligned) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
      float* hs = &h[k].x;
      float *gs = &g[k].x, *dws = &dw[k].x, *dbs = &db[k].x;
      const float scales[4] = {scale.x, scale.y, scale.z, scale.w};
#pragma unroll
      for (int i = 0; i < 4; i++) {
        hs[i] = (hs[i] - mean) * rstd;
        dws[i] = fmaf(gs[i], hs[i], dws[i]);
        if (CENTRED) dbs[i] += gs[i];
        gs[i] *= scales[i];
        sum += gs[i];
        product = fmaf(gs[i], hs[i], product);
      }
    }
    if (!wants_dx && !mask.drops) continue;
    const float mean_g = CENTRED ? warp_sum(sum) / (float)width : 0.0f, mean_gh = warp_sum(product) / (float)width;
#pragma unroll
    for (int k = 0; k < N; k++) {
      const int at = (k * 32 + lane) * 4;
      if (at >= width) break;
      float4* to = reinterpret_cast<float4*>(dx + row * width + at);
      const float4 held = adds ? *to : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
      const float4 d = make_float4(held.x + fmaf(-mean_gh, h[k].x, g[k].x - mean_g) * rstd,
                                   held.y + fmaf(-mean_gh, h[k].y, g[k].y - mean_g) * rstd,
                                   held.z + fmaf(-mean_gh, h[k].z, g[k].z - mean_g) * rstd,
                                   held.w + fmaf(-mean_gh, h[k].w, g[k].w - mean_g) * rstd);
      if (wants_dx) *to = d;
      if (!mask.drops) continue;
      const Pack<4> m = mask_block(mask, now, (row * width + at) / 4);
      *reinterpret_cast<float4*>(dropped + row * width + at) =
          make_float4(m.at[0] * d.x, m.at[1] * d.y, m.at[2] * d.z, m.at[3] * d.w);
    }
  }
  float* share = partial + (long long)blockIdx.x * NUMBERS<CENTRED> * width;
  add_warps(dw, share, width);
  if (CENTRED) add_warps(db, share + width, width);
  sum_over_blocks(partial, NUMBERS<CENTRED> * width, blockIdx.x, gridDim.x, counters, [&](int i, double sum) {
    (i < width ? dw_sums : db_sums - width)[i] = (float)sum;
  });
}

template <bool CENTRED>
DEVICE void forward_any(const float* x, const float* w, const float* b, float* y, float* stats, int rows, int width,
                        float eps) {
  const int lane = threadIdx.x % 32;
  for (long long row = blockIdx.x * WARPS + threadIdx.x / 32; row < rows; row += gridDim.x * WARPS) {
    const float* xs = x + row * width;
    float mean = 0.0f, squares = 0.0f;
    if (CENTRED) {
      for (int i = lane; i < width; i += 32) mean += xs[i];
      mean = warp_sum(mean) / (float)width;
    }
    for (int i = lane; i < width; i += 32) squares = fmaf(xs[i] - mean, xs[i] - mean, squares);
    const float rstd = reciprocal_deviation(warp_sum(squares), width, eps);
    if (lane == 0) store_stats<CENTRED>(stats, row, mean, rstd);
    for (int i = lane; i < width; i += 32) y[row * width + i] = fmaf((xs[i] - mean) * rstd, w[i], CENTRED ? b[i] : 0.0f);
  }
}

template <bool CENTRED>
DEVICE void backward_x(const float* x, const float* w, const float* stats, const float* dy, float* dx, bool adds,
                       int rows, int width) {
  const int lane = threadIdx.x % 32;
  for (long long row = blockIdx.x * WARPS + threadIdx.x / 32; row < rows; row += gridDim.x * WARPS) {
    const float2 stat = load_stats<CENTRED>(stats, row);
    const float mean = stat.x, rstd = stat.y;
    const float *xs = x + row * width, *dys = dy + row * width;
    float sum = 0.0f, product = 0.0f;
    for (int i = lane; i < width; i += 32) {
      const float g = w[i] * dys[i];
      sum += g;
      product = fmaf(g, (xs[i] - mean) * rstd, product);
    }
    const float mean_g = CENTRED ? warp_sum(sum) / (float)width : 0.0f, mean_gh = warp_sum(product) / (float)width;
    for (int i = lane; i < width; i += 32) {
      const float held = adds ? dx[row * width + i] : 0.0f;
      dx[row * width + i] = held + fmaf(-mean_gh, (xs[i] - mean) * rstd, w[i] * dys[i] - mean_g) * rstd;
    }
  }
}

// 32 columns per block, whose warps take every eighth row of its share, which is that of blockIdx.y.
template <bool CENTRED>
DEVICE void backward_w(const float* x, const float* stats, const float* dy, float* partial, int rows, int width) {
  SHARED(float2, shares, [WARPS][32]);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, column = blockIdx.x * 32 + lane;
  float dw = 0.0f, db = 0.0f;
  if (column < width)
    for (long long row = blockIdx.y * WARPS + warp; row < rows; row += gridDim.y * WARPS) {
      const float2 stat = load_stats<CENTRED>(stats, row);
      const float d = dy[row * width + column];
      dw = fmaf(d, (x[row * width + column] - stat.x) * stat.y, dw);
      db += d;
    }
  shares[warp][lane] = make_float2(dw, db);
  __syncthreads();
  if (warp > 0 || column >= width) return;
  for (int i = 1; i < WARPS; i++) {
    dw += shares[i][lane].x;
    db += shares[i][lane].y;
  }
  float* share = partial + (long long)blockIdx.y * NUMBERS<CENTRED> * width;
  share[column] = dw;
  if (CENTRED) share[width + column] = db;
}
