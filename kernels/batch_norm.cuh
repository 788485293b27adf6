// What batch norm's own kernels and those of convolutions share: statistics are made by whatever computes x, and the
// terms of the gradient by whatever computes dy, each by the last block of its launch.
//
// Formulas and names in batch_norm.cu.
#pragma once
#include "common.cuh"

// All sums of a channel are f64: no cancellation in E x^2 - (E x)^2.
constexpr float EPS = 1e-5f, MOMENTUM = 0.1f;

// What is saved of `count` channels from `first` on, and the running averages if there are any. `sums` holds the channels' sums, and `width` behind them those of squares.
DEVICE void finish_statistics(const double* sums, int width, int first, int count, const Step* now, const float* gamma,
                              const float* beta, float* saved, float* averages, int running, double pixels,
                              int channels) {
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    const int c = first + i;
    const double mean = sums[i] / pixels, square = sums[width + i] / pixels - mean * mean;
    const double var = square < 0.0 ? 0.0 : square, unbiased = var * pixels / (pixels - 1.0);
    const float rstd = (float)(1.0 / sqrt(var + (double)EPS)), scale = gamma[c] * rstd;
    saved[c] = scale;
    saved[channels + c] = beta[c] - (float)mean * scale;
    saved[2 * channels + c] = (float)mean;
    saved[3 * channels + c] = rstd;
    if (!running) continue;
    const float weight = now->mean_of == 0 ? MOMENTUM : 1.0f / now->mean_of;
    averages[c] += weight * ((float)mean - averages[c]);
    averages[channels + c] += weight * ((float)unbiased - averages[channels + c]);
  }
}

// dgamma and dbeta of such channels, and the factors of dz, 1 and x in dx. `sums` holds the sums of dz, and `width` behind
// them those of dz (x - mean).
DEVICE void finish_gradient(const double* sums, int width, int first, int count, const float* saved, float* dgamma,
                            float* dbeta, float* terms, double pixels, int channels) {
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    const int c = first + i;
    const float scale = saved[c], mean = saved[2 * channels + c], rstd = saved[3 * channels + c], n = (float)pixels;
    const float dg = (float)(sums[width + i] * (double)rstd), db = (float)sums[i];
    const float slope = -scale * rstd * (dg / n);
    dgamma[c] = dg;
    dbeta[c] = db;
    terms[c] = scale;
    terms[channels + c] = -scale * (db / n) - mean * slope;
    terms[2 * channels + c] = slope;
  }
}
