// Batch norm of x (M, C), M pixels of C channels, and what may follow it:
//   xhat = (x - mean) rstd,  rstd = 1 / sqrt(var + eps),  z = gamma xhat + beta + r,  y = max(z, 0)
//   dz = dy where y > 0,  dbeta = sum dz,  dgamma = sum dz xhat,  dr = dz
//   dx = gamma rstd (dz - dbeta / M - xhat dgamma / M)
// r and the maximum are optional. x, r, y, dx, dz, dy (M, C); gamma, beta, dgamma, dbeta (C).
//   saved (2, C)              mean and rstd of the batch
//   averages (2, C)           running mean and variance
//   partial (blocks, 2, C)    a block's sums, in f64: no cancellation in E x^2 - (E x)^2
//   terms (2, C)              the factors of x - mean and 1 in dx
// Training is sums, finish, fwd and bwd_sums, bwd_finish, bwd. `packed` says that packs are of 4.
#include "channels.cuh"

constexpr float EPS = 1e-5f, MOMENTUM = 0.1f;

// What a thread knows of its channels: z = scale x + offset (+ r).
template <int V>
struct Lines {
  float mean[V], scale[V], offset[V];
};

template <int V, bool EVAL>
DEVICE Lines<V> lines_of(const float* gamma, const float* beta, const float* statistics, int channels, int channel) {
  Lines<V> to;
#pragma unroll
  for (int i = 0; i < V; i++) {
    const float spread = statistics[channels + channel + i];
    to.mean[i] = statistics[channel + i];
    to.scale[i] = gamma[channel + i] * (EVAL ? rsqrtf(spread + EPS) : spread);
    to.offset[i] = beta[channel + i] - to.mean[i] * to.scale[i];
  }
  return to;
}

// ---- forward ----

template <int V>
DEVICE void store_partial(double (&sums)[2 * V], const Lane& lane, double* partial, int channels) {
  fold_rows(sums, lane);
  if (!lane.inside || lane.row > 0) return;
  double* to = partial + (long long)blockIdx.x * 2 * channels + lane.channel;
#pragma unroll
  for (int i = 0; i < V; i++) {
    to[i] = sums[i];
    to[channels + i] = sums[V + i];
  }
}

template <int V>
DEVICE void sums_of(const float* __restrict__ x, double* __restrict__ partial, long long pixels, int channels) {
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
  store_partial<V>(sums, lane, partial, channels);
}

KERNEL(batch_norm_sums, 256, const float* __restrict__ x, double* __restrict__ partial, int packed, long long pixels,
       int channels) {
  if (packed)
    sums_of<4>(x, partial, pixels, channels);
  else
    sums_of<1>(x, partial, pixels, channels);
}

// Both sums over all blocks of one channel, 4 channels (32 bytes) per block, for the threads of row 0.
DEVICE Lane load_partial(double (&sums)[2], const double* partial, int blocks, int channels) {
  const int channel = blockIdx.x * 4 + threadIdx.x % 4;
  const Lane lane = {channel, channel < channels, 4, (int)threadIdx.x / 4, 64};
  sums[0] = sums[1] = 0.0;
  if (lane.inside) {
#pragma unroll 8
    for (int b = lane.row; b < blocks; b += 64) {
      sums[0] += partial[(2ll * b) * channels + channel];
      sums[1] += partial[(2ll * b + 1) * channels + channel];
    }
  }
  fold_rows(sums, lane);
  return lane;
}

KERNEL(batch_norm_finish, 256, const Step* __restrict__ now, const double* __restrict__ partial,
       float* __restrict__ saved, float* __restrict__ averages, int running, int blocks, long long pixels, int channels) {
  double sums[2];
  const Lane lane = load_partial(sums, partial, blocks, channels);
  if (!lane.inside || lane.row > 0) return;
  const double n = (double)pixels, mean = sums[0] / n, square = sums[1] / n - mean * mean;
  const double var = square < 0.0 ? 0.0 : square, unbiased = var * n / (n - 1.0);
  float* mean_to = saved + lane.channel;
  mean_to[0] = (float)mean;
  mean_to[channels] = (float)(1.0 / sqrt(var + (double)EPS));
  if (!running) return;
  const float weight = now->mean_of == 0 ? MOMENTUM : 1.0f / now->mean_of;
  float* running_mean = averages + lane.channel;
  running_mean[0] += weight * ((float)mean - running_mean[0]);
  running_mean[channels] += weight * ((float)unbiased - running_mean[channels]);
}

template <int V, bool EVAL, bool RESIDUAL>
DEVICE void normalise(const float* __restrict__ x, const float* __restrict__ gamma, const float* __restrict__ beta,
                      const float* __restrict__ statistics, const float* __restrict__ residual, float* __restrict__ y,
                      int relu, long long pixels, int channels) {
  const Lane lane = lane_of<V>(channels);
  if (!lane.inside) return;
  const Lines<V> lines = lines_of<V, EVAL>(gamma, beta, statistics, channels, lane.channel);
#pragma unroll 2
  for (long long p = (long long)blockIdx.x * lane.rows + lane.row; p < pixels; p += (long long)gridDim.x * lane.rows) {
    const long long at = p * channels + lane.channel;
    Pack<V> z = load<V>(x + at), r;
    if (RESIDUAL) r = load<V>(residual + at);
#pragma unroll
    for (int i = 0; i < V; i++) {
      z.at[i] = fmaf(z.at[i], lines.scale[i], lines.offset[i]);
      if (RESIDUAL) z.at[i] += r.at[i];
      if (relu && z.at[i] < 0.0f) z.at[i] = 0.0f;
    }
    store(y + at, z);
  }
}

template <bool EVAL>
DEVICE void normalise_any(const float* x, const float* gamma, const float* beta, const float* statistics,
                          const float* residual, float* y, int residuals, int relu, int packed, long long pixels,
                          int channels) {
  if (packed && residuals)
    normalise<4, EVAL, true>(x, gamma, beta, statistics, residual, y, relu, pixels, channels);
  else if (packed)
    normalise<4, EVAL, false>(x, gamma, beta, statistics, residual, y, relu, pixels, channels);
  else if (residuals)
    normalise<1, EVAL, true>(x, gamma, beta, statistics, residual, y, relu, pixels, channels);
  else
    normalise<1, EVAL, false>(x, gamma, beta, statistics, residual, y, relu, pixels, channels);
}

KERNEL(batch_norm_fwd, 256, const float* __restrict__ x, const float* __restrict__ gamma,
       const float* __restrict__ beta, const float* __restrict__ statistics, const float* __restrict__ residual,
       float* __restrict__ y, int residuals, int relu, int packed, long long pixels, int channels) {
  normalise_any<false>(x, gamma, beta, statistics, residual, y, residuals, relu, packed, pixels, channels);
}

KERNEL(batch_norm_eval, 256, const float* __restrict__ x, const float* __restrict__ gamma,
       const float* __restrict__ beta, const float* __restrict__ statistics, const float* __restrict__ residual,
       float* __restrict__ y, int residuals, int relu, int packed, long long pixels, int channels) {
  normalise_any<true>(x, gamma, beta, statistics, residual, y, residuals, relu, packed, pixels, channels);
}

// ---- backward ----

// Sums of dz and of dz (x - mean). Where y > 0 is found again from x, or, after a residual, read from y, and dz is
// written down for the residual and for dx.
template <int V, bool RESIDUAL>
DEVICE void gradient_sums(const float* __restrict__ x, const float* __restrict__ dy, const float* __restrict__ gamma,
                          const float* __restrict__ beta, const float* __restrict__ saved, const float* __restrict__ y,
                          float* __restrict__ dz, double* __restrict__ partial, int relu, long long pixels,
                          int channels) {
  const Lane lane = lane_of<V>(channels);
  double sums[2 * V] = {};
  if (lane.inside) {
    const Lines<V> lines = lines_of<V, false>(gamma, beta, saved, channels, lane.channel);
#pragma unroll 2
    for (long long p = (long long)blockIdx.x * lane.rows + lane.row; p < pixels; p += (long long)gridDim.x * lane.rows) {
      const long long at = p * channels + lane.channel;
      const Pack<V> xs = load<V>(x + at);
      Pack<V> dzs = load<V>(dy + at), ys;
      if (RESIDUAL) ys = load<V>(y + at);
#pragma unroll
      for (int i = 0; i < V; i++) {
        const float z = RESIDUAL ? ys.at[i] : fmaf(xs.at[i], lines.scale[i], lines.offset[i]);
        if (relu && z <= 0.0f) dzs.at[i] = 0.0f;
        sums[i] += (double)dzs.at[i];
        sums[V + i] = fma((double)dzs.at[i], (double)(xs.at[i] - lines.mean[i]), sums[V + i]);
      }
      if (RESIDUAL) store(dz + at, dzs);
    }
  }
  store_partial<V>(sums, lane, partial, channels);
}

KERNEL(batch_norm_bwd_sums, 256, const float* __restrict__ x, const float* __restrict__ dy,
       const float* __restrict__ gamma, const float* __restrict__ beta, const float* __restrict__ saved,
       double* __restrict__ partial, int relu, int packed, long long pixels, int channels) {
  if (packed)
    gradient_sums<4, false>(x, dy, gamma, beta, saved, nullptr, nullptr, partial, relu, pixels, channels);
  else
    gradient_sums<1, false>(x, dy, gamma, beta, saved, nullptr, nullptr, partial, relu, pixels, channels);
}

KERNEL(batch_norm_bwd_residual, 256, const float* __restrict__ x, const float* __restrict__ dy,
       const float* __restrict__ gamma, const float* __restrict__ beta, const float* __restrict__ saved,
       const float* __restrict__ y, float* __restrict__ dz, double* __restrict__ partial, int packed,
       long long pixels, int channels) {
  if (packed)
    gradient_sums<4, true>(x, dy, gamma, beta, saved, y, dz, partial, 1, pixels, channels);
  else
    gradient_sums<1, true>(x, dy, gamma, beta, saved, y, dz, partial, 1, pixels, channels);
}

KERNEL(batch_norm_bwd_finish, 256, const double* __restrict__ partial, const float* __restrict__ gamma,
       const float* __restrict__ saved, float* __restrict__ dgamma, float* __restrict__ dbeta,
       float* __restrict__ terms, int blocks, long long pixels, int channels) {
  double sums[2];
  const Lane lane = load_partial(sums, partial, blocks, channels);
  if (!lane.inside || lane.row > 0) return;
  const int c = lane.channel;
  const float rstd = saved[channels + c], scale = gamma[c] * rstd, n = (float)pixels;
  const float dg = (float)(sums[1] * (double)rstd), db = (float)sums[0];
  dgamma[c] = dg;
  dbeta[c] = db;
  terms[c] = -scale * rstd * (dg / n);
  terms[channels + c] = -scale * (db / n);
}

template <int V>
DEVICE void gradient(const float* __restrict__ x, const float* __restrict__ dz, const float* __restrict__ gamma,
                     const float* __restrict__ beta, const float* __restrict__ saved, const float* __restrict__ terms,
                     float* __restrict__ dx, int relu, long long pixels, int channels) {
  const Lane lane = lane_of<V>(channels);
  if (!lane.inside) return;
  const Lines<V> lines = lines_of<V, false>(gamma, beta, saved, channels, lane.channel);
  const Pack<V> slope = load<V>(terms + lane.channel), constant = load<V>(terms + channels + lane.channel);
#pragma unroll 2
  for (long long p = (long long)blockIdx.x * lane.rows + lane.row; p < pixels; p += (long long)gridDim.x * lane.rows) {
    const long long at = p * channels + lane.channel;
    const Pack<V> xs = load<V>(x + at);
    Pack<V> d = load<V>(dz + at);
#pragma unroll
    for (int i = 0; i < V; i++) {
      if (relu && fmaf(xs.at[i], lines.scale[i], lines.offset[i]) <= 0.0f) d.at[i] = 0.0f;
      d.at[i] = fmaf(d.at[i], lines.scale[i], fmaf(xs.at[i] - lines.mean[i], slope.at[i], constant.at[i]));
    }
    store(dx + at, d);
  }
}

// dz is dy where it was not written down; `relu` says that it is to be masked.
KERNEL(batch_norm_bwd, 256, const float* __restrict__ x, const float* __restrict__ dz, const float* __restrict__ gamma,
       const float* __restrict__ beta, const float* __restrict__ saved, const float* __restrict__ terms,
       float* __restrict__ dx, int relu, int packed, long long pixels, int channels) {
  if (packed)
    gradient<4>(x, dz, gamma, beta, saved, terms, dx, relu, pixels, channels);
  else
    gradient<1>(x, dz, gamma, beta, saved, terms, dx, relu, pixels, channels);
}
