// Layer norm: y = w h + b with h = (x - mean) rstd, rstd = 1 / sqrt(var + 1e-5), over the width, var being biased.
// With g = w dy: dx = (g - mean(g) - h mean(g h)) rstd; dw = sum of dy h and db = sum of dy over the rows.
//   x, dx, y, dy (rows, width); w, b, dw, db (width); stats (rows, 2): mean and rstd;
//   partial (gridDim.y or gridDim.x, 2, width): shares of dw and db, which `column_sums` adds up
// A warp per row. Statistics are computed in two passes: the mean, then the squares around it.
//   *_128, *_512, *_1024  rows of that many numbers at most, a multiple of 4, are held in registers; backward does all
//                         in one pass, with one share of dw and db per block. `aligned`: w and b can be read as vectors
//   the others            rows of any width are read again for each pass
#include "common.cuh"

constexpr int WARPS = 8;

DEVICE float reciprocal_deviation(float squares, int width) {
  return 1.0f / sqrtf(squares / (float)width + 1e-5f);
}

DEVICE float4 load4(const float* x, int at, bool aligned) {
  if (aligned) return *reinterpret_cast<const float4*>(x + at);
  return make_float4(x[at], x[at + 1], x[at + 2], x[at + 3]);
}

// N vectors per lane.
template <int N>
DEVICE void forward(const float* x, const float* w, const float* b, bool aligned, float* y, float* stats, int rows,
                    int width) {
  const int lane = threadIdx.x % 32;
  for (long long row = blockIdx.x * WARPS + threadIdx.x / 32; row < rows; row += gridDim.x * WARPS) {
    float4 v[N];
    float sum = 0.0f, squares = 0.0f;
#pragma unroll
    for (int k = 0; k < N; k++) {
      const int at = (k * 32 + lane) * 4;
      v[k] = at < width ? load4(x + row * width, at, true) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
      sum += (v[k].x + v[k].y) + (v[k].z + v[k].w);
    }
    const float mean = warp_sum(sum) / (float)width;
#pragma unroll
    for (int k = 0; k < N; k++) {
      v[k] = make_float4(v[k].x - mean, v[k].y - mean, v[k].z - mean, v[k].w - mean);
      if ((k * 32 + lane) * 4 < width)
        squares += fmaf(v[k].x, v[k].x, v[k].y * v[k].y) + fmaf(v[k].z, v[k].z, v[k].w * v[k].w);
    }
    const float rstd = reciprocal_deviation(warp_sum(squares), width);
    if (lane == 0) *reinterpret_cast<float2*>(stats + 2 * row) = make_float2(mean, rstd);
#pragma unroll
    for (int k = 0; k < N; k++) {
      const int at = (k * 32 + lane) * 4;
      if (at >= width) break;
      const float4 scale = load4(w, at, aligned), shift = load4(b, at, aligned);
      *reinterpret_cast<float4*>(y + row * width + at) =
          make_float4(fmaf(v[k].x * rstd, scale.x, shift.x), fmaf(v[k].y * rstd, scale.y, shift.y),
                      fmaf(v[k].z * rstd, scale.z, shift.z), fmaf(v[k].w * rstd, scale.w, shift.w));
    }
  }
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

template <int N>
DEVICE void backward(const float* x, const float* w, bool aligned, const float* stats, const float* dy, float* dx,
                     bool wants_dx, float* partial, int rows, int width) {
  const int lane = threadIdx.x % 32;
  float4 dw[N], db[N];
#pragma unroll
  for (int k = 0; k < N; k++) dw[k] = db[k] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  for (long long row = blockIdx.x * WARPS + threadIdx.x / 32; row < rows; row += gridDim.x * WARPS) {
    const float2 stat = *reinterpret_cast<const float2*>(stats + 2 * row);
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
        dbs[i] += gs[i];
        gs[i] *= scales[i];
        sum += gs[i];
        product = fmaf(gs[i], hs[i], product);
      }
    }
    if (!wants_dx) continue;
    const float mean_g = warp_sum(sum) / (float)width, mean_gh = warp_sum(product) / (float)width;
#pragma unroll
    for (int k = 0; k < N; k++) {
      const int at = (k * 32 + lane) * 4;
      if (at >= width) break;
      *reinterpret_cast<float4*>(dx + row * width + at) =
          make_float4(fmaf(-mean_gh, h[k].x, g[k].x - mean_g) * rstd, fmaf(-mean_gh, h[k].y, g[k].y - mean_g) * rstd,
                      fmaf(-mean_gh, h[k].z, g[k].z - mean_g) * rstd, fmaf(-mean_gh, h[k].w, g[k].w - mean_g) * rstd);
    }
  }
  float* share = partial + (long long)blockIdx.x * 2 * width;
  add_warps(dw, share, width);
  add_warps(db, share + width, width);
}

KERNEL(layer_norm_fwd_128, 256, const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ b,
       int aligned, float* __restrict__ y, float* __restrict__ stats, int rows, int width) {
  forward<1>(x, w, b, aligned, y, stats, rows, width);
}
KERNEL(layer_norm_fwd_512, 256, const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ b,
       int aligned, float* __restrict__ y, float* __restrict__ stats, int rows, int width) {
  forward<4>(x, w, b, aligned, y, stats, rows, width);
}
KERNEL(layer_norm_fwd_1024, 256, const float* __restrict__ x, const float* __restrict__ w,
       const float* __restrict__ b, int aligned, float* __restrict__ y, float* __restrict__ stats, int rows,
       int width) {
  forward<8>(x, w, b, aligned, y, stats, rows, width);
}

KERNEL(layer_norm_bwd_128, 256, const float* __restrict__ x, const float* __restrict__ w, int aligned,
       const float* __restrict__ stats, const float* __restrict__ dy, float* __restrict__ dx, int wants_dx,
       float* __restrict__ partial, int rows, int width) {
  backward<1>(x, w, aligned, stats, dy, dx, wants_dx, partial, rows, width);
}
KERNEL(layer_norm_bwd_512, 256, const float* __restrict__ x, const float* __restrict__ w, int aligned,
       const float* __restrict__ stats, const float* __restrict__ dy, float* __restrict__ dx, int wants_dx,
       float* __restrict__ partial, int rows, int width) {
  backward<4>(x, w, aligned, stats, dy, dx, wants_dx, partial, rows, width);
}
KERNEL(layer_norm_bwd_1024, 256, const float* __restrict__ x, const float* __restrict__ w, int aligned,
       const float* __restrict__ stats, const float* __restrict__ dy, float* __restrict__ dx, int wants_dx,
       float* __restrict__ partial, int rows, int width) {
  backward<8>(x, w, aligned, stats, dy, dx, wants_dx, partial, rows, width);
}

KERNEL(layer_norm_fwd, 256, const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ b,
       float* __restrict__ y, float* __restrict__ stats, int rows, int width) {
  const int lane = threadIdx.x % 32;
  for (long long row = blockIdx.x * WARPS + threadIdx.x / 32; row < rows; row += gridDim.x * WARPS) {
    const float* xs = x + row * width;
    float sum = 0.0f, squares = 0.0f;
    for (int i = lane; i < width; i += 32) sum += xs[i];
    const float mean = warp_sum(sum) / (float)width;
    for (int i = lane; i < width; i += 32) squares = fmaf(xs[i] - mean, xs[i] - mean, squares);
    const float rstd = reciprocal_deviation(warp_sum(squares), width);
    if (lane == 0) *reinterpret_cast<float2*>(stats + 2 * row) = make_float2(mean, rstd);
    for (int i = lane; i < width; i += 32) y[row * width + i] = fmaf((xs[i] - mean) * rstd, w[i], b[i]);
  }
}

KERNEL(layer_norm_bwd_x, 256, const float* __restrict__ x, const float* __restrict__ w,
       const float* __restrict__ stats, const float* __restrict__ dy, float* __restrict__ dx, int rows, int width) {
  const int lane = threadIdx.x % 32;
  for (long long row = blockIdx.x * WARPS + threadIdx.x / 32; row < rows; row += gridDim.x * WARPS) {
    const float mean = stats[2 * row], rstd = stats[2 * row + 1];
    const float *xs = x + row * width, *dys = dy + row * width;
    float sum = 0.0f, product = 0.0f;
    for (int i = lane; i < width; i += 32) {
      const float g = w[i] * dys[i];
      sum += g;
      product = fmaf(g, (xs[i] - mean) * rstd, product);
    }
    const float mean_g = warp_sum(sum) / (float)width, mean_gh = warp_sum(product) / (float)width;
    for (int i = lane; i < width; i += 32)
      dx[row * width + i] = fmaf(-mean_gh, (xs[i] - mean) * rstd, w[i] * dys[i] - mean_g) * rstd;
  }
}

// 32 columns per block, whose warps take every eighth row of its share, which is that of blockIdx.y.
KERNEL(layer_norm_bwd_w, 256, const float* __restrict__ x, const float* __restrict__ stats,
       const float* __restrict__ dy, float* __restrict__ partial, int rows, int width) {
  SHARED(float2, shares, [WARPS][32]);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, column = blockIdx.x * 32 + lane;
  float dw = 0.0f, db = 0.0f;
  if (column < width)
    for (long long row = blockIdx.y * WARPS + warp; row < rows; row += gridDim.y * WARPS) {
      const float d = dy[row * width + column];
      dw = fmaf(d, (x[row * width + column] - stats[2 * row]) * stats[2 * row + 1], dw);
      db += d;
    }
  shares[warp][lane] = make_float2(dw, db);
  __syncthreads();
  if (warp > 0 || column >= width) return;
  for (int i = 1; i < WARPS; i++) {
    dw += shares[i][lane].x;
    db += shares[i][lane].y;
  }
  float* share = partial + (long long)blockIdx.y * 2 * width;
  share[column] = dw;
  share[width + column] = db;
}
