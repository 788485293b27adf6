// Batch norm of x (M, C), M pixels of C channels, and what may follow it:
//   xhat = (x - mean) rstd,  rstd = 1 / sqrt(var + eps),  z = gamma xhat + beta + r,  y = max(z, 0)
//   dz = dy where y > 0,  dbeta = sum dz,  dgamma = sum dz xhat,  dr = dz
//   dx = gamma rstd (dz - dbeta / M - xhat dgamma / M)
// r and the maximum are optional. x, r, y, dx, dz, dy (M, C); gamma, beta, dgamma, dbeta (C).
//   averages (2, C)   running mean and variance
//   saved (4, C)      scale and offset of z = scale x + offset + r, mean and rstd of the batch
//   terms (3, C)      dx = terms[0] dz + terms[1] + terms[2] x
//   partial           sums of blocks, f64
// Training is sums, apply and bwd_sums, apply; mostly convolutions do it on their way, and some or none of it is launched. `packed` says that packs are of 4.
#include "batch_norm.cuh"
#include "channels.cuh"

// Adds up the sums of all blocks; true in the last of those that have the same channels, which has them in row 0.
template <int V>
DEVICE bool sum_of_blocks(double (&sums)[2 * V], const Lane& lane, double*& partial, unsigned* counters, int channels) {
  const int width = min(channels, 256 * V);
  partial += (long long)blockIdx.y * gridDim.x * 2 * width;
  fold_rows(sums, lane);
  if (lane.inside && lane.row == 0) {
    double* to = partial + (long long)blockIdx.x * 2 * width + lane.channel % (256 * V);
#pragma unroll
    for (int i = 0; i < V; i++) {
      to[i] = sums[i];
      to[width + i] = sums[V + i];
    }
  }
  counters += blockIdx.y * counters_of(gridDim.x);
  double* first = partial;
  if (!sum_over_blocks(partial, 2 * width, blockIdx.x, gridDim.x, counters, [=](int i, double sum) { first[i] = sum; }))
    return false;
  __syncthreads();
  return true;
}

// ---- forward ----

template <int V>
DEVICE void sums_of(const Step* now, const float* __restrict__ x, const float* gamma, const float* beta, double* partial,
                    unsigned* counters, float* saved, float* averages, int running, long long pixels, int channels) {
  const Lane lane = lane_of<V>(channels);
  double sums[2 * V] = {};
  if (lane.inside) {
#pragma unroll 4
    for (long long p = (long long)blockIdx.x * lane.rows + lane.row; p < pixels; p += (long long)gridDim.x * lane.rows) {
      const Pack<V> xs = load<V>(x + p * channels + lane.channel);
#pragma unroll
      for (int i = 0; i < V; i++) {
        const double value = xs.at[i];
        sums[i] += value;
        sums[V + i] = fma(value, value, sums[V + i]);
      }
    }
  }
  if (!sum_of_blocks<V>(sums, lane, partial, counters, channels)) return;
  const int first = blockIdx.y * 256 * V, width = min(channels, 256 * V);
  finish_statistics(partial, width, first, min(width, channels - first), now, gamma, beta, saved, averages, running,
                    (double)pixels, channels);
}

KERNEL(batch_norm_sums, 256, const Step* __restrict__ now, const float* __restrict__ x, const float* __restrict__ gamma,
       const float* __restrict__ beta, double* __restrict__ partial, unsigned* __restrict__ counters,
       float* __restrict__ saved, float* __restrict__ averages, int running, int packed, long long pixels, int channels) {
  if (packed)
    sums_of<4>(now, x, gamma, beta, partial, counters, saved, averages, running, pixels, channels);
  else
    sums_of<1>(now, x, gamma, beta, partial, counters, saved, averages, running, pixels, channels);
}

// What a thread knows of its channels: z = scale x + offset.
template <int V>
struct Lines {
  Pack<V> scale, offset;
};

// y = scale x + offset + factor r, factor 1 where there is none; then max(y, 0).
template <int V, bool RESIDUAL>
DEVICE void apply(const float* __restrict__ x, const Lines<V>& lines, const float* factor,
                  const float* __restrict__ residual, float* __restrict__ y, int relu, const Lane& lane,
                  long long pixels, int channels) {
  Pack<V> factors;
#pragma unroll
  for (int i = 0; i < V; i++) factors.at[i] = RESIDUAL && factor ? factor[lane.channel + i] : 1.0f;
#pragma unroll 2
  for (long long p = (long long)blockIdx.x * lane.rows + lane.row; p < pixels; p += (long long)gridDim.x * lane.rows) {
    const long long at = p * channels + lane.channel;
    Pack<V> z = load<V>(x + at), r;
    if (RESIDUAL) r = load<V>(residual + at);
#pragma unroll
    for (int i = 0; i < V; i++) {
      z.at[i] = fmaf(z.at[i], lines.scale.at[i], lines.offset.at[i]);
      if (RESIDUAL) z.at[i] = fmaf(r.at[i], factors.at[i], z.at[i]);
      if (relu && z.at[i] < 0.0f) z.at[i] = 0.0f;
    }
    store(y + at, z);
  }
}

template <int V>
DEVICE void apply_lines(const float* x, const float* lines, int scaled, const float* residual, float* y, int residuals,
                        int relu, long long pixels, int channels) {
  const Lane lane = lane_of<V>(channels);
  if (!lane.inside) return;
  const Lines<V> own = {load<V>(lines + lane.channel), load<V>(lines + channels + lane.channel)};
  if (residuals)
    apply<V, true>(x, own, scaled ? lines + 2 * channels : nullptr, residual, y, relu, lane, pixels, channels);
  else
    apply<V, false>(x, own, nullptr, nullptr, y, relu, lane, pixels, channels);
}

// y = lines[0] x + lines[1] + r, or lines[2] r if `scaled`: forward behind statistics, and the way back to dx.
KERNEL(batch_norm_apply, 256, const float* __restrict__ x, const float* __restrict__ lines, int scaled,
       const float* __restrict__ residual, float* __restrict__ y, int residuals, int relu, int packed, long long pixels,
       int channels) {
  if (packed)
    apply_lines<4>(x, lines, scaled, residual, y, residuals, relu, pixels, channels);
  else
    apply_lines<1>(x, lines, scaled, residual, y, residuals, relu, pixels, channels);
}

template <int V>
DEVICE void evaluate(const float* x, const float* gamma, const float* beta, const float* averages, const float* residual,
                     float* y, int residuals, int relu, long long pixels, int channels) {
  const Lane lane = lane_of<V>(channels);
  if (!lane.inside) return;
  Lines<V> lines;
#pragma unroll
  for (int i = 0; i < V; i++) {
    const int c = lane.channel + i;
    lines.scale.at[i] = gamma[c] * rsqrtf(averages[channels + c] + EPS);
    lines.offset.at[i] = beta[c] - averages[c] * lines.scale.at[i];
  }
  if (residuals)
    apply<V, true>(x, lines, nullptr, residual, y, relu, lane, pixels, channels);
  else
    apply<V, false>(x, lines, nullptr, nullptr, y, relu, lane, pixels, channels);
}

KERNEL(batch_norm_eval, 256, const float* __restrict__ x, const float* __restrict__ gamma,
       const float* __restrict__ beta, const float* __restrict__ averages, const float* __restrict__ residual,
       float* __restrict__ y, int residuals, int relu, int packed, long long pixels, int channels) {
  if (packed)
    evaluate<4>(x, gamma, beta, averages, residual, y, residuals, relu, pixels, channels);
  else
    evaluate<1>(x, gamma, beta, averages, residual, y, residuals, relu, pixels, channels);
}

// ---- backward ----

// Sums of dz and of dz (x - mean), and dz itself where there is a ReLU, perhaps in place of dy. Where y > 0 is read from y behind a residual,
// else found again from x.
template <int V>
DEVICE void gradient_sums(const float* __restrict__ x, const float* dy, const float* saved,
                          const float* __restrict__ y, float* dz, double* partial, unsigned* counters,
                          float* dgamma, float* dbeta, float* terms, int residuals, int relu, long long pixels,
                          int channels) {
  const Lane lane = lane_of<V>(channels);
  double sums[2 * V] = {};
  if (lane.inside) {
    const float* own = saved + lane.channel;
    const Pack<V> scale = load<V>(own), offset = load<V>(own + channels), mean = load<V>(own + 2 * channels);
#pragma unroll 2
    for (long long p = (long long)blockIdx.x * lane.rows + lane.row; p < pixels; p += (long long)gridDim.x * lane.rows) {
      const long long at = p * channels + lane.channel;
      const Pack<V> xs = load<V>(x + at);
      Pack<V> dzs = load<V>(dy + at), ys;
      if (residuals && relu) ys = load<V>(y + at);
#pragma unroll
      for (int i = 0; i < V; i++) {
        const float z = residuals ? ys.at[i] : fmaf(xs.at[i], scale.at[i], offset.at[i]);
        if (relu && z <= 0.0f) dzs.at[i] = 0.0f;
        sums[i] += (double)dzs.at[i];
        sums[V + i] = fma((double)dzs.at[i], (double)(xs.at[i] - mean.at[i]), sums[V + i]);
      }
      if (relu) store(dz + at, dzs);
    }
  }
  if (!sum_of_blocks<V>(sums, lane, partial, counters, channels)) return;
  const int first = blockIdx.y * 256 * V, width = min(channels, 256 * V);
  finish_gradient(partial, width, first, min(width, channels - first), saved, dgamma, dbeta, terms, (double)pixels,
                  channels);
}

KERNEL(batch_norm_bwd_sums, 256, const float* __restrict__ x, const float* dy, const float* __restrict__ saved,
       const float* __restrict__ y, float* dz,
       double* __restrict__ partial, unsigned* __restrict__ counters, float* __restrict__ dgamma,
       float* __restrict__ dbeta, float* __restrict__ terms, int residuals, int relu, int packed, long long pixels,
       int channels) {
  if (packed)
    gradient_sums<4>(x, dy, saved, y, dz, partial, counters, dgamma, dbeta, terms, residuals, relu, pixels, channels);
  else
    gradient_sums<1>(x, dy, saved, y, dz, partial, counters, dgamma, dbeta, terms, residuals, relu, pixels, channels);
}
